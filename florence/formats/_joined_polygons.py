"""Several polygons of one object as one, for formats that hold one, and back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from florence.geometry import Polygon, polygon_area


def join_polygons(polygons: Sequence[Polygon]) -> list[float]:
    """Return several polygons as one, which runs from its nearest corner to each next polygon, around it and back."""
    whole = np.asarray(polygons[0], float).reshape(-1, 2)
    clockwise = polygon_area(polygons[0]) > 0
    for points in polygons[1:]:
        other = np.asarray(points, float).reshape(-1, 2)
        if (polygon_area(points) > 0) != clockwise:
            other = other[::-1]  # the other direction would make it a hole
        distance = ((whole[:, None] - other[None]) ** 2).sum(axis=2)
        i, j = divmod(int(distance.argmin()), len(other))
        whole = np.concatenate([whole[: i + 1], other[j:], other[: j + 1], whole[i:]])
    return whole.reshape(-1).tolist()


def split_polygons(points: Polygon) -> tuple[Polygon, ...]:
    """Return the polygons that `join_polygons` joined. A part in the other direction is a hole, and stays joined."""
    corners = list(zip(points[0::2], points[1::2], strict=True))
    positions: dict[tuple[float, float], list[int]] = {}
    for k, corner in enumerate(corners):
        positions.setdefault(corner, []).append(k)
    for k, m in ((k, m) for several in positions.values() for k, m in itertools.combinations(several, 2) if m >= k + 5):
        if corners[k + 1] == corners[m - 1]:
            outer, inner = (
                tuple(v for corner in part for v in corner)
                for part in ([*corners[: k + 1], *corners[m + 1 :]], corners[k + 1 : m - 1])
            )
            if polygon_area(outer) * polygon_area(inner) > 0:
                return (*split_polygons(outer), *split_polygons(inner))
    return (points,)
