"""The drawn objects: every name is a function from a random generator to painted polygons in a square of about −1…1, y down."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MAIN, DARK, LIGHT, BROWN, GREEN, GOLD, TYRE, GLASS = range(1, 9)
"""Paints. The first three follow the object's colour (only MAIN takes the texture); the rest are fixed."""
FIXED = {BROWN: (121, 78, 43), GREEN: (62, 134, 58), GOLD: (244, 186, 54), TYRE: (44, 44, 50), GLASS: (205, 228, 240)}

Part = tuple[np.ndarray, int]
"""Corners (n, 2) and paint; later parts cover earlier ones."""


class Shape(NamedTuple):
    """How a name is drawn. ``turns``: which poses can be told apart by eye: "all", "tilt" or "none"."""

    draw: Callable[[np.random.Generator], list[Part]]
    turns: str


def _p(*values: float) -> np.ndarray:
    return np.array(values, float).reshape(-1, 2)


def _r(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return _p(x0, y0, x1, y0, x1, y1, x0, y1)


def _e(
    x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360, n: int = 22
) -> np.ndarray:
    """An ellipse, or a sector of its edge from ``start`` to ``stop`` degrees (clockwise on screen)."""
    angle = np.radians(np.linspace(start, stop, n, endpoint=stop - start < 360))
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], axis=1)


def _turn(points: np.ndarray, degrees: float, x: float = 0, y: float = 0) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (points - (x, y)) @ np.array([[c, s], [-s, c]]) + (x, y)


def _flip(points: np.ndarray) -> np.ndarray:
    return points * (-1, 1)


def _mirror(*values: float) -> np.ndarray:
    """A polygon symmetric about x = 0 from its right half, given from top to bottom."""
    half = _p(*values)
    return np.concatenate([half, _flip(half)[::-1]])


