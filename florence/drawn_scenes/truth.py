"""The exact truth of a scene for every annotation type: objects, OCR lines, descriptions, captions with phrases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from florence.geometry import Box, Polygon, Quad
from florence.records import Claim, Region

SIZES: tuple[str, ...] = ("small", "big")
ACTIONS: tuple[str, ...] = (
    "standing",
    "floating",
    "rolling",
    "tilting to the left",
    "tilting to the right",
    "lying on its side",
    "upside down",
)
RELATIONS: tuple[str, ...] = (
    "left of",
    "right of",
    "above",
    "below",
    "on top of",
    "next to",
    "near",
    "overlapping",
    "in front of",
    "behind",
)
PLURALS = {"fish": "fish", "leaf": "leaves", "butterfly": "butterflies", "cross": "crosses"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True, slots=True)
class DrawnObject:
    """One object of a scene. ``box``, ``polygons``, ``area``: those of its visible pixels.

    ``size``, ``colour``, ``texture``, ``action``: a word, or None. ``lines``, ``quads``: the text written on it.
    ``order``: later objects are in front. ``covers``: orders of the objects it partly hides. ``on``: order of the
    object it stands on.
    """

    label: str
    box: Box
    polygons: tuple[Polygon, ...]
    area: int
    order: int
    size: str | None = None
    colour: str | None = None
    texture: str | None = None
    action: str | None = None
    lines: tuple[str, ...] = ()
    quads: tuple[Quad, ...] = ()
    covers: frozenset[int] = frozenset()
    on: int | None = None

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    def noun(self, *names: str) -> str:
        """Return the label after the attributes in ``names`` (size, colour, texture); a plain texture is left out."""
        words = [getattr(self, name) for name in ("size", "colour", "texture") if name in names]
        return " ".join([word for word in words if word and word != "plain"] + [self.label])

    @property
    def written_text(self) -> str:
        """The text written on it."""
        return " ".join(self.lines)

    def region(self, label: str, span: tuple[int, int] | None = None) -> Region:
        """Return its region, with a label."""
        return Region(label, box=self.box, polygons=self.polygons, span=span)


def add_article(noun: str) -> str:
    """Return ``noun`` with a or an before it."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


@dataclass
class CaptionText:
    """A caption while it is written, and its phrases: characters and objects of each."""

    text: str = ""
    phrases: list[tuple[tuple[int, int], tuple[DrawnObject, ...]]] = field(default_factory=list)

    def say(self, words: str) -> CaptionText:
        """Add words that name no object."""
        self.text += words
        return self

    def name(self, phrase: str, *objects: DrawnObject) -> CaptionText:
        """Add a noun phrase for ``objects``."""
        self.phrases.append(((len(self.text), len(self.text) + len(phrase)), objects))
        self.text += phrase
        return self

    def claims(self, task: str) -> Iterator[Claim]:
        """Yield the caption, then one grounding claim for each phrase."""
        yield Claim(task, self.text)
        for span, objects in self.phrases:
            phrase = self.text[span[0] : span[1]]
            yield Claim(
                "<CAPTION_TO_PHRASE_GROUNDING>", self.text, tuple(item.region(phrase, span) for item in objects)
            )


def make_claims(
    rng: np.random.Generator, objects: Sequence[DrawnObject], side: int, background: str | None
) -> tuple[Claim, ...]:
    """Return the truth as claims, one annotation type after the other; objects from left to right.

    The longer captions mention the background, but it is no object, so its phrase is not grounded.
    """
    objects = sorted(objects, key=lambda item: (item.centre, item.order))
    result = [Claim("<OD>", item.label, (item.region(item.label),)) for item in objects]
    for item in objects:
        phrase = add_article(item.noun("size", "colour", "texture")) + (
            f" that says {item.written_text}" if item.lines else ""
        )
        result.append(Claim("<DENSE_REGION_CAPTION>", phrase, (Region(phrase, box=item.box),)))
    salient = sorted(objects, key=lambda item: -item.area)
    result += write_caption(rng, salient, side).claims("<CAPTION>")
    result += write_detailed_caption(salient, side, background).claims("<DETAILED_CAPTION>")
    result += write_more_detailed_caption(objects, side, background).claims("<MORE_DETAILED_CAPTION>")
    for item in objects:
        for line, quad in zip(item.lines, item.quads, strict=True):
            result.append(Claim("<OCR_WITH_REGION>", line, (Region(line, quad=quad),)))
    for item in objects:
        if expression := make_expression(rng, item, objects, side):
            result.append(Claim("<REFERRING_EXPRESSION_SEGMENTATION>", expression, (item.region(expression),)))
    return tuple(result)


def find_relation(a: DrawnObject, b: DrawnObject, side: int) -> str:
    """Return the most specific of `RELATIONS` between ``a`` and ``b``."""
    if a.on == b.order:
        return "on top of"
    if b.order in a.covers:
        return "in front of"
    if a.order in b.covers:
        return "behind"
    (ax, ay), (bx, by) = a.centre, b.centre
    gap = max(a.box[0] - b.box[2], b.box[0] - a.box[2])
    if 0 <= gap <= 0.08 * side and abs(ay - by) < 0.3 * min(a.box[3] - a.box[1], b.box[3] - b.box[1]):
        return "next to"
    if max(abs(ax - bx), abs(ay - by)) < 0.08 * side:
        return "near"
    if abs(ax - bx) >= abs(ay - by):
        return "left of" if ax < bx else "right of"
    return "above" if ay < by else "below"


