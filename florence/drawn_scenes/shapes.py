"""What drawn objects are made of: painted polygons in a square of about −1…1, with y down.

Every object is a function from a random generator to such parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MAIN, DARK, LIGHT, BROWN, GREEN, GOLD, TYRE, GLASS = range(1, 9)
"""Paints. The first three follow the object's colour (only MAIN has the texture); the others are fixed."""
FIXED = {BROWN: (121, 78, 43), GREEN: (62, 134, 58), GOLD: (244, 186, 54), TYRE: (44, 44, 50), GLASS: (205, 228, 240)}

Part = tuple[np.ndarray, int]
"""Corners (n, 2) and paint; later parts cover earlier ones."""


class Shape(NamedTuple):
    """How an object is drawn. ``turns``: which of its poses look different: "all", "tilt" or "none"."""

    draw: Callable[[np.random.Generator], list[Part]]
    turns: str


def polygon(*values: float) -> np.ndarray:
    """Return the corners (n, 2) of x, y, x, y, …."""
    return np.array(values, float).reshape(-1, 2)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the corners (4, 2) of a rectangle."""
    return polygon(x0, y0, x1, y0, x1, y1, x0, y1)


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360, n: int = 22
) -> np.ndarray:
    """Return points (n, 2) of an ellipse, or of its arc from ``start`` to ``stop`` degrees (clockwise on screen)."""
    angle = np.radians(np.linspace(start, stop, n, endpoint=stop - start < 360))
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], axis=1)


def rotate(points: np.ndarray, degrees: float, x: float = 0, y: float = 0) -> np.ndarray:
    """Return ``points`` (n, 2) rotated clockwise about (x, y)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (points - (x, y)) @ np.array([[c, s], [-s, c]]) + (x, y)


def flip(points: np.ndarray) -> np.ndarray:
    """Return ``points`` (n, 2) mirrored about x = 0."""
    return points * (-1, 1)


def mirror(*values: float) -> np.ndarray:
    """Return a polygon symmetric about x = 0, from its right half, given from top to bottom."""
    half = polygon(*values)
    return np.concatenate([half, flip(half)[::-1]])


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between ``low`` and ``high``."""
    return low + (high - low) * rng.random()
