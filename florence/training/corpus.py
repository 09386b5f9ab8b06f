"""What is learnt from: the kept labels of a snapshot's last round, for images of the split `train`, read a window of shards at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.config import Train
from florence.errors import DataError, EncodeError, ImageError
from florence.model.checkpoint import Checkpoint
from florence.pixels import decode
from florence.records import IMAGES, Annotation, ImageRecord, table_annotations, table_images
from florence.store import Store
from florence.tasks import Example, task
from florence.training.order import Order, Shards

logger = logging.getLogger(__name__)
Progress = Callable[[str, int, int | None], None]
KEPT_PIXELS = 2 << 30
"""Bytes of pixels that are kept from epoch to epoch; beyond it an image is decoded whenever it is drawn."""
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
"""What is counted: labels that the grammar cannot write; targets cut after a whole region; targets left out; images, and why (`ImageError.reason`)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as token ids: ``prompt`` and ``target`` each from <s> to </s>."""

    task: str
    prompt: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, slots=True)
class Seen:
    """An image as it is learnt from. ``square``: (side, side, 3) uint8, None where it cannot be decoded; ``examples``: by task, of tasks
    with a weight; ``counts``: what was left out of it, by `LEFT_OUT`."""

    record: ImageRecord
    square: np.ndarray | None
    examples: Mapping[str, list[Encoded]]
    counts: Mapping[str, int]


@dataclass
class Corpus:
    """The images to learn from, in ``shards`` of the store ``data``; ``order`` knows how many each has. Nothing is decoded before it is drawn.

    ``among``: tasks for one of which an image has to have a label, none: any; ``later``: what the last steps learn from (`train.sparse`).

    Memory: the ids that `read_corpus` counts, and of the windows at work the files of their images and their labels, in Arrow. Where one
    window holds everything, token ids are kept, and pixels too up to `KEPT_PIXELS`.
    """

    data: Store
    labels: str
    shards: tuple[str, ...]
    order: Order
    checkpoint: Checkpoint
    settings: Train
    among: tuple[str, ...] = ()
    later: Corpus | None = None

    def __len__(self) -> int:
        return self.order.images

    def window(self, shards: Shards) -> Window:
        """The images of some shards, with their labels. Raises DataError where the store has changed since the corpus was read."""
        tables = [
            self.data.read_table(self.shards[shard], filters=[("split", "=", "train")], schema=IMAGES)
            for shard in shards
        ]
        images = pa.concat_tables(tables).combine_chunks()
        labels = self.data.read_table(
            self.labels, filters=_learnt(self.settings) & pc.field("image_id").isin(images["image_id"])
        ).combine_chunks()
        images = images.filter(
            _wanted(images["image_id"], _labelled(labels, self.among), self.settings)
        ).combine_chunks()
        expected = int(self.order.sizes[list(shards)].sum())
        if len(images) != expected:
            raise DataError(
                f"{self.data.uri} has changed during the training: {len(images)} images with labels in {len(shards)} shards, there were {expected}"
            )
        owners = (
            pc.index_in(labels["image_id"], value_set=images["image_id"].combine_chunks())
            .fill_null(len(images))
            .to_numpy()
        )
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(images) + 1))
        return Window(self, images, labels.take(pa.array(order)).combine_chunks(), starts)


@dataclass
class Window:
    """Some shards' images. ``starts``: (images + 1,) where each image's rows begin in ``labels``."""

    corpus: Corpus
    images: pa.Table
    labels: pa.Table
    starts: np.ndarray
    _made: dict[int, Seen] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def see(self, index: int, side: int) -> Seen:
        """Image ``index`` at ``side`` pixels, with its examples. One that cannot be decoded has no square and no example."""
        made = self._made.get(index)
        if made is not None and (made.square is None or made.square.shape[0] == side):
            return made
        ((record, content),) = table_images(self.images.slice(index, 1))
        counts: Counter[str] = Counter()
        try:
            square = _resized(self.corpus.checkpoint, decode(content or b"", record.name), side)
        except ImageError as error:
            logger.warning("image %s is skipped: %s", record.image_id[:12], error)
            seen = Seen(record, None, {}, {"unreadable": 1, f"unreadable_{error.reason}": 1})
        else:
            if made is None:
                rows = table_annotations(
                    self.labels.slice(self.starts[index], self.starts[index + 1] - self.starts[index])
                )
                seen = Seen(record, square, self._examples(record, rows, counts), counts)
            else:
                seen = Seen(record, square, made.examples, made.counts)
        if self.corpus.order.whole and len(self) * side * side * 3 <= KEPT_PIXELS:
            self._made[index] = seen
        return seen

    def _examples(
        self, record: ImageRecord, labels: list[Annotation], counts: Counter[str]
    ) -> dict[str, list[Encoded]]:
        rows: dict[str, list[Annotation]] = {}
        for row in labels:
            rows.setdefault(row.task, []).append(row)
        found: list[tuple[str, Example]] = []
        for name in self.corpus.settings.drawn:
            one = task(name)
            if one.kind in rows:
                refused: list[EncodeError] = []
                found += [(name, example) for example in one.examples(record, rows[one.kind], refused)]
                counts["refused"] += len(refused)
        return self._encoded(found, counts)

    def _encoded(self, found: list[tuple[str, Example]], counts: Counter[str]) -> dict[str, list[Encoded]]:
        result: dict[str, list[Encoded]] = {}
        if not found:
            return result
        longest = self.corpus.settings.max_target
        ids = self._ids(
            [task(name).prompt(example.input) for name, example in found] + [example.target for _, example in found]
        )
        for (name, example), prompt, target in zip(found, ids, ids[len(found) :], strict=False):
            if len(target) > longest:
                short = task(name).shortened(example, lambda text: len(self._ids([text])[0]) <= longest)
                if short is None:
                    counts["too_long"] += 1
                    continue
                counts["shortened"] += 1
                target = self._ids([short.target])[0]
            result.setdefault(name, []).append(Encoded(name, prompt, target))
        return result

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        tokenizer: Any = self.corpus.checkpoint.tokenizer
        return [
            np.asarray(ids, np.int64)
            for ids in tokenizer(texts, add_special_tokens=True, return_attention_mask=False).input_ids
        ]


def read_corpus(
    checkpoint: Checkpoint, settings: Train, data: Store, progress: Progress = lambda what, done, of: None
) -> Corpus:
    """The corpus of the snapshot in ``data``: which images have something to learn, by ids alone. Raises DataError where it has no labels to learn from."""
    first = settings.without_sparse()
    last, shards, sizes = counted(first, data, progress)
    corpus = Corpus(data, last, shards, Order(sizes, settings.shuffle_buffer, settings.seed), checkpoint, first)
    if not settings.sparse:
        return corpus
    _, _, few = counted(settings, data, progress, settings.sparse)
    if not few.sum():
        logger.warning("no image has a label for %s: nothing is learnt of them", ", ".join(settings.sparse))
        return corpus
    return replace(
        corpus,
        later=Corpus(
            data,
            last,
            shards,
            Order(few, settings.shuffle_buffer, settings.seed),
            checkpoint,
            settings,
            settings.sparse,
        ),
    )


def counted(
    settings: Train, data: Store, progress: Progress = lambda what, done, of: None, among: tuple[str, ...] = ()
) -> tuple[str, tuple[str, ...], np.ndarray]:
    """The name of the labels that are learnt from, the image shards, and how many images of each have something to learn (for one of the tasks ``among``).

    Raises as `read_corpus` does.
    """
    names = data.names("labels", ".parquet")
    if not names:
        raise DataError(f"{data.uri} holds no labels: `florence loop` or `dvc pull` gets a snapshot")
    last = max(names, key=lambda name: int(name.split("round=")[1].split("/")[0]))
    labelled = _labelled(data.read_table(last, ["image_id", "task"], _learnt(settings)), among)
    shards = data.names("images", ".parquet")
    sizes = []
    for done, shard in enumerate(shards, start=1):
        ids = data.read_table(shard, ["image_id"], [("split", "=", "train")])["image_id"]
        sizes.append(int(pc.sum(_wanted(ids, labelled, settings)).as_py() or 0))
        progress("read images", done, len(shards))
    if not sum(sizes) and not among:
        raise DataError(
            f"{last} keeps no label to learn from: no image of the split train, at train.data_fraction {settings.data_fraction:g}, has one that a task "
            "of train.task_weights is made of; add images, or loosen `engine`"
        )
    return last, tuple(shards), np.asarray(sizes)


def _labelled(labels: pa.Table, among: tuple[str, ...]) -> pa.Array:
    """The ids of the images that have labels, of the kinds of the tasks ``among`` where there are any."""
    if among:
        labels = labels.filter(pc.is_in(labels["task"], pa.array(sorted({task(name).kind for name in among}))))
    return labels["image_id"].unique()


def _learnt(settings: Train) -> pc.Expression:
    """The rows of labels that examples are made of."""
    return pc.field("kept") & pc.field("task").isin(sorted({task(name).kind for name in settings.drawn}))


def _wanted(ids: pa.ChunkedArray, labelled: pa.Array, settings: Train) -> pa.ChunkedArray:
    """Whether each image has labels and is in the share that is learnt from: its id is a hash, so the ids below a limit are a random share."""
    found = pc.is_in(ids, value_set=labelled)
    if settings.data_fraction >= 1:
        return found
    return pc.and_(found, pc.less(ids, f"{int(settings.data_fraction * 16**13):013x}"))


def _resized(checkpoint: Checkpoint, image: np.ndarray, side: int) -> np.ndarray:
    import dataclasses

    return (checkpoint if side == checkpoint.image_size else dataclasses.replace(checkpoint, image_size=side)).shrink(
        image
    )
