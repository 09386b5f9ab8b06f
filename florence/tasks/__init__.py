"""The fifteen published tasks and two that are reached by fine-tuning. A task owns its prompt, makes examples of labels, and writes and reads answers.

One file a family; found, never listed.
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

from florence.codec import constrain, grammar, locations
from florence.codec.grammar import Form, Group
from florence.errors import DecodeError, EncodeError
from florence.records import Annotation, ImageRecord, Region
from florence.registry import Registry

logger = logging.getLogger(__name__)

Size = tuple[int, int]
"""Width and height of the upright image in pixels."""


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn or to be scored on. ``input``: what the prompt is about; ``target``: the answer to write.

    ``text`` and ``regions`` (pixels, in the order of the target) are what the target stands for: the reference of a score.
    """

    image_id: str
    task: str
    input: str
    target: str
    text: str
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model's text says. ``text``: of a task without places the text, up to the first token that does not belong; of <OCR_WITH_REGION>
    its strings, joined; of other tasks what was decoded, as it is.

    ``spans``: for each region, the characters of its own tokens in the text that was decoded (the first region after a
    label: label included); ``label_spans``: the characters of its label, (0, 0) where there is none.
    ``error``: why the text is no legal answer, None where it is; what is certain is given all the same.
    ``score``: of the whole text, 0…1, where a model wrote it.
    ``groups``: of a task with places, the regions by label as the text has them: what `Task.encode` writes again.
    """

    text: str
    regions: tuple[Region, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    label_spans: tuple[tuple[int, int], ...] = ()
    error: DecodeError | None = None
    score: float | None = None
    groups: tuple[Group, ...] = ()


class Task(ABC):
    """One task. A subclass sets the class attributes and says, in `build`, what its examples are made of.

    ``name``: as "<OD>"; ``annotation_type``: the type of annotation it is derived from; ``metric``: the name of its metric;
    ``form``: the shape of its answers; ``template``: its published prompt, with {input} where it takes one.
    For people: ``given``: what the input is; ``shortening``: what becomes of a target that is too long (`shortened`).
    """

    name: ClassVar[str]
    annotation_type: ClassVar[str]
    metric: ClassVar[str]
    form: ClassVar[Form]
    template: ClassVar[str]
    given: ClassVar[str] = ""
    truncation: ClassVar[str] = "its first places are kept, in the target's order"

    @property
    def takes_input(self) -> bool:
        """Whether the prompt is about something that has to be given."""
        return "{input}" in self.template

    @property
    def start(self) -> int:
        """The state of `florence.codec.constrain` before the first token of an answer."""
        return constrain.start_state(self.form)

    def prompt(self, input: str = "") -> str:
        """The published prompt about ``input``. Raises EncodeError where an input is missing, not taken, or not of the right kind."""
        if not self.takes_input:
            if input:
                raise EncodeError(f"{self.name} takes no input; found {input[:80]!r}")
            return self.template
        return self.template.replace("{input}", self.checked_input(input.strip()))

    def checked_input(self, input: str) -> str:
        """``input`` itself. Raises EncodeError where it is not what the task is asked about: a text, unless a subclass says otherwise."""
        if not input:
            raise EncodeError(f"{self.name} needs an input: what is it about?")
        return grammar.plain(input, "input")

    def examples(
        self, image: ImageRecord, labels: Sequence[Annotation], refused: list[EncodeError] | None = None
    ) -> list[Example]:
        """The examples that ``labels`` (the image's kept annotations of ``annotation_type``) give; deterministic.

        No labels give no example. A label that cannot be written in the grammar is left out: its error is appended to
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
        """The examples of rows that passed `check`; there is at least one row."""

    def decode(self, text: str, size: Size, input: str = "") -> Answer:
        """What ``text`` says of an image of ``size``; places in float pixels, at the centres of their bins.

        Never raises for what a model wrote: a malformed text gives the parts that are certain, and an error.
        """
        reading = grammar.read(text, self.form, size)
        regions = self.named(reading.groups, input)
        error = self._error(text, reading.position, reading.reason)
        return Answer(text, regions, reading.spans, reading.label_spans, error, groups=reading.groups)

    def encode(self, answer: Answer, size: Size) -> str:
        """The text that says ``answer`` of an image of ``size``: what `decode` reads without an error is written again as it was.

        ``answer.groups`` is written; where there is none ``answer.regions``, in order, neighbours of one label together. Raises EncodeError where a
        label or place cannot be written, or the form has no room for it.
        """
        return grammar.write(answer.groups or self._grouped(answer.regions), self.form, size)

    def _grouped(self, regions: Sequence[Region]) -> list[Group]:
        """Regions as groups that the form can hold."""
        if self.form in (Form.BOXES, Form.POLYGONS):
            return [Group("", tuple(regions))] if regions else []
        if self.form is Form.LABELLED_QUADS:
            return [Group(region.label, (region,)) for region in regions]
        return [
            Group(words, tuple(members))
            for words, members in itertools.groupby(regions, key=lambda region: region.label)
        ]

    def named(self, groups: Sequence[Group], input: str) -> tuple[Region, ...]:
        """The regions of an answer's groups, as this task names them."""
        return tuple(region for group in groups for region in group.regions)

    def _error(self, text: str, position: int | None, reason: str) -> DecodeError | None:
        return None if position is None else DecodeError(self.name, text, position, reason)

    def truncate(self, example: Example, fits: Callable[[str], bool]) -> Example | None:
        """The example with as much of its target as ``fits`` allows, cut by the rule of ``shortening``; None where not even its first part fits.

        ``fits``: whether a target is short enough; must hold for every beginning of a target that it holds for.
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
        """The example cut after each part of its target but the last, the shortest first: legal examples all."""
        ends = [end for _, end in grammar.read(example.target, self.form, (1, 1)).spans][:-1]
        return [
            replace(example, target=example.target[:end], regions=example.regions[:parts])
            for parts, end in enumerate(ends, start=1)
        ]


class TextTask(Task):
    """A task whose answer is one text. ``ends``: where a text may end before its end, if it may."""

    form = Form.TEXT
    truncation = "the example is left out: part of such an answer would be another answer"
    ends: ClassVar[re.Pattern[str] | None] = None

    def encode(self, answer: Answer, size: Size) -> str:
        """The answer's text. Raises EncodeError where it holds a special token, or is empty and may not be."""
        text = grammar.plain(answer.text, "answer")
        if reason := grammar.read_text(text, self.form)[2]:
            raise EncodeError(f"{self.name}: {reason}; a text is expected, found {text[:80]!r}")
        return text

    def truncations(self, example: Example) -> list[Example]:
        """The text cut at each of ``ends``."""
        cuts = [found.end() for found in self.ends.finditer(example.target)] if self.ends else []
        return [replace(example, target=example.target[:cut], text=example.text[:cut]) for cut in cuts]

    def decode(self, text: str, size: Size, input: str = "") -> Answer:
        """The text itself, white space at its ends too; up to the first special token, with an error, where there is one."""
        words, position, reason = grammar.read_text(text, self.form)
        return Answer(words, error=self._error(text, position, reason))


class RegionInput:
    """For tasks that are asked about one region: its location tokens are the input."""

    name: ClassVar[str]
    given: ClassVar[str] = "a box as four location tokens, or a polygon as six or more"

    def checked_input(self, input: str) -> str:
        """``input`` itself. Raises EncodeError where it is not four location tokens, or a polygon's six or more."""
        found = grammar.tokenise(input)
        if not found or len(found) < 4 or len(found) % 2 or any(token.type != "loc" for token in found):
            raise EncodeError(
                f"{self.name} is asked about a region: four location tokens as <loc_0><loc_0><loc_999><loc_999>; found {input[:80]!r}"
            )
        return input


TASK: Registry[type[Task]] = Registry("task", "florence.tasks")


@lru_cache(maxsize=64)
def task(name: str) -> Task:
    """The task called ``name`` ("<OD>" …). Raises UnknownNameError, listing what is known."""
    return TASK.get(name)()


# ---------------------------------------------------------------- what families share


def nothing(rows: Iterable[Annotation]) -> bool:
    """Whether every row says that nothing was found: no region and no text."""
    return all(not row.regions and not row.text for row in rows)


def places(rows: Iterable[Annotation]) -> Iterator[Region]:
    """Every region of every row, labelled with the row's text in the grammar's spelling."""
    for row in rows:
        if row.regions:
            words = grammar.label(row.text)
            for region in row.regions:
                yield region if region.label == words else replace(region, label=words)


def check_places(row: Annotation) -> None:
    """Raise EncodeError where the row's text or a region of it cannot be written."""
    if row.text or row.regions:
        grammar.label(row.text)
    for region in row.regions:
        locations.bins(grammar.bounds(region), (1, 1))


def ordered(regions: Iterable[Region], size: Size) -> list[Region]:
    """Regions from left to right by the middle of their box, then from top to bottom; one of each label and place.

    One number decides in nearly every case, which a small model learns sooner than rows from top to bottom, whose limits shift with
    every picture. Compared in bins: the order depends on nothing that the target does not show.
    """
    keyed: dict[tuple, Region] = {}
    for region in regions:
        x0, y0, x1, y1 = locations.bins(region.bounds, size)
        keyed.setdefault((x0 + x1, y0 + y1, x0, y0, region.label), region)
    return [keyed[key] for key in sorted(keyed)]


def grouped(regions: Iterable[Region]) -> list[Group]:
    """Regions of one label together, groups in the order of their first region."""
    groups: dict[str, list[Region]] = {}
    for region in regions:
        groups.setdefault(region.label, []).append(region)
    return [Group(words, tuple(members)) for words, members in groups.items()]


def flat(groups: Iterable[Group]) -> tuple[Region, ...]:
    """The regions of groups, in order."""
    return tuple(region for group in groups for region in group.regions)
