"""Calibration error, Brier score and reliability diagrams: against scikit-learn, SciPy and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from florence.metrics.calibration import (
    BINS,
    bin_by_mass,
    brier_score,
    expected_calibration_error,
    measure_calibration,
    wilson_interval,
)


def test_bins_and_score_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    stated = rng.beta(0.4, 0.3, 1000)  # most near 0 and 1, as labels' are
    right = (rng.random(1000) < stated**2).astype(int)
    found = measure_calibration(stated, right)
    share, mean = calibration_curve(right, stated, n_bins=BINS, strategy="quantile")
    np.testing.assert_allclose([b.confidence for b in found.bins], mean)
    np.testing.assert_allclose([b.right for b in found.bins], share)
    assert [b.n for b in found.bins] == [100] * BINS
    assert found.error == pytest.approx(np.mean(np.abs(share - mean)))
    assert found.brier == pytest.approx(brier_score_loss(right, stated))


def test_what_is_computed_by_hand():
    # two bins: (0.1, 0.2, 0.3) with one right, (0.8, 0.9, 1.0) with two right
    stated, right = np.array([0.9, 0.1, 0.8, 0.3, 1.0, 0.2]), np.array([1, 0, 0, 1, 1, 0])
    found = measure_calibration(stated, right, 2)
    assert [(b.confidence, b.right, b.n) for b in found.bins] == [
        (pytest.approx(0.2), pytest.approx(1 / 3), 3),
        (pytest.approx(0.9), pytest.approx(2 / 3), 3),
    ]
    assert found.error == pytest.approx((1 / 3 - 0.2) / 2 + (0.9 - 2 / 3) / 2)
    assert brier_score(stated, right) == pytest.approx((0.01 + 0.01 + 0.64 + 0.49 + 0 + 0.04) / 6)
    assert measure_calibration(np.zeros(0), np.zeros(0)) is None


def test_errors_in_the_middle_are_seen_though_most_labels_lie_outside():
    """Nine in ten labels at 0.01 and 0.99, as often right; the tenth states 0.6 and is right in three of ten cases."""
    stated = np.r_[np.full(450, 0.01), np.full(100, 0.6), np.full(450, 0.99)]
    right = np.r_[np.zeros(446), np.ones(4), np.ones(30), np.zeros(70), np.ones(446), np.zeros(4)]
    found = measure_calibration(stated, right)
    assert [b.n for b in found.bins] == [450, 100, 450]
    assert found.error == pytest.approx(0.1 * 0.3 + 0.9 * abs(4 / 450 - 0.01))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 12))
def test_equal_confidences_are_in_one_bin_and_bins_rise(values: list[int], bins: int):
    stated = np.asarray(values) / 6
    found = bin_by_mass(stated, bins)
    assert set(found.tolist()) == set(range(found.max() + 1)) and found.max() < bins
    assert all(len(set(found[stated == value].tolist())) == 1 for value in set(stated.tolist()))
    ranked = np.argsort(stated, kind="stable")
    assert (np.diff(found[ranked]) >= 0).all()


def test_ends_and_constants():
    assert expected_calibration_error(np.ones(4), np.ones(4)) == 0
    assert expected_calibration_error(np.ones(4), np.zeros(4)) == 1
    assert len(measure_calibration(np.full(50, 0.4), np.arange(50) % 2).bins) == 1
    assert math.isnan(expected_calibration_error(np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize("right, n", [(0, 1), (3, 7), (7, 7), (60, 100)])
def test_intervals_are_those_of_scipy(right: int, n: int):
    expected = binomtest(right, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson_interval(right / n, n), (expected.low, expected.high), atol=1e-6)
