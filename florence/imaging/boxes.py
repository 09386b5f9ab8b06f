"""What a detector or grounder found, made fit to be claimed: inside the image, once each, the best first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence.geometry import Box, clip_box, nms
from florence.records import Claim, Region

CANDIDATES = 2000
"""Boxes that are looked at for overlaps, the best: raw outputs have a box for every cell."""


def distinct(
    found: np.ndarray, scores: np.ndarray, width: int, height: int, iou: float, most: int
) -> list[tuple[Box, float]]:
    """Boxes (n, 4) and their scores (n,), best first: clipped to the image, without those that overlap a better one by more than ``iou``, at most ``most``.

    Left out are boxes that have no area inside the image, and whatever is not a number.
    """
    found, scores = np.asarray(found, float).reshape(-1, 4), np.asarray(scores, float).reshape(-1)
    there = np.isfinite(found).all(axis=1) & np.isfinite(scores)
    found, scores = found[there], np.clip(scores[there], 0, 1)
    clipped = np.asarray([clip_box(box, width, height) for box in found]).reshape(-1, 4)
    inside = (clipped[:, 0] < clipped[:, 2]) & (clipped[:, 1] < clipped[:, 3])
    clipped, scores = clipped[inside], scores[inside]
    best = np.lexsort((*clipped.T[::-1], -scores))[:CANDIDATES]
    clipped, scores = clipped[best], scores[best]
    kept = nms(clipped, scores, iou)[:most].tolist() if len(best) else []
    return [
        ((x0, y0, x1, y1), score)
        for (x0, y0, x1, y1), score in zip(clipped[kept].tolist(), scores[kept].tolist(), strict=True)
    ]


def objects_found(
    found: np.ndarray, scores: np.ndarray, names: Sequence[str], width: int, height: int, iou: float, most: int
) -> list[Claim]:
    """<OD> claims of boxes (n, 4) under the names of each, best first; overlaps are looked for among boxes of one name."""
    kept: list[tuple[float, str, Box]] = []
    for name in sorted(set(names)):
        mine = [i for i, other in enumerate(names) if other == name]
        kept += [(-score, name, box) for box, score in distinct(found[mine], scores[mine], width, height, iou, most)]
    return [
        Claim("<OD>", name, (Region(name, box=box, score=-score),), -score) for score, name, box in sorted(kept)[:most]
    ]
