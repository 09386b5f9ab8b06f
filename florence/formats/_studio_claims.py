"""Label Studio's results → claims about an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from florence.errors import DataError
from florence.formats import OBJECTS, LabelProblem, UnusableLabelError, describe_problem
from florence.formats._checks import check_number, check_polygon, check_text, make_region
from florence.formats._names import check_name
from florence.formats._studio_results import CATEGORY, DESCRIPTION, EXPRESSION, OCR_LINE, REGION_TEXTS, StudioResult
from florence.geometry import Polygon, box_quad, polygon_box
from florence.records import Claim, ImageRecord, Region

SHAPES = ("rectanglelabels", "rectangle", "polygonlabels", "polygon", "labels")
READ = (*SHAPES, "textarea", "choices")
WORDS = {
    "ellipse": "an ellipse",
    "ellipselabels": "an ellipse",
    "keypoint": "a key point",
    "keypointlabels": "a key point",
    "brush": "a brush mask",
    "brushlabels": "a brush mask",
    "bitmask": "a brush mask",
    "bitmasklabels": "a brush mask",
    "vector": "a line",
    "vectorlabels": "a line",
    "videorectangle": "a box in a video",
    "taxonomy": "a nested choice",
}
"""Types that are not read, as they are told; others by their own name."""


@dataclass(slots=True)
class _StudioRegion:
    """A region while it is read: its polygons, labels and texts. ``upright``: whether it is a box."""

    position: str
    polygons: list[Polygon]
    upright: bool
    labels: tuple[Any, ...]
    score: float | None
    texts: list[tuple[str, str]] = field(default_factory=list)


class ClaimBuilder:
    """Builds the claims of the results about one image. ``problems``: what cannot be used, as many as labels lost."""

    def __init__(self, control_types: Mapping[str, str], record: ImageRecord) -> None:
        self.control_types, self.record = control_types, record
        self.problems: list[LabelProblem] = []
        self.regions: dict[str, _StudioRegion] = {}
        self.refused: set[str] = set()

    def build(self, results: Sequence[StudioResult]) -> list[Claim]:
        """Return the claims of ``results``: those of regions first, then those about the whole image."""
        for result in results:
            if result.type in SHAPES:
                try:
                    self._add_region(result)
                except DataError as error:
                    self._lose(result, error)
        self.refused = {r.id for r in results if r.type not in ("textarea", "choices")} - self.regions.keys()
        whole: list[Claim] = []
        for result in results:
            if result.type in ("textarea", "choices"):
                whole += self._add_text(result)
            elif result.ends is not None:
                self._merge_regions(result, result.ends)
            elif result.type not in SHAPES:
                reason = WORDS.get(result.type) or (
                    f"a result of type {result.type:.40}" if result.type else "no result"
                )
                detail = f"{result.position}: found a result of type {result.type!r:.60}; {', '.join(READ)} are read"
                self._lose(result, UnusableLabelError(reason, detail))
        claims: list[Claim] = []
        for region in {id(region): region for region in self.regions.values()}.values():
            claims += self._region_claims(region)
        return [*claims, *whole]

    def _lose(self, result: StudioResult, error: DataError) -> None:
        problem = describe_problem(error)
        self.problems.append(LabelProblem(problem.reason, problem.detail, "label", result.count()))

    def _tell(self, reason: str, detail: str, count: int = 1) -> None:
        self.problems.append(LabelProblem(reason, detail, "part", count))

    # regions

    def _add_region(self, result: StudioResult) -> None:
        if result.size is not None and result.size != (self.record.width, self.record.height):
            width, height = result.size
            raise UnusableLabelError(
                "labels of another size",
                f"{result.position}: drawn on {width} × {height} pixels, but the upright image has "
                f"{self.record.width} × {self.record.height}",
            )
        corners, upright = read_shape(result, self.record)
        polygon = check_polygon(corners, f"{result.position}.value", self.record)
        known = self.regions.get(result.id)
        if known is not None and known.polygons[0] == polygon:  # a label and a shape, as two results
            known.labels = tuple([*known.labels, *(label for label in result.labels if label not in known.labels)])
            return
        key = result.id if known is None else result.position  # scripts give all regions one id
        self.regions[key] = _StudioRegion(result.position, [polygon], upright, result.labels, result.score)

    def _merge_regions(self, result: StudioResult, ends: tuple[str, str]) -> None:
        """Merge two polygons with the same labels that a relation connects into one region."""
        first, other = (self.regions.get(end) for end in ends)
        if (
            first is not None
            and other is not None
            and first is not other
            and first.labels == other.labels
            and not first.upright
            and not other.upright
        ):
            first.polygons += other.polygons
            first.texts += other.texts
            self.regions.update({key: first for key, region in self.regions.items() if region is other})
        else:
            self._tell("a relation", f"{result.position}: relations of {' and '.join(map(repr, ends))} are not read")

    # texts

    def _add_text(self, result: StudioResult) -> list[Claim]:
        """Return the claims of a text about the whole image; a text about a region is added to the region."""
        texts = []
        for value in result.texts():
            try:
                if isinstance(value, list):
                    detail = f"{result.position}: found the path {value!r:.60}; a choice without levels is expected"
                    raise UnusableLabelError("a nested choice", detail)
                texts.append(check_text(value, result.position))
            except UnusableLabelError as error:
                self.problems.append(describe_problem(error))
        if not texts:
            return []
        chosen, reason = result.type == "choices", ""
        annotation_type = self.control_types.get(result.control, CATEGORY if chosen else "<CAPTION>")
        if result.id in self.regions:
            kind = annotation_type if result.control in self.control_types or chosen else OCR_LINE
            if kind in REGION_TEXTS:
                self.regions[result.id].texts += [(kind, value) for value in texts]
                return []
            reason = "a choice about a region" if chosen else "a caption of a region"
        elif result.id in self.refused or annotation_type in REGION_TEXTS or {"x", "points"} & result.value.keys():
            reason = "a text that belongs to no region"
        if reason:
            detail = f"{result.position}: {reason} is not read; found {texts[0]!r:.60}"
            self.problems.append(LabelProblem(reason, detail, "label", len(texts)))
            return []
        if annotation_type == CATEGORY:
            return list(self._categories(texts, result))
        return [Claim(annotation_type, value, (), result.score) for value in texts]

    def _categories(self, texts: Sequence[str], result: StudioResult) -> Iterator[Claim]:
        box = (0.0, 0.0, float(self.record.width), float(self.record.height))
        for value in texts:
            try:
                name = check_name(value, result.position)
            except UnusableLabelError as error:
                self.problems.append(describe_problem(error))
                continue
            yield Claim(CATEGORY, name, (Region(name, box=box),), result.score)

    # claims

    def _region_claims(self, region: _StudioRegion) -> list[Claim]:
        box = polygon_box([v for points in region.polygons for v in points])
        polygons = () if region.upright else tuple(region.polygons)
        is_text = any(kind == OCR_LINE for kind, _ in region.texts)
        count = max(1, len(region.texts) + (0 if is_text else len(region.labels)))
        try:
            shape = make_region("", box, polygons, region.score, f"{region.position}.value", self.record)
            if not region.labels and not region.texts:
                detail = f"{region.position}: a region without a label or a text"
                raise UnusableLabelError("a region without a label", detail)
        except UnusableLabelError as error:
            self.problems.append(LabelProblem(error.reason, error.detail, "label", count))
            return []
        claims = list(_text_claims(region, shape, box))
        if region.labels and is_text:
            names = ", ".join(map(str, region.labels))
            self._tell(
                "the name of a text's region", f"{region.position}: {names:.60} names a text", len(region.labels)
            )
            return claims
        for label in region.labels:
            try:
                name = check_name(label, region.position)
            except UnusableLabelError as error:
                self.problems.append(describe_problem(error))
                continue
            claims.append(Claim(OBJECTS, name, (Region(name, shape.box, None, polygons, region.score),), region.score))
        return claims


def _text_claims(region: _StudioRegion, shape: Region, box: Sequence[float]) -> Iterator[Claim]:
    score = region.score
    for kind, value in region.texts:
        if kind == OCR_LINE:
            first = region.polygons[0]
            quad = first if len(first) == 8 else box_quad((box[0], box[1], box[2], box[3]))
            yield Claim(kind, value, (Region(value, quad=quad, score=score),), score)
        elif kind == DESCRIPTION:
            yield Claim(kind, value, (Region(value, box=shape.box, score=score),), score)
        elif kind == EXPRESSION:
            yield Claim(kind, value, (Region(value, polygons=tuple(region.polygons), score=score),), score)


def read_shape(result: StudioResult, record: ImageRecord) -> tuple[list[float], bool]:
    """Return the corners of a rectangle or polygon (x, y, x, y, … in pixels), and whether it is an upright box.

    Percent are of the image's sides, also where the image was turned while it was looked at. A rectangle is turned
    clockwise about its first corner. Raises UnusableLabelError.
    """
    value, where = result.value, f"{result.position}.value"
    sides = (record.width / 100, record.height / 100)
    points = value.get("points")
    if points is not None:
        if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
            detail = f"{where}.points: found {points!r:.60}; pairs of percent are expected"
            raise UnusableLabelError("not the numbers expected", detail)
        return [check_number(v, f"{where}.points") * sides[k] for point in points for k, v in enumerate(point)], False
    x, y, width, height = (
        check_number(value.get(name), f"{where}.{name}") * sides[k % 2]
        for k, name in enumerate(("x", "y", "width", "height"))
    )
    angle = math.radians(check_number(value.get("rotation") or 0, f"{where}.rotation"))
    if angle == 0:
        return list(box_quad((x, y, x + width, y + height))), True
    across = (width * math.cos(angle), width * math.sin(angle))
    down = (-height * math.sin(angle), height * math.cos(angle))
    corners = [(x, y), (x + across[0], y + across[1])]
    corners += [(corners[1][0] + down[0], corners[1][1] + down[1]), (x + down[0], y + down[1])]
    # turned by a multiple of 90°, it is still a box
    return [v for corner in corners for v in corner], abs(math.sin(2 * angle)) < 1e-9
