"""Annotations as JSON has them in the protocol of lines, and the claims that they make once they are checked."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from florence.errors import FlorenceError
from florence.geometry import Box, Polygon, Quad, box_quad, clip_box, polygon_area
from florence.records import CAPTIONS, Claim, ImageRecord, Region

MAX_SHOWN = 80
"""Characters of a wrong value that an error shows."""
SHAPES: dict[str, str] = {
    "<OD>": "box",
    "<DENSE_REGION_CAPTION>": "box",
    "<CAPTION_TO_PHRASE_GROUNDING>": "box",
    "<OCR_WITH_REGION>": "quad",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "polygons",
    "<VQA>": "box",
    "<CLASSIFICATION>": "box",
}
"""The shape of each annotation type's regions; captions have none."""
MULTI_REGION = ("<CAPTION_TO_PHRASE_GROUNDING>", "<VQA>")
"""Annotation types with several regions, whose labels are not the text; the others have one, labelled with the text."""
WHOLE_IMAGE = ("<VQA>", "<CLASSIFICATION>")
"""Annotation types about the whole image, which need no box."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Score = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1)]
Index = Annotated[int, Field(strict=True, ge=0)]


def _check_encodable(text: str) -> str:
    # JSON can hold half of a surrogate pair, UTF-8 cannot: it would stop the whole table when that is written.
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_check_encodable)]
Numbers = tuple[Number, ...]


class WireLine(BaseModel):
    """A JSON object of the protocol. Unknown fields are ignored: a later version of the protocol may have more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RegionLine(WireLine):
    """A region as JSON has it; null is the same as left out."""

    label: Text | None = None
    box: Annotated[Numbers, Field(min_length=4, max_length=4)] | None = None
    quad: Annotated[Numbers, Field(min_length=8, max_length=8)] | None = None
    polygons: tuple[Annotated[Numbers, Field(min_length=6)], ...] | None = None
    score: Score | None = None
    span: Annotated[tuple[Index, ...], Field(min_length=2, max_length=2)] | None = None

    def region(self) -> Region:
        """Return the same region, unchecked."""
        span = None if self.span is None else (self.span[0], self.span[1])
        return Region(
            self.label or "",
            cast("Box | None", self.box),
            cast("Quad | None", self.quad),
            self.polygons or (),
            self.score,
            span,
        )


class AnnotationLine(RegionLine):
    """An annotation as JSON has it. In the short form, without ``regions``, it has the fields of its one region."""

    task: str = "<OD>"
    text: Text | None = None
    regions: tuple[RegionLine, ...] | None = None

    def claim(self) -> Claim:
        """Return the same claim, unchecked."""
        return Claim(self.task, self.text or "", tuple(region.region() for region in self.regions or ()), self.score)


def build_claim(line: AnnotationLine, where: str, record: ImageRecord) -> Claim:
    """Return the claim that a line makes about an image: regions clipped to the image, corners put in order.

    ``where``: the line's name in errors. Raises FlorenceError naming the field, what was found and what is allowed.
    """
    lines = _region_lines(line, where)
    text = line.text if line.text is not None or line.task in (*MULTI_REGION, *CAPTIONS) else lines[0][1].label
    if text is None or not text.strip():
        raise FlorenceError(f"{where}.text: a text that is not empty is expected; found {text!r}")
    regions = tuple(_build_region(region, name, line.task, text, record) for name, region in lines)
    if line.task == "<CAPTION_TO_PHRASE_GROUNDING>" and len({(region.label, region.span) for region in regions}) > 1:
        raise FlorenceError(
            f"{where}.regions: all regions of one phrase are expected to have its label and span; "
            f"found {shorten([region.label for region in regions])}"
        )
    return Claim(line.task, text, regions, line.score)


