"""Reads COCO's JSON, as it is and as tools write it."""

from __future__ import annotations

import posixpath
import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from florence.errors import DataError
from florence.formats import (
    OBJECTS,
    ImageClaims,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
    UnusableLabelError,
    describe_problem,
    list_looked_at,
)
from florence.formats._checks import check_number, check_text
from florence.formats._coco_objects import check_unit, read_corners, read_object
from florence.formats._files import Files
from florence.formats._names import check_name, explain_spellings, list_usable_names
from florence.records import CAPTIONS, Claim, ImageRecord

ANOTHER_SIZE = "labels of another size"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _CocoAnnotation:
    """One annotation. ``category``: the object's name, None for a caption; ``problem``: why it cannot be used."""

    position: str
    values: Mapping[str, Any]
    category: str | None = None
    problem: LabelProblem | None = None


@dataclass(slots=True)
class _CocoImage:
    """One image of one file, with its annotations.

    ``problem``: why none of them can be used. ``held``: annotation types that the file is about.
    """

    where: str
    name: str
    image_id: str | None
    size: tuple[int, int] | None
    annotations: list[_CocoAnnotation] = field(default_factory=list)
    problem: LabelProblem | None = None
    held: frozenset[str] = frozenset()

    def is_swapped(self, record: ImageRecord) -> bool:
        """Return whether the file has the sides of the upright image the other way round."""
        return self.size == (record.height, record.width) != (record.width, record.height)

    def is_upright(self, record: ImageRecord) -> bool:
        """Return whether its boxes prove that they are of the upright image, although the sides are swapped.

        They do where all lie in the upright image and one does not lie in an image of the sides that the file has; and
        where there is no box.
        """
        far = [corner for a in self.annotations if (corner := read_corners(a.values)) is not None]
        return not far or (
            all(_is_inside(corner, (record.width, record.height)) for corner in far)
            and not all(_is_inside(corner, (record.height, record.width)) for corner in far)
        )


def _is_inside(corner: tuple[float, float], size: tuple[int, int]) -> bool:
    return all(value <= side + max(1.0, 0.01 * side) for value, side in zip(corner, size, strict=True))


