"""Captioners of a chat endpoint, pictures for them, and scripts of the endpoint's faults."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import chat_server as server
import numpy as np
import pytest
from chat_server import KEY, MODEL, Fault, ReceivedCall, Service

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.records import Claim, ImageRecord, Region, annotate
from florence.services.chat import ChatSettings

CAPTIONS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
COLOURS = {"red": (210, 20, 20), "green": (20, 210, 20), "blue": (20, 20, 210)}


def make_captioner(
    service: Service | str, use: str = "service_captioner", name: str = "gpt", **options: Any
) -> Annotator:
    """Return a captioner of that endpoint. Options that `ChatSettings` has go to its section.

    It asks for one caption, in one call, unless ``tasks`` says otherwise.
    """
    own = {key: options.pop(key) for key in list(options) if key in ChatSettings.model_fields}
    url = service if isinstance(service, str) else service.url
    annotator = ANNOTATORS.get(use)(
        name=name, service={"url": url, "model": MODEL, **own}, **{"tasks": ("<CAPTION>",), **options}
    )
    annotator.load()
    return annotator


def make_pictures(count: int, claims: bool = False) -> tuple[ImageBatch, list[str]]:
    """Return images of different sizes and colours, and what the endpoint's model says of each."""
    records, pixels, results, words = [], [], [], []
    for index in range(count):
        name = list(COLOURS)[index % 3]
        width, height = 40 + index, 60 + index // 3
        record = ImageRecord(f"{index:064x}", width, height, "mine", f"{index}.png", "", None, "train")
        box = (4.0, 5.0, 24.0, 45.0)
        rows = [Claim("<OD>", "thing", (Region("thing", box=box, score=0.9),), 0.9)] if claims else []
        records.append(record)
        pixels.append(np.full((height, width, 3), COLOURS[name], np.uint8))
        results.append(annotate(record.image_id, rows, "someone", "1"))
        words.append(f"a {name} picture of {width} by {height}")
    return ImageBatch(tuple(records), tuple(pixels), tuple(results)), words


def select_images(batch: ImageBatch, *chosen: int) -> ImageBatch:
    return ImageBatch(*(tuple(field[i] for i in chosen) for field in (batch.records, batch.pixels, batch.claims)))


def image_index(received: ReceivedCall) -> int:
    """Return the index of the image that is asked about, by its width."""
    return received.images[0].shape[1] - 40


def count_questions(fault: Callable[[int, int], Fault | None]) -> Callable[[ReceivedCall], Fault | None]:
    """Return a script of faults by image and earlier questions about it, the same in any order of threads."""
    counts, lock = Counter[int](), threading.Lock()

    def script(received: ReceivedCall) -> Fault | None:
        index = image_index(received)
        with lock:
            time_, counts[index] = counts[index], counts[index] + 1
        return fault(index, time_)

    return script


def fail_at_random(
    share: float, seed: int = 0, faults: tuple[Fault, ...] | None = None
) -> Callable[[ReceivedCall], Fault | None]:
    """Return a script in which a ``share`` of the answers is faulty."""
    faults = faults or (
        *server.FOREIGN_ANSWERS,
        *server.UNUSABLE,
        server.NOT_JSON,
        server.OTHER_KEYS,
        server.CLOSED,
        server.error(500),
        server.error(503),
        server.error(429, retry_after=0),
    )

    def fault(index: int, time_: int) -> Fault | None:
        draw = random.Random(f"{seed} {index} {time_}")
        return draw.choice(faults) if draw.random() < share else None

    return count_questions(fault)


def list_texts(results: Any) -> list[str]:
    return [claim.text for claim in results]


def set_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the endpoint's key in the environment, and no other setting of such services."""
    for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
