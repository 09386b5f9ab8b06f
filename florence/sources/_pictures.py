"""Pictures of one's own in scenes: sprites and backgrounds from a folder, with what is said of them."""

from __future__ import annotations

import functools
import posixpath
import re
from dataclasses import dataclass

import numpy as np

from florence.errors import ImageError
from florence.geometry import mask_polygons
from florence.sources._figures import draw_cutout
from florence.sources._files import Entry, Tree, is_image


@dataclass(frozen=True, slots=True)
class Cutout:
    """An object from a folder: its name and its pixels (h, w, 4), cut to where it is visible."""

    label: str
    rgba: np.ndarray


def cutouts(tree: Tree, files: list[Entry], side: int, least: float) -> tuple[list[Cutout], list[ImageError]]:
    """The sprites of a folder, shrunk to what a scene needs, and those that cannot be used. ``side``: of the scene, in pixels; ``least``: the share of it that the smallest objects have."""
    found, broken, said = [], [], notes(files)
    for entry in files:
        if not is_image(entry.name):
            continue
        try:
            label = note(tree, said, entry.name) or _spoken(entry.name)
            found.append(Cutout(label, _cutout(tree.read(entry), f"sprites/{entry.name}", side, least)))
        except ImageError as error:
            broken.append(error)
    return found, broken


def _cutout(data: bytes, name: str, side: int, least: float) -> np.ndarray:
    from PIL import Image

    from florence.images import open_image

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
    small = draw_cutout(np.asarray(rgba), least * side, 0)
    if not mask_polygons(np.pad(small.mask, 1)):
        raise ImageError(
            name, "unreadable", f"too thin to be outlined at {least * side:.0f} pixels; make scenes larger"
        )
    return np.asarray(rgba)


def notes(files: list[Entry]) -> dict[str, Entry]:
    """The .txt files by their names without the ending."""
    return {
        stem: entry for entry in files for stem, suffix in [posixpath.splitext(entry.name)] if suffix.lower() == ".txt"
    }


def note(tree: Tree, said: dict[str, Entry], name: str) -> str | None:
    """The text beside a picture, on one line."""
    entry = said.get(posixpath.splitext(name)[0])
    return (" ".join(tree.read(entry).decode("utf-8-sig", "replace").split()) or None) if entry else None


def _spoken(name: str) -> str:
    """A label from a file name: ``cats/grey_cat-02.png`` is "grey cat"."""
    stem = posixpath.splitext(posixpath.basename(name))[0]
    return " ".join(re.sub(r"[\d_\-.]+", " ", stem).split()).lower() or "object"


@functools.lru_cache(maxsize=64)
def photo(tree: Tree, entry: Entry, side: int) -> np.ndarray:
    """A background picture (h, w, 3), its shorter side half as long again as the scene's."""
    import cv2

    from florence.images import decode_image

    pixels = decode_image(tree.read(entry), f"backgrounds/{entry.name}")
    height, width = pixels.shape[:2]
    factor = 1.5 * side / min(height, width)
    size = (max(round(width * factor), side), max(round(height * factor), side))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def crop(rng: np.random.Generator, pixels: np.ndarray, side: int) -> np.ndarray:
    """A square of a background picture, somewhere, somewhat scaled."""
    import cv2

    height, width = pixels.shape[:2]
    span = side + int(rng.integers(min(height, width) - side + 1))
    y, x = int(rng.integers(height - span + 1)), int(rng.integers(width - span + 1))
    return cv2.resize(pixels[y : y + span, x : x + span], (side, side), interpolation=cv2.INTER_AREA)