def _u(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _burst(points: int, inner: float) -> np.ndarray:
    angle = np.radians(np.arange(points * 2) * 180 / points - 90)
    radius = np.where(np.arange(points * 2) % 2, inner, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _star(rng: np.random.Generator) -> list[Part]:
    return [(_burst(5, _u(rng, 0.38, 0.52)), MAIN)]


def _heart(rng: np.random.Generator) -> list[Part]:
    t = np.radians(np.arange(0, 360, 12))
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(np.stack([np.sin(t) ** 3, -y / _u(rng, 15, 18)], axis=1), MAIN)]


def _moon(rng: np.random.Generator) -> list[Part]:
    half, centre = _u(rng, 45, 60), _u(rng, 0.45, 0.7)
    tip = np.radians(half)
    x, y = np.cos(tip), np.sin(tip)
    inner = np.degrees(np.arctan2(y, x - centre))
    back = _e(centre, 0, float(np.hypot(x - centre, y)), None, inner, 360 - inner, 16)
    return [(np.concatenate([_e(0, 0, 1, None, half, 360 - half, 22), back[::-1]]), MAIN)]


def _house(rng: np.random.Generator) -> list[Part]:
    w, roof, door = _u(rng, 0.65, 0.85), _u(rng, -0.2, 0.05), _u(rng, -0.4, 0.15)
    return [
        (_r(0.35, -0.85, 0.6, 0), DARK),
        (_r(-w, roof, w, 1), MAIN),
        (_p(-1, roof, 0, -1, 1, roof), DARK),
        (_r(door, 0.4, door + 0.34, 1), BROWN),
        (_r(door - 0.22, roof + 0.14, door - 0.02, roof + 0.36), GLASS),
    ]


def _tree(rng: np.random.Generator) -> list[Part]:
    w, mid = _u(rng, 0.7, 0.9), _u(rng, -0.15, 0.05)
    return [
        (_r(-0.14, 0.5, 0.14, 1), BROWN),
        (_p(-w, 0.62, 0, -0.3, w, 0.62), MAIN),
        (_p(-w * 0.8, mid + 0.12, 0, -0.7, w * 0.8, mid + 0.12), MAIN),
        (_p(-w * 0.55, -0.4, 0, -1, w * 0.55, -0.4), MAIN),
    ]


def _car(rng: np.random.Generator) -> list[Part]:
    top, nose = _u(rng, -0.6, -0.45), _u(rng, 0.4, 0.55)
    return [
        (_p(-0.6, 0, -0.42, top, 0.3, top, nose, 0), DARK),
        (_p(-0.46, -0.04, -0.33, top + 0.12, -0.07, top + 0.12, -0.07, -0.04), GLASS),
        (_p(0.03, -0.04, 0.03, top + 0.12, 0.24, top + 0.12, nose - 0.12, -0.04), GLASS),
        (_p(-1, 0.05, -0.9, -0.05, 0.6, -0.05, 0.95, 0.08, 1, 0.4, -1, 0.4), MAIN),
        (_e(-0.55, 0.4, 0.22), TYRE),
        (_e(0.55, 0.4, 0.22), TYRE),
    ]


def _boat(rng: np.random.Generator) -> list[Part]:
    tip, side = _u(rng, 0.55, 0.75), _u(rng, 0.6, 0.85)
    return [
        (_r(-0.06, -1, 0.06, 0.45), BROWN),
        (_p(0.08, -0.95, side, 0.25, 0.08, 0.25), LIGHT),
        (_p(-0.08, -0.7, -0.08, 0.25, -0.55, 0.25), DARK),
        (_p(-1, 0.4, 1, 0.4, tip, 0.95, -tip, 0.95), MAIN),
    ]


def _fish(rng: np.random.Generator) -> list[Part]:
    h, tail = _u(rng, 0.42, 0.58), _u(rng, 0.4, 0.55)
    return [
        (_p(-0.35, -h * 0.7, 0.1, -h - 0.25, 0.35, -h * 0.6), DARK),
        (_p(0.4, 0, 1, -tail, 0.85, 0, 1, tail), DARK),
        (_e(-0.2, 0, 0.78, h), MAIN),
        (_e(-0.62, -0.12, 0.1), LIGHT),
        (_e(-0.64, -0.12, 0.05, n=8), TYRE),
    ]


def _bird(rng: np.random.Generator) -> list[Part]:
    wing = _u(rng, -25, 10)
    return [
        (_p(0.35, 0.05, 1, -0.25, 0.95, 0.15, 0.4, 0.4), DARK),
        (_p(-0.85, -0.5, -1.0 - 0.15, -0.32, -0.8, -0.25), GOLD),
        (_r(-0.12, 0.5, -0.04, 0.9), GOLD),
        (_r(0.12, 0.5, 0.2, 0.9), GOLD),
        (_turn(_e(0, 0.15, 0.68, 0.45), 12), MAIN),
        (_e(-0.55, -0.38, 0.36), MAIN),
        (_turn(_p(-0.3, 0.0, 0.5, -0.1, 0.65, 0.2, 0.1, 0.38), wing), DARK),
        (_e(-0.66, -0.44, 0.08, n=10), TYRE),
    ]


def _cat(rng: np.random.Generator) -> list[Part]:
    ear, w = _u(rng, -1, -0.85), _u(rng, 0.85, 0.98)
    left = _p(-w + 0.04, 0.0, -0.8, ear, -0.2, -0.55)
    return [
        (left, MAIN),
        (_flip(left), MAIN),
        (_e(0, 0.15, w, 0.75), MAIN),
        (_e(-0.38, 0.05, 0.17, 0.2, n=12), GOLD),
        (_e(0.38, 0.05, 0.17, 0.2, n=12), GOLD),
        (_e(-0.38, 0.05, 0.06, 0.17, n=8), TYRE),
        (_e(0.38, 0.05, 0.06, 0.17, n=8), TYRE),
        (_p(-0.12, 0.38, 0.12, 0.38, 0, 0.52), DARK),
    ]


def _flower(rng: np.random.Generator) -> list[Part]:
    petals = 5 + int(rng.integers(2))
    parts: list[Part] = [(_r(-0.07, 0, 0.07, 1), GREEN), (_turn(_e(0.32, 0.75, 0.3, 0.12), -25, 0.1, 0.8), GREEN)]
    for k in range(petals):
        parts.append((_turn(_e(0, -0.72, 0.25, 0.32, n=14), k * 360 / petals, 0, -0.35), MAIN))
    return [*parts, (_e(0, -0.35, 0.22), GOLD)]


def _mushroom(rng: np.random.Generator) -> list[Part]:
    w, base = _u(rng, 0.24, 0.34), _u(rng, 0.32, 0.45)
    stem = _mirror(w, 0, w * 0.9, 0.6, base, 1)
    return [(stem, LIGHT), (_e(0, 0.1, 1, _u(rng, 0.9, 1.1), 180, 360, 20), MAIN)]


def _cup(rng: np.random.Generator) -> list[Part]:
    foot, h = _u(rng, 0.4, 0.6), _u(rng, 0.6, 0.75)
    return [
        (_e(0.55, -0.02, 0.45, 0.42, -90, 90, 14), DARK),
        (_e(0.5, -0.02, 0.28, 0.22, -90, 90, 10), LIGHT),
        (_mirror(0.68, -h, foot, h) - (0.15, 0), MAIN),
        (_e(-0.15, -h, 0.68, 0.13), LIGHT),
    ]


def _bottle(rng: np.random.Generator) -> list[Part]:
    w, shoulder = _u(rng, 0.32, 0.42), _u(rng, -0.35, -0.1)
    return [
        (_mirror(0.13, -0.85, 0.13, shoulder - 0.2, w, shoulder + 0.1, w, 1), MAIN),
        (_r(-0.17, -1, 0.17, -0.78), DARK),
        (_r(-w, 0.2, w, 0.62), LIGHT),
    ]


def _lamp(rng: np.random.Generator) -> list[Part]:
    top, bottom = _u(rng, 0.25, 0.4), _u(rng, 0.65, 0.8)
    return [
        (_r(-0.08, -0.2, 0.08, 0.9), BROWN),
        (_e(0, 0.95, 0.5, 0.35, 180, 360, 14), DARK),
        (_mirror(top, -1, bottom, 0), MAIN),
    ]


def _umbrella(rng: np.random.Generator) -> list[Part]:
    edge, drop = np.linspace(1, -1, 13), _u(rng, 0.08, 0.16)
    scallop = np.stack([edge, 0.0 - drop * np.abs(np.sin(np.linspace(0, 4 * np.pi, 13)))], axis=1)
    canopy = np.concatenate([_e(0, 0, 1, _u(rng, 0.8, 0.95), 180, 360, 20), scallop])
    return [
        (_r(-0.06, -0.2, 0.06, 0.95), BROWN),
        (_p(-0.06, 0.95, -0.06, 0.78, -0.2, 0.78, -0.2, 0.65, -0.32, 0.65, -0.32, 0.95), BROWN),
        (canopy, MAIN),
    ]


def _kite(rng: np.random.Generator) -> list[Part]:
    w, waist = _u(rng, 0.5, 0.68), _u(rng, -0.5, -0.3)
    tail = _p(-0.05, 0.3, 0.2, 0.5, 0.0, 0.68, 0.2, 0.95, 0.08, 1, -0.16, 0.68, 0.05, 0.5, -0.15, 0.35)
    return [
        (tail, DARK),
        (_p(0, -1, w, waist, 0, 0.42, -w, waist), MAIN),
        (_p(0, -1, w, waist, 0, waist), LIGHT),
        (_p(0, 0.42, -w, waist, 0, waist), DARK),
    ]


def _cross(rng: np.random.Generator) -> list[Part]:
    a = _u(rng, 0.26, 0.38)
    return [(_p(-a, -1, a, -1, a, -a, 1, -a, 1, a, a, a, a, 1, -a, 1, -a, a, -1, a, -1, -a, -a, -a), MAIN)]


def _crown(rng: np.random.Generator) -> list[Part]:
    dip, mid = _u(rng, -0.1, 0.15), _u(rng, -0.85, -0.65)
    points = _p(-0.85, 0.7, -1, -0.55, -0.45, dip, 0, mid, 0.45, dip, 1, -0.55, 0.85, 0.7)
    return [
        (points, MAIN),
        (_r(-0.85, 0.45, 0.85, 0.75), DARK),
        (_e(0, mid, 0.12, n=10), GOLD),
        (_e(-0.98, -0.55, 0.11, n=10), GOLD),
        (_e(0.98, -0.55, 0.11, n=10), GOLD),
    ]


def _rocket(rng: np.random.Generator) -> list[Part]:
    w, fin = _u(rng, 0.28, 0.36), _u(rng, 0.6, 0.75)
    left = _p(-w, 0.1, -fin, 0.7, -w, 0.6)
    return [
        (_p(-0.2, 0.6, 0, 1, 0.2, 0.6), GOLD),
        (left, DARK),
        (_flip(left), DARK),
        (_mirror(0, -1, w * 0.7, -0.6, w, -0.2, w, 0.62), MAIN),
        (_mirror(0, -1, w * 0.7, -0.6), DARK),
        (_e(0, -0.2, 0.16, n=12), GLASS),
    ]


def _butterfly(rng: np.random.Generator) -> list[Part]:
    up, down = (
        _turn(_e(-0.5, -0.35, 0.52, 0.4), _u(rng, 15, 40), -0.5, -0.35),
        _turn(_e(-0.4, 0.42, 0.36, 0.32), _u(rng, -30, 0), -0.4, 0.42),
    )
    return [(down, DARK), (_flip(down), DARK), (up, MAIN), (_flip(up), MAIN), (_e(0, 0.05, 0.1, 0.7, n=14), TYRE)]


def _leaf(rng: np.random.Generator) -> list[Part]:
    w = _u(rng, 0.42, 0.6)
    return [
        (_r(-0.05, 0.5, 0.05, 1), BROWN),
        (_mirror(0, -1, w * 0.6, -0.6, w, -0.05, w * 0.75, 0.4, 0, 0.75), MAIN),
        (_p(-0.035, -0.7, 0.035, -0.7, 0.05, 0.7, -0.05, 0.7), DARK),
    ]


def _bell(rng: np.random.Generator) -> list[Part]:
    w, lip = _u(rng, 0.42, 0.55), _u(rng, 0.8, 0.95)
    return [
        (_e(0, 0.75, 0.2, n=14), DARK),
        (_e(0, -0.85, 0.15, n=12), DARK),
        (_mirror(0.15, -0.8, w * 0.8, -0.6, w, -0.1, w + 0.08, 0.35, lip, 0.7), MAIN),
        (_r(-lip, 0.58, lip, 0.74), LIGHT),
    ]


def _ball(rng: np.random.Generator) -> list[Part]:
    turn = _u(rng, 0, 360)
    band = np.concatenate([_e(0, 0, 0.97, None, 60, 120, 10), _e(0, 1.6, 1.35, None, 292, 248, 10)])
    return [(_e(0, 0, 1, n=30), MAIN), (_turn(band, turn), LIGHT), (_turn(band, turn + 180), LIGHT)]


def _tent(rng: np.random.Generator) -> list[Part]:
    door = _u(rng, 0.2, 0.35)
    return [
        (_p(-0.08, -0.75, 0.08, -0.75, 1, 0.75, -1, 0.75), MAIN),
        (_p(0, -0.3, door, 0.75, -door, 0.75), DARK),
        (_r(-0.03, -1, 0.03, -0.65), BROWN),
    ]


def _pencil(rng: np.random.Generator) -> list[Part]:
    w = _u(rng, 0.16, 0.24)
    return [
        (_r(-w, -1, w, -0.75), DARK),
        (_r(-w, -0.78, w, 0.5), MAIN),
        (_p(-w, 0.5, w, 0.5, 0, 1), LIGHT),
        (_p(-w * 0.4, 0.8, w * 0.4, 0.8, 0, 1), TYRE),
    ]


def _hammer(rng: np.random.Generator) -> list[Part]:
    left, w = _u(rng, -0.7, -0.5), _u(rng, 0.1, 0.15)
    return [(_r(-w, -0.6, w, 1), BROWN), (_p(left, -1, 0.4, -1, 0.85, -0.7, 0.4, -0.5, left, -0.45), MAIN)]


def _spoon(rng: np.random.Generator) -> list[Part]:
    w = _u(rng, 0.3, 0.4)
    return [
        (_mirror(0.07, -0.4, 0.14, 1), DARK),
        (_e(0, -0.55, w, 0.46), MAIN),
        (_e(0, -0.55, w * 0.6, 0.3, n=14), LIGHT),
    ]


def _anchor(rng: np.random.Generator) -> list[Part]:
    w, bar = _u(rng, 0.8, 0.95), _u(rng, 0.4, 0.55)
    arc = np.concatenate([_e(0, 0.2, w, 0.8, 0, 180, 16), _e(0, 0.2, w - 0.26, 0.48, 180, 0, 16)])
    return [
        (arc, MAIN),
        (_r(-0.13, -0.7, 0.13, 0.9), MAIN),
        (_r(-bar, -0.55, bar, -0.32), DARK),
        (_e(0, -0.82, 0.2, n=12), DARK),
    ]


def _bone(rng: np.random.Generator) -> list[Part]:
    r, h = _u(rng, 0.24, 0.32), _u(rng, 0.14, 0.2)
    ends: list[Part] = [(_e(x, y, r, n=14), MAIN) for x in (-0.74, 0.74) for y in (-0.2, 0.2)]
    return [*ends, (_r(-0.72, -h, 0.72, h), MAIN)]


def _sock(rng: np.random.Generator) -> list[Part]:
    toe = _u(rng, 0.75, 1)
    return [
        (_p(-0.6, -0.7, 0, -0.7, 0.05, 0.25, toe, 0.45, toe, 0.85, 0.7, 1, -0.35, 0.95, -0.6, 0.55), MAIN),
        (_r(-0.65, -1, 0.05, -0.62), DARK),
        (_p(0.6, 0.4, toe, 0.48, toe, 0.85, 0.7, 1, 0.5, 0.97), DARK),
    ]


def _shirt(rng: np.random.Generator) -> list[Part]:
    hem, cuff = _u(rng, 0.5, 0.62), _u(rng, -0.05, 0.15)
    return [
        (_mirror(0.25, -0.9, 1, -0.5, 0.8, cuff, hem, -0.2, hem, 0.95), MAIN),
        (_e(0, -0.9, 0.26, 0.24, 0, 180, 10), DARK),
    ]


def _rabbit(rng: np.random.Generator) -> list[Part]:
    lean = _u(rng, 8, 22)
    ear, inner = (
        _turn(_e(-0.3, -0.5, 0.16, 0.5), -lean, -0.3, 0),
        _turn(_e(-0.3, -0.5, 0.08, 0.34, n=12), -lean, -0.3, 0),
    )
    return [
        (ear, MAIN),
        (_flip(ear), MAIN),
        (inner, LIGHT),
        (_flip(inner), LIGHT),
        (_e(0, 0.42, 0.62, 0.56), MAIN),
        (_e(-0.24, 0.3, 0.09, n=10), TYRE),
        (_e(0.24, 0.3, 0.09, n=10), TYRE),
        (_r(-0.12, 0.66, 0.12, 0.86), LIGHT),
    ]


def _duck(rng: np.random.Generator) -> list[Part]:
    w = _u(rng, 0.72, 0.85)
    body = np.concatenate([_e(0.08, 0.4, w, 0.52, 0, 180, 14), _p(-w + 0.3, 0.1, 0.3, 0.15, 0.98, -0.15)])
    return [
        (_p(-0.7, -0.55, -1.1, -0.4, -0.68, -0.28), GOLD),
        (body, MAIN),
        (_e(-0.42, -0.42, 0.42), MAIN),
        (_e(0.2, 0.42, 0.36, 0.22), DARK),
        (_e(-0.52, -0.5, 0.08, n=10), TYRE),
    ]


def _whale(rng: np.random.Generator) -> list[Part]:
    h = _u(rng, 0.6, 0.75)
    body = np.concatenate(
        [
            _e(-0.25, 0.3, 0.72, h, 180, 300, 12),
            _p(0.5, 0.2, 0.78, -0.25),
            _p(0.95, 0.3),
            _e(-0.1, 0.3, 0.95, 0.42, 20, 180, 12),
        ]
    )
    return [
        (_p(0.8, -0.1, 0.45, -0.5, 0.8, -0.4, 1.1, -0.6, 0.95, -0.1), DARK),
        (body, MAIN),
        (_e(-0.65, 0.2, 0.08, n=10), TYRE),
        (_p(-0.2, 0.4, 0.2, 0.45, -0.1, 0.68), DARK),
    ]


def _turtle(rng: np.random.Generator) -> list[Part]:
    h = _u(rng, 0.7, 0.9)
    return [
        (_e(-0.85, 0.22, 0.24, 0.2, n=14), GREEN),
        (_r(-0.55, 0.3, -0.25, 0.62), GREEN),
        (_r(0.25, 0.3, 0.55, 0.62), GREEN),
        (_p(0.6, 0.2, 1, 0.42, 0.6, 0.42), GREEN),
        (_e(0, 0.35, 0.75, h, 180, 360, 20), MAIN),
        (_r(-0.75, 0.28, 0.75, 0.42), DARK),
        (_e(-0.92, 0.18, 0.05, n=8), TYRE),
    ]


def _pear(rng: np.random.Generator) -> list[Part]:
    neck = _u(rng, 0.24, 0.36)
    return [
        (_r(-0.05, -1, 0.05, -0.6), BROWN),
        (_turn(_e(0.26, -0.82, 0.24, 0.1, n=12), -20, 0, -0.8), GREEN),
        (_mirror(0.1, -0.78, neck, -0.55, neck + 0.08, -0.1, 0.66, 0.3, 0.62, 0.75, 0.3, 1), MAIN),
    ]


def _carrot(rng: np.random.Generator) -> list[Part]:
    w = _u(rng, 0.28, 0.38)
    return [
        (_p(-0.05, -0.5, -0.4, -0.95, -0.12, -0.8, 0, -1, 0.12, -0.8, 0.4, -0.95, 0.05, -0.5), GREEN),
        (_mirror(w * 0.7, -0.58, w, -0.42, w * 0.7, 0.2, 0, 1), MAIN),
        (_r(-w * 0.75, -0.15, -0.02, -0.07), DARK),
        (_r(0.02, 0.2, w * 0.6, 0.28), DARK),
    ]


def _cactus(rng: np.random.Generator) -> list[Part]:
    left, right = _u(rng, -0.4, -0.1), _u(rng, -0.5, -0.2)
    return [
        (_mirror(0.4, 0.6, 0.28, 1), BROWN),
        (_p(-0.2, 0.3, -0.75, 0.3, -0.75, left, -0.5, left, -0.5, 0.08, -0.2, 0.08), MAIN),
        (_p(0.2, 0.2, 0.75, 0.2, 0.75, right, 0.5, right, 0.5, 0, 0.2, 0), MAIN),
        (_mirror(0.1, -1, 0.24, -0.85, 0.24, 0.62), MAIN),
    ]


def _castle(rng: np.random.Generator) -> list[Part]:
    wall, tower = _u(rng, -0.3, -0.1), _u(rng, -0.7, -0.5)
    left = _p(
        -1, 0.85, -1, tower, -0.85, tower, -0.85, tower + 0.15, -0.7, tower + 0.15, -0.7, tower, -0.5, tower, -0.5, 0.85
    )
    return [
        (_r(-0.6, wall, 0.6, 0.85), MAIN),
        (left, MAIN),
        (_flip(left), MAIN),
        (_p(-0.28, wall, 0, -0.95, 0.28, wall), DARK),
        (np.concatenate([_e(0, 0.4, 0.22, 0.25, 180, 360, 10), _p(0.22, 0.85, -0.22, 0.85)]), BROWN),
    ]


def _truck(rng: np.random.Generator) -> list[Part]:
    top, cab = _u(rng, -0.75, -0.55), _u(rng, -0.3, -0.1)
    return [
        (_r(-1, top, 0.35, 0.4), MAIN),
        (_p(0.4, cab, 0.75, cab, 1, 0.1, 1, 0.42, 0.4, 0.42), DARK),
        (_p(0.5, cab + 0.1, 0.7, cab + 0.1, 0.86, 0.1, 0.5, 0.1), GLASS),
        (_e(-0.65, 0.45, 0.2, n=16), TYRE),
        (_e(-0.2, 0.45, 0.2, n=16), TYRE),
        (_e(0.7, 0.45, 0.2, n=16), TYRE),
    ]


def _plane(rng: np.random.Generator) -> list[Part]:
    sweep = _u(rng, 0.2, 0.45)
    return [
        (_mirror(0.1, -0.3, 1, sweep, 1, sweep + 0.2, 0.1, 0.2), DARK),
        (_mirror(0.08, 0.55, 0.42, 0.85, 0.42, 1, 0.08, 0.85), DARK),
        (_mirror(0, -1, 0.14, -0.75, 0.15, 0.3, 0.06, 0.98), MAIN),
    ]


def _gear(rng: np.random.Generator) -> list[Part]:
    teeth = 7 + int(rng.integers(3))
    angle = np.radians(np.arange(teeth * 4) * 90 / teeth)
    radius = np.tile([1.0, 1.0, 0.72, 0.72], teeth)
    return [(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), MAIN), (_e(0, 0, 0.28, n=16), DARK)]


