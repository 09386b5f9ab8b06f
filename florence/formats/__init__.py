"""Labels in other formats. Each format is one module, with reader and writer side by side; found, never listed.

A data set's annotations become claims about our images, matched by name; our labels become a data set. Coordinates
are in pixels of the upright image, as everywhere; each module says what its format measures in. A bad annotation
loses only itself, a bad image only its own labels: what cannot be used is reported.
"""

from __future__ import annotations

import itertools
import posixpath
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from florence.config import Section
from florence.errors import DataError, FlorenceError, NotListedError, SettingsError
from florence.formats._files import Files, is_image
from florence.records import Annotation, Claim, ImageRecord
from florence.registry import Registry

OBJECTS = "<OD>"
EXPORT_NOTE = "florence-export.json"
"""File with the facts of an export, without labels. Its presence allows another export to replace the folder."""


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class LabelSetEntry:
    """What a data set has about one image.

    ``names``: paths that the image may have, with ``/``; a path without an image suffix matches any suffix.
    ``image_id``: only in our own formats. ``size``: width and height in pixels, None if the data set does not state
    them. ``raw``: the rest, for the module of the format.
    """

    names: tuple[str, ...]
    image_id: str | None = None
    size: tuple[int, int] | None = None
    raw: Any = None


Unit = Literal["label", "part", "image", "file"]


@dataclass(frozen=True, slots=True)
class LabelProblem:
    """What is not used of a data set.

    ``reason``: a phrase that is equal for all problems of one kind, to be counted. ``detail``: the place, what was
    found, what is expected. ``unit``: what is not used: a label, a part of a label that is used without it, all labels
    of an image, or a whole file. ``count``: how many of them.
    """

    reason: str
    detail: str
    unit: Unit = "label"
    count: int = 1

    def __str__(self) -> str:
        return self.detail


class UnusableLabelError(DataError):
    """A label, or all labels of an image or file, cannot be used; see `LabelProblem`."""

    def __init__(self, reason: str, detail: str, unit: Unit = "label") -> None:
        self.reason, self.detail, self.unit = reason, detail, unit
        super().__init__(detail)


def describe_problem(error: DataError, unit: Unit = "label") -> LabelProblem:
    """Return the problem that an error tells of; ``unit``: what is lost, where the error does not say."""
    if isinstance(error, UnusableLabelError):
        return LabelProblem(error.reason, error.detail, error.unit)
    return LabelProblem("not understood", str(error), unit)


@dataclass(frozen=True, slots=True)
class ImageClaims:
    """A data set's claims about one image; ``problems``: what is not used, one or more for each label lost."""

    claims: tuple[Claim, ...]
    problems: tuple[LabelProblem, ...] = ()


