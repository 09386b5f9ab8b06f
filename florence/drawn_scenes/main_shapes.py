"""The drawn objects of the main vocabulary."""

from __future__ import annotations

import numpy as np

from florence.drawn_scenes.shapes import (
    BROWN,
    DARK,
    GLASS,
    GOLD,
    GREEN,
    LIGHT,
    MAIN,
    TYRE,
    Part,
    Shape,
    ellipse,
    flip,
    mirror,
    polygon,
    rectangle,
    rotate,
    uniform,
)


def _star_corners(points: int, inner: float) -> np.ndarray:
    angle = np.radians(np.arange(points * 2) * 180 / points - 90)
    radius = np.where(np.arange(points * 2) % 2, inner, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _star(rng: np.random.Generator) -> list[Part]:
    return [(_star_corners(5, uniform(rng, 0.38, 0.52)), MAIN)]


def _heart(rng: np.random.Generator) -> list[Part]:
    t = np.radians(np.arange(0, 360, 12))
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(np.stack([np.sin(t) ** 3, -y / uniform(rng, 15, 18)], axis=1), MAIN)]


def _moon(rng: np.random.Generator) -> list[Part]:
    half, centre = uniform(rng, 45, 60), uniform(rng, 0.45, 0.7)
    tip = np.radians(half)
    x, y = np.cos(tip), np.sin(tip)
    inner = np.degrees(np.arctan2(y, x - centre))
    back = ellipse(centre, 0, float(np.hypot(x - centre, y)), None, inner, 360 - inner, 16)
    return [(np.concatenate([ellipse(0, 0, 1, None, half, 360 - half, 22), back[::-1]]), MAIN)]


def _house(rng: np.random.Generator) -> list[Part]:
    w, roof, door = uniform(rng, 0.65, 0.85), uniform(rng, -0.2, 0.05), uniform(rng, -0.4, 0.15)
    return [
        (rectangle(0.35, -0.85, 0.6, 0), DARK),
        (rectangle(-w, roof, w, 1), MAIN),
        (polygon(-1, roof, 0, -1, 1, roof), DARK),
        (rectangle(door, 0.4, door + 0.34, 1), BROWN),
        (rectangle(door - 0.22, roof + 0.14, door - 0.02, roof + 0.36), GLASS),
    ]


def _tree(rng: np.random.Generator) -> list[Part]:
    w, mid = uniform(rng, 0.7, 0.9), uniform(rng, -0.15, 0.05)
    return [
        (rectangle(-0.14, 0.5, 0.14, 1), BROWN),
        (polygon(-w, 0.62, 0, -0.3, w, 0.62), MAIN),
        (polygon(-w * 0.8, mid + 0.12, 0, -0.7, w * 0.8, mid + 0.12), MAIN),
        (polygon(-w * 0.55, -0.4, 0, -1, w * 0.55, -0.4), MAIN),
    ]


def _car(rng: np.random.Generator) -> list[Part]:
    top, nose = uniform(rng, -0.6, -0.45), uniform(rng, 0.4, 0.55)
    return [
        (polygon(-0.6, 0, -0.42, top, 0.3, top, nose, 0), DARK),
        (polygon(-0.46, -0.04, -0.33, top + 0.12, -0.07, top + 0.12, -0.07, -0.04), GLASS),
        (polygon(0.03, -0.04, 0.03, top + 0.12, 0.24, top + 0.12, nose - 0.12, -0.04), GLASS),
        (polygon(-1, 0.05, -0.9, -0.05, 0.6, -0.05, 0.95, 0.08, 1, 0.4, -1, 0.4), MAIN),
        (ellipse(-0.55, 0.4, 0.22), TYRE),
        (ellipse(0.55, 0.4, 0.22), TYRE),
    ]


def _boat(rng: np.random.Generator) -> list[Part]:
    tip, side = uniform(rng, 0.55, 0.75), uniform(rng, 0.6, 0.85)
    return [
        (rectangle(-0.06, -1, 0.06, 0.45), BROWN),
        (polygon(0.08, -0.95, side, 0.25, 0.08, 0.25), LIGHT),
        (polygon(-0.08, -0.7, -0.08, 0.25, -0.55, 0.25), DARK),
        (polygon(-1, 0.4, 1, 0.4, tip, 0.95, -tip, 0.95), MAIN),
    ]


def _fish(rng: np.random.Generator) -> list[Part]:
    h, tail = uniform(rng, 0.42, 0.58), uniform(rng, 0.4, 0.55)
    return [
        (polygon(-0.35, -h * 0.7, 0.1, -h - 0.25, 0.35, -h * 0.6), DARK),
        (polygon(0.4, 0, 1, -tail, 0.85, 0, 1, tail), DARK),
        (ellipse(-0.2, 0, 0.78, h), MAIN),
        (ellipse(-0.62, -0.12, 0.1), LIGHT),
        (ellipse(-0.64, -0.12, 0.05, n=8), TYRE),
    ]


