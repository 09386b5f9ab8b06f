"""Name the colors of pixels, in the eleven basic color terms of English."""

from __future__ import annotations

import numpy as np

COLOURS = ("black", "gray", "white", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")


def colour_shares(pixels: np.ndarray) -> dict[str, float]:
    """Return the share of pixels (…, 3), uint8, RGB, that have each of `COLOURS`, the largest first; the sum is 1."""
    counts = np.bincount(_colour_indices(pixels.reshape(-1, 3)), minlength=len(COLOURS)) / max(pixels.size // 3, 1)
    order = sorted(range(len(COLOURS)), key=lambda i: (-counts[i], i))
    return {COLOURS[i]: float(counts[i]) for i in order if counts[i] > 0}


def _colour_indices(rgb: np.ndarray) -> np.ndarray:
    """Return the index (n,) in `COLOURS` of each pixel (n, 3), by thresholds of hue, saturation and value (HSV)."""
    value = rgb.max(axis=1) / 255.0
    chroma = value - rgb.min(axis=1) / 255.0
    saturation = chroma / np.maximum(value, 1e-6)
    hue = _hue(rgb / 255.0, value, np.maximum(chroma, 1e-6))
    warm = (hue < 48) | (hue >= 345)
    pale, dim = saturation < 0.55, value < 0.7
    neutral = np.where(value > 0.78, 2, np.where(value < 0.25, 0, 1))
    tinted = np.select(
        [(hue < 14) | (hue >= 345), hue < 48, hue < 70, hue < 165, hue < 262, hue < 310],
        [
            np.where(pale & ~dim, 10, np.where(pale, 5, 3)),
            np.where(pale | dim, 5, 4),
            np.where(value < 0.4, 5, 6),
            7,
            8,
            9,
        ],
        10,
    )
    # Warm light tints everything a little: a warm hue needs more saturation to be named as a color.
    grey = (saturation < np.where(warm, 0.2, 0.14)) | (chroma < 0.06)
    return np.where(value < 0.14, 0, np.where(grey, neutral, tinted)).astype(int)


def _hue(rgb: np.ndarray, value: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Return the hue (n,) in degrees."""
    red, green, blue = rgb.T
    sector = np.where(
        value == red,
        (green - blue) / chroma,
        np.where(value == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )
    return sector * 60 % 360
