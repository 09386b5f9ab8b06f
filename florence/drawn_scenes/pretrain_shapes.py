"""The drawn objects of the vocabularies for pretraining."""

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


def _tent(rng: np.random.Generator) -> list[Part]:
    door = uniform(rng, 0.2, 0.35)
    return [
        (polygon(-0.08, -0.75, 0.08, -0.75, 1, 0.75, -1, 0.75), MAIN),
        (polygon(0, -0.3, door, 0.75, -door, 0.75), DARK),
        (rectangle(-0.03, -1, 0.03, -0.65), BROWN),
    ]


def _pencil(rng: np.random.Generator) -> list[Part]:
    w = uniform(rng, 0.16, 0.24)
    return [
        (rectangle(-w, -1, w, -0.75), DARK),
        (rectangle(-w, -0.78, w, 0.5), MAIN),
        (polygon(-w, 0.5, w, 0.5, 0, 1), LIGHT),
        (polygon(-w * 0.4, 0.8, w * 0.4, 0.8, 0, 1), TYRE),
    ]


def _hammer(rng: np.random.Generator) -> list[Part]:
    left, w = uniform(rng, -0.7, -0.5), uniform(rng, 0.1, 0.15)
    return [(rectangle(-w, -0.6, w, 1), BROWN), (polygon(left, -1, 0.4, -1, 0.85, -0.7, 0.4, -0.5, left, -0.45), MAIN)]


def _spoon(rng: np.random.Generator) -> list[Part]:
    w = uniform(rng, 0.3, 0.4)
    return [
        (mirror(0.07, -0.4, 0.14, 1), DARK),
        (ellipse(0, -0.55, w, 0.46), MAIN),
        (ellipse(0, -0.55, w * 0.6, 0.3, n=14), LIGHT),
    ]


def _anchor(rng: np.random.Generator) -> list[Part]:
    w, bar = uniform(rng, 0.8, 0.95), uniform(rng, 0.4, 0.55)
    arc = np.concatenate([ellipse(0, 0.2, w, 0.8, 0, 180, 16), ellipse(0, 0.2, w - 0.26, 0.48, 180, 0, 16)])
    return [
        (arc, MAIN),
        (rectangle(-0.13, -0.7, 0.13, 0.9), MAIN),
        (rectangle(-bar, -0.55, bar, -0.32), DARK),
        (ellipse(0, -0.82, 0.2, n=12), DARK),
    ]


def _bone(rng: np.random.Generator) -> list[Part]:
    r, h = uniform(rng, 0.24, 0.32), uniform(rng, 0.14, 0.2)
    ends: list[Part] = [(ellipse(x, y, r, n=14), MAIN) for x in (-0.74, 0.74) for y in (-0.2, 0.2)]
    return [*ends, (rectangle(-0.72, -h, 0.72, h), MAIN)]


def _sock(rng: np.random.Generator) -> list[Part]:
    toe = uniform(rng, 0.75, 1)
    return [
        (polygon(-0.6, -0.7, 0, -0.7, 0.05, 0.25, toe, 0.45, toe, 0.85, 0.7, 1, -0.35, 0.95, -0.6, 0.55), MAIN),
        (rectangle(-0.65, -1, 0.05, -0.62), DARK),
        (polygon(0.6, 0.4, toe, 0.48, toe, 0.85, 0.7, 1, 0.5, 0.97), DARK),
    ]


def _shirt(rng: np.random.Generator) -> list[Part]:
    hem, cuff = uniform(rng, 0.5, 0.62), uniform(rng, -0.05, 0.15)
    return [
        (mirror(0.25, -0.9, 1, -0.5, 0.8, cuff, hem, -0.2, hem, 0.95), MAIN),
        (ellipse(0, -0.9, 0.26, 0.24, 0, 180, 10), DARK),
    ]


def _rabbit(rng: np.random.Generator) -> list[Part]:
    lean = uniform(rng, 8, 22)
    ear, inner = (
        rotate(ellipse(-0.3, -0.5, 0.16, 0.5), -lean, -0.3, 0),
        rotate(ellipse(-0.3, -0.5, 0.08, 0.34, n=12), -lean, -0.3, 0),
    )
    return [
        (ear, MAIN),
        (flip(ear), MAIN),
        (inner, LIGHT),
        (flip(inner), LIGHT),
        (ellipse(0, 0.42, 0.62, 0.56), MAIN),
        (ellipse(-0.24, 0.3, 0.09, n=10), TYRE),
        (ellipse(0.24, 0.3, 0.09, n=10), TYRE),
        (rectangle(-0.12, 0.66, 0.12, 0.86), LIGHT),
    ]


