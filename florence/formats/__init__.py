"""Labels in other formats. Each format is one module, with reader and writer side by side; found, never listed.

A data set's annotations become claims about our images, matched by name; our labels become a data set. Coordinates
are in pixels of the upright image, as everywhere; each module says what its format measures in. A bad annotation
loses only itself, a bad image only its own labels: what cannot be used is reported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from florence.config import Section
from florence.errors import DataError, FlorenceError, SettingsError
from florence.formats._files import Files
from florence.records import ANNOTATION_TYPES, Annotation, Claim, ImageRecord
from florence.registry import Registry

OBJECTS = "<OD>"


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
    """A data set's claims about one image.

    ``problems``: what is not used, one or more for each label lost. ``looked_at``: the annotation types that the data
    set says something of, also that there is none; None for all that it holds.
    """

    claims: tuple[Claim, ...]
    problems: tuple[LabelProblem, ...] = ()
    looked_at: tuple[str, ...] | None = None


def list_looked_at(claims: Iterable[Claim], held: Iterable[str], lost: Collection[str]) -> tuple[str, ...]:
    """Return the annotation types that an image was looked at for, in their order.

    ``held``: types of the files that list it. ``lost``: types of labels that were not understood: without a claim of
    the type, nothing is known of it.
    """
    claimed = {claim.task for claim in claims}
    return tuple(sorted(claimed | (set(held) - set(lost)), key=ANNOTATION_TYPES.index))


class LabelSet(ABC):
    """The opened labels of a data set.

    ``where``: its address. ``vocabulary``: its names of objects. ``problems``: what could not be read. ``held``: the
    annotation types that it has labels of; empty where all of its format's are meant.
    """

    held: frozenset[str] = frozenset()

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

    @abstractmethod
    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the claims of ``entry`` about its image. Raises DataError if nothing of it can be used."""

    def check_size(self, entry: LabelSetEntry, record: ImageRecord) -> None:
        """Raise UnusableLabelError if the labels of ``entry`` are for an image of another size than the upright one."""
        if entry.size is not None and entry.size != (record.width, record.height):
            raise UnusableLabelError(
                "labels of another size",
                f"{record.name}: {self.where} has labels for {entry.size[0]} × {entry.size[1]} pixels, but the upright "
                f"image has {record.width} × {record.height}; they may be of another version of it",
                "image",
            )


# ---------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and its labels, to be written.

    ``path``: unique path of the image file below the folder of images. ``looked_at``: annotation types that it was
    looked at for; of these it has no other labels, of others nobody knows.
    """

    record: ImageRecord
    path: str
    rows: tuple[Annotation, ...]
    looked_at: frozenset[str] = frozenset(ANNOTATION_TYPES)


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What a format has to know before it writes the first image.

    ``names``: names of the objects, in order, all of the round, so that a part of it gets the same numbers.
    ``annotation_types``: those to write. ``splits``: those with images.
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
    are identified by their paths without suffix. ``revision``: to be raised with each change of code that changes the
    claims of files that have not changed; they are then made again.
    """

    annotation_types: ClassVar[tuple[str, ...]]
    is_writable: ClassVar[bool] = True
    by_stem: ClassVar[bool] = False
    revision: ClassVar[int] = 1

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
        if row.task not in self.annotation_types:
            return f"{row.task}: the format has no such labels"
        reason = self.explain_bad_name(row.text) if row.task == OBJECTS else ""
        return f"{row.task}: {reason}" if reason else ""

    def explain_bad_name(self, name: str) -> str:
        """Return why objects cannot have a name, as a phrase that can be counted; empty if they can."""
        return ""

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


FORMATS: Registry[type[Format]] = Registry("format", "florence.formats")


def list_writable_formats() -> tuple[str, ...]:
    """Return the names of the formats that can be written."""
    return tuple(name for name in FORMATS.names() if FORMATS.get(name).is_writable)
