"""Ultralytics' YOLO folders: one text file for each image, one line for each object.

A line is the number of the object's name in data.yaml, then either the box (centre x, centre y, width, height) or a
polygon (x y x y …), as shares of the image's sides. Readers want one type of line in a data set, so if any object has
polygons, all are written as polygons, boxes by their corners.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from florence.config import Section
from florence.formats import FORMATS, OBJECTS, ExportPlan, Format, LabelledImage, LabelSet
from florence.formats._checks import explain_bad_box
from florence.formats._files import Files
from florence.formats._joined_polygons import join_polygons
from florence.formats._yolo_files import YoloFiles
from florence.formats._yolo_set import YoloSet
from florence.geometry import box_quad, polygon_box
from florence.records import Annotation, ImageRecord, Region

SETS = {"train": "train", "held_out": "val", "gold": "test"}
DIGITS = 10
"""Digits of a share: a millionth of a pixel in an image of 10,000."""


@FORMATS.register("yolo")
class YoloFormat(Format):
    """``data.yaml``, ``labels/<set>/<image>.txt``, images in ``images/<set>/``; our splits are train, val and test."""

    annotation_types = (OBJECTS,)
    by_stem = True
    revision = 2

    class Options(Section):
        """Settings of reading."""

        task: Literal["", "detect", "segment", "pose", "obb"] = Field(
            "",
            description="what the lines hold, as Ultralytics' task; empty: what the YAML file (`kpt_shape`, `task`) "
            "and the lines say; detect reads polygons as boxes",
        )
        unlabelled_is_empty: bool = Field(
            False,
            description="whether a picture without a label file is one without objects, as Ultralytics trains it; "
            "otherwise nobody has looked at it",
        )

    def files(self, uri: str) -> Files:
        """Return the files of a data set, given by its folder or by its YAML file, which may lead to another folder."""
        return YoloFiles(uri)

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        assert isinstance(files, YoloFiles)
        return YoloSet(files, self.options.task, self.options.unlabelled_is_empty)

    def explain_refusal(self, row: Annotation) -> str:
        """See `Format.explain_refusal`."""
        return super().explain_refusal(row) or explain_bad_box(row)

    def explain_loss(self, row: Annotation, plan: ExportPlan) -> str:
        """See `Format.explain_loss`."""
        region = row.regions[0]
        if not plan.has_polygons:
            return ""
        if not region.polygons:
            return f"{row.task}: that it has only a box, as other objects have polygons"
        bounds = polygon_box([v for points in region.polygons for v in points])
        distance = max(abs(a - b) for a, b in zip(bounds, region.bounds, strict=True))
        return f"{row.task}: the box, where it is not that of the polygons" if distance > 0.01 else ""

    def image_path(self, item: LabelledImage) -> str:
        """See `Format.image_path`."""
        return f"images/{SETS[item.record.split]}/{item.path}"

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`.

        Ultralytics requires a training and a validation set: one without images is replaced by the other.
        """
        ids = {name: k for k, name in enumerate(plan.names)}
        for split in plan.splits:
            (folder / "labels" / SETS[split]).mkdir(parents=True, exist_ok=True)
            (folder / "images" / SETS[split]).mkdir(parents=True, exist_ok=True)
        for item in items:
            path = folder / _label_path(self.image_path(item))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(
                    format_line(ids[row.text], row.regions[0], item.record, plan.has_polygons) for row in item.rows
                ),
                encoding="utf-8",
            )
        sets = {SETS[split]: f"images/{SETS[split]}" for split in plan.splits}
        first = next(iter(sets.values()), "images/train")
        head = yaml.safe_dump({"train": first, "val": first, **sets}, sort_keys=False, allow_unicode=True)
        names = "".join(f"  {k}: {_quote(name)}\n" for k, name in enumerate(plan.names))
        (folder / "data.yaml").write_text(f"{head}names:" + (f"\n{names}" if names else " {}\n"), encoding="utf-8")


# ---------------------------------------------------------------- writing


def _quote(name: str) -> str:
    """Return a name as data.yaml has it: quoted, lest a reader takes ``no``, ``1e3`` or ``0o7`` for another type."""
    return yaml.safe_dump(name, default_style='"', allow_unicode=True, width=math.inf).strip()


def _label_path(image: str) -> str:
    """Return the path of an image's label file, by Ultralytics' rule: the last folder ``images`` becomes ``labels``."""
    before, _, after = f"/{image}".rpartition("/images/")
    return f"{before}/labels/{posixpath.splitext(after)[0]}.txt"[1:]


def format_line(number: int, region: Region, record: ImageRecord, as_polygon: bool) -> str:
    """Return the line of an object; ``number``: of its class; ``as_polygon``: as a polygon, else as a box."""
    sides = (record.width, record.height)
    box = region.bounds
    if as_polygon:
        values = list(join_polygons(region.polygons) if region.polygons else box_quad(box))
    else:
        values = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]
    return (
        " ".join([str(number), *(f"{min(max(v / sides[k % 2], 0.0), 1.0):.{DIGITS}g}" for k, v in enumerate(values))])
        + "\n"
    )
