"""Questions about a scene with exact answers, and the scene's category.

No question gives away its answer: each label is asked for as often where it is present as where it is absent, and
every other answer follows from what was drawn at random. The most frequent answer to a question is rarely right, or
half of the time for yes and no.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from florence.drawn_scenes.truth import DrawnObject, add_article, describe_uniquely, is_clearly
from florence.records import Claim, Region

DIRECTIONS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
MIN_SIZE_RATIO = 1.5
"""How much larger than any other the object is that gives the scene its category."""


def ask_questions(
    rng: np.random.Generator, objects: Sequence[DrawnObject], side: int, labels: Sequence[str]
) -> Iterator[Claim]:
    """Yield a few questions about a scene, and its category if it has one.

    ``labels``: the possible labels of objects without writing.
    """
    whole = (0.0, 0.0, float(side), float(side))
    for question, answer in (
        *_ask_presence(rng, objects, labels),
        *_ask_count(objects),
        *_ask_colour(rng, objects),
        *_ask_neighbour(rng, objects, side),
        *_ask_text(objects),
    ):
        yield Claim("<VQA>", question, (Region(answer, box=whole),))
    largest, *rest = sorted(objects, key=lambda item: -item.area)
    if not largest.lines and all(largest.area >= MIN_SIZE_RATIO * item.area for item in rest):
        yield Claim("<CLASSIFICATION>", largest.label, (Region(largest.label, box=whole),))


def _ask_presence(
    rng: np.random.Generator, objects: Sequence[DrawnObject], labels: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Ask for one present and one absent label, so that yes and no are equally frequent for every label.

    Panels with writing are left out: they are drawn at a rate of their own.
    """
    there = sorted({item.label for item in objects if not item.lines})
    absent = sorted(set(labels) - {item.label for item in objects})
    if there and absent:
        for among, answer in ((there, "yes"), (absent, "no")):
            yield f"Is there {add_article(among[int(rng.integers(len(among)))])}?", answer


def _ask_count(objects: Sequence[DrawnObject]) -> Iterator[tuple[str, str]]:
    yield "How many objects are there?", str(len(objects))


def _ask_colour(rng: np.random.Generator, objects: Sequence[DrawnObject]) -> Iterator[tuple[str, str]]:
    """Ask for the colour of an object whose label is unique."""
    single = [item for item in objects if item.colour and sum(other.label == item.label for other in objects) == 1]
    if single:
        item = single[int(rng.integers(len(single)))]
        yield f"What colour is the {item.label}?", str(item.colour)


def _ask_neighbour(rng: np.random.Generator, objects: Sequence[DrawnObject], side: int) -> Iterator[tuple[str, str]]:
    """Ask for the only object in a direction: it clearly lies there, and the centre of no other object does."""
    found = []
    for anchor in objects:
        names = describe_uniquely(anchor, objects)
        for word, phrase in DIRECTIONS.items():
            axis, sign = (0 if word in ("left of", "right of") else 1), (-1 if word in ("left of", "above") else 1)
            beyond = [item for item in objects if sign * (item.centre[axis] - anchor.centre[axis]) > 0]
            if names and len(beyond) == 1 and is_clearly(beyond[0], word, anchor, side):
                found.append((f"What is {phrase} the {names[0]}?", beyond[0].label))
    if found:
        yield found[int(rng.integers(len(found)))]


def _ask_text(objects: Sequence[DrawnObject]) -> Iterator[tuple[str, str]]:
    written = [item for item in objects if item.lines]
    if len(written) == 1:
        yield f"What does the {written[0].label} say?", written[0].written_text
