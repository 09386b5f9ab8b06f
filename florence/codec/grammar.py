"""Regions ↔ text: the grammar of Florence-2's answers (paper, appendix; tokens as in the published vocabulary).

Writing is strict: a label that the grammar would misread is refused. Reading is total: whatever the text, it gives the
regions that are certain and, where the text is no legal answer, the first token that does not fit and why.
Legal texts and lists of groups correspond one to one: ``write(read(text).groups) == text`` for every text that is read
without an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, cast

from florence.codec import locations
from florence.errors import EncodeError
from florence.geometry import Box, Quad, box_quad
from florence.records import Region

SEP, POLY_OPEN, POLY_CLOSE, AND = "<sep>", "<poly>", "</poly>", "<and>"
MARKS: tuple[str, ...] = (
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<mask>",
    "<image>",
    "<od>",
    "</od>",
    "<ocr>",
    "</ocr>",
    "<cap>",
    "</cap>",
    "<ncap>",
    "</ncap>",
    "<dcap>",
    "</dcap>",
    "<grounding>",
    "</grounding>",
    "<seg>",
    "</seg>",
    "<region_cap>",
    "</region_cap>",
    "<region_to_desciption>",
    "</region_to_desciption>",
    "<proposal>",
    "</proposal>",
)
"""Tokens of the published vocabulary that stand in no answer (one of them is misspelt there too)."""

# half a surrogate pair is no character: no vocabulary can write it
_SPECIAL = re.compile(
    "|".join([r"<loc_[0-9]+>", "[\ud800-\udfff]", *map(re.escape, (SEP, POLY_OPEN, POLY_CLOSE, AND, *MARKS))])
)
_LOCATION = re.compile(r"<loc_(0|[1-9][0-9]{0,2})>")
WHITE = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
"""White space of the grammar: ASCII's alone, so that pieces of a byte-level vocabulary are white space or not whatever stands around them."""


class Form(StrEnum):
    """The shape of an answer."""

    TEXT = "text"
    """One text."""
    TEXT_OR_NOTHING = "text or nothing"
    """One text, perhaps empty."""
    BOXES = "boxes"
    """Boxes without labels."""
    LABELLED_BOXES = "labelled boxes"
    """Labels, each followed by one or more boxes."""
    LABELLED_QUADS = "labelled quads"
    """Texts, each followed by one quad."""
    POLYGONS = "polygons"
    """One object's polygons joined by <sep>; several objects are each wrapped in <poly>…</poly>."""
    LABELLED_SHAPES = "labelled boxes or polygons"
    """Labels followed by boxes; or labels followed by <poly>…</poly>, one for each object."""


