"""How often an answer of a certain score is right: scores turned into confidences, and how far either is from the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from florence.errors import ModelError
from florence.metrics import Judged

BINS = 15
"""Of scores from 0 to 1, of equal width, in which the calibration error is measured (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""
FOLDS = 5
"""Parts of the images; what is said of each part is judged with a map that was fitted on the others."""
LEAST = 100
"""Judged answers below which nothing is fitted: a map of a few says nothing."""
FILE = "calibration.json"
VALUES = "scores", "confidences"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A task's map from score to confidence: a rising line through ``scores`` and ``confidences`` (k,), level beyond its ends.

    ``error``: expected calibration error of the scores themselves; ``calibrated``: that of the confidences, of images that the map was not fitted on; ``n``: answers judged.
    """

    scores: tuple[float, ...]
    confidences: tuple[float, ...]
    error: float
    calibrated: float
    n: int

    def confidence(self, score: float) -> float:
        """The share of answers with this score that are right."""
        return float(np.interp(score, self.scores, self.confidences))

    def to_json(self) -> dict[str, Any]:
        """As `read` takes it."""
        return {"scores": list(self.scores), "confidences": list(self.confidences), "error": self.error, "calibrated": self.calibrated, "n": self.n}


def calibrate(judged: Judged, images: Sequence[str]) -> Calibration | None:
    """The calibration of what a metric judged. ``images``: the image of each example. None of fewer than `LEAST`, or where all are right or all wrong.

    The map is isotonic regression (Zadrozny and Elkan, 2002): the rising function nearest to what was right.
    """
    scores, right = judged.scores, judged.right.astype(float)
    if len(scores) < LEAST or not 0 < right.sum() < len(right):
        return None
    fold = np.asarray([int(hashlib.sha256(images[example].encode()).hexdigest()[:8], 16) % FOLDS for example in judged.examples])
    held = np.full(len(scores), np.nan)
    for part in range(FOLDS):
        inside = fold == part
        if inside.any() and not inside.all():
            held[inside] = np.interp(scores[inside], *_isotonic(scores[~inside], right[~inside]))
    there = ~np.isnan(held)
    if not there.any():  # all of one image
        return None
    at, confidences = _isotonic(scores, right)
    return Calibration(tuple(at), tuple(confidences), expected_error(scores, right), expected_error(held[there], right[there]), len(scores))


def expected_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: over `BINS` bins of ``confidences`` (n,), the mean distance, weighted by their number, between how sure and how often right."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    off = np.bincount(bins, weights=confidences - right, minlength=BINS)
    return float(np.abs(off).sum() / len(confidences))


def _isotonic(scores: np.ndarray, right: np.ndarray) -> tuple[list[float], list[float]]:
    """The corners of the rising line, to six digits."""
    from sklearn.isotonic import IsotonicRegression

    line = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, right)
    at, confidences = ([round(float(value), 6) for value in values] for values in (line.X_thresholds_, line.y_thresholds_))
    return at, confidences


def calibrations_json(found: Mapping[str, Calibration]) -> dict[str, Any]:
    """The file calibration.json: by task."""
    return {task: one.to_json() for task, one in sorted(found.items())}


def beside(folder: Path) -> dict[str, Calibration]:
    """The calibrations that lie in a model's folder, by task; none where there are none. Raises ModelError where the file is damaged."""
    import json

    path = folder / FILE
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is no calibration: {error}; remove it, or fetch the model again") from None


def read(values: Any) -> dict[str, Calibration]:
    """What `calibrations_json` wrote. Raises ValueError where it is anything else."""
    if not isinstance(values, dict):
        raise ValueError("a mapping of tasks is expected")
    result = {}
    for task, one in values.items():
        if not isinstance(one, dict) or set(one) != {*VALUES, "error", "calibrated", "n"}:
            raise ValueError(f"{task}: {', '.join(VALUES)}, error, calibrated and n are expected")
        at, confidences = (np.asarray(one[name], float) for name in VALUES)
        if at.ndim != 1 or not len(at) or at.shape != confidences.shape or (np.diff(at) < 0).any() or (np.diff(confidences) < 0).any() or not ((confidences >= 0) & (confidences <= 1)).all():
            raise ValueError(f"{task}: scores and confidences have to be two rising lists of one length, confidences from 0 to 1")
        result[task] = Calibration(tuple(at.tolist()), tuple(confidences.tolist()), float(one["error"]), float(one["calibrated"]), int(one["n"]))
    return result
