"""Regions drawn on a picture: boxes, quads, masks, their texts, and a caption beneath."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from florence.records import Annotation, Region

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
PALETTE: tuple[Colour, ...] = (
    (230, 85, 60),
    (40, 130, 215),
    (45, 160, 90),
    (240, 175, 35),
    (150, 90, 205),
    (20, 170, 175),
    (225, 85, 150),
    (120, 150, 30),
    (95, 100, 225),
    (200, 110, 35),
    (0, 150, 140),
    (180, 60, 90),
)
"""A label always has the same one of these, in every picture."""
MIN_SIDE = 320
LABEL = 40


def colour_of(label: str) -> Colour:
    """The colour of a label."""
    return PALETTE[zlib.crc32(label.encode("utf-8", "surrogatepass")) % len(PALETTE)]


def labelled(annotation: Annotation) -> tuple[Region, ...]:
    """The annotation's regions that are somewhere, with its text where a region has no label of its own."""
    regions = (r if r.label else replace(r, label=annotation.text) for r in annotation.regions)
    return tuple(r for r in regions if r.box is not None or r.quad is not None or r.polygons)


def draw(
    pixels: np.ndarray,
    regions: Sequence[Region],
    *,
    caption: str = "",
    colours: Sequence[Colour] | None = None,
    side: int | None = None,
) -> np.ndarray:
    """A copy of a picture with ``regions`` drawn on it and ``caption`` written beneath.

    ``pixels``: (H, W, 3) uint8, RGB; regions in pixels of it. ``colours``: one a region; by label where None.
    ``side``: longest side of the picture in the result; None keeps its size, but enlarges a picture under 320 pixels
    so that labels can be read. Returns (H', W', 3) uint8, H' with the caption's strip. Raises ValueError where
    ``colours`` are not as many as regions.
    """
    from PIL import Image

    if colours is not None and len(colours) != len(regions):
        raise ValueError(f"{len(colours)} colours for {len(regions)} regions")
    height, width = pixels.shape[:2]
    scale = (side or max(height, width, MIN_SIDE)) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    shapes = [_scaled(r, size[0] / width, size[1] / height) for r in regions]
    paints = list(colours) if colours is not None else [colour_of(r.label) for r in regions]
    picture = _fill(picture, shapes, paints)
    _outline(picture, shapes, paints)
    _tags(picture, shapes, paints)
    return np.asarray(_with_caption(picture, caption) if caption else picture)


def jpeg(pixels: np.ndarray, quality: int = 82) -> bytes:
    """A picture (H, W, 3) uint8 as JPEG; the same pixels give the same bytes."""
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, "JPEG", quality=quality, optimize=True)
    return sink.getvalue()


@dataclass(frozen=True, slots=True)
class _Shape:
    label: str
    box: tuple[float, float, float, float] | None
    rings: tuple[tuple[tuple[float, float], ...], ...]
    filled: bool
    corner: tuple[float, float]


def _scaled(region: Region, fx: float, fy: float) -> _Shape:
    def points(flat: Sequence[float]) -> tuple[tuple[float, float], ...]:
        return tuple((flat[i] * fx, flat[i + 1] * fy) for i in range(0, len(flat) - 1, 2))

    bounds = region.bounds
    polygons = tuple(points(p) for p in region.polygons if len(p) >= 6)
    rings = polygons or ((points(region.quad),) if region.quad is not None else ())
    box = region.box if region.quad is None else None
    score = f" {region.score:.2f}" if region.score is not None else ""
    text = " ".join(region.label.split())
    text = text if len(text) <= LABEL else text[: LABEL - 1] + "…"
    return _Shape(
        label=f"{text}{score}".strip(),
        box=(
            *points((min(box[0], box[2]), min(box[1], box[3])))[0],
            *points((max(box[0], box[2]), max(box[1], box[3])))[0],
        )
        if box
        else None,
        rings=rings,
        filled=bool(polygons),
        corner=(bounds[0] * fx, bounds[1] * fy),
    )


