"""Calibrated confidences of a model's scores, as `florence.evaluate.calibration` fitted them.

A map f from score to confidence rises piecewise linearly. An answer about an image of source s has the confidence

    f_s(score)                                  where the calibration has answers about s
    min(f(score), b + λ (f(score) − b))         where it has none

with f the map of all sources, b the share of all answers that are right, and λ from 0 to 1: how much of f holds for a
source that it was not fitted on (``transfer``). High confidences are drawn towards b; low ones stay, as nothing says
that a model is better on pictures of a new kind than on those that it was fitted to.

The student looks twice at an object. With p and q the scores of the two looks at its name,

    s = σ(w₀ + w₁ logit p + w₂ logit q),        confidence as above, of the score s

with weights of their own where the two names agree and where they differ.

Imports little: a served model needs it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from florence.errors import ModelError

FILE = "calibration.json"
"""In a model's folder."""
VERSION = 2
"""The version of the file. Version 1, a mapping of tasks, has neither sources nor a second look."""
DEFAULT_TRANSFER = 0.5
"""λ where nothing shows how much of a map holds for another source: with one source, and in files of version 1."""
LEAST = 1e-6
"""Scores are kept this far from 0 and 1 where their logarithms are taken."""
MOST = 700.0
"""Largest exponent of e that a float holds, about."""
_OLD_KEYS = {"scores", "confidences", "error", "calibrated", "n"}
_KEYS = _OLD_KEYS | {"base_rate", "transfer", "sources"}


@dataclass(frozen=True, slots=True)
class Curve:
    """A map that rises piecewise linearly through ``scores`` and ``confidences`` (k,); it is level beyond its ends."""

    scores: tuple[float, ...]
    confidences: tuple[float, ...]

    def __call__(self, score: float) -> float:
        """Return the confidence of a score."""
        return float(np.interp(score, self.scores, self.confidences))


@dataclass(frozen=True, slots=True)
class Calibration:
    """A task's map from score to confidence.

    ``scores``, ``confidences``: the `Curve` of all sources together; ``sources``: that of each source, by its name.
    ``base_rate``, ``transfer``: b and λ of sources that are not among these. ``error``: expected calibration error of
    the scores themselves; ``calibrated``: that of the confidences, of images that the map was not fitted on; ``n``:
    answers judged.
    """

    scores: tuple[float, ...]
    confidences: tuple[float, ...]
    error: float
    calibrated: float
    n: int
    base_rate: float = 0.5
    transfer: float = DEFAULT_TRANSFER
    sources: Mapping[str, Curve] = field(default_factory=dict)

    def confidence(self, score: float, source: str = "") -> float:
        """Return the share of answers with this score that are right. ``source``: of the image, empty if not known."""
        if (curve := self.sources.get(source)) is not None:
            return curve(score)
        confidence = Curve(self.scores, self.confidences)(score)
        return min(confidence, self.base_rate + self.transfer * (confidence - self.base_rate))

    def to_json(self) -> dict[str, Any]:
        """Return the values that `parse_calibrations` takes."""
        return {
            "scores": list(self.scores),
            "confidences": list(self.confidences),
            "error": self.error,
            "calibrated": self.calibrated,
            "n": self.n,
            "base_rate": self.base_rate,
            "transfer": self.transfer,
            "sources": {
                name: {"scores": list(curve.scores), "confidences": list(curve.confidences)}
                for name, curve in sorted(self.sources.items())
            },
        }


@dataclass(frozen=True, slots=True)
class SecondLook:
    """How the scores of two looks at an object's name become one confidence.

    ``agree``, ``differ``: w₀, w₁ and w₂ where the names agree and where they differ; ``calibration``: of the score s.
    """

    agree: tuple[float, float, float]
    differ: tuple[float, float, float]
    calibration: Calibration

    def confidence(self, first: float, second: float, agree: bool, source: str = "") -> float:
        """Return how likely the name of the second look is right, where the first look's name is the same or not."""
        return self.calibration.confidence(self.score(first, second, agree), source)

    def score(self, first: float, second: float, agree: bool) -> float:
        """Return s of two scores."""
        base, *weights = self.agree if agree else self.differ
        logit = base + weights[0] * _logit(first) + weights[1] * _logit(second)
        return 1 / (1 + math.exp(min(-logit, MOST)))

    def to_json(self) -> dict[str, Any]:
        """Return the values that `parse_calibrations` takes."""
        return {"agree": list(self.agree), "differ": list(self.differ), "calibration": self.calibration.to_json()}


