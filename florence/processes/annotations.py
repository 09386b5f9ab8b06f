"""Annotations as they stand in JSON, and the claims that they make once checked. Part of the wire form (`_wire`)."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from florence.errors import FlorenceError
from florence.geometry import Box, Polygon, Quad, box_quad, clip_box, polygon_area
from florence.records import CAPTIONS, Claim, ImageRecord, Region

SHOWN = 80
"""Characters of what was found that an error shows."""
PLACED: dict[str, str] = {
    "<OD>": "box",
    "<DENSE_REGION_CAPTION>": "box",
    "<CAPTION_TO_PHRASE_GROUNDING>": "box",
    "<OCR_WITH_REGION>": "quad",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "polygons",
    "<VQA>": "box",
    "<CLASSIFICATION>": "box",
}
"""How each kind says where; captions do not."""
MANY = ("<CAPTION_TO_PHRASE_GROUNDING>", "<VQA>")
"""Kinds that may have several regions, whose labels are not the text; all others have one, under the text itself."""
WHOLE = ("<VQA>", "<CLASSIFICATION>")
"""Kinds that speak of the whole image, which needs no box."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Score = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1)]
Index = Annotated[int, Field(strict=True, ge=0)]


def _encodable(text: str) -> str:
    # Half of a surrogate pair, which JSON can hold and UTF-8 cannot, would stop the whole table when it is written.
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Numbers = tuple[Number, ...]


class WireLine(BaseModel):
    """Fields that are not known are ignored: a later version of the form may have more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RegionLine(WireLine):
    """A place in an image as it is written; null is the same as not there."""

    label: Text | None = None
    box: Annotated[Numbers, Field(min_length=4, max_length=4)] | None = None
    quad: Annotated[Numbers, Field(min_length=8, max_length=8)] | None = None
    polygons: tuple[Annotated[Numbers, Field(min_length=6)], ...] | None = None
    score: Score | None = None
    span: Annotated[tuple[Index, ...], Field(min_length=2, max_length=2)] | None = None

    def region(self) -> Region:
        """The same place as it is, unchecked."""
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
    """An annotation as it is written. In the short form, without ``regions``, the fields of its one place stand in it."""

    task: str = "<OD>"
    text: Text | None = None
    regions: tuple[RegionLine, ...] | None = None

    def claim(self) -> Claim:
        """The same claim as it is, unchecked."""
        return Claim(self.task, self.text or "", tuple(place.region() for place in self.regions or ()), self.score)


def build_claim(line: AnnotationLine, where: str, record: ImageRecord) -> Claim:
    """The claim that a line makes about an image, its places clipped to the image and their corners put in order.

    ``where``: what errors call the line. Raises FlorenceError naming the field, what was found and what is allowed.
    """
    places = _places(line, where)
    text = line.text if line.text is not None or line.task in (*MANY, *CAPTIONS) else places[0][1].label
    if text is None or not text.strip():
        raise FlorenceError(f"{where}.text: a text that is not empty is expected; found {text!r}")
    regions = tuple(_region(place, name, line.task, text, record) for name, place in places)
    if line.task == "<CAPTION_TO_PHRASE_GROUNDING>" and len({(region.label, region.span) for region in regions}) > 1:
        raise FlorenceError(
            f"{where}.regions: all regions of one phrase are expected to have its label and span; found {shorten([region.label for region in regions])}"
        )
    return Claim(line.task, text, regions, line.score)


def _places(line: AnnotationLine, where: str) -> list[tuple[str, RegionLine]]:
    """The places of a line, and what errors call each."""
    short = [name for name in ("label", "box", "quad", "polygons", "span") if getattr(line, name)]
    if line.task in CAPTIONS:
        if line.regions or short:
            raise FlorenceError(f"{where}: a caption is a text without places; found {', '.join(short or ['regions'])}")
        return []
    if line.regions is None:
        return [(where, line)]
    if short:
        raise FlorenceError(
            f"{where}: regions, or the fields of the one place, are expected; found regions and {', '.join(short)}"
        )
    if not line.regions or (len(line.regions) > 1 and line.task not in MANY):
        raise FlorenceError(
            f"{where}.regions: {'one or more are' if line.task in MANY else 'one is'} expected for {line.task}; found {len(line.regions)}"
        )
    return [(f"{where}.regions.{index}", place) for index, place in enumerate(line.regions)]


def _region(place: RegionLine, where: str, task: str, text: str, record: ImageRecord) -> Region:
    label = _label(place, where, task, text)
    width, height = float(record.width), float(record.height)
    if odd := [len(points) for points in place.polygons or () if len(points) % 2]:
        raise FlorenceError(
            f"{where}.polygons: x and y of each corner, an even number of values, are expected; found {odd[0]}"
        )
    box = None if place.box is None else clip_box(place.box, width, height)
    quad = None if place.quad is None else cast(Quad, _inside(place.quad, width, height))
    polygons = tuple(_inside(points, width, height) for points in place.polygons or ())
    if box is not None and quad is None and PLACED[task] == "quad":
        quad = box_quad(box)
        box = None
    if box is None and task in WHOLE:
        box = (0.0, 0.0, width, height)
    if not {"box": box, "quad": quad, "polygons": polygons}[PLACED[task]]:
        raise FlorenceError(f"{where}.{PLACED[task]}: {task} needs one; found none")
    for one in (Region(label, box=box), Region(label, quad=quad), Region(label, polygons=polygons)):
        if one != Region(label) and not (one.bounds[0] < one.bounds[2] and one.bounds[1] < one.bounds[3]):
            found = place.box if one.box else place.quad or place.box if one.quad else place.polygons
            raise FlorenceError(
                f"{where}: a place of some extent inside the image, 0, 0, {width:g}, {height:g}, is expected; found {shorten(found)}"
            )
    return Region(
        label, box, quad, polygons, place.score, None if place.span is None else (place.span[0], place.span[1])
    )


def _label(place: RegionLine, where: str, task: str, text: str) -> str:
    """The label of a region: its own, what its span cuts out of the text, or the text."""
    label = place.label
    if place.span is not None:
        start, end = place.span
        if not start < end <= len(text):
            raise FlorenceError(
                f"{where}.span: start and end within the {len(text)} characters of the text are expected; found {list(place.span)}"
            )
        label = text[start:end] if label is None else label
        if label != text[start:end]:
            raise FlorenceError(
                f"{where}.label: what the span cuts out of the text is expected, {shorten(text[start:end])}; found {shorten(label)}"
            )
    if task not in MANY:
        label = text if label is None else label
        if label != text:
            raise FlorenceError(
                f"{where}.label: the annotation's text is expected, {shorten(text)}; found {shorten(label)}"
            )
    if label is None or not label.strip():
        raise FlorenceError(f"{where}.label: a text that is not empty is expected; found {label!r}")
    return label


def _inside(points: Polygon, width: float, height: float) -> Polygon:
    """Corners moved into the image and, where they run anticlockwise, turned round from the first one on."""
    moved = [min(max(float(v), 0.0), height if i % 2 else width) for i, v in enumerate(points)]
    if polygon_area(moved) < 0:
        corners = list(zip(moved[0::2], moved[1::2], strict=True))
        moved = [v for corner in (corners[0], *reversed(corners[1:])) for v in corner]
    return tuple(moved)


def shorten(value: Any) -> str:
    """``value`` as errors show it, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"
