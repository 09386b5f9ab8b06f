"""What the scores of annotators state before any model is fitted: how likely claims at each level are right.

Symbols as in `florence.engine.consensus.annotator_models`; l is a level of a's scores, of mean score s_al, and x_al,
0…1, its rank among a's claims.

    (S1) stated          logit p_al = logit s_al + `STATED_LOG_ODDS`;  p_al = `DEFAULT_PRECISION` without a score;
                         `ALTERNATIVES_LOG_ODDS` instead, where a states alternatives
    (S2) confirmation    m_al: share of the claims at level l that another family claims, rising with l (isotonic
                         regression)
                         R_al = logistic(logit(m_a,top / p_a,top) − 1.5 (1 − x_al)): how much of what is there, and a
                         claims at level l, the others find; less of what a itself is less sure of
                         m_a,top is that of the two highest levels, p_a,top that of the highest
                         p′_al = m_al / R_al
    (S3) both            logit p_al ← min(logit p_al, w logit p′_al + (1 − w) logit p_al)
                         w = (m_a,top / p_a,top − 0.75) / 0.2, in 0…1
    (S4) classes         h_acl = P(l) p_al κ_cl of items that are there,  κ_cl ∝ exp(−(h g_c + 2.6 (x_al − ½))² / 2) r_c
                         P(l) (1 − p_al) η_a of hard negatives, P(l) (1 − p_al) (1 − η_a) of nothing at all
    (S5) hard negatives  η_a, and R_a, as m_al = p_al R′_al + (1 − p_al) η_a `TEMPTATION` makes the confirmed claims of
                         all levels most likely, R′_al = logistic(logit R_a − 1.5 (1 − x_al)); η_a is drawn to
                         `HARD_NEGATIVE_SHARE`, and is that where S_a < `WEAK_EVIDENCE` (`maximisation`)

(S3): where the others find nearly all that a is sure of, a claim that they do not make is likely wrong. That others
make it too proves nothing, because they may be wrong together: where they claim what a is least sure of as often as
what it is surest of, they take the same places for objects (S5). A score of all claims alike is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from florence.engine.consensus.annotator_models import (
    DEFAULT_EASE,
    DIFFICULTY,
    HARD_NEGATIVE,
    NOTHING,
    REAL,
    SPREAD,
    TEMPTATION,
    logit,
    recall_of_ease,
)
from florence.engine.consensus.label_matrix import LabelMatrix

STATED_LOG_ODDS = 0.2
"""What is added to the log odds that a score states. Scores of some detectors are too high and of others too low."""
ALTERNATIVES_LOG_ODDS = -0.5
"""The same of an annotator that states alternatives: one that exports everything is less often right."""
DEFAULT_PRECISION = 0.8
"""Share right of claims without a score."""
HARD_NEGATIVE_SHARE, MAX_HARD_NEGATIVE_SHARE = 0.15, 0.8
"""Least η, the share of wrong claims that are about hard negatives, and largest."""
HARD_NEGATIVE_CLAIMS = 40.0
"""Claims that the least η counts for in (S5)."""
WEAK_EVIDENCE = 1.0
"""S from which too few others could have claimed the same, so that η must be estimated from scores."""
FOUND_GRID, TEMPTED_GRID = np.linspace(0.2, 0.97, 40), np.linspace(0.0, 0.9, 46)
"""R and η `TEMPTATION` that (S5) chooses from."""
EASE_OF_RANK = 1.5
"""How much less the others find of what an annotator is least sure of than of what it is surest of, log odds."""
CLARITY_OF_RANK = 2.6
"""How much easier the items are of an annotator's surest claims than those of its least sure ones, log odds."""
LEAST_FOUND, MOST_FOUND = 0.75, 0.95
"""m_a,top / p_a,top from which confirmation counts, and from which it alone does (S3)."""
MIN_CONFIRMABLE, MIN_LEVELS = 60, 3
"""Claims that others could confirm, and levels, that an annotator needs for (S2)."""


class StatedClasses(NamedTuple):
    """What scores state of claims.

    ``classes``: (6, A, levels), h, of each annotator the sum is 1; ``hard_negatives``: (A,), η.
    """

    classes: np.ndarray
    hard_negatives: np.ndarray