def _region_lines(line: AnnotationLine, where: str) -> list[tuple[str, RegionLine]]:
    """Return the regions of a line, each with its name in errors. Raises FlorenceError for a wrong number of them."""
    short = [name for name in ("label", "box", "quad", "polygons", "span") if getattr(line, name)]
    if line.task in CAPTIONS:
        if line.regions or short:
            raise FlorenceError(
                f"{where}: a caption is a text without regions; found {', '.join(short or ['regions'])}"
            )
        return []
    if line.regions is None:
        return [(where, line)]
    if short:
        raise FlorenceError(
            f"{where}: regions, or the fields of the one region, are expected; found regions and {', '.join(short)}"
        )
    if not line.regions or (len(line.regions) > 1 and line.task not in MULTI_REGION):
        raise FlorenceError(
            f"{where}.regions: {'one or more are' if line.task in MULTI_REGION else 'one is'} expected "
            f"for {line.task}; found {len(line.regions)}"
        )
    return [(f"{where}.regions.{index}", region) for index, region in enumerate(line.regions)]


def _build_region(line: RegionLine, where: str, task: str, text: str, record: ImageRecord) -> Region:
    """Return the region of a line inside the image. Raises FlorenceError for a wrong label or shape, or no extent."""
    label = _label(line, where, task, text)
    width, height = float(record.width), float(record.height)
    if odd := [len(points) for points in line.polygons or () if len(points) % 2]:
        raise FlorenceError(
            f"{where}.polygons: x and y of each corner, an even number of values, are expected; found {odd[0]}"
        )
    box = None if line.box is None else clip_box(line.box, width, height)
    quad = None if line.quad is None else cast(Quad, _clip_clockwise(line.quad, width, height))
    polygons = tuple(_clip_clockwise(points, width, height) for points in line.polygons or ())
    if box is not None and quad is None and SHAPES[task] == "quad":
        quad = box_quad(box)
        box = None
    if box is None and task in WHOLE_IMAGE:
        box = (0.0, 0.0, width, height)
    if not {"box": box, "quad": quad, "polygons": polygons}[SHAPES[task]]:
        raise FlorenceError(f"{where}.{SHAPES[task]}: {task} needs one; found none")
    for one in (Region(label, box=box), Region(label, quad=quad), Region(label, polygons=polygons)):
        if one != Region(label) and not (one.bounds[0] < one.bounds[2] and one.bounds[1] < one.bounds[3]):
            found = line.box if one.box else line.quad or line.box if one.quad else line.polygons
            raise FlorenceError(
                f"{where}: a region of some extent inside the image, 0, 0, {width:g}, {height:g}, is expected; "
                f"found {shorten(found)}"
            )
    return Region(label, box, quad, polygons, line.score, None if line.span is None else (line.span[0], line.span[1]))


def _label(line: RegionLine, where: str, task: str, text: str) -> str:
    """Return the label of a region: its own, or what its span cuts out of the text, or the text."""
    label = line.label
    if line.span is not None:
        start, end = line.span
        if not start < end <= len(text):
            raise FlorenceError(
                f"{where}.span: start and end within the {len(text)} characters of the text are expected; "
                f"found {list(line.span)}"
            )
        label = text[start:end] if label is None else label
        if label != text[start:end]:
            raise FlorenceError(
                f"{where}.label: what the span cuts out of the text is expected, {shorten(text[start:end])}; "
                f"found {shorten(label)}"
            )
    if task not in MULTI_REGION:
        label = text if label is None else label
        if label != text:
            raise FlorenceError(
                f"{where}.label: the annotation's text is expected, {shorten(text)}; found {shorten(label)}"
            )
    if label is None or not label.strip():
        raise FlorenceError(f"{where}.label: a text that is not empty is expected; found {label!r}")
    return label


def _clip_clockwise(points: Polygon, width: float, height: float) -> Polygon:
    """Return corners moved into the image; anticlockwise ones are turned round, from the first one on."""
    moved = [min(max(float(v), 0.0), height if i % 2 else width) for i, v in enumerate(points)]
    if polygon_area(moved) < 0:
        corners = list(zip(moved[0::2], moved[1::2], strict=True))
        moved = [v for corner in (corners[0], *reversed(corners[1:])) for v in corner]
    return tuple(moved)


def shorten(value: Any) -> str:
    """Return ``value`` as errors show it, shortened."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"