def _fill(picture: Image.Image, shapes: Sequence[_Shape], paints: Sequence[Colour]) -> Image.Image:
    from PIL import Image, ImageDraw

    if not any(shape.filled for shape in shapes):
        return picture
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    brush = ImageDraw.Draw(layer)
    for shape, paint in zip(shapes, paints, strict=True):
        for ring in shape.rings if shape.filled else ():
            brush.polygon(ring, fill=(*paint, 105))
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def _outline(picture: Image.Image, shapes: Sequence[_Shape], paints: Sequence[Colour]) -> None:
    from PIL import ImageDraw

    brush = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 240))
    for shape, paint in zip(shapes, paints, strict=True):
        for ring in shape.rings:
            brush.line((*ring, ring[0]), fill=paint, width=line, joint="curve")
        if shape.box is not None:
            brush.rectangle(shape.box, outline=paint, width=line)


def _tags(picture: Image.Image, shapes: Sequence[_Shape], paints: Sequence[Colour]) -> None:
    from PIL import ImageDraw

    brush = ImageDraw.Draw(picture)
    size = max(11, round(max(picture.size) / 32))
    font = _font(size)
    taken: list[tuple[float, float, float, float]] = []
    for shape, paint in zip(shapes, paints, strict=True):
        if not shape.label:
            continue
        width, height = brush.textlength(shape.label, font=font) + size * 0.6, size * 1.35
        tag = _place(shape.corner, width, height, picture.size, taken)
        taken.append(tag)
        brush.rectangle(tag, fill=paint)
        ink = (0, 0, 0) if 0.299 * paint[0] + 0.587 * paint[1] + 0.114 * paint[2] > 140 else (255, 255, 255)
        brush.text((tag[0] + size * 0.3, tag[1] + height / 2), shape.label, fill=ink, font=font, anchor="lm")


def _place(
    corner: tuple[float, float],
    width: float,
    height: float,
    canvas: tuple[int, int],
    taken: Sequence[tuple[float, ...]],
) -> tuple[float, float, float, float]:
    """Above the corner if that is free, else below it, else one line further down, and so on; inside the canvas."""
    x = max(0.0, min(corner[0], canvas[0] - width))
    first = None
    for step in (-1, 0, 1, 2, 3, -2, -3):
        y = max(0.0, min(corner[1] + step * height, canvas[1] - height))
        tag = (x, y, x + width, y + height)
        first = first or tag
        if not any(tag[0] < t[2] and t[0] < tag[2] and tag[1] < t[3] and t[1] < tag[3] for t in taken):
            return tag
    return first  # type: ignore[return-value]


def _with_caption(picture: Image.Image, caption: str) -> Image.Image:
    from PIL import Image, ImageDraw

    size = max(13, round(max(picture.size) / 34))
    font = _font(size)
    lines = _wrapped(caption, font, picture.width - size, ImageDraw.Draw(picture))
    step = round(size * 1.4)
    result = Image.new("RGB", (picture.width, picture.height + step * len(lines) + size), (255, 255, 255))
    result.paste(picture, (0, 0))
    brush = ImageDraw.Draw(result)
    for row, text in enumerate(lines):
        brush.text((size // 2, picture.height + size // 2 + row * step), text, fill=(20, 20, 20), font=font)
    return result


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, brush: ImageDraw.ImageDraw) -> list[str]:
    """Lines of ``text`` no wider than ``width``; a word that is wider is cut."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if brush.textlength(joined, font=font) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while len(word) > 1 and brush.textlength(word, font=font) > width:
            cut = next(
                n for n in range(len(word) - 1, 0, -1) if n == 1 or brush.textlength(word[:n], font=font) <= width
            )
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line else lines


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # DejaVu comes with matplotlib and has Greek, Cyrillic and accents; finding it by the spec saves importing matplotlib.
    import importlib.util
    from pathlib import Path

    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        return ImageFont.load_default(size)  # type: ignore[return-value]
    path = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