def _bolt(rng: np.random.Generator) -> list[Part]:
    w = _u(rng, 0.05, 0.15)
    return [(_p(0.05, -1, 0.5, -1, 0.15 + w, -0.2, 0.55, -0.2, -0.3, 1, -0.02 - w, 0.12, -0.45, 0.12), MAIN)]


def _hourglass(rng: np.random.Generator) -> list[Part]:
    w = _u(rng, 0.55, 0.68)
    return [
        (_mirror(w, -0.8, 0.09, 0, w, 0.8), MAIN),
        (_r(-w - 0.1, -1, w + 0.1, -0.76), DARK),
        (_r(-w - 0.1, 0.76, w + 0.1, 1), BROWN),
        (_p(-w * 0.7, 0.76, 0, 0.35, w * 0.7, 0.76), GOLD),
    ]


def _trophy(rng: np.random.Generator) -> list[Part]:
    w = _u(rng, 0.45, 0.55)
    handle = _e(-w, -0.5, 0.4, 0.34, 90, 270, 12)
    return [
        (handle, DARK),
        (_flip(handle), DARK),
        (_r(-0.1, 0.1, 0.1, 0.75), DARK),
        (_r(-0.45, 0.7, 0.45, 1), BROWN),
        (np.concatenate([_p(-w, -1, w, -1), _e(0, -0.4, w, 0.65, 0, 180, 12)]), MAIN),
    ]


