"""Drawn backgrounds (side, side, 3) uint8 RGB: pale enough that objects stand out, different in every scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Background(NamedTuple):
    """A background. ``phrase``: its description, or None; ``ground``: y of the horizon in pixels, or None."""

    pixels: np.ndarray
    phrase: str | None
    ground: int | None


Painter = Callable[[np.random.Generator, int], tuple[np.ndarray, int | None]]


def _noise(rng: np.random.Generator, side: int, cells: int, cells_x: int | None = None) -> np.ndarray:
    """Return smooth noise (side, side) of about −1…1, with ``cells`` bumps on each side."""
    import cv2

    grid = rng.random((cells, cells_x or cells), dtype=np.float32) * 2 - 1
    return cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)


def _tint(rng: np.random.Generator, *rgb: float, spread: float = 14) -> np.ndarray:
    return (np.array(rgb) + (rng.random(3) * 2 - 1) * spread).astype(np.float32)


def _blend(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return colour ``a`` where ``share`` is 0, ``b`` where it is 1."""
    return a + (b - a) * share[..., None]


def _ramp(side: int) -> np.ndarray:
    return np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32)[:, None], (side, side))


def _land(
    rng: np.random.Generator, side: int, above: np.ndarray, below: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, int]:
    ground = int(side * (low + (high - low) * rng.random()))
    pixels = above
    pixels[ground:] = below[ground:]
    return pixels, ground


def _sky(rng: np.random.Generator, side: int) -> tuple[np.ndarray, None]:
    cloud = np.clip(_noise(rng, side, 5, 3) * 0.8 + _noise(rng, side, 11, 7) * 0.4, 0, 1)
    return _blend(
        _blend(_tint(rng, 112, 168, 224), _tint(rng, 190, 220, 242), _ramp(side)),
        _tint(rng, 246, 246, 250, spread=5),
        cloud,
    ), None


def _beach(rng: np.random.Generator, side: int) -> tuple[np.ndarray, int]:
    sea = _blend(
        _tint(rng, 150, 205, 222),
        _tint(rng, 84, 160, 186),
        np.clip(_ramp(side) + _noise(rng, side, 16, 3) * 0.25, 0, 1),
    )
    sand = _blend(
        _tint(rng, 232, 212, 168), _tint(rng, 210, 184, 136), np.clip(0.5 + _noise(rng, side, 24) * 0.4, 0, 1)
    )
    return _land(rng, side, sea, sand, 0.45, 0.65)


def _field(rng: np.random.Generator, side: int) -> tuple[np.ndarray, int]:
    sky = _blend(_tint(rng, 176, 212, 240), _tint(rng, 226, 236, 238), _ramp(side))
    grass = _blend(
        _tint(rng, 158, 196, 112), _tint(rng, 116, 166, 84), np.clip(0.5 + _noise(rng, side, 12, 40) * 0.5, 0, 1)
    )
    return _land(rng, side, sky, grass, 0.5, 0.7)


def _cloth(rng: np.random.Generator, side: int) -> tuple[np.ndarray, None]:
    cell = side / (4 + int(rng.integers(5)))
    step = (np.arange(side) / cell + rng.random()).astype(int) % 2
    light = _tint(rng, 238, 232, 224, spread=10)
    return _blend(
        light,
        light * (0.72 + 0.2 * rng.random(3, dtype=np.float32)),
        (step[:, None] ^ step[None, :]).astype(np.float32),
    ), None


def _wall(rng: np.random.Generator, side: int) -> tuple[np.ndarray, int]:
    stripe = (np.arange(side) / side * (5 + int(rng.integers(8))) + rng.random()) % 1 < 0.5
    paper = _tint(rng, 222, 214, 208, spread=22)
    striped = _blend(
        paper,
        paper * (0.8 + 0.14 * rng.random(3, dtype=np.float32)),
        np.broadcast_to(stripe.astype(np.float32)[None, :], (side, side)),
    )
    floor = _blend(_tint(rng, 186, 156, 124), _tint(rng, 160, 128, 98), _ramp(side))
    return _land(rng, side, striped, floor, 0.6, 0.75)


def _paper(rng: np.random.Generator, side: int) -> tuple[np.ndarray, None]:
    base = _tint(rng, 230, 224, 214, spread=20)
    blobs = np.clip((_noise(rng, side, 7 + int(rng.integers(4))) - 0.15) * 8, 0, 1)
    return _blend(base, np.clip(base * (0.74 + 0.2 * rng.random(3, dtype=np.float32)), 0, 255), blobs), None


