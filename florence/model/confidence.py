"""A model's scores turned into confidences, by what `florence.evaluate.calibration` has found. Light: a served model
needs it.
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
    """A task's map from score to confidence: a rising line through ``scores`` and ``confidences`` (k,), level beyond
    its ends.

    ``error``: expected calibration error of the scores themselves; ``calibrated``: that of the confidences, of images
    that the map was not fitted on; ``n``: answers judged.
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
        return {
            "scores": list(self.scores),
            "confidences": list(self.confidences),
            "error": self.error,
            "calibrated": self.calibrated,
            "n": self.n,
        }


def beside(folder: Path) -> dict[str, Calibration]:
    """The calibrations that lie in a model's folder, by task; none where there are none.

    Raises ModelError where the file is damaged.
    """
    path = folder / FILE
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is no calibration: {error}; remove it, or fetch the model again") from None


def read(values: Any) -> dict[str, Calibration]:
    """Calibrations by task, as `florence.evaluate.calibrations_json` wrote them.

    Raises ValueError where it is anything else.
    """
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