def state_classes(
    matrix: LabelMatrix, precision: float = DEFAULT_PRECISION, strength: np.ndarray | None = None
) -> StatedClasses:
    """Return what scores state of claims, by class (S1 to S5).

    ``strength``: (A,), S; None: hard negatives are not estimated.
    """
    count, levels = matrix.level_score.shape
    claims = np.stack([np.bincount(matrix.level[matrix.present[:, a], a], minlength=levels) for a in range(count)])
    share = (claims + 0.01) / (claims + 0.01).sum(axis=1, keepdims=True)
    rank = np.cumsum(share, axis=1) - share / 2
    graded = ((claims > 0).sum(axis=1) > 1)[:, None]
    added = np.where(matrix.states_alternatives, ALTERNATIVES_LOG_ODDS, STATED_LOG_ODDS)
    confirmed = [_count_confirmed(matrix, a) for a in range(count)]
    right = _confirm(confirmed, rank, _state_right(matrix.level_score, added, precision))
    tempted = np.full(count, HARD_NEGATIVE_SHARE)
    for a in np.flatnonzero(strength >= WEAK_EVIDENCE).tolist() if strength is not None else ():
        tempted[a] = _estimate_hard_negatives(confirmed[a], rank[a], right[a])
    found = recall_of_ease(np.full(1, DEFAULT_EASE))[0]
    clarity = CLARITY_OF_RANK * (np.where(graded, rank, 0.5) - 0.5)
    kinds = found * np.where(graded[..., None], np.exp(-((clarity[..., None] + SPREAD * DIFFICULTY) ** 2) / 2), 1.0)
    kinds /= kinds.sum(axis=2, keepdims=True)
    result = np.empty((NOTHING + 1, count, levels))
    result[list(REAL)] = np.moveaxis(kinds * right[..., None], 2, 0)
    result[HARD_NEGATIVE] = (1 - right) * tempted[:, None]
    result[NOTHING] = (1 - right) * (1 - tempted[:, None])
    return StatedClasses(result * share, tempted)


def _state_right(score: np.ndarray, added: np.ndarray, precision: float) -> np.ndarray:
    """p of scores (A, levels), NaN where there is none (S1). ``added``: (A,), to their log odds."""
    odds = logit(np.clip(np.nan_to_num(score, nan=0.5), 0.005, 0.995)) + added[:, None]
    return np.where(np.isnan(score), precision, 1 / (1 + np.exp(-odds)))


@dataclass(frozen=True)
class _Confirmed:
    """Levels (k,) of one annotator's scores, how many claims others could confirm there, and how many they do."""

    level: np.ndarray
    claims: np.ndarray
    confirmed: np.ndarray


def _count_confirmed(matrix: LabelMatrix, a: int) -> _Confirmed | None:
    """Return how many claims of ``a`` other families make too; None where too few could be."""
    levels = matrix.level_score.shape[1]
    others = (matrix.families != matrix.families[a]) & ~matrix.traits.names_only
    if matrix.human is not None:
        others[matrix.human] = False
    rows = np.flatnonzero(matrix.present[:, a] & (matrix.confirming[:, a] > 0))
    level = matrix.level[rows, a]
    claims = np.bincount(level, minlength=levels)
    known = np.flatnonzero((claims > 0) & ~np.isnan(matrix.level_score[a]))
    if len(known) < MIN_LEVELS or len(rows) < MIN_CONFIRMABLE:
        return None
    confirmed = np.bincount(level, matrix.present[rows][:, others].any(axis=1), minlength=levels)
    return _Confirmed(known, claims[known], confirmed[known])


def _confirm(confirmed: Sequence[_Confirmed | None], rank: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """(A, levels) p, by what other families confirm too (S2 and S3)."""
    from scipy.optimize import isotonic_regression

    result = stated.copy()
    for a, one in enumerate(confirmed):
        if one is None:
            continue
        rate = isotonic_regression((one.confirmed + 0.5) / (one.claims + 1), weights=one.claims).x
        top = float(np.clip(rate[-2:].mean() / stated[a, one.level[-1]], 0.05, 0.99))
        found = _share_found(top, rank[a, one.level])
        weight = np.clip((top - LEAST_FOUND) / (MOST_FOUND - LEAST_FOUND), 0, 1)
        log_odds = logit(stated[a, one.level])
        both = weight * logit(np.clip(rate / found, 0.01, 0.99)) + (1 - weight) * log_odds
        result[a, one.level] = 1 / (1 + np.exp(-np.minimum(both, log_odds)))
    return result


def _share_found(top: float | np.ndarray, rank: np.ndarray) -> np.ndarray:
    """R of levels of a ``rank``, where it is ``top`` at the highest one."""
    return 1 / (1 + np.exp(EASE_OF_RANK * (1 - rank) - logit(np.asarray(top))))


def _estimate_hard_negatives(confirmed: _Confirmed | None, rank: np.ndarray, right: np.ndarray) -> float:
    """η of one annotator (S5). ``rank``, ``right``: (levels,), x and p."""
    if confirmed is None:
        return HARD_NEGATIVE_SHARE
    p = right[confirmed.level]
    found = _share_found(FOUND_GRID[:, None], rank[confirmed.level])
    rate = np.clip(p * found[:, None] + (1 - p) * TEMPTED_GRID[:, None], 1e-3, 1 - 1e-3)
    unconfirmed = confirmed.claims - confirmed.confirmed
    likelihood = np.log(rate) @ confirmed.confirmed + np.log(1 - rate) @ unconfirmed
    expected, tempted = HARD_NEGATIVE_SHARE * TEMPTATION, np.clip(TEMPTED_GRID, 1e-3, 1 - 1e-3)
    likelihood += HARD_NEGATIVE_CLAIMS * (expected * np.log(tempted) + (1 - expected) * np.log(1 - tempted))
    share = TEMPTED_GRID[np.unravel_index(likelihood.argmax(), likelihood.shape)[1]] / TEMPTATION
    return float(np.clip(share, HARD_NEGATIVE_SHARE, MAX_HARD_NEGATIVE_SHARE))
