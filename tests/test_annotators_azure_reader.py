"""The Azure reader with Azure's own client, over a real connection."""

from __future__ import annotations

import io
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import chat_server as server
import numpy as np
import pytest
from chat_server import KEY, Fault, ReceivedCall, Service, azure_error
from PIL import Image

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.annotators.azure_reader import encode
from florence.errors import FlorenceError, SettingsError, UnavailableError
from florence.records import ImageRecord
from florence.services.usage import Usage

NOISE = np.random.default_rng(0)
ERRORS = (
    azure_error(500, "InternalServerError", "trouble"),
    azure_error(429, "TooManyRequests", "slow down", (("Retry-After", "0"),)),
    azure_error(503, "Timeout", "busy"),
)
FOREIGN_ANSWERS = (
    server.HTML,
    server.HALF,
    server.Fault(raw=b"[1, 2]"),
    server.Fault(raw=b'"text"'),
    server.Fault(raw=b""),
)
WRONG = (
    Fault(
        change=lambda body: {
            "modelVersion": "1",
            "metadata": body["metadata"],
            "captionResult": {"text": "a", "confidence": 1},
        }
    ),
    Fault(
        change=lambda body: {
            **body,
            "readResult": {"blocks": [{"lines": [{"text": "A", "boundingPolygon": [{"x": 1, "y": 2}], "words": []}]}]},
        }
    ),
    Fault(
        change=lambda body: {
            **body,
            "readResult": {
                "blocks": [{"lines": [{"text": 5, "boundingPolygon": [{"x": 1, "y": 2}] * 4, "words": []}]}]
            },
        }
    ),
    Fault(
        change=lambda body: {
            **body,
            "readResult": {
                "blocks": [
                    {"lines": [{"text": "A", "boundingPolygon": [{"x": 1, "y": 2}] * 4, "words": [{"confidence": 7}]}]}
                ]
            },
        }
    ),
    Fault(change=lambda body: {**body, "readResult": {"blocks": 3}}),
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION_KEY", KEY)
    monkeypatch.delenv("VISION_ENDPOINT", raising=False)


def make_reader(service: Service | str, **options: Any) -> Annotator:
    annotator = ANNOTATORS.get("azure_reader")(
        name="ocr", endpoint=service if isinstance(service, str) else service.url, **options
    )
    annotator.load()
    return annotator


def sign(width: int, height: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.full((height, width, 3), (250, 240, 230), np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = 5
    return pixels


def batch(*pixels: np.ndarray) -> ImageBatch:
    records = tuple(
        ImageRecord(f"{i:064x}", p.shape[1], p.shape[0], "mine", f"{i}.png", "", None, "train")
        for i, p in enumerate(pixels)
    )
    return ImageBatch(records, pixels)


def signs(count: int) -> ImageBatch:
    """Return a batch of ``count`` images of different widths with one text each."""
    return batch(*(sign(100 + i, 80, (10, 10, 50 + i, 30)) for i in range(count)))


def scripted(fault: Callable[[int, int], Fault | None]) -> Callable[[ReceivedCall], Fault | None]:
    counts, lock = Counter[int](), threading.Lock()

    def script(received: ReceivedCall) -> Fault | None:
        index = received.images[0].shape[1] - 100
        with lock:
            before, counts[index] = counts[index], counts[index] + 1
        return fault(index, before)

    return script


def box(claim: Any) -> tuple[float, ...]:
    return claim.regions[0].bounds


def test_lines_and_words_have_their_quads_and_scores():
    image = sign(400, 300, (200, 200, 320, 240), (20, 30, 140, 60))
    with server.serve_reader() as service:
        (lines,) = make_reader(service).annotate(batch(image))
        (words,) = make_reader(service, words=True).annotate(batch(image))
        (sure,) = make_reader(service, words=True, min_score=0.8).annotate(batch(image))
        assert service.complaints == [] and make_reader(service, min_score=0.85).annotate(batch(image)) == [[]]
    assert [(c.text, box(c), round(c.score, 6), c.task) for c in lines] == [
        ("OPEN DAILY", (20, 30, 140, 60), 0.8, "<OCR_WITH_REGION>"),
        ("OPEN DAILY", (200, 200, 320, 240), 0.8, "<OCR_WITH_REGION>"),
    ]
    assert (
        lines[0].regions[0].quad == (20, 30, 140, 30, 140, 60, 20, 60) and lines[0].regions[0].score == lines[0].score
    )
    assert [(c.text, box(c), c.score) for c in words][:2] == [
        ("OPEN", (20, 30, 80, 60), 0.9),
        ("DAILY", (80, 30, 140, 60), 0.7),
    ] and [c.text for c in sure] == ["OPEN", "OPEN"]


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((3000, 2000), {"side": 600}),
        ((900, 1700), {"side": 850}),
        ((1200, 900), {"megabytes": 0.15}),
        ((17000, 120), {"side": 16000}),
        ((40, 30), {}),
        ((51, 700), {}),
    ],
)
def test_a_picture_is_fitted_to_the_limits_of_the_service_and_quads_are_of_the_whole_one(
    size: tuple[int, int], options: dict[str, Any]
):
    width, height = size
    at = (width // 5, height // 4, width // 5 * 3, height // 4 * 3)
    image = sign(width, height, at)
    if "megabytes" in options:
        image = np.where(image > 100, NOISE.integers(150, 255, image.shape, dtype=np.uint8), image)
    with server.serve_reader() as service:
        (claims,) = make_reader(service, **options).annotate(batch(image))
    (claim,) = [c for c in claims if (box(c)[2] - box(c)[0]) > width / 4]
    sent = service.received[0]
    shrunk = max(1.0, width / sent.images[0].shape[1])
    assert box(claim) == pytest.approx(at, abs=1.5 * shrunk) and service.complaints == []
    assert len(sent.body) <= options.get("megabytes", 20) * 1e6 and max(sent.images[0].shape) <= options.get(
        "side", 4096
    )


def test_what_is_sent_is_lossless_where_it_fits_and_as_large_as_can_be_where_not():
    noise = NOISE.integers(0, 255, (500, 700, 3), dtype=np.uint8)
    whole, factors = encode(noise, 4096, 20_000_000)
    with Image.open(io.BytesIO(whole)) as image:
        assert (
            image.format == "PNG" and (np.asarray(image.convert("RGB")) == noise).all() and factors.tolist() == [1, 1]
        )
    for size, form in ((700_000, "JPEG"), (60_000, "JPEG"), (10, "JPEG")):
        payload, factors = encode(noise, 4096, size)
        with Image.open(io.BytesIO(payload)) as image:
            assert image.format == form and (len(payload) <= size or max(image.size) <= 64)
            assert image.size == pytest.approx((700 / factors[0], max(64, 500 / factors[1])))


def test_with_a_third_of_answers_faulty_nothing_is_lost_and_the_bill_is_right():
    import random

    def fault(index: int, before: int) -> Fault | None:
        draw = random.Random(f"{index} {before}")
        return draw.choice((*ERRORS, server.CLOSED, *FOREIGN_ANSWERS, WRONG[0])) if draw.random() < 0.3 else None

    rows = signs(40)
    with server.serve_reader(scripted(fault)) as service:
        first = make_reader(service, concurrency=8, retries=1, repeat=1, price=0.5, budget_cost=10_000)
        results = first.annotate(rows)
        left = [i for i, claims in enumerate(results) if not isinstance(claims, list)]
        assert left and all(isinstance(results[i], UnavailableError) for i in left)
        again = make_reader(service, concurrency=8, retries=6, repeat=4, price=0.5)
        again.usage = first.usage
        late = again.annotate(batch(*(rows.pixels[i] for i in left)))
        whole = [*results]
        for i, claims in zip(left, late, strict=True):
            whole[i] = claims
    assert [[box(c) for c in claims] for claims in whole] == [[(10.0, 10.0, 50.0 + i, 30.0)] for i in range(40)]
    assert (
        again.usage.calls == len(service.calls)
        and again.usage.cost == 0.5 * sum(call.status == 200 for call in service.calls)
        and service.complaints == []
    )


@pytest.mark.parametrize("budget", [{"budget_calls": 17}, {"budget_cost": 8.5, "price": 0.5}])
def test_the_budget_is_kept_to_the_call(budget: dict[str, float]):
    with server.serve_reader(
        lambda received: ERRORS[0] if received.number % 3 == 2 and "budget_calls" in budget else None
    ) as service:
        annotator = make_reader(service, concurrency=8, retries=5, **budget)
        results = annotator.annotate(signs(40))
    assert len(service.calls) == annotator.usage.calls == 17
    for claims in results:
        assert isinstance(
            claims, list
        ) or f"annotators.ocr.budget_{'calls' if 'budget_calls' in budget else 'cost'}" in str(claims)


@pytest.mark.parametrize(
    ("fault", "calls", "error_class", "text"),
    [
        (ERRORS[0], 2, UnavailableError, "answers 500 (trouble) (2 times)"),
        (ERRORS[1], 2, UnavailableError, "answers 429"),
        (server.CLOSED, 2, UnavailableError, "broke off"),
        (azure_error(429, "x", "later", (("Retry-After", "7200"),)), 1, UnavailableError, "asks for 7200 seconds"),
        (server.HANG, 2, UnavailableError, "did not answer within 1.5 seconds"),
        (
            azure_error(403, "403", "Out of call volume quota. Quota will be replenished in 2 days."),
            1,
            UnavailableError,
            "in 2 days.); a later run asks again",
        ),
        *((fault, 2, UnavailableError, "web page, or cut off") for fault in FOREIGN_ANSWERS),
        *((fault, 2, FlorenceError, "not what the feature Read answers") for fault in WRONG),
        (
            azure_error(400, "InvalidImageFormat", "The image cannot be decoded"),
            1,
            FlorenceError,
            "answers 400 (The image cannot be decoded)",
        ),
    ],
)
def test_a_fault_costs_that_image_alone(fault: Fault, calls: int, error_class: type[FlorenceError], text: str):
    with server.serve_reader(scripted(lambda index, before: fault if index == 2 else None)) as service:
        annotator = make_reader(service, retries=1, repeat=1, timeout=1.5)
        results = annotator.annotate(signs(4))
    assert (
        type(results[2]) is error_class
        and text in str(results[2])
        and [len(results[i]) for i in (0, 1, 3)] == [1, 1, 1]
    )
    assert len(service.calls) == 3 + calls == annotator.usage.calls


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (azure_error(401, "401", f"Access denied due to invalid subscription key {KEY}"), "set VISION_KEY"),
        (azure_error(403, "403", "not from your network"), "set VISION_KEY"),
        (azure_error(404, "404", "Resource not found"), "annotators.ocr.endpoint"),
        (Fault(308, (("Location", "http://127.0.0.1:9/"),), raw=b""), "annotators.ocr.endpoint"),
    ],
)
def test_wrong_settings_stop_it_at_the_first_call(fault: Fault, text: str):
    with server.serve_reader(lambda received: fault) as service:
        annotator = make_reader(service, concurrency=8)
        for _ in range(2):
            with pytest.raises(SettingsError) as caught:
                annotator.annotate(signs(10))
            assert text in str(caught.value) and KEY not in str(caught.value)
        assert len(service.calls) == 1


