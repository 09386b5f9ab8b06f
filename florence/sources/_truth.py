"""What is true of a scene, said for every kind of annotation: objects, texts, descriptions, captions with their phrases."""

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
class Thing:
    """One object of a scene. ``box``, ``polygons``, ``area``: of its visible pixels.

    ``size``, ``colour``, ``texture``, ``action``: a word, or None where nothing is to be said. ``order``: later ones are in
    front. ``covers``: orders of the things that it hides a visible part of. ``on``: the order of what it stands on.
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

    def noun(self, *kinds: str) -> str:
        """The label with the attributes of ``kinds`` (size, colour, texture) before it; a plain texture goes unsaid."""
        words = [getattr(self, kind) for kind in ("size", "colour", "texture") if kind in kinds]
        return " ".join([word for word in words if word and word != "plain"] + [self.label])

    @property
    def reading(self) -> str:
        """What is written on it."""
        return " ".join(self.lines)

    def region(self, label: str, span: tuple[int, int] | None = None) -> Region:
        """Its place under a label."""
        return Region(label, box=self.box, polygons=self.polygons, span=span)


def article(noun: str) -> str:
    """``noun`` with a or an before it."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


@dataclass
class Text:
    """A caption in the making, and where in it which things are named."""

    text: str = ""
    phrases: list[tuple[tuple[int, int], tuple[Thing, ...]]] = field(default_factory=list)

    def say(self, words: str) -> Text:
        """Add words that name nothing."""
        self.text += words
        return self

    def name(self, phrase: str, *things: Thing) -> Text:
        """Add a noun phrase for ``things``."""
        self.phrases.append(((len(self.text), len(self.text) + len(phrase)), things))
        self.text += phrase
        return self

    def claims(self, task: str) -> Iterator[Claim]:
        """The caption, then one grounding claim a phrase."""
        yield Claim(task, self.text)
        for span, things in self.phrases:
            phrase = self.text[span[0] : span[1]]
            yield Claim(
                "<CAPTION_TO_PHRASE_GROUNDING>", self.text, tuple(thing.region(phrase, span) for thing in things)
            )


def claims(rng: np.random.Generator, things: Sequence[Thing], side: int, background: str | None) -> tuple[Claim, ...]:
    """All that is true, kind by kind; objects from left to right.

    The background is told of in the longer captions but is no object, so its phrase is not grounded.
    """
    things = sorted(things, key=lambda thing: (thing.centre, thing.order))
    result = [Claim("<OD>", thing.label, (thing.region(thing.label),)) for thing in things]
    for thing in things:
        phrase = article(thing.noun("size", "colour", "texture")) + (
            f" that says {thing.reading}" if thing.lines else ""
        )
        result.append(Claim("<DENSE_REGION_CAPTION>", phrase, (Region(phrase, box=thing.box),)))
    salient = sorted(things, key=lambda thing: -thing.area)
    result += brief(rng, salient, side).claims("<CAPTION>")
    result += detailed(salient, side, background).claims("<DETAILED_CAPTION>")
    result += more_detailed(things, side, background).claims("<MORE_DETAILED_CAPTION>")
    for thing in things:
        for line, quad in zip(thing.lines, thing.quads, strict=True):
            result.append(Claim("<OCR_WITH_REGION>", line, (Region(line, quad=quad),)))
    for thing in things:
        if expression := refer(rng, thing, things, side):
            result.append(Claim("<REFERRING_EXPRESSION_SEGMENTATION>", expression, (thing.region(expression),)))
    return tuple(result)


def relation(a: Thing, b: Thing, side: int) -> str:
    """How ``a`` lies to ``b``: the most telling of `RELATIONS`."""
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


