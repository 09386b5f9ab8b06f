"""How often answers of a certain score are right: fitted on held-out images, and how far scores and confidences are from the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from florence.metrics import GradedAnswers
from florence.model.confidence import Calibration

BINS = 15
"""Of scores from 0 to 1, of equal width, in which the calibration error is measured (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""
FOLDS = 5
"""Parts of the images; what is said of each part is judged with a map that was fitted on the others."""
MIN_ANSWERS = 100
"""GradedAnswers answers below which nothing is fitted: a map of a few says nothing."""


def fit_calibration(grade: GradedAnswers, images: Sequence[str]) -> Calibration | None:
    """The calibration of what a metric judged. ``images``: the image of each example. None of fewer than `LEAST`, or where all are right or all wrong.

    The map is isotonic regression (Zadrozny and Elkan, 2002): the rising function nearest to what was right.
    """
    scores, right = grade.scores, grade.right.astype(float)
    if len(scores) < MIN_ANSWERS or not 0 < right.sum() < len(right):
        return None
    fold = np.asarray(
        [int(hashlib.sha256(images[example].encode()).hexdigest()[:8], 16) % FOLDS for example in grade.examples]
    )
    held = np.full(len(scores), np.nan)
    for part in range(FOLDS):
        inside = fold == part
        if inside.any() and not inside.all():
            held[inside] = np.interp(scores[inside], *_isotonic(scores[~inside], right[~inside]))
    there = ~np.isnan(held)
    if not there.any():  # all of one image
        return None
    at, confidences = _isotonic(scores, right)
    return Calibration(
        tuple(at),
        tuple(confidences),
        expected_calibration_error(scores, right),
        expected_calibration_error(held[there], right[there]),
        len(scores),
    )


def expected_calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: over `BINS` bins of ``confidences`` (n,), the mean distance, weighted by their number, between how sure and how often right."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    off = np.bincount(bins, weights=confidences - right, minlength=BINS)
    return float(np.abs(off).sum() / len(confidences))


def _isotonic(scores: np.ndarray, right: np.ndarray) -> tuple[list[float], list[float]]:
    """The corners of the rising line, to six digits."""
    from sklearn.isotonic import IsotonicRegression

    line = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, right)
    at, confidences = (
        [round(float(value), 6) for value in values] for values in (line.X_thresholds_, line.y_thresholds_)
    )
    return at, confidences


def build_calibrations_json(found: Mapping[str, Calibration]) -> dict[str, Any]:
    """What calibration.json holds: by task."""
    return {task: one.to_json() for task, one in sorted(found.items())}
