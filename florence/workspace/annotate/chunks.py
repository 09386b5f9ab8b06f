"""The images of a shard in chunks, each image decoded once for all annotators.

The next chunk is read and decoded while one is annotated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from florence.errors import ImageError
from florence.images import decode_image
from florence.records import ImageRecord
from florence.workspace.base import Workspace

T = TypeVar("T")
PIXELS = 64_000_000
"""Pixels of a chunk: 192 MB.

An image that has more is a chunk of its own. Two chunks are in memory, the current one and the next.
"""


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Images that are in memory together.

    ``pixels``: by image id, (H, W, 3) uint8, of those that were to be decoded; ``errors``: by image id, why that
    failed.
    """

    records: tuple[ImageRecord, ...]
    pixels: dict[str, np.ndarray]
    errors: dict[str, ImageError]


def read_chunks(
    workspace: Workspace, shard: str, records: Sequence[ImageRecord], decoded: Set[str], count: int
) -> Iterator[ImageChunk]:
    """Yield ``records``, in the order of the shard, in chunks of at most ``count`` images and `PIXELS` pixels.

    Images with ids in ``decoded`` have pixels.

    Raises StoreError where the shard cannot be read.
    """
    return _prefetch(_read_chunks(workspace, shard, records, decoded, count))


def _read_chunks(
    workspace: Workspace, shard: str, records: Sequence[ImageRecord], decoded: Set[str], count: int
) -> Iterator[ImageChunk]:
    images = _decode_images(workspace, shard, {record.image_id for record in records} & decoded)
    for part in _split_records(records, decoded, count):
        found = list(islice(images, sum(record.image_id in decoded for record in part)))
        pixels = {image_id: one for image_id, one in found if not isinstance(one, ImageError)}
        yield ImageChunk(part, pixels, {image_id: one for image_id, one in found if isinstance(one, ImageError)})


def _split_records(records: Sequence[ImageRecord], decoded: Set[str], count: int) -> Iterator[tuple[ImageRecord, ...]]:
    part: list[ImageRecord] = []
    pixels = 0
    for record in records:
        size = record.width * record.height if record.image_id in decoded else 0
        if part and (len(part) == count or pixels + size > PIXELS):
            yield tuple(part)
            part, pixels = [], 0
        part.append(record)
        pixels += size
    if part:
        yield tuple(part)


def _decode_images(workspace: Workspace, shard: str, wanted: Set[str]) -> Iterator[tuple[str, np.ndarray | ImageError]]:
    """Yield id and pixels of each wanted image, in the order of the shard."""
    columns = ["image_id", "name", "bytes"]
    limit = workspace.settings.collect.max_pixels
    for batch in workspace.store.read_batches(f"images/{shard}.parquet", columns) if wanted else ():
        rows = zip(batch["image_id"].to_pylist(), batch["name"].to_pylist(), batch["bytes"], strict=True)
        for image_id, name, data in rows:
            if image_id in wanted:
                try:
                    yield image_id, decode_image(data.as_py(), name, max_pixels=limit)
                except ImageError as error:
                    yield image_id, error


def _prefetch(work: Iterator[T]) -> Iterator[T]:
    """Yield the items of ``work``; each is made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, "florence-read") as pool:
        coming = pool.submit(next, work, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, work, None)
            yield item