def test_calls_are_spaced_at_the_rate_and_a_service_that_asks_is_left_alone():
    slow = azure_error(429, "TooManyRequests", "slow down", (("Retry-After", "1"),))
    with server.serve_reader(scripted(lambda index, before: slow if (index, before) == (3, 0) else None)) as service:
        start = time.monotonic()
        make_reader(service, concurrency=1, rate=600).annotate(signs(8))
        arrived = [call.arrived for call in service.calls]
        assert all(at >= start + 0.1 * i for i, at in enumerate(arrived)) and arrived[4] >= arrived[3] + 1


def test_a_service_that_is_not_there_costs_nothing():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        annotator = make_reader(f"http://127.0.0.1:{held.getsockname()[1]}", retries=0)
        results = annotator.annotate(signs(3))
    assert ["cannot be reached" in str(claims) for claims in results] == [True] * 3 and annotator.usage == Usage()


def test_keys_and_addresses_that_are_missing_or_misplaced(monkeypatch: pytest.MonkeyPatch):
    for options in ({"key": KEY}, {"endpoint": f"https://host/?key={KEY}"}, {"endpoint": f"https://me:{KEY}@host"}):
        with pytest.raises(SettingsError, match="environment, as VISION_KEY") as caught:
            ANNOTATORS.get("azure_reader")(name="ocr", **options)
        assert KEY not in str(caught.value)
    annotator = ANNOTATORS.get("azure_reader")(name="ocr")
    with pytest.raises(SettingsError, match="VISION_ENDPOINT is not set.*annotators.ocr.endpoint"):
        annotator.load()
    with server.serve_reader() as service:
        monkeypatch.setenv("VISION_ENDPOINT", service.url)
        annotator.load()
        assert len(annotator.annotate(signs(1))[0]) == 1
    monkeypatch.delenv("VISION_KEY")
    with pytest.raises(SettingsError, match="VISION_KEY is not set"):
        make_reader("http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "azure.ai.vision.imageanalysis", None)
    with pytest.raises(SettingsError, match=re.escape("pip install 'florence[services]' -c constraints.txt")):
        make_reader("http://127.0.0.1:9")


def test_the_version_follows_from_what_decides_answers_alone():
    def version(**options: Any) -> str:
        return ANNOTATORS.get("azure_reader")(name="ocr", **options).version

    deciding = {"model_version": "2024-01-01", "words": True, "min_score": 0.1, "side": 1000, "megabytes": 4}
    others = {
        "endpoint": "http://127.0.0.1:1",
        "price": 1,
        "timeout": 9,
        "retries": 9,
        "max_wait": 9,
        "repeat": 9,
        "rate": 9,
        "concurrency": 9,
        "budget_calls": 9,
        "budget_cost": 9,
    }
    assert {*deciding, *others} == set(ANNOTATORS.get("azure_reader").Options.model_fields)
    assert len({version(), *(version(**{key: value}) for key, value in deciding.items())}) == 1 + len(deciding)
    assert {version(**{key: value}) for key, value in others.items()} == {version()}
