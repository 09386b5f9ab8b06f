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
    UnusableLabelError,
    describe_problem,
    list_looked_at,
)
from florence.formats._checks import check_number, check_numbers, check_polygon, check_text, read_score
from florence.formats._files import Files
from florence.formats._names import check_name, explain_spellings, list_usable_names
from florence.geometry import Box, Quad, clip_box
from florence.records import ANNOTATION_TYPES, NAMED_TYPES, Claim, ImageRecord, Region

FOREIGN: dict[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "Hugging Face's metadata of images": ((("file_name",),), "the format imagefolder reads it"),
    "answers of Florence-2, as it is fine-tuned": ((("prefix", "suffix"),), "annotations in pixels are expected"),
    "conversations about images": ((("conversations",), ("messages",)), "annotations in pixels are expected"),
    "tasks of Label Studio": ((("data", "annotations"), ("data", "completions")), "the format labelstudio reads it"),
    "results of COCO": ((("image_id", "category_id"),), "the format coco reads the file with their images"),
    "texts of images": (
        (("image", "text"), ("image", "caption"), ("name", "text"), ("path", "caption"), ("url", "caption")),
        "the format alttext reads it",
    ),
}
"""What other programs write in JSON lines → the keys of their objects, and what can be done."""


@FORMATS.register("jsonl")
class JsonLinesFormat(Format):
    """``labels.jsonl``, images in ``images/``."""

    annotation_types = ANNOTATION_TYPES
    revision = 2

    def files(self, uri: str) -> Files:
        """Return one file, or every .jsonl of a folder, compressed or not."""
        endings = (".jsonl", ".jsonl.gz", ".ndjson")
        return Files(uri, lambda name: name.lower().endswith(endings), "file that ends in .jsonl")

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
        errors: list[DataError] = []
        for name in files.names:
            try:
                entries += _read_file(files, name, problems)
            except DataError as error:
                errors.append(error)
                problems.append(describe_problem(error, "file"))
        if errors and len(errors) == len(files.names):
            raise errors[0]
        names = dict.fromkeys(
            row["text"]
            for entry in entries
            for row in entry.raw[1]
            if isinstance(row, dict) and row.get("task") == OBJECTS and isinstance(row.get("text"), str)
        )
        kinds = (row.get("task") for entry in entries for row in entry.raw[1] if isinstance(row, dict))
        self.held = frozenset(kind for kind in kinds if isinstance(kind, str)).intersection(ANNOTATION_TYPES)
        problems += explain_spellings(names, files.uri)
        super().__init__(files.uri, entries, sorted(list_usable_names(names)), problems)

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the claims of a line, in its order."""
        where, rows, looked_at = entry.raw
        claims: list[Claim] = []
        problems: list[LabelProblem] = []
        lost: set[str] = set()
        for k, row in enumerate(rows):
            try:
                claims.append(_claim(row, f"{where}: annotations[{k}]", record))
            except DataError as error:
                problems.append(describe_problem(error))
                kind = row.get("task") if isinstance(row, dict) else None
                lost |= {kind} if kind in ANNOTATION_TYPES else set(ANNOTATION_TYPES)
        if looked_at is None and not lost:
            return ImageClaims(tuple(claims), tuple(problems))
        held = self.held if looked_at is None else looked_at
        return ImageClaims(tuple(claims), tuple(problems), list_looked_at(claims, held, lost))


def _read_file(files: Files, name: str, problems: list[LabelProblem]) -> list[LabelSetEntry]:
    """Return the entries of a file. Raises UnusableLabelError where no line of it is one of ours."""
    entries: list[LabelSetEntry] = []
    found: list[LabelProblem] = []
    # only a line feed ends a line: texts may contain other line separators
    for k, line in enumerate(files.text(name).split("\n"), start=1):
        if line.strip():
            try:
                entries.append(_read_entry(line, f"{files.where(name)}: line {k}"))
            except DataError as error:
                problem = describe_problem(error)
                found.append(LabelProblem(problem.reason, problem.detail, "image"))
    if found and not entries and found[0].reason in FOREIGN:
        raise UnusableLabelError(found[0].reason, found[0].detail, "file")
    problems += found
    return entries


def _explain_foreign(values: Any, where: str) -> None:
    """Raise UnusableLabelError for a line that another program writes, which names the program and what reads it."""
    if not isinstance(values, dict):
        return
    for reason, (keys, remedy) in FOREIGN.items():
        if any(all(key in values for key in some) for some in keys):
            raise UnusableLabelError(
                reason, f"{where}: found {', '.join(map(repr, list(values)[:5]))}: {reason}; {remedy}"
            )


def _read_entry(line: str, where: str) -> LabelSetEntry:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnusableLabelError("not JSON", f"{where} is not JSON: {error}") from None
    image = values.get("image") if isinstance(values, dict) else None
    names = [image.get("name"), image.get("image_id")] if isinstance(image, dict) else []
    if not isinstance(image, dict) or not any(isinstance(value, str) and value for value in names):
        _explain_foreign(values, where)
        expected = "an object with name or image_id is expected"
        raise UnusableLabelError("a line without an image", f"{where}: image: found {image!r:.60}; {expected}")
    if "annotations" not in values or values.get("looked_at") == []:
        detail = (
            f"{where}: {'nobody has' if 'annotations' in values else 'no annotations: nobody has'} looked at the image"
        )
        raise UnusableLabelError(
            "an image that nobody has looked at", f"{detail}; a list, perhaps empty, says what is there"
        )
    rows = values["annotations"]
    if not isinstance(rows, list):
        expected = "a list is expected"
        raise UnusableLabelError("no list", f"{where}: annotations: found {type(rows).__name__}; {expected}")
    sides = [
        int(check_number(image[side], f"{where}: image.{side}"))
        for side in ("width", "height")
        if image.get(side) is not None
    ]
    looked_at = _read_looked_at(values.get("looked_at"), where)
    name, image_id = (value if isinstance(value, str) and value else None for value in names)
    return LabelSetEntry(
        (name,) if name else (), image_id, (sides[0], sides[1]) if len(sides) == 2 else None, (where, rows, looked_at)
    )


def _read_looked_at(value: Any, where: str) -> tuple[str, ...] | None:
    """Return the annotation types that a line says its image was looked at for; None where it does not say."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(kind in ANNOTATION_TYPES for kind in value):
        detail = f"{where}: looked_at: found {value!r:.60}; a list of {', '.join(ANNOTATION_TYPES)} is expected"
        raise UnusableLabelError("not what it was looked at for", detail)
    return tuple(value)


