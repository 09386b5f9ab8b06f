"""Corrects a data set of YOLO: the lines of the label files; all other lines stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from florence.audit.edits import NOT_FOUND, Correction, EditedFiles, find_label
from florence.audit.issues import MISSING, SPURIOUS, SWAPPED, LabelIssue
from florence.audit.reading import LabelFile
from florence.errors import DataError
from florence.formats._yolo_files import split_lines
from florence.formats._yolo_lines import LineRules, read_labels
from florence.formats._yolo_set import YoloSet
from florence.formats.yolo import format_line
from florence.records import ImageRecord, Region


def correct_yolo(file: LabelFile, corrections: Sequence[Correction]) -> EditedFiles:
    """Return the label files of a YOLO data set with the corrections applied."""
    labels = file.labels
    assert isinstance(labels, YoloSet)
    numbers = {name: number for number, name in reversed(list(labels.rules.names.items()))}
    result = EditedFiles()
    for one in corrections:
        path = next((entry.raw for entry in one.entries if entry.raw), None)
        if path is None:
            result.refused += [(issue, "the image has no label file") for issue in one.issues]
            continue
        lines: list[str | None] = [line for line in split_lines(labels.read_text(path)) if line.strip()]
        known = _read_lines([line or "" for line in lines], labels.rules, one.record)
        image = _Image(one.record, dict(known), numbers, any(region.polygons for _, region in known))
        boxes = [(k, region.label, region.bounds) for k, region in known]
        found = {id(issue): find_label(issue, boxes) for issue in one.issues}
        for issue in one.issues:
            if reason := _apply(issue, found[id(issue)], lines, image):
                result.refused.append((issue, reason))
        result.files[path] = "".join(f"{line}\n" for line in lines if line is not None).encode()
    return result


def _read_lines(lines: Sequence[str], rules: LineRules, record: ImageRecord) -> list[tuple[int, Region]]:
    """Return the number and the object of each line that holds one."""
    found = []
    for k, line in enumerate(lines):
        try:
            claims = read_labels(line, "", rules, record).claims
        except DataError:
            continue
        found += [(k, claim.regions[0]) for claim in claims]
    return found


@dataclass(frozen=True)
class _Image:
    """An image's objects by line, the numbers of the classes by name, and whether lines are polygons."""

    record: ImageRecord
    known: dict[int, Region]
    numbers: dict[str, int]
    has_polygons: bool


def _apply(issue: LabelIssue, at: int | None, lines: list[str | None], image: _Image) -> str:
    """Apply an issue to the lines of its image, in place; return why it is not applied, "" if it is."""
    if issue.kind != MISSING and (at is None or lines[at] is None):
        return NOT_FOUND
    if issue.kind == SPURIOUS:
        assert at is not None
        lines[at] = None
        return ""
    name = issue.right_name or ""
    if name not in image.numbers:
        return f"{name} is no class of the data set"
    old = Region("") if at is None else image.known[at]
    region = replace(old, label=name)
    if issue.kind != SWAPPED:
        region = Region(name, box=issue.right_box)
    as_polygon = bool(old.polygons) if at is not None else image.has_polygons
    line = format_line(image.numbers[name], region, image.record, as_polygon).rstrip("\n")
    if at is None:
        lines.append(line)
    else:
        lines[at] = line
        image.known[at] = region
    return ""
