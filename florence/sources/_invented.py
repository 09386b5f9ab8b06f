"""Figures that are like nothing in particular, under made-up names, and made-up words to write: many of each, for pretraining.

A model that has told hundreds of figures apart learns a new name from few examples; one that knows two dozen has learnt those alone. A figure's
plan is a function of its number; every drawing of it varies the plan's measures a little, as drawings of a cup vary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from florence.sources._shapes import BROWN, DARK, GLASS, GOLD, GREEN, LIGHT, MAIN, TYRE, Part, Shape

SEED = 2311
JITTER = 0.07
"""How much a drawing's measures differ from the plan's, as a share."""
_CONSONANTS = (
    "b",
    "d",
    "f",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "br",
    "dr",
    "fl",
    "gr",
    "kl",
    "pl",
    "sk",
    "st",
    "tr",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "oo")
_ENDS = ("", "b", "k", "l", "m", "n", "p", "r", "s", "t", "x", "nd", "rk", "lt")


class _Piece(NamedTuple):
    """One part of a plan: an outline about the origin, where it goes, and its paint; ``twin``: drawn on both sides."""

    outline: np.ndarray
    x: float
    y: float
    width: float
    height: float
    turn: float
    paint: int
    twin: bool


def figures(count: int) -> dict[str, Shape]:
    """``count`` figures by their made-up names; the first ones are the same for every count."""
    names = iter(_names())
    return {next(names): Shape(_drawer(number), "all") for number in range(count)}


def words(count: int, without: frozenset[str]) -> tuple[str, ...]:
    """``count`` different strings of 1 to 7 capitals or 1 to 4 digits, none of them in ``without``; the first ones are the same for every count."""
    rng = np.random.default_rng([SEED, 2])
    found: dict[str, None] = {}
    while len(found) < count:
        if rng.random() < 0.2:
            word = "".join(str(digit) for digit in rng.integers(10, size=1 + int(rng.integers(4))))
        elif rng.random() < 0.3:
            word = "".join(chr(65 + letter) for letter in rng.integers(26, size=2 + int(rng.integers(5))))
        else:
            word = (_syllable(rng) + (_syllable(rng) if rng.random() < 0.6 else "")).upper()
        if len(word) <= 7 and word not in without:
            found[word] = None
    return tuple(found)


def _names():
    rng = np.random.default_rng([SEED, 1])
    seen = set()
    while True:
        name = _syllable(rng) + _syllable(rng)
        if 4 <= len(name) <= 8 and name not in seen:
            seen.add(name)
            yield name


def _syllable(rng: np.random.Generator) -> str:
    return "".join(str(part[int(rng.integers(len(part)))]) for part in (_CONSONANTS, _VOWELS, _ENDS))


def _drawer(number: int) -> Callable[[np.random.Generator], list[Part]]:
    @functools.cache
    def planned() -> list[_Piece]:
        return _plan(np.random.default_rng([SEED, 0, number]))

    def draw(rng: np.random.Generator) -> list[Part]:
        parts: list[Part] = []
        stretch = 1 + JITTER * rng.normal(size=2)
        for piece in planned():
            size = np.array([piece.width, piece.height]) * (1 + JITTER * rng.normal(size=2))
            at = np.array([piece.x, piece.y]) + JITTER * 0.5 * rng.normal(size=2) * (piece.x != 0, 1)
            angle = np.radians(piece.turn)
            c, s = np.cos(angle), np.sin(angle)
            points = (piece.outline * size) @ np.array([[c, s], [-s, c]]) + at
            parts.append((points * stretch, piece.paint))
            if piece.twin:
                parts.append((points * stretch * (-1, 1), piece.paint))
        return parts

    return draw


def _plan(rng: np.random.Generator) -> list[_Piece]:
    """A body, perhaps a second one on or below it, and up to four smaller parts."""
    ratio = float(np.exp(rng.uniform(-0.8, 0.8)))
    wide, high = min(1.0, ratio), min(1.0, 1 / ratio)
    plan = [_Piece(_outline(rng), 0, 0, wide, high, 0, MAIN, False)]
    if rng.random() < 0.55:
        small = rng.uniform(0.35, 0.75)
        side = rng.choice((-1, 1))
        if rng.random() < 0.7:  # above or below
            plan.append(
                _Piece(
                    _outline(rng),
                    0,
                    side * (high + small * high * 0.6),
                    wide * small,
                    high * small,
                    0,
                    _paint(rng, body=True),
                    False,
                )
            )
        else:
            plan.append(
                _Piece(
                    _outline(rng),
                    side * (wide + small * wide * 0.6),
                    rng.uniform(-0.5, 0.5) * high,
                    wide * small,
                    high * small,
                    0,
                    _paint(rng, body=True),
                    False,
                )
            )
        if rng.random() < 0.5:
            plan.reverse()
    for _ in range(int(rng.integers(1, 5))):
        size = rng.uniform(0.12, 0.42)
        twin = rng.random() < 0.5
        where = rng.random()
        angle = rng.uniform(0, 2 * np.pi)
        reach = 0.85 if where < 0.5 else rng.uniform(0, 0.6)  # at the edge, or inside
        x, y = (
            (np.cos(angle) * wide * reach, np.sin(angle) * high * reach)
            if twin or where > 0.25
            else (0.0, np.sign(np.sin(angle)) * high * reach)
        )
        stretched = float(np.exp(rng.uniform(-0.9, 0.9)))
        piece = _Piece(
            _outline(rng),
            float(x),
            float(y),
            size * stretched**0.5,
            size / stretched**0.5,
            float(rng.choice((0, 0, 30, 45, 90, -30))),
            _paint(rng),
            twin,
        )
        plan.insert(0 if reach == 0.85 and rng.random() < 0.5 else len(plan), piece)
    return plan


def _paint(rng: np.random.Generator, body: bool = False) -> int:
    paints, weights = (MAIN, DARK, LIGHT, BROWN, GREEN, GOLD, TYRE, GLASS), np.array([6, 4, 3, 1, 1, 1, 2, 1.0])
    if body:
        weights = np.array([6, 3, 2, 0.5, 0.5, 0.5, 0.5, 0.5])
    return int(rng.choice(paints, p=weights / weights.sum()))


def _outline(rng: np.random.Generator) -> np.ndarray:
    """An outline within −1…1, one of a dozen kinds with measures of its own, symmetric about x = 0 more often than not."""
    kind = int(rng.integers(10))
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    if kind == 0:
        return np.stack([np.cos(t), np.sin(t)], axis=1)
    if kind == 1:
        cut = rng.uniform(0, 0.5)
        return np.array([(-1, -1 + cut), (-1 + cut, -1), (1 - cut, -1), (1, -1 + cut), (1, 1), (-1, 1)])
    if kind == 2:  # a polygon of 3 to 8 corners
        corners = int(rng.integers(3, 9))
        a = np.arange(corners) * 2 * np.pi / corners - np.pi / 2 + (np.pi / corners) * int(rng.integers(2))
        return np.stack([np.cos(a), np.sin(a)], axis=1)
    if kind == 3:  # a star or a toothed wheel
        points, inner = int(rng.integers(4, 10)), rng.uniform(0.35, 0.8)
        a = np.arange(points * 2) * np.pi / points - np.pi / 2
        radius = np.where(np.arange(points * 2) % 2, inner, 1.0)
        return np.stack([radius * np.cos(a), radius * np.sin(a)], axis=1)
    if kind == 4:  # petals
        number, deep = int(rng.integers(2, 7)), rng.uniform(0.15, 0.45)
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = 1 - deep * (1 + np.cos(number * t))
        return np.stack([radius * np.sin(t), radius * np.cos(t)], axis=1)
    if kind == 5:  # mirrored steps: vases, towers, bells
        rows = int(rng.integers(3, 7))
        half = rng.uniform(0.15, 1, size=rows)
        y = np.linspace(-1, 1, rows)
        if rng.random() < 0.5:
            half, y = np.repeat(half, 2)[:-1], np.repeat(y, 2)[1:]
        right = np.stack([half / half.max(), y], axis=1)
        return np.concatenate([right, (right * (-1, 1))[::-1]])
    if kind == 6:  # a blob
        waves = np.stack([rng.uniform(0, 0.35) * np.cos(k * t + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)])
        points = (1 + waves.sum(axis=0))[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
        return points / np.abs(points).max(axis=0)
    if kind == 7:  # part of a disc
        start, span = rng.uniform(0, 360), rng.uniform(120, 300)
        a = np.radians(np.linspace(start, start + span, 22))
        inner = rng.uniform(0, 0.7)
        outside = np.stack([np.cos(a), np.sin(a)], axis=1)
        return np.concatenate([outside, outside[::-1] * inner]) if inner > 0.25 else outside
    if kind == 8:  # a cross, T or L
        arm, foot = rng.uniform(0.2, 0.45), rng.uniform(-0.6, 0.6)
        shapes = (
            [
                (-arm, -1),
                (arm, -1),
                (arm, foot - arm),
                (1, foot - arm),
                (1, foot + arm),
                (arm, foot + arm),
                (arm, 1),
                (-arm, 1),
                (-arm, foot + arm),
                (-1, foot + arm),
                (-1, foot - arm),
                (-arm, foot - arm),
            ],
            [
                (-1, -1),
                (1, -1),
                (1, -1 + 2 * arm),
                (arm, -1 + 2 * arm),
                (arm, 1),
                (-arm, 1),
                (-arm, -1 + 2 * arm),
                (-1, -1 + 2 * arm),
            ],
            [(-1, -1), (-1 + 2 * arm, -1), (-1 + 2 * arm, 1 - 2 * arm), (1, 1 - 2 * arm), (1, 1), (-1, 1)],
        )
        return np.array(shapes[int(rng.integers(3))], float)
    skew = rng.uniform(-0.6, 0.6)  # a slanted quadrilateral or a wedge
    top = rng.uniform(0, 1)
    return np.array([(-top + skew * (1 - top), -1), (top + skew * (1 - top), -1), (1, 1), (-1, 1)])
