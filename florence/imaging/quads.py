"""Quads of OCR lines, in the form in which all readers claim them."""

from __future__ import annotations

import numpy as np

from florence.geometry import Quad, polygon_area
from florence.records import Claim


def order_corners(corners: np.ndarray, width: int, height: int) -> Quad:
    """Return corners (4, 2), clipped to the image, clockwise on screen from the one nearest to the top left."""
    corners = np.clip(corners, 0, [width, height])
    if polygon_area(corners.reshape(-1).tolist()) < 0:
        corners = corners[::-1]
    corners = np.roll(corners, -int(np.argmin(corners.sum(axis=1))), axis=0)
    ax, ay, bx, by, cx, cy, dx, dy = (float(v) for v in corners.reshape(-1))
    return (ax, ay, bx, by, cx, cy, dx, dy)


def reading_order(claim: Claim) -> tuple[float, float]:
    """Return the key that sorts OCR lines from the top down, then from the left."""
    x0, y0, _, _ = claim.regions[0].bounds
    return y0, x0
