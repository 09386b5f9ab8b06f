"""Checks of values read from files of other formats; regions are clipped to their image.

Errors begin with ``what``, the position of the value in its file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from florence.formats import LabelProblem, UnusableLabelError
from florence.geometry import Polygon, clip_box
from florence.records import CAPTIONS, Annotation, ImageRecord, Region

MAX_NUMBER = 1e9
"""Pixels; a larger number is no coordinate."""


def check_caption_type(value: str) -> str:
    """Return a setting that is one of `CAPTIONS`. Raises ValueError, as validators of settings do."""
    if value not in CAPTIONS:
        raise ValueError(f"one of {', '.join(CAPTIONS)} is expected")
    return value


def check_number(value: Any, what: str) -> float:
    """Return a finite number, also one written as text. Raises UnusableLabelError."""
    try:
        # Python reads 1_0 as ten, nothing else does
        found = math.nan if isinstance(value, bool) or isinstance(value, str) and "_" in value else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= MAX_NUMBER:
        raise UnusableLabelError("not a number", f"{what}: found {_short(value)}; a number is expected")
    return found


def check_numbers(values: Any, what: str, count: int, meaning: str) -> tuple[float, ...]:
    """Return ``count`` finite numbers. Raises UnusableLabelError, with their ``meaning``."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise UnusableLabelError("not the numbers expected", f"{what}: found {_short(values)}; {meaning} are expected")
    return tuple(check_number(value, f"{what}[{k}]") for k, value in enumerate(values))


def check_text(value: Any, what: str) -> str:
    """Return a text that is not blank, unchanged. Raises UnusableLabelError."""
    if not isinstance(value, str) or not value.strip():
        raise UnusableLabelError("no text", f"{what}: found {_short(value)}; a text is expected")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can hold half of a surrogate pair, no table and no vocabulary can
        raise UnusableLabelError("half a character", f"{what}: {_short(value)} has half a surrogate pair") from None
    return value


def check_polygon(points: Any, what: str, record: ImageRecord) -> Polygon:
    """Return a polygon of at least three corners, clipped to the image. Raises UnusableLabelError."""
    reason, expected = "no polygon", "x and y of at least three corners are expected"
    if isinstance(points, str) or not isinstance(points, Iterable):
        raise UnusableLabelError(reason, f"{what}: found {_short(points)}; {expected}")
    found = [check_number(value, f"{what}[{k}]") for k, value in enumerate(points)]
    if len(found) < 6 or len(found) % 2:
        raise UnusableLabelError(reason, f"{what}: found {len(found)} numbers; {expected}")
    return tuple(min(max(value, 0.0), float((record.width, record.height)[k % 2])) for k, value in enumerate(found))


def make_region(
    label: str, box: Sequence[float], polygons: tuple[Polygon, ...], score: float | None, what: str, record: ImageRecord
) -> Region:
    """Return the region of a box (x0, y0, x1, y1), clipped to the image.

    Raises UnusableLabelError if nothing of it is left.
    """
    x0, y0, x1, y1 = clip_box(box, record.width, record.height)
    if not (x0 < x1 and y0 < y1):
        corners = ", ".join(f"{v:g}" for v in box)
        raise UnusableLabelError(
            "no pixel of the image",
            f"{what}: the box {corners} has no pixel of the image, which is {record.width} × {record.height}",
        )
    return Region(label, box=(x0, y0, x1, y1), polygons=polygons, score=score)


def explain_overhang(box: Sequence[float], what: str, record: ImageRecord) -> list[LabelProblem]:
    """Return that a box (x0, y0, x1, y1) was clipped to its image, if by more than a pixel."""
    over = max(-box[0], -box[1], box[2] - record.width, box[3] - record.height)
    if over <= 1:
        return []
    detail = f"{what}: it reaches {over:g} pixels out of the image, which has {record.width} × {record.height}"
    return [LabelProblem("a box that reaches out of the image", detail, "part")]


def read_score(value: Any) -> float | None:
    """Return a score of 0…1, or None if ``value`` is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 else None


def explain_bad_box(row: Annotation) -> str:
    """Return why a label has no box that can be written, as a phrase that can be counted; empty if it has."""
    if not row.regions:
        return f"{row.task}: without a region"
    x0, y0, x1, y1 = row.regions[0].bounds
    return "" if x0 < x1 and y0 < y1 else f"{row.task}: a box without an inside"


def _short(value: Any) -> str:
    found = repr(value)
    return found if len(found) <= 60 else found[:57] + "..."
