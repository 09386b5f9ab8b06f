"""Parts of pictures, and pictures as the processors of hub models take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from florence.geometry import Box

LONGEST = 8.0
"""Proportions from which a picture is squeezed: processors that scale the shorter side make gigabytes out of a strip."""


def crop(pixels: np.ndarray, box: Box, margin: float) -> np.ndarray:
    """The part (h, w, 3) of a picture (H, W, 3) that a box (pixels) covers, with ``margin`` × its sides around it where the picture has that much; never empty."""
    height, width = pixels.shape[:2]
    dx, dy = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    left, top = (min(max(int(np.floor(v)), 0), side - 1) for v, side in ((box[0] - dx, width), (box[1] - dy, height)))
    right, bottom = (
        min(max(int(np.ceil(v)), first + 1), side)
        for v, first, side in ((box[2] + dx, left, width), (box[3] + dy, top, height))
    )
    return pixels[top:bottom, left:right]


def picture(pixels: np.ndarray) -> Any:
    """Pixels (H, W, 3), uint8, as an image of Pillow, which cannot be taken for one with its colours first, in proportions of at most `LONGEST`."""
    from PIL import Image

    height, width = pixels.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(height, width) <= LONGEST * min(height, width):
        return image
    return image.resize(
        (width, max(1, round(width / LONGEST))) if width > height else (max(1, round(height / LONGEST)), height)
    )
