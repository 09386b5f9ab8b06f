"""Invented shapes with invented names, and invented words to write: many of each, for pretraining.

A model that has learnt to distinguish hundreds of shapes learns a new name from few examples; one that knows two
dozen has learnt only those. The plan of a shape is a function of its number; every drawing varies the measures of the
plan a little, as drawings of a cup vary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from florence.drawn_scenes.shapes import BROWN, DARK, GLASS, GOLD, GREEN, LIGHT, MAIN, TYRE, Part, Shape

SEED = 2311
JITTER = 0.07
"""Relative deviation of a drawing's measures from the plan."""
_CONSONANTS = tuple("b d f g k l m n p r s t v z br dr fl gr kl pl sk st tr".split())
_VOWELS = ("a", "e", "i", "o", "u", "ai", "oo")
_ENDS = ("", "b", "k", "l", "m", "n", "p", "r", "s", "t", "x", "nd", "rk", "lt")


class _Piece(NamedTuple):
    """A part of a plan: a polygon about the origin, its position, size and paint; ``mirrored``: drawn on both sides."""

    polygon: np.ndarray
    x: float
    y: float
    width: float
    height: float
    turn: float
    paint: int
    mirrored: bool


def invent_shapes(count: int) -> dict[str, Shape]:
    """Return ``count`` shapes by their invented names; the first ones are the same for every count."""
    names = iter(_invent_names())
    return {next(names): Shape(_make_drawer(number), "all") for number in range(count)}


def invent_words(count: int, without: frozenset[str]) -> tuple[str, ...]:
    """Return ``count`` different strings of 1 to 7 capitals or 1 to 4 digits, none of them in ``without``.

    The first ones are the same for every count.
    """
    rng = np.random.default_rng([SEED, 2])
    found: dict[str, None] = {}
    while len(found) < count:
        if rng.random() < 0.2:
            word = "".join(str(digit) for digit in rng.integers(10, size=1 + int(rng.integers(4))))
        elif rng.random() < 0.3:
            word = "".join(chr(65 + letter) for letter in rng.integers(26, size=2 + int(rng.integers(5))))
        else:
            word = (_draw_syllable(rng) + (_draw_syllable(rng) if rng.random() < 0.6 else "")).upper()
        if len(word) <= 7 and word not in without:
            found[word] = None
    return tuple(found)


def _invent_names() -> Iterator[str]:
    rng = np.random.default_rng([SEED, 1])
    used = set()
    while True:
        name = _draw_syllable(rng) + _draw_syllable(rng)
        if 4 <= len(name) <= 8 and name not in used:
            used.add(name)
            yield name


def _draw_syllable(rng: np.random.Generator) -> str:
    return "".join(str(part[int(rng.integers(len(part)))]) for part in (_CONSONANTS, _VOWELS, _ENDS))


def _make_drawer(number: int) -> Callable[[np.random.Generator], list[Part]]:
    @functools.cache
    def planned() -> list[_Piece]:
        return _draw_plan(np.random.default_rng([SEED, 0, number]))

    def draw(rng: np.random.Generator) -> list[Part]:
        parts: list[Part] = []
        stretch = 1 + JITTER * rng.normal(size=2)
        for piece in planned():
            size = np.array([piece.width, piece.height]) * (1 + JITTER * rng.normal(size=2))
            at = np.array([piece.x, piece.y]) + JITTER * 0.5 * rng.normal(size=2) * (piece.x != 0, 1)
            angle = np.radians(piece.turn)
            c, s = np.cos(angle), np.sin(angle)
            points = (piece.polygon * size) @ np.array([[c, s], [-s, c]]) + at
            parts.append((points * stretch, piece.paint))
            if piece.mirrored:
                parts.append((points * stretch * (-1, 1), piece.paint))
        return parts

    return draw


def _draw_plan(rng: np.random.Generator) -> list[_Piece]:
    """Return a body, perhaps a second one beside it, and up to four smaller pieces."""
    ratio = float(np.exp(rng.uniform(-0.8, 0.8)))
    width, height = min(1.0, ratio), min(1.0, 1 / ratio)
    plan = [_Piece(_draw_polygon(rng), 0, 0, width, height, 0, MAIN, False)]
    if rng.random() < 0.55:
        plan.append(_draw_second_body(rng, width, height))
        if rng.random() < 0.5:
            plan.reverse()
    for _ in range(int(rng.integers(1, 5))):
        piece, at_edge = _draw_small_piece(rng, width, height)
        plan.insert(0 if at_edge and rng.random() < 0.5 else len(plan), piece)
    return plan


def _draw_second_body(rng: np.random.Generator, width: float, height: float) -> _Piece:
    """Return a smaller body above, below or beside the first one, which has ``width`` and ``height``."""
    share = rng.uniform(0.35, 0.75)
    side = rng.choice((-1, 1))
    is_vertical = rng.random() < 0.7
    polygon = _draw_polygon(rng)
    if is_vertical:
        x, y = 0, side * (height + share * height * 0.6)
    else:
        x, y = side * (width + share * width * 0.6), rng.uniform(-0.5, 0.5) * height
    return _Piece(polygon, x, y, width * share, height * share, 0, _draw_paint(rng, body=True), False)


