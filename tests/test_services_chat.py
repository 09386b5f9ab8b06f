"""A chat endpoint asked over a real connection: what it is sent, what becomes of its faults, what it may cost."""

from __future__ import annotations

import base64
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chat_server as server
import numpy as np
import pytest
from chat_server import KEY, MODEL, Fault, ReceivedCall, Service
from PIL import Image

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.errors import FlorenceError, SettingsError, UnavailableError
from florence.records import Claim, ImageRecord, Region, annotate
from florence.services.answers import is_refusal
from florence.services.calls import MAX_FAILURES, parse_retry_after
from florence.services.chat import ChatSettings, data_url
from florence.services.usage import Usage

CAPTIONS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
COLOURS = {"red": (210, 20, 20), "green": (20, 210, 20), "blue": (20, 20, 210)}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    yield


def make_captioner(
    service: Service | str, use: str = "service_captioner", name: str = "gpt", **options: Any
) -> Annotator:
    """A captioner of that endpoint. Options that `ChatSettings` has go to its section. It asks for one caption, in one call, if not told otherwise."""
    own = {key: options.pop(key) for key in list(options) if key in ChatSettings.model_fields}
    url = service if isinstance(service, str) else service.url
    annotator = ANNOTATORS.get(use)(
        name=name, service={"url": url, "model": MODEL, **own}, **{"tasks": ("<CAPTION>",), **options}
    )
    annotator.load()
    return annotator


def make_pictures(count: int, claims: bool = False) -> tuple[ImageBatch, list[str]]:
    """Images that are told apart by their sizes and colours, and what the endpoint's model says of each."""
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


def part(batch: ImageBatch, *chosen: int) -> ImageBatch:
    return ImageBatch(*(tuple(field[i] for i in chosen) for field in (batch.records, batch.pixels, batch.claims)))


def width_of(received: ReceivedCall) -> int:
    """Which image is asked about, by its width."""
    return received.images[0].shape[1] - 40


def times_asked(fault: Callable[[int, int], Fault | None]) -> Callable[[ReceivedCall], Fault | None]:
    """A script by image and how often it was asked about before: the same whatever the order of threads."""
    seen, lock = Counter[int](), threading.Lock()

    def script(received: ReceivedCall) -> Fault | None:
        index = width_of(received)
        with lock:
            time_, seen[index] = seen[index], seen[index] + 1
        return fault(index, time_)

    return script


def faulty(
    share: float, seed: int = 0, faults: tuple[Fault, ...] | None = None
) -> Callable[[ReceivedCall], Fault | None]:
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

    return times_asked(fault)


def texts(results: Any) -> list[str]:
    return [claim.text for claim in results]


def test_every_image_is_asked_about_once_and_every_object_in_its_crop():
    batch, words = make_pictures(5, claims=True)
    with server.serve_chat() as service:
        annotator = make_captioner(service, tasks=(*CAPTIONS, "<DENSE_REGION_CAPTION>"), margin=0)
        results = annotator.annotate(batch)
    assert service.complaints == []
    for claims, word in zip(results, words, strict=True):
        colour = word.split()[1]
        assert [claim.task for claim in claims] == [*CAPTIONS, "<DENSE_REGION_CAPTION>"]
        assert texts(claims)[:3] == [f"{task.strip('<>').lower()}: {word}" for task in CAPTIONS]
        region = f"a {colour} picture of 32 by 64"
        assert claims[3] == Claim(
            "<DENSE_REGION_CAPTION>", region, (Region(region, box=(4.0, 5.0, 24.0, 45.0), score=0.9),), 0.9
        ), "20 by 40, enlarged for patches of 28 pixels"
    assert annotator.usage == Usage(10, service.tokens, 0.0) and len(service.calls) == 10
    assert {(a.body["temperature"], a.body["seed"]) for a in service.received} == {(0, 0)}


