"""A step's examples: tasks drawn by weight, prompts and targets packed by length, made ahead in a thread. A pure function of (corpus, settings, step)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from florence.codec.grammar import Form
from florence.config import Train
from florence.tasks import task
from florence.training.corpus import Corpus, Encoded, Seen, Window
from florence.training.order import Place, Shards, side_of, steps_of, turn_of

IGNORED = -100
"""Label of a token that does not count, as in transformers."""
OVERHEAD = 150
"""Tokens of filling that one more pass through a stack of layers costs as much as."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Rows of similar prompt length, which go through the encoder together. ``images``: (k,) their images in the batch; ``ids``: (k, length), filled up with
    pad on the right."""

    images: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True, slots=True)
class Targets:
    """Rows of similar target length, which go through the decoder together. ``rows``: (k,) their places in the batch; ``prompt``: tokens of the longest of
    their prompts; ``inputs``: (k, length) decoder inputs; ``valid``: (tokens,) places in the flattened inputs that count; ``labels``: (tokens,) what
    follows there; ``owners``: (tokens,) rows of the batch."""

    rows: np.ndarray
    prompt: int
    inputs: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    owners: np.ndarray


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes through the model at once: a step's, or a part of it. Rows are in the order of their prompts' lengths.

    ``squares``: (images, side, side, 3) uint8, of the images that have a row; ``lengths``: (rows,) tokens of each prompt; ``tasks``: (rows) names;
    ``image_ids``: of squares; ``counts``: what was left out of images that are drawn for the first time.
    """

    squares: np.ndarray
    prompts: tuple[Prompts, ...]
    targets: tuple[Targets, ...]
    lengths: np.ndarray
    tasks: tuple[str, ...]
    image_ids: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Target tokens that count."""
        return sum(len(group.labels) for group in self.targets)


def draw(seen: Seen, settings: Train, random: np.random.Generator) -> list[Encoded]:
    """Examples of distinct tasks of one image: tasks by weight without putting back (exponential keys), those of ``settings.sparse`` before all others. One example
    of each; of tasks that name what is in a region, whose answers are a few tokens, up to ``settings.regions_per_image``."""
    names = list(seen.examples)
    weights = np.asarray([settings.weight(name) for name in names])
    keys = random.exponential(size=len(names)) / weights
    keys[[name in settings.sparse for name in names]] *= 1e-9
    drawn: list[Encoded] = []
    for place in np.argsort(keys, kind="stable")[: settings.tasks_per_image]:
        examples, one = seen.examples[names[place]], task(names[place])
        many = settings.regions_per_image if one.takes_input and one.form is Form.TEXT else 1
        drawn += [examples[i] for i in random.permutation(len(examples))[:many]]
    return drawn


def pack(
    found: Sequence[tuple[Seen, Sequence[Encoded]]],
    side: int,
    pad: int,
    start: int,
    counts: Mapping[str, int] | None = None,
) -> Batch:
    """Images and, for each, its examples as one batch; images without an example are left out. ``side``: of the squares;
    ``pad``, ``start``: ids that fill up, and that decoding starts from."""
    shown = [(seen, examples) for seen, examples in found if examples]
    rows = [(image, row) for image, (_, examples) in enumerate(shown) for row in examples]
    rows.sort(key=lambda pair: len(pair[1].prompt))
    images = np.asarray([image for image, _ in rows], np.int64)
    lengths = np.asarray([len(row.prompt) for _, row in rows], np.int64)
    squares = (
        np.stack([seen.square for seen, _ in shown if seen.square is not None])
        if shown
        else np.zeros((0, side, side, 3), np.uint8)
    )
    prompts = []
    for first, end in cut(lengths):
        prompts.append(Prompts(images[first:end], padded([row.prompt for _, row in rows[first:end]], pad)))
    long = np.asarray([len(row.target) for _, row in rows], np.int64)
    order = np.lexsort((lengths, long))
    targets = [
        _targets(order[first:end], [rows[i][1].target for i in order[first:end]], lengths, pad, start)
        for first, end in cut(long[order])
    ]
    return Batch(
        squares,
        tuple(prompts),
        tuple(targets),
        lengths,
        tuple(row.task for _, row in rows),
        tuple(seen.record.image_id for seen, _ in shown),
        counts or {},
    )


def _targets(members: np.ndarray, sequences: list[np.ndarray], lengths: np.ndarray, pad: int, start: int) -> Targets:
    labels = padded(sequences, IGNORED)
    inputs = np.concatenate(
        [np.full((len(labels), 1), start), np.where(labels == IGNORED, pad, labels)[:, :-1]], axis=1
    )
    flat = labels.reshape(-1)
    valid = np.flatnonzero(flat != IGNORED)
    return Targets(members, int(lengths[members].max()), inputs, valid, flat[valid], members[valid // labels.shape[1]])


def cut(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Where to cut rows in the order of their lengths: the pieces (first, end) with the least filling, `OVERHEAD` counted for each piece."""
    ends = np.flatnonzero(np.diff(lengths, append=-1)) + 1
    bounds, costs, before = [0, *(int(end) for end in ends)], [0.0], [0]
    for last in range(1, len(bounds)):
        longest = int(lengths[bounds[last] - 1])
        options = [costs[first] + OVERHEAD + (bounds[last] - bounds[first]) * longest for first in range(last)]
        before.append(int(np.argmin(options)))
        costs.append(options[before[-1]])
    pieces, last = [], len(bounds) - 1
    while last:
        pieces.append((bounds[before[last]], bounds[last]))
        last = before[last]
    return pieces[::-1]