class LabelSet(ABC):
    """The opened labels of a data set.

    ``where``: its address. ``vocabulary``: its names of objects. ``problems``: what could not be read.
    """

    def __init__(
        self,
        where: str,
        entries: Sequence[LabelSetEntry],
        vocabulary: Iterable[str] = (),
        problems: Iterable[LabelProblem] = (),
    ) -> None:
        self.where = where
        self.entries = tuple(entries)
        self.vocabulary = tuple(dict.fromkeys(vocabulary))
        self.problems = tuple(problems)
        self._ids: dict[str, list[int]] = {}
        for k, entry in enumerate(self.entries):
            if entry.image_id is not None:
                self._ids.setdefault(entry.image_id, []).append(k)
        self._by_name, self._by_stem, self._by_base = _index_entries(self.entries)

    @abstractmethod
    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the claims of ``entry`` about its image. Raises DataError if nothing of it can be used."""

    def find(
        self, record: ImageRecord, *, strip: str = "", prefix: str = "", base_names: bool = False
    ) -> LabelSetEntry:
        """Return the entry of an image: by id, else by path, else (``base_names``) by a base name that occurs once.

        ``strip``: removed from the front of the image's path in its source; ``prefix``: then put there. Raises
        NotListedError if there is no entry or more than one, DataError if the sizes differ.
        """
        entry = self._match(record, strip, prefix, base_names)
        if entry.size is not None and entry.size != (record.width, record.height):
            raise DataError(
                f"{record.name}: {self.where} has labels for {entry.size[0]} × {entry.size[1]} pixels, but the upright "
                f"image has {record.width} × {record.height}; they may be of another version of it"
            )
        return entry

    def _match(self, record: ImageRecord, strip: str, prefix: str, base_names: bool) -> LabelSetEntry:
        name = normalise_path(record.name)
        found = self._ids.get(record.image_id, [])
        if not found:
            if strip and not name.startswith(normalise_path(strip)):
                raise NotListedError(f"{record.name} does not begin with {strip}, so {self.where} has no labels of it")
            name = normalise_path(prefix) + name.removeprefix(normalise_path(strip))
            found = self._by_name.get(name) or self._by_stem.get(posixpath.splitext(name)[0]) or []
        same_base = self._by_base.get(_base_name(name), [])
        if not found and base_names:
            found = same_base
        if len(found) == 1:
            return self.entries[found[0]]
        if found:
            raise NotListedError(
                f"{record.name}: {self.where} has labels of {len(found)} images called {name}; "
                "it is unknown which belong to this one"
            )
        hint = ""
        if same_base:
            other = self.entries[same_base[0]].names[0]
            hint = f", but of {other}: if that is the same image, set strip, prefix or base_names"
        raise NotListedError(f"{self.where} has no labels of {record.name}{hint}")

    def find_claims(self, record: ImageRecord, **names: Any) -> ImageClaims:
        """Return the claims about an image; ``names``: the options of `find`.

        Raises NotListedError and DataError as it does.
        """
        return self.read_claims(self.find(record, **names), record)


def normalise_path(name: str) -> str:
    """Return a path in the form that is compared: ``/`` between folders, no ``./`` in front, composed Unicode."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/")).lstrip("/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _base_name(name: str) -> str:
    base = posixpath.basename(name)
    return posixpath.splitext(base)[0] if is_image(base) else base


def _index_entries(
    entries: Sequence[LabelSetEntry],
) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[str, list[int]]]:
    """Return positions by name, by names without an image suffix, and by base name without suffix."""
    full: dict[str, list[int]] = {}
    stems: dict[str, list[int]] = {}
    bases: dict[str, list[int]] = {}
    for k, entry in enumerate(entries):
        for name in dict.fromkeys(map(normalise_path, entry.names)):
            full.setdefault(name, []).append(k)
            if not is_image(name):
                stems.setdefault(name, []).append(k)
        for base in dict.fromkeys(_base_name(normalise_path(name)) for name in entry.names):
            bases.setdefault(base, []).append(k)
    return full, stems, bases


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A data set's claims about some images.

    ``claims``: by image id. ``errors``: by image id, why an image of the data set has no claims. ``unknown``: names
    of our images that the data set does not list. ``unmatched``: names of its images that we do not have.
    ``problems``: what could not be used, each with its position.
    """

    claims: Mapping[str, ImageClaims]
    errors: Mapping[str, FlorenceError] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    problems: tuple[LabelProblem, ...] = ()


def read_label_set(labels: LabelSet, images: Iterable[ImageRecord]) -> ReadResult:
    """Return the claims of ``labels`` about ``images``, matched by id, path, or unique base name."""
    records = list(images)
    bases = Counter(_base_name(normalise_path(record.name)) for record in records)
    claims: dict[str, ImageClaims] = {}
    errors: dict[str, FlorenceError] = {}
    unknown: list[str] = []
    used: set[int] = set()
    for record in records:
        try:
            entry = labels.find(record, base_names=bases[_base_name(normalise_path(record.name))] == 1)
            used.add(id(entry))
            claims[record.image_id] = labels.read_claims(entry, record)
        except NotListedError:
            unknown.append(record.name)
        except FlorenceError as error:
            errors[record.image_id] = error
    unmatched = tuple(
        next(iter(entry.names), entry.image_id or "") for entry in labels.entries if id(entry) not in used
    )
    problems = [problem for found in claims.values() for problem in found.problems]
    return ReadResult(claims, errors, tuple(unknown), unmatched, (*labels.problems, *problems))


# ---------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and its labels, to be written. ``path``: unique path of the image file below the folder of images."""

    record: ImageRecord
    path: str
    rows: tuple[Annotation, ...]


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What a format has to know before it writes the first image.

    ``names``: names of the objects, in order. ``annotation_types``: those to write. ``splits``: those with images.
    ``has_polygons``: whether any object has polygons. ``includes_images``: whether image files are written too.
    """

    names: tuple[str, ...]
    annotation_types: tuple[str, ...]
    splits: tuple[str, ...]
    has_polygons: bool
    includes_images: bool


class Format(ABC):
    """A format of labels.

    ``annotation_types``: those it can hold. ``is_writable``: whether it is written too. ``by_stem``: whether its images
    are identified by their paths without suffix.
    """

    annotation_types: ClassVar[tuple[str, ...]]
    is_writable: ClassVar[bool] = True
    by_stem: ClassVar[bool] = False

    class Options(Section):
        """No settings."""

    def __init__(self, where: str = "", **options: Any) -> None:
        """Check the settings; ``where`` names them in errors.

        Raises SettingsError with setting, found and allowed value.
        """
        try:
            self.options: Any = self.Options.model_validate(options)
        except ValidationError as error:
            allowed = ", ".join(self.Options.model_fields) or "none"
            lines = []
            for item in error.errors():
                message = "no such setting" if item["type"] == "extra_forbidden" else item["msg"]
                key = f"{where}{'.'.join(map(str, item['loc']))}"
                lines.append(f"{key}: {message}; found {item['input']!r}; allowed: {allowed}")
            raise SettingsError("\n".join(lines)) from None

    @abstractmethod
    def files(self, uri: str) -> Files:
        """Return the files to read labels from. Raises StoreError if there are none."""

    @abstractmethod
    def open(self, files: Files) -> LabelSet:
        """Return the labels in ``files``.

        Raises DataError if they are not in this format, with file, position, found and allowed content.
        """

    def explain_refusal(self, row: Annotation) -> str:
        """Return why a label cannot be written, as a phrase that can be counted; empty if it can."""
        return "" if row.task in self.annotation_types else f"{row.task}: the format has no such labels"

    def explain_loss(self, row: Annotation, plan: ExportPlan) -> str:
        """Return what a written label loses, as a phrase that can be counted; empty if nothing."""
        return ""

    def image_path(self, item: LabelledImage) -> str:
        """Return the path of an image file below the data set's folder."""
        return f"images/{item.path}"

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """Write ``items`` below ``folder``, which exists and holds nothing but image files.

        ``items`` can be iterated once and have only labels that can be written.
        """
        raise FlorenceError("this format is read only")