def _claim(row: Any, where: str, record: ImageRecord) -> Claim:
    if not isinstance(row, dict) or row.get("task") not in ANNOTATION_TYPES:
        found = row.get("task") if isinstance(row, dict) else row
        expected = f"one of {', '.join(ANNOTATION_TYPES)} is expected"
        raise UnusableLabelError("of no annotation type", f"{where}.task: found {found!r:.60}; {expected}")
    regions = row.get("regions") or []
    if not isinstance(regions, list | tuple):
        raise UnusableLabelError("no list", f"{where}.regions: found {type(regions).__name__}; a list is expected")
    is_named = row["task"] in NAMED_TYPES
    label_text = (check_name if is_named else check_text)(row.get("text"), f"{where}.text")
    found = tuple(
        _region(region, f"{where}.regions[{k}]", label_text, record, is_named=is_named)
        for k, region in enumerate(regions)
    )
    return Claim(row["task"], label_text, found, read_score(row.get("score")))


def _region(values: Any, where: str, label_text: str, record: ImageRecord, *, is_named: bool) -> Region:
    if not isinstance(values, dict):
        raise UnusableLabelError("not an object", f"{where}: found {values!r:.60}; an object is expected")
    box: Box | None = None
    quad: Quad | None = None
    sides = (float(record.width), float(record.height))
    if values.get("box") is not None:
        box = clip_box(check_numbers(values["box"], f"{where}.box", 4, "x0, y0, x1 and y1 in pixels"), *sides)
        if not (box[0] < box[2] and box[1] < box[3]):
            raise UnusableLabelError(
                "no pixel of the image",
                f"{where}.box: found {values['box']!r:.60}; a box with pixels of the image, "
                f"which is {record.width} × {record.height}, is expected",
            )
    if values.get("quad") is not None:
        corners = check_numbers(values["quad"], f"{where}.quad", 8, "x and y of four corners in pixels")
        quad = tuple(min(max(v, 0.0), sides[k % 2]) for k, v in enumerate(corners))  # type: ignore[assignment]
    given = values.get("polygons") or []
    if not isinstance(given, list):
        raise UnusableLabelError("no polygon", f"{where}.polygons: found {given!r:.60}; a list is expected")
    polygons = tuple(check_polygon(points, f"{where}.polygons[{k}]", record) for k, points in enumerate(given))
    if box is None and quad is None and not polygons:
        raise UnusableLabelError("a region without a shape", f"{where}: a box, a quad or polygons are expected")
    return Region(
        label_text if is_named else check_text(values.get("label", label_text), f"{where}.label"),
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
        expected = "two whole numbers, the first not above the second, are expected"
        raise UnusableLabelError("not the numbers expected", f"{where}.span: found {value!r:.60}; {expected}")
    return (int(first), int(last))
