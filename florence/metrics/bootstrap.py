"""Bootstrap intervals and p-values of means over images, and Holm's correction for many tests.

With x̄*₁ … x̄*_R the means of R samples of n images, drawn with replacement from x₁ … xₙ:

    interval  = quantiles α/2 and 1 − α/2 of x̄*
    p_fall    = (1 + |{r : x̄*ᵣ ≥ 0}|) / (R + 1)        p_rise = (1 + |{r : x̄*ᵣ ≤ 0}|) / (R + 1)
    p         = min(1, 2 · min(p_fall, p_rise))

A paired comparison takes xᵢ = afterᵢ − beforeᵢ over the images that both sides have. Holm's correction of sorted
p-values p₍₁₎ ≤ … ≤ p₍ₘ₎ is

    p̃₍ₖ₎ = max over j ≤ k of min(1, (m − j + 1) · p₍ⱼ₎).

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 (percentile interval) and 16 (tests);
Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` images and its percentile interval.

    ``p``: two-sided p-value of "the mean is 0". ``p_fall``, ``p_rise``: one-sided p-values of "it did not fall" and "it
    did not rise".
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
        """Return whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: Sequence[float], *, resamples: int = 1000, alpha: float = 0.05, seed: int = 0
) -> Interval | None:
    """Return the mean of one value for each image, with its 1 − ``alpha`` interval; None without values.

    Raises ValueError for NaN.
    """
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
    """Return the mean of ``after`` − ``before`` over the images that both have; None where they share none."""
    shared = sorted(after.keys() & before.keys())
    return bootstrap_mean([after[key] - before[key] for key in shared], resamples=resamples, alpha=alpha, seed=seed)


def correct_p_values(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted by Holm's method; compared with α, they keep the family-wise error rate below it."""
    result: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: (p_values[key], key))):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        result[name] = highest
    return {name: result[name] for name in p_values}
