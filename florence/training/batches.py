"""A step's batches: tasks drawn by weight, prompts and targets collated by length, loaded ahead in a thread.

A batch is a pure function of (dataset, settings, step).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from florence.codec.grammar import Form
from florence.config import TrainSettings
from florence.tasks import task
from florence.training.dataset import ShuffleBuffer, TokenizedExample, TrainingDataset, TrainingImage
from florence.training.sample_order import Shards, StepPosition, count_steps, first_sparse_step, image_size_at

IGNORED = -100
"""Label of a token that does not count, as in transformers."""
PASS_OVERHEAD = 150
"""Padding tokens that cost as much as one more pass through a stack of layers."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Rows of similar prompt length, which go through the encoder together.

    ``images``: (k,) index of each row's image in the batch; ``input_ids``: (k, length), padded on the right.
    """

    images: np.ndarray
    input_ids: np.ndarray


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """Rows of similar target length, which go through the decoder together.

    ``rows``: (k,) their indices in the batch; ``prompt_length``: tokens of their longest prompt; ``decoder_input_ids``:
    (k, length); ``valid``: (tokens,) indices into the flattened decoder inputs of the tokens that count; ``labels``:
    (tokens,) the token that follows each of them; ``label_rows``: (tokens,) its row in the batch.
    """

    rows: np.ndarray
    prompt_length: int
    decoder_input_ids: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    label_rows: np.ndarray


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """What goes through the model at once: a step, or a micro-batch of it. Rows are sorted by prompt length.

    ``pixel_values``: (images, side, side, 3) uint8, of the images that have a row, normalised on the device;
    ``prompt_lengths``: (rows,) tokens; ``tasks``: (rows) names; ``image_ids``: (images); ``left_out``: counts by
    `LEFT_OUT` of images that are drawn for the first time.
    """

    pixel_values: np.ndarray
    prompts: tuple[PromptGroup, ...]
    targets: tuple[TargetGroup, ...]
    prompt_lengths: np.ndarray
    tasks: tuple[str, ...]
    image_ids: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Target tokens that count."""
        return sum(len(group.labels) for group in self.targets)


def draw_examples(image: TrainingImage, settings: TrainSettings, random: np.random.Generator) -> list[TokenizedExample]:
    """Draw examples of distinct tasks of one image.

    Tasks are drawn by weight without replacement (exponential keys), those of ``settings.sparse`` before all others.
    One example of each; of tasks that name what is in a region, whose answers are a few tokens, up to
    ``settings.regions_per_image``.
    """
    names = list(image.examples)
    weights = np.asarray([settings.weight(name) for name in names])
    keys = random.exponential(size=len(names)) / weights
    keys[[name in settings.sparse for name in names]] *= 1e-9
    drawn: list[TokenizedExample] = []
    for index in np.argsort(keys, kind="stable")[: settings.tasks_per_image]:
        examples, one = image.examples[names[index]], task(names[index])
        most = settings.regions_per_image if one.takes_input and one.form is Form.TEXT else 1
        drawn += [examples[i] for i in random.permutation(len(examples))[:most]]
    return drawn


def collate(
    samples: Sequence[tuple[TrainingImage, Sequence[TokenizedExample]]],
    side: int,
    pad_id: int,
    start_id: int,
    left_out: Mapping[str, int] | None = None,
) -> TrainingBatch:
    """Collate images and the examples of each into one batch; images without an example are left out.

    ``side``: of the images, in pixels; ``pad_id``: the padding token; ``start_id``: the decoder's start token.
    """
    used = [(image, examples) for image, examples in samples if examples]
    rows = [(index, row) for index, (_, examples) in enumerate(used) for row in examples]
    rows.sort(key=lambda pair: len(pair[1].prompt))
    images = np.asarray([index for index, _ in rows], np.int64)
    prompt_lengths = np.asarray([len(row.prompt) for _, row in rows], np.int64)
    pixel_values = (
        np.stack([image.pixels for image, _ in used if image.pixels is not None])
        if used
        else np.zeros((0, side, side, 3), np.uint8)
    )
    prompts = []
    for first, end in split_by_length(prompt_lengths):
        prompts.append(PromptGroup(images[first:end], pad([row.prompt for _, row in rows[first:end]], pad_id)))
    target_lengths = np.asarray([len(row.target) for _, row in rows], np.int64)
    order = np.lexsort((prompt_lengths, target_lengths))
    targets = [
        _collate_targets(
            order[first:end], [rows[i][1].target for i in order[first:end]], prompt_lengths, pad_id, start_id
        )
        for first, end in split_by_length(target_lengths[order])
    ]
    return TrainingBatch(
        pixel_values,
        tuple(prompts),
        tuple(targets),
        prompt_lengths,
        tuple(row.task for _, row in rows),
        tuple(image.record.image_id for image, _ in used),
        left_out or {},
    )


