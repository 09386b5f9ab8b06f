"""Label Studio's results, as its JSON and JSON-MIN have them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from florence.formats._checks import MAX_NUMBER, read_score

OCR_LINE, DESCRIPTION, EXPRESSION, CATEGORY = (
    "<OCR_WITH_REGION>",
    "<DENSE_REGION_CAPTION>",
    "<REFERRING_EXPRESSION_SEGMENTATION>",
    "<CLASSIFICATION>",
)
TEXTS = {
    "caption": "<CAPTION>",
    "detailed_caption": "<DETAILED_CAPTION>",
    "more_detailed_caption": "<MORE_DETAILED_CAPTION>",
    "category": CATEGORY,
    "text": OCR_LINE,
    "transcription": OCR_LINE,
    "description": DESCRIPTION,
    "expression": EXPRESSION,
}
"""Name of a control → annotation type of its texts.

Texts of other controls are OCR lines if they belong to a region, else captions.
"""
REGION_TEXTS = (OCR_LINE, DESCRIPTION, EXPRESSION)


@dataclass(frozen=True, slots=True)
class StudioResult:
    """One result of the file.

    ``position``: where in the file. ``id``: that of its region. ``target``: name of the image's tag in the labelling
    configuration, and ``page``: which of its images, where a task has several. ``size``: that of the image it was drawn
    on. ``ends``: ids of the regions that a relation connects. ``labels``: as the file has them, which may be no texts.
    """

    position: str
    type: str
    control: str
    id: str
    value: Mapping[str, Any]
    labels: tuple[Any, ...]
    score: float | None
    size: tuple[int, int] | None
    ends: tuple[str, str] | None = None
    target: str = ""
    page: int = 0

    @staticmethod
    def of(values: Any, position: str) -> StudioResult:
        """Return the result in ``values``; if there is none, its type is "", which is reported where it is used."""
        if not isinstance(values, dict):
            return StudioResult(position, "", "", "", {}, (), None, None)
        result_type = str(values.get("type") or "")
        found = values.get("value")
        value = found if isinstance(found, dict) else {}
        sides = [
            int(v)
            for v in (values.get("original_width"), values.get("original_height"))
            if isinstance(v, int | float) and 1 <= v < MAX_NUMBER
        ]
        page = values.get("item_index")
        return StudioResult(
            position,
            result_type,
            str(values.get("from_name") or ""),
            str(values.get("id") or position),
            value,
            _labels(value, result_type),
            read_score(values.get("score")),
            (sides[0], sides[1]) if len(sides) == 2 else None,
            (str(values.get("from_id")), str(values.get("to_id"))) if result_type == "relation" else None,
            str(values.get("to_name") or ""),
            page if isinstance(page, int) else 0,
        )

    def count(self) -> int:
        """Return how many labels it holds: names, or texts; a relation none; anything else one."""
        if self.ends is not None:
            return 0
        return max(1, len(self.labels) or len(self.texts()))

    def texts(self) -> tuple[Any, ...]:
        """Return what was written or chosen; blanks, which editors leave behind, are nothing."""
        found = self.value.get("choices" if self.type == "choices" else "text")
        values = found if isinstance(found, list) else [found]
        return tuple(value for value in values if value is not None and not (isinstance(value, str) and _is_gap(value)))


def _is_gap(text: str) -> bool:
    return not text.strip()


def _labels(value: Mapping[str, Any], result_type: str) -> tuple[Any, ...]:
    found = value.get(result_type) if result_type.endswith("labels") else None
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


def read_flat_results(
    controls: Mapping[str, Any], position: str, control_types: Mapping[str, str]
) -> tuple[StudioResult, ...]:
    """Return the results of JSON-MIN, which has no types and no ids: results with equal coordinates are of one region.

    It mixes controls with the data of the task, so a bare text belongs to a control only if ``control_types`` names it,
    and an object without coordinates, names or texts is data.
    """
    results = []
    for name, values in controls.items():
        for k, value in enumerate(values if isinstance(values, list) else [values]):
            where = f"{position}.{name}[{k}]"
            if isinstance(value, str) and name in control_types:
                results.append(StudioResult(where, "textarea", name, where, {"text": [value]}, (), None, None))
            elif isinstance(value, dict) and (result_type := _guess_type(value)):
                region = json.dumps([value.get(key) for key in ("x", "y", "width", "height", "rotation", "points")])
                alone = result_type in ("textarea", "choices") and "x" not in value and "points" not in value
                sides = {"original_width": value.get("original_width"), "original_height": value.get("original_height")}
                flat = {"type": result_type, "from_name": name, "id": where if alone else region, "value": value}
                results.append(StudioResult.of({**flat, **sides}, where))
    return tuple(results)


def _guess_type(value: Mapping[str, Any]) -> str:
    """Return the type of a result of JSON-MIN by its keys; "" where it is none."""
    if named := next((key for key in value if key.endswith("labels") and isinstance(value[key], list)), ""):
        return named
    for key, result_type in (
        ("choices", "choices"),
        ("taxonomy", "taxonomy"),
        ("text", "textarea"),
        ("rle", "brush"),
        ("radiusX", "ellipse"),
        ("points", "polygon"),
    ):
        if key in value:
            return result_type
    return "" if "x" not in value else "rectangle" if "height" in value else "keypoint"


def address_names(address: str) -> tuple[str, ...]:
    """Return the possible paths of the image at an address."""
    try:
        parts = urlsplit(address)
    except ValueError:  # as of an address with half of a bracket
        return (address,)
    if parts.path.endswith("/local-files/") or parts.path.endswith("/local-files"):
        return tuple(parse_qs(parts.query).get("d", [address]))
    if parts.scheme:
        return (unquote(parts.path).lstrip("/"),)
    if match := re.match(r"/?data/upload/(?:\d+/)?(.+)", address):
        name = unquote(match.group(1))
        return tuple(dict.fromkeys((name, re.sub(r"^[0-9a-f]{8}-", "", name))))
    return (address,)