def test_with_a_third_of_answers_faulty_nothing_is_lost_and_the_bill_is_right():
    batch, words = make_pictures(60)
    with server.serve_chat(faulty(0.3)) as service:
        annotator = make_captioner(service, concurrency=8, retries=1, timeout=20)
        results = annotator.annotate(batch)
        left = [index for index, claims in enumerate(results) if not isinstance(claims, list)]
        assert left and all(isinstance(results[index], UnavailableError) for index in left), (
            "some are left for later, and none failed for good"
        )
        again = make_captioner(service, concurrency=8, retries=8, timeout=20)
        again.usage = annotator.usage
        late = again.annotate(part(batch, *left))
    assert [texts(claims) for claims in late] == [[f"caption: {words[index]}"] for index in left]
    assert all(
        texts(claims) == [f"caption: {word}"]
        for claims, word in zip(results, words, strict=True)
        if isinstance(claims, list)
    )
    assert again.usage.calls == len(service.calls) and again.usage.tokens == service.tokens
    assert service.complaints == []


def test_a_budget_in_calls_is_kept_to_the_call_and_a_raised_one_goes_on():
    batch, words = make_pictures(60)
    with server.serve_chat(
        faulty(0.3, seed=1, faults=(server.HALF, server.EMPTY, server.error(500), server.CLOSED))
    ) as service:
        annotator = make_captioner(service, concurrency=8, budget_calls=23, repeat=5, retries=6)
        first = annotator.annotate(batch)
        assert len(service.calls) == annotator.usage.calls <= 23
        assert len(service.calls) == 23, "calls of one each: the budget is used up"
        left = [index for index, claims in enumerate(first) if not isinstance(claims, list)]
        assert 30 < len(left) < 60
        for index in left:
            assert (
                isinstance(first[index], UnavailableError)
                and "budget in calls" in str(first[index])
                and "annotators.gpt.service.budget_calls" in str(first[index])
            )
        assert annotator.annotate(part(batch, *left)) and len(service.calls) == 23, "nothing is asked once it is spent"
        richer = make_captioner(service, concurrency=8, budget_calls=1000, repeat=5, retries=6)
        assert richer.version == annotator.version, "claims of before count"
        richer.usage = annotator.usage
        rest = richer.annotate(part(batch, *left))
    assert [texts(claims) for claims in rest] == [[f"caption: {words[index]}"] for index in left]
    assert richer.usage == Usage(len(service.calls), service.tokens, 0.0)


def test_an_image_is_not_begun_where_the_budget_is_too_small_for_all_that_is_asked_about_it():
    batch, _ = make_pictures(12, claims=True)
    with server.serve_chat() as service:
        annotator = make_captioner(service, concurrency=8, budget_calls=9, tasks=(*CAPTIONS, "<DENSE_REGION_CAPTION>"))
        results = annotator.annotate(batch)
        assert [isinstance(claims, list) for claims in results].count(True) == 4 and len(service.calls) == 8


@pytest.mark.parametrize(
    "budget", [{"budget_tokens": 4000}, {"budget_cost": 0.012, "price_prompt": 2.0, "price_completion": 10.0}]
)
def test_budgets_in_tokens_and_cost_are_kept(budget: dict[str, float]):
    batch, _ = make_pictures(50)
    with server.serve_chat(faulty(0.3, seed=2, faults=(*server.UNUSABLE, server.error(500)))) as service:
        annotator = make_captioner(service, concurrency=8, max_tokens=100, image_tokens=200, **budget)
        results = annotator.annotate(batch)
    prices = budget.get("price_prompt", 0), budget.get("price_completion", 0)
    assert annotator.usage.tokens == service.tokens and annotator.usage.calls == len(service.calls)
    limit = {"tokens": budget.get("budget_tokens"), "cost": budget.get("budget_cost")}
    for figure, most in limit.items():
        if most is not None:
            assert 0.5 * most < getattr(annotator.usage, figure) <= most
    if prices[0]:
        assert 2.0 * service.tokens / 1e6 < annotator.usage.cost < 10.0 * service.tokens / 1e6
    assert any(isinstance(claims, list) for claims in results)
    assert any(isinstance(claims, UnavailableError) and ".budget_" in str(claims) for claims in results)


