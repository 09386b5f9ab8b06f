"""Rows of other people's tables: CSV with any delimiter and encoding, TSV, Parquet and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from florence.errors import DataError
from florence.formats import LabelProblem, UnusableLabelError
from florence.formats._files import Files
from florence.text_files import is_label_line

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
DELIMITERS = {".tsv": "\t,;|", "": ",;\t|"}
"""Delimiters that are tried, in this order; the first by which the first line has the columns is taken."""
NAME_COLUMNS = ("name", "file_name", "file", "filename", "image", "path", "filepath")
TEXT_COLUMNS = ("text", "caption", "alt_text", "alt", "title", "description")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row at ``place``. ``problem``: why it cannot be used, if so."""

    place: str
    values: dict[str, Any]
    problem: LabelProblem | None = None


def is_table(name: str) -> bool:
    """Return whether a file has the ending of a table, compressed or not."""
    return name.lower().removesuffix(".gz").endswith(ENDINGS)


def find_column(columns: Sequence[str], wanted: str, usual: Sequence[str]) -> str | None:
    """Return the column called ``wanted``, else the first of ``usual`` that is there; blanks and case do not count."""
    plain = {column.strip().casefold(): column for column in reversed(columns)}
    if wanted:
        return wanted if wanted in columns else plain.get(wanted.strip().casefold())
    return next((plain[name] for name in usual if name in plain), None)


def read_rows(files: Files, name: str, encoding: str, known: Sequence[Sequence[str]]) -> Iterator[TableRow]:
    """Yield the rows of a table.

    ``known``: for each column that is needed, its possible names; they tell which delimiter a text has. Raises
    DataError where the file is no table.
    """
    where, ending = files.where(name), posixpath.splitext(name.lower().removesuffix(".gz"))[1]
    if ending == ".parquet":
        for k, row in enumerate(files.store.read_table(name).to_pylist()):
            yield TableRow(f"{where}: row {k}", row)
        return
    text = files.text(name, encoding)
    if ending == ".jsonl":
        yield from _read_lines(text, where)
        return
    first, _, rest = text.partition("\n")
    if first.strip().casefold().startswith("sep=") and len(first.strip()) == 5:  # as spreadsheets begin
        yield from _read_delimited(rest, where, first.strip()[4])
        return
    delimiter = _find_delimiter(first, DELIMITERS.get(ending, DELIMITERS[""]), known)
    rows = list(_read_delimited(text, where, delimiter))
    if delimiter == "\t" and any(row.problem is not None and row.problem.unit == "file" for row in rows):
        rows = list(_read_delimited(text, where, delimiter, quoting=csv.QUOTE_NONE))  # quotes are characters there
    yield from rows


def _read_lines(text: str, where: str) -> Iterator[TableRow]:
    # only a line feed ends a line: texts may contain other line separators
    for k, line in enumerate(text.split("\n"), start=1):
        place = f"{where}: line {k}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield TableRow(place, {}, LabelProblem("not JSON", f"{place} is not JSON: {error}"))
            continue
        if isinstance(row, dict):
            yield TableRow(place, row)
        else:
            found = f"{place} found {type(row).__name__}; an object is expected"
            yield TableRow(place, {}, LabelProblem("not an object", found))


def _find_delimiter(first: str, delimiters: str, known: Sequence[Sequence[str]]) -> str:
    for delimiter in delimiters:
        columns = next(csv.reader([first], delimiter=delimiter), [])
        if all(any(find_column(columns, name, ()) for name in names) for names in known):
            return delimiter
    return delimiters[0]


def _read_delimited(
    text: str, where: str, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[TableRow]:
    # the default limit, a guard against unclosed quotes, is too small for long texts
    csv.field_size_limit(1 << 24)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, quoting=quoting)
    columns: list[str] | None = None
    try:
        for fields in reader:
            if not fields:
                continue
            if columns is None:
                columns = fields
                continue
            place, problem = f"{where}: line {reader.line_num}", None
            if len(fields) != len(columns):
                detail = f"{place} has {len(fields)} fields; {len(columns)} are expected"
                problem = LabelProblem("a row of too many or too few fields", detail)
            yield TableRow(place, dict(zip(columns, fields, strict=False)), problem)
    except csv.Error as error:
        place = f"{where}: line {reader.line_num}"
        detail = f"{place} is not well formed, and nothing after it is read: {error}"
        yield TableRow(place, {}, LabelProblem("not well formed", detail, "file"))


def explain_columns(row: TableRow, where: str, wanted: str, usual: Sequence[str], setting: str) -> str:
    """Return the column of a setting. Raises UnusableLabelError if it is missing."""
    columns = [column for column in row.values if isinstance(column, str)]
    found = find_column(columns, wanted, usual)
    if found is None:
        expected = f"{wanted or ' or '.join(usual)} is expected (setting {setting})"
        detail = f"{where}: found the columns {', '.join(columns)}; {expected}"
        raise UnusableLabelError("a table without a column that is needed", detail, "file")
    return found


def read_image_path(value: Any, what: str, folder: str) -> tuple[str, ...]:
    """Return the possible paths of the image that a row names; the first has the table's folder in front.

    A value may be an object with a path, as Hugging Face's images are. Raises UnusableLabelError where it is no path.
    """
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        value = value["path"]
    if not isinstance(value, str) or not value.strip():
        raise UnusableLabelError(
            "a row without an image's path", f"{what}: found {value!r:.60}; an image's path is expected"
        )
    path = value.strip()
    if not folder:
        return (path,)
    joined = posixpath.normpath(posixpath.join(folder, path.replace("\\", "/")))
    return tuple(dict.fromkeys((joined, path)))


def check_caption(text: str, what: str) -> None:
    """Raise UnusableLabelError for a text that is a label with coordinates, as a line of YOLO's is."""
    if any(map(is_label_line, text.split("\n"))):
        reason = "a line of labels with coordinates"
        raise UnusableLabelError(reason, f"{what}: found {text!r:.60}; a caption is expected")


def check_file(error: DataError) -> LabelProblem:
    """Return the problem of a file that cannot be read."""
    reason = error.reason if isinstance(error, UnusableLabelError) else "a file that cannot be read"
    return LabelProblem(reason, str(error), "file")