def _bird(rng: np.random.Generator) -> list[Part]:
    wing = uniform(rng, -25, 10)
    return [
        (polygon(0.35, 0.05, 1, -0.25, 0.95, 0.15, 0.4, 0.4), DARK),
        (polygon(-0.85, -0.5, -1.0 - 0.15, -0.32, -0.8, -0.25), GOLD),
        (rectangle(-0.12, 0.5, -0.04, 0.9), GOLD),
        (rectangle(0.12, 0.5, 0.2, 0.9), GOLD),
        (rotate(ellipse(0, 0.15, 0.68, 0.45), 12), MAIN),
        (ellipse(-0.55, -0.38, 0.36), MAIN),
        (rotate(polygon(-0.3, 0.0, 0.5, -0.1, 0.65, 0.2, 0.1, 0.38), wing), DARK),
        (ellipse(-0.66, -0.44, 0.08, n=10), TYRE),
    ]


def _cat(rng: np.random.Generator) -> list[Part]:
    ear, w = uniform(rng, -1, -0.85), uniform(rng, 0.85, 0.98)
    left = polygon(-w + 0.04, 0.0, -0.8, ear, -0.2, -0.55)
    return [
        (left, MAIN),
        (flip(left), MAIN),
        (ellipse(0, 0.15, w, 0.75), MAIN),
        (ellipse(-0.38, 0.05, 0.17, 0.2, n=12), GOLD),
        (ellipse(0.38, 0.05, 0.17, 0.2, n=12), GOLD),
        (ellipse(-0.38, 0.05, 0.06, 0.17, n=8), TYRE),
        (ellipse(0.38, 0.05, 0.06, 0.17, n=8), TYRE),
        (polygon(-0.12, 0.38, 0.12, 0.38, 0, 0.52), DARK),
    ]


def _flower(rng: np.random.Generator) -> list[Part]:
    petals = 5 + int(rng.integers(2))
    parts: list[Part] = [
        (rectangle(-0.07, 0, 0.07, 1), GREEN),
        (rotate(ellipse(0.32, 0.75, 0.3, 0.12), -25, 0.1, 0.8), GREEN),
    ]
    for k in range(petals):
        parts.append((rotate(ellipse(0, -0.72, 0.25, 0.32, n=14), k * 360 / petals, 0, -0.35), MAIN))
    return [*parts, (ellipse(0, -0.35, 0.22), GOLD)]


def _mushroom(rng: np.random.Generator) -> list[Part]:
    w, base = uniform(rng, 0.24, 0.34), uniform(rng, 0.32, 0.45)
    stem = mirror(w, 0, w * 0.9, 0.6, base, 1)
    return [(stem, LIGHT), (ellipse(0, 0.1, 1, uniform(rng, 0.9, 1.1), 180, 360, 20), MAIN)]


def _cup(rng: np.random.Generator) -> list[Part]:
    foot, h = uniform(rng, 0.4, 0.6), uniform(rng, 0.6, 0.75)
    return [
        (ellipse(0.55, -0.02, 0.45, 0.42, -90, 90, 14), DARK),
        (ellipse(0.5, -0.02, 0.28, 0.22, -90, 90, 10), LIGHT),
        (mirror(0.68, -h, foot, h) - (0.15, 0), MAIN),
        (ellipse(-0.15, -h, 0.68, 0.13), LIGHT),
    ]


def _bottle(rng: np.random.Generator) -> list[Part]:
    w, shoulder = uniform(rng, 0.32, 0.42), uniform(rng, -0.35, -0.1)
    return [
        (mirror(0.13, -0.85, 0.13, shoulder - 0.2, w, shoulder + 0.1, w, 1), MAIN),
        (rectangle(-0.17, -1, 0.17, -0.78), DARK),
        (rectangle(-w, 0.2, w, 0.62), LIGHT),
    ]


def _lamp(rng: np.random.Generator) -> list[Part]:
    top, bottom = uniform(rng, 0.25, 0.4), uniform(rng, 0.65, 0.8)
    return [
        (rectangle(-0.08, -0.2, 0.08, 0.9), BROWN),
        (ellipse(0, 0.95, 0.5, 0.35, 180, 360, 14), DARK),
        (mirror(top, -1, bottom, 0), MAIN),
    ]


def _umbrella(rng: np.random.Generator) -> list[Part]:
    edge, drop = np.linspace(1, -1, 13), uniform(rng, 0.08, 0.16)
    scallop = np.stack([edge, 0.0 - drop * np.abs(np.sin(np.linspace(0, 4 * np.pi, 13)))], axis=1)
    canopy = np.concatenate([ellipse(0, 0, 1, uniform(rng, 0.8, 0.95), 180, 360, 20), scallop])
    return [
        (rectangle(-0.06, -0.2, 0.06, 0.95), BROWN),
        (polygon(-0.06, 0.95, -0.06, 0.78, -0.2, 0.78, -0.2, 0.65, -0.32, 0.65, -0.32, 0.95), BROWN),
        (canopy, MAIN),
    ]


