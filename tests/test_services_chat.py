"""A chat endpoint asked over a real connection: what it is sent, in which order, and with which settings."""

from __future__ import annotations

import base64
import io
import random
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import chat_server as server
import numpy as np
import pytest
from chat_captioners import (
    CAPTIONS,
    fail_at_random,
    image_index,
    list_texts,
    make_captioner,
    make_pictures,
    set_keys,
)
from chat_server import KEY, MODEL, ReceivedCall
from PIL import Image

from florence.annotators import ANNOTATORS
from florence.errors import SettingsError
from florence.records import Claim, Region
from florence.services.chat import ChatSettings, data_url
from florence.services.usage import Usage


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    set_keys(monkeypatch)


def test_every_image_is_asked_about_once_and_every_object_in_its_crop():
    batch, words = make_pictures(5, claims=True)
    with server.serve_chat() as service:
        annotator = make_captioner(service, tasks=(*CAPTIONS, "<DENSE_REGION_CAPTION>"), margin=0)
        results = annotator.annotate(batch)
    assert service.complaints == []
    for claims, word in zip(results, words, strict=True):
        colour = word.split()[1]
        assert [claim.task for claim in claims] == [*CAPTIONS, "<DENSE_REGION_CAPTION>"]
        assert list_texts(claims)[:3] == [f"{task.strip('<>').lower()}: {word}" for task in CAPTIONS]
        region = f"a {colour} picture of 32 by 64"
        assert claims[3] == Claim(
            "<DENSE_REGION_CAPTION>", region, (Region(region, box=(4.0, 5.0, 24.0, 45.0), score=0.9),), 0.9
        ), "20 by 40, enlarged for patches of 28 pixels"
    assert annotator.usage == Usage(10, service.tokens, 0.0) and len(service.calls) == 10
    assert {(a.body["temperature"], a.body["seed"]) for a in service.received} == {(0, 0)}


def test_no_more_calls_at_once_than_allowed_and_claims_in_the_order_of_images():
    batch, words = make_pictures(24)

    def late(received: ReceivedCall) -> None:
        time.sleep(random.Random(image_index(received)).uniform(0.01, 0.15))

    with server.serve_chat(late) as service:
        results = make_captioner(service, concurrency=3).annotate(batch)
        assert service.most == 3
        assert [list_texts(claims) for claims in results] == [[f"caption: {word}"] for word in words]
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
    with server.serve_chat(fail_at_random(0.3, seed=3, faults=(server.error(500), server.EMPTY))) as service:
        annotator = make_captioner(service, concurrency=8, rate=600)
        start = time.monotonic()
        annotator.annotate(batch)
        arrived = sorted(call.arrived for call in service.calls)
    assert len(arrived) >= 12
    assert all(at >= start + 0.1 * index for index, at in enumerate(arrived)), (
        "none comes before its turn; how late is the machine's affair"
    )


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
        assert [list_texts(claims) for claims in results] == [
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
def test_an_invalid_address_is_refused_before_anything_is_loaded(url: str):
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


def test_the_document_has_every_setting_of_a_service():
    text = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("## Services")[2].partition("\n## ")[0], re.M)
    assert [row for row in rows if row not in ("use", *ANNOTATORS.names())] == list(ChatSettings.model_fields)
    for name, field in ChatSettings.model_fields.items():
        assert f"| {field.description} |" in text, name


def test_a_wrong_setting_of_the_service_is_named_with_the_allowed_ones():
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
