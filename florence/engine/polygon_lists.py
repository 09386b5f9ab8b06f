"""Polygons of many regions as Arrow lists: for each region a list of polygons, each x and y in turn, in pixels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

POLYGONS = pa.list_(pa.list_(pa.float64()))
"""The Arrow type of a region's polygons."""
ROUNDING = 1e-5
"""Pixels that a box may be off by rounding."""


def empty_polygons(count: int) -> pa.ListArray:
    """Return ``count`` empty lists of polygons."""
    return pa.array([[]] * count, POLYGONS)


def nest_polygons(points: np.ndarray, first: np.ndarray, outer: np.ndarray) -> pa.ListArray:
    """Return ``points`` (k, 2) as n lists of p polygons.

    ``first``: (p + 1,), the point at which each polygon begins; ``outer``: (n + 1,), the polygon at which each list
    does.
    """
    inner = pa.ListArray.from_arrays(pa.array((2 * first).astype(np.int32)), pa.array(points.reshape(-1)))
    return pa.ListArray.from_arrays(pa.array((outer - outer[0]).astype(np.int32)), inner)


def replace_points(polygons: pa.ListArray, points: np.ndarray) -> pa.ListArray:
    """Return ``polygons`` with all their points replaced by ``points`` (k, 2)."""
    first = np.r_[0, np.cumsum(pc.list_value_length(polygons.flatten()).to_numpy(zero_copy_only=False))] // 2
    outer = np.r_[0, np.cumsum(pc.list_value_length(polygons).to_numpy(zero_copy_only=False))]
    return nest_polygons(points, first, outer)


def point_owners(polygons: pa.ListArray, counts: np.ndarray) -> np.ndarray:
    """Return (k,) the list that each point belongs to. ``counts``: points of each polygon."""
    return np.repeat(
        np.repeat(np.arange(len(polygons)), pc.list_value_length(polygons).to_numpy(zero_copy_only=False)), counts
    )


def move_polygons(polygons: pa.ListArray, before: np.ndarray, after: np.ndarray) -> pa.ListArray:
    """Scale the polygons of m regions with their boxes, from ``before`` to ``after``, both (m, 4).

    Where a box stays its polygons do, even if they stick out of it; else they are clipped to the new box.
    """
    inner = polygons.flatten()
    points = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    owner = point_owners(polygons, pc.list_value_length(inner).to_numpy(zero_copy_only=False) // 2)
    scale = (after[:, 2:] - after[:, :2]) / np.maximum(before[:, 2:] - before[:, :2], 1e-9)
    moved = after[owner, :2] + (points - before[owner, :2]) * scale[owner]
    moved = np.clip(moved, after[owner, :2], after[owner, 2:])
    stays = (np.abs(after - before) <= ROUNDING).all(axis=1)
    return replace_points(polygons, np.where(stays[owner, None], points, moved))