def _duck(rng: np.random.Generator) -> list[Part]:
    w = uniform(rng, 0.72, 0.85)
    body = np.concatenate([ellipse(0.08, 0.4, w, 0.52, 0, 180, 14), polygon(-w + 0.3, 0.1, 0.3, 0.15, 0.98, -0.15)])
    return [
        (polygon(-0.7, -0.55, -1.1, -0.4, -0.68, -0.28), GOLD),
        (body, MAIN),
        (ellipse(-0.42, -0.42, 0.42), MAIN),
        (ellipse(0.2, 0.42, 0.36, 0.22), DARK),
        (ellipse(-0.52, -0.5, 0.08, n=10), TYRE),
    ]


def _whale(rng: np.random.Generator) -> list[Part]:
    h = uniform(rng, 0.6, 0.75)
    body = np.concatenate(
        [
            ellipse(-0.25, 0.3, 0.72, h, 180, 300, 12),
            polygon(0.5, 0.2, 0.78, -0.25),
            polygon(0.95, 0.3),
            ellipse(-0.1, 0.3, 0.95, 0.42, 20, 180, 12),
        ]
    )
    return [
        (polygon(0.8, -0.1, 0.45, -0.5, 0.8, -0.4, 1.1, -0.6, 0.95, -0.1), DARK),
        (body, MAIN),
        (ellipse(-0.65, 0.2, 0.08, n=10), TYRE),
        (polygon(-0.2, 0.4, 0.2, 0.45, -0.1, 0.68), DARK),
    ]


def _turtle(rng: np.random.Generator) -> list[Part]:
    h = uniform(rng, 0.7, 0.9)
    return [
        (ellipse(-0.85, 0.22, 0.24, 0.2, n=14), GREEN),
        (rectangle(-0.55, 0.3, -0.25, 0.62), GREEN),
        (rectangle(0.25, 0.3, 0.55, 0.62), GREEN),
        (polygon(0.6, 0.2, 1, 0.42, 0.6, 0.42), GREEN),
        (ellipse(0, 0.35, 0.75, h, 180, 360, 20), MAIN),
        (rectangle(-0.75, 0.28, 0.75, 0.42), DARK),
        (ellipse(-0.92, 0.18, 0.05, n=8), TYRE),
    ]


def _pear(rng: np.random.Generator) -> list[Part]:
    neck = uniform(rng, 0.24, 0.36)
    return [
        (rectangle(-0.05, -1, 0.05, -0.6), BROWN),
        (rotate(ellipse(0.26, -0.82, 0.24, 0.1, n=12), -20, 0, -0.8), GREEN),
        (mirror(0.1, -0.78, neck, -0.55, neck + 0.08, -0.1, 0.66, 0.3, 0.62, 0.75, 0.3, 1), MAIN),
    ]


def _carrot(rng: np.random.Generator) -> list[Part]:
    w = uniform(rng, 0.28, 0.38)
    return [
        (polygon(-0.05, -0.5, -0.4, -0.95, -0.12, -0.8, 0, -1, 0.12, -0.8, 0.4, -0.95, 0.05, -0.5), GREEN),
        (mirror(w * 0.7, -0.58, w, -0.42, w * 0.7, 0.2, 0, 1), MAIN),
        (rectangle(-w * 0.75, -0.15, -0.02, -0.07), DARK),
        (rectangle(0.02, 0.2, w * 0.6, 0.28), DARK),
    ]


def _cactus(rng: np.random.Generator) -> list[Part]:
    left, right = uniform(rng, -0.4, -0.1), uniform(rng, -0.5, -0.2)
    return [
        (mirror(0.4, 0.6, 0.28, 1), BROWN),
        (polygon(-0.2, 0.3, -0.75, 0.3, -0.75, left, -0.5, left, -0.5, 0.08, -0.2, 0.08), MAIN),
        (polygon(0.2, 0.2, 0.75, 0.2, 0.75, right, 0.5, right, 0.5, 0, 0.2, 0), MAIN),
        (mirror(0.1, -1, 0.24, -0.85, 0.24, 0.62), MAIN),
    ]


