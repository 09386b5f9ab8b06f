"""Pascal VOC: one XML file for each image, with the boxes of its objects.

VOC numbers pixels from 1, and a box includes both its ends: the first pixel alone is ``xmin`` 1, ``xmax`` 1. We count
edges from 0, so that pixel is the box from 0 to 1: ``xmin`` is our x0 + 1, ``xmax`` is our x1. VOC's numbers are
integers, so boxes that end inside a pixel are rounded.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from pydantic import Field

from florence.config import Section
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
from florence.formats._checks import check_number, check_text, explain_bad_box, make_region
from florence.formats._files import Files
from florence.records import Annotation, Claim, ImageRecord

SIDES = ("xmin", "ymin", "xmax", "ymax")
SETS = {"train": "train", "held_out": "val", "gold": "test"}


@FORMATS.register("voc")
class VocFormat(Format):
    """``Annotations/<image>.xml``, the lists of ``ImageSets/Main/``, images in ``JPEGImages/``; subfolders are kept."""

    annotation_types = (OBJECTS,)
    by_stem = True

    class Options(Section):
        """Settings of reading."""

        difficult: bool = Field(True, description="whether objects marked as difficult are read")

    def files(self, uri: str) -> Files:
        """Return the files of a folder with ``Annotations/``, of that folder itself, or one file."""
        return Files(uri, lambda name: name.endswith(".xml"), "file that ends in .xml")

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _VocSet(files, self.options.difficult)

    def explain_refusal(self, row: Annotation) -> str:
        """See `Format.explain_refusal`."""
        if reason := super().explain_refusal(row) or explain_bad_box(row):
            return reason
        return "" if all(_allowed(c) for c in row.text) else f"{row.task}: a name with characters that XML cannot hold"

    def explain_loss(self, row: Annotation, plan: ExportPlan) -> str:
        """See `Format.explain_loss`."""
        return f"{row.task}: the polygons, as VOC's files have only boxes" if row.regions[0].polygons else ""

    def image_path(self, item: LabelledImage) -> str:
        """See `Format.image_path`."""
        return f"JPEGImages/{item.path}"

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`. ``difficult`` and ``truncated`` are 0: they are not known."""
        sets = folder / "ImageSets" / "Main"
        sets.mkdir(parents=True)
        (folder / "Annotations").mkdir()
        lists = {split: (sets / f"{SETS[split]}.txt").open("w", encoding="utf-8") for split in plan.splits}
        for item in items:
            name = posixpath.splitext(item.path)[0]
            lists[item.record.split].write(name + "\n")
            path = folder / "Annotations" / f"{name}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_document(item), encoding="utf-8", newline="")
        for file in lists.values():
            file.close()


def _allowed(character: str) -> bool:
    code = ord(character)
    return code in (9, 10, 13) or 32 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code > 0xFFFF


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class _VocObject:
    """An object of a file: the texts of its elements."""

    name: str
    difficult: str
    sides: tuple[str | None, ...]