def padded(sequences: Sequence[np.ndarray], filler: int) -> np.ndarray:
    """Sequences as (n, longest), filled up on the right."""
    result = np.full((len(sequences), max((len(s) for s in sequences), default=0)), filler, np.int64)
    for row, sequence in enumerate(sequences):
        result[row, : len(sequence)] = sequence
    return result


@dataclass
class Feed:
    """The batches of a training, for one of the processes that share it: ``rank`` of ``world``."""

    corpus: Corpus
    settings: Train
    rank: int = 0
    world: int = 1
    _windows: dict[tuple[bool, Shards], Future[Window]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = steps_of(self.settings, len(self.corpus))
        self.turn = turn_of(self.settings, self.steps, self.corpus.later is not None)
        self.reader = ThreadPoolExecutor(1, "florence-shards")

    def __iter__(self) -> Iterator[tuple[int, list[Batch]]]:
        return self.steps_from(0)

    def steps_from(self, first: int) -> Iterator[tuple[int, list[Batch]]]:
        """(step, its batches: one a micro-batch) from ``first`` on; the next ones are made while the last are learnt from."""
        with ThreadPoolExecutor(1, "florence-batches") as pool:
            try:
                coming = pool.submit(self.step, first) if first < self.steps else None
                for step in range(first, self.steps):
                    found = coming.result()  # type: ignore[union-attr]
                    coming = pool.submit(self.step, step + 1) if step + 1 < self.steps else None
                    yield step, found
            finally:
                self.reader.shutdown(wait=False, cancel_futures=True)

    def step(self, step: int) -> list[Batch]:
        """This process's batches of step ``step``. Which examples a place of the step has depends on neither the number of processes nor of micro-batches."""
        text = self.corpus.checkpoint.model.config.text_config
        side = side_of(self.settings, step, self.steps, self.corpus.checkpoint.image_size)
        corpus = self.corpus if step < self.turn or self.corpus.later is None else self.corpus.later
        size = min(self.settings.batch_size, len(corpus))
        places = corpus.order.places((step if corpus is self.corpus else step - self.turn) * size, size)
        parts, result = self.world * self.settings.gradient_accumulation_steps, []
        for part in range(
            self.rank * self.settings.gradient_accumulation_steps,
            (self.rank + 1) * self.settings.gradient_accumulation_steps,
        ):
            counts: Counter[str] = Counter()
            found = []
            for number in range(part * size // parts, (part + 1) * size // parts):
                place = places[number]
                seen = self._window(corpus, place).see(place.image, side)
                if place.epoch == 0 and corpus is self.corpus:
                    counts.update(seen.counts)
                found.append(
                    (seen, draw(seen, self.settings, np.random.default_rng([self.settings.seed, 1, step, number])))
                )
            result.append(pack(found, side, text.pad_token_id, text.decoder_start_token_id, counts))
        return result

    def _window(self, corpus: Corpus, place: Place) -> Window:
        """The window of ``place``; the one after it is read while this one is learnt from, and others are let go."""
        last = corpus is not self.corpus
        wanted = [(last, place.shards), (last, corpus.order.after(place))]
        for key in wanted:
            if key not in self._windows:
                self._windows[key] = self.reader.submit(corpus.window, key[1])
        for key in set(self._windows) - set(wanted):
            self._windows.pop(key).cancel()
        return self._windows[wanted[0]].result()


def batch(corpus: Corpus, settings: Train, step: int) -> Batch:
    """The whole batch of a step, for one process without micro-batches."""
    return Feed(corpus, settings.model_copy(update={"accumulate": 1})).step(step)[0]