def _castle(rng: np.random.Generator) -> list[Part]:
    wall, tower = uniform(rng, -0.3, -0.1), uniform(rng, -0.7, -0.5)
    left = polygon(
        -1, 0.85, -1, tower, -0.85, tower, -0.85, tower + 0.15, -0.7, tower + 0.15, -0.7, tower, -0.5, tower, -0.5, 0.85
    )
    return [
        (rectangle(-0.6, wall, 0.6, 0.85), MAIN),
        (left, MAIN),
        (flip(left), MAIN),
        (polygon(-0.28, wall, 0, -0.95, 0.28, wall), DARK),
        (np.concatenate([ellipse(0, 0.4, 0.22, 0.25, 180, 360, 10), polygon(0.22, 0.85, -0.22, 0.85)]), BROWN),
    ]


def _truck(rng: np.random.Generator) -> list[Part]:
    top, cab = uniform(rng, -0.75, -0.55), uniform(rng, -0.3, -0.1)
    return [
        (rectangle(-1, top, 0.35, 0.4), MAIN),
        (polygon(0.4, cab, 0.75, cab, 1, 0.1, 1, 0.42, 0.4, 0.42), DARK),
        (polygon(0.5, cab + 0.1, 0.7, cab + 0.1, 0.86, 0.1, 0.5, 0.1), GLASS),
        (ellipse(-0.65, 0.45, 0.2, n=16), TYRE),
        (ellipse(-0.2, 0.45, 0.2, n=16), TYRE),
        (ellipse(0.7, 0.45, 0.2, n=16), TYRE),
    ]


def _plane(rng: np.random.Generator) -> list[Part]:
    sweep = uniform(rng, 0.2, 0.45)
    return [
        (mirror(0.1, -0.3, 1, sweep, 1, sweep + 0.2, 0.1, 0.2), DARK),
        (mirror(0.08, 0.55, 0.42, 0.85, 0.42, 1, 0.08, 0.85), DARK),
        (mirror(0, -1, 0.14, -0.75, 0.15, 0.3, 0.06, 0.98), MAIN),
    ]


def _gear(rng: np.random.Generator) -> list[Part]:
    teeth = 7 + int(rng.integers(3))
    angle = np.radians(np.arange(teeth * 4) * 90 / teeth)
    radius = np.tile([1.0, 1.0, 0.72, 0.72], teeth)
    return [
        (np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), MAIN),
        (ellipse(0, 0, 0.28, n=16), DARK),
    ]


def _bolt(rng: np.random.Generator) -> list[Part]:
    w = uniform(rng, 0.05, 0.15)
    return [(polygon(0.05, -1, 0.5, -1, 0.15 + w, -0.2, 0.55, -0.2, -0.3, 1, -0.02 - w, 0.12, -0.45, 0.12), MAIN)]


def _hourglass(rng: np.random.Generator) -> list[Part]:
    w = uniform(rng, 0.55, 0.68)
    return [
        (mirror(w, -0.8, 0.09, 0, w, 0.8), MAIN),
        (rectangle(-w - 0.1, -1, w + 0.1, -0.76), DARK),
        (rectangle(-w - 0.1, 0.76, w + 0.1, 1), BROWN),
        (polygon(-w * 0.7, 0.76, 0, 0.35, w * 0.7, 0.76), GOLD),
    ]


def _trophy(rng: np.random.Generator) -> list[Part]:
    w = uniform(rng, 0.45, 0.55)
    handle = ellipse(-w, -0.5, 0.4, 0.34, 90, 270, 12)
    return [
        (handle, DARK),
        (flip(handle), DARK),
        (rectangle(-0.1, 0.1, 0.1, 0.75), DARK),
        (rectangle(-0.45, 0.7, 0.45, 1), BROWN),
        (np.concatenate([polygon(-w, -1, w, -1), ellipse(0, -0.4, w, 0.65, 0, 180, 12)]), MAIN),
    ]


def _vase(rng: np.random.Generator) -> list[Part]:
    belly, neck = uniform(rng, 0.6, 0.75), uniform(rng, 0.2, 0.3)
    return [
        (mirror(0.42, -1, neck, -0.65, neck + 0.06, -0.4, belly, 0.1, belly * 0.8, 0.6, 0.36, 1), MAIN),
        (rectangle(-belly * 0.94, 0.12, belly * 0.94, 0.3), LIGHT),
    ]


def _egg(rng: np.random.Generator) -> list[Part]:
    t = np.radians(np.arange(0, 360, 14))
    return [(np.stack([uniform(rng, 0.68, 0.78) * np.sin(t) * (1 - 0.22 * np.cos(t)), -np.cos(t)], axis=1), MAIN)]


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