class _VocSet(LabelSet):
    def __init__(self, files: Files, difficult: bool) -> None:
        self.difficult = difficult
        problems: list[LabelProblem] = []
        found: list[tuple[str, str, str, LabelSetEntry]] = []
        for file in files.names:
            try:
                root = _root(files, file)
            except DataError as error:
                problems.append(describe_problem(error))
                continue
            before, _, below = file.rpartition("Annotations/")
            objects = tuple(
                _VocObject(
                    _element_text(item, "name"),
                    _element_text(item, "difficult"),
                    tuple(item.findtext(f"bndbox/{side}") for side in SIDES),
                )
                for item in root.findall("object")
            )
            found.append(
                (
                    _element_text(root, "filename"),
                    before,
                    posixpath.splitext(below)[0],
                    LabelSetEntry((), None, _size(root), (files.where(file), objects)),
                )
            )
        count = Counter((before, named) for named, before, _, _ in found)
        entries = []
        for named, before, stem, entry in found:
            name = (
                named if named and count[before, named] == 1 else stem
            )  # a name that several files share comes from a template
            entries.append(
                LabelSetEntry((name, f"JPEGImages/{name}", f"{before}JPEGImages/{name}"), None, entry.size, entry.raw)
            )
        names = {item.name for entry in entries for item in entry.raw[1] if item.name}
        super().__init__(files.uri, entries, sorted(names), problems)

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the objects of an image, in the order of its file."""
        where, objects = entry.raw
        claims: list[Claim] = []
        problems: list[LabelProblem] = []
        for k, item in enumerate(objects):
            try:
                claims.append(self._object(item, f"{where}: object[{k}]", record))
            except DataError as error:
                problems.append(describe_problem(error))
        return ImageClaims(tuple(claims), tuple(problems))

    def _object(self, item: _VocObject, where: str, record: ImageRecord) -> Claim:
        label = check_text(item.name, f"{where}/name")
        if item.difficult == "1" and not self.difficult:
            raise DataError(f"{where}/difficult: {label} is left out, as difficult is off")
        xmin, ymin, xmax, ymax = (
            check_number(value, f"{where}/bndbox/{side}") for side, value in zip(SIDES, item.sides, strict=True)
        )
        if xmin > xmax or ymin > ymax:
            raise DataError(
                f"{where}/bndbox: found {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}; "
                "xmin, ymin, xmax and ymax in this order are expected"
            )
        return Claim(
            OBJECTS, label, (make_region(label, (xmin - 1, ymin - 1, xmax, ymax), (), None, f"{where}/bndbox", record),)
        )


def _element_text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _root(files: Files, name: str) -> ElementTree.Element:
    data = files.read(name)
    where = files.where(name)
    if b"<!ENTITY" in data:
        raise DataError(f"{where}: it defines entities, which VOC files do not use and which could fill the memory")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{where} is not XML: {error}") from None
    if root.tag != "annotation":
        raise DataError(f"{where}: found <{root.tag}>; <annotation> is expected")
    return root


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Return width and height; None if they are missing or 0, as some tools write."""
    try:
        width, height = (int(check_number(root.findtext(f"size/{side}"), side)) for side in ("width", "height"))
    except DataError:
        return None
    return (width, height) if width > 0 and height > 0 else None


# ---------------------------------------------------------------- writing


def _document(item: LabelledImage) -> str:
    folder = posixpath.join("JPEGImages", posixpath.dirname(item.path)).rstrip("/")
    lines = [
        "<annotation>",
        f"  <folder>{_escape(folder)}</folder>",
        f"  <filename>{_escape(item.path)}</filename>",
        f"  <source><database>{_escape(item.record.source)}</database></source>",
        f"  <size><width>{item.record.width}</width><height>{item.record.height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for row in item.rows:
        xmin, ymin, xmax, ymax = pixel_range(row.regions[0].bounds, item.record)
        lines += [
            "  <object>",
            f"    <name>{_escape(row.text)}</name>",
            "    <pose>Unspecified</pose>",
            "    <truncated>0</truncated>",
            "    <difficult>0</difficult>",
            f"    <bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def pixel_range(box: tuple[float, float, float, float], record: ImageRecord) -> tuple[int, int, int, int]:
    """Return a box as VOC counts: its first and last pixels, numbered from 1.

    Edges are rounded to pixel borders; a box that becomes empty keeps the pixel of its middle.
    """
    result = []
    for low, high, side in ((box[0], box[2], record.width), (box[1], box[3], record.height)):
        first, last = round(low), round(high)
        if first == last:
            first = min(int((low + high) / 2), side - 1)
            last = first + 1
        result.append((first + 1, last))
    return (result[0][0], result[1][0], result[0][1], result[1][1])


def _escape(value: str) -> str:
    """Return the text of an element; parsers turn a carriage return that is not escaped into a line feed."""
    return escape("".join(c for c in value if _allowed(c)), {"\r": "&#13;"})
