"""Faults of a chat endpoint: what is asked again, what is left for later, what fails an image."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import chat_server as server
import pytest
from chat_captioners import (
    count_questions,
    fail_at_random,
    list_texts,
    make_captioner,
    make_pictures,
    select_images,
    set_keys,
)
from chat_server import KEY, Fault

from florence.errors import FlorenceError, SettingsError, UnavailableError
from florence.services.answers import is_refusal
from florence.services.calls import MAX_FAILURES, parse_retry_after
from florence.services.usage import Usage


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    set_keys(monkeypatch)


def test_with_a_third_of_answers_faulty_nothing_is_lost_and_the_bill_is_right():
    batch, words = make_pictures(60)
    with server.serve_chat(fail_at_random(0.3)) as service:
        annotator = make_captioner(service, concurrency=8, retries=1, timeout=20)
        results = annotator.annotate(batch)
        left = [index for index, claims in enumerate(results) if not isinstance(claims, list)]
        assert left and all(isinstance(results[index], UnavailableError) for index in left), (
            "some are left for later, and none failed for good"
        )
        again = make_captioner(service, concurrency=8, retries=8, timeout=20)
        again.usage = annotator.usage
        late = again.annotate(select_images(batch, *left))
    assert [list_texts(claims) for claims in late] == [[f"caption: {words[index]}"] for index in left]
    assert all(
        list_texts(claims) == [f"caption: {word}"]
        for claims, word in zip(results, words, strict=True)
        if isinstance(claims, list)
    )
    assert again.usage.calls == len(service.calls) and again.usage.tokens == service.tokens
    assert service.complaints == []


@pytest.mark.parametrize(("header", "seconds"), [({"retry_after": "1"}, 1.0), ({"retry_after_ms": "1200"}, 1.2)])
def test_a_service_that_asks_to_wait_is_left_alone_for_so_long(header: dict[str, str], seconds: float):
    batch, words = make_pictures(3)
    with server.serve_chat(
        count_questions(
            lambda index, time_: server.error(429, "slow down", **header) if (index, time_) == (1, 0) else None
        )
    ) as service:
        results = make_captioner(service, concurrency=1).annotate(batch)
        refused_, after = (call.arrived for call in service.calls[1:3])
    assert [list_texts(claims) for claims in results] == [[f"caption: {word}"] for word in words]
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
    with server.serve_chat(count_questions(lambda index, time_: fault if index == 1 else None)) as service:
        annotator = make_captioner(service, retries=1, repeat=1, timeout=1.5)
        results = annotator.annotate(batch)
    assert isinstance(results[1], UnavailableError) and text in str(results[1]) and str(results[1]).startswith("gpt: ")
    assert [list_texts(results[i]) for i in (0, 2, 3)] == [[f"caption: {words[i]}"] for i in (0, 2, 3)]
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
        count_questions(lambda index, time_: fault if index == 2 or (index, time_) == (1, 0) else None)
    ) as service:
        annotator = make_captioner(service, repeat=1)
        results = annotator.annotate(batch)
    assert type(results[2]) is FlorenceError and text in str(results[2]) and "2 unusable answers" in str(results[2])
    assert [list_texts(results[i]) for i in (0, 1, 3)] == [[f"caption: {words[i]}"] for i in (0, 1, 3)]
    assert sorted(received.body["seed"] for received in service.received) == [0, 0, 0, 0, 1, 1], (
        "asked again with another seed"
    )
    assert annotator.usage == Usage(6, service.tokens, 0.0)


def test_answers_in_fences_after_thoughts_and_in_quotes_are_read():
    fence = server.model_answer('<think>what is\n it?</think>\n```json\n{"caption": "\\"a  quiet\\n harbour\\""}\n```')
    batch, _ = make_pictures(1)
    with server.serve_chat(lambda received: fence) as service:
        assert list_texts(make_captioner(service).annotate(batch)[0]) == ["a quiet harbour"]
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
        assert annotator.annotate(select_images(batch)) == []


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


def test_a_refused_request_fails_its_image_only_if_others_are_answered():
    batch, _ = make_pictures(8)
    with server.serve_chat(
        count_questions(lambda index, time_: server.error(400, "too long") if index == 4 else None)
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


def test_ctrl_c_ends_it_while_the_service_is_silent():
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has inherited that it is ignored
sys.path.insert(0, "tests")
from chat_captioners import make_captioner, make_pictures
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
