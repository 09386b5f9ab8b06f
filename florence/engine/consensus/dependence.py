"""Which annotators depend on each other: who copies another one, mistakes included.

Symbols as in `florence.engine.consensus.annotator_models` and `florence.engine.consensus.posterior`. Of a pair (a, b),
over the m items that b claims something of and a was asked about,

    (19) share   δ ← mean_i Σ_z P_i(z) δ g_i / (δ g_i + (1 − δ) P(y_ia | z))       ten times, from 0.3
    (20) gain    G = m · mean_i Σ_z P_i(z) log [ (δ g_i + (1 − δ) P(y_ia | z)) / P(y_ia | z) ]

with g_i of equation (5) and P(y_ia | z) of equations (2) to (4). The pair is dependent where G ≥ 20 both ways and the
mean of both δ is at least 0.1; a pair of one declared family is dependent in any case, with a δ of at least
`MIN_DECLARED_DEPENDENCE`. Pairs of different families are looked at where there are four families. Of all dependent
pairs those of a maximum spanning forest stay; in each tree the annotator with the lowest number copies nobody, and
every other annotator copies its parent in the tree. An annotator whose claims copy boxes of others depends on its
declared family alone, and none that finds objects copies it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from florence.engine.consensus.annotator_models import NOTHING, AnnotatorModels
from florence.engine.consensus.label_matrix import LabelMatrix
from florence.engine.consensus.posterior import Posterior, independent_likelihood

MIN_ITEMS = 30
"""Least number of shared items for an estimate; a pair with fewer is independent."""
MIN_DEPENDENCE = 0.1
"""Least δ of a dependent pair."""
MIN_DECLARED_DEPENDENCE, MAX_DEPENDENCE = 0.8, 0.95
"""Least δ of a pair that is declared to be of one family, and the largest of any pair."""
MIN_GAIN = 20.0
"""Least gain of log likelihood, both ways, of a dependent pair."""
MAX_PAIR_ITEMS = 1500
"""Items that two annotators are compared on at most."""


def estimate_dependence(matrix: LabelMatrix, posterior: Posterior, models: AnnotatorModels) -> AnnotatorModels:
    """Return the models with the ``copied_from`` and ``dependence`` that the posterior makes likely."""
    count, families = matrix.claim.shape[1], matrix.families
    nothing, others = independent_likelihood(matrix, models)
    probability = np.concatenate([posterior.hypotheses.reshape(-1, len(matrix)), posterior.classes[:, NOTHING][None]]).T
    known, finds = matrix.was_asked.any(axis=0), ~matrix.traits.names_only
    undeclared = len(np.unique(families[known & finds])) > 3
    pairs = []
    for a, b in combinations(np.flatnonzero(known).tolist(), 2):
        declared, both_find = bool(families[a] == families[b]), bool(finds[a] and finds[b])
        if not declared and not (undeclared and both_find and models.estimated[a] and models.estimated[b]):
            continue
        shares, gains = zip(
            *(
                _pair_dependence(
                    matrix,
                    probability,
                    np.concatenate([others[:, :, to].reshape(-1, len(matrix)), nothing[None, to]]).T,
                    of,
                    to,
                )
                for of, to in ((a, b), (b, a))
            ),
            strict=True,
        )
        share = float(np.mean(shares))
        if declared:
            share = max(share, MIN_DECLARED_DEPENDENCE)
        if declared or (min(gains) >= MIN_GAIN and share >= MIN_DEPENDENCE):
            pairs.append((declared, both_find, min(share, MAX_DEPENDENCE), a, b))
    copied_from, dependence = _root_forest(_spanning_forest(pairs, count), np.argsort(~finds, kind="stable").tolist())
    return replace(models, copied_from=copied_from, dependence=dependence)


def _pair_dependence(
    matrix: LabelMatrix, probability: np.ndarray, independent: np.ndarray, of: int, to: int
) -> tuple[float, float]:
    """δ and G of annotator ``to`` copying ``of`` (equations 19 and 20); 0, 0 where there are too few items.

    ``probability``: (n, hypotheses), P_i(z); ``independent``: (n, hypotheses), P(y_i,to | z).
    """
    rows = np.flatnonzero(matrix.present[:, of] & matrix.was_asked[:, to])
    if len(rows) < MIN_ITEMS:
        return 0.0, 0.0
    count, rows = len(rows), rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_PAIR_ITEMS)).astype(np.int64)]
    agree, probability = matrix.pair_similarity(of, to)[rows, None], probability[rows]
    independent, share = np.maximum(independent[rows], 1e-12), 0.3
    for _ in range(10):
        copied = share * agree / (share * agree + (1 - share) * independent)
        share = float((probability * copied).sum(axis=1).mean())
    gain = (probability * np.log((share * agree + (1 - share) * independent) / independent)).sum(axis=1).mean()
    return share, float(gain * count)


def _spanning_forest(pairs: list[tuple[bool, bool, float, int, int]], count: int) -> list[tuple[float, int, int]]:
    """Return the pairs (share, a, b) of a maximum spanning forest of (declared, both find objects, share, a, b)."""
    tree, edges = list(range(count)), []
    for _, _, share, a, b in sorted(pairs, reverse=True):
        if tree[a] != tree[b]:
            edges.append((share, a, b))
            tree = [tree[a] if t == tree[b] else t for t in tree]
    return edges


def _root_forest(edges: list[tuple[float, int, int]], order: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (A,) whom each annotator copies, -1 for nobody, and (A,) δ; the first in ``order`` is a tree's root."""
    copied_from, dependence = np.full(len(order), -1), np.zeros(len(order))
    reached: set[int] = set()
    for root in order:
        waiting = [root] if root not in reached else []
        reached.update(waiting)
        while waiting:
            one = waiting.pop()
            for share, a, b in edges:
                other = b if a == one else a if b == one else None
                if other is not None and other not in reached:
                    copied_from[other], dependence[other] = one, share
                    reached.add(other)
                    waiting.append(other)
    return copied_from, dependence
