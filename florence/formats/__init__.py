"""Labels in other people's formats. One module a format, reading and writing side by side; found, never listed.

A data set's words become claims about our images, matched by name; our labels become a data set. Places are in pixels of the upright image, as
everywhere; what a format measures in, its module says. One bad annotation costs itself alone, one bad image its own labels: what is left out is told.
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
from typing import Any, ClassVar

from pydantic import ValidationError

from florence.config import Section
from florence.errors import DataError, FlorenceError, NotListedError, SettingsError
from florence.formats._files import Files, is_image
from florence.records import Annotation, Claim, ImageRecord
from florence.registry import Registry

OBJECTS = "<OD>"
NOTE = "florence-export.json"
"""What an export writes about itself; also the mark of a folder that another may replace. No labels are in it."""


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Entry:
    """What a data set has of one image. ``names``: the paths that it may go by, with ``/``; one without an image's ending stands for any ending.

    ``image_id``: known to formats of our own alone. ``size``: width and height in pixels as the data set states them, None where it does not.
    ``raw``: the rest, as the format's module needs it.
    """

    names: tuple[str, ...]
    image_id: str | None = None
    size: tuple[int, int] | None = None
    raw: Any = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a data set says of one image; ``left_out``: what of it cannot be used, each with its place and the reason."""

    claims: tuple[Claim, ...]
    left_out: tuple[str, ...] = ()


class LabelSet(ABC):
    """A data set's labels, opened. ``where``: its address; ``vocabulary``: the names that it gives to objects; ``problems``: what could not be read at all."""

    def __init__(
        self, where: str, entries: Sequence[Entry], vocabulary: Iterable[str] = (), problems: Iterable[str] = ()
    ) -> None:
        self.where = where
        self.entries = tuple(entries)
        self.vocabulary = tuple(dict.fromkeys(vocabulary))
        self.problems = tuple(problems)
        self._ids: dict[str, list[int]] = {}
        for k, entry in enumerate(self.entries):
            if entry.image_id is not None:
                self._ids.setdefault(entry.image_id, []).append(k)
        self._full, self._stems, self._bases = _index(self.entries)

    @abstractmethod
    def told(self, entry: Entry, record: ImageRecord) -> Told:
        """What ``entry`` says of the image that it is about. Raises DataError where all of it is unusable."""

    def find(self, record: ImageRecord, *, strip: str = "", prefix: str = "", base_names: bool = False) -> Entry:
        """The entry of an image: by id, else by path, else (``base_names``) by base name where the data set has it once.

        ``strip``, ``prefix``: taken from the front of the image's path in its source, and then put there. Raises NotListedError where there is none or
        more than one, DataError where the sizes differ.
        """
        entry = self._found(record, strip, prefix, base_names)
        if entry.size is not None and entry.size != (record.width, record.height):
            raise DataError(
                f"{record.name}: {self.where} has labels for {entry.size[0]} × {entry.size[1]} pixels, but the image, turned upright, has "
                f"{record.width} × {record.height}; they may be of another version of it"
            )
        return entry

    def _found(self, record: ImageRecord, strip: str, prefix: str, base_names: bool) -> Entry:
        name = key(record.name)
        found = self._ids.get(record.image_id, [])
        if not found:
            if strip and not name.startswith(key(strip)):
                raise NotListedError(
                    f"{record.name} does not begin with {strip}, so that {self.where} has no labels of it"
                )
            name = key(prefix) + name.removeprefix(key(strip))
            found = self._full.get(name) or self._stems.get(posixpath.splitext(name)[0]) or []
        alike = self._bases.get(_base(name), [])
        if not found and base_names:
            found = alike
        if len(found) == 1:
            return self.entries[found[0]]
        if found:
            raise NotListedError(
                f"{record.name}: {self.where} has labels of {len(found)} images that go by {name}, so that none of them can be told to be of this one"
            )
        hint = (
            f", but of {self.entries[alike[0]].names[0]}: if that is the same image, set strip, prefix or base_names"
            if alike
            else ""
        )
        raise NotListedError(f"{self.where} has no labels of {record.name}{hint}")

    def claims(self, record: ImageRecord, **names: Any) -> Told:
        """What the data set says of an image; ``names``: as `find` takes them. Raises NotListedError and DataError as it does."""
        return self.told(self.find(record, **names), record)


