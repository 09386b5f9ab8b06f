"""What is learnt from: the kept labels of a snapshot's last round, for images of the split `train`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.config import Train
from florence.errors import DataError, EncodeError, ImageError
from florence.model.checkpoint import Checkpoint
from florence.pixels import decode
from florence.records import TASKS, Annotation, ImageRecord, table_annotations, table_images
from florence.store import Store
from florence.tasks import Example, task

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as token ids: ``prompt`` and ``target`` each from <s> to </s>."""

    task: str
    prompt: np.ndarray
    target: np.ndarray


@dataclass(slots=True)
class Corpus:
    """Images with their labels. ``squares``: (n, side, side, 3) uint8. Examples are made when an image is first drawn, and kept.

    ``counts``: what was left out and why: shortened (targets cut after a whole region), too_long, refused (not writable in the
    grammar), unreadable (images).
    """

    records: list[ImageRecord]
    labels: dict[str, list[Annotation]]
    squares: np.ndarray
    tokenizer: Any
    settings: Train
    counts: Counter[str] = field(default_factory=Counter)
    _made: dict[int, Mapping[str, list[Encoded]]] = field(default_factory=dict)

    def examples(self, index: int) -> Mapping[str, list[Encoded]]:
        """The examples of image ``index`` by task; tasks of weight 0, and those without an example, are not there."""
        if index not in self._made:
            self._made[index] = self._make(self.records[index])
        return self._made[index]

    def _make(self, record: ImageRecord) -> dict[str, list[Encoded]]:
        rows: dict[str, list[Annotation]] = {}
        for row in self.labels[record.image_id]:
            rows.setdefault(row.task, []).append(row)
        found: list[tuple[str, Example]] = []
        for name in TASKS:
            one = task(name)
            if self.settings.task_weights.get(name, 1.0) > 0 and one.kind in rows:
                refused: list[EncodeError] = []
                found += [(name, example) for example in one.examples(record, rows[one.kind], refused)]
                self.counts["refused"] += len(refused)
        return self._encoded(found)

    def _encoded(self, found: list[tuple[str, Example]]) -> dict[str, list[Encoded]]:
        result: dict[str, list[Encoded]] = {}
        if not found:
            return result
        prompts = self._ids([task(name).prompt(example.input) for name, example in found])
        targets = self._ids([example.target for _, example in found])
        for (name, example), prompt, target in zip(found, prompts, targets, strict=True):
            if len(target) > self.settings.max_target:
                short = task(name).shortened(example, lambda text: len(self._ids([text])[0]) <= self.settings.max_target)
                if short is None:
                    self.counts["too_long"] += 1
                    continue
                self.counts["shortened"] += 1
                target = self._ids([short.target])[0]
            result.setdefault(name, []).append(Encoded(name, prompt, target))
        return result

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        return [np.asarray(ids, np.int64) for ids in self.tokenizer(texts, add_special_tokens=True).input_ids]


def read_corpus(checkpoint: Checkpoint, settings: Train, data: Store, progress: Progress = lambda what, done, of: None) -> Corpus:
    """The corpus of the snapshot in ``data``. Raises DataError where it has no labels to learn from."""
    names = [name for name in data.names("labels", ".parquet")]
    if not names:
        raise DataError(f"{data.uri} holds no labels: `florence loop` or `dvc pull` gets a snapshot")
    last = max(names, key=lambda name: int(name.split("round=")[1].split("/")[0]))
    table = data.read_table(last)
    table = table.filter(table["kept"])
    shards = data.names("images", ".parquet")
    records, squares, labels, unreadable = [], [], {}, 0
    for done, shard in enumerate(shards, start=1):
        images = data.read_table(shard, filters=[("split", "=", "train")])
        wanted = table.filter(pc.is_in(table["image_id"], value_set=images["image_id"].combine_chunks()))
        labels.update(_by_image(wanted))
        for record, content in table_images(images):
            if record.image_id not in labels:
                continue
            try:
                squares.append(checkpoint.shrink(decode(content or b"", record.name)))
            except ImageError:
                unreadable += 1
                continue
            records.append(record)
        progress("read images", done, len(shards))
    if not records:
        raise DataError(f"{last} keeps no label of a training image: nothing can be learnt from it; add images, or loosen `engine`")
    stacked = np.stack(squares)
    return Corpus(records, labels, stacked, checkpoint.tokenizer, settings, Counter(unreadable=unreadable))


def _by_image(table: pa.Table) -> dict[str, list[Annotation]]:
    result: dict[str, list[Annotation]] = {}
    for row in table_annotations(table):
        result.setdefault(row.image_id, []).append(row)
    return result