def _draw_small_piece(rng: np.random.Generator, width: float, height: float) -> tuple[_Piece, bool]:
    """Return a small piece, and whether it is at the edge of the body (``width``, ``height``), not inside."""
    size = rng.uniform(0.12, 0.42)
    mirrored = rng.random() < 0.5
    where = rng.random()
    angle = rng.uniform(0, 2 * np.pi)
    at_edge = where < 0.5
    reach = 0.85 if at_edge else rng.uniform(0, 0.6)
    x, y = (
        (np.cos(angle) * width * reach, np.sin(angle) * height * reach)
        if mirrored or where > 0.25
        else (0.0, np.sign(np.sin(angle)) * height * reach)
    )
    stretch = float(np.exp(rng.uniform(-0.9, 0.9)))
    piece = _Piece(
        _draw_polygon(rng),
        float(x),
        float(y),
        size * stretch**0.5,
        size / stretch**0.5,
        float(rng.choice((0, 0, 30, 45, 90, -30))),
        _draw_paint(rng),
        mirrored,
    )
    return piece, at_edge


def _draw_paint(rng: np.random.Generator, body: bool = False) -> int:
    paints, weights = (MAIN, DARK, LIGHT, BROWN, GREEN, GOLD, TYRE, GLASS), np.array([6, 4, 3, 1, 1, 1, 2, 1.0])
    if body:
        weights = np.array([6, 3, 2, 0.5, 0.5, 0.5, 0.5, 0.5])
    return int(rng.choice(paints, p=weights / weights.sum()))


def _draw_polygon(rng: np.random.Generator) -> np.ndarray:
    """Return the corners (n, 2) of a random polygon within −1…1, symmetric about x = 0 more often than not."""
    return POLYGONS[int(rng.integers(len(POLYGONS)))](rng)


def _on_circle(angle: np.ndarray, radius: np.ndarray | float = 1.0) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _disc(rng: np.random.Generator) -> np.ndarray:
    return _on_circle(np.linspace(0, 2 * np.pi, 28, endpoint=False))


def _cut_rectangle(rng: np.random.Generator) -> np.ndarray:
    cut = rng.uniform(0, 0.5)
    return np.array([(-1, -1 + cut), (-1 + cut, -1), (1 - cut, -1), (1, -1 + cut), (1, 1), (-1, 1)])


def _regular_polygon(rng: np.random.Generator) -> np.ndarray:
    """Return a regular polygon of 3 to 8 corners."""
    corners = int(rng.integers(3, 9))
    return _on_circle(np.arange(corners) * 2 * np.pi / corners - np.pi / 2 + (np.pi / corners) * int(rng.integers(2)))


def _star_or_gear(rng: np.random.Generator) -> np.ndarray:
    points, inner = int(rng.integers(4, 10)), rng.uniform(0.35, 0.8)
    return _on_circle(
        np.arange(points * 2) * np.pi / points - np.pi / 2, np.where(np.arange(points * 2) % 2, inner, 1.0)
    )


def _petals(rng: np.random.Generator) -> np.ndarray:
    number, depth = int(rng.integers(2, 7)), rng.uniform(0.15, 0.45)
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = 1 - depth * (1 + np.cos(number * t))
    return np.stack([radius * np.sin(t), radius * np.cos(t)], axis=1)


def _mirrored_steps(rng: np.random.Generator) -> np.ndarray:
    """Return a profile mirrored about x = 0: vases, towers, bells."""
    rows = int(rng.integers(3, 7))
    half = rng.uniform(0.15, 1, size=rows)
    y = np.linspace(-1, 1, rows)
    if rng.random() < 0.5:
        half, y = np.repeat(half, 2)[:-1], np.repeat(y, 2)[1:]
    right = np.stack([half / half.max(), y], axis=1)
    return np.concatenate([right, (right * (-1, 1))[::-1]])


def _blob(rng: np.random.Generator) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    waves = np.stack([rng.uniform(0, 0.35) * np.cos(k * t + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)])
    points = (1 + waves.sum(axis=0))[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    return points / np.abs(points).max(axis=0)


def _disc_sector(rng: np.random.Generator) -> np.ndarray:
    """Return part of a disc or of a ring."""
    start, span = rng.uniform(0, 360), rng.uniform(120, 300)
    inner = rng.uniform(0, 0.7)
    outside = _on_circle(np.radians(np.linspace(start, start + span, 22)))
    return np.concatenate([outside, outside[::-1] * inner]) if inner > 0.25 else outside


def _crossing_bars(rng: np.random.Generator) -> np.ndarray:
    """Return a cross, a T or an L."""
    a, foot = rng.uniform(0.2, 0.45), rng.uniform(-0.6, 0.6)
    low, high, end = foot - a, foot + a, -1 + 2 * a
    cross = [(-a, -1), (a, -1), (a, low), (1, low), (1, high), (a, high)]
    cross += [(a, 1), (-a, 1), (-a, high), (-1, high), (-1, low), (-a, low)]
    tee = [(-1, -1), (1, -1), (1, end), (a, end), (a, 1), (-a, 1), (-a, end), (-1, end)]
    ell = [(-1, -1), (end, -1), (end, 1 - 2 * a), (1, 1 - 2 * a), (1, 1), (-1, 1)]
    return np.array((cross, tee, ell)[int(rng.integers(3))], float)


def _slanted_wedge(rng: np.random.Generator) -> np.ndarray:
    """Return a slanted quadrilateral."""
    skew = rng.uniform(-0.6, 0.6)
    top = rng.uniform(0, 1)
    return np.array([(-top + skew * (1 - top), -1), (top + skew * (1 - top), -1), (1, 1), (-1, 1)])


POLYGONS: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (
    _disc,
    _cut_rectangle,
    _regular_polygon,
    _star_or_gear,
    _petals,
    _mirrored_steps,
    _blob,
    _disc_sector,
    _crossing_bars,
    _slanted_wedge,
)
"""Their order decides which polygon a random number stands for."""