def assign_paths(records: Iterable[ImageRecord], *, by_stem: bool) -> tuple[dict[str, str], int]:
    """Return a unique path for each image file, by image id, and how many differ from the image's path in its source.

    With several sources, paths begin with the source's key. ``by_stem``: paths are unique without their suffixes too.
    """
    images = list(records)
    several = len({record.source for record in images}) > 1
    taken: set[str] = set()
    result: dict[str, str] = {}
    renamed = 0
    for record in images:
        own = f"{record.source}/{record.name}" if several else record.name
        stem, ending = posixpath.splitext(_clean_path(own))
        path = next(
            path
            for k in itertools.count(1)
            if _unique_part(path := f"{stem}{f'-{k}' if k > 1 else ''}{ending}", by_stem) not in taken
        )
        taken.add(_unique_part(path, by_stem))
        result[record.image_id] = path
        renamed += path != own
    return result, renamed


def _unique_part(path: str, by_stem: bool) -> str:
    return posixpath.splitext(path)[0] if by_stem else path


def _clean_path(path: str) -> str:
    """Return a path that stays below its folder and on one line."""
    parts = ["".join(c if c.isprintable() else "_" for c in part) for part in path.replace("\\", "_").split("/")]
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "image"


FORMATS: Registry[type[Format]] = Registry("format", "florence.formats")


def list_writable_formats() -> tuple[str, ...]:
    """Return the names of the formats that can be written."""
    return tuple(name for name in FORMATS.names() if FORMATS.get(name).is_writable)
