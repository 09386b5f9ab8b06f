"""The training data: kept labels of a snapshot's last round on images of the split `train`.

Read a few shards at a time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.config import TrainSettings
from florence.errors import DataError, EncodeError, ImageError
from florence.images import decode_image
from florence.model.checkpoint import Checkpoint
from florence.progress import Progress, show_nothing
from florence.records import IMAGES, Annotation, ImageRecord, table_annotations, table_images
from florence.rounds import list_labels
from florence.store import Store
from florence.tasks import Example, task
from florence.training.absent import AbsentNames, add_absent, read_absent_names
from florence.training.sample_order import SampleOrder, Shards

logger = logging.getLogger(__name__)
PIXEL_CACHE = 2 << 30
"""Bytes of pixels that are kept from epoch to epoch; if all images need more, each is decoded whenever it is drawn."""
OPEN_VOCABULARY = "<OPEN_VOCABULARY_DETECTION>"
LEFT_OUT = (
    "refused",
    "shortened",
    "too_long",
    "unreadable",
    "unreadable_empty",
    "unreadable_too_large",
    "unreadable_truncated",
    "unreadable_unreadable",
)
"""What is counted: labels that the grammar refuses; targets cut after a whole region; targets left out; images that
cannot be decoded, in all and by reason (`ImageError.reason`)."""


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """An example as token ids: ``prompt`` and ``target``, (tokens,) int64 each, from <s> to </s>.

    A target that was shortened has no </s>.
    """

    task: str
    prompt: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """An image with its examples.

    ``pixels``: (side, side, 3) uint8, None where the image cannot be decoded; ``examples``: by task, of tasks with a
    weight; ``left_out``: counts by `LEFT_OUT`.
    """

    record: ImageRecord
    pixels: np.ndarray | None
    examples: Mapping[str, list[TokenizedExample]]
    left_out: Mapping[str, int]


@dataclass
class TrainingDataset:
    """The training images in ``shards`` of the store ``data``; ``order`` knows how many each shard has.

    ``labels``: name of the labels' table; ``required_tasks``: an image needs a label for one of them, for any task if
    there are none; ``sparse``: the dataset of the last steps (`train.sparse`); ``absent``: names that are known to be
    absent from images, None where none are asked for.

    Nothing is decoded before it is drawn. In memory are the ids that `count_images` counts and, of each buffer in use,
    image files and labels in Arrow. Where one buffer holds everything, token ids are kept, and pixels up to
    `PIXEL_CACHE`.
    """

    data: Store
    labels: str
    shards: tuple[str, ...]
    order: SampleOrder
    checkpoint: Checkpoint
    settings: TrainSettings
    required_tasks: tuple[str, ...] = ()
    sparse: TrainingDataset | None = None
    absent: AbsentNames | None = None

    def __len__(self) -> int:
        return self.order.images

    def read_buffer(self, shards: Shards) -> ShuffleBuffer:
        """Read the images of ``shards`` with their labels.

        Raises DataError where the store has changed since the dataset was read.
        """
        tables = [
            self.data.read_table(self.shards[shard], filters=[("split", "=", "train")], schema=IMAGES)
            for shard in shards
        ]
        images = pa.concat_tables(tables).combine_chunks()
        labels = self.data.read_table(
            self.labels, filters=_used_labels(self.settings) & pc.field("image_id").isin(images["image_id"])
        ).combine_chunks()
        labelled = _labelled_images(labels, self.required_tasks)
        images = images.filter(_used_images(images["image_id"], labelled, self.settings)).combine_chunks()
        expected = int(self.order.shard_sizes[list(shards)].sum())
        if len(images) != expected:
            raise DataError(
                f"{self.data.uri} has changed during the training: {len(images)} images with labels "
                f"in {len(shards)} shards, there were {expected}"
            )
        owners = (
            pc.index_in(labels["image_id"], value_set=images["image_id"].combine_chunks())
            .fill_null(len(images))
            .to_numpy()
        )
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(images) + 1))
        absent = {}
        if self.absent is not None:
            names = [self.shards[shard].rpartition("/")[2] for shard in shards]
            absent = self.absent.find(images["image_id"].to_pylist(), names)
        return ShuffleBuffer(self, images, labels.take(pa.array(order)).combine_chunks(), starts, absent)


@dataclass
class ShuffleBuffer:
    """The images of some shards. ``starts``: (images + 1,) where each image's rows begin in ``labels``.

    ``absent``: the names known to be absent from each image, by its id.
    """

    dataset: TrainingDataset
    images: pa.Table
    labels: pa.Table
    starts: np.ndarray
    absent: Mapping[str, list[str]] = field(default_factory=dict)
    _cache: dict[int, TrainingImage] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def read_image(self, index: int, side: int) -> TrainingImage:
        """Return image ``index`` at ``side`` pixels; without pixels and examples if it cannot be decoded."""
        cached = self._cache.get(index)
        if cached is not None and (cached.pixels is None or cached.pixels.shape[0] == side):
            return cached
        ((record, content),) = table_images(self.images.slice(index, 1))
        left_out: Counter[str] = Counter()
        try:
            pixels = _resize(self.dataset.checkpoint, decode_image(content or b"", record.name), side)
        except ImageError as error:
            logger.warning("image %s is skipped: %s", record.image_id[:12], error)
            image = TrainingImage(record, None, {}, {"unreadable": 1, f"unreadable_{error.reason}": 1})
        else:
            if cached is None:
                rows = self.labels.slice(self.starts[index], self.starts[index + 1] - self.starts[index])
                examples = self._make_examples(record, table_annotations(rows), left_out)
                image = TrainingImage(record, pixels, examples, left_out)
            else:
                image = TrainingImage(record, pixels, cached.examples, cached.left_out)
        if self.dataset.order.has_single_buffer and len(self) * side * side * 3 <= PIXEL_CACHE:
            self._cache[index] = image
        return image

    def _make_examples(
        self, record: ImageRecord, labels: list[Annotation], left_out: Counter[str]
    ) -> dict[str, list[TokenizedExample]]:
        rows: dict[str, list[Annotation]] = {}
        for row in labels:
            rows.setdefault(row.task, []).append(row)
        examples: list[tuple[str, Example]] = []
        for name in self.dataset.settings.drawn:
            one = task(name)
            if one.annotation_type in rows:
                refused: list[EncodeError] = []
                found = one.examples(record, rows[one.annotation_type], refused)
                if name == OPEN_VOCABULARY:
                    found = self._ask_absent(record, found)
                examples += [(name, example) for example in found]
                left_out["refused"] += len(refused)
        return self._tokenize(examples, left_out)

    def _ask_absent(self, record: ImageRecord, examples: list[Example]) -> list[Example]:
        settings, size = self.dataset.settings, (record.width, record.height)
        names = self.absent.get(record.image_id, [])
        share, seed = settings.absent_share, settings.seed
        return add_absent(examples, record.image_id, size, names, share=share, seed=seed)

    def _tokenize(
        self, examples: list[tuple[str, Example]], left_out: Counter[str]
    ) -> dict[str, list[TokenizedExample]]:
        """Return the examples by task, with targets truncated to `max_target` tokens."""
        result: dict[str, list[TokenizedExample]] = {}
        if not examples:
            return result
        longest = self.dataset.settings.max_target
        prompts = [task(name).prompt(example.input) for name, example in examples]
        ids = self._token_ids(prompts + [example.target for _, example in examples])
        for (name, example), prompt, target in zip(examples, ids, ids[len(examples) :], strict=False):
            if len(target) > longest:
                short = task(name).truncate(example, lambda text: len(self._token_ids([text])[0]) <= longest)
                if short is None:
                    left_out["too_long"] += 1
                    continue
                left_out["shortened"] += 1
                # nothing ends here: a model that learnt the end would leave out what comes after it
                target = self._token_ids([short.target])[0][:-1]
            result.setdefault(name, []).append(TokenizedExample(name, prompt, target))
        return result

    def _token_ids(self, texts: list[str]) -> list[np.ndarray]:
        tokenizer: Any = self.dataset.checkpoint.tokenizer
        return [
            np.asarray(ids, np.int64)
            for ids in tokenizer(texts, add_special_tokens=True, return_attention_mask=False).input_ids
        ]


def read_dataset(
    checkpoint: Checkpoint, settings: TrainSettings, data: Store, progress: Progress = show_nothing
) -> TrainingDataset:
    """Return the dataset of the snapshot in ``data``; only ids are read.

    Raises DataError where no image of the split `train` has a label that can be trained on.
    """
    without_sparse = settings.without_sparse()
    labels, shards, shard_sizes = count_images(without_sparse, data, progress)
    order = SampleOrder(shard_sizes, settings.shuffle_buffer, settings.seed)
    asks = settings.absent_share and OPEN_VOCABULARY in settings.drawn
    absent = read_absent_names(data, labels) if asks else None
    dataset = TrainingDataset(data, labels, shards, order, checkpoint, without_sparse, absent=absent)
    if not settings.sparse:
        return dataset
    _, _, sparse_sizes = count_images(settings, data, progress, settings.sparse)
    if not sparse_sizes.sum():
        logger.warning("no image has a label for %s: these tasks are not trained", ", ".join(settings.sparse))
        return dataset
    order = SampleOrder(sparse_sizes, settings.shuffle_buffer, settings.seed)
    sparse = TrainingDataset(data, labels, shards, order, checkpoint, settings, settings.sparse, absent=absent)
    return replace(dataset, sparse=sparse)


def count_images(
    settings: TrainSettings,
    data: Store,
    progress: Progress = show_nothing,
    required_tasks: tuple[str, ...] = (),
) -> tuple[str, tuple[str, ...], np.ndarray]:
    """Return the name of the labels' table, the image shards, and the number of training images in each (shards,).

    With ``required_tasks``, only images with a label for one of them count. Raises DataError as `read_dataset`.
    """
    tables = list_labels(data)
    if not tables:
        raise DataError(f"{data.uri} holds no labels: `florence loop` or `dvc pull` gets a snapshot")
    last = tables[max(tables)]
    labels = data.read_table(last, ["image_id", "task"], _used_labels(settings))
    labelled = _labelled_images(labels, required_tasks)
    shards = data.names("images", ".parquet")
    sizes = []
    for done, shard in enumerate(shards, start=1):
        ids = data.read_table(shard, ["image_id"], [("split", "=", "train")])["image_id"]
        sizes.append(int(pc.sum(_used_images(ids, labelled, settings)).as_py() or 0))
        progress("read images", done, len(shards))
    if not sum(sizes) and not required_tasks:
        raise DataError(
            f"{last} keeps no label to train on: no image of the split train, at train.data_fraction "
            f"{settings.data_fraction:g}, has one that a task of train.task_weights is made of; "
            "add images, or loosen `engine`"
        )
    return last, tuple(shards), np.asarray(sizes)


def _labelled_images(labels: pa.Table, required_tasks: tuple[str, ...]) -> pa.Array:
    """Return the ids of images that have labels, for one of ``required_tasks`` if there are any."""
    if required_tasks:
        types = sorted({task(name).annotation_type for name in required_tasks})
        labels = labels.filter(pc.is_in(labels["task"], pa.array(types)))
    return labels["image_id"].unique()


def _used_labels(settings: TrainSettings) -> pc.Expression:
    """Select the labels that examples are made of."""
    return pc.field("kept") & pc.field("task").isin(sorted({task(name).annotation_type for name in settings.drawn}))


def _used_images(ids: pa.ChunkedArray, labelled: pa.Array, settings: TrainSettings) -> pa.ChunkedArray:
    """Return whether each image has labels and is in `data_fraction`.

    An id is a hash: the ids below a limit are a random share, and a smaller share is part of every larger one.
    """
    used = pc.is_in(ids, value_set=labelled)
    if settings.data_fraction >= 1:
        return used
    return pc.and_(used, pc.less(ids, f"{int(settings.data_fraction * 16**13):013x}"))


def _resize(checkpoint: Checkpoint, image: np.ndarray, side: int) -> np.ndarray:
    return (checkpoint if side == checkpoint.image_size else replace(checkpoint, image_size=side)).resize(image)
