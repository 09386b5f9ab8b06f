"""Images are read and decoded by threads, ahead of the model, in chunks of bounded memory.

Bytes of the next files are read while a chunk is decoded, and a chunk is decoded while the model works on the one
before. At most three chunks of pixels are in memory, each of `CHUNK_BYTES` or of one image.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from florence.errors import FlorenceError, ImageError
from florence.images import MAX_PIXELS, decode_image, read_size

CHUNK_BYTES = 64 * 2**20
"""Bytes of decoded images that the model is given at once; one image may be larger."""
WORKERS = min(4, os.cpu_count() or 1)
"""Threads that read and decode."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image to be asked about.

    ``name``: as answers give it. ``read``: returns the bytes of its file, or its pixels (H, W, 3) uint8; raises
    FlorenceError where only this image cannot be read.
    """

    name: str
    read: Callable[[], bytes | np.ndarray]


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image that was read. ``pixels``: None where that failed, for ``error``; ``image_id``: SHA-256 of its bytes."""

    name: str
    pixels: np.ndarray | None
    error: str = ""
    image_id: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, (0, 0) where it could not be read."""
        return (self.pixels.shape[1], self.pixels.shape[0]) if self.pixels is not None else (0, 0)


def read_chunks(groups: Sequence[Sequence[ImageInput]], most: int) -> Iterator[list[ReadImage]]:
    """Yield the images of ``groups`` in order, in chunks of at most ``most`` images and `CHUNK_BYTES`.

    No chunk has images of two groups: what is in a chunk depends on its group alone.
    """
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="florence-read")
    try:
        coming = _form_chunks(pool, groups, most)
        pending: deque[list[Future[ReadImage]]] = deque()
        while True:
            for chunk in islice(coming, 2 - len(pending)):
                pending.append([pool.submit(_decode, loaded) for loaded in chunk])
            if not pending:
                return
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An image before it is decoded. ``size``: bytes of its pixels; 0 where they are not decoded."""

    name: str
    content: bytes | np.ndarray
    size: int
    error: str = ""


def _form_chunks(
    pool: ThreadPoolExecutor, groups: Sequence[Sequence[ImageInput]], most: int
) -> Iterator[list[_Loaded]]:
    coming = iter([(number, one) for number, group in enumerate(groups) for one in group])
    waiting: deque[tuple[int, Future[_Loaded]]] = deque()
    chunk: list[_Loaded] = []
    size = last = 0
    while True:
        for number, one in islice(coming, 2 * WORKERS - len(waiting)):
            waiting.append((number, pool.submit(_load, one)))
        if not waiting:
            break
        number, future = waiting.popleft()
        loaded = future.result()
        if chunk and (number != last or len(chunk) >= most or size + loaded.size > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        last = number
        chunk.append(loaded)
        size += loaded.size
    if chunk:
        yield chunk


def _load(one: ImageInput) -> _Loaded:
    """Read an image's bytes, and its size from its header."""
    try:
        content = one.read()
        if isinstance(content, np.ndarray):
            return _Loaded(one.name, content, content.nbytes)
        width, height = read_size(content, one.name)
        return _Loaded(one.name, content, width * height * 3 if width * height <= MAX_PIXELS else 0)
    except FlorenceError as error:
        return _Loaded(one.name, b"", 0, str(error))


def _decode(loaded: _Loaded) -> ReadImage:
    if loaded.error:
        return ReadImage(loaded.name, None, loaded.error)
    if isinstance(loaded.content, np.ndarray):
        return ReadImage(loaded.name, loaded.content, "", hashlib.sha256(loaded.content.tobytes()).hexdigest())
    try:
        pixels = decode_image(loaded.content, loaded.name)
    except ImageError as error:
        return ReadImage(loaded.name, None, str(error))
    except MemoryError:
        return ReadImage(loaded.name, None, f"{loaded.name}: too_large (there is not enough memory to decode it)")
    return ReadImage(loaded.name, pixels, "", hashlib.sha256(loaded.content).hexdigest())