def _vase(rng: np.random.Generator) -> list[Part]:
    belly, neck = _u(rng, 0.6, 0.75), _u(rng, 0.2, 0.3)
    return [
        (_mirror(0.42, -1, neck, -0.65, neck + 0.06, -0.4, belly, 0.1, belly * 0.8, 0.6, 0.36, 1), MAIN),
        (_r(-belly * 0.94, 0.12, belly * 0.94, 0.3), LIGHT),
    ]


def _egg(rng: np.random.Generator) -> list[Part]:
    t = np.radians(np.arange(0, 360, 14))
    return [(np.stack([_u(rng, 0.68, 0.78) * np.sin(t) * (1 - 0.22 * np.cos(t)), -np.cos(t)], axis=1), MAIN)]


MAIN_SHAPES: dict[str, Shape] = {
    "star": Shape(_star, "none"),
    "heart": Shape(_heart, "all"),
    "moon": Shape(_moon, "tilt"),
    "house": Shape(_house, "all"),
    "tree": Shape(_tree, "all"),
    "car": Shape(_car, "all"),
    "boat": Shape(_boat, "all"),
    "fish": Shape(_fish, "all"),
    "bird": Shape(_bird, "all"),
    "cat": Shape(_cat, "all"),
    "flower": Shape(_flower, "all"),
    "mushroom": Shape(_mushroom, "all"),
    "cup": Shape(_cup, "all"),
    "bottle": Shape(_bottle, "all"),
    "lamp": Shape(_lamp, "all"),
    "umbrella": Shape(_umbrella, "all"),
    "kite": Shape(_kite, "all"),
    "cross": Shape(_cross, "tilt"),
    "crown": Shape(_crown, "all"),
    "rocket": Shape(_rocket, "all"),
    "butterfly": Shape(_butterfly, "all"),
    "leaf": Shape(_leaf, "all"),
    "bell": Shape(_bell, "all"),
    "ball": Shape(_ball, "none"),
}
PRETRAIN_SHAPES: dict[str, Shape] = {
    "tent": Shape(_tent, "all"),
    "pencil": Shape(_pencil, "all"),
    "hammer": Shape(_hammer, "all"),
    "spoon": Shape(_spoon, "all"),
    "anchor": Shape(_anchor, "all"),
    "bone": Shape(_bone, "tilt"),
    "sock": Shape(_sock, "all"),
    "shirt": Shape(_shirt, "all"),
    "rabbit": Shape(_rabbit, "all"),
    "duck": Shape(_duck, "all"),
    "whale": Shape(_whale, "all"),
    "turtle": Shape(_turtle, "all"),
    "pear": Shape(_pear, "all"),
    "carrot": Shape(_carrot, "all"),
    "cactus": Shape(_cactus, "all"),
    "castle": Shape(_castle, "all"),
    "truck": Shape(_truck, "all"),
    "plane": Shape(_plane, "all"),
    "gear": Shape(_gear, "none"),
    "bolt": Shape(_bolt, "tilt"),
    "hourglass": Shape(_hourglass, "tilt"),
    "trophy": Shape(_trophy, "all"),
    "vase": Shape(_vase, "all"),
    "egg": Shape(_egg, "tilt"),
}
ROUND = frozenset({"ball", "gear"})
"""What rolls when it touches the ground."""
