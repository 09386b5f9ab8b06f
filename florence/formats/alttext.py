"""Texts by file name in a table: CSV, TSV, Parquet or JSON lines. Read only."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator

from florence.config import Section
from florence.errors import DataError
from florence.formats import (
    FORMATS,
    Format,
    ImageClaims,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
)
from florence.formats._files import Files
from florence.records import CAPTIONS, Claim, ImageRecord

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
NAME_COLUMNS = ("name", "file_name", "file", "filename", "image", "path", "filepath")
TEXT_COLUMNS = ("text", "caption", "alt_text", "alt", "title", "description")


@FORMATS.register("alttext")
class AltTextFormat(Format):
    """Texts of images, one or more for a file name. An empty text is no caption, but its image counts as annotated."""

    annotation_types = CAPTIONS
    is_writable = False

    class Options(Section):
        """Settings of reading."""

        name: str = Field(
            "", description=f"column with the image's path; else the first of {', '.join(NAME_COLUMNS)} that exists"
        )
        text: str = Field(
            "", description=f"column with the text; else the first of {', '.join(TEXT_COLUMNS)} that exists"
        )
        kind: str = Field(
            "<CAPTION>",
            description="annotation type of the texts: <CAPTION>, <DETAILED_CAPTION> or <MORE_DETAILED_CAPTION>",
        )

        @field_validator("kind")
        @classmethod
        def _caption(cls, value: str) -> str:
            if value not in CAPTIONS:
                raise ValueError(f"one of {', '.join(CAPTIONS)} is expected")
            return value

    def files(self, uri: str) -> Files:
        """Return one file, or every file of a folder with one of `ENDINGS`."""
        return Files(uri, lambda name: name.lower().endswith(ENDINGS), f"file that ends in {', '.join(ENDINGS)}")

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _TextSet(files, self.options)


class _TextSet(LabelSet):
    def __init__(self, files: Files, options: Any) -> None:
        self.annotation_type = options.kind
        problems: list[LabelProblem] = []
        texts: dict[str, list[str]] = {}
        for file in files.names:
            columns: tuple[str, str] | None = None
            for place, row in _rows(files, file):
                if isinstance(row, str):
                    problems.append(LabelProblem("not understood", f"{place} {row}"))
                    continue
                columns = columns or _columns(row, options, files.where(file))
                name, text = (row.get(column) for column in columns)
                if not isinstance(name, str) or not name.strip():
                    problems.append(
                        LabelProblem(
                            "not understood", f"{place}: {columns[0]}: found {name!r:.60}; an image's path is expected"
                        )
                    )
                elif text is not None and not isinstance(text, str):
                    problems.append(
                        LabelProblem("not understood", f"{place}: {columns[1]}: found {text!r:.60}; a text is expected")
                    )
                else:
                    known = texts.setdefault(name.strip(), [])
                    known += [text.strip()] if text and text.strip() else []
        super().__init__(
            files.uri, [LabelSetEntry((name,), raw=tuple(found)) for name, found in texts.items()], (), problems
        )

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the different texts of an image, in the order of the file."""
        return ImageClaims(tuple(Claim(self.annotation_type, text) for text in dict.fromkeys(entry.raw)))


def _rows(files: Files, name: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield the position of each row, and the row or what is wrong with it."""
    where = files.where(name)
    ending = name.lower().rpartition(".")[2]
    if ending == "parquet":
        for k, row in enumerate(files.store.read_table(name).to_pylist()):
            yield f"{where}: row {k}", row
    elif ending == "jsonl":
        for k, line in enumerate(files.text(name).split("\n"), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    yield f"{where}: line {k}", f"is not JSON: {error}"
                    continue
                yield (
                    f"{where}: line {k}",
                    row if isinstance(row, dict) else f"found {type(row).__name__}; an object is expected",
                )
    else:
        # the default limit, a guard against unclosed quotes, is too small for long texts
        csv.field_size_limit(1 << 24)
        reader = csv.DictReader(
            io.StringIO(files.text(name), newline=""), delimiter="\t" if ending == "tsv" else ",", strict=True
        )
        try:
            for values in reader:
                row = (
                    values
                    if None not in values
                    else f"has {len(values) + len(values[None]) - 1} fields; {len(values) - 1} are expected"
                )
                yield f"{where}: line {reader.line_num}", row
        except csv.Error as error:
            yield f"{where}: line {reader.line_num}", f"is not well formed, and nothing after it is read: {error}"


def _columns(row: dict[str, Any], options: Any, where: str) -> tuple[str, str]:
    """Return the columns of names and texts. Raises DataError if one is missing."""
    result = []
    for setting, wanted, usual in (("name", options.name, NAME_COLUMNS), ("text", options.text, TEXT_COLUMNS)):
        found = next((column for column in ((wanted,) if wanted else usual) if column in row), None)
        if found is None:
            raise DataError(
                f"{where}: found the columns {', '.join(map(str, row))}; "
                f"{wanted or ' or '.join(usual)} is expected (setting {setting})"
            )
        result.append(found)
    return result[0], result[1]
