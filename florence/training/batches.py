"""What a step sees: images in an order that seed and epoch fix, tasks drawn by weight. A pure function of (corpus, settings, step)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from florence.codec.grammar import Form
from florence.config import Train
from florence.tasks import task
from florence.training.corpus import Corpus, Encoded

IGNORED = -100
"""Label of a token that does not count, as in transformers."""
ROWS = 24
"""Rows of about one length that go through the decoder together."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of similar target length. ``rows``: (k,) their places in the batch; ``inputs``, ``labels``: (k, length) decoder inputs and targets, `IGNORED` where filled up."""

    rows: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Batch:
    """One step. ``squares``: (images, side, side, 3) uint8; ``images``: (rows,) index into squares; ``prompts``: (rows, length) ids, filled up
    with pad; ``groups``: the rows again, by length of their targets; ``tasks``: (rows) names; ``image_ids``: of squares.
    """

    squares: np.ndarray
    images: np.ndarray
    prompts: np.ndarray
    groups: tuple[Group, ...]
    tasks: tuple[str, ...]
    image_ids: tuple[str, ...]


def steps_of(settings: Train, images: int) -> int:
    """The steps of a training on ``images`` images: ``settings.steps``, or fewer where that would pass over them too often."""
    return max(1, min(settings.steps, math.ceil(settings.max_epochs * images / settings.images)))


def indices(settings: Train, images: int, step: int) -> np.ndarray:
    """Which images step ``step`` sees: consecutive pieces of one random order an epoch."""
    size = min(settings.images, images)
    result = []
    for place in range(step * size, (step + 1) * size):
        epoch, offset = divmod(place, images)
        result.append(_order(settings.seed, epoch, images)[offset])
    return np.asarray(result)


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    key = (seed, epoch, images)
    if key not in _orders:
        if len(_orders) > 2:
            _orders.clear()
        _orders[key] = np.random.default_rng([seed, 0, epoch]).permutation(images)
    return _orders[key]


def batch(corpus: Corpus, settings: Train, step: int, pad: int, start: int) -> Batch:
    """The batch of a step. ``pad``, ``start``: ids that fill up prompts and that decoding starts from."""
    chosen = indices(settings, len(corpus.records), step)
    random = np.random.default_rng([settings.seed, 1, step])
    rows: list[Encoded] = []
    images: list[int] = []
    for place, index in enumerate(chosen):
        drawn = _draw(corpus, settings, int(index), random)
        rows += drawn
        images += [place] * len(drawn)
    return Batch(
        corpus.squares[chosen], np.asarray(images, np.int64), padded([row.prompt for row in rows], pad), _groups(rows, pad, start),
        tuple(row.task for row in rows), tuple(corpus.records[int(i)].image_id for i in chosen),
    )  # fmt: skip


def _draw(corpus: Corpus, settings: Train, index: int, random: np.random.Generator) -> list[Encoded]:
    """Examples of distinct tasks of one image: tasks by weight without putting back (exponential keys). One example of each; of tasks
    that name what is in a region, whose answers are a few tokens, up to ``settings.regions``."""
    examples = corpus.examples(index)
    names = list(examples)
    weights = np.asarray([settings.task_weights.get(name, 1.0) for name in names])
    keys = random.exponential(size=len(names)) / weights
    picked = [names[i] for i in np.argsort(keys, kind="stable")[: settings.tasks_per_image]]
    drawn: list[Encoded] = []
    for name in picked:
        one = task(name)
        many = settings.regions if one.takes_input and one.form is Form.TEXT else 1
        drawn += [examples[name][i] for i in random.permutation(len(examples[name]))[:many]]
    return drawn


def padded(sequences: list[np.ndarray], filler: int) -> np.ndarray:
    """Sequences as (n, longest), filled up on the right."""
    result = np.full((len(sequences), max((len(s) for s in sequences), default=0)), filler, np.int64)
    for row, sequence in enumerate(sequences):
        result[row, : len(sequence)] = sequence
    return result


def _groups(rows: list[Encoded], pad: int, start: int) -> tuple[Group, ...]:
    order = np.argsort([len(row.target) for row in rows], kind="stable")
    groups = []
    for first in range(0, len(order), ROWS):
        members = order[first : first + ROWS]
        labels = padded([rows[i].target for i in members], IGNORED)
        inputs = np.concatenate([np.full((len(labels), 1), start), np.where(labels == IGNORED, pad, labels)[:, :-1]], axis=1)
        groups.append(Group(members, inputs, labels))
    return tuple(groups)