def _kite(rng: np.random.Generator) -> list[Part]:
    w, waist = uniform(rng, 0.5, 0.68), uniform(rng, -0.5, -0.3)
    tail = polygon(-0.05, 0.3, 0.2, 0.5, 0.0, 0.68, 0.2, 0.95, 0.08, 1, -0.16, 0.68, 0.05, 0.5, -0.15, 0.35)
    return [
        (tail, DARK),
        (polygon(0, -1, w, waist, 0, 0.42, -w, waist), MAIN),
        (polygon(0, -1, w, waist, 0, waist), LIGHT),
        (polygon(0, 0.42, -w, waist, 0, waist), DARK),
    ]


def _cross(rng: np.random.Generator) -> list[Part]:
    a = uniform(rng, 0.26, 0.38)
    return [(polygon(-a, -1, a, -1, a, -a, 1, -a, 1, a, a, a, a, 1, -a, 1, -a, a, -1, a, -1, -a, -a, -a), MAIN)]


def _crown(rng: np.random.Generator) -> list[Part]:
    dip, mid = uniform(rng, -0.1, 0.15), uniform(rng, -0.85, -0.65)
    points = polygon(-0.85, 0.7, -1, -0.55, -0.45, dip, 0, mid, 0.45, dip, 1, -0.55, 0.85, 0.7)
    return [
        (points, MAIN),
        (rectangle(-0.85, 0.45, 0.85, 0.75), DARK),
        (ellipse(0, mid, 0.12, n=10), GOLD),
        (ellipse(-0.98, -0.55, 0.11, n=10), GOLD),
        (ellipse(0.98, -0.55, 0.11, n=10), GOLD),
    ]


def _rocket(rng: np.random.Generator) -> list[Part]:
    w, fin = uniform(rng, 0.28, 0.36), uniform(rng, 0.6, 0.75)
    left = polygon(-w, 0.1, -fin, 0.7, -w, 0.6)
    return [
        (polygon(-0.2, 0.6, 0, 1, 0.2, 0.6), GOLD),
        (left, DARK),
        (flip(left), DARK),
        (mirror(0, -1, w * 0.7, -0.6, w, -0.2, w, 0.62), MAIN),
        (mirror(0, -1, w * 0.7, -0.6), DARK),
        (ellipse(0, -0.2, 0.16, n=12), GLASS),
    ]


def _butterfly(rng: np.random.Generator) -> list[Part]:
    up, down = (
        rotate(ellipse(-0.5, -0.35, 0.52, 0.4), uniform(rng, 15, 40), -0.5, -0.35),
        rotate(ellipse(-0.4, 0.42, 0.36, 0.32), uniform(rng, -30, 0), -0.4, 0.42),
    )
    return [(down, DARK), (flip(down), DARK), (up, MAIN), (flip(up), MAIN), (ellipse(0, 0.05, 0.1, 0.7, n=14), TYRE)]


def _leaf(rng: np.random.Generator) -> list[Part]:
    w = uniform(rng, 0.42, 0.6)
    return [
        (rectangle(-0.05, 0.5, 0.05, 1), BROWN),
        (mirror(0, -1, w * 0.6, -0.6, w, -0.05, w * 0.75, 0.4, 0, 0.75), MAIN),
        (polygon(-0.035, -0.7, 0.035, -0.7, 0.05, 0.7, -0.05, 0.7), DARK),
    ]


def _bell(rng: np.random.Generator) -> list[Part]:
    w, lip = uniform(rng, 0.42, 0.55), uniform(rng, 0.8, 0.95)
    return [
        (ellipse(0, 0.75, 0.2, n=14), DARK),
        (ellipse(0, -0.85, 0.15, n=12), DARK),
        (mirror(0.15, -0.8, w * 0.8, -0.6, w, -0.1, w + 0.08, 0.35, lip, 0.7), MAIN),
        (rectangle(-lip, 0.58, lip, 0.74), LIGHT),
    ]


def _ball(rng: np.random.Generator) -> list[Part]:
    turn = uniform(rng, 0, 360)
    band = np.concatenate([ellipse(0, 0, 0.97, None, 60, 120, 10), ellipse(0, 1.6, 1.35, None, 292, 248, 10)])
    return [(ellipse(0, 0, 1, n=30), MAIN), (rotate(band, turn), LIGHT), (rotate(band, turn + 180), LIGHT)]


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
ROUND = frozenset({"ball", "gear"})
"""Objects that roll where they touch the ground."""
