"""Turn masks into polygons."""

from __future__ import annotations

import numpy as np

from florence.geometry import Polygon, cut_holes, mask_iou, polygon_area, rasterise, trace_polygons

MIN_PART_SHARE = 0.01
"""Share of a mask's area below which a part of it is noise."""


def mask_to_polygons(mask: np.ndarray, min_polygon_iou: float) -> tuple[Polygon, ...]:
    """Return a mask (h, w), bool, as polygons of few corners, largest first, that overlap it by ``min_polygon_iou``.

    Empty if that overlap cannot be reached. Parts smaller than `MIN_PART_SHARE` are left out as far as the overlap
    allows. A polygon has no holes: small holes are filled; through larger ones the mask is cut.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return ()
    y, x = int(rows[0]), int(columns[0])
    part = mask[y : rows[-1] + 1, x : columns[-1] + 1]
    for least in (MIN_PART_SHARE, 0.0):
        cut = cut_holes(_without_small_parts(part, least * part.sum()))
        tolerance = 0.1 * float(part.sum()) ** 0.5
        while True:
            found = [polygon for piece in cut for polygon in trace_polygons(piece, tolerance, min_area=1.0)]
            if mask_iou(rasterise(found, part.shape[1], part.shape[0]), part) >= min_polygon_iou:
                found.sort(key=lambda polygon: -abs(polygon_area(polygon)))
                return tuple(tuple(v + (y if i % 2 else x) for i, v in enumerate(polygon)) for polygon in found)
            if not tolerance:
                break
            tolerance = tolerance / 1.4 if tolerance > 0.5 else 0.0
    return ()


def _without_small_parts(mask: np.ndarray, min_pixels: float) -> np.ndarray:
    """Return the mask without connected parts of less than ``min_pixels``."""
    import cv2

    _, part, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return mask & (stats[:, cv2.CC_STAT_AREA] >= min_pixels)[part]
