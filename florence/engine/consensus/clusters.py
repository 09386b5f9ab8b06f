"""Clusters: claims of several annotators whose boxes overlap, and so are about the same item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence.engine.pairs import join_pairs, list_pairs
from florence.geometry import paired_iou


@dataclass(frozen=True)
class ClusterOverlap:
    """Least IoU of two claims of one cluster: ``iou``, or ``same_iou`` where both have the same label."""

    iou: float
    same_iou: float


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
    a, b = list_pairs(scope)
    keep = annotator[a] != annotator[b]
    a, b = a[keep], b[keep]
    overlap, same = paired_iou(bounds[a], bounds[b]), label[a] == label[b]
    keep = overlap >= np.where(same, least.same_iou, least.iou)
    a, b, overlap, same = a[keep], b[keep], overlap[keep], same[keep]
    early = np.zeros(len(a), bool) if preferred is None else preferred[a] & preferred[b]
    order = np.lexsort((b, a, -np.round(overlap, 9), ~same, ~early))
    return np.unique(join_pairs(a[order], b[order], annotator), return_inverse=True)[1]