def holds(a: Thing, word: str, b: Thing, side: int) -> bool:
    """Whether a direction is true of ``a`` and ``b``: their centres differ by a twelfth of the picture that way."""
    (ax, ay), (bx, by) = a.centre, b.centre
    return {"left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by}[word] >= side / 12


def described(thing: Thing, things: Sequence[Thing]) -> list[str]:
    """Descriptions by attributes that fit this thing alone, shortest first."""
    found = []
    for kinds in (
        (),
        ("colour",),
        ("texture",),
        ("size",),
        ("size", "colour"),
        ("colour", "texture"),
        ("size", "texture"),
        ("size", "colour", "texture"),
    ):
        noun = thing.noun(*kinds)
        if noun not in found and all(other is thing or not _fits(noun, other) for other in things):
            found.append(noun)
    return found


def _fits(noun: str, thing: Thing) -> bool:
    *words, label = noun.split()
    return label == thing.label.split()[-1] and set(words) <= {
        thing.size,
        thing.colour,
        thing.texture,
        *thing.label.split(),
    }


def refer(rng: np.random.Generator, thing: Thing, things: Sequence[Thing], side: int) -> str | None:
    """An expression that fits this thing alone: by attributes, else by where it lies; None where there is none."""
    if nouns := described(thing, things):
        return f"the {nouns[int(rng.integers(len(nouns)))]}"
    alike = [other for other in things if other.label == thing.label and other is not thing]
    found = []
    for other in things:
        if other.label == thing.label or not (anchor := described(other, things)):
            continue
        for word in ("left of", "right of", "above", "below"):
            # One that nearly lies that way would make the expression arguable: it must clearly lie the other way.
            back = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[word]
            if holds(thing, word, other, side) and all(holds(twin, back, other, side) for twin in alike):
                found.append(f"the {thing.label} {word} the {anchor[0]}")
    for axis, low, high in ((0, "leftmost", "rightmost"), (1, "topmost", "lowest")):
        distances = [thing.centre[axis] - twin.centre[axis] for twin in alike]
        if max(distances) <= -side / 24:
            found.append(f"the {low} {thing.label}")
        if min(distances) >= side / 24:
            found.append(f"the {high} {thing.label}")
    return found[int(rng.integers(len(found)))] if found else None


def place(thing: Thing, side: int) -> str:
    """Where in the picture it is, in thirds."""
    x, y = thing.centre
    column = "left" if x < 0.38 * side else "right" if x > 0.62 * side else ""
    row = "top" if y < 0.38 * side else "bottom" if y > 0.62 * side else ""
    if row:
        return f"at the {row} {column}".rstrip()
    return f"on the {column}" if column else "in the middle"


def brief(rng: np.random.Generator, salient: Sequence[Thing], side: int) -> Text:
    """The one or two largest things."""
    text, first = Text(), salient[0]
    if len(salient) == 1:
        text.name(article(first.noun("colour")), first)
        return text.say(f" {first.action}") if first.action else text
    second = salient[1]
    if first.label == second.label and rng.random() < 0.5:
        return text.name(f"two {PLURALS.get(first.label, first.label + 's')}", first, second)
    link = relation(first, second, side) if rng.random() < 0.6 else "and"
    if link in ("in front of", "behind") and rng.random() < 0.3:
        link = "overlapping"
    return text.name(article(first.noun("colour")), first).say(f" {link} ").name(article(second.noun("colour")), second)


def detailed(salient: Sequence[Thing], side: int, background: str | None) -> Text:
    """Every thing with colour and texture, what the largest does, and the background."""
    first, *rest = salient
    text = Text("There is ").name(article(first.noun("colour", "texture")), first)
    if first.action:
        text.say(f" {first.action}")
    if rest:
        text.say(f"{',' if first.action else ''} {relation(first, rest[0], side)} ").name(
            article(rest[0].noun("colour", "texture")), rest[0]
        )
    if background:
        text.say(f" with {background} behind")
    text.say(".")
    for position, thing in enumerate(rest[1:]):
        text.say(
            (" Also visible is " if len(rest) == 2 else " Also visible are ")
            if position == 0
            else " and "
            if thing is rest[-1]
            else ", "
        )
        text.name(article(thing.noun("colour", "texture")), thing)
    return text.say(".") if rest[1:] else text


def more_detailed(things: Sequence[Thing], side: int, background: str | None) -> Text:
    """Every thing with all its attributes, its place and what it does; what is written; how neighbours lie to each other."""
    number = NUMBERS[len(things)] if len(things) < len(NUMBERS) else str(len(things))
    text = Text(f"This is {background or 'a scene'} with {number} object{'s' if len(things) > 1 else ''}.")
    for thing in things:
        where = place(thing, side)
        text.say(f" {where[0].upper()}{where[1:]} there is ").name(
            article(thing.noun("size", "colour", "texture")), thing
        )
        if thing.lines:
            text.say(f" that says {thing.reading}")
        text.say(f", {thing.action}." if thing.action else ".")
    start = " Overall, "
    for a, b in zip(things, things[1:], strict=False):
        if (one := described(a, things)) and (other := described(b, things)):
            text.say(start).name(f"the {one[0]}", a).say(f" is {relation(a, b, side)} ").name(f"the {other[0]}", b)
            start = ", and "
    return text.say(".") if start == ", and " else text
