"""Questions about a scene whose answers are exact, and the scene's category.

No question tells its answer: each kind of object is asked for as often where it is as where it is not, and every other answer follows from
what was drawn at random. The commonest answer to a question is right seldom, or half of the time where yes and no are all there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from florence.records import Claim, Region
from florence.sources._truth import Thing, article, described, holds

WAYS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
CLEAR = 1.5
"""How many times as large as any other thing the one is that a scene is a picture of."""


def questions(rng: np.random.Generator, things: Sequence[Thing], side: int, labels: Sequence[str]) -> Iterator[Claim]:
    """A few questions about a scene, and its category where it has one. ``labels``: all that objects without writing can be."""
    whole = (0.0, 0.0, float(side), float(side))
    for question, answer in (
        *_is_there(rng, things, labels),
        *_how_many(things),
        *_colour(rng, things),
        *_where(rng, things, side),
        *_says(things),
    ):
        yield Claim("<VQA>", question, (Region(answer, box=whole),))
    largest, *rest = sorted(things, key=lambda thing: -thing.area)
    if not largest.lines and all(largest.area >= CLEAR * thing.area for thing in rest):
        yield Claim("<CLASSIFICATION>", largest.label, (Region(largest.label, box=whole),))


def _is_there(rng: np.random.Generator, things: Sequence[Thing], labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """One label that is there and one that is not, each drawn evenly, so that yes and no are as frequent for every label.

    Written panels are left out: they are drawn at a rate of their own.
    """
    there = sorted({thing.label for thing in things if not thing.lines})
    absent = sorted(set(labels) - {thing.label for thing in things})
    if there and absent:
        for among, answer in ((there, "yes"), (absent, "no")):
            yield f"Is there {article(among[int(rng.integers(len(among)))])}?", answer


def _how_many(things: Sequence[Thing]) -> Iterator[tuple[str, str]]:
    yield "How many objects are there?", str(len(things))


def _colour(rng: np.random.Generator, things: Sequence[Thing]) -> Iterator[tuple[str, str]]:
    """Of a thing that has its label for itself."""
    single = [thing for thing in things if thing.colour and sum(other.label == thing.label for other in things) == 1]
    if single:
        thing = single[int(rng.integers(len(single)))]
        yield f"What colour is the {thing.label}?", str(thing.colour)


def _where(rng: np.random.Generator, things: Sequence[Thing], side: int) -> Iterator[tuple[str, str]]:
    """What alone lies in a direction: clearly, by its middle, while the middle of nothing else lies that way at all."""
    found = []
    for anchor in things:
        names = described(anchor, things)
        for word, said in WAYS.items():
            axis, sign = (0 if word in ("left of", "right of") else 1), (-1 if word in ("left of", "above") else 1)
            beyond = [thing for thing in things if sign * (thing.centre[axis] - anchor.centre[axis]) > 0]
            if names and len(beyond) == 1 and holds(beyond[0], word, anchor, side):
                found.append((f"What is {said} the {names[0]}?", beyond[0].label))
    if found:
        yield found[int(rng.integers(len(found)))]


def _says(things: Sequence[Thing]) -> Iterator[tuple[str, str]]:
    written = [thing for thing in things if thing.lines]
    if len(written) == 1:
        yield f"What does the {written[0].label} say?", written[0].reading