class CocoSet(LabelSet):
    """The labels of one or more files. The images of an entry are what each file has about it."""

    def __init__(self, files: Files, options: Any) -> None:
        self.options = options
        names: Counter[Any] = Counter()
        problems: list[LabelProblem] = []
        found: dict[str, list[list[_CocoImage]]] = {}
        errors: list[DataError] = []
        for file in files.names:
            try:
                document = _Document(files, file, options, problems)
            except DataError as error:
                errors.append(error)
                problems.append(describe_problem(error, "file"))
                continue
            names |= Counter(document.names)  # the same category of two files is one
            for key, images in document.by_name(file).items():
                found.setdefault(key, []).append(images)
        if len(errors) == len(files.names):
            raise errors[0]
        entries = []
        for key, by_file in found.items():
            if any(len(images) > 1 for images in by_file):  # which of them is meant is unknown
                entries += [_entry(key, (image,)) for images in by_file for image in images]
            else:
                entries.append(_entry(key, tuple(image for (image,) in by_file)))
        problems += explain_spellings(names.elements(), files.uri)
        super().__init__(files.uri, entries, list_usable_names(names), problems)

    def check_size(self, entry: LabelSetEntry, record: ImageRecord) -> None:
        """Raise UnusableLabelError if all labels of ``entry`` are of another size than the upright image."""
        refused = [problem for image in entry.raw if (problem := self._explain_size(image, record))]
        if len(refused) == len(entry.raw):
            raise UnusableLabelError(refused[0].reason, refused[0].detail, "image")

    def _explain_size(self, image: _CocoImage, record: ImageRecord) -> LabelProblem | None:
        if image.size is None or image.size == (record.width, record.height):
            return None
        width, height = image.size
        found = f"{record.name}: {image.where} has labels for {width} × {height} pixels, but the upright image has "
        found += f"{record.width} × {record.height}"
        if not image.is_swapped(record):
            return LabelProblem(ANOTHER_SIZE, f"{found}; they may be of another version of it", "image")
        if self.options.swapped_sizes or image.is_upright(record):
            return None
        remedy = (
            "if they were drawn on the upright image, set swapped_sizes: true in the settings; if on the file as it is "
            "stored, without the rotation in its EXIF, remove that rotation from the file or draw them again"
        )
        return LabelProblem(ANOTHER_SIZE, f"{found}, its sides swapped; {remedy}", "image")

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the objects and captions of an image, in the order of the files; an object in two files, once."""
        claims: list[Claim] = []
        problems: list[LabelProblem] = []
        held: set[str] = set()
        lost: set[str] = set()
        first: dict[tuple[str, Any], str] = {}
        for image in entry.raw:
            if image.problem is not None:
                raise UnusableLabelError(image.problem.reason, image.problem.detail, "image")
            if refused := self._explain_size(image, record):
                count = sum(a.problem.count if a.problem else 1 for a in image.annotations)
                problems += [LabelProblem(refused.reason, refused.detail, "label", count)] if count else []
                continue
            held |= image.held
            if image.is_swapped(record):
                detail = f"{image.where}: {image.name}: width and height are those of the image the other way round"
                problems.append(LabelProblem("width and height swapped", detail, "part"))
            for annotation in image.annotations:
                where = f"{image.where}: {annotation.position}"
                try:
                    claim, parts = self._claim(annotation, where, record, is_ours=image.image_id is not None)
                except DataError as error:
                    problems.append(annotation.problem or describe_problem(error))
                    lost |= {OBJECTS} if not _is_caption(annotation.values) else image.held - {OBJECTS}
                    continue
                if claim.regions and first.setdefault((claim.text, claim.regions[0].box), image.where) != image.where:
                    other = f"{where}: the same object is in {first[claim.text, claim.regions[0].box]}"
                    problems.append(LabelProblem("the same object in another file", other))
                    continue
                claims.append(claim)
                problems += parts
        return ImageClaims(tuple(claims), tuple(problems), list_looked_at(claims, held, lost))

    def _claim(
        self, annotation: _CocoAnnotation, where: str, record: ImageRecord, *, is_ours: bool
    ) -> tuple[Claim, list[LabelProblem]]:
        """Return an annotation's claim and what of it is not read. ``is_ours``: whether Florence wrote the file."""
        if annotation.problem is not None:
            raise DataError(annotation.problem.detail)
        if annotation.category is not None:
            if not is_ours and min(record.width, record.height) > 1:
                check_unit(annotation.values, where)
            return read_object(annotation.values, annotation.category, where, record, crowds=self.options.crowds)
        text = check_text(annotation.values.get("caption"), f"{where}.caption")
        return Claim(_caption_type(annotation.values, self.options.captions), text), []


def _entry(key: str, images: tuple[_CocoImage, ...]) -> LabelSetEntry:
    names = tuple(dict.fromkeys((key, *(image.name for image in images))))
    ids = {image.image_id for image in images if image.image_id is not None}
    sizes = {image.size for image in images if image.size is not None}
    return LabelSetEntry(names, ids.pop() if len(ids) == 1 else None, sizes.pop() if len(sizes) == 1 else None, images)


# ---------------------------------------------------------------- one file