def _collate_targets(
    rows: np.ndarray, targets: list[np.ndarray], prompt_lengths: np.ndarray, pad_id: int, start_id: int
) -> TargetGroup:
    labels = pad(targets, IGNORED)
    shifted = np.where(labels == IGNORED, pad_id, labels)[:, :-1]
    inputs = np.concatenate([np.full((len(labels), 1), start_id), shifted], axis=1)
    flat = labels.reshape(-1)
    valid = np.flatnonzero(flat != IGNORED)
    longest = int(prompt_lengths[rows].max())
    return TargetGroup(rows, longest, inputs, valid, flat[valid], rows[valid // labels.shape[1]])


def split_by_length(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Split rows, sorted by length, into pieces (first, end) with the least padding, counting `PASS_OVERHEAD` a piece.

    By dynamic programming: cost(end) = min over first of cost(first) + PASS_OVERHEAD + rows × longest.
    """
    ends = np.flatnonzero(np.diff(lengths, append=-1)) + 1
    bounds, costs, before = [0, *(int(end) for end in ends)], [0.0], [0]
    for last in range(1, len(bounds)):
        longest = int(lengths[bounds[last] - 1])
        options = [costs[first] + PASS_OVERHEAD + (bounds[last] - bounds[first]) * longest for first in range(last)]
        before.append(int(np.argmin(options)))
        costs.append(options[before[-1]])
    pieces, last = [], len(bounds) - 1
    while last:
        pieces.append((bounds[before[last]], bounds[last]))
        last = before[last]
    return pieces[::-1]


def pad(sequences: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Pad sequences on the right to (n, longest) int64."""
    result = np.full((len(sequences), max((len(s) for s in sequences), default=0)), value, np.int64)
    for row, sequence in enumerate(sequences):
        result[row, : len(sequence)] = sequence
    return result


@dataclass
class BatchLoader:
    """The batches of a training, for process ``rank`` of the ``world`` processes that share it."""

    dataset: TrainingDataset
    settings: TrainSettings
    rank: int = 0
    world: int = 1
    _buffers: dict[tuple[bool, Shards], Future[ShuffleBuffer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = count_steps(self.settings, len(self.dataset))
        self.sparse_start = first_sparse_step(self.settings, self.steps, self.dataset.sparse is not None)
        self.reader = ThreadPoolExecutor(1, "florence-shards")

    def __iter__(self) -> Iterator[tuple[int, list[TrainingBatch]]]:
        return self.iterate_from(0)

    def iterate_from(self, first: int) -> Iterator[tuple[int, list[TrainingBatch]]]:
        """Yield (step, its micro-batches) from step ``first`` on, loading the next step's meanwhile."""
        with ThreadPoolExecutor(1, "florence-batches") as pool:
            try:
                coming = pool.submit(self.load_step, first) if first < self.steps else None
                for step in range(first, self.steps):
                    batches = coming.result()  # type: ignore[union-attr]
                    coming = pool.submit(self.load_step, step + 1) if step + 1 < self.steps else None
                    yield step, batches
            finally:
                self.reader.shutdown(wait=False, cancel_futures=True)

    def load_step(self, step: int) -> list[TrainingBatch]:
        """Return this process's micro-batches of step ``step``.

        The examples at a position of the step depend on neither the number of processes nor of micro-batches.
        """
        text = self.dataset.checkpoint.model.config.text_config
        side = image_size_at(self.settings, step, self.steps, self.dataset.checkpoint.image_size)
        sparse = self.dataset.sparse if step >= self.sparse_start else None
        dataset = self.dataset if sparse is None else sparse
        size = min(self.settings.batch_size, len(dataset))
        positions = dataset.order.positions((step if sparse is None else step - self.sparse_start) * size, size)
        accumulation = self.settings.gradient_accumulation_steps
        parts, result = self.world * accumulation, []
        for part in range(self.rank * accumulation, (self.rank + 1) * accumulation):
            left_out: Counter[str] = Counter()
            samples = []
            for number in range(part * size // parts, (part + 1) * size // parts):
                position = positions[number]
                image = self._buffer(dataset, position).read_image(position.image, side)
                if position.epoch == 0 and sparse is None:
                    left_out.update(image.left_out)
                random = np.random.default_rng([self.settings.seed, 1, step, number])
                samples.append((image, draw_examples(image, self.settings, random)))
            result.append(collate(samples, side, text.pad_token_id, text.decoder_start_token_id, left_out))
        return result

    def _buffer(self, dataset: TrainingDataset, position: StepPosition) -> ShuffleBuffer:
        """Return the buffer of ``position``; the next one is read meanwhile, and all others are dropped."""
        is_sparse = dataset is not self.dataset
        wanted = [(is_sparse, position.shards), (is_sparse, dataset.order.next_buffer(position))]
        for key in wanted:
            if key not in self._buffers:
                self._buffers[key] = self.reader.submit(dataset.read_buffer, key[1])
        for key in set(self._buffers) - set(wanted):
            self._buffers.pop(key).cancel()
        return self._buffers[wanted[0]].result()


def load_batch(dataset: TrainingDataset, settings: TrainSettings, step: int) -> TrainingBatch:
    """Return the whole batch of a step, as for one process without micro-batches."""
    whole = settings.model_copy(update={"gradient_accumulation_steps": 1})
    return BatchLoader(dataset, whole).load_step(step)[0]
