"""Logistic regression with a prior on its weights: few data leave the weights where they are expected.

    P(y = 1 | x) = 1 / (1 + exp(−x·w))        w maximises Σ log P(y_i | x_i) − λ/2 Σ_k (w_k − w⁰_k)²

by Newton's method (iteratively reweighted least squares; Hastie, Tibshirani, Friedman, "The Elements of Statistical
Learning", 4.4).
"""

from __future__ import annotations

import numpy as np

STEPS = 25
FOLDS = 5


def fit_weights(x: np.ndarray, y: np.ndarray, expected: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return the weights (d,) for features ``x`` (n, d) and outcomes ``y`` (n,) 0…1; ``strength``: (d,) λ of each."""
    weights = expected.copy()
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (y - p) - strength * (weights - expected)
        curvature = (x * np.maximum(p * (1 - p), 1e-6)[:, None]).T @ x + np.diag(strength)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-9))
        if np.abs(step).max() < 1e-6:
            break
    return weights


def predict_across_folds(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, expected: np.ndarray, strength: float = 4.0
) -> np.ndarray:
    """Return P(y = 1 | x) (n,) of rows, each by weights fitted to the rows of other groups.

    ``x``: (n, d), the first column of which is constant; ``group``: (n,), as the image. ``expected``: (d,) weights
    before anything is known, of the columns as they are; the first is free.
    """
    penalty = np.full(x.shape[1], strength)
    penalty[0] = 0.1
    result = np.empty(len(x))
    fold = (group * 2654435761 % 2**32) % FOLDS
    for k in range(FOLDS):
        apart = fold == k
        if apart.any():
            rest = ~apart if (~apart).any() else apart
            weights = fit_weights(x[rest], y[rest], expected, penalty)
            result[apart] = 1 / (1 + np.exp(-np.clip(x[apart] @ weights, -30, 30)))
    return result


def logit(p: np.ndarray) -> np.ndarray:
    """Return log(p / (1 − p)), of 0.001 and 0.999 at the ends."""
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))


def shrunken_rate(key: np.ndarray, y: np.ndarray, group: np.ndarray, prior: float = 10.0) -> np.ndarray:
    """Return for each row the share of y = 1 among rows of its key, those of other groups alone, shrunk to the mean.

    ``key``, ``group``: (n,) whole numbers from 0. ``prior``: how many rows the mean counts for.
    """
    if not len(y):
        return np.zeros(0)
    count, total = np.bincount(key), np.bincount(key, y)
    both = np.unique(np.stack([key, group]), axis=1, return_inverse=True)[1].reshape(-1)
    own, own_total = np.bincount(both)[both], np.bincount(both, y)[both]
    return (total[key] - own_total + prior * y.mean()) / (count[key] - own + prior)
