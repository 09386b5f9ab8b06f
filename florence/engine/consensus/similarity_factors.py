"""How often annotators are right about texts and answers, by how similar they are to each other.

Let s_ab be the mean similarity of annotators a and b over the n_ab items that both have a text of. Annotators whose
errors are independent are similar where both are near the truth, so s_ab ≈ f_a f_b with one factor 0 < f_a < 1 for each
annotator: the one-factor model of the agreement matrix, as for the one-coin model of Dawid and Skene (Ghosh, Kale and
McAfee 2011; Dalvi et al. 2013). The factors minimise Σ_{a≠b} n_ab (s_ab − f_a f_b)² by alternating least squares:

    f_a ← Σ_b n_ab s_ab f_b / Σ_b n_ab f_b²        (three annotators are needed to tell the factors apart)

Annotators of one family are dependent, and not compared. Two others are where they share more than that, with
s_ab = f_a f_b + d_ab (1 − f_a f_b) and d_ab ≥ `MIN_DEPENDENCE`:

    d_ab = (s_ab − f_a f_b) / (1 − f_a f_b)        (four annotators are needed: three are always explained by factors)
"""

from __future__ import annotations

import numpy as np

MIN_DEPENDENCE = 0.25
"""Least dependence at which one of two annotators counts as repeating the other."""
MIN_SHARED_ITEMS = 30
"""Least number of shared items for an estimate; a pair with fewer is independent."""
STEPS = 50


def fit_similarity_factors(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return (A,) the factors. ``count``: (A, A), n; ``total``: (A, A), the sums of the similarities, n · s."""
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    factors = np.full(len(mean), np.sqrt(max(total.sum() / max(count.sum(), 1), 1e-4)))
    for _ in range(STEPS):
        for a in range(len(factors)):
            base = (count[a] * factors**2).sum()
            if base > 0:
                factors[a] = np.clip((count[a] * mean[a] * factors).sum() / base, 0.01, 0.99)
    return factors


def count_families(shared: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Return (A,) with how many families each annotator shares an item. ``shared``: (A, A); ``families``: (A,)."""
    members = families[:, None] == np.unique(families)
    return np.asarray(((shared > 0).astype(np.int64) @ members > 0).sum(axis=1))


def group_dependent_annotators(
    total: np.ndarray, count: np.ndarray, families: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (A,) the factors, and (A,) the group of each annotator: the same number for dependent ones.

    Those of one family are grouped and their pairs left out of the fit; then so is the most dependent pair, again and
    again. ``total``, ``count``: see `fit_similarity_factors`; ``families``: (A,), the same number for one family.
    """
    group = np.unique(families, return_index=True)[1][np.unique(families, return_inverse=True)[1]]
    count = np.where(group[:, None] == group, 0, count)
    while True:
        factors = fit_similarity_factors(total, count)
        if ((count > 0).sum(axis=1) >= 3).sum() < 4:
            return factors, group
        expected = np.outer(factors, factors)
        mean = np.divide(total, count, out=np.zeros_like(total), where=count >= MIN_SHARED_ITEMS)
        dependence = np.where(count >= MIN_SHARED_ITEMS, (mean - expected) / (1 - expected), 0.0)
        a, b = np.unravel_index(int(dependence.argmax()), dependence.shape)
        if dependence[a, b] < MIN_DEPENDENCE:
            return factors, group
        count[a, b] = count[b, a] = 0
        group[group == group[b]] = group[a]