@dataclass(frozen=True, slots=True)
class ModelCalibrations:
    """The calibrations of a model: ``tasks``, by task, and of the ``second_look`` at objects, None for none."""

    tasks: Mapping[str, Calibration] = field(default_factory=dict)
    second_look: SecondLook | None = None

    def get(self, task: str) -> Calibration | None:
        """Return the calibration of a task, None where there is none."""
        return self.tasks.get(task)

    def to_json(self) -> dict[str, Any]:
        """Return the values of calibration.json, which `parse_calibrations` takes."""
        tasks = {task: one.to_json() for task, one in sorted(self.tasks.items())}
        second = {} if self.second_look is None else {"second_look": self.second_look.to_json()}
        return {"version": VERSION, "tasks": tasks, **second}


def read_calibrations(folder: Path) -> ModelCalibrations:
    """Read the calibrations in a model's folder; none where there is no file.

    Raises ModelError where the file is damaged, or made by a newer Florence.
    """
    path = folder / FILE
    try:
        return parse_calibrations(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ModelCalibrations()
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is no calibration: {error}; remove it, or fetch the model again") from None


def parse_calibrations(values: Any) -> ModelCalibrations:
    """Parse the values of a file of version 2 or 1. Raises ValueError on other values."""
    if not isinstance(values, dict):
        raise ValueError("a mapping is expected")
    if "version" not in values:
        return ModelCalibrations({task: _parse_calibration(task, one, _OLD_KEYS) for task, one in values.items()})
    if values["version"] != VERSION:
        raise ValueError(f"its version is {values['version']!r}, and {VERSION} is read: a newer Florence has made it")
    if not {"version", "tasks"} <= set(values) <= {"version", "tasks", "second_look"}:
        raise ValueError("version, tasks and second_look are expected")
    if not isinstance(values["tasks"], dict):
        raise ValueError("tasks: a mapping is expected")
    tasks = {task: _parse_calibration(task, one, _KEYS) for task, one in values["tasks"].items()}
    return ModelCalibrations(tasks, _parse_second_look(values["second_look"]) if "second_look" in values else None)


def _parse_second_look(values: Any) -> SecondLook:
    if not isinstance(values, dict) or set(values) != {"agree", "differ", "calibration"}:
        raise ValueError("second_look: agree, differ and calibration are expected")
    weights = [tuple(float(value) for value in values[name]) for name in ("agree", "differ")]
    if any(len(found) != 3 or not all(map(math.isfinite, found)) for found in weights):
        raise ValueError("second_look: agree and differ have to be three numbers each")
    return SecondLook(
        (weights[0][0], weights[0][1], weights[0][2]),
        (weights[1][0], weights[1][1], weights[1][2]),
        _parse_calibration("second_look", values["calibration"], _KEYS),
    )


def _parse_calibration(name: str, values: Any, keys: set[str]) -> Calibration:
    """Parse one calibration. In a file of version 1 the base rate is the mean of the map's values."""
    if not isinstance(values, dict) or set(values) != keys:
        raise ValueError(f"{name}: {', '.join(sorted(keys))} are expected")
    whole = _parse_curve(name, values)
    base_rate = float(values.get("base_rate", np.mean(whole.confidences)))
    transfer = float(values.get("transfer", DEFAULT_TRANSFER))
    if not (0 <= base_rate <= 1 and 0 <= transfer <= 1):
        raise ValueError(f"{name}: base_rate and transfer have to be numbers from 0 to 1")
    sources = values.get("sources", {})
    if not isinstance(sources, dict):
        raise ValueError(f"{name}: sources has to be a mapping")
    return Calibration(
        whole.scores,
        whole.confidences,
        float(values["error"]),
        float(values["calibrated"]),
        int(values["n"]),
        base_rate,
        transfer,
        {source: _parse_curve(f"{name}, {source}", one) for source, one in sources.items()},
    )


def _parse_curve(name: str, values: Any) -> Curve:
    if not isinstance(values, dict) or not {"scores", "confidences"} <= set(values):
        raise ValueError(f"{name}: scores and confidences are expected")
    at, confidences = (np.asarray(values[key], float) for key in ("scores", "confidences"))
    if (
        at.ndim != 1
        or not len(at)
        or at.shape != confidences.shape
        or not np.isfinite(at).all()
        or (np.diff(at) < 0).any()
        or (np.diff(confidences) < 0).any()
        or not ((confidences >= 0) & (confidences <= 1)).all()
    ):
        raise ValueError(
            f"{name}: scores and confidences have to be two rising lists of one length, confidences from 0 to 1"
        )
    return Curve(tuple(at.tolist()), tuple(confidences.tolist()))


def _logit(score: float) -> float:
    kept = min(max(score, LEAST), 1 - LEAST)
    return math.log(kept / (1 - kept))
