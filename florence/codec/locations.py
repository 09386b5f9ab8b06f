"""Pixels ↔ location tokens. The only module of Florence that rounds a coordinate.

An axis has 1,000 bins. The bin of x in an image of width w is floor(x·1000/w), clamped to 0…999; a bin is read back as
its centre, (b + ½)·w/1000. So a coordinate inside the image returns within half a bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from florence.errors import EncodeError

BINS = 1000
TOKENS: tuple[str, ...] = tuple(f"<loc_{index}>" for index in range(BINS))
"""The location tokens, by bin."""


def quantise(points: Sequence[float], size: tuple[int, int]) -> list[int]:
    """Return the bins of ``points`` (x, y, x, y, … in pixels) in an image of ``size`` (width, height).

    Raises EncodeError where a coordinate is not finite or the size is not positive.
    """
    width, height = size
    if width <= 0 or height <= 0:
        raise EncodeError(f"an image of {width} × {height} pixels has no locations; both sides must be positive")
    try:
        result = [int(float(value) * BINS / (height if odd & 1 else width)) for odd, value in enumerate(points)]
    except (ValueError, OverflowError):
        bad = next((value for value in points if not math.isfinite(value)), max(points, key=abs))
        raise EncodeError(
            f"the coordinate {bad!r} is no location in an image; a finite number of pixels is expected"
        ) from None
    return [0 if index < 0 else BINS - 1 if index >= BINS else index for index in result]


def dequantise(indices: Sequence[int], size: tuple[int, int]) -> tuple[float, ...]:
    """Return the centres, in pixels of an image of ``size`` (width, height), of bins given as x, y, x, y, …"""
    width, height = size
    return tuple((index + 0.5) * (height if odd & 1 else width) / BINS for odd, index in enumerate(indices))


def location_tokens(points: Sequence[float], size: tuple[int, int]) -> str:
    """Return ``points`` (x, y, x, y, … in pixels) as location tokens. Raises EncodeError as `quantise` does."""
    return "".join([TOKENS[index] for index in quantise(points, size)])


def quantise_array(points: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the bins (…, 2k) int64 of points (…, 2k) float; ``sizes``: (…, 2), broadcast against them."""
    points = np.asarray(points, float)
    if not np.isfinite(points).all():
        raise EncodeError("a coordinate is not finite; a finite number of pixels is expected")
    scale = np.tile(np.asarray(sizes, float), points.shape[-1] // 2)
    return np.clip(np.floor(points * BINS / scale), 0, BINS - 1).astype(np.int64)


def dequantise_array(indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the centres (…, 2k) float of bins (…, 2k); ``sizes``: (…, 2), broadcast against them."""
    indices = np.asarray(indices)
    return (indices + 0.5) * np.tile(np.asarray(sizes, float), indices.shape[-1] // 2) / BINS
