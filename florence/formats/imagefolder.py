"""Hugging Face's ImageFolder: a ``metadata`` table with texts and boxes of images, by file name. Read only.

A row has ``file_name``, which is relative to the table's folder, and a text, or ``objects``: the lists ``bbox`` and
``categories``, side by side, or a list of objects with one of each. A box is x, y, width, height in pixels, as COCO's.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, field_validator

from florence.config import Section
from florence.errors import DataError, NotListedError, StoreError
from florence.formats import (
    FORMATS,
    OBJECTS,
    Format,
    ImageClaims,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
    UnusableLabelError,
    describe_problem,
    list_looked_at,
)
from florence.formats._checks import check_caption_type, check_text
from florence.formats._coco_objects import check_unit, read_object
from florence.formats._files import Files
from florence.formats._names import check_name, explain_spellings, list_usable_names
from florence.formats._table_rows import (
    NAME_COLUMNS,
    TEXT_COLUMNS,
    TableRow,
    check_caption,
    check_file,
    explain_columns,
    find_column,
    is_table,
    read_image_path,
    read_rows,
)
from florence.records import CAPTIONS, Claim, ImageRecord

BOX_KEYS = ("bbox", "bboxes", "boxes", "box")
NAME_KEYS = ("categories", "category", "labels", "label", "names", "name", "category_id", "class")


@FORMATS.register("imagefolder")
class ImageFolderFormat(Format):
    """``metadata.jsonl``, ``.csv`` or ``.parquet`` in a folder of images or in those of its splits."""

    annotation_types = (OBJECTS, *CAPTIONS)
    is_writable = False

    class Options(Section):
        """Settings of reading."""

        names: tuple[str, ...] = Field((), description="names of the categories, where the table has their numbers")
        boxes: Literal["xywh", "xyxy"] = Field(
            "xywh", description="what the numbers of a box are: a corner, width and height; or two corners"
        )
        text: str = Field(
            "", description=f"column with the text; else the first of {', '.join(TEXT_COLUMNS)} that exists"
        )
        kind: str = Field("<CAPTION>", description="annotation type of the texts, one of captions")
        encoding: str = Field("", description="encoding of a table of text; else UTF-8")

        _caption = field_validator("kind")(check_caption_type)

    def files(self, uri: str) -> Files:
        """Return one file, or every table of a folder that is called ``metadata``."""
        return Files(
            uri,
            lambda name: is_table(name) and posixpath.basename(name).lower().startswith("metadata."),
            "file called metadata.jsonl, metadata.csv or metadata.parquet",
        )

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _MetadataSet(files, self.options)


@dataclass(slots=True)
class _ImageRows:
    """The rows of an image. ``text``, ``objects``: columns of each, None where the table has none."""

    names: tuple[str, ...]
    rows: list[tuple[TableRow, str | None, str | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Object:
    """One object of a row: values as COCO has them, and its category as it stands in the table."""

    place: str
    values: Mapping[str, Any]
    category: Any


class _MetadataSet(LabelSet):
    def __init__(self, files: Files, options: Any) -> None:
        self.options = options
        problems: list[LabelProblem] = []
        found: dict[str, _ImageRows] = {}
        errors: list[DataError | StoreError] = []
        for file in files.names:
            try:
                self._read_table(files, file, found, problems)
            except (DataError, StoreError) as error:
                errors.append(error)
                problems.append(check_file(DataError(str(error)) if isinstance(error, StoreError) else error))
        if errors and len(errors) == len(files.names):
            raise errors[0]
        names: dict[str, None] = dict.fromkeys(options.names)
        for image in found.values():
            for row, _, column in image.rows:
                try:
                    objects = self._objects(row, column)
                except UnusableLabelError:
                    continue  # reported where the image is read
                names.update((one.category, None) for one in objects if isinstance(one.category, str))
        problems += explain_spellings(names, files.uri)
        entries = [LabelSetEntry(one.names, raw=one) for one in found.values()]
        super().__init__(files.uri, entries, list_usable_names(names), problems)

    def _read_table(self, files: Files, file: str, found: dict[str, _ImageRows], problems: list[LabelProblem]) -> None:
        where, folder = files.where(file), posixpath.dirname(file)
        name = ""
        for row in read_rows(files, file, self.options.encoding, [NAME_COLUMNS]):
            if row.problem is not None:
                problems.append(row.problem)
                continue
            name = name or explain_columns(row, where, "", NAME_COLUMNS, "file_name")
            columns = list(row.values)
            text = find_column(columns, self.options.text, TEXT_COLUMNS)
            objects = find_column(columns, "", ("objects", "annotations"))
            if text is None and objects is None:
                detail = f"{row.place}: found the columns {', '.join(columns)}; objects or a text is expected"
                problems.append(LabelProblem("a row without a label", detail, "image"))
                continue
            try:
                names = read_image_path(row.values.get(name), f"{row.place}: {name}", folder)
            except UnusableLabelError as error:
                problems.append(LabelProblem(error.reason, error.detail, "image"))
                continue
            found.setdefault(names[0], _ImageRows(names)).rows.append((row, text, objects))

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the texts and objects of an image, in the order of its rows."""
        claims: list[Claim] = []
        problems: list[LabelProblem] = []
        held: set[str] = set()
        lost: set[str] = set()
        for row, text, column in entry.raw.rows:
            value = row.values.get(text) if text is not None else None
            held |= {self.options.kind} if value is not None else set()
            held |= {OBJECTS} if column is not None and row.values.get(column) not in (None, "") else set()
            if value is not None and value != "":
                self._add_text(value, f"{row.place}: {text}", claims, problems)
            for one in self._objects(row, column):
                try:
                    if min(record.width, record.height) > 1:
                        check_unit(one.values, one.place)
                    claim, parts = read_object(one.values, self._name(one), one.place, record, crowds=False)
                except DataError as error:
                    problems.append(describe_problem(error))
                    lost.add(OBJECTS)
                    continue
                claims.append(claim)
                problems += parts
        if not held:
            raise NotListedError(f"{record.name}: {self.where} says nothing about it")
        return ImageClaims(tuple(claims), tuple(problems), list_looked_at(claims, held, lost))

    def _add_text(self, value: Any, where: str, claims: list[Claim], problems: list[LabelProblem]) -> None:
        try:
            text = check_text(value, where).strip()
            check_caption(text, where)
            claims.append(Claim(self.options.kind, text))
        except UnusableLabelError as error:
            problems.append(describe_problem(error))

    def _name(self, one: _Object) -> str:
        """Return the name of an object's category. Raises UnusableLabelError."""
        names, number = self.options.names, one.category
        if isinstance(number, str) and names and number.strip().isdecimal():
            number = int(number)
        if isinstance(number, str) or number is None:
            return check_name(number, one.place)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(names):
            raise UnusableLabelError(
                "a category by number",
                f"{one.place}: found {number!r:.60}; a name, or the number of one of the {len(names)} names in the "
                "settings, is expected",
            )
        return check_name(names[number], one.place)

    def _objects(self, row: TableRow, column: str | None) -> list[_Object]:
        """Return the objects of a row. Raises UnusableLabelError where they are not understood."""
        value = None if column is None else row.values.get(column)
        where = f"{row.place}: {column}"
        if value is None or value == "":
            return []
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise UnusableLabelError("not JSON", f"{where} is not JSON: {error}", "image") from None
        mode = 0 if self.options.boxes == "xyxy" else 1
        return [
            _Object(f"{where}[{k}]", {**more, "bbox": box, "bbox_mode": mode}, category)
            for k, (box, category, more) in enumerate(_list_objects(value, where))
        ]


