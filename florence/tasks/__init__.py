"""The fifteen published tasks and two that the paper reaches by fine-tuning.

A task owns its prompt, makes examples of labels, and writes and reads answers. One file for each family; found, never
listed.
"""

from __future__ import annotations

import itertools
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from florence.codec import constrain, grammar, locations, parsing
from florence.codec.grammar import Form, LabelledRegions
from florence.errors import DecodeError, EncodeError
from florence.records import Annotation, ImageRecord, Region
from florence.registry import Registry

logger = logging.getLogger(__name__)

Size = tuple[int, int]
"""Width and height of the upright image in pixels."""


@dataclass(frozen=True, slots=True)
class Example:
    """An example to train or score on. ``input``: the input of the prompt; ``target``: the answer to write.

    ``text`` and ``regions`` (pixels, in the order of the target) are what the target means: the reference of a score.
    """

    image_id: str
    task: str
    input: str
    target: str
    text: str
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer read from a model's text.

    ``text``: for a task without regions the text up to the first token that does not belong; for <OCR_WITH_REGION> its
    strings, joined; for other tasks the text that was decoded.

    ``spans``: for each region, the characters of its own tokens in the text that was decoded (the first region after a
    label: label included); ``label_spans``: the characters of its label, (0, 0) where there is none.
    ``error``: why the text is no legal answer, None where it is; regions that are certain are given anyway.
    ``score``: of the whole text, 0…1, where a model wrote it.
    ``groups``: for a task with regions, the regions by label as in the text: `Task.encode` writes them again.
    ``truncated``: whether the model would have gone on but for the greatest length that was allowed.
    """

    text: str
    regions: tuple[Region, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    label_spans: tuple[tuple[int, int], ...] = ()
    error: DecodeError | None = None
    score: float | None = None
    groups: tuple[LabelledRegions, ...] = ()
    truncated: bool = False


class Task(ABC):
    """One task. A subclass sets the class attributes and makes its examples in `build`.

    ``name``: as "<OD>"; ``annotation_type``: the type of annotation that examples are made of; ``metric``: the name of
    its metric; ``form``: the shape of its answers; ``template``: its published prompt, with {input} where it takes one.
    For people: ``input_description``: what the input is; ``truncation``: how a long target is cut (`truncate`).
    """

    name: ClassVar[str]
    annotation_type: ClassVar[str]
    metric: ClassVar[str]
    form: ClassVar[Form]
    template: ClassVar[str]
    input_description: ClassVar[str] = ""
    truncation: ClassVar[str] = "its first regions are kept, in the target's order"

    @property
    def takes_input(self) -> bool:
        """Whether the prompt has an input."""
        return "{input}" in self.template

    @property
    def start(self) -> int:
        """The state of `florence.codec.constrain` before the first token of an answer."""
        return constrain.start_state(self.form)

    def prompt(self, input: str = "") -> str:
        """Return the published prompt with ``input``. Raises EncodeError if it is missing, not taken or not valid."""
        if not self.takes_input:
            if input:
                raise EncodeError(f"{self.name} takes no input; found {input[:80]!r}")
            return self.template
        return self.template.replace("{input}", self.checked_input(input.strip()))

    def checked_input(self, input: str) -> str:
        """Return ``input``.

        Raises EncodeError where it is not valid: a text is expected, unless a subclass overrides this.
        """
        if not input:
            raise EncodeError(f"{self.name} needs an input: what is it about?")
        return grammar.check_text(input, "input")

    def examples(
        self, image: ImageRecord, labels: Sequence[Annotation], refused: list[EncodeError] | None = None
    ) -> list[Example]:
        """Make the examples of ``labels`` (the image's kept annotations of ``annotation_type``); deterministic.

        No labels give no example. A label that the grammar cannot write is left out: its error is appended to
        ``refused``, or logged where no list is given.
        """
        rows = []
        for row in labels:
            try:
                self.check(row)
                rows.append(row)
            except EncodeError as error:
                error = EncodeError(f"{self.name}, image {image.image_id[:12]}, label {row.annotation_id}: {error}")
                if refused is None:
                    logger.warning("left out: %s", error)
                else:
                    refused.append(error)
        return list(self.build(image, rows)) if rows else []

    @abstractmethod
    def check(self, row: Annotation) -> None:
        """Raise EncodeError where ``row`` cannot be written."""

    @abstractmethod
    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield the examples of rows that passed `check`; there is at least one row."""

    def decode(self, text: str, size: Size, input: str = "") -> Answer:
        """Read the answer ``text`` about an image of ``size``; regions in float pixels, at the centres of their bins.

        Accepts any text: a malformed one gives the parts that are certain, and an error.
        """
        parsed = parsing.parse(text, self.form, size)
        regions = self.name_regions(parsed.groups, input)
        error = self._error(text, parsed.position, parsed.reason)
        return Answer(text, regions, parsed.spans, parsed.label_spans, error, groups=parsed.groups)

    def encode(self, answer: Answer, size: Size) -> str:
        """Write ``answer`` about an image of ``size``: the text that `decode` reads as this answer, without an error.

        ``answer.groups`` is written; where there is none ``answer.regions``, in order, neighbours of one label
        together. Raises EncodeError where a label or region cannot be written, or does not fit the form.
        """
        return grammar.write(answer.groups or self._group(answer.regions), self.form, size)

    def _group(self, regions: Sequence[Region]) -> list[LabelledRegions]:
        """Return regions as groups that the form can hold."""
        if self.form in (Form.BOXES, Form.POLYGONS):
            return [LabelledRegions("", tuple(regions))] if regions else []
        if self.form is Form.LABELLED_QUADS:
            return [LabelledRegions(region.label, (region,)) for region in regions]
        return [
            LabelledRegions(label, tuple(members))
            for label, members in itertools.groupby(regions, key=lambda region: region.label)
        ]

    def name_regions(self, groups: Sequence[LabelledRegions], input: str) -> tuple[Region, ...]:
        """Return the regions of an answer's groups, labelled as in this task."""
        return tuple(region for group in groups for region in group.regions)

    def _error(self, text: str, position: int | None, reason: str) -> DecodeError | None:
        return None if position is None else DecodeError(self.name, text, position, reason)

    def truncate(self, example: Example, fits: Callable[[str], bool]) -> Example | None:
        """Truncate the target to as much as ``fits`` allows, by the rule of ``truncation``; None if no part fits.

        ``fits``: whether a target is short enough; must hold for every prefix of a target that it holds for.
        """
        if fits(example.target):
            return example
        parts = self.truncations(example)
        low, high = 0, len(parts)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(parts[middle - 1].target) else (low, middle - 1)
        return parts[low - 1] if low else None

    def truncations(self, example: Example) -> list[Example]:
        """Return the example cut after each part of its target but the last, shortest first; all are legal."""
        ends = [end for _, end in parsing.parse(example.target, self.form, (1, 1)).spans][:-1]
        return [
            replace(example, target=example.target[:end], regions=example.regions[:parts])
            for parts, end in enumerate(ends, start=1)
        ]


class TextTask(Task):
    """A task whose answer is one text. ``ends``: where a text may be truncated, None where it may not."""

    form = Form.TEXT
    truncation = "the example is left out: part of such an answer would be another answer"
    ends: ClassVar[re.Pattern[str] | None] = None

    def encode(self, answer: Answer, size: Size) -> str:
        """Return the answer's text. Raises EncodeError where it holds a special token, or is empty and must not be."""
        text = grammar.check_text(answer.text, "answer")
        if reason := parsing.parse_text(text, self.form)[2]:
            raise EncodeError(f"{self.name}: {reason}; a text is expected, found {text[:80]!r}")
        return text

    def truncations(self, example: Example) -> list[Example]:
        """Return the example cut at each of ``ends``."""
        cuts = [found.end() for found in self.ends.finditer(example.target)] if self.ends else []
        return [replace(example, target=example.target[:cut], text=example.text[:cut]) for cut in cuts]

    def decode(self, text: str, size: Size, input: str = "") -> Answer:
        """Return the text, white space at its ends too, up to the first special token; that token is an error."""
        answer, position, reason = parsing.parse_text(text, self.form)
        return Answer(answer, error=self._error(text, position, reason))


class RegionInput:
    """The input of tasks about one region: its location tokens."""

    name: ClassVar[str]
    input_description: ClassVar[str] = "a box as four location tokens, or a polygon as six or more"

    def checked_input(self, input: str) -> str:
        """Return ``input``. Raises EncodeError where it is not four location tokens, or a polygon's six or more."""
        found = parsing.tokenise(input)
        if not found or len(found) < 4 or len(found) % 2 or any(token.type != "loc" for token in found):
            raise EncodeError(
                f"{self.name} is asked about a region: four location tokens as <loc_0><loc_0><loc_999><loc_999>; "
                f"found {input[:80]!r}"
            )
        return input


TASK: Registry[type[Task]] = Registry("task", "florence.tasks")


@lru_cache(maxsize=64)
def task(name: str) -> Task:
    """Return the task called ``name`` ("<OD>" …). Raises UnknownNameError, which lists the known names."""
    return TASK.get(name)()


# ---------------------------------------------------------------- shared by the families


def are_empty(rows: Iterable[Annotation]) -> bool:
    """Return whether every row says that nothing was found: no region and no text."""
    return all(not row.regions and not row.text for row in rows)


def labelled_regions(rows: Iterable[Annotation]) -> Iterator[Region]:
    """Yield every region of every row, labelled with the row's text as the grammar spells it."""
    for row in rows:
        if row.regions:
            label = grammar.clean_label(row.text)
            for region in row.regions:
                yield region if region.label == label else replace(region, label=label)


def check_regions(row: Annotation) -> None:
    """Raise EncodeError where the row's text or a region of it cannot be written."""
    if row.text or row.regions:
        grammar.clean_label(row.text)
    for region in row.regions:
        locations.quantise(grammar.region_bounds(region), (1, 1))


def sort_regions(regions: Iterable[Region], size: Size) -> list[Region]:
    """Sort regions from left to right by the middle of their box, then from top to bottom; one of each label and box.

    One number decides in nearly every case, which a small model learns sooner than rows from top to bottom, whose
    limits shift with every image. Compared in bins: the order depends only on what the target shows.
    """
    keyed: dict[tuple[int, int, int, int, str], Region] = {}
    for region in regions:
        x0, y0, x1, y1 = locations.quantise(region.bounds, size)
        keyed.setdefault((x0 + x1, y0 + y1, x0, y0, region.label), region)
    return [keyed[key] for key in sorted(keyed)]


def group_by_label(regions: Iterable[Region]) -> list[LabelledRegions]:
    """Group regions by label, in the order of the first region of each."""
    groups: dict[str, list[Region]] = {}
    for region in regions:
        groups.setdefault(region.label, []).append(region)
    return [LabelledRegions(label, tuple(members)) for label, members in groups.items()]


def flatten(groups: Iterable[LabelledRegions]) -> tuple[Region, ...]:
    """Return the regions of groups, in order."""
    return tuple(region for group in groups for region in group.regions)
