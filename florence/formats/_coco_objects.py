"""One object of COCO: its box, its mask in any of the forms that files have, and what of it is not read."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from florence.errors import DataError
from florence.formats import OBJECTS, LabelProblem, UnusableLabelError
from florence.formats._checks import check_numbers, check_polygon, make_region, read_score
from florence.formats._masks import decode_run_lengths, trace_pixel_edges
from florence.geometry import Box, Polygon
from florence.records import Claim, ImageRecord, Region


def read_object(
    values: Mapping[str, Any], category: str, where: str, record: ImageRecord, *, crowds: bool
) -> tuple[Claim, list[LabelProblem]]:
    """Return the claim of an annotation, and the parts of it that are not read.

    ``crowds``: whether a crowd is read as one object. Raises UnusableLabelError where the object cannot be used.
    """
    if not crowds and _is_set(values.get("iscrowd")):
        raise UnusableLabelError("a crowd", f"{where}.iscrowd: a crowd of {category} is not one object")
    attributes = values.get("attributes")
    if isinstance(attributes, dict) and _is_set(attributes.get("rotation")) and not values.get("segmentation"):
        raise UnusableLabelError(
            "a rotated box",
            f"{where}.attributes.rotation: found {attributes['rotation']!r:.60}; rotated boxes have "
            "to be exported as polygons",
        )
    parts: list[LabelProblem] = []
    polygons: tuple[Polygon, ...] = ()
    try:
        polygons = _read_polygons(values.get("segmentation"), f"{where}.segmentation", record)
    except DataError as error:  # the box can still be used
        detail = f"{error}; the object is read without polygons"
        parts.append(LabelProblem("mask not understood", detail, "part"))
    box = _read_box(values, where, polygons, parts)
    over = max(-box[0], -box[1], box[2] - record.width, box[3] - record.height)
    score = read_score(values.get("score"))
    region = make_region(category, box, polygons, score, f"{where}.bbox", record)
    if over > 1:
        detail = (
            f"{where}.bbox: it reaches {over:g} pixels out of the image, which has {record.width} × {record.height}"
        )
        parts.append(LabelProblem("a box that reaches out of the image", detail, "part"))
    if _has_key_points(values.get("keypoints")):
        parts.append(LabelProblem("key points are not read", f"{where}.keypoints: key points are not read", "part"))
    if isinstance(caption := values.get("caption"), str) and caption.strip():
        parts.append(LabelProblem("a caption of a region", f"{where}.caption: captions of images are read", "part"))
    return Claim(OBJECTS, category, (region,), score), parts


def read_corners(values: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the largest x and y of an annotation's box; None if it has none that can be read."""
    try:
        _, _, x1, y1 = find_box(values, "")
    except DataError:
        return None
    return (x1, y1)


def _is_set(value: Any) -> bool:
    """Return whether a flag is set, also one written as a text or number."""
    if isinstance(value, str):
        return value.strip().casefold() not in ("", "0", "0.0", "false", "no", "null", "none")
    return bool(value)


def _has_key_points(values: Any) -> bool:
    return isinstance(values, list) and any(value != 0 for value in values)


# ---------------------------------------------------------------- boxes


def _read_box(values: Mapping[str, Any], where: str, polygons: tuple[Polygon, ...], parts: list[LabelProblem]) -> Box:
    """Return a box (x0, y0, x1, y1); that of the polygons where there is none, or none that can be used."""
    try:
        return find_box(values, where)
    except UnusableLabelError as error:
        if not polygons:
            raise
        if values.get("bbox") is not None:
            detail = f"{error}; the box around the polygons is taken"
            parts.append(LabelProblem("box not understood", detail, "part"))
        return Region("", polygons=polygons).bounds


def find_box(values: Mapping[str, Any], where: str) -> Box:
    """Return an annotation's box (x0, y0, x1, y1) as it stands. Raises UnusableLabelError where there is none."""
    found, mode = values.get("bbox"), values.get("bbox_mode", 1)
    if isinstance(found, str):
        found = _parse_list(found)
    if isinstance(found, Sequence) and not isinstance(found, str) and len(found) == 5:
        raise UnusableLabelError("a rotated box", f"{where}.bbox: found five numbers; a rotated box is not read")
    x, y, width, height = check_numbers(found, f"{where}.bbox", 4, "x, y, width and height in pixels")
    if isinstance(mode, bool) or mode not in (0, 1):  # Detectron2's: 0 is two corners, 1 a corner and the sides
        raise UnusableLabelError("a box in another unit", f"{where}.bbox_mode: found {mode!r:.60}; 0 or 1 is expected")
    if mode == 0:
        width, height = width - x, height - y
    if width <= 0 or height <= 0:
        raise UnusableLabelError(
            "a box without an inside",
            f"{where}.bbox: found a width of {width:g} and a height of {height:g}; both have to be above 0",
        )
    return (x, y, x + width, y + height)


def check_unit(values: Mapping[str, Any], where: str) -> None:
    """Raise UnusableLabelError for a box inside the first pixel: its numbers are shares of the sides, not pixels."""
    try:
        x0, y0, x1, y1 = find_box(values, where)
    except UnusableLabelError:
        return
    if max(x1, y1) <= 1 and any(value % 1 for value in (x0, y0, x1, y1)):
        raise UnusableLabelError(
            "a box in another unit",
            f"{where}.bbox: all of it lies in the first pixel, as shares of the sides do; pixels are expected",
        )


def _parse_list(text: str) -> Any:
    """Return the numbers of a list that was written as a text."""
    try:
        found = json.loads(text if text.strip().startswith("[") else f"[{text}]")
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, list) else text


# ---------------------------------------------------------------- masks


def _read_polygons(segmentation: Any, where: str, record: ImageRecord) -> tuple[Polygon, ...]:
    if segmentation is None or segmentation == "":
        return ()
    if isinstance(segmentation, dict):
        return _trace_run_lengths(segmentation, where, record) if segmentation else ()
    if not isinstance(segmentation, list):
        kind = type(segmentation).__name__
        raise DataError(f"{where}: found {kind}; a list of polygons or run lengths are expected")
    if segmentation and all(isinstance(value, int | float) for value in segmentation):
        segmentation = [segmentation]  # one polygon without a list around it
    found: list[Polygon] = []
    for k, points in enumerate(segmentation):
        if isinstance(points, dict):
            found += _trace_run_lengths(points, f"{where}[{k}]", record)
        elif not isinstance(points, list | array) or len(points):  # an empty list is no polygon
            found.append(check_polygon(_flatten(points), f"{where}[{k}]", record))
    return tuple(found)


def _flatten(points: Any) -> Any:
    """Return pairs of numbers, as some tools write points, as one list."""
    if isinstance(points, list) and points and all(isinstance(pair, list) and len(pair) == 2 for pair in points):
        return [value for pair in points for value in pair]
    return points


def _trace_run_lengths(segmentation: dict[str, Any], where: str, record: ImageRecord) -> tuple[Polygon, ...]:
    try:
        mask = decode_run_lengths(segmentation)
    except DataError as error:
        raise DataError(f"{where}.{error}") from None
    if mask.shape != (record.height, record.width):
        raise DataError(
            f"{where}.size: found {mask.shape[0]} × {mask.shape[1]}; "
            f"height and width of the image, {record.height} × {record.width}, are expected"
        )
    return trace_pixel_edges(mask)