class _Document:
    """One file: its images with their annotations. What belongs to no image is a problem of the set."""

    def __init__(self, files: Files, name: str, options: Any, problems: list[LabelProblem]) -> None:
        self.where, self.problems = files.where(name), problems
        document = _check_document(files.json(name, _pack_polygons), self.where)
        self.names: list[Any] = []
        self.categories: dict[str, str | LabelProblem] = {}
        self.images: dict[str, _CocoImage] = {}
        self.doubled: dict[str, list[_CocoImage]] = {}
        for k, values in enumerate(document["categories"]):
            self._add_category(values, f"categories[{k}]")
        for k, values in enumerate(document["images"]):
            try:
                self._add_image(values, f"{self.where}: images[{k}]")
            except DataError as error:
                problem = describe_problem(error)
                problems.append(LabelProblem(problem.reason, problem.detail, "image"))
        for k, values in enumerate(document["annotations"]):
            self._add_annotation(values, f"annotations[{k}]")
        held = _find_types(document, posixpath.basename(name), options.captions)
        for image in self.images.values():
            image.held = held
        for same in self.doubled.values():
            detail = f"{self.where}: {', '.join(image.name for image in same)} have one id; ids are expected to differ"
            for image in same:
                image.problem = LabelProblem("several images of one id", detail, "image")

    def by_name(self, file: str) -> dict[str, list[_CocoImage]]:
        """Return the images by their path: below the file's folder, unless that is called ``annotations``."""
        folder = posixpath.dirname(file)
        folder = "" if posixpath.basename(folder) == "annotations" else folder
        result: dict[str, list[_CocoImage]] = {}
        for image in [*self.images.values(), *(image for same in self.doubled.values() for image in same[1:])]:
            path = image.name.replace("\\", "/")
            result.setdefault(posixpath.normpath(posixpath.join(folder, path)) if folder else path, []).append(image)
        return result

    def _add_category(self, values: Any, position: str) -> None:
        key = read_id(values.get("id")) if isinstance(values, dict) else None
        if key is None:
            detail = f"{self.where}: {position}: found {values!r:.60}; an object with id and name is expected"
            self.problems.append(LabelProblem("a category without an id", detail, "part"))
            return
        try:
            if values.get("isthing") in (0, False):
                raise UnusableLabelError("stuff, which is no object", f"{self.where}: {position} is no thing")
            name: str | LabelProblem = check_name(values.get("name"), f"{self.where}: {position}.name")
            self.names.append(values["name"])
        except UnusableLabelError as error:
            name = LabelProblem(error.reason, error.detail)
            self.problems.append(LabelProblem(error.reason, error.detail, "part"))
        if self.categories.setdefault(key, name) != name:
            detail = f"{self.where}: {position}.id: {key} is the id of another category too; ids are expected to differ"
            self.categories[key] = LabelProblem("several categories of one id", detail)

    def _add_image(self, values: Any, where: str) -> None:
        key = read_id(values.get("id")) if isinstance(values, dict) else None
        if key is None:
            expected = "an object with file_name and an id is expected"
            raise UnusableLabelError("an image without an id", f"{where}: found {values!r:.60}; {expected}", "image")
        name = check_text(find_file_name(values), f"{where}.file_name")
        sides = [check_number(values[side], f"{where}.{side}") for side in ("width", "height") if values.get(side)]
        sha256 = values.get("sha256")
        image = _CocoImage(
            self.where,
            name,
            sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None,
            (int(sides[0]), int(sides[1])) if len(sides) == 2 else None,
        )
        known = self.images.setdefault(key, image)
        if known is not image and (known.name, known.size) != (image.name, image.size):
            self.doubled.setdefault(key, [known]).append(image)

    def _add_annotation(self, values: Any, position: str) -> None:
        found = values.get("image_id") if isinstance(values, dict) else values
        image = self.images.get(read_id(found) or "") if isinstance(values, dict) else None
        if image is None:
            expected = "the id of an image of the file that can be used is expected"
            detail = f"{self.where}: {position}.image_id: found {found!r:.60}; {expected}"
            self.problems.append(LabelProblem("not of an image of the file", detail, count=_count(values)))
            return
        problem, category = None, None
        if _is_caption(values):
            pass
        elif isinstance(values.get("segments_info"), list):
            detail = f"{self.where}: {position}: segments of a panoptic picture, which are not read"
            problem = LabelProblem("panoptic segments", detail, count=_count(values))
        else:
            name = self.categories.get(read_id(values.get("category_id")) or "")
            if isinstance(name, str):
                category = name
            elif name is not None:
                problem = LabelProblem(name.reason, f"{self.where}: {position}.category_id: {name.detail}")
            elif "caption" in values:
                problem = LabelProblem(
                    "a caption of a region", f"{self.where}: {position}: captions of images are read"
                )
            else:
                found, expected = values.get("category_id"), "the id of one of the file's categories is expected"
                detail = f"{self.where}: {position}.category_id: found {found!r:.60}; {expected}"
                problem = LabelProblem("not of a category of the file", detail)
        image.annotations.append(_CocoAnnotation(position, values, category, problem))


