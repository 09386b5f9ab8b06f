"""Outlines of what is kept: with as few corners as do, and lent to what has none of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.claims import Labels, moved, nested
from florence.engine.consensus.vote import paired_iou
from florence.engine.wording.sequences import compute_offsets
from florence.records import BASE_TYPES

CELLS = 4_000_000
"""Corners that are looked at together."""
LEAST = 4
"""Corners that an outline keeps in any case, where it has them."""
LENDERS = tuple(
    BASE_TYPES.index(kind) for kind in ("<REFERRING_EXPRESSION_SEGMENTATION>", "<OD>", "<CAPTION_TO_PHRASE_GROUNDING>")
)
BORROWERS = LENDERS[1:]


def outlined(parts: Sequence[Labels], settings: EngineSettings) -> list[Labels]:
    """Labels with outlines as simple as `engine.fidelity` has them, and with a mask for each kept box of an object or phrase where one is known.

    A region without an outline has the one whose box overlaps its own most, by `engine.mask_iou` at least, carried along to it; of equals an expression's, then
    an object's, then a phrase's.
    """
    parts = [replace(part, polygons=_simple(part, settings.min_polygon_iou)) for part in parts]
    kept = [_Kept.of(part) for part in parts]
    lenders = sorted(
        (k for k, part in enumerate(parts) if part.kind in LENDERS), key=lambda k: LENDERS.index(parts[k].kind)
    )
    if not lenders:
        return parts
    image, box = (np.concatenate([getattr(kept[k], name)[kept[k].drawn] for k in lenders]) for name in ("image", "box"))
    polygons = pa.concat_arrays([parts[k].polygons.filter(pa.array(kept[k].drawn)) for k in lenders])
    order = np.argsort(image, kind="stable")
    lent = (
        _Kept(image[order], box[order], np.ones(len(order), bool), np.ones(len(order), bool)),
        polygons.take(pa.array(order)),
    )
    return [
        _borrowed(part, found, *lent, settings.mask_iou) if part.kind in BORROWERS else part
        for part, found in zip(parts, kept, strict=True)
    ]


def _simple(part: Labels, min_polygon_iou: float) -> pa.ListArray:
    """The outlines of a part, `simplified` but for those that stay."""
    if part.fixed is None or not part.fixed.any():
        return simplified(part.polygons, min_polygon_iou)
    free = np.flatnonzero(~part.fixed)
    index = np.arange(len(part.fixed))
    index[free] = len(index) + np.arange(len(free))
    return pa.concat_arrays([part.polygons, simplified(part.polygons.take(pa.array(free)), min_polygon_iou)]).take(
        pa.array(index)
    )


@dataclass(frozen=True)
class _Kept:
    """The m regions of a part. ``drawn``: (m,) those that are kept and have an outline; ``plain``: that are kept, have a box and no outline."""

    image: np.ndarray
    box: np.ndarray
    drawn: np.ndarray
    plain: np.ndarray

    @classmethod
    def of(cls, part: Labels) -> _Kept:
        kept = np.repeat(np.asarray([not reason for reason in part.reason], bool), part.count) & ~np.isnan(
            part.box
        ).any(axis=1)
        has = np.diff(part.polygons.offsets.to_numpy()) > 0
        return cls(np.repeat(part.image, part.count), part.box, kept & has, kept & ~has)


def _borrowed(part: Labels, mine: _Kept, lenders: _Kept, polygons: pa.ListArray, least: float) -> Labels:
    plain = np.flatnonzero(mine.plain)
    begin, end = (np.searchsorted(lenders.image, mine.image[plain], side=side) for side in ("left", "right"))
    row = np.repeat(plain, end - begin)
    lender = np.arange(len(row)) - np.repeat(compute_offsets(end - begin)[:-1] - begin, end - begin)
    overlap = paired_iou(mine.box[row], lenders.box[lender])
    near = np.flatnonzero(overlap >= least)
    best = near[np.lexsort((lender[near], -np.round(overlap[near], 9), row[near]))]
    best = best[np.r_[True, np.diff(row[best]) != 0][: len(best)]]
    if not len(best):
        return part
    carried = moved(polygons.take(pa.array(lender[best])), lenders.box[lender[best]], part.box[row[best]])
    index = np.arange(len(part.box))
    index[row[best]] = len(index) + np.arange(len(best))
    return replace(part, polygons=pa.concat_arrays([part.polygons, carried]).take(pa.array(index)))


def simplified(polygons: pa.ListArray, min_polygon_iou: float) -> pa.ListArray:
    """Lists of polygons, each without the corners that it takes least to do without, as long as its IoU with what it was stays at least ``fidelity``.

    Corners go in the order of the triangle that they make with their neighbours (Visvalingam and Whyatt). Two outlines differ by the triangles between them at
    most, so that of areas p and q, and triangles d, the IoU is at least (p + q − d) / (p + q + d): no overlap has to be computed.
    """
    inner = polygons.flatten()
    points = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    first = compute_offsets(np.diff(inner.offsets.to_numpy()) // 2)
    count = np.diff(first)
    keep = np.ones(len(points), bool)
    order = np.argsort(count, kind="stable")
    order = order[count[order] > LEAST] if min_polygon_iou < 1 else order[:0]
    while len(order):
        size = np.arange(1, len(order) + 1) * count[order]
        some = order[: max(int(np.searchsorted(size, CELLS, side="right")), 1)]
        order = order[len(some) :]
        inside = np.arange(count[some[-1]]) < count[some][:, None]
        at = np.minimum(first[some][:, None] + np.arange(inside.shape[1]), len(points) - 1)
        keep[at[inside]] = _needed(points[at], inside, min_polygon_iou)[inside]
    if keep.all():
        return polygons
    kept = compute_offsets(np.add.reduceat(keep, first[:-1])) if len(count) else first
    return nested(points[keep], kept, polygons.offsets.to_numpy())


def _needed(points: np.ndarray, inside: np.ndarray, min_polygon_iou: float) -> np.ndarray:
    """(n, corners) which of the corners (n, corners, 2) that are ``inside`` their polygon it cannot do without."""
    n, wide = inside.shape
    # corners are told by their place in the whole: row · wide + corner
    base, corner = (np.arange(n) * wide)[:, None], np.arange(wide)
    number = inside.sum(axis=1)
    after = (base + np.where(corner + 1 < number[:, None], corner + 1, 0)).reshape(-1)
    before = (base + np.where(corner > 0, corner - 1, (number - 1)[:, None])).reshape(-1)
    x, y = points[..., 0].reshape(-1), points[..., 1].reshape(-1)
    signed = _triangle(x, y, before, np.arange(n * wide), after)
    cost = np.where(inside, np.abs(signed).reshape(n, wide), np.inf)
    area = np.where(inside, (x * y[after] - x[after] * y).reshape(n, wide), 0.0).sum(axis=1) / 2
    alive, rows = inside.copy(), np.arange(n)
    whole, differ = np.abs(area), np.zeros(n)
    while len(rows):
        # costs of the rows that are still at work, in step with them
        least = cost.argmin(axis=1)
        at = rows * wide + least
        spent, rest = differ + cost[np.arange(len(rows)), least], area - signed[at]
        both = whole + np.abs(rest)
        fine = (both - spent >= min_polygon_iou * (both + spent)) & (number > LEAST)
        if not fine.all():
            rows, least, at, spent, rest, whole, number, cost = (
                values[fine] for values in (rows, least, at, spent, rest, whole, number, cost)
            )
        differ, area, number = spent, rest, number - 1
        step = np.arange(len(rows))
        alive[rows, least], cost[step, least] = False, np.inf
        left, right = before[at], after[at]
        after[left], before[right] = right, left
        for near in (left, right):
            signed[near] = _triangle(x, y, before[near], near, after[near])
            cost[step, near - rows * wide] = np.abs(signed[near])
    return alive


def _triangle(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The signed areas of triangles of three corners each."""
    return ((x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])) / 2
