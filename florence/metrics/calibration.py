"""How far confidences are from probabilities: bins of equal mass, calibration error, Brier score.

Of n labels with confidences c₁ … c_n let yᵢ be 1 where label i is right, else 0. Sorted by confidence they are cut into
bins B₁ … B_k of about n / `BINS` labels each. A cut that would fall between equal confidences moves to the nearer end
of them, so equal confidences are always in one bin, and there may be fewer bins than asked for. Then

    ECE   = Σ_b |B_b| / n · |mean of y in B_b − mean of c in B_b|        expected calibration error, of equal mass
    Brier = 1 / n · Σᵢ (cᵢ − yᵢ)²

and the points (mean of c, mean of y) of the bins are the reliability diagram. Bins of equal width are not used: nine in
ten labels may lie in the outer two, which hides what the others are worth. Nguyen and O'Connor, "Posterior calibration
and exploratory analysis for natural language processing models", 2015; Brier, "Verification of forecasts expressed in
terms of probability", 1950. The interval of a share is Wilson's (1927).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BINS = 10
"""Bins of about equal mass in which the calibration error is measured."""
Z = 1.959964
"""Quantile of the normal distribution that gives intervals of 95%."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """A point of a reliability diagram.

    ``confidence``: mean of the ``n`` labels; ``right``: share of them that is right, with its 95% interval.
    """

    confidence: float
    right: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class CalibrationMeasure:
    """How well ``n`` confidences are calibrated. ``error``: expected calibration error; ``bins``: rising."""

    n: int
    error: float
    brier: float
    bins: tuple[ReliabilityBin, ...]


def measure_calibration(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> CalibrationMeasure | None:
    """Measure ``confidences`` (n,), 0…1, against ``correct`` (n,): 1 or 0. None for no labels."""
    c, y = np.asarray(confidences, float), np.asarray(correct, float)
    if not len(c):
        return None
    bin_of = bin_by_mass(c, bins)
    counts = np.bincount(bin_of)
    stated, right = np.bincount(bin_of, weights=c) / counts, np.bincount(bin_of, weights=y) / counts
    points = tuple(
        ReliabilityBin(a, b, *wilson_interval(b, n), n)
        for a, b, n in zip(stated.tolist(), right.tolist(), counts.tolist(), strict=True)
    )
    error = float((counts * np.abs(right - stated)).sum() / len(c))
    return CalibrationMeasure(len(c), error, brier_score(c, y), points)


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error of one or more labels. ``correct`` (n,): 1 or 0."""
    found = measure_calibration(confidences, correct, bins)
    return math.nan if found is None else found.error


def brier_score(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Return the mean squared distance of ``confidences`` (n,) from ``correct`` (n,), 1 or 0."""
    return float(np.mean((np.asarray(confidences, float) - np.asarray(correct, float)) ** 2))


def bin_by_mass(confidences: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return (n,) the bin of each confidence, 0, 1, … by rising confidence; equal confidences are in one bin."""
    order = np.argsort(confidences, kind="stable")
    ranked = np.asarray(confidences, float)[order]
    n = len(ranked)
    steps = np.r_[0, np.flatnonzero(np.diff(ranked) > 0) + 1, n]
    wanted = np.arange(1, bins) * n / bins
    after = np.searchsorted(steps, wanted).clip(1)
    is_before_nearer = wanted - steps[after - 1] <= steps[after] - wanted
    cuts = np.unique(steps[after - is_before_nearer])
    result = np.empty(n, np.int64)
    result[order] = np.searchsorted(cuts[(cuts > 0) & (cuts < n)], np.arange(n), side="right")
    return result


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of ``n``."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
