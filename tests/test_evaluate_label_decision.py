"""Whether labels are kept though their model was rejected, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from florence.evaluate import decide_labels
from florence.metrics.bootstrap import Interval, bootstrap_mean


def gain(mean: float, n: int = 60, width: float = 0.2, seed: int = 0) -> Interval:
    """Return the interval of n changes around a mean that is met exactly."""
    noise = np.random.default_rng(seed).normal(0, width, n)
    found = bootstrap_mean(list(mean + noise - noise.mean()), resamples=10_000)
    assert found is not None
    return found


def key(task: str, metric: str = "f1") -> tuple[str, str, str]:
    """Return the key of a measure against truth."""
    return (task, metric, "truth")


def test_better_labels_are_kept_and_the_reason_names_what_rose():
    decision = decide_labels({key("<OD>"): gain(0.1), key("<OCR>"): gain(0.0)}, 3, 0.05)
    assert decision.kept and "better than those of round 3 on gold images: <OD> f1 +0.100 (" in decision.reason
    assert "60 images)" in decision.reason and "<OCR>" not in decision.reason


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        pytest.param({key("<OD>"): gain(0.02)}, "not shown to be better", id="chance"),
        pytest.param({key("<OD>"): gain(0.0, width=0.0)}, "not shown to be better", id="the same"),
        pytest.param({key("<OD>"): gain(0.2), key("<OCR>"): gain(-0.1)}, "are worse", id="another type falls"),
        pytest.param({}, "no gold image has a known truth", id="nothing to compare with"),
    ],
)
def test_other_labels_go_the_way_of_their_model(gains: dict, words: str):
    decision = decide_labels(gains, 0, 0.05)
    assert not decision.kept and words in decision.reason


def test_a_fall_that_means_nothing_is_none():
    for metric, mean, kept in (("f1", -0.004, True), ("f1", -0.006, False), ("cider", -0.04, True)):
        decision = decide_labels({key("<OD>"): gain(0.1), key("<OCR>", metric): gain(mean, width=1e-4)}, 0, 0.05)
        assert decision.kept == kept, (metric, mean)


def test_many_measures_are_corrected_for():
    one = gain(0.055)
    assert 0.005 < one.p_rise < 0.04
    assert decide_labels({key("<OD>"): one}, 0, 0.05).kept
    others = {key("<OCR>", f"m{number}"): gain(0.0, seed=1) for number in range(9)}
    assert not decide_labels({key("<OD>"): one, **others}, 0, 0.05).kept
