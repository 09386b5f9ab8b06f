"""Texts of images: a table with a text for each file name, or a text file beside each picture. Read only."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, field_validator

from florence.config import Section
from florence.errors import DataError, StoreError
from florence.formats import FORMATS, Format, ImageClaims, LabelProblem, LabelSet, LabelSetEntry, UnusableLabelError
from florence.formats._checks import check_caption_type, check_text
from florence.formats._files import Files
from florence.formats._table_rows import (
    ENDINGS,
    NAME_COLUMNS,
    TEXT_COLUMNS,
    TableRow,
    check_caption,
    check_file,
    explain_columns,
    is_table,
    read_image_path,
    read_rows,
)
from florence.records import CAPTIONS, Claim, ImageRecord
from florence.text_files import LIST_NAMES, explain_non_caption

BESIDE = (".txt", ".caption")
"""Endings of text files that lie beside their pictures."""


@FORMATS.register("alttext")
class AltTextFormat(Format):
    """Texts of images, one or more for a file name. An empty text is no caption, but its image counts as annotated.

    A folder without a table is read as one of texts beside pictures: ``cat.txt`` or ``cat.jpg.txt`` for ``cat.jpg``.
    """

    annotation_types = CAPTIONS
    revision = 2
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
        encoding: str = Field(
            "", description="encoding of the files, as cp1252 or gbk; else UTF-8, or UTF-16 with a byte order mark"
        )

        _caption = field_validator("kind")(check_caption_type)

    def files(self, uri: str) -> Files:
        """Return one file, or every table of a folder; without a table, every text file that lies beside pictures."""
        expected = f"file that ends in {', '.join((*ENDINGS, *BESIDE))}"
        files = Files(uri, lambda name: is_table(name) or _is_beside(name), expected)
        if not files.single:
            tables = tuple(name for name in files.names if is_table(name))
            files.names = tables or files.names
        return files

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _TextSet(files, self.options)


def _is_beside(name: str) -> bool:
    stem, ending = posixpath.splitext(posixpath.basename(name))
    return ending.lower() in BESIDE and stem.casefold() not in LIST_NAMES


@dataclass(slots=True)
class _ImageTexts:
    """The texts of an image, each with its position. ``problems``: rows of it that cannot be used."""

    names: tuple[str, ...]
    texts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[LabelProblem] = field(default_factory=list)


class _TextSet(LabelSet):
    def __init__(self, files: Files, options: Any) -> None:
        self.options = options
        self.held = frozenset({options.kind})
        self.found: dict[str, _ImageTexts] = {}
        problems: list[LabelProblem] = []
        errors: list[DataError | StoreError] = []
        for file in files.names:
            try:
                if files.single or is_table(file):
                    self._read_table(files, file, problems)
                else:
                    self._read_text_file(files, file)
            except (DataError, StoreError) as error:
                if isinstance(error, StoreError) and len(files.names) == 1:
                    raise
                errors.append(error)
                problems.append(check_file(DataError(str(error)) if isinstance(error, StoreError) else error))
        if errors and len(errors) == len(files.names):
            raise errors[0]
        entries = [LabelSetEntry(one.names, raw=one) for one in self.found.values()]
        super().__init__(files.uri, entries, (), problems)

    def _read_table(self, files: Files, file: str, problems: list[LabelProblem]) -> None:
        folder, where = posixpath.dirname(file), files.where(file)
        settings = (("name", self.options.name, NAME_COLUMNS), ("text", self.options.text, TEXT_COLUMNS))
        known = [(wanted,) if wanted else usual for _, wanted, usual in settings]
        columns: list[str] = []
        for row in read_rows(files, file, self.options.encoding, known):
            if row.problem is not None:
                problems.append(row.problem)
                continue
            columns = columns or [explain_columns(row, where, wanted, usual, key) for key, wanted, usual in settings]
            try:
                names = read_image_path(row.values.get(columns[0]), f"{row.place}: {columns[0]}", folder)
            except UnusableLabelError as error:
                problems.append(LabelProblem(error.reason, error.detail))
                continue
            self._add_text(self.found.setdefault(names[0], _ImageTexts(names)), row, columns[1])

    def _add_text(self, image: _ImageTexts, row: TableRow, column: str) -> None:
        what, text = f"{row.place}: {column}", row.values.get(column)
        try:
            if column not in row.values:
                raise UnusableLabelError("a row without a text", f"{what}: there is no such column in this row")
            if text is None or isinstance(text, str) and not text.strip():
                return
            text = check_text(text, what).strip()
            check_caption(text, what)
            image.texts.append((what, text))
        except UnusableLabelError as error:
            image.problems.append(LabelProblem(error.reason, error.detail))

    def _read_text_file(self, files: Files, file: str) -> None:
        where, stem = files.where(file), posixpath.splitext(file)[0]
        image = self.found.setdefault(stem, _ImageTexts((stem,)))
        try:
            text = " ".join(files.text(file, self.options.encoding).split())
        except DataError as error:
            image.problems.append(LabelProblem("in another encoding", str(error)))
            return
        if not text:
            return
        reason = explain_non_caption(files.text(file, self.options.encoding), file)
        if reason:
            image.problems.append(LabelProblem(reason, f"{where}: found {text!r:.60}; a caption is expected"))
        else:
            image.texts.append((where, text))

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the different texts of an image, in the order of the file."""
        claims: dict[str, Claim] = {}
        problems = list(entry.raw.problems)
        for where, text in entry.raw.texts:
            if text in claims:
                problems.append(LabelProblem("the same text again", f"{where}: {text!r:.60} is there before"))
            claims[text] = Claim(self.options.kind, text)
        return ImageClaims(tuple(claims.values()), tuple(problems))
