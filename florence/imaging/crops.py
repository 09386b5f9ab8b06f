"""Cut crops out of pictures, and make the images that processors of hub models take."""

from __future__ import annotations

import numpy as np
from PIL import Image

from florence.geometry import Box

MAX_ASPECT_RATIO = 8.0
"""Aspect ratio above which a picture is squeezed: processors that scale the shorter side make gigabytes of a strip."""


def crop_box(pixels: np.ndarray, box: Box, margin: float) -> np.ndarray:
    """Return the part (h, w, 3) of a picture (H, W, 3) that a box (pixels) covers; never empty.

    ``margin``: share of the box's sides that is added on each side, as far as the picture reaches.
    """
    height, width = pixels.shape[:2]
    dx, dy = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    left, top = (min(max(int(np.floor(v)), 0), side - 1) for v, side in ((box[0] - dx, width), (box[1] - dy, height)))
    right, bottom = (
        min(max(int(np.ceil(v)), first + 1), side)
        for v, first, side in ((box[2] + dx, left, width), (box[3] + dy, top, height))
    )
    return pixels[top:bottom, left:right]


def pillow_image(pixels: np.ndarray) -> Image.Image:
    """Return pixels (H, W, 3), uint8, as a Pillow image with an aspect ratio of at most `MAX_ASPECT_RATIO`.

    Processors guess which axis of an array holds the channels; of a Pillow image they know it.
    """
    height, width = pixels.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(height, width) <= MAX_ASPECT_RATIO * min(height, width):
        return image
    longest = MAX_ASPECT_RATIO
    return image.resize(
        (width, max(1, round(width / longest))) if width > height else (max(1, round(height / longest)), height)
    )