@pytest.mark.parametrize("fault", [server.CLOSED, server.HALF])
def test_what_a_call_may_have_cost_that_broke_off_is_held_against_the_budget(fault: Fault):
    batch, _ = make_pictures(40)
    answered = []
    for broken in (None, fault):
        with server.serve_chat(
            times_asked(lambda index, time_, broken=broken: broken if (index, time_) == (0, 0) else None)
        ) as service:  # type: ignore[misc]
            annotator = make_captioner(service, concurrency=1, max_tokens=100, image_tokens=200, budget_tokens=3000)
            answered.append(sum(isinstance(claims, list) for claims in annotator.annotate(batch)))
            assert annotator.usage == Usage(len(service.calls), service.tokens, 0.0), (
                "reported is what the service told"
            )
    assert 5 < answered[1] < answered[0] < 40, (
        "and the broken call, which told nothing, is taken for the most that it could cost"
    )


def test_what_images_cost_is_learnt_from_the_first_answer():
    batch, _ = make_pictures(40)
    expensive = Fault(change=lambda body: {**body, "usage": {"prompt_tokens": 2000, "completion_tokens": 20}})
    with server.serve_chat(lambda received: expensive) as service:
        annotator = make_captioner(service, concurrency=8, image_tokens=10, max_tokens=100, budget_tokens=10_000)
        annotator.annotate(batch)
    assert 7_000 < annotator.usage.tokens == service.tokens <= 10_000


