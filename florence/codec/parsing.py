"""Text → regions: reads the answers that `florence.codec.grammar` writes, and whatever else a model wrote.

Parsing is total: it accepts any text and returns the regions that are certain and, where the text is no legal answer,
the first token that does not fit and why. ``write(parse(text).groups) == text`` for every text that is parsed without
an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from florence.codec import locations
from florence.codec.grammar import AND, POLY_CLOSE, POLY_OPEN, SEP, SPECIAL, WHITE, Form, LabelledRegions
from florence.geometry import Box, Quad
from florence.records import Region

_LOCATION = re.compile(r"<loc_(0|[1-9][0-9]{0,2})>")


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The regions of a text, by label.

    ``spans``, ``label_spans``: for each region, in the order of the groups, the characters of its own tokens (of the
    first region of a group: with the label) and of its group's label. ``position``: index of the first token that does
    not fit, None where all do; ``reason``: why it does not.
    """

    groups: tuple[LabelledRegions, ...]
    spans: tuple[tuple[int, int], ...]
    label_spans: tuple[tuple[int, int], ...]
    position: int | None = None
    reason: str = ""

    @property
    def regions(self) -> tuple[Region, ...]:
        """All regions, in the order of the text."""
        return tuple(region for group in self.groups for region in group.regions)


class Token(NamedTuple):
    """A piece of an answer.

    ``type``: text, loc, one of <sep> <poly> </poly> <and>, or "other" for a token that is in no answer; ``value``: the
    bin.
    """

    type: str
    start: int
    end: int
    value: int = -1


def tokenise(text: str) -> list[Token]:
    """Split ``text`` into special tokens and the runs of text between them."""
    result, last = [], 0
    for found in SPECIAL.finditer(text):
        if found.start() > last:
            result.append(Token("text", last, found.start()))
        if location := _LOCATION.fullmatch(found[0]):
            result.append(Token("loc", found.start(), found.end(), int(location[1])))
        else:
            token_type = found[0] if found[0] in (SEP, POLY_OPEN, POLY_CLOSE, AND) else "other"
            result.append(Token(token_type, found.start(), found.end()))
        last = found.end()
    if last < len(text):
        result.append(Token("text", last, len(text)))
    return result


def parse_text(text: str, form: Form) -> tuple[str, int | None, str]:
    """Parse an answer of a form without regions.

    Returns the text up to the first special token, the index of that token or None, and why it does not fit.
    """
    other = next(((index, token) for index, token in enumerate(tokenise(text)) if token.type != "text"), None)
    words = text if other is None else text[: other[1].start]
    if not words.strip(WHITE) and (words or (form is Form.TEXT and other is None)):
        return "", 0, "the answer is empty"
    if other is not None:
        return words, other[0], f"{text[other[1].start : other[1].end]!r} is not allowed in this answer"
    return words, None, ""


def parse(text: str, form: Form, size: tuple[int, int]) -> ParsedAnswer:
    """Parse the regions of an answer about an image of ``size`` (width, height). Accepts any text.

    Corners of a box are put in order. A region that is cut off, unlabelled or beside a token that does not belong is
    left out.
    """
    if form in (Form.TEXT, Form.TEXT_OR_NOTHING):
        _, position, reason = parse_text(text, form)
        return ParsedAnswer((), (), (), position, reason)
    parser = _Parser(text, form, size, tokenise(text))
    if form is Form.BOXES:
        parser.parse_boxes()
    elif form is Form.POLYGONS:
        parser.parse_objects()
    else:
        parser.parse_labelled()
    return parser.result()


