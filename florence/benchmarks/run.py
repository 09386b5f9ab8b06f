"""Ask a model the questions of a benchmark: in chunks of bounded memory, each written when it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from florence.benchmarks import BenchmarkAnswer, BenchmarkImage
from florence.errors import DataError
from florence.images import decode_image
from florence.model.generate import Query
from florence.records import Region
from florence.store import Store
from florence.tasks import Answer

CHUNK_BYTES = 64 * 2**20
"""Bytes of decoded images that are in memory at once; one image may be larger."""
CHUNK_QUESTIONS = 256
"""Questions that are asked, and answers that are written, at once; one image may have more."""
ANSWERS = "answers"
Predict = Callable[[Sequence[np.ndarray], Sequence[Query]], list[Answer]]


def collect_benchmark_answers(
    images: Sequence[BenchmarkImage],
    out: Store,
    predict: Predict,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, BenchmarkAnswer]:
    """Return the answers by the key of their question; those that lie in ``out`` are not asked again.

    Raises DataError for an image that is missing, ImageError for one that cannot be read: a benchmark is whole or not.
    """
    names = out.names(ANSWERS, ".json")
    found: dict[str, BenchmarkAnswer] = {}
    for name in names:
        found |= {key: _parse_answer(value) for key, value in out.read_object(name).items()}
    missing = [image for image in images if not found.keys() >= set(image.query_keys)]
    done = len(images) - len(missing)
    progress(done, len(images))
    for number, chunk in enumerate(_split_chunks(missing), start=len(names)):
        keys = [key for image, _ in chunk for key in image.query_keys]
        queries = [Query(index, *query) for index, (image, _) in enumerate(chunk) for query in image.queries]
        answers = predict([pixels for _, pixels in chunk], queries)
        rows = {key: _write_answer(answer) for key, answer in zip(keys, answers, strict=True)}
        out.write_json(f"{ANSWERS}/{number:06d}.json", rows)
        found |= {key: _parse_answer(value) for key, value in rows.items()}
        done += len(chunk)
        progress(done, len(images))
    return found


def _split_chunks(images: Sequence[BenchmarkImage]) -> Iterator[list[tuple[BenchmarkImage, np.ndarray]]]:
    chunk: list[tuple[BenchmarkImage, np.ndarray]] = []
    size = questions = 0
    for image in images:
        try:
            content = image.path.read_bytes()
        except OSError as error:
            raise DataError(f"{image.path} cannot be read ({error.strerror}): a benchmark needs all images") from None
        pixels = decode_image(content, str(image.path))
        if chunk and (size + pixels.nbytes > CHUNK_BYTES or questions + len(image.queries) > CHUNK_QUESTIONS):
            yield chunk
            chunk, size, questions = [], 0, 0
        chunk.append((image, pixels))
        size, questions = size + pixels.nbytes, questions + len(image.queries)
    if chunk:
        yield chunk


def _write_answer(answer: Answer) -> dict[str, Any]:
    regions = [{"label": region.label, "box": list(region.bounds), "score": region.score} for region in answer.regions]
    return {"text": answer.text, "regions": regions, "invalid": answer.error is not None}


def _parse_answer(values: dict[str, Any]) -> BenchmarkAnswer:
    regions = tuple(Region(label=r["label"], box=tuple(r["box"]), score=r["score"]) for r in values["regions"])
    return BenchmarkAnswer(values["text"], regions, values["invalid"])
