"""How sure a mean or a difference of means is: bootstrap over images, and Holm's correction for many tests.

Efron & Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile interval); Holm, 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` images and its percentile interval.

    ``p``: two-sided p-value of the mean being 0; ``p_fall``, ``p_rise``: one-sided p-values against "it did not fall", "it did not rise".
    """

    mean: float
    low: float
    high: float
    n: int
    p: float
    p_fall: float
    p_rise: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: Sequence[float], *, resamples: int = 1000, alpha: float = 0.05, seed: int = 0
) -> Interval | None:
    """The mean of one value for each image; the interval covers 1 − ``level``. None without values. NaN is not allowed (ValueError)."""
    sample = np.asarray(values, float)
    if not len(sample):
        return None
    if np.isnan(sample).any():
        raise ValueError("a value is NaN; leave out what could not be scored")
    means = np.concatenate(list(_means(sample, resamples, seed)))
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    # one is added: no finite number of resamples makes a p-value of 0
    p_fall = float((np.sum(means >= 0) + 1) / (resamples + 1))
    p_rise = float((np.sum(means <= 0) + 1) / (resamples + 1))
    return Interval(
        float(sample.mean()), float(low), float(high), len(sample), min(1.0, 2 * min(p_fall, p_rise)), p_fall, p_rise
    )


def _means(sample: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng([seed, len(sample)])
    block = max(1, 4_000_000 // len(sample))
    for start in range(0, resamples, block):
        yield sample[rng.integers(0, len(sample), (min(block, resamples - start), len(sample)))].mean(axis=1)


def bootstrap_difference(
    after: Mapping[str, float],
    before: Mapping[str, float],
    *,
    resamples: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
) -> Interval | None:
    """The mean of ``after`` − ``before`` over the images that both have. None where they share none."""
    shared = sorted(after.keys() & before.keys())
    return bootstrap_mean([after[key] - before[key] for key in shared], resamples=resamples, alpha=alpha, seed=seed)


def correct_p_values(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: compare each with the level itself; the chance of any false alarm among all stays below it."""
    result: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: (p_values[key], key))):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        result[name] = highest
    return {name: result[name] for name in p_values}