def test_no_more_calls_at_once_than_allowed_and_claims_in_the_order_of_images():
    batch, words = make_pictures(24)

    def late(received: ReceivedCall) -> None:
        time.sleep(random.Random(width_of(received)).uniform(0.01, 0.15))

    with server.serve_chat(late) as service:
        results = make_captioner(service, concurrency=3).annotate(batch)
        assert service.most == 3
        assert [texts(claims) for claims in results] == [[f"caption: {word}"] for word in words]
        service.most = 0
        assert make_captioner(service, concurrency=1).annotate(batch) == results and service.most == 1
        service.most, shared, both = 0, make_captioner(service, concurrency=3), []
        threads = [threading.Thread(target=lambda: both.append(shared.annotate(batch))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert both == [results, results] and service.most == 3, "of all who use it together"


def test_calls_are_spaced_at_the_rate():
    batch, _ = make_pictures(12)
    with server.serve_chat(faulty(0.3, seed=3, faults=(server.error(500), server.EMPTY))) as service:
        annotator = make_captioner(service, concurrency=8, rate=600)
        start = time.monotonic()
        annotator.annotate(batch)
        arrived = sorted(call.arrived for call in service.calls)
    assert len(arrived) >= 12
    assert all(at >= start + 0.1 * index for index, at in enumerate(arrived)), (
        "none comes before its turn; how late is the machine's affair"
    )


@pytest.mark.parametrize(("header", "seconds"), [({"retry_after": "1"}, 1.0), ({"retry_after_ms": "1200"}, 1.2)])
def test_a_service_that_asks_to_wait_is_left_alone_for_so_long(header: dict[str, str], seconds: float):
    batch, words = make_pictures(3)
    with server.serve_chat(
        times_asked(lambda index, time_: server.error(429, "slow down", **header) if (index, time_) == (1, 0) else None)
    ) as service:
        results = make_captioner(service, concurrency=1).annotate(batch)
        refused_, after = (call.arrived for call in service.calls[1:3])
    assert [texts(claims) for claims in results] == [[f"caption: {word}"] for word in words]
    assert after >= refused_ + seconds


def test_retry_after_is_a_number_or_a_date():
    assert parse_retry_after("7") == 7 and parse_retry_after("0.5") == 0.5 and parse_retry_after("-3") == 0
    assert (
        parse_retry_after(None)
        is parse_retry_after("")
        is parse_retry_after("soon")
        is parse_retry_after("nan")
        is None
    )
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    from email.utils import formatdate

    assert 50 < (parse_retry_after(formatdate(time.time() + 60, usegmt=True)) or 0) <= 61


@pytest.mark.parametrize(
    ("fault", "calls", "text"),
    [
        (server.error(429, "come back tomorrow", retry_after="86400"), 1, "asks for 86400 seconds"),
        (
            server.error(429, "You exceeded your current quota", code="insufficient_quota"),
            1,
            "exceeded your current quota",
        ),
        (server.error(500, "trouble"), 2, "answers 500 (trouble) (2 times)"),
        (server.error(503), 2, "answers 503"),
        (server.error(429), 2, "answers 429"),
        (server.CLOSED, 2, "broke off"),
        (server.HANG, 2, "did not answer within 1.5 seconds"),
        (server.HTML, 2, "a web page, or cut off"),
        (server.HALF, 2, "a web page, or cut off"),
        (server.NO_CHOICES, 2, "a web page, or cut off"),
        (server.FOREIGN_JSON, 2, "a web page, or cut off"),
    ],
)
def test_what_a_service_cannot_do_now_is_left_for_later_for_that_image_alone(fault: Fault, calls: int, text: str):
    batch, words = make_pictures(4)
    with server.serve_chat(times_asked(lambda index, time_: fault if index == 1 else None)) as service:
        annotator = make_captioner(service, retries=1, repeat=1, timeout=1.5)
        results = annotator.annotate(batch)
    assert isinstance(results[1], UnavailableError) and text in str(results[1]) and str(results[1]).startswith("gpt: ")
    assert [texts(results[i]) for i in (0, 2, 3)] == [[f"caption: {words[i]}"] for i in (0, 2, 3)]
    assert len(service.calls) == 3 + calls == annotator.usage.calls and annotator.usage.tokens == service.tokens


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (server.EMPTY, "empty"),
        (server.model_answer(None), "empty"),
        (server.model_answer("  \n"), "empty"),
        (server.CUT, "max_tokens"),
        (server.REFUSAL, "refuses (I will not.)"),
        (server.APOLOGY, "refuses"),
        (server.NOT_JSON, "not the JSON object"),
        (server.OTHER_KEYS, "without the text 'caption'; found caption of the image"),
        (server.model_answer('{"caption": 5}'), "without the text 'caption'"),
        (server.model_answer('{"caption": ""}'), "empty"),
        (server.model_answer('["a cat"]'), "not the JSON object"),
        (server.model_answer('{"caption": "I cannot help with that."}'), "refuses"),
        (server.model_answer("x", "content_filter"), "refuses"),
        (server.error(400, "no", code="content_filter"), "filter (no)"),
    ],
)
def test_an_unusable_answer_is_asked_for_again_and_then_fails_that_image_alone(fault: Fault, text: str):
    batch, words = make_pictures(4)
    with server.serve_chat(
        times_asked(lambda index, time_: fault if index == 2 or (index, time_) == (1, 0) else None)
    ) as service:
        annotator = make_captioner(service, repeat=1)
        results = annotator.annotate(batch)
    assert type(results[2]) is FlorenceError and text in str(results[2]) and "2 unusable answers" in str(results[2])
    assert [texts(results[i]) for i in (0, 1, 3)] == [[f"caption: {words[i]}"] for i in (0, 1, 3)]
    assert sorted(received.body["seed"] for received in service.received) == [0, 0, 0, 0, 1, 1], (
        "asked again with another seed"
    )
    assert annotator.usage == Usage(6, service.tokens, 0.0)