def _night(rng: np.random.Generator, side: int) -> tuple[np.ndarray, None]:
    dark = _blend(_tint(rng, 34, 38, 74), _tint(rng, 74, 66, 112), _ramp(side))
    stars = rng.integers(side, size=(40, 2))
    dark[stars[:, 0], stars[:, 1]] = 235
    return dark, None


def _hill(rng: np.random.Generator, side: int) -> tuple[np.ndarray, int]:
    sky = _blend(_tint(rng, 168, 182, 206), _tint(rng, 214, 218, 228), _ramp(side))
    snow = _blend(
        _tint(rng, 246, 248, 252, spread=4),
        _tint(rng, 214, 224, 238, spread=8),
        np.clip(0.4 + _noise(rng, side, 5, 3) * 0.5, 0, 1),
    )
    return _land(rng, side, sky, snow, 0.5, 0.7)


def _bricks(rng: np.random.Generator, side: int) -> tuple[np.ndarray, None]:
    height = max(side // (7 + int(rng.integers(4))), 4)
    rows, across = np.arange(side) // height, np.arange(side)
    shift = (rows % 2 * height)[:, None] + across[None, :]
    joint = (np.arange(side) % height == 0)[:, None] | (shift % (2 * height) == 0)
    number = rows[:, None] * 31 + shift // (2 * height)
    shade = rng.random(int(number.max()) + 1, dtype=np.float32)[number]
    wall = _blend(_tint(rng, 186, 122, 100), _tint(rng, 158, 94, 78), shade)
    wall[joint] = _tint(rng, 214, 206, 196)
    return wall, None


def _planks(rng: np.random.Generator, side: int) -> tuple[np.ndarray, None]:
    width = max(side // (4 + int(rng.integers(4))), 6)
    grain = np.clip(0.5 + _noise(rng, side, 6, 40) * 0.3, 0, 1)
    wood = _blend(_tint(rng, 206, 166, 118), _tint(rng, 170, 126, 80), grain)
    wood[:, np.arange(side) % width == 0] *= 0.6
    return wood, None


def _lake(rng: np.random.Generator, side: int) -> tuple[np.ndarray, int]:
    sky = _blend(_tint(rng, 240, 206, 176), _tint(rng, 248, 232, 206), _ramp(side))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    wave = 0.5 + 0.5 * np.sin(y * (60 + 40 * rng.random()) + 2 * np.sin(x * (8 + 8 * rng.random())))
    water = _blend(_tint(rng, 132, 168, 176), _tint(rng, 92, 132, 150), wave.astype(np.float32))
    return _land(rng, side, sky, water, 0.45, 0.65)


def _tiles(rng: np.random.Generator, side: int) -> tuple[np.ndarray, int]:
    cell = max(side // (8 + int(rng.integers(5))), 4)
    line = np.arange(side) % cell == 0
    wall = _blend(_tint(rng, 196, 222, 218), _tint(rng, 182, 208, 210), _noise(rng, side, 6) * 0.5 + 0.5)
    wall[line[:, None] | line[None, :]] = 244
    floor = _blend(_tint(rng, 150, 150, 158), _tint(rng, 126, 126, 136), _ramp(side))
    return _land(rng, side, wall, floor, 0.62, 0.76)


MAIN_BACKGROUNDS: dict[str, Painter] = {
    "a cloudy sky": _sky,
    "a sandy beach": _beach,
    "a grassy field": _field,
    "a checkered cloth": _cloth,
    "a striped wall": _wall,
    "a spotted paper": _paper,
}
PRETRAIN_BACKGROUNDS: dict[str, Painter] = {
    "a starry night": _night,
    "a snowy hill": _hill,
    "a row of bricks": _bricks,
    "a set of planks": _planks,
    "a wavy lake": _lake,
    "a tiled kitchen": _tiles,
}


def paint_background(backgrounds: dict[str, Painter], rng: np.random.Generator, side: int) -> Background:
    """Draw one of ``backgrounds``."""
    names = tuple(backgrounds)
    phrase = names[int(rng.integers(len(names)))]
    pixels, ground = backgrounds[phrase](rng, side)
    grain = rng.integers(-5, 6, size=(side, side, 1), dtype=np.int8)
    return Background(np.clip(pixels + grain, 0, 255).astype(np.uint8), phrase, ground)