@dataclass(slots=True)
class _Parser:
    text: str
    form: Form
    size: tuple[int, int]
    tokens: list[Token]
    groups: list[LabelledRegions] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    label_spans: list[tuple[int, int]] = field(default_factory=list)
    position: int | None = None
    reason: str = ""
    shapes: set[str] = field(default_factory=set)

    def result(self) -> ParsedAnswer:
        return ParsedAnswer(tuple(self.groups), tuple(self.spans), tuple(self.label_spans), self.position, self.reason)

    def add_fault(self, position: int, reason: str) -> None:
        if self.position is None or position < self.position:
            self.position, self.reason = position, reason

    def type_at(self, index: int) -> str:
        return self.tokens[index].type if 0 <= index < len(self.tokens) else "end"

    def end_of_run(self, index: int, *types: str) -> int:
        """Return the end of the run of tokens of ``types`` that starts at ``index``."""
        while self.type_at(index) in types:
            index += 1
        return index

    def add_group(
        self, label_span: tuple[int, int], found: list[tuple[Region, int, int]], wrapped: bool = False
    ) -> None:
        """Add a group of regions, each with its first token and the one after its last."""
        if not found:
            return
        flips = tuple(self._flip(first) if region.box else 0 for region, first, _ in found)
        label = self.text[label_span[0] : label_span[1]]
        self.groups.append(
            LabelledRegions(label, tuple(region for region, _, _ in found), wrapped, flips if any(flips) else ())
        )
        for number, (_, first, after) in enumerate(found):
            start = self.tokens[first].start
            if number == 0 and label_span[1] > label_span[0]:
                start = label_span[0]
            self.spans.append((start, self.tokens[after - 1].end))
            self.label_spans.append(label_span)

    # forms with labels

    def parse_labelled(self) -> None:
        index = 0
        while index < len(self.tokens):
            if self.type_at(index) != "text":
                self.add_fault(index, "a label is expected")
                index += 1
                continue
            token = self.tokens[index]
            label = self.text[token.start : token.end].strip(WHITE)
            # a label that touches a token which does not belong may be half a label
            certain = bool(label) and self._clean_before(index)
            if not label:
                self.add_fault(index, "the label is empty")
            index = self._parse_regions(index + 1, label, (token.start, token.end), certain)

    def _clean_before(self, index: int) -> bool:
        return self.type_at(index - 1) in ("end", "loc", POLY_CLOSE)

    def _parse_regions(self, first: int, label: str, label_span: tuple[int, int], certain: bool) -> int:
        """Parse the regions after a label; returns the index after them."""
        if self.form is Form.LABELLED_SHAPES and self.type_at(first) == POLY_OPEN:
            found, after = self._parse_wrapped(first, label)
            self._check_one_shape("polygons", first)
        else:
            after = self.end_of_run(first, "loc")
            if after == first:
                self.add_fault(first, "a region is expected after the label")
                return first
            found = self._parse_boxes_or_quad(first, after, label)
            self._check_one_shape("boxes", first)
        if certain:
            self.add_group(label_span, found)
        return after

    def _check_one_shape(self, shape: str, index: int) -> None:
        self.shapes.add(shape)
        if len(self.shapes) > 1:
            self.add_fault(index, "boxes and polygons stand in one answer")

    def _parse_boxes_or_quad(self, first: int, after: int, label: str) -> list[tuple[Region, int, int]]:
        """Return the boxes or the quad of the locations from ``first`` to ``after``."""
        count = 8 if self.form is Form.LABELLED_QUADS else 4
        whole = first + (after - first) // count * count
        if count == 8 and after - first > 8:
            self.add_fault(first + 8, "a second quad follows one text")
            whole = first + 8
        elif whole != after:
            self.add_fault(after, f"{after - whole} locations are left over; {count} make a region")
        return [(self._region(start, count, label), start, start + count) for start in range(first, whole, count)]

    def _region(self, start: int, count: int, label: str) -> Region:
        values = [token.value for token in self.tokens[start : start + count]]
        if count == 8:
            return Region(label, quad=cast(Quad, locations.dequantise(values, self.size)))
        x0, y0, x1, y1 = values
        ordered = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        return Region(label, box=cast(Box, locations.dequantise(ordered, self.size)))

    def _flip(self, start: int) -> int:
        x0, y0, x1, y1 = (token.value for token in self.tokens[start : start + 4])
        return (x0 > x1) + 2 * (y0 > y1)

    # forms without labels

    def parse_boxes(self) -> None:
        index = 0
        while index < len(self.tokens):
            after = self.end_of_run(index, "loc")
            if after == index:
                self.add_fault(index, "a location is expected")
                index += 1
                continue
            found = self._parse_boxes_or_quad(index, after, "")
            if index == 0:  # after a token that does not belong, it is unknown which corner comes first
                self.add_group((0, 0), found)
            index = after

    def parse_objects(self) -> None:
        index = 0
        while index < len(self.tokens):
            if self.type_at(index) == POLY_OPEN:
                found, after = self._parse_wrapped(index, "")
                self.add_group((0, 0), found, wrapped=True)
            elif index == 0 and self.type_at(0) in ("loc", SEP):
                region, after = self._parse_polygons(0, "")
                if region is not None:
                    self.add_group((0, 0), [(region, 0, after)])
                if after < len(self.tokens):
                    self.add_fault(after, "the end is expected after polygons that stand alone")
            else:
                self.add_fault(index, f"{POLY_OPEN} or a location is expected")
                after = index + 1
            index = after

    def _parse_wrapped(self, index: int, label: str) -> tuple[list[tuple[Region, int, int]], int]:
        """Parse objects, each in <poly>…</poly>, from ``index`` on; returns them and the index after them."""
        found = []
        while self.type_at(index) == POLY_OPEN:
            region, after = self._parse_polygons(index + 1, label)
            closed = self.type_at(after) == POLY_CLOSE
            if not closed:
                self.add_fault(after, f"{POLY_CLOSE} is expected")
            after += closed
            if region is not None:
                found.append((region, index, after))
            index = after
        return found, index

    def _parse_polygons(self, first: int, label: str) -> tuple[Region | None, int]:
        """Parse one object, polygons with <sep> between them, from ``first`` on; returns it and the index after it."""
        polygons, index = [], first
        while True:
            after = self.end_of_run(index, "loc")
            count = after - index
            if count % 2:
                self.add_fault(after, "half a point is left over")
            if count < 6:
                self.add_fault(after, "a polygon has at least three points")
            else:
                values = [token.value for token in self.tokens[index : index + count // 2 * 2]]
                polygons.append(locations.dequantise(values, self.size))
            if self.type_at(after) != SEP:
                return (Region(label, polygons=tuple(polygons)) if polygons else None), after
            index = after + 1