def test_answers_in_fences_after_thoughts_and_in_quotes_are_read():
    fence = server.model_answer('<think>what is\n it?</think>\n```json\n{"caption": "\\"a  quiet\\n harbour\\""}\n```')
    batch, _ = make_pictures(1)
    with server.serve_chat(lambda received: fence) as service:
        assert texts(make_captioner(service).annotate(batch)[0]) == ["a quiet harbour"]
    assert (
        not is_refusal("a man is sorry for himself")
        and not is_refusal("Sorry sight: an old boat")
        and is_refusal("Sorry, I can’t see the image.")
        and is_refusal("As an AI language model, I")
    )
    assert is_refusal("I’m unable to view images") and not is_refusal("I-beam on a crane")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"model": "no-such"}, "The model `no-such` does not exist"),
        ({"fault": server.error(401, f"Incorrect API key provided: {KEY}")}, "OPENAI_API_KEY"),
        ({"fault": server.error(403, "not allowed")}, "OPENAI_API_KEY"),
        (
            {"fault": server.error(400, "temperature does not support 0", param="temperature")},
            "annotators.gpt.service.omit",
        ),
        (
            {"fault": server.error(400, "use max_completion_tokens", param="max_tokens")},
            "annotators.gpt.service.limit",
        ),
        ({"fault": Fault(307, (("Location", "http://127.0.0.1:9/"),), raw=b"")}, "annotators.gpt.service.url"),
    ],
)
def test_wrong_settings_stop_the_annotator_at_the_first_call(options: dict[str, Any], text: str):
    batch, _ = make_pictures(20)
    with server.serve_chat(lambda received: options.get("fault")) as service:
        annotator = make_captioner(
            service, concurrency=8, **{key: value for key, value in options.items() if key != "fault"}
        )
        for _ in range(2):
            with pytest.raises(SettingsError) as caught:
                annotator.annotate(batch)
            assert text in str(caught.value) and "annotators.gpt" in str(caught.value) and KEY not in str(caught.value)
        assert len(service.calls) == 1 and annotator.usage == Usage(1)
        assert annotator.annotate(part(batch)) == []


def test_a_key_that_is_withdrawn_on_the_way_leaves_what_was_answered():
    batch, words = make_pictures(40)
    with server.serve_chat(
        lambda received: server.error(401, f"{KEY} is no more") if received.number >= 10 else None
    ) as service:
        annotator = make_captioner(service, concurrency=4)
        results = annotator.annotate(batch)
        assert 10 <= sum(isinstance(claims, list) for claims in results) <= 10 + 4
        assert all(
            isinstance(claims, UnavailableError) and KEY not in str(claims)
            for claims in results
            if not isinstance(claims, list)
        )
        with pytest.raises(SettingsError, match="not accepted"):
            annotator.annotate(batch)
    assert len(service.calls) <= 14


def test_a_service_that_is_not_there_costs_nothing_and_is_not_tried_for_every_image():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        annotator = make_captioner(url, retries=1, concurrency=8)
        results = annotator.annotate(make_pictures(30)[0])
    assert all(isinstance(claims, UnavailableError) for claims in results) and annotator.usage == Usage()
    assert [f"{url}/ cannot be reached" in str(claims) for claims in results] == [True] * 30
    assert ["not asked, as" in str(claims) for claims in results] == [False] * MAX_FAILURES + [True] * (
        30 - MAX_FAILURES
    )


def test_a_service_that_fails_on_the_way_is_tried_once_a_batch_until_it_is_back():
    batch, _ = make_pictures(30)
    broken = threading.Event()
    with server.serve_chat(lambda received: server.error(500) if broken.is_set() else None) as service:
        annotator = make_captioner(service, retries=0, concurrency=1)
        assert all(isinstance(claims, list) for claims in annotator.annotate(batch))
        broken.set()
        annotator.annotate(batch)
        assert len(service.calls) == 30 + MAX_FAILURES
        annotator.annotate(batch)
        assert len(service.calls) == 30 + MAX_FAILURES + 1
        broken.clear()
        assert all(isinstance(claims, list) for claims in annotator.annotate(batch))


def test_a_request_that_is_refused_is_the_images_fault_only_where_others_are_answered():
    batch, _ = make_pictures(8)
    with server.serve_chat(
        times_asked(lambda index, time_: server.error(400, "too long") if index == 4 else None)
    ) as service:
        results = make_captioner(service).annotate(batch)
        assert (
            type(results[4]) is FlorenceError
            and "answers 400 (too long)" in str(results[4])
            and len(service.calls) == 8
        )
    with server.serve_chat(lambda received: server.error(400, "too long")) as service:
        results = make_captioner(service).annotate(batch)
        assert all(isinstance(claims, UnavailableError) for claims in results) and len(service.calls) == MAX_FAILURES


