"""Filters by score and confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence.config import EngineSettings


def flag_low_scores(
    score: np.ndarray, annotator: np.ndarray, annotation_type: str, annotators: Sequence[str], settings: EngineSettings
) -> np.ndarray:
    """Return (n,) whether each score (n,) of claims of one type is below the bound of its ``annotator`` (n,).

    ``annotator``: rows of ``annotators``. The most specific key of ``min_score`` holds: annotator and type, annotator,
    type, ``*``. A claim without a score (NaN) passes.
    """
    bounds = settings.min_score
    keys = [(f"{name} {annotation_type}", name, annotation_type, "*") for name in annotators]
    return score < np.asarray([next((bounds[key] for key in tried if key in bounds), 0.0) for tried in keys])[annotator]


def flag_low_phrase_scores(
    score: np.ndarray, annotator: np.ndarray, annotators: Sequence[str], settings: EngineSettings
) -> np.ndarray:
    """Return (n,) whether each score (n,) of a phrase is below the bound of its ``annotator`` (n,)."""
    bounds = settings.min_phrase_score
    return score < np.asarray([bounds.get(name, bounds.get("*", 0.0)) for name in annotators])[annotator]


def flag_low_confidence(confidence: np.ndarray, min_confidence: float) -> np.ndarray:
    """Return (n,) whether each confidence (n,) is below the least one, or zero; NaN (nobody has a vote) passes."""
    return (confidence < min_confidence - 1e-9) | (confidence <= 0)
