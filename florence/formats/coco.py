"""COCO's JSON: objects with boxes and polygons (``instances``), and captions.

A box is x, y, width, height in pixels; its edges lie between pixels, as ours do. Masks are polygons or run lengths; run
lengths are turned into polygons that cover the same pixels.
"""

from __future__ import annotations

import itertools
import json
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import Field, field_validator

from florence.config import Section
from florence.errors import DataError
from florence.formats import (
    EXPORT_NOTE,
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
from florence.formats._checks import (
    check_number,
    check_numbers,
    check_polygon,
    check_text,
    explain_bad_box,
    make_region,
    read_score,
)
from florence.formats._files import Files
from florence.formats._masks import decode_run_lengths, trace_pixel_edges
from florence.geometry import Polygon
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region


@FORMATS.register("coco")
class CocoFormat(Format):
    """``annotations/instances_<split>.json`` and ``captions_<split>.json``, pictures in ``images/``."""

    annotation_types = (OBJECTS, *CAPTIONS)

    class Options(Section):
        """Settings of reading."""

        crowds: bool = Field(False, description="whether a crowd (iscrowd) is read as one object; else it is left out")
        captions: str = Field("<CAPTION>", description="annotation type of captions that do not state it")

        @field_validator("captions")
        @classmethod
        def _caption(cls, value: str) -> str:
            if value not in CAPTIONS:
                raise ValueError(f"one of {', '.join(CAPTIONS)} is expected")
            return value

    def files(self, uri: str) -> Files:
        """Return one file, or every .json of a folder; only those in folders ``annotations``, if there are any."""
        files = Files(
            uri, lambda name: name.endswith(".json") and not name.endswith(EXPORT_NOTE), "file that ends in .json"
        )
        files.names = tuple(name for name in files.names if "annotations" in name.split("/")[:-1]) or files.names
        return files

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _CocoSet(files, self.options)

    def explain_refusal(self, row: Annotation) -> str:
        """See `Format.explain_refusal`."""
        return super().explain_refusal(row) or (explain_bad_box(row) if row.task == OBJECTS else "")

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`.

        ``score`` and ``confidence`` of a label and ``task`` of a caption are extra keys, which other readers ignore.
        """
        (folder / "annotations").mkdir()
        ids = {name: k for k, name in enumerate(plan.names, start=1)}
        wanted = {
            "instances": OBJECTS in plan.annotation_types,
            "captions": any(name in CAPTIONS for name in plan.annotation_types),
        }
        documents = {
            (split, part): _Document(
                folder / "annotations" / f"{part}_{split}.json", ids if part == "instances" else {}
            )
            for split in plan.splits
            for part in wanted
            if wanted[part]
        }
        numbered = itertools.count(1)
        for image, item in enumerate(items, start=1):
            split = item.record.split
            for part in wanted:
                if wanted[part]:
                    documents[split, part].add_image(image, item)
            for row in item.rows:
                values = {"id": next(numbered), "image_id": image, **_scores(row)}
                if row.task == OBJECTS:
                    documents[split, "instances"].add_annotation(values | _object(row, ids, item.record))
                else:
                    documents[split, "captions"].add_annotation(values | {"caption": row.text, "task": row.task})
        for document in documents.values():
            document.close()


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class _CocoAnnotation:
    """One annotation of ``file`` at ``position``; ``category``: the object's name, None for a caption."""

    file: str
    position: str
    category: str | None
    values: dict[str, Any]


class _CocoSet(LabelSet):
    def __init__(self, files: Files, options: Any) -> None:
        self.options = options
        merged: dict[str, LabelSetEntry] = {}
        repeated: list[LabelSetEntry] = []
        names: list[str] = []
        problems: list[LabelProblem] = []
        for file in files.names:
            document = _document(files, file)
            categories = _categories(document, files.where(file), problems)
            names += categories.values()
            entries = _entries(document, categories, files.where(file), problems)
            count = Counter(entry.names[0] for entry in entries)
            for entry in entries:
                (name,) = entry.names
                if count[name] > 1:
                    repeated.append(entry)
                else:
                    known = merged.get(name, LabelSetEntry((name,), raw=()))
                    merged[name] = LabelSetEntry((name,), None, known.size or entry.size, known.raw + entry.raw)
        super().__init__(files.uri, [*merged.values(), *repeated], names, problems)

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the objects and captions of an image, in the order of the files; an object in two files, once."""
        claims: list[Claim] = []
        problems: list[LabelProblem] = []
        first: dict[tuple[str, Any], str] = {}
        for annotation in entry.raw:
            where = f"{annotation.file}: {annotation.position}"
            try:
                claim = (
                    self._caption(annotation, where)
                    if annotation.category is None
                    else self._object(annotation, where, record, problems)
                )
            except DataError as error:
                problems.append(describe_problem(error))
                continue
            if (
                not claim.regions
                or first.setdefault((claim.text, claim.regions[0].box), annotation.file) == annotation.file
            ):
                claims.append(claim)
        return ImageClaims(tuple(claims), tuple(problems))

    def _caption(self, annotation: _CocoAnnotation, where: str) -> Claim:
        task = annotation.values.get("task", self.options.captions)
        return Claim(
            task if task in CAPTIONS else self.options.captions,
            check_text(annotation.values.get("caption"), f"{where}.caption"),
        )

    def _object(
        self, annotation: _CocoAnnotation, where: str, record: ImageRecord, problems: list[LabelProblem]
    ) -> Claim:
        values = annotation.values
        if values.get("iscrowd") and not self.options.crowds:
            raise DataError(f"{where}.iscrowd: a crowd of {annotation.category} is not one object")
        polygons: tuple[Polygon, ...] = ()
        try:
            polygons = _polygons(values.get("segmentation"), f"{where}.segmentation", record)
        except DataError as error:  # the box can still be used
            problems.append(
                LabelProblem("mask not understood", f"{error}; the object is read without polygons", "part")
            )
        box = _box(values, where, polygons)
        score = read_score(values.get("score"))
        return Claim(
            OBJECTS,
            annotation.category or "",
            (make_region(annotation.category or "", box, polygons, score, f"{where}.bbox", record),),
            score,
        )


def _box(values: Mapping[str, Any], where: str, polygons: tuple[Polygon, ...]) -> tuple[float, float, float, float]:
    if values.get("bbox") is None and polygons:
        return Region("", polygons=polygons).bounds
    x, y, width, height = check_numbers(values.get("bbox"), f"{where}.bbox", 4, "x, y, width and height in pixels")
    if width <= 0 or height <= 0:
        raise DataError(f"{where}.bbox: found a width of {width:g} and a height of {height:g}; both have to be above 0")
    return (x, y, x + width, y + height)


def _polygons(segmentation: Any, where: str, record: ImageRecord) -> tuple[Polygon, ...]:
    if not segmentation:
        return ()
    if isinstance(segmentation, dict):
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
    if not isinstance(segmentation, list):
        raise DataError(f"{where}: found {type(segmentation).__name__}; a list of polygons or run lengths are expected")
    return tuple(check_polygon(points, f"{where}[{k}]", record) for k, points in enumerate(segmentation))


def _document(files: Files, name: str) -> dict[str, Any]:
    try:
        document = json.loads(files.read(name), object_hook=_pack_polygons)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{files.where(name)} is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        found = ", ".join(map(repr, list(document)[:5])) if isinstance(document, dict) else type(document).__name__
        raise DataError(
            f"{files.where(name)}: found {found}; "
            "an object with 'images', 'annotations' and, for objects, 'categories' is expected"
        )
    for part in ("annotations", "categories"):
        if not isinstance(document.setdefault(part, []), list):
            raise DataError(f"{files.where(name)}: {part}: found {type(document[part]).__name__}; a list is expected")
    return document


def _pack_polygons(values: dict[str, Any]) -> dict[str, Any]:
    """Return an object of the file with its polygons as arrays, which take a quarter of the memory of lists."""
    polygons = values.get("segmentation")
    if isinstance(polygons, list):
        try:
            values["segmentation"] = [array("d", points) for points in polygons]
        except TypeError:
            pass  # reported where it is used
    return values


def _categories(document: dict[str, Any], where: str, problems: list[LabelProblem]) -> dict[Any, str]:
    result: dict[Any, str] = {}
    for k, values in enumerate(document["categories"]):
        try:
            if not isinstance(values, dict) or not isinstance(values.get("id"), int | str):
                raise DataError(
                    f"{where}: categories[{k}]: found {values!r:.60}; an object with id and name is expected"
                )
            result[values["id"]] = check_text(values.get("name"), f"{where}: categories[{k}].name")
        except DataError as error:
            problems.append(describe_problem(error))
    return result


def _entries(
    document: dict[str, Any], categories: dict[Any, str], where: str, problems: list[LabelProblem]
) -> list[LabelSetEntry]:
    """Return the images of a file with their annotations; an annotation of no image is a problem."""
    images: dict[Any, tuple[str, tuple[int, int] | None]] = {}
    for k, values in enumerate(document["images"]):
        try:
            if not isinstance(values, dict) or not isinstance(values.get("id"), int | str) or values["id"] in images:
                raise DataError(
                    f"{where}: images[{k}]: found {values!r:.60}; an object with file_name and a unique id is expected"
                )
            name = check_text(values.get("file_name"), f"{where}: images[{k}].file_name")
            sides = [
                int(check_number(values[side], f"{where}: images[{k}].{side}"))
                for side in ("width", "height")
                if values.get(side)
            ]
            images[values["id"]] = (name, (sides[0], sides[1]) if len(sides) == 2 else None)
        except DataError as error:
            problems.append(describe_problem(error))
    annotations: dict[Any, list[_CocoAnnotation]] = {image: [] for image in images}
    for k, values in enumerate(document["annotations"]):
        position = f"annotations[{k}]"
        image = values.get("image_id") if isinstance(values, dict) else None
        if not isinstance(image, int | str) or image not in annotations:
            problems.append(
                LabelProblem(
                    "not of an image of the file",
                    f"{where}: {position}.image_id: found {image!r:.60}; the id of an image of the file is expected",
                )
            )
        elif "caption" in values:
            annotations[image].append(_CocoAnnotation(where, position, None, values))
        elif not isinstance(values.get("category_id"), int | str) or values["category_id"] not in categories:
            problems.append(
                LabelProblem(
                    "not of a category of the file",
                    f"{where}: {position}.category_id: found {values.get('category_id')!r:.60}; "
                    "the id of one of the file's categories is expected",
                )
            )
        else:
            annotations[image].append(_CocoAnnotation(where, position, categories[values["category_id"]], values))
    return [LabelSetEntry((name,), None, size, tuple(annotations[image])) for image, (name, size) in images.items()]


# ---------------------------------------------------------------- writing


class _Document:
    """A COCO file written as a stream: images and annotations go to two files beside it, which `close` joins."""

    def __init__(self, path: Path, ids: Mapping[str, int]) -> None:
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
            {"id": number, "file_name": item.path, "width": record.width, "height": record.height, "license": licence},
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
        rest = {
            "licenses": [{"id": k, "name": name, "url": ""} for name, k in self.licences.items()],
            "categories": [{"id": k, "name": name, "supercategory": ""} for name, k in self.ids.items()],
        }
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
