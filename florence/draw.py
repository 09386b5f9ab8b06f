"""Draw regions on an image: boxes, quads, masks and their labels, and a caption below."""

from __future__ import annotations

import importlib.util
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from florence.records import Annotation, Region

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
"""A label has the same colour in every image."""
MIN_SIDE = 320
"""Pixels of the longer side that smaller images are enlarged to, so that labels can be read."""
MAX_LABEL = 40
"""Characters of a label; longer ones are cut."""


def choose_colour(label: str) -> Colour:
    """Return the colour of a label."""
    return PALETTE[zlib.crc32(label.encode("utf-8", "surrogatepass")) % len(PALETTE)]


def list_drawable_regions(annotation: Annotation) -> tuple[Region, ...]:
    """Return the regions of an annotation that have a box, quad or polygons; one without a label gets the text."""
    regions = (r if r.label else replace(r, label=annotation.text) for r in annotation.regions)
    return tuple(r for r in regions if r.box is not None or r.quad is not None or r.polygons)


def draw_regions(
    pixels: np.ndarray,
    regions: Sequence[Region],
    *,
    caption: str = "",
    colours: Sequence[Colour] | None = None,
    side: int | None = None,
) -> np.ndarray:
    """Return a copy of an image with ``regions`` drawn on it and ``caption`` written below it.

    ``pixels``: (H, W, 3) uint8, RGB; regions in its pixels. ``colours``: one for each region; None: by label. ``side``:
    longer side of the drawn image; None keeps its size, but enlarges one below `MIN_SIDE`. Returns (H', W', 3) uint8,
    H' with the strip of the caption. Raises ValueError if there are not as many colours as regions.
    """
    if colours is not None and len(colours) != len(regions):
        raise ValueError(f"{len(colours)} colours for {len(regions)} regions")
    height, width = pixels.shape[:2]
    scale = (side or max(height, width, MIN_SIDE)) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    shapes = [_scale_region(r, size[0] / width, size[1] / height) for r in regions]
    paints = list(colours) if colours is not None else [choose_colour(r.label) for r in regions]
    image = _fill_polygons(image, shapes, paints)
    _draw_lines(image, shapes, paints)
    _draw_labels(image, shapes, paints)
    return np.asarray(_add_caption(image, caption) if caption else image)


def encode_jpeg(pixels: np.ndarray, quality: int = 82) -> bytes:
    """Return an image (H, W, 3) uint8 as JPEG; the same pixels give the same bytes."""
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, "JPEG", quality=quality, optimize=True)
    return sink.getvalue()


@dataclass(frozen=True, slots=True)
class _Shape:
    """A region in pixels of the drawn image. ``rings``: closed lines; ``corner``: where its label goes."""

    label: str
    box: tuple[float, float, float, float] | None
    rings: tuple[tuple[tuple[float, float], ...], ...]
    filled: bool
    corner: tuple[float, float]


def _scale_region(region: Region, fx: float, fy: float) -> _Shape:
    def points(flat: Sequence[float]) -> tuple[tuple[float, float], ...]:
        return tuple((flat[i] * fx, flat[i + 1] * fy) for i in range(0, len(flat) - 1, 2))

    bounds = region.bounds
    polygons = tuple(points(p) for p in region.polygons if len(p) >= 6)
    rings = polygons or ((points(region.quad),) if region.quad is not None else ())
    box = region.box if region.quad is None else None
    score = f" {region.score:.2f}" if region.score is not None else ""
    text = " ".join(region.label.split())
    text = text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"
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


def _fill_polygons(image: Image.Image, shapes: Sequence[_Shape], paints: Sequence[Colour]) -> Image.Image:
    if not any(shape.filled for shape in shapes):
        return image
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    brush = ImageDraw.Draw(layer)
    for shape, paint in zip(shapes, paints, strict=True):
        for ring in shape.rings if shape.filled else ():
            brush.polygon(ring, fill=(*paint, 105))
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _draw_lines(image: Image.Image, shapes: Sequence[_Shape], paints: Sequence[Colour]) -> None:
    brush = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 240))
    for shape, paint in zip(shapes, paints, strict=True):
        for ring in shape.rings:
            brush.line((*ring, ring[0]), fill=paint, width=line, joint="curve")
        if shape.box is not None:
            brush.rectangle(shape.box, outline=paint, width=line)


def _draw_labels(image: Image.Image, shapes: Sequence[_Shape], paints: Sequence[Colour]) -> None:
    brush = ImageDraw.Draw(image)
    size = max(11, round(max(image.size) / 32))
    font = _load_font(size)
    taken: list[tuple[float, float, float, float]] = []
    for shape, paint in zip(shapes, paints, strict=True):
        if not shape.label:
            continue
        width, height = brush.textlength(shape.label, font=font) + size * 0.6, size * 1.35
        tag = _place_label(shape.corner, width, height, image.size, taken)
        taken.append(tag)
        brush.rectangle(tag, fill=paint)
        ink = (0, 0, 0) if 0.299 * paint[0] + 0.587 * paint[1] + 0.114 * paint[2] > 140 else (255, 255, 255)
        brush.text((tag[0] + size * 0.3, tag[1] + height / 2), shape.label, fill=ink, font=font, anchor="lm")


def _place_label(
    corner: tuple[float, float],
    width: float,
    height: float,
    canvas: tuple[int, int],
    taken: Sequence[tuple[float, ...]],
) -> tuple[float, float, float, float]:
    """Return a free box inside the canvas: above the corner, else below it, else one line further down, and so on."""
    x = max(0.0, min(corner[0], canvas[0] - width))
    first = None
    for step in (-1, 0, 1, 2, 3, -2, -3):
        y = max(0.0, min(corner[1] + step * height, canvas[1] - height))
        tag = (x, y, x + width, y + height)
        first = first or tag
        if not any(tag[0] < t[2] and t[0] < tag[2] and tag[1] < t[3] and t[1] < tag[3] for t in taken):
            return tag
    return first  # type: ignore[return-value]


def _add_caption(image: Image.Image, caption: str) -> Image.Image:
    size = max(13, round(max(image.size) / 34))
    font = _load_font(size)
    lines = _wrap_text(caption, font, image.width - size, ImageDraw.Draw(image))
    step = round(size * 1.4)
    result = Image.new("RGB", (image.width, image.height + step * len(lines) + size), (255, 255, 255))
    result.paste(image, (0, 0))
    brush = ImageDraw.Draw(result)
    for row, text in enumerate(lines):
        brush.text((size // 2, image.height + size // 2 + row * step), text, fill=(20, 20, 20), font=font)
    return result


def _wrap_text(text: str, font: ImageFont.FreeTypeFont, width: float, brush: ImageDraw.ImageDraw) -> list[str]:
    """Return ``text`` in lines of at most ``width`` pixels; a wider word is cut."""
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
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    # DejaVu comes with matplotlib and has Greek, Cyrillic and accents; found without importing matplotlib.
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        return ImageFont.load_default(size)  # type: ignore[return-value]
    path = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
