"""COCO's JSON: objects with boxes and polygons (``instances``), and captions.

A box is x, y, width, height in pixels; its edges lie between pixels, as ours do. Masks are polygons or run lengths; run
lengths are turned into polygons that cover the same pixels.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import Field, field_validator

from florence.config import Section
from florence.formats import FORMATS, OBJECTS, ExportPlan, Format, LabelledImage, LabelSet
from florence.formats._checks import check_caption_type, explain_bad_box
from florence.formats._coco_set import CocoSet
from florence.formats._files import Files, list_json
from florence.records import CAPTIONS, Annotation, ImageRecord


@FORMATS.register("coco")
class CocoFormat(Format):
    """``annotations/instances_<split>.json`` and ``captions_<split>.json``, pictures in ``images/``."""

    annotation_types = (OBJECTS, *CAPTIONS)
    revision = 3

    class Options(Section):
        """Settings of reading."""

        crowds: bool = Field(False, description="whether a crowd (iscrowd) is read as one object; else it is left out")
        captions: str = Field("<CAPTION>", description="annotation type of captions that do not state it")

        swapped_sizes: bool = Field(
            False,
            description="whether the labels are of the upright image where the file has its width and height the other "
            "way round; else such an image is refused, unless its boxes prove it",
        )

        _caption = field_validator("captions")(check_caption_type)

    def files(self, uri: str) -> Files:
        """Return one file, or every .json of a folder; only those in folders ``annotations``, if there are any."""
        files = list_json(uri)
        files.names = tuple(name for name in files.names if "annotations" in name.split("/")[:-1]) or files.names
        return files

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return CocoSet(files, self.options)

    def explain_refusal(self, row: Annotation) -> str:
        """See `Format.explain_refusal`."""
        return super().explain_refusal(row) or (explain_bad_box(row) if row.task == OBJECTS else "")

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`.

        ``score`` and ``confidence`` of a label, ``task`` of a caption and ``sha256`` of an image (our image id) are
        extra keys, which other readers ignore.
        """
        (folder / "annotations").mkdir()
        ids = {name: k for k, name in enumerate(plan.names, start=1)}
        types = {"instances": {OBJECTS}, "captions": set(CAPTIONS)}
        wanted = {part: found for part, names in types.items() if (found := names.intersection(plan.annotation_types))}
        documents = {
            (split, part): _Document(
                folder / "annotations" / f"{part}_{split}.json", ids if part == "instances" else None
            )
            for split in plan.splits
            for part in wanted
        }
        numbered = itertools.count(1)
        for image, item in enumerate(items, start=1):
            split = item.record.split
            for part, names in wanted.items():
                if names & item.looked_at:  # an image without annotations is one where nothing is
                    documents[split, part].add_image(image, item)
            for row in item.rows:
                values = {"id": next(numbered), "image_id": image, **_scores(row)}
                if row.task == OBJECTS:
                    documents[split, "instances"].add_annotation(values | _object(row, ids, item.record))
                else:
                    documents[split, "captions"].add_annotation(values | {"caption": row.text, "task": row.task})
        for document in documents.values():
            document.close()


# ---------------------------------------------------------------- writing


class _Document:
    """A COCO file written as a stream: images and annotations go to two files beside it, which `close` joins.

    ``ids``: the categories; None for captions, whose file must not have that key: pycocotools would look for the
    category of each caption.
    """

    def __init__(self, path: Path, ids: Mapping[str, int] | None) -> None:
        self.path, self.ids = path, ids
        self.licences: dict[str, int] = {}
        self._parts: dict[str, IO[str]] = {
            name: path.with_name(f"{path.name}.{name}").open("w+", encoding="utf-8")
            for name in ("images", "annotations")
        }
        self._begun: set[str] = set()

    def add_image(self, number: int, item: LabelledImage) -> None:
        record = item.record
        licence = self.licences.setdefault(record.licence, len(self.licences) + 1)
        self._add(
            "images",
            {
                "id": number,
                "file_name": item.path,
                "width": record.width,
                "height": record.height,
                "license": licence,
                "sha256": record.image_id,
            },
        )

    def add_annotation(self, values: dict[str, Any]) -> None:
        self._add("annotations", values)

    def _add(self, part: str, values: dict[str, Any]) -> None:
        self._parts[part].write(
            (",\n" if part in self._begun else "") + json.dumps(values, ensure_ascii=False, allow_nan=False)
        )
        self._begun.add(part)

    def close(self) -> None:
        """Write the file and remove the parts."""
        rest: dict[str, Any] = {
            "info": {"description": "Exported by Florence"},
            "licenses": [{"id": k, "name": name, "url": ""} for name, k in self.licences.items()],
        }
        if self.ids is not None:
            rest["categories"] = [{"id": k, "name": name, "supercategory": ""} for name, k in self.ids.items()]
        with self.path.open("w", encoding="utf-8") as file:
            file.write(
                "{"
                + ",\n".join(
                    f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in rest.items()
                )
            )
            for name, part in self._parts.items():
                part.seek(0)
                file.write(f",\n{json.dumps(name)}: [\n")
                shutil.copyfileobj(part, file)
                file.write("\n]")
                part.close()
                Path(part.name).unlink()
            file.write("}\n")


def _object(row: Annotation, ids: Mapping[str, int], record: ImageRecord) -> dict[str, Any]:
    region = row.regions[0]
    x0, y0, x1, y1 = region.bounds
    polygons = [list(points) for points in region.polygons if len(points) >= 6]
    return {
        "category_id": ids[row.text],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": _area(polygons, record) if polygons else (x1 - x0) * (y1 - y0),
        "segmentation": polygons,
        "iscrowd": 0,
    }


def _area(polygons: list[list[float]], record: ImageRecord) -> float:
    """Return the pixels of the mask, counted as COCO does."""
    from faster_coco_eval.core import mask

    return float(mask.area(mask.merge(mask.frPyObjects(polygons, record.height, record.width))))


def _scores(row: Annotation) -> dict[str, float]:
    return {name: value for name, value in (("score", row.score), ("confidence", row.confidence)) if value is not None}
