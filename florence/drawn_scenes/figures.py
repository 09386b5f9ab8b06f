"""Draw one figure: a coloured shape, a sign with its text, or a cut-out, as pixels with alpha."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from florence.drawn_scenes.shapes import DARK, FIXED, LIGHT, MAIN, Part
from florence.errors import FlorenceError
from florence.geometry import Quad

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 42, 44),
    "orange": (242, 130, 28),
    "yellow": (248, 214, 44),
    "green": (44, 156, 62),
    "blue": (40, 92, 204),
    "purple": (132, 56, 168),
    "pink": (246, 140, 186),
    "brown": (126, 76, 40),
    "black": (38, 38, 42),
    "white": (246, 246, 244),
}
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted")
SUPERSAMPLE = 3
"""Shapes are drawn this much larger and averaged down, for smooth edges."""
OUTLINE, SECOND = 20, 21
FONTS: tuple[str, ...] = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")


class Figure(NamedTuple):
    """The pixels of a figure.

    ``rgb``: (h, w, 3) float32. ``alpha``: (h, w) float32, 0…1. ``mask``: (h, w) bool, alpha above one half.
    ``quads``: the lines of text on it, in pixels of the figure.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    mask: np.ndarray
    quads: tuple[Quad, ...] = ()


@dataclass(frozen=True, slots=True)
class Cutout:
    """An object cut out of an image file: its name and its pixels (h, w, 4), cropped to what is visible."""

    label: str
    rgba: np.ndarray