def test_parts_of_a_request_can_be_left_out_and_the_limit_named_otherwise():
    batch, _ = make_pictures(2)
    with server.serve_chat() as service:
        make_captioner(
            service, omit=("temperature", "seed", "response_format"), limit="max_completion_tokens", max_tokens=77
        ).annotate(batch)
    assert {frozenset(received.body) for received in service.received} == {
        frozenset({"model", "messages", "max_completion_tokens"})
    } and service.received[0].body["max_completion_tokens"] == 77


def test_azures_paths_and_key():
    batch, words = make_pictures(2)
    with server.serve_chat() as service:
        url = service.url.removesuffix("/v1")
        results = make_captioner(url, api="azure", api_version="2024-10-21").annotate(batch)
        assert [texts(claims) for claims in results] == [
            [f"caption: {word}"] for word in words
        ] and service.complaints == []
        with pytest.raises(SettingsError, match="OPENAI_API_VERSION"):
            make_captioner(url, api="azure")


def test_keys_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch):
    batch, _ = make_pictures(1)
    with server.serve_chat(key="keyless") as service:
        assert isinstance(make_captioner(service, keyless=True).annotate(batch)[0], list), (
            "what the environment has is not shown to a server that wants none"
        )
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(SettingsError, match="set OPENAI_API_KEY in the environment, or annotators.gpt.service.keyless"):
        make_captioner("http://127.0.0.1:9/v1")
    for options in (
        {"api_key": KEY},
        {"service": {"model": MODEL, "api_key": KEY}},
        {"service": {"model": MODEL, "url": f"https://me:{KEY}@host/v1"}},
        {"service": {"model": MODEL, "url": f"https://host/v1?key={KEY}"}},
    ):
        with pytest.raises(SettingsError, match="environment, as OPENAI_API_KEY") as caught:
            ANNOTATORS.get("service_captioner")(name="gpt", **options)
        assert KEY not in str(caught.value) and "annotators.gpt." in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "http://",
        "ftp://host",
        "https://host:99999/v1",
        "http://host:port",
        "http://[::1/v1",
        "http://two words/v1",
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_loaded(url: str):
    for use, options, where in (
        ("service_captioner", {"service": {"model": MODEL, "url": url}}, "service.url"),
        ("azure_reader", {"endpoint": url}, "endpoint"),
    ):
        with pytest.raises(SettingsError, match=f"annotators.gpt.{where}: ") as caught:
            ANNOTATORS.get(use)(name="gpt", **options)
        assert url in str(caught.value)
    assert (
        ANNOTATORS.get("azure_reader")(name="gpt", endpoint="http://[::1]:8000").options.endpoint == "http://[::1]:8000"
    )


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    annotator = ANNOTATORS.get("service_captioner")(name="gpt", service={"model": MODEL})
    with pytest.raises(SettingsError, match=re.escape("pip install 'florence[services]' -c constraints.txt")):
        annotator.load()


def test_the_version_follows_from_what_decides_answers_alone():
    def version(**options: Any) -> str:
        own = {key: options.pop(key) for key in list(options) if key in ChatSettings.model_fields}
        return ANNOTATORS.get("service_captioner")(name="gpt", service={"model": "a", **own}, **options).version

    deciding = {"model": "b", "revision": "2", "side": 512, "seed": 1, "max_tokens": 50, "omit": ("seed",)}
    for key, value in {
        **deciding,
        "rules": "Look.",
        "brief": "b",
        "detailed": "d",
        "more_detailed": "m",
        "region": "r",
        "margin": 0.3,
        "most": 2,
    }.items():
        assert version(**{key: value}) != version(), key
    others = {
        "url": "http://127.0.0.1:1/v1",
        "api": "azure",
        "api_version": "1",
        "keyless": True,
        "limit": "max_completion_tokens",
        "image_tokens": 9,
        "budget_tokens": 9,
        "price_prompt": 9,
        "price_completion": 9,
        "timeout": 9,
        "retries": 9,
        "max_wait": 9,
        "repeat": 9,
        "rate": 9,
        "concurrency": 9,
        "budget_calls": 9,
        "budget_cost": 9,
    }
    assert {*deciding, *others} == set(ChatSettings.model_fields)
    assert {version(**{key: value}) for key, value in others.items()} == {version()}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 900), (4000, 2), (40, 40), (700, 1100), (33, 32)])
