"""Sprites and backgrounds of scenes from a folder, with their descriptions."""

from __future__ import annotations

import functools
import posixpath
import re

import numpy as np
from PIL import Image

from florence.drawn_scenes.figures import Cutout, draw_cutout
from florence.errors import DataError, ImageError
from florence.geometry import mask_polygons
from florence.images import decode_image, is_image, open_image
from florence.sources._files import Tree, TreeFile
from florence.text_files import decode_text, explain_non_caption


def read_cutouts(
    tree: Tree, files: list[TreeFile], side: int, min_extent: float
) -> tuple[list[Cutout], list[ImageError]]:
    """Return the sprites of a folder, shrunk to what a scene needs, and an error for each that cannot be used.

    ``side``: pixels of the scene. ``min_extent``: the share of it that the smallest objects take.
    """
    cutouts, errors, notes = [], [], find_notes(files)
    for entry in files:
        if not is_image(entry.name):
            continue
        try:
            label = read_note(tree, notes, entry.name) or _label_from_name(entry.name)
            cutouts.append(Cutout(label, _read_cutout(tree.read(entry), f"sprites/{entry.name}", side, min_extent)))
        except ImageError as error:
            errors.append(error)
    return cutouts, errors


def _read_cutout(data: bytes, name: str, side: int, min_extent: float) -> np.ndarray:
    with open_image(data, name) as image:
        if "A" not in image.getbands() and "transparency" not in image.info:
            raise ImageError(name, "unreadable", "a sprite needs a transparent background (RGBA)")
        rgba = image.convert("RGBA")
    mask = np.asarray(rgba)[..., 3] > 127
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        raise ImageError(name, "unreadable", "no pixel of the sprite has alpha above 127")
    rgba = rgba.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    rgba.thumbnail((side, side), Image.Resampling.LANCZOS)
    small = draw_cutout(np.asarray(rgba), min_extent * side, 0)
    if not mask_polygons(np.pad(small.mask, 1)):
        raise ImageError(
            name, "unreadable", f"too thin for polygons at {min_extent * side:.0f} pixels; make scenes larger"
        )
    return np.asarray(rgba)


def find_notes(files: list[TreeFile]) -> dict[str, TreeFile]:
    """Return the .txt files by their names without the suffix."""
    return {
        stem: entry for entry in files for stem, suffix in [posixpath.splitext(entry.name)] if suffix.lower() == ".txt"
    }


def read_note(tree: Tree, notes: dict[str, TreeFile], name: str) -> str | None:
    """Return the text beside an image, on one line; None where there is none, or it holds something else."""
    entry = notes.get(posixpath.splitext(name)[0])
    if entry is None:
        return None
    try:
        text = decode_text(tree.read(entry))
    except DataError:
        return None
    return None if explain_non_caption(text, entry.name) else " ".join(text.split())


def _label_from_name(name: str) -> str:
    """Return the label in a file name: ``cats/grey_cat-02.png`` is "grey cat"."""
    stem = posixpath.splitext(posixpath.basename(name))[0]
    return " ".join(re.sub(r"[\d_\-.]+", " ", stem).split()).lower() or "object"


@functools.lru_cache(maxsize=64)
def read_background(tree: Tree, entry: TreeFile, side: int) -> np.ndarray:
    """Return a background image (h, w, 3); its shorter side is 1.5 times that of the scene."""
    import cv2

    pixels = decode_image(tree.read(entry), f"backgrounds/{entry.name}")
    height, width = pixels.shape[:2]
    factor = 1.5 * side / min(height, width)
    size = (max(round(width * factor), side), max(round(height * factor), side))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def crop_square(rng: np.random.Generator, pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a random square of a background image, resized to ``side``."""
    import cv2

    height, width = pixels.shape[:2]
    span = side + int(rng.integers(min(height, width) - side + 1))
    y, x = int(rng.integers(height - span + 1)), int(rng.integers(width - span + 1))
    return cv2.resize(pixels[y : y + span, x : x + span], (side, side), interpolation=cv2.INTER_AREA)
