"""Boxes, quads, polygons and masks in pixels of the upright image; x to the right, y down, origin at the top left.

Single shapes are tuples of floats, as in records; functions for many shapes take NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 with x0 <= x1 and y0 <= y1."""
Quad = tuple[float, float, float, float, float, float, float, float]
"""x, y of four corners, clockwise from the top left."""
Polygon = tuple[float, ...]
"""x, y, x, y, …; at least three corners."""


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Return the areas (…,) of boxes (…, 4)."""
    return np.clip(boxes[..., 2] - boxes[..., 0], 0, None) * np.clip(boxes[..., 3] - boxes[..., 1], 0, None)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union (n, m) of boxes (n, 4) and (m, 4); 0 where the union is empty."""
    a, b = np.asarray(a, float).reshape(-1, 4), np.asarray(b, float).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = box_area(a)[:, None] + box_area(b)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union (n,) of boxes (n, 4) pair by pair; 0 if the union is empty or a box is NaN."""
    a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    side = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = side[0] * side[1]
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return np.nan_to_num(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def clip_box(box: Sequence[float], width: float, height: float) -> Box:
    """Return the part of ``box`` inside an image of ``width`` × ``height``, with its corners in order."""
    x0, x1 = sorted((min(max(float(box[0]), 0.0), width), min(max(float(box[2]), 0.0), width)))
    y0, y1 = sorted((min(max(float(box[1]), 0.0), height), min(max(float(box[3]), 0.0), height)))
    return (x0, y0, x1, y1)


def nms(boxes: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Return the indices kept by greedy non-maximum suppression, best first. boxes (n, 4), scores (n,)."""
    order = np.argsort(-np.asarray(scores, float), kind="stable")
    overlap = box_iou(boxes, boxes)
    kept: list[int] = []
    for index in order:
        if not kept or overlap[index, kept].max() <= iou:
            kept.append(int(index))
    return np.asarray(kept, dtype=int)


def polygon_box(points: Sequence[float]) -> Box:
    """Return the smallest box around a polygon or quad."""
    xs, ys = points[0::2], points[1::2]
    return (float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys)))


def box_quad(box: Sequence[float]) -> Quad:
    """Return the corners of a box, clockwise from the top left."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return (x0, y0, x1, y0, x1, y1, x0, y1)


def polygon_area(points: Sequence[float]) -> float:
    """Return the signed area (shoelace formula): positive if clockwise on screen, 0 for fewer than three corners."""
    if len(points) < 6:
        return 0.0
    xs, ys = np.asarray(points[0::2], float), np.asarray(points[1::2], float)
    return float(0.5 * (xs[:-1] @ ys[1:] - xs[1:] @ ys[:-1] + xs[-1] * ys[0] - xs[0] * ys[-1]))


def rasterise(polygons: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    """Return the mask (height, width), bool, of the union of ``polygons``."""
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for points in polygons:
        if len(points) >= 6:
            draw.polygon([(points[i] - 0.5, points[i + 1] - 0.5) for i in range(0, len(points) - 1, 2)], fill=1)
    return np.asarray(canvas, dtype=bool)


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two masks of one shape; 0 if both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 0.0


def trace_polygons(mask: np.ndarray, tolerance: float = 1.0, min_area: float = 4.0) -> tuple[Polygon, ...]:
    """Return the outer contours of a mask (height, width) as clockwise polygons, largest first.

    ``tolerance``: pixels that a simplified contour may deviate. Polygons below ``min_area`` square pixels are left out.
    """
    import cv2

    contours, _ = cv2.findContours(np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in contours:
        simple = cv2.approxPolyDP(contour, tolerance, True).reshape(-1, 2).astype(float) + 0.5
        points = tuple(float(v) for v in simple.reshape(-1))
        if len(points) < 6 or abs(polygon_area(points)) < min_area:
            continue
        if polygon_area(points) < 0:
            points = tuple(float(v) for v in simple[::-1].reshape(-1))
        polygons.append(points)
    return tuple(sorted(polygons, key=lambda p: -abs(polygon_area(p))))


MIN_MASK_IOU = 0.9
"""Least overlap (IoU) of polygons with their mask."""


def mask_polygons(mask: np.ndarray) -> tuple[Polygon, ...]:
    """Return the polygons of a mask (h, w): simplified if they still overlap it well (IoU above 0.93), else exact.

    Empty if even the exact polygons overlap it less than `MIN_MASK_IOU`. A polygon has no holes, so the mask is cut
    through its holes first.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return ()
    y, x = int(rows[0]), int(columns[0])
    part = mask[y : rows[-1] + 1, x : columns[-1] + 1]
    parts = cut_holes(part)
    for tolerance in (1.2, 0.8, 0.0):
        found = [polygon for piece in parts for polygon in trace_polygons(piece, tolerance)]
        overlap = mask_iou(rasterise(found, part.shape[1], part.shape[0]), part)
        if overlap > (0.93 if tolerance else MIN_MASK_IOU):
            return tuple(tuple(v + (y if i % 2 else x) for i, v in enumerate(polygon)) for polygon in found)
    return ()


def cut_holes(mask: np.ndarray) -> list[np.ndarray]:
    """Return the parts of a mask (h, w) after cutting it through each hole larger than a hundredth of its area."""
    import cv2

    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    enough = 0.01 * int(mask.sum())
    for contour, links in zip(contours, tree[0] if tree is not None else (), strict=True):
        if links[3] >= 0 and cv2.contourArea(contour) > enough:
            middle = int(contour[:, 0, 0].min() + contour[:, 0, 0].max() + 1) // 2
            left, right = mask.copy(), mask.copy()
            left[:, middle:], right[:, :middle] = False, False
            return [*cut_holes(left), *cut_holes(right)]
    return [mask]
