"""Pascal VOC: one XML file for each image, with the boxes of its objects.

VOC numbers pixels from 1, and a box includes both its ends: the first pixel alone is ``xmin`` 1, ``xmax`` 1. We count
edges from 0, so that pixel is the box from 0 to 1: ``xmin`` is our x0 + 1, ``xmax`` is our x1. VOC's numbers are
integers, so boxes that end inside a pixel are rounded.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

from pydantic import Field

from florence.config import Section
from florence.errors import StoreError
from florence.formats import FORMATS, OBJECTS, ExportPlan, Format, LabelledImage, LabelSet
from florence.formats._checks import explain_bad_box
from florence.formats._files import Files
from florence.formats._voc_set import VocSet
from florence.images import is_image
from florence.records import Annotation, ImageRecord

SETS = {"train": "train", "held_out": "val", "gold": "test"}


@FORMATS.register("voc")
class VocFormat(Format):
    """``Annotations/<image>.xml``, the lists of ``ImageSets/Main/``, images in ``JPEGImages/``; subfolders are kept."""

    annotation_types = (OBJECTS,)
    by_stem = True
    revision = 2

    class Options(Section):
        """Settings of reading."""

        difficult: bool = Field(True, description="whether objects marked as difficult are read")
        corners: Literal["pixels", "edges"] = Field(
            "pixels",
            description="what the numbers of a box are: its first and last pixels, counted from 1, as VOC's are; or "
            "distances from the image's corner, as CVAT, Label Studio and other tools write",
        )

    def files(self, uri: str) -> Files:
        """Return the files of a folder with ``Annotations/`` or with files beside pictures, or one file."""
        expected = "file that ends in .xml"
        files = Files(uri, lambda name: name.lower().endswith(".xml"), expected, is_image)
        if not files.names:
            raise StoreError(f"{uri} has no {expected}; relative paths start at the workspace")
        return files

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return VocSet(files, self.options.difficult, self.options.corners)

    def explain_refusal(self, row: Annotation) -> str:
        """See `Format.explain_refusal`."""
        return super().explain_refusal(row) or explain_bad_box(row)

    def explain_bad_name(self, name: str) -> str:
        """See `Format.explain_bad_name`."""
        return "" if all(_allowed(c) for c in name) else "a name with characters that XML cannot hold"

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
        (folder / "labelmap.txt").write_text(_label_map(plan.names), encoding="utf-8")
        if not all(map(_fits_label_map, plan.names)):
            # Datumaro reads this instead, if it is there.
            meta = json.dumps({"labels": plan.names}, ensure_ascii=False)
            (folder / "dataset_meta.json").write_text(meta + "\n", encoding="utf-8")


def _allowed(character: str) -> bool:
    code = ord(character)
    return code in (9, 10, 13) or 32 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code > 0xFFFF


# ---------------------------------------------------------------- writing


def _label_map(names: Sequence[str]) -> str:
    """Return the classes as VOC's tools list them, ``name:r,g,b:parts:actions``, with VOC's colour of each number.

    The devkit's colours: bit k of red, green and blue, from the top, is bit 3k, 3k + 1 and 3k + 2 of the number.
    """
    lines = ["# label:color_rgb:parts:actions"]
    for number, name in enumerate(names, start=1):
        if _fits_label_map(name):
            colour = (sum((number >> 3 * k + part & 1) << 7 - k for k in range(8)) for part in range(3))
            lines.append(f"{name}:{','.join(map(str, colour))}::")
    return "\n".join([*lines, ""])


def _fits_label_map(name: str) -> bool:
    return ":" not in name and not name.startswith("#") and len(name.splitlines()) == 1


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