def is_clearly(a: DrawnObject, word: str, b: DrawnObject, side: int) -> bool:
    """Return whether ``a`` lies clearly in a direction of ``b``: by a twelfth of the scene between their centres."""
    (ax, ay), (bx, by) = a.centre, b.centre
    return {"left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by}[word] >= side / 12


def describe_uniquely(item: DrawnObject, objects: Sequence[DrawnObject]) -> list[str]:
    """Return descriptions by attributes that fit only this object, shortest first."""
    found = []
    for names in (
        (),
        ("colour",),
        ("texture",),
        ("size",),
        ("size", "colour"),
        ("colour", "texture"),
        ("size", "texture"),
        ("size", "colour", "texture"),
    ):
        noun = item.noun(*names)
        if noun not in found and all(other is item or not _fits(noun, other) for other in objects):
            found.append(noun)
    return found


def _fits(noun: str, item: DrawnObject) -> bool:
    *words, label = noun.split()
    return label == item.label.split()[-1] and set(words) <= {
        item.size,
        item.colour,
        item.texture,
        *item.label.split(),
    }


def make_expression(
    rng: np.random.Generator, item: DrawnObject, objects: Sequence[DrawnObject], side: int
) -> str | None:
    """Return an expression that fits only this object: by attributes, else by position; None if there is none."""
    if nouns := describe_uniquely(item, objects):
        return f"the {nouns[int(rng.integers(len(nouns)))]}"
    same_label = [other for other in objects if other.label == item.label and other is not item]
    found = []
    for other in objects:
        if other.label == item.label or not (anchor := describe_uniquely(other, objects)):
            continue
        for word in ("left of", "right of", "above", "below"):
            # The others must clearly lie in the opposite direction, or the expression would be ambiguous.
            back = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[word]
            if is_clearly(item, word, other, side) and all(is_clearly(same, back, other, side) for same in same_label):
                found.append(f"the {item.label} {word} the {anchor[0]}")
    for axis, low, high in ((0, "leftmost", "rightmost"), (1, "topmost", "lowest")):
        distances = [item.centre[axis] - same.centre[axis] for same in same_label]
        if max(distances) <= -side / 24:
            found.append(f"the {low} {item.label}")
        if min(distances) >= side / 24:
            found.append(f"the {high} {item.label}")
    return found[int(rng.integers(len(found)))] if found else None


def find_position(item: DrawnObject, side: int) -> str:
    """Return the position of an object in the scene, in thirds."""
    x, y = item.centre
    column = "left" if x < 0.38 * side else "right" if x > 0.62 * side else ""
    row = "top" if y < 0.38 * side else "bottom" if y > 0.62 * side else ""
    if row:
        return f"at the {row} {column}".rstrip()
    return f"on the {column}" if column else "in the middle"


def write_caption(rng: np.random.Generator, salient: Sequence[DrawnObject], side: int) -> CaptionText:
    """Return a caption of the one or two largest objects."""
    text, first = CaptionText(), salient[0]
    if len(salient) == 1:
        text.name(add_article(first.noun("colour")), first)
        return text.say(f" {first.action}") if first.action else text
    second = salient[1]
    if first.label == second.label and rng.random() < 0.5:
        return text.name(f"two {PLURALS.get(first.label, first.label + 's')}", first, second)
    link = find_relation(first, second, side) if rng.random() < 0.6 else "and"
    if link in ("in front of", "behind") and rng.random() < 0.3:
        link = "overlapping"
    return (
        text.name(add_article(first.noun("colour")), first)
        .say(f" {link} ")
        .name(add_article(second.noun("colour")), second)
    )


def write_detailed_caption(salient: Sequence[DrawnObject], side: int, background: str | None) -> CaptionText:
    """Return a caption of all objects with colour and texture, the action of the largest, and the background."""
    first, *rest = salient
    text = CaptionText("There is ").name(add_article(first.noun("colour", "texture")), first)
    if first.action:
        text.say(f" {first.action}")
    if rest:
        text.say(f"{',' if first.action else ''} {find_relation(first, rest[0], side)} ").name(
            add_article(rest[0].noun("colour", "texture")), rest[0]
        )
    if background:
        text.say(f" with {background} behind")
    text.say(".")
    for position, item in enumerate(rest[1:]):
        text.say(
            (" Also visible is " if len(rest) == 2 else " Also visible are ")
            if position == 0
            else " and "
            if item is rest[-1]
            else ", "
        )
        text.name(add_article(item.noun("colour", "texture")), item)
    return text.say(".") if rest[1:] else text


def write_more_detailed_caption(objects: Sequence[DrawnObject], side: int, background: str | None) -> CaptionText:
    """Return a caption of all objects with attributes, position, action and text, and the relations of neighbours."""
    number = NUMBERS[len(objects)] if len(objects) < len(NUMBERS) else str(len(objects))
    text = CaptionText(f"This is {background or 'a scene'} with {number} object{'s' if len(objects) > 1 else ''}.")
    for item in objects:
        position = find_position(item, side)
        text.say(f" {position[0].upper()}{position[1:]} there is ").name(
            add_article(item.noun("size", "colour", "texture")), item
        )
        if item.lines:
            text.say(f" that says {item.written_text}")
        text.say(f", {item.action}." if item.action else ".")
    start = " Overall, "
    for a, b in zip(objects, objects[1:], strict=False):
        if (one := describe_uniquely(a, objects)) and (other := describe_uniquely(b, objects)):
            text.say(start).name(f"the {one[0]}", a).say(f" is {find_relation(a, b, side)} ").name(f"the {other[0]}", b)
            start = ", and "
    return text.say(".") if start == ", and " else text