class Group(NamedTuple):
    """A label and the regions that follow it; the label is "" in forms without labels.

    ``label``: as it is written, white space at its ends too; its regions' labels are without that. ``wrapped``: whether a single object's
    polygons stand in <poly>…</poly>, which they need not. ``turned``: for boxes, whether the text has x0 and x1 (1), y0 and y1 (2) or both (3) in the other
    order; empty where all are as in `Box`.
    """

    label: str
    regions: tuple[Region, ...]
    wrapped: bool = False
    turned: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says. ``spans``, ``label_spans``: per region, in the order of the groups, the characters of its own tokens
    (the first region of a group: with the label) and of its group's label.

    ``position``: index of the first token that does not fit, None where all do; ``reason``: why it does not.
    """

    groups: tuple[Group, ...]
    spans: tuple[tuple[int, int], ...]
    label_spans: tuple[tuple[int, int], ...]
    position: int | None = None
    reason: str = ""

    @property
    def regions(self) -> tuple[Region, ...]:
        """All regions, in the order of the text."""
        return tuple(region for group in self.groups for region in group.regions)


# ---------------------------------------------------------------- writing


def plain(text: str, what: str = "text") -> str:
    """``text`` itself. Raises EncodeError where it holds a special token or half a surrogate pair, which no model could write."""
    if ("<" in text or not text.isascii()) and (found := _SPECIAL.search(text)):
        if found[0].startswith("<"):
            raise EncodeError(
                f"the {what} {text[:80]!r} contains {found[0]}, which is a token of the grammar; take it out of the {what}"
            )
        raise EncodeError(
            f"the {what} {text[:80]!r} contains {found[0]!r}, half a surrogate pair; only whole characters can be written"
        )
    return text


def label(text: str) -> str:
    """``text`` as a label: runs of white space become one space, none at the ends. Raises EncodeError as `plain`, and where nothing is left."""
    return _written(" ".join(text.split()))


def _written(words: str) -> str:
    """A label as it is. Raises EncodeError as `label`."""
    if not words.strip(WHITE):
        raise EncodeError(
            "an empty label cannot be written before a place; at least one character that is not white space is expected"
        )
    return plain(words, "label")


def joined(names: Iterable[str]) -> str:
    """Names as one input: joined by <and>. Raises EncodeError as `label`."""
    return AND.join(label(name) for name in names)


def bounds(region: Region) -> Box:
    """The box around ``region``. Raises EncodeError where it has no place, or a box or quad with too few or too many numbers."""
    for shape, count in ((region.box, 4), (region.quad, 8)):
        if shape is not None and len(shape) != count:
            raise EncodeError(
                f"the region {region.label!r} has a place of {len(shape)} numbers, {tuple(shape)!r}; {count} are expected"
            )
    if region.box is None and region.quad is None and not any(region.polygons):
        raise EncodeError(f"the region {region.label!r} has no place; a box, a quad or polygons are expected")
    return region.bounds


def box_tokens(box: Sequence[float], size: tuple[int, int]) -> str:
    """A box (x0, y0, x1, y1 in pixels) as four location tokens, corners in order."""
    x0, y0, x1, y1 = locations.bins(
        box, size
    )  # compared as bins: a coordinate that is no number is refused, not lost in min and max
    return "".join([locations.TOKENS[index] for index in (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))])


def write(groups: Iterable[Group], form: Form, size: tuple[int, int]) -> str:
    """Groups as an answer of ``form`` about an image of ``size`` (width, height), in the order given.

    Raises EncodeError where a label, a place or their number does not fit the form.
    """
    groups = list(groups)
    if form in (Form.TEXT, Form.TEXT_OR_NOTHING):
        raise EncodeError(f"an answer of form {form.value!r} holds no regions")
    if form is Form.POLYGONS:
        objects = [_object(region, size) for group in groups for region in group.regions]
        if len(objects) == 1 and not any(group.wrapped for group in groups):
            return objects[0]
        return "".join(f"{POLY_OPEN}{text}{POLY_CLOSE}" for text in objects)
    shaped = form is Form.LABELLED_SHAPES and any(region.polygons for group in groups for region in group.regions)
    parts = []
    for group in groups:
        if not group.regions:
            raise EncodeError(f"the label {group.label!r} has no place; at least one region is expected")
        if form is not Form.BOXES:
            parts.append(_written(group.label))
        if form is Form.LABELLED_QUADS:
            if len(group.regions) > 1:
                raise EncodeError(
                    f"the text {group.label!r} has {len(group.regions)} quads; one is expected, the text repeated before each"
                )
            around = bounds(group.regions[0])
            parts.append(locations.tokens(group.regions[0].quad or box_quad(around), size))
        elif shaped:
            parts += [f"{POLY_OPEN}{_object(region, size)}{POLY_CLOSE}" for region in group.regions]
        else:
            turned = group.turned or (0,) * len(group.regions)
            parts += [_corners(region, way, size) for region, way in zip(group.regions, turned, strict=True)]
    return "".join(parts)


def _corners(region: Region, turned: int, size: tuple[int, int]) -> str:
    x0, y0, x1, y1 = bounds(region)
    if not turned:
        return box_tokens((x0, y0, x1, y1), size)
    x0, x1 = (x1, x0) if turned & 1 else (x0, x1)
    y0, y1 = (y1, y0) if turned & 2 else (y0, y1)
    return locations.tokens((x0, y0, x1, y1), size)


def _object(region: Region, size: tuple[int, int]) -> str:
    if not region.polygons or any(len(points) < 6 or len(points) % 2 for points in region.polygons):
        raise EncodeError(f"the region {region.label!r} has no polygons of at least three points each")
    return SEP.join(locations.tokens(points, size) for points in region.polygons)


# ---------------------------------------------------------------- reading


class Token(NamedTuple):
    """A piece of an answer. ``type``: text, loc, one of <sep> <poly> </poly> <and>, or "other" for what stands in no answer."""

    type: str
    start: int
    end: int
    value: int = -1


def tokenise(text: str) -> list[Token]:
    """``text`` as special tokens and the runs of text between them."""
    result, last = [], 0
    for found in _SPECIAL.finditer(text):
        if found.start() > last:
            result.append(Token("text", last, found.start()))
        if location := _LOCATION.fullmatch(found[0]):
            result.append(Token("loc", found.start(), found.end(), int(location[1])))
        else:
            kind = found[0] if found[0] in (SEP, POLY_OPEN, POLY_CLOSE, AND) else "other"
            result.append(Token(kind, found.start(), found.end()))
        last = found.end()
    if last < len(text):
        result.append(Token("text", last, len(text)))
    return result


def read_text(text: str, form: Form) -> tuple[str, int | None, str]:
    """(the text up to the first special token, that token's index or None, why it does not fit) of a form without places."""
    other = next(((index, token) for index, token in enumerate(tokenise(text)) if token.type != "text"), None)
    words = text if other is None else text[: other[1].start]
    if not words.strip(WHITE) and (words or (form is Form.TEXT and other is None)):
        return "", 0, "the answer is empty"
    if other is not None:
        return words, other[0], f"{text[other[1].start : other[1].end]!r} has no place in this answer"
    return words, None, ""


def read(text: str, form: Form, size: tuple[int, int]) -> Reading:
    """The regions that ``text`` tells of an image of ``size`` (width, height). Never raises, whatever the text.

    Corners of a box are put in order. What is cut off, unlabelled or beside a token that does not belong is left out.
    """
    if form in (Form.TEXT, Form.TEXT_OR_NOTHING):
        _, position, reason = read_text(text, form)
        return Reading((), (), (), position, reason)
    reader = _Reader(text, form, size, tokenise(text))
    if form is Form.BOXES:
        reader.boxes_alone()
    elif form is Form.POLYGONS:
        reader.objects_alone()
    else:
        reader.labelled()
    return reader.result()


@dataclass(slots=True)
class _Reader:
    text: str
    form: Form
    size: tuple[int, int]
    tokens: list[Token]
    groups: list[Group] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    label_spans: list[tuple[int, int]] = field(default_factory=list)
    position: int | None = None
    reason: str = ""
    shapes: set[str] = field(default_factory=set)

    def result(self) -> Reading:
        return Reading(tuple(self.groups), tuple(self.spans), tuple(self.label_spans), self.position, self.reason)

    def wrong(self, position: int, reason: str) -> None:
        if self.position is None or position < self.position:
            self.position, self.reason = position, reason

    def kind(self, index: int) -> str:
        return self.tokens[index].type if 0 <= index < len(self.tokens) else "end"

    def run(self, index: int, *kinds: str) -> int:
        """The end of the run of tokens of ``kinds`` that starts at ``index``."""
        while self.kind(index) in kinds:
            index += 1
        return index

    def add(self, label_span: tuple[int, int], found: list[tuple[Region, int, int]], wrapped: bool = False) -> None:
        """A group of regions, each with its first token and the one after its last."""
        if not found:
            return
        turned = tuple(self._turned(first) if region.box else 0 for region, first, _ in found)
        words = self.text[label_span[0] : label_span[1]]
        self.groups.append(
            Group(words, tuple(region for region, _, _ in found), wrapped, turned if any(turned) else ())
        )
        for number, (_, first, after) in enumerate(found):
            start = self.tokens[first].start
            if number == 0 and label_span[1] > label_span[0]:
                start = label_span[0]
            self.spans.append((start, self.tokens[after - 1].end))
            self.label_spans.append(label_span)

    # one group after the other

    def labelled(self) -> None:
        index = 0
        while index < len(self.tokens):
            if self.kind(index) != "text":
                self.wrong(index, "a label is expected")
                index += 1
                continue
            token = self.tokens[index]
            words = self.text[token.start : token.end].strip(WHITE)
            # a label that touches a token which does not belong may be half a label
            certain = bool(words) and self._clean_before(index)
            if not words:
                self.wrong(index, "the label is empty")
            index = self._places(index + 1, words, (token.start, token.end), certain)

    def _clean_before(self, index: int) -> bool:
        return self.kind(index - 1) in ("end", "loc", POLY_CLOSE)

    def _places(self, first: int, words: str, label_span: tuple[int, int], certain: bool) -> int:
        """Read what follows a label; returns the index after it."""
        if self.form is Form.LABELLED_SHAPES and self.kind(first) == POLY_OPEN:
            found, after = self._wrapped(first, words)
            self._one_shape("polygons", first)
        else:
            after = self.run(first, "loc")
            if after == first:
                self.wrong(first, "a place is expected after the label")
                return first
            found = self._fixed(first, after, words)
            self._one_shape("boxes", first)
        if certain:
            self.add(label_span, found)
        return after

    def _one_shape(self, shape: str, index: int) -> None:
        self.shapes.add(shape)
        if len(self.shapes) > 1:
            self.wrong(index, "boxes and polygons stand in one answer")

    def _fixed(self, first: int, after: int, words: str) -> list[tuple[Region, int, int]]:
        """Boxes or the quad made of the locations from ``first`` to ``after``."""
        count = 8 if self.form is Form.LABELLED_QUADS else 4
        whole = first + (after - first) // count * count
        if count == 8 and after - first > 8:
            self.wrong(first + 8, "a second quad follows one text")
            whole = first + 8
        elif whole != after:
            self.wrong(after, f"{after - whole} locations are left over; {count} make a place")
        return [(self._place(start, count, words), start, start + count) for start in range(first, whole, count)]

    def _place(self, start: int, count: int, words: str) -> Region:
        values = [token.value for token in self.tokens[start : start + count]]
        if count == 8:
            return Region(words, quad=cast(Quad, locations.centres(values, self.size)))
        x0, y0, x1, y1 = values
        ordered = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        return Region(words, box=cast(Box, locations.centres(ordered, self.size)))

    def _turned(self, start: int) -> int:
        x0, y0, x1, y1 = (token.value for token in self.tokens[start : start + 4])
        return (x0 > x1) + 2 * (y0 > y1)

    # forms without labels

    def boxes_alone(self) -> None:
        index = 0
        while index < len(self.tokens):
            after = self.run(index, "loc")
            if after == index:
                self.wrong(index, "a location is expected")
                index += 1
                continue
            found = self._fixed(index, after, "")
            if index == 0:  # after a token that does not belong, nobody knows which corner comes first
                self.add((0, 0), found)
            index = after

    def objects_alone(self) -> None:
        index = 0
        while index < len(self.tokens):
            if self.kind(index) == POLY_OPEN:
                found, after = self._wrapped(index, "")
                self.add((0, 0), found, wrapped=True)
            elif index == 0 and self.kind(0) in ("loc", SEP):
                region, after = self._polygons(0, "")
                if region is not None:
                    self.add((0, 0), [(region, 0, after)])
                if after < len(self.tokens):
                    self.wrong(after, "the end is expected after polygons that stand alone")
            else:
                self.wrong(index, f"{POLY_OPEN} or a location is expected")
                after = index + 1
            index = after

    def _wrapped(self, index: int, words: str) -> tuple[list[tuple[Region, int, int]], int]:
        """The objects, each in <poly>…</poly>, that follow each other from ``index`` on."""
        found = []
        while self.kind(index) == POLY_OPEN:
            region, after = self._polygons(index + 1, words)
            closed = self.kind(after) == POLY_CLOSE
            if not closed:
                self.wrong(after, f"{POLY_CLOSE} is expected")
            after += closed
            if region is not None:
                found.append((region, index, after))
            index = after
        return found, index

    def _polygons(self, first: int, words: str) -> tuple[Region | None, int]:
        """One object: polygons with <sep> between them, from ``first`` on."""
        polygons, index = [], first
        while True:
            after = self.run(index, "loc")
            count = after - index
            if count % 2:
                self.wrong(after, "half a point is left over")
            if count < 6:
                self.wrong(after, "a polygon has at least three points")
            else:
                values = [token.value for token in self.tokens[index : index + count // 2 * 2]]
                polygons.append(locations.centres(values, self.size))
            if self.kind(after) != SEP:
                return (Region(words, polygons=tuple(polygons)) if polygons else None), after
            index = after + 1
