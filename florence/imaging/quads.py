"""Quads of lines that were read, as all readers claim them."""

from __future__ import annotations

import numpy as np

from florence.geometry import Quad, polygon_area
from florence.records import Claim


def upright(corners: np.ndarray, width: int, height: int) -> Quad:
    """Corners (4, 2) clockwise on screen from the one nearest to the top left, inside the image."""
    corners = np.clip(corners, 0, [width, height])
    if polygon_area(corners.reshape(-1).tolist()) < 0:
        corners = corners[::-1]
    corners = np.roll(corners, -int(np.argmin(corners.sum(axis=1))), axis=0)
    ax, ay, bx, by, cx, cy, dx, dy = (float(v) for v in corners.reshape(-1))
    return (ax, ay, bx, by, cx, cy, dx, dy)


def from_the_top(claim: Claim) -> tuple[float, float]:
    """The key that sorts lines as they are read."""
    x0, y0, _, _ = claim.regions[0].bounds
    return y0, x0
