"""Calibration: a map from scores to confidences, fitted on held-out images, and the calibration error.

The map f is isotonic regression: the rising function with the least Σ (f(sᵢ) − yᵢ)², where yᵢ is 1 if the answer with
score sᵢ is correct, else 0. The expected calibration error over bins B₁ … B₁₅ of confidences c is

    ECE = Σ_b |B_b| / n · |mean of y in B_b − mean of c in B_b|.

Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002; Guo et al.,
"On Calibration of Modern Neural Networks", 2017.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from florence.metrics import GradedAnswers
from florence.model.confidence import Calibration

BINS = 15
"""Bins of equal width from 0 to 1 in which the calibration error is measured."""
FOLDS = 5
"""Folds of the images: the error of each is measured with a map that was fitted on the others."""
MIN_ANSWERS = 100
"""Answers below which nothing is fitted."""


def fit_calibration(answers: GradedAnswers, images: Sequence[str]) -> Calibration | None:
    """Return the calibration of scored answers. ``images``: the image of each example.

    None for fewer than `MIN_ANSWERS`, for answers that are all correct or all wrong, or all of one image.
    """
    scores, correct = answers.scores, answers.correct.astype(float)
    if len(scores) < MIN_ANSWERS or not 0 < correct.sum() < len(correct):
        return None
    fold = np.asarray(
        [int(hashlib.sha256(images[example].encode()).hexdigest()[:8], 16) % FOLDS for example in answers.examples]
    )
    held_out = np.full(len(scores), np.nan)
    for part in range(FOLDS):
        inside = fold == part
        if inside.any() and not inside.all():
            held_out[inside] = np.interp(scores[inside], *_fit_isotonic(scores[~inside], correct[~inside]))
    is_measured = ~np.isnan(held_out)
    if not is_measured.any():  # all of one image
        return None
    knots, confidences = _fit_isotonic(scores, correct)
    return Calibration(
        tuple(knots),
        tuple(confidences),
        expected_calibration_error(scores, correct),
        expected_calibration_error(held_out[is_measured], correct[is_measured]),
        len(scores),
    )


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error over `BINS` bins of ``confidences`` (n,); ``correct`` (n,): 1 or 0."""
    bins = np.minimum((confidences * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidences - correct, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def _fit_isotonic(scores: np.ndarray, correct: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the knots of the rising function and its values there, to six digits."""
    from sklearn.isotonic import IsotonicRegression

    line = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, correct)
    knots, confidences = (
        [round(float(value), 6) for value in values] for values in (line.X_thresholds_, line.y_thresholds_)
    )
    return knots, confidences


def build_calibrations_json(found: Mapping[str, Calibration]) -> dict[str, Any]:
    """Return what calibration.json holds: a calibration for each task."""
    return {task: one.to_json() for task, one in sorted(found.items())}
