"""Segmentation: the polygons of the object that an expression or a box refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from florence.codec import grammar, locations
from florence.codec.grammar import Form, LabelledRegions
from florence.errors import EncodeError
from florence.geometry import Polygon, polygon_area
from florence.records import Annotation, ImageRecord, Region
from florence.tasks import TASK, Example, RegionInput, Size, Task, check_regions, labelled_regions, sort_regions

MAX_POINTS = 24
"""Points of a polygon in a target."""
MAX_POLYGONS = 3
"""Polygons of an object in a target, largest first."""


class _Segmentation(Task):
    metric = "segmentation"
    form = Form.POLYGONS
    truncation = "the first objects are kept, and of one object its largest polygons"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where text or polygons cannot be written."""
        check_regions(row)
        for region in row.regions:
            for points in region.polygons:
                locations.quantise(points, (1, 1))
                if len(points) < 6 or len(points) % 2:
                    raise EncodeError(
                        f"a polygon of {len(points)} coordinates; three points or more, x and y each, are expected"
                    )

    def truncations(self, example: Example) -> list[Example]:
        """Return the first object cut after each polygon, without <poly>, as an object alone; then the objects."""
        wrapped = super().truncations(example)
        first = (
            wrapped[0].target.removeprefix(grammar.POLY_OPEN).removesuffix(grammar.POLY_CLOSE)
            if wrapped
            else example.target
        )
        cuts = [found.start() for found in re.finditer(grammar.SEP, first)] + [len(first)] * bool(wrapped)
        return [replace(example, target=first[:cut], regions=example.regions[:1]) for cut in cuts] + wrapped[1:]

    def target(self, regions: Sequence[Region], size: Size) -> str:
        """Return the target of regions that have polygons."""
        simplified = tuple(replace(region, polygons=simplify_polygons(region.polygons, size)) for region in regions)
        return grammar.write([LabelledRegions("", simplified)], self.form, size)


@TASK.register("<REFERRING_EXPRESSION_SEGMENTATION>")
class ReferringExpressionSegmentation(_Segmentation):
    """The polygons of what an expression refers to; rows of one expression make one example."""

    name = annotation_type = "<REFERRING_EXPRESSION_SEGMENTATION>"
    input_description = "an expression"
    template = "Locate {input} in the image with mask"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where the row cannot be written or has no polygon."""
        super().check(row)
        if not any(region.polygons for region in row.regions):
            raise EncodeError(f"the expression {row.text!r} has no polygon")

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield an example for each expression."""
        size = (image.width, image.height)
        by_expression: dict[str, list[Region]] = {}
        for region in labelled_regions(rows):
            if region.polygons:
                by_expression.setdefault(region.label, []).append(region)
        for expression, regions in by_expression.items():
            regions = sort_regions(regions, size)
            yield Example(image.image_id, self.name, expression, self.target(regions, size), "", tuple(regions))

    def name_regions(self, groups: Sequence[LabelledRegions], input: str) -> tuple[Region, ...]:
        """Return regions labelled with the expression."""
        return tuple(replace(region, label=input) for group in groups for region in group.regions)


@TASK.register("<REGION_TO_SEGMENTATION>")
class RegionToSegmentation(RegionInput, _Segmentation):
    """The polygons of the object in a box; one example for each object whose polygons are known."""

    name = "<REGION_TO_SEGMENTATION>"
    annotation_type = "<OD>"
    template = "What is the polygon mask of region {input}"

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield an example for each object."""
        size = (image.width, image.height)
        for region in sort_regions((region for region in labelled_regions(rows) if region.polygons), size):
            box = grammar.box_tokens(region.bounds, size)
            yield Example(image.image_id, self.name, box, self.target([region], size), "", (replace(region, label=""),))


def simplify_polygons(polygons: Sequence[Polygon], size: Size) -> tuple[Polygon, ...]:
    """Return at most `MAX_POLYGONS` polygons of at most `MAX_POINTS` points, largest first.

    Each is clockwise from its topmost (then leftmost) point. Points that share a bin with the one before are left out
    while three remain. ``size``: width and height in pixels.
    """
    largest = sorted(polygons, key=lambda points: -abs(polygon_area(points)))[:MAX_POLYGONS]
    return tuple(_simplify(points, size) for points in largest)


def _simplify(points: Polygon, size: Size) -> Polygon:
    corners = list(zip(points[0::2], points[1::2], strict=True))
    if len(corners) > MAX_POINTS:
        corners = _reduce_points(corners, size)
    if polygon_area([v for corner in corners for v in corner]) < 0:
        corners = corners[::-1]
    first = min(range(len(corners)), key=lambda i: (corners[i][1], corners[i][0]))
    corners = corners[first:] + corners[:first]
    bins = locations.quantise([v for corner in corners for v in corner], size)
    pairs = list(zip(bins[0::2], bins[1::2], strict=True))
    distinct = [corner for i, corner in enumerate(corners) if pairs[i] != pairs[i - 1]]
    return tuple(v for corner in (distinct if len(distinct) >= 3 else corners) for v in corner)


def _reduce_points(corners: list[tuple[float, float]], size: Size) -> list[tuple[float, float]]:
    """Reduce to `MAX_POINTS` points by Douglas–Peucker, in bins, with the least tolerance, found by bisection."""
    import cv2

    scale = np.asarray([locations.BINS / size[0], locations.BINS / size[1]])
    contour = (np.asarray(corners) * scale).astype(np.float32).reshape(-1, 1, 2)

    def simplified(tolerance: float) -> np.ndarray:
        return cv2.approxPolyDP(contour, tolerance, True).reshape(-1, 2)

    low, high = 0.0, 1.0
    while len(simplified(high)) > MAX_POINTS:
        low, high = high, high * 2
    for _ in range(4):
        middle = (low + high) / 2
        low, high = (low, middle) if 3 <= len(simplified(middle)) <= MAX_POINTS else (middle, high)
    found = simplified(high)
    if len(found) < 3:  # thinner than the tolerance: keep points at equal steps
        return [corners[i * len(corners) // MAX_POINTS] for i in range(MAX_POINTS)]
    return [(float(x), float(y)) for x, y in found.astype(float) / scale]