def _crop_figure(rgb: np.ndarray, alpha: np.ndarray, quads: tuple[np.ndarray, ...] = ()) -> Figure:
    """Return a figure cropped to where ``alpha`` (0…255) is above 0."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    shifted = tuple(tuple(float(v) for v in (q - (columns[0], rows[0])).reshape(-1)) for q in quads)
    part = alpha[y, x]
    return Figure(
        rgb[y, x].astype(np.float32),
        part.astype(np.float32) / 255,
        part > 127,
        shifted,  # type: ignore[arg-type]
    )


@functools.lru_cache(maxsize=32)
def _pattern(texture: str, period: int, angle: int, extent: int) -> np.ndarray:
    """Return a tile (extent, extent), bool, true where the second tone goes. ``period``: pixels."""
    x = np.arange(extent, dtype=np.float32)
    y = x[:, None]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = (x * c + y * s) / period, (y * c - x * s) / period
    if texture == "striped":
        return u % 1 < 0.45
    return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.3**2


def draw_shape(
    rng: np.random.Generator, parts: list[Part], colour: str, texture: str, side: int, size: float, angle: float
) -> Figure:
    """Draw a shape in a colour.

    ``side``: pixels of the scene. ``size``: pixels of the longer side, before it is rotated clockwise by ``angle``
    degrees.
    """
    import cv2

    corners = np.concatenate([points for points, _ in parts])
    scale = size * SUPERSAMPLE / float((corners.max(0) - corners.min(0)).max())
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    rotation = np.array([[c, s], [-s, c]]) * scale
    rotated = corners @ rotation
    thick = max(round(side * SUPERSAMPLE / 110), 1)
    low = rotated.min(0) - 2 * thick
    width, height = (int(v) // SUPERSAMPLE * SUPERSAMPLE + 2 * SUPERSAMPLE for v in rotated.max(0) + 2 * thick - low)
    index = np.zeros((height, width), np.uint8)
    for points, paint in parts:
        placed = np.round((points @ rotation - low) * 16).astype(np.int32)
        cv2.fillPoly(index, [placed], int(paint), cv2.LINE_8, 4)
        cv2.polylines(index, [placed], True, OUTLINE, thick, cv2.LINE_8, 4)
    if texture != "plain":
        period = max(round(side * SUPERSAMPLE * (0.055 if texture == "striped" else 0.06)), 4)
        tile = _pattern(texture, period, int(rng.integers(6)) * 30, side * SUPERSAMPLE)
        y, x = rng.integers(period, size=2)
        index[(index == MAIN) & tile[y : y + height, x : x + width]] = SECOND
    rgb = cv2.LUT(cv2.merge([index, index, index]), _make_palette(rng, colour))
    small = (width // SUPERSAMPLE, height // SUPERSAMPLE)
    alpha = cv2.resize((index > 0).astype(np.uint8) * 255, small, interpolation=cv2.INTER_AREA)
    return _crop_figure(cv2.resize(rgb, small, interpolation=cv2.INTER_AREA), alpha)


def _vary_colour(rng: np.random.Generator, colour: str) -> np.ndarray:
    return np.clip(np.array(COLOURS[colour], float) + (rng.random(3) * 2 - 1) * 12, 0, 255)


def _make_palette(rng: np.random.Generator, colour: str) -> np.ndarray:
    main = _vary_colour(rng, colour)
    bright = float(main @ (0.3, 0.59, 0.11))
    table = np.zeros((1, 256, 3), float)
    table[0, MAIN] = main
    table[0, DARK] = main * 0.62 if bright > 60 else main + 52
    table[0, LIGHT] = main + (255 - main) * 0.6
    table[0, SECOND] = main * 0.42 if bright > 175 else main + (255 - main) * 0.72
    table[0, [0, OUTLINE]] = main * 0.3 if bright > 60 else (150, 150, 156)
    for paint, rgb in FIXED.items():
        table[0, paint] = rgb
    return np.clip(table, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=1024)
def _draw_text(text: str, font: str) -> np.ndarray:
    """Return the text (h, w) uint8, 255 for ink, cropped to the ink; capitals are about 60 pixels high."""
    face = _load_font(font)
    x0, y0, x1, y1 = (int(v) for v in face.getbbox(text))
    canvas = Image.new("L", (x1 - x0 + 8, y1 - y0 + 8))
    ImageDraw.Draw(canvas).text((4 - x0, 4 - y0), text, fill=255, font=face)
    pixels = np.asarray(canvas)
    rows, columns = np.flatnonzero(pixels.max(1) > 127), np.flatnonzero(pixels.max(0) > 127)
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()


@functools.lru_cache(maxsize=8)
def _load_font(font: str) -> ImageFont.FreeTypeFont:
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise FlorenceError(
            "source scenes: written signs need the fonts of matplotlib; install matplotlib, or set signs: 0"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "mpl-data" / "fonts" / "ttf" / f"{font}.ttf"
    # Raqm may space letters differently; the basic layout is the same on every machine.
    return ImageFont.truetype(str(path), 82, layout_engine=ImageFont.Layout.BASIC)


def draw_sign(rng: np.random.Generator, lines: tuple[str, ...], colour: str, side: int) -> Figure:
    """Draw a panel, perhaps on a pole and rotated a little, with lines of text at least a tenth of ``side`` high."""
    import cv2

    font, scale = FONTS[int(rng.integers(len(FONTS)))], SUPERSAMPLE
    high = int(np.ceil(side * (0.105 + 0.03 * rng.random()) * scale))
    inks = [_draw_text(text, font) for text in lines]
    inks = [
        cv2.resize(ink, (max(ink.shape[1] * high // ink.shape[0], 1), high), interpolation=cv2.INTER_AREA)
        for ink in inks
    ]
    pad, gap, line = int(high * 0.45), int(high * 0.4), max(round(side * scale / 90), 1)
    wide = max(ink.shape[1] for ink in inks) + 2 * pad
    tall = len(inks) * high + (len(inks) - 1) * gap + 2 * pad
    pole = int(high * (0.8 + 0.8 * rng.random())) if rng.random() < 0.4 else 0
    rgb, alpha = np.zeros((tall + pole, wide, 3), np.float32), np.zeros((tall + pole, wide), np.uint8)
    panel = _vary_colour(rng, colour)
    ink_rgb = np.array((24, 24, 28) if panel @ (0.3, 0.59, 0.11) > 140 else (250, 250, 250), np.float32)
    half = max(wide // 24, line)
    rgb[tall:, :], alpha[tall:, wide // 2 - half : wide // 2 + half] = (112, 112, 118), 255
    rgb[:tall], alpha[:tall] = ink_rgb, 255
    rgb[line : tall - line, line : wide - line] = panel
    quads = []
    for row, ink in enumerate(inks):
        y, x = pad + row * (high + gap), (wide - ink.shape[1]) // 2
        share = ink[..., None].astype(np.float32) / 255
        spot = rgb[y : y + high, x : x + ink.shape[1]]
        spot += (ink_rgb - spot) * share
        quads.append(np.array([(x, y), (x + ink.shape[1], y), (x + ink.shape[1], y + high), (x, y + high)], float))
    angle = (rng.random() * 2 - 1) * 10 if rng.random() < 0.5 else 0.0
    return _rotate_figure(rgb, alpha, angle, scale, tuple(quads))


def _rotate_figure(
    rgb: np.ndarray, alpha: np.ndarray, angle: float, scale: int, quads: tuple[np.ndarray, ...] = ()
) -> Figure:
    """Return a figure rotated clockwise by ``angle`` degrees and made ``scale`` times smaller. ``alpha``: 0…255."""
    import cv2

    height, width = alpha.shape
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    out_w, out_h = (
        int(np.ceil(v / scale) + 2) * scale
        for v in (abs(c) * width + abs(s) * height, abs(s) * width + abs(c) * height)
    )
    # warpAffine counts from the centre of the first pixel.
    old, new = np.array([(width - 1) / 2, (height - 1) / 2]), np.array([(out_w - 1) / 2, (out_h - 1) / 2])
    linear = np.array([[c, -s], [s, c]])
    shift = new - linear @ old
    affine = np.concatenate([linear, shift[:, None]], axis=1)
    rgb = cv2.warpAffine(rgb, affine, (out_w, out_h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(alpha, affine, (out_w, out_h), flags=cv2.INTER_LINEAR)
    if scale > 1:
        small = (out_w // scale, out_h // scale)
        rgb, alpha = (
            cv2.resize(rgb, small, interpolation=cv2.INTER_AREA),
            cv2.resize(alpha, small, interpolation=cv2.INTER_AREA),
        )
    return _crop_figure(rgb, alpha, tuple(((q - 0.5) @ linear.T + shift + 0.5) / scale for q in quads))


def draw_cutout(rgba: np.ndarray, size: float, angle: float) -> Figure:
    """Draw a cut-out (h, w, 4) uint8 with a longer side of ``size`` pixels, rotated clockwise by ``angle`` degrees."""
    import cv2

    height, width = rgba.shape[:2]
    factor = size / max(height, width)
    target = (max(round(width * factor), 1), max(round(height * factor), 1))
    share = rgba[..., 3:].astype(np.float32) / 255
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    # Colours are weighted by alpha, so that transparent pixels do not bleed in.
    weighted = cv2.resize(rgba[..., :3] * share, target, interpolation=method)
    alpha = cv2.resize(share[..., 0], target, interpolation=method)
    rgb = weighted / np.maximum(alpha, 1e-3)[..., None]
    return _rotate_figure(np.clip(rgb, 0, 255), np.round(alpha * 255).astype(np.uint8), angle, 1)
