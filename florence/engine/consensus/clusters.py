"""Clusters: claims of several annotators whose boxes overlap, and so are about the same item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence.engine.pairs import join_pairs, list_pairs
from florence.geometry import paired_iou

BELOW_MEDIAN, MOST_SAME_IOU = 0.3, 0.45
"""How far below the median overlap of their boxes of one item two annotators' boxes are joined, and the largest IoU
that they then need."""
MIN_MATCHED, LEAST_MATCHED_IOU = 20, 0.1
"""Boxes of one item that two annotators must both have drawn for that, and the least IoU that such boxes have."""
MAX_MEASURED = 20_000
"""Claims that overlaps are measured on at most."""


@dataclass(frozen=True)
class ClusterOverlap:
    """Least IoU of two claims of one cluster: ``iou``, or ``same_iou`` where both have the same label.

    ``same_iou``: one for all, or (A, A) by annotators.
    """

    iou: float
    same_iou: float | np.ndarray


def cluster_claims(
    scope: np.ndarray,
    annotator: np.ndarray,
    bounds: np.ndarray,
    label: np.ndarray,
    least: ClusterOverlap,
    preferred: np.ndarray | None = None,
) -> np.ndarray:
    """Return the cluster (m,) of each of m claims, numbered 0, 1, … in the order of their first claims.

    Claims of one ``scope`` (an image, a phrase; in order) and different annotators are joined where their ``bounds``
    (m, 4) overlap enough; a cluster has at most one claim of each annotator. Pairs of claims that are both
    ``preferred`` (m,) join first, then pairs of one ``label``, then the pairs with the largest overlap.
    """
    a, b, overlap = _list_overlaps(scope, annotator, bounds)
    same = label[a] == label[b]
    same_iou = np.asarray(least.same_iou)
    same_iou = same_iou[annotator[a], annotator[b]] if same_iou.ndim else same_iou
    keep = overlap >= np.where(same, same_iou, least.iou)
    a, b, overlap, same = a[keep], b[keep], overlap[keep], same[keep]
    early = np.zeros(len(a), bool) if preferred is None else preferred[a] & preferred[b]
    order = np.lexsort((b, a, -np.round(overlap, 9), ~same, ~early))
    return np.unique(join_pairs(a[order], b[order], annotator), return_inverse=True)[1]


def _list_overlaps(
    scope: np.ndarray, annotator: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs of claims of one scope and different annotators, and their IoU."""
    a, b = list_pairs(scope)
    keep = annotator[a] != annotator[b]
    a, b = a[keep], b[keep]
    return a, b, paired_iou(bounds[a], bounds[b])


def measure_same_iou(
    scope: np.ndarray, annotator: np.ndarray, bounds: np.ndarray, label: np.ndarray, count: int, least: float
) -> np.ndarray:
    """Return (A, A) the least IoU at which boxes of one label of two of ``count`` annotators are joined.

    It is the median IoU of the boxes of one label that overlap each other most, less `BELOW_MEDIAN`, in ``least`` to
    `MOST_SAME_IOU`: annotators that draw alike do so everywhere, and what overlaps far less is a neighbour. ``least``
    holds where they have too few such boxes. The other arguments: see `cluster_claims`.
    """
    result = np.full((count, count), least)
    every = -(-max(len(scope), 1) // MAX_MEASURED)
    some = np.cumsum(np.diff(scope, prepend=scope[:1]) != 0) % every == 0
    scope, annotator, bounds, label = scope[some], annotator[some], bounds[some], label[some]
    a, b, overlap = _list_overlaps(scope, annotator, bounds)
    keep = (overlap >= LEAST_MATCHED_IOU) & (label[a] == label[b])
    a, b, overlap = a[keep], b[keep], overlap[keep]
    largest = np.zeros((len(scope), count))
    np.maximum.at(largest, (a, annotator[b]), overlap)
    np.maximum.at(largest, (b, annotator[a]), overlap)
    matched = (overlap >= largest[a, annotator[b]]) & (overlap >= largest[b, annotator[a]])
    one, other, overlap = annotator[a[matched]], annotator[b[matched]], overlap[matched]
    pair = np.minimum(one, other) * count + np.maximum(one, other)
    for number in np.flatnonzero(np.bincount(pair) >= MIN_MATCHED).tolist():
        first, second = divmod(number, count)
        found = np.clip(np.median(overlap[pair == number]) - BELOW_MEDIAN, least, max(least, MOST_SAME_IOU))
        result[first, second] = result[second, first] = found
    return result
