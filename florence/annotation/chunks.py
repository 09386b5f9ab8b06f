"""The images of a shard in chunks, each decoded once for all annotators; while one chunk is worked on the next is read and decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from florence.config import Settings
from florence.errors import ImageError
from florence.records import ImageRecord
from florence.store import Store

T = TypeVar("T")
PIXELS = 64_000_000
"""Pixels of a chunk: 192 MB. An image that has more is a chunk of its own. Two chunks are in memory, the one worked on and the next."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images that are in memory together. ``pixels``: by image id, (H, W, 3) uint8, of those that were to be decoded; ``broken``: why that cannot be done."""

    records: tuple[ImageRecord, ...]
    pixels: dict[str, np.ndarray]
    broken: dict[str, ImageError]


def chunks(
    settings: Settings, store: Store, shard: str, records: Sequence[ImageRecord], seen: Set[str], count: int
) -> Iterator[Chunk]:
    """``records``, in the order of the shard, in chunks of at most ``count`` images and `PIXELS` pixels; those whose ids are in ``seen`` are decoded.

    Raises StoreError where the shard cannot be read.
    """
    return _ahead(_chunks(settings, store, shard, records, seen, count))


def _chunks(
    settings: Settings, store: Store, shard: str, records: Sequence[ImageRecord], seen: Set[str], count: int
) -> Iterator[Chunk]:
    decoded = _decoded(settings, store, shard, {record.image_id for record in records} & seen)
    for part in _parts(records, seen, count):
        found = list(islice(decoded, sum(record.image_id in seen for record in part)))
        pixels = {image_id: one for image_id, one in found if not isinstance(one, ImageError)}
        yield Chunk(part, pixels, {image_id: one for image_id, one in found if isinstance(one, ImageError)})


def _parts(records: Sequence[ImageRecord], seen: Set[str], count: int) -> Iterator[tuple[ImageRecord, ...]]:
    part: list[ImageRecord] = []
    pixels = 0
    for record in records:
        size = record.width * record.height if record.image_id in seen else 0
        if part and (len(part) == count or pixels + size > PIXELS):
            yield tuple(part)
            part, pixels = [], 0
        part.append(record)
        pixels += size
    if part:
        yield tuple(part)


def _decoded(
    settings: Settings, store: Store, shard: str, wanted: Set[str]
) -> Iterator[tuple[str, np.ndarray | ImageError]]:
    """Id and pixels of each wanted image, in the order of the shard."""
    from florence.images import decode_image

    for batch in store.read_batches(f"images/{shard}.parquet", ["image_id", "name", "bytes"]) if wanted else ():
        for image_id, name, data in zip(
            batch["image_id"].to_pylist(), batch["name"].to_pylist(), batch["bytes"], strict=True
        ):
            if image_id in wanted:
                try:
                    yield image_id, decode_image(data.as_py(), name, max_pixels=settings.collect.max_pixels)
                except ImageError as error:
                    yield image_id, error


def _ahead(work: Iterator[T]) -> Iterator[T]:
    """The items of ``work``, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, "florence-read") as pool:
        coming = pool.submit(next, work, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, work, None)
            yield item