def _list_objects(value: Any, where: str) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yield box, category and what else counts of each object: of lists side by side, or of a list of objects."""
    expected = "lists of boxes and categories, or a list of objects with both, are expected"
    if isinstance(value, dict):
        boxes, names = (_find(value, keys) for keys in (BOX_KEYS, NAME_KEYS))
        crowds = value.get("iscrowd")
        boxes, names = boxes or [], names or []
        if not isinstance(boxes, list) or not isinstance(names, list):
            raise UnusableLabelError(
                "objects that are not understood", f"{where}: found {value!r:.60}; {expected}", "image"
            )
        if len(boxes) != len(names):
            detail = f"{where}: found {len(boxes)} boxes and {len(names)} categories; as many of each are expected"
            raise UnusableLabelError("boxes and categories differ in number", detail, "image")
        for k, (box, name) in enumerate(zip(boxes, names, strict=True)):
            is_crowd = crowds[k] if isinstance(crowds, list) and len(crowds) == len(boxes) else 0
            yield box, name, {"iscrowd": is_crowd}
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, dict):
                more = {key: one[key] for key in ("iscrowd", "segmentation", "score") if key in one}
                yield _find(one, BOX_KEYS), _find(one, NAME_KEYS), more
            else:
                yield one, None, {}
    else:
        raise UnusableLabelError(
            "objects that are not understood", f"{where}: found {value!r:.60}; {expected}", "image"
        )


def _find(values: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((values[key] for key in keys if values.get(key) is not None), None)