def find_file_name(values: Mapping[str, Any]) -> Any:
    """Return an image's file name; LVIS has the end of its address instead."""
    found, address = values.get("file_name"), values.get("coco_url")
    return posixpath.basename(address) if found is None and isinstance(address, str) else found


def read_id(value: Any) -> str | None:
    """Return an id in the form in which ids are compared: 7, 7.0 and "7" are one. None if it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None if isinstance(value, int | float | str) and not isinstance(value, bool) else None


def _is_caption(values: Mapping[str, Any]) -> bool:
    """Return whether an annotation is a caption of the image: one with a box or a mask is about a region."""
    return "caption" in values and not values.get("bbox") and not values.get("segmentation")


def _is_key_points(values: Mapping[str, Any]) -> bool:
    """Return whether an annotation has key points, and neither box nor mask."""
    return "keypoints" in values and not values.get("bbox") and not values.get("segmentation")


def _caption_type(values: Mapping[str, Any], usual: str) -> str:
    task = values.get("task")
    return task if task in CAPTIONS else usual


def _find_types(document: Mapping[str, Any], name: str, usual: str) -> frozenset[str]:
    """Return the annotation types that a file is about: objects, captions, or both; none where it has key points alone.

    A file of captions, or of key points without boxes, does not say that there is no object in the images that it
    lists. One without annotations is told by its categories and its name. ``usual``: type of the captions that do not
    state theirs.
    """
    found = [values for values in document["annotations"] if isinstance(values, dict)]
    captions = {_caption_type(values, usual) for values in found if _is_caption(values)}
    others = [values for values in found if not _is_caption(values)]
    if others and all(_is_key_points(values) for values in others):
        return frozenset(captions)
    if document["categories"] or others:
        return frozenset({OBJECTS, *captions})
    if not captions and document["has_categories"] and not name.lower().startswith("captions"):
        return frozenset({OBJECTS})
    return frozenset(captions or {usual})


def _count(values: Any) -> int:
    """Return how many labels an annotation has: the segments of a panoptic picture, else one."""
    segments = values.get("segments_info") if isinstance(values, dict) else None
    return max(1, len(segments)) if isinstance(segments, list) else 1


def _check_document(document: Any, where: str) -> dict[str, Any]:
    """Return a document with its three lists. Raises UnusableLabelError where it is something else, with a hint."""
    if isinstance(document, list) and document and all(isinstance(one, dict) and "image_id" in one for one in document):
        raise UnusableLabelError(
            "a file of results",
            f"{where}: found a list of {len(document)} results, which name neither images nor categories; "
            "put it in place of 'annotations' in the file that they were made from",
            "file",
        )
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        found = ", ".join(map(repr, list(document)[:5])) if isinstance(document, dict) else type(document).__name__
        expected = "an object with 'images', 'annotations' and, for objects, 'categories' is expected"
        raise UnusableLabelError("not a file of COCO", f"{where}: found {found}; {expected}", "file")
    if "annotations" not in document:
        raise UnusableLabelError(
            "images without annotations",
            f"{where}: {len(document['images'])} images and no 'annotations': nobody has looked at them; "
            "a list, perhaps empty, is expected",
            "file",
        )
    document["has_categories"] = "categories" in document
    document["categories"] = document.get("categories") or []
    for part in ("annotations", "categories"):
        if not isinstance(document[part], list):
            found = type(document[part]).__name__
            raise UnusableLabelError(
                "not a file of COCO", f"{where}: {part}: found {found}; a list is expected", "file"
            )
    return document


def _pack_polygons(values: dict[str, Any]) -> dict[str, Any]:
    """Return an object of the file with its polygons as arrays, which take a quarter of the memory of lists."""
    polygons = values.get("segmentation")
    if isinstance(polygons, list):
        try:
            values["segmentation"] = [array("d", points) for points in polygons]
        except (TypeError, OverflowError):
            pass  # reported where it is used
    return values