def test_pictures_are_sent_as_jpegs_of_allowed_sizes(height: int, width: int):
    pixels = np.full((height, width, 3), (200, 30, 10), np.uint8)
    head, encoded = data_url(pixels, 512).split(",")
    with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
        assert head == "data:image/jpeg;base64" and image.format == "JPEG"
        assert 32 <= min(image.size) and max(image.size) <= 512
        if max(height, width) <= 512 and min(height, width) >= 32:
            assert image.size == (width, height)
        assert np.abs(np.asarray(image.convert("RGB"), int) - (200, 30, 10)).max() < 12, "colours are where they belong"


def test_only_the_tasks_asked_for_are_asked_about():
    batch, _ = make_pictures(2, claims=True)
    with server.serve_chat() as service:
        results = make_captioner(service, tasks=("<DENSE_REGION_CAPTION>",)).annotate(batch)
        assert [[claim.task for claim in claims] for claims in results] == [["<DENSE_REGION_CAPTION>"]] * 2 and len(
            service.calls
        ) == 2
        assert [
            [claim.task for claim in claims] for claims in make_captioner(service, tasks=("<CAPTION>",)).annotate(batch)
        ] == [["<CAPTION>"]] * 2 and len(service.calls) == 4
        bare, _ = make_pictures(3)
        assert (
            make_captioner(service, tasks=("<DENSE_REGION_CAPTION>",)).annotate(bare) == [[], [], []]
            and len(service.calls) == 4
        )
    with pytest.raises(SettingsError, match="<OD> is not annotated here"):
        make_captioner("http://127.0.0.1:9/v1", tasks=("<OD>",))


def test_ctrl_c_ends_it_while_the_service_is_silent():
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has inherited that it is ignored
sys.path.insert(0, "tests")
from test_services_chat import make_captioner, make_pictures
annotator = make_captioner(sys.argv[1], timeout=3000, concurrency=4)
print("asking", flush=True)
try:
    annotator.annotate(make_pictures(12)[0])
except KeyboardInterrupt:
    print("interrupted", annotator.usage.calls, flush=True)
    raise
"""
    with server.serve_chat(lambda received: server.HANG if received.number else None) as service:
        run = subprocess.Popen(
            [sys.executable, "-c", code, service.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONPATH": "."},
        )
        while len(service.calls) < 5 and run.poll() is None:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=120)
    assert out.splitlines() == ["asking", "interrupted 5"], err
    assert "KeyboardInterrupt" in err and run.returncode in (-signal.SIGINT, 1, 130) and len(service.calls) == 5


def test_the_document_has_every_setting_of_a_service():
    text = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("## Services")[2].partition("\n## ")[0], re.M)
    assert [row for row in rows if row not in ("use", *ANNOTATORS.names())] == list(ChatSettings.model_fields)
    for name, field in ChatSettings.model_fields.items():
        assert f"| {field.description} |" in text, name


def test_a_wrong_setting_of_the_service_is_named_with_those_that_there_are():
    with pytest.raises(SettingsError) as caught:
        ANNOTATORS.get("service_captioner")(
            name="gpt", service={"model": MODEL, "modle": 1, "retries": -1}, margin="wide", sid=3
        )
    lines = str(caught.value).splitlines()
    assert {line.split(":")[0] for line in lines} == {
        "annotators.gpt.service.modle",
        "annotators.gpt.service.retries",
        "annotators.gpt.margin",
        "annotators.gpt.sid",
    }
    allowed = {
        line.split(":")[0]: line.rpartition("allowed: ")[2].split(", ") for line in lines if "no such setting" in line
    }
    assert (
        allowed["annotators.gpt.service.modle"] == sorted(ChatSettings.model_fields)
        and "margin" in allowed["annotators.gpt.sid"]
    )