def key(name: str) -> str:
    """A path as it is compared: slashes as here, no ``./`` in front, composed Unicode."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/")).lstrip("/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _base(name: str) -> str:
    base = posixpath.basename(name)
    return posixpath.splitext(base)[0] if is_image(base) else base


def _index(entries: Sequence[Entry]) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[str, list[int]]]:
    """Positions by whole name, by name of those that have no ending, and by base name without ending."""
    full: dict[str, list[int]] = {}
    stems: dict[str, list[int]] = {}
    bases: dict[str, list[int]] = {}
    for k, entry in enumerate(entries):
        for name in dict.fromkeys(map(key, entry.names)):
            full.setdefault(name, []).append(k)
            if not is_image(name):
                stems.setdefault(name, []).append(k)
        for base in dict.fromkeys(_base(key(name)) for name in entry.names):
            bases.setdefault(base, []).append(k)
    return full, stems, bases


@dataclass(frozen=True, slots=True)
class Read:
    """A data set's word about some images. ``told``: by image id. ``errors``: by image id, why an image that it knows has none. ``unknown``: names of images
    that it does not know; ``unmatched``: names that it has of images that are not here; ``problems``: what could not be used, each with its place.
    """

    told: Mapping[str, Told]
    errors: Mapping[str, FlorenceError] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read(labels: LabelSet, images: Iterable[ImageRecord]) -> Read:
    """What ``labels`` say of ``images``: matched by id or path; else by base name, where on both sides one image alone has it."""
    records = list(images)
    bases = Counter(_base(key(record.name)) for record in records)
    told: dict[str, Told] = {}
    errors: dict[str, FlorenceError] = {}
    unknown: list[str] = []
    used: set[int] = set()
    for record in records:
        try:
            entry = labels.find(record, base_names=bases[_base(key(record.name))] == 1)
            used.add(id(entry))
            told[record.image_id] = labels.told(entry, record)
        except NotListedError:
            unknown.append(record.name)
        except FlorenceError as error:
            errors[record.image_id] = error
    unmatched = tuple(
        next(iter(entry.names), entry.image_id or "") for entry in labels.entries if id(entry) not in used
    )
    left_out = [text for found in told.values() for text in found.left_out]
    return Read(told, errors, tuple(unknown), unmatched, (*labels.problems, *left_out))


# ---------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image with its labels, to be written. ``path``: its picture's path, one of its own, below the data set's folder of pictures."""

    record: ImageRecord
    path: str
    rows: tuple[Annotation, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of all that is to be written. ``names``: of its objects, in order; ``kinds``: of labels that are asked for; ``splits``: that have images;
    ``outlined``: whether any object has an outline; ``pictures``: whether the pictures are written too.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    splits: tuple[str, ...]
    outlined: bool
    pictures: bool


class Format(ABC):
    """A format. ``kinds``: of labels that it holds; ``writes``: whether it is written too; ``by_stem``: whether pictures are told apart by their paths without ending."""

    kinds: ClassVar[tuple[str, ...]]
    writes: ClassVar[bool] = True
    by_stem: ClassVar[bool] = False

    class Options(Section):
        """No settings."""

    def __init__(self, where: str = "", **options: Any) -> None:
        """Check the settings; ``where`` names them in errors. Raises SettingsError naming the setting, what was found and what is allowed."""
        try:
            self.options: Any = self.Options.model_validate(options)
        except ValidationError as error:
            allowed = ", ".join(self.Options.model_fields) or "none"
            lines = [
                f"{where}{'.'.join(map(str, item['loc']))}: {'no such setting' if item['type'] == 'extra_forbidden' else item['msg']}; found {item['input']!r}; allowed: {allowed}"
                for item in error.errors()
            ]
            raise SettingsError("\n".join(lines)) from None

    @abstractmethod
    def files(self, uri: str) -> Files:
        """The files that labels are read from. Raises StoreError where there are none."""

    @abstractmethod
    def open(self, files: Files) -> LabelSet:
        """The labels in ``files``. Raises DataError where they are not of this format, naming the file, the place, what was found and what is allowed."""

    def lacks(self, row: Annotation) -> str:
        """Why a label cannot be written, in words that can be counted; empty where it can."""
        return "" if row.task in self.kinds else f"{row.task}: the format has no such labels"

    def loses(self, row: Annotation, plan: Plan) -> str:
        """What of a label that is written is lost, in words that can be counted; empty where nothing is."""
        return ""

    def picture(self, item: Labelled) -> str:
        """Where an image's picture stands below the data set's folder."""
        return f"images/{item.path}"

    def write(self, folder: Path, items: Iterator[Labelled], plan: Plan) -> None:
        """Write ``items``, which come once and with labels that can be written alone, below ``folder``, which is there and empty but for pictures."""
        raise FlorenceError("this format is read only")


def paths(records: Iterable[ImageRecord], *, by_stem: bool) -> tuple[dict[str, str], int]:
    """Image id → a path of its own for each image's picture, and how many differ from the image's own path.

    The path within the source, below the source's key where there are several. ``by_stem``: paths differ without their endings too.
    """
    images = list(records)
    several = len({record.source for record in images}) > 1
    taken: set[str] = set()
    result: dict[str, str] = {}
    renamed = 0
    for record in images:
        own = f"{record.source}/{record.name}" if several else record.name
        stem, ending = posixpath.splitext(_clean(own))
        path = next(
            path
            for k in itertools.count(1)
            if _mark(path := f"{stem}{f'-{k}' if k > 1 else ''}{ending}", by_stem) not in taken
        )
        taken.add(_mark(path, by_stem))
        result[record.image_id] = path
        renamed += path != own
    return result, renamed


def _mark(path: str, by_stem: bool) -> str:
    return posixpath.splitext(path)[0] if by_stem else path


def _clean(path: str) -> str:
    """A path that stays below its folder and on one line."""
    parts = ["".join(c if c.isprintable() else "_" for c in part) for part in path.replace("\\", "_").split("/")]
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "image"


FORMATS: Registry[type[Format]] = Registry("format", "florence.formats")


def writable() -> tuple[str, ...]:
    """The names of the formats that are written."""
    return tuple(name for name in FORMATS.names() if FORMATS.get(name).writes)
