"""Polygons of kept labels: simplified, and given to regions that have none.

Simplification (Visvalingam and Whyatt 1993, Line generalisation by repeated elimination of points): again and again the
vertex is removed whose triangle with its two neighbours has the least area,

    A(a, b, c) = |(b − a) × (c − a)| / 2,

as long as the IoU with the original stays at least r = `engine.min_polygon_iou`. The overlap itself is not computed.
Two polygons of areas p and q differ by the removed triangles at most, of total area d, so

    |P ∩ Q| ≥ (p + q − d) / 2,   |P ∪ Q| ≤ (p + q + d) / 2,   IoU ≥ (p + q − d) / (p + q + d) ≥ r.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.labels import Labels
from florence.engine.polygon_lists import move_polygons, nest_polygons
from florence.engine.wording.sequences import compute_offsets
from florence.geometry import paired_iou
from florence.records import BASE_TYPES

CELLS = 4_000_000
"""Vertices that are processed together."""
MIN_VERTICES = 4
"""Vertices that a polygon keeps in any case, where it has them."""
DONORS = tuple(
    BASE_TYPES.index(task) for task in ("<REFERRING_EXPRESSION_SEGMENTATION>", "<OD>", "<CAPTION_TO_PHRASE_GROUNDING>")
)
"""Annotation types whose polygons are given to others, in the order of preference."""
RECIPIENTS = DONORS[1:]
"""Annotation types whose regions are given polygons."""


def enhance_polygons(parts: Sequence[Labels], settings: EngineSettings) -> list[Labels]:
    """Return labels with simplified polygons, and with a polygon for each kept object or phrase where one is known.

    A region without a polygon is given the one of the label whose box overlaps its own most, by `engine.mask_iou` at
    least, moved and scaled to its box; of equal overlaps in the order of `DONORS`.
    """
    parts = [replace(part, polygons=_simplify_part(part, settings.min_polygon_iou)) for part in parts]
    regions = [_KeptRegions.of(part) for part in parts]
    donors = sorted(
        (k for k, part in enumerate(parts) if part.annotation_type in DONORS),
        key=lambda k: DONORS.index(parts[k].annotation_type),
    )
    if not donors:
        return parts
    image, box = (
        np.concatenate([getattr(regions[k], name)[regions[k].with_polygon] for k in donors])
        for name in ("image", "box")
    )
    polygons = pa.concat_arrays([parts[k].polygons.filter(pa.array(regions[k].with_polygon)) for k in donors])
    order = np.argsort(image, kind="stable")
    every = np.ones(len(order), bool)
    pool, polygons = _KeptRegions(image[order], box[order], every, ~every), polygons.take(pa.array(order))
    return [
        _transfer_polygons(part, found, pool, polygons, settings.mask_iou)
        if part.annotation_type in RECIPIENTS
        else part
        for part, found in zip(parts, regions, strict=True)
    ]


def _simplify_part(part: Labels, min_polygon_iou: float) -> pa.ListArray:
    """Return the polygons of a part, simplified but for those that stay as they are."""
    if part.keep_polygons is None or not part.keep_polygons.any():
        return simplify_polygons(part.polygons, min_polygon_iou)
    free = np.flatnonzero(~part.keep_polygons)
    index = np.arange(len(part.keep_polygons))
    index[free] = len(index) + np.arange(len(free))
    simple = simplify_polygons(part.polygons.take(pa.array(free)), min_polygon_iou)
    return pa.concat_arrays([part.polygons, simple]).take(pa.array(index))


@dataclass(frozen=True)
class _KeptRegions:
    """The m regions of a part. ``with_polygon``, ``without_polygon``: (m,) kept, with a box, with or without one."""

    image: np.ndarray
    box: np.ndarray
    with_polygon: np.ndarray
    without_polygon: np.ndarray

    @classmethod
    def of(cls, part: Labels) -> _KeptRegions:
        row_kept = np.asarray([not reason for reason in part.reason], bool)
        kept = np.repeat(row_kept, part.count) & ~np.isnan(part.box).any(axis=1)
        has_polygon = np.diff(part.polygons.offsets.to_numpy()) > 0
        return cls(np.repeat(part.image, part.count), part.box, kept & has_polygon, kept & ~has_polygon)


def _transfer_polygons(
    part: Labels, regions: _KeptRegions, donors: _KeptRegions, polygons: pa.ListArray, min_iou: float
) -> Labels:
    """Return ``part`` whose regions without a polygon have the ``polygons`` of the donor of the largest box IoU."""
    plain = np.flatnonzero(regions.without_polygon)
    begin, end = (np.searchsorted(donors.image, regions.image[plain], side=side) for side in ("left", "right"))
    row = np.repeat(plain, end - begin)
    donor = np.arange(len(row)) - np.repeat(compute_offsets(end - begin)[:-1] - begin, end - begin)
    iou = paired_iou(regions.box[row], donors.box[donor])
    near = np.flatnonzero(iou >= min_iou)
    best = near[np.lexsort((donor[near], -np.round(iou[near], 9), row[near]))]
    best = best[np.r_[True, np.diff(row[best]) != 0][: len(best)]]
    if not len(best):
        return part
    fitted = move_polygons(polygons.take(pa.array(donor[best])), donors.box[donor[best]], part.box[row[best]])
    index = np.arange(len(part.box))
    index[row[best]] = len(index) + np.arange(len(best))
    return replace(part, polygons=pa.concat_arrays([part.polygons, fitted]).take(pa.array(index)))


# ---------------------------------------------------------------- simplification


def simplify_polygons(polygons: pa.ListArray, min_polygon_iou: float) -> pa.ListArray:
    """Return lists of polygons, each with as few vertices as keep its IoU with the original at ``min_polygon_iou``."""
    inner = polygons.flatten()
    points = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    first = compute_offsets(np.diff(inner.offsets.to_numpy()) // 2)
    count = np.diff(first)
    keep = np.ones(len(points), bool)
    order = np.argsort(count, kind="stable")
    order = order[count[order] > MIN_VERTICES] if min_polygon_iou < 1 else order[:0]
    while len(order):
        size = np.arange(1, len(order) + 1) * count[order]
        some = order[: max(int(np.searchsorted(size, CELLS, side="right")), 1)]
        order = order[len(some) :]
        inside = np.arange(count[some[-1]]) < count[some][:, None]
        at = np.minimum(first[some][:, None] + np.arange(inside.shape[1]), len(points) - 1)
        keep[at[inside]] = _select_vertices(points[at], inside, min_polygon_iou)[inside]
    if keep.all():
        return polygons
    kept = compute_offsets(np.add.reduceat(keep, first[:-1])) if len(count) else first
    return nest_polygons(points[keep], kept, polygons.offsets.to_numpy())


def _select_vertices(points: np.ndarray, inside: np.ndarray, min_polygon_iou: float) -> np.ndarray:
    """Return (n, vertices) which vertices stay, of polygons ``points`` (n, vertices, 2) with padding not ``inside``."""
    n, wide = inside.shape
    # vertices are numbered across all polygons: row · wide + column
    base, column = (np.arange(n) * wide)[:, None], np.arange(wide)
    number = inside.sum(axis=1)
    after = (base + np.where(column + 1 < number[:, None], column + 1, 0)).reshape(-1)
    before = (base + np.where(column > 0, column - 1, (number - 1)[:, None])).reshape(-1)
    x, y = points[..., 0].reshape(-1), points[..., 1].reshape(-1)
    signed = _triangle_area(x, y, before, np.arange(n * wide), after)
    cost = np.where(inside, np.abs(signed).reshape(n, wide), np.inf)
    area = np.where(inside, (x * y[after] - x[after] * y).reshape(n, wide), 0.0).sum(axis=1) / 2
    alive, rows = inside.copy(), np.arange(n)
    original, removed = np.abs(area), np.zeros(n)
    while len(rows):
        # all arrays but alive, signed, before and after hold the polygons that are not finished
        least = cost.argmin(axis=1)
        at = rows * wide + least
        removed_then, area_then = removed + cost[np.arange(len(rows)), least], area - signed[at]
        both = original + np.abs(area_then)
        fine = (both - removed_then >= min_polygon_iou * (both + removed_then)) & (number > MIN_VERTICES)
        if not fine.all():
            rows, least, at, removed_then, area_then, original, number, cost = (
                values[fine] for values in (rows, least, at, removed_then, area_then, original, number, cost)
            )
        removed, area, number = removed_then, area_then, number - 1
        step = np.arange(len(rows))
        alive[rows, least], cost[step, least] = False, np.inf
        left, right = before[at], after[at]
        after[left], before[right] = right, left
        for near in (left, right):
            signed[near] = _triangle_area(x, y, before[near], near, after[near])
            cost[step, near - rows * wide] = np.abs(signed[near])
    return alive


def _triangle_area(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the signed areas of triangles, of three vertices each."""
    return ((x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])) / 2
