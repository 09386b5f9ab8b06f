"""Our own JSON lines: one image with all its labels on each line, as `florence.records` has them. Nothing is lost.

A line has ``image`` (at least ``name`` or ``image_id``) and ``annotations`` (each at least ``task`` and ``text``);
other keys are the fields of `ImageRecord`, `Annotation` and `Region`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from florence.errors import DataError
from florence.formats import (
    FORMATS,
    OBJECTS,
    ExportPlan,
    Format,
    ImageClaims,
    LabelledImage,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
    describe_problem,
)
from florence.formats._checks import check_number, check_numbers, check_polygon, check_text, read_score
from florence.formats._files import Files
from florence.geometry import Box, Quad, clip_box
from florence.records import ANNOTATION_TYPES, Claim, ImageRecord, Region


@FORMATS.register("jsonl")
class JsonLinesFormat(Format):
    """``labels.jsonl``, images in ``images/``."""

    annotation_types = ANNOTATION_TYPES
    revision = 2

    def files(self, uri: str) -> Files:
        """Return one file, or every .jsonl of a folder."""
        return Files(uri, lambda name: name.endswith(".jsonl"), "file that ends in .jsonl")

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _LineSet(files)

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`.

        ``file`` is the path of the image file, null if image files are not written. ``looked_at`` are the annotation
        types that the image was looked at for: that it has no label of another type means nothing.
        """
        with (folder / "labels.jsonl").open("w", encoding="utf-8") as file:
            for item in items:
                image = {
                    **dataclasses.asdict(item.record),
                    "file": self.image_path(item) if plan.includes_images else None,
                }
                rows = [
                    {name: value for name, value in dataclasses.asdict(row).items() if name != "image_id"}
                    for row in item.rows
                ]
                looked_at = [name for name in plan.annotation_types if name in item.looked_at]
                line = {"image": image, "annotations": rows, "looked_at": looked_at}
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


class _LineSet(LabelSet):
    def __init__(self, files: Files) -> None:
        problems: list[LabelProblem] = []
        entries: list[LabelSetEntry] = []
        names: set[str] = set()
        for name in files.names:
            # only a line feed ends a line: texts may contain other line separators
            for k, line in enumerate(files.text(name).split("\n"), start=1):
                if line.strip():
                    try:
                        entries.append(_read_entry(line, f"{files.where(name)}: line {k}"))
                    except DataError as error:
                        problems.append(describe_problem(error))
        for entry in entries:
            names |= {
                row["text"]
                for row in entry.raw[1]
                if isinstance(row, dict) and row.get("task") == OBJECTS and isinstance(row.get("text"), str)
            }
        super().__init__(files.uri, entries, sorted(names), problems)

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the claims of a line, in its order."""
        where, rows = entry.raw
        claims: list[Claim] = []
        problems: list[LabelProblem] = []
        for k, row in enumerate(rows):
            try:
                claims.append(_claim(row, f"{where}: annotations[{k}]", record))
            except DataError as error:
                problems.append(describe_problem(error))
        return ImageClaims(tuple(claims), tuple(problems))


def _read_entry(line: str, where: str) -> LabelSetEntry:
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from None
    image = values.get("image") if isinstance(values, dict) else None
    names = [image.get("name"), image.get("image_id")] if isinstance(image, dict) else []
    if not isinstance(image, dict) or not any(isinstance(value, str) and value for value in names):
        raise DataError(f"{where}: image: found {image!r:.60}; an object with name or image_id is expected")
    rows = values.get("annotations", [])
    if not isinstance(rows, list):
        raise DataError(f"{where}: annotations: found {type(rows).__name__}; a list is expected")
    sides = [
        int(check_number(image[side], f"{where}: image.{side}"))
        for side in ("width", "height")
        if image.get(side) is not None
    ]
    name, image_id = (value if isinstance(value, str) and value else None for value in names)
    return LabelSetEntry(
        (name,) if name else (), image_id, (sides[0], sides[1]) if len(sides) == 2 else None, (where, rows)
    )


def _claim(row: Any, where: str, record: ImageRecord) -> Claim:
    if not isinstance(row, dict) or row.get("task") not in ANNOTATION_TYPES:
        found = row.get("task") if isinstance(row, dict) else row
        raise DataError(f"{where}.task: found {found!r:.60}; one of {', '.join(ANNOTATION_TYPES)} is expected")
    regions = row.get("regions") or []
    if not isinstance(regions, list | tuple):
        raise DataError(f"{where}.regions: found {type(regions).__name__}; a list is expected")
    label_text = check_text(row.get("text"), f"{where}.text")
    return Claim(
        row["task"],
        label_text,
        tuple(_region(region, f"{where}.regions[{k}]", label_text, record) for k, region in enumerate(regions)),
        read_score(row.get("score")),
    )


def _region(values: Any, where: str, label_text: str, record: ImageRecord) -> Region:
    if not isinstance(values, dict):
        raise DataError(f"{where}: found {values!r:.60}; an object is expected")
    box: Box | None = None
    quad: Quad | None = None
    sides = (float(record.width), float(record.height))
    if values.get("box") is not None:
        box = clip_box(check_numbers(values["box"], f"{where}.box", 4, "x0, y0, x1 and y1 in pixels"), *sides)
        if not (box[0] < box[2] and box[1] < box[3]):
            raise DataError(
                f"{where}.box: found {values['box']!r:.60}; a box with pixels of the image, "
                f"which is {record.width} × {record.height}, is expected"
            )
    if values.get("quad") is not None:
        corners = check_numbers(values["quad"], f"{where}.quad", 8, "x and y of four corners in pixels")
        quad = tuple(min(max(v, 0.0), sides[k % 2]) for k, v in enumerate(corners))  # type: ignore[assignment]
    polygons = tuple(
        check_polygon(points, f"{where}.polygons[{k}]", record) for k, points in enumerate(values.get("polygons") or ())
    )
    if box is None and quad is None and not polygons:
        raise DataError(f"{where}: a box, a quad or polygons are expected")
    return Region(
        check_text(values.get("label", label_text), f"{where}.label"),
        box,
        quad,
        polygons,
        read_score(values.get("score")),
        _span(values.get("span"), where),
    )


def _span(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    first, last = check_numbers(value, f"{where}.span", 2, "the first character and the one past the last")
    if not 0 <= first <= last or first % 1 or last % 1:
        raise DataError(
            f"{where}.span: found {value!r:.60}; two whole numbers, the first not above the second, are expected"
        )
    return (int(first), int(last))
