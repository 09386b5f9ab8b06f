"""Turn the raw boxes of a detector or grounder into boxes that can be claimed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence.geometry import Box, clip_box, nms
from florence.records import Claim, Region

MAX_CANDIDATES = 2000
"""Number of the best boxes that are compared for overlaps: raw outputs have a box for every cell."""


def suppress_overlaps(
    boxes: np.ndarray, scores: np.ndarray, width: int, height: int, nms_iou: float, most: int
) -> list[tuple[Box, float]]:
    """Return at most ``most`` boxes with their scores, best first, after non-maximum suppression at ``nms_iou``.

    ``boxes``: (n, 4), pixels; ``scores``: (n,). Boxes are clipped to the image (``width`` × ``height``). Boxes without
    an area inside the image are left out, and boxes or scores that are not finite.
    """
    boxes, scores = np.asarray(boxes, float).reshape(-1, 4), np.asarray(scores, float).reshape(-1)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    boxes, scores = boxes[finite], np.clip(scores[finite], 0, 1)
    clipped = np.asarray([clip_box(box, width, height) for box in boxes]).reshape(-1, 4)
    inside = (clipped[:, 0] < clipped[:, 2]) & (clipped[:, 1] < clipped[:, 3])
    clipped, scores = clipped[inside], scores[inside]
    best = np.lexsort((*clipped.T[::-1], -scores))[:MAX_CANDIDATES]
    clipped, scores = clipped[best], scores[best]
    kept = nms(clipped, scores, nms_iou)[:most].tolist() if len(best) else []
    return [
        ((x0, y0, x1, y1), score)
        for (x0, y0, x1, y1), score in zip(clipped[kept].tolist(), scores[kept].tolist(), strict=True)
    ]


def object_claims(
    boxes: np.ndarray, scores: np.ndarray, names: Sequence[str], width: int, height: int, nms_iou: float, most: int
) -> list[Claim]:
    """Return at most ``most`` <OD> claims, best first, of boxes (n, 4) with scores (n,) and names (n).

    Overlaps are suppressed among boxes of one name. See `suppress_overlaps`.
    """
    kept: list[tuple[float, str, Box]] = []
    for name in sorted(set(names)):
        own = [i for i, other in enumerate(names) if other == name]
        kept += [
            (-score, name, box)
            for box, score in suppress_overlaps(boxes[own], scores[own], width, height, nms_iou, most)
        ]
    return [
        Claim("<OD>", name, (Region(name, box=box, score=-score),), -score) for score, name, box in sorted(kept)[:most]
    ]
