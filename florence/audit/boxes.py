"""How likely a given label has a wrong box.

r = (given box − box of the others) / its width or height, a number for each side. Where the given box is right, r is
noise, t-distributed with 4 degrees of freedom and a scale that falls with the size of the object and the number of
claims; where it is wrong, the scale is `WRONG_SCALE`:

    log E|r| = α + β log side + γ log claims         fitted by least squares to log |r| of all pairs
    L_right  = Σ_c w_c Π_sides t4(r_c / σ) / σ       c: the fused box and the others' own boxes, of which one is right
    L_wrong  = Π_sides t4(r / WRONG_SCALE) / WRONG_SCALE
    P(off)   = π L_wrong / (π L_wrong + (1 − π) L_right)         π by expectation maximisation
    P(wrong) = P(off) / (1 + d c^(n − 1))                        n: families that claim the object

A box that is off may be the others' mistake: of one family `OTHER_WRONG` times as often as the label's.
"""

from __future__ import annotations

import numpy as np

from florence.audit.alignment import GivenLabels, LabelAlignment
from florence.audit.others import SHARED, OtherItems, count_families

WRONG_SCALE, OTHER_WRONG = 0.3, 0.5
LOG_OF_T = 0.55
"""log σ − mean log |r| of t-distributed r of scale σ, about."""
LEAST_SIGMA, MOST_SIGMA = 0.01, 0.25
OWN_BOX_WIDER, OWN_BOXES_WEIGHT = 1.3, 0.5
"""How much noisier the box of one annotator is than the fused one; the weight of all of them together."""


def estimate_misplaced(given: GivenLabels, items: OtherItems, aligned: LabelAlignment) -> np.ndarray:
    """Return (n,) P(the box is wrong | the label and its item are of one object)."""
    result = np.zeros(len(given))
    rows = np.flatnonzero(aligned.item >= 0)
    if not len(rows):
        return result
    item = aligned.item[rows]
    box = given.box[rows]
    claims = np.maximum(np.bincount(items.claim_item, minlength=len(items))[item], 1)
    r = _residual(box, items.box[item])
    sigma = _fit_noise(r, items.box[item], claims)
    right = (1 - OWN_BOXES_WEIGHT) * measure_likelihood(r, sigma[:, None])
    right += OWN_BOXES_WEIGHT * _likelihood_of_own(box, items, item, sigma)
    wrong = measure_likelihood(r, np.full((len(rows), 1), WRONG_SCALE))
    share, p = 0.05, np.zeros(len(rows))
    for _ in range(10):
        p = share * wrong / (share * wrong + (1 - share) * right + 1e-300)
        share = float(np.clip(p.mean(), 0.005, 0.3))
    result[rows] = p / (1 + OTHER_WRONG * SHARED ** (count_families(items)[item] - 1))
    return result


def _residual(box: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (n, 4): how far the sides of boxes are from those of others, in shares of the others' sides."""
    sides = np.tile(np.maximum(other[:, 2:] - other[:, :2], 1.0), 2)
    return (box - other) / sides


def measure_likelihood(r: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return (n,) the product over the sides of the t-density (4 degrees of freedom) of ``r`` (n, 4)."""
    return np.asarray(np.prod(0.375 * (1 + (r / sigma) ** 2 / 4) ** -2.5 / sigma, axis=1))


def _fit_noise(r: np.ndarray, box: np.ndarray, claims: np.ndarray) -> np.ndarray:
    """Return (n,) σ of each pair, after taking the typical offset of each side out of ``r`` in place."""
    r -= np.median(r, axis=0)
    side = np.log(np.sqrt(np.prod(np.maximum(box[:, 2:] - box[:, :2], 1.0), axis=1)))
    x = np.stack([np.ones(len(r)), side - side.mean(), np.log(claims)], axis=1)
    y = np.log(np.abs(r) + 1e-3).mean(axis=1)
    expected = np.asarray([np.log(0.05), -0.3, -0.3])
    penalty = np.diag([2.0, 20.0, 20.0])
    weights = expected + np.linalg.solve(x.T @ x + penalty, x.T @ (y - x @ expected))
    return np.asarray(np.clip(np.exp(x @ weights + LOG_OF_T), LEAST_SIGMA, MOST_SIGMA))


def _likelihood_of_own(box: np.ndarray, items: OtherItems, item: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return (n,) the mean likelihood of the given boxes around each of the others' boxes."""
    position = np.full(len(items), -1, np.int64)
    position[item] = np.arange(len(item))
    at = position[items.claim_item]
    claim = np.flatnonzero(at >= 0)
    at = at[claim]
    wider = (sigma * OWN_BOX_WIDER)[at][:, None]
    value = measure_likelihood(_residual(box[at], items.claim_box[claim]), wider)
    return np.bincount(at, value, len(item)) / np.maximum(np.bincount(at, minlength=len(item)), 1)
