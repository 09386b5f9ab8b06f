"""Calibrated confidences of a model's scores, as `florence.evaluate.calibration` fitted them.

Imports little: a served model needs it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from florence.errors import ModelError

FILE = "calibration.json"
"""In a model's folder."""
VALUES = "scores", "confidences"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A task's map from score to confidence.

    It rises piecewise linearly through ``scores`` and ``confidences`` (k,), and is level beyond its ends.

    ``error``: expected calibration error of the scores themselves; ``calibrated``: that of the confidences, of images
    that the map was not fitted on; ``n``: answers judged.
    """

    scores: tuple[float, ...]
    confidences: tuple[float, ...]
    error: float
    calibrated: float
    n: int

    def confidence(self, score: float) -> float:
        """Return the share of answers with this score that are right."""
        return float(np.interp(score, self.scores, self.confidences))

    def to_json(self) -> dict[str, Any]:
        """Return the values that `parse_calibrations` takes."""
        return {
            "scores": list(self.scores),
            "confidences": list(self.confidences),
            "error": self.error,
            "calibrated": self.calibrated,
            "n": self.n,
        }


def read_calibrations(folder: Path) -> dict[str, Calibration]:
    """Read the calibrations in a model's folder, by task; none where there is no file.

    Raises ModelError where the file is damaged.
    """
    path = folder / FILE
    try:
        return parse_calibrations(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is no calibration: {error}; remove it, or fetch the model again") from None


def parse_calibrations(values: Any) -> dict[str, Calibration]:
    """Parse calibrations by task, of `florence.evaluate.build_calibrations_json`. Raises ValueError on other values."""
    if not isinstance(values, dict):
        raise ValueError("a mapping of tasks is expected")
    result = {}
    for task, one in values.items():
        if not isinstance(one, dict) or set(one) != {*VALUES, "error", "calibrated", "n"}:
            raise ValueError(f"{task}: {', '.join(VALUES)}, error, calibrated and n are expected")
        at, confidences = (np.asarray(one[name], float) for name in VALUES)
        if (
            at.ndim != 1
            or not len(at)
            or at.shape != confidences.shape
            or (np.diff(at) < 0).any()
            or (np.diff(confidences) < 0).any()
            or not ((confidences >= 0) & (confidences <= 1)).all()
        ):
            raise ValueError(
                f"{task}: scores and confidences have to be two rising lists of one length, confidences from 0 to 1"
            )
        result[task] = Calibration(
            tuple(at.tolist()),
            tuple(confidences.tolist()),
            float(one["error"]),
            float(one["calibrated"]),
            int(one["n"]),
        )
    return result
