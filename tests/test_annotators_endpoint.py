"""Annotators behind HTTP, against small servers that keep the protocol, break it or do not know it."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from annotator_programs import (
    CountedCalls,
    batch_of,
    format_lines,
    make_endpoint,
    reply,
    request_number,
    serve_lines,
    whole_picture,
)
from PIL import Image

from florence.annotators import ImageBatch
from florence.errors import FlorenceError, UnavailableError
from florence.records import Claim, Region, annotate

PICTURE = [Claim("<OD>", "picture", (Region("picture", box=(0, 0, 12, 8), score=0.75),), 0.75)]


@pytest.fixture(autouse=True)
def no_credentials_and_no_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    waits: list[float] = []
    monkeypatch.setattr("florence.annotators.endpoint.time.sleep", waits.append)
    yield waits


def good(handler, requests, call=0) -> None:
    reply(handler, format_lines(*map(whole_picture, requests)))


# ---------------------------------------------------------------- good services


def test_pictures_arrive_without_loss_with_what_is_known_of_them():
    received: list[dict] = []

    def respond(handler, requests):
        received.extend(requests)
        assert handler.headers["Content-Type"] == "application/x-ndjson" and "Authorization" not in handler.headers
        good(handler, requests)

    rng = np.random.default_rng(0)
    records = batch_of(2, name="日本/süß\n.png").records
    pixels = tuple(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8) for _ in records)
    rows = annotate(records[0].image_id, PICTURE, "someone", "1")
    with serve_lines(respond) as url:
        theirs = make_endpoint(url, reads_claims=True)
        assert theirs.needs == {"pixels", "claims"}
        assert theirs.annotate(ImageBatch(records, pixels, (rows, ()))) == [PICTURE] * 2
    for request, record, picture in zip(received, records, pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(request["image"])))), picture)
        assert (request["image_id"], request["width"], request["height"], request["name"]) == (
            record.image_id,
            12,
            8,
            record.name,
        ) and "path" not in request
    assert [c["annotator"] for c in received[0]["claims"]] == ["someone"] and received[1]["claims"] == []


def test_a_batch_that_is_large_comes_in_several_calls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("florence.annotators.endpoint.BODY_SIZE", 1200)
    counted = CountedCalls(good)
    with serve_lines(counted) as url:
        assert make_endpoint(url).annotate(batch_of(10)) == [PICTURE] * 10
        assert make_endpoint(url).annotate(batch_of(0)) == []
    assert 2 <= len(counted.calls) < 10 and [n for call in counted.calls for n in call] == list(range(10))


def test_any_order_a_last_line_without_end_blank_lines_and_two_answers():
    def respond(handler, requests):
        answers = [whole_picture(request) for request in reversed(requests)]
        twice = {**answers[0], "annotations": []}
        reply(handler, b"\n" + format_lines(answers[0], b"\r\n", twice, *answers[1:]).rstrip(b"\n"))

    with serve_lines(respond) as url:
        assert make_endpoint(url).annotate(batch_of(3)) == [PICTURE] * 3


def test_answers_that_come_one_by_one_are_read(monkeypatch: pytest.MonkeyPatch):
    def respond(handler, requests):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for request in requests:
            data = format_lines(whole_picture(request))
            for piece in (data[:30], data[30:]):
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                handler.wfile.flush()
                threading.Event().wait(0.05)
        handler.wfile.write(b"0\r\n\r\n")

    with serve_lines(respond) as url:
        assert make_endpoint(url).annotate(batch_of(3)) == [PICTURE] * 3


def test_errors_in_answers_cost_their_images():
    def respond(handler, requests):
        about = {
            0: {"error": "too dark"},
            1: {"error": "busy", "retry": True},
            2: {"annotations": [{"label": "x", "box": [0, 0, 1]}]},
        }
        reply(
            handler,
            format_lines(
                *(
                    {"image_id": request["image_id"], **about[request_number(request)]}
                    if request_number(request) in about
                    else whole_picture(request)
                    for request in requests
                )
            ),
        )

    with serve_lines(respond) as url:
        found = make_endpoint(url).annotate(batch_of(4))
    assert [type(one) for one in found] == [FlorenceError, UnavailableError, FlorenceError, list]
    assert str(found[0]) == "too dark" and str(found[1]) == "busy" and "line 3, annotations.0.box" in str(found[2])


# ---------------------------------------------------------------- bad ones


def test_a_service_that_is_not_there_is_unavailable_after_all_tries(no_credentials_and_no_waiting: list[float]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        with pytest.raises(
            UnavailableError, match=r"http://127\.0\.0\.1:\d+/x cannot be reached \(.*refused.*\) \(4 times\)"
        ):
            make_endpoint(url, retries=3).annotate(batch_of(3))
    assert no_credentials_and_no_waiting == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_an_overloaded_service_is_asked_again_at_the_time_it_gives(
    status: int, no_credentials_and_no_waiting: list[float]
):
    def respond(handler, requests, call):
        if call == 1:
            reply(handler, b"later", status, Retry_After="7")
        elif call == 2:
            reply(handler, b"later", status, Retry_After="86400")
        elif call == 3:
            reply(handler, b"later", status)
        else:
            good(handler, requests)

    counted = CountedCalls(respond)
    with serve_lines(counted) as url:
        assert make_endpoint(url, retries=3).annotate(batch_of(3)) == [PICTURE] * 3
    assert no_credentials_and_no_waiting == [7, 60, 2.0] and counted.calls == [[0, 1, 2]] * 4


def test_what_was_answered_before_it_became_unavailable_is_kept_and_not_asked_again():
    def respond(handler, requests, call):
        if call == 1:
            reply(handler, format_lines(*map(whole_picture, requests[:2])) + b'{"image_id": "00')
        else:
            reply(handler, b"down", 503)

    counted = CountedCalls(respond)
    with serve_lines(counted) as url:
        found = make_endpoint(url, retries=1).annotate(batch_of(5))
    assert found[:2] == [PICTURE] * 2
    assert all(type(one) is UnavailableError and "503" in str(one) and "down" in str(one) for one in found[2:])
    assert counted.calls == [[0, 1, 2, 3, 4], [2], [2]], "and when it is down nothing more is asked"


BREAKS = {
    "500": (lambda h, request: reply(h, b"KeyError: 'dog'", 500), "answers 500 Internal Server Error: KeyError: 'dog'"),
    "400": (lambda h, request: reply(h, b"bad", 400), "answers 400 Bad Request: bad"),
    "413": (lambda h, request: reply(h, b"", 413), "answers 413"),
    "a page": (
        lambda h, request: reply(h, b"<html>\n<body>Welcome</body>\n"),
        "line 1: a JSON object is expected .*found '<html>'",
    ),
    "nothing": (lambda h, request: reply(h, b""), "left 1 of 1 images unanswered"),
    "of another": (
        lambda h, request: reply(h, format_lines({"image_id": "f" * 64, "annotations": []})),
        "image_id: one of the 1",
    ),
    "breaks off": (
        lambda h, request: (
            h.send_response(200),
            h.send_header("Content-Length", "999"),
            h.end_headers(),
            h.wfile.write(b"{"),
            setattr(h, "close_connection", True),
        ),
        "broke off in the middle of a line",
    ),
    "breaks off early": (lambda h, request: h.connection.shutdown(socket.SHUT_RDWR), "broke off"),
    "breaks off in a chunk": (
        lambda h, request: (
            h.send_response(200),
            h.send_header("Transfer-Encoding", "chunked"),
            h.end_headers(),
            h.wfile.write(b"ff\r\n{"),
            setattr(h, "close_connection", True),
        ),
        "broke off",
    ),
    "no http": (
        lambda h, request: (h.wfile.write(b"what?\r\n\r\n"), setattr(h, "close_connection", True)),
        "broke off",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_the_image_that_breaks_it_is_found_and_the_others_lose_nothing(what: str):
    breaks, reason = BREAKS[what]

    def respond(handler, requests, call):
        if any(request_number(request) == 2 for request in requests):
            breaks(handler, requests)
        else:
            good(handler, requests)

    counted = CountedCalls(respond)
    with serve_lines(counted) as url:
        found = make_endpoint(url, retries=1).annotate(batch_of(5))
    assert [i for i, one in enumerate(found) if one != PICTURE] == [2]
    assert type(found[2]) is FlorenceError
    with pytest.raises(FlorenceError, match=f"(?s)asked about this image alone: http.*{reason}"):
        raise found[2]
    assert counted.calls == [[0, 1, 2, 3, 4], [0], [1], [2], [2], [3], [4]]


def test_a_service_that_fails_now_and_then_loses_nothing():
    def respond(handler, requests, call):
        how = rng.random()
        if how < 0.1:
            reply(handler, b"oops", 500)
        elif how < 0.2:
            reply(handler, b"later", 503)
        elif how < 0.3:
            reply(handler, format_lines(*map(whole_picture, requests))[:-20])
        else:
            good(handler, requests)

    rng = np.random.default_rng(0)
    with serve_lines(CountedCalls(respond)) as url:
        theirs = make_endpoint(url, retries=9)
        for first in range(0, 200, 8):
            assert theirs.annotate(batch_of(8, first=first)) == [PICTURE] * 8


def test_a_service_that_hangs_up_on_large_calls_is_sent_small_ones():
    """The service behaves like a proxy with a limit: it closes the connection before it has read all."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    held.listen()
    calls: list[int] = []

    def serve() -> None:
        while True:
            try:
                connection = held.accept()[0]
            except OSError:
                return
            with connection, connection.makefile("rb") as file:
                headers = dict(
                    line.decode().lower().split(": ", 1) for line in iter(file.readline, b"\r\n") if b": " in line
                )
                calls.append(int(headers["content-length"]))
                if calls[-1] > 3_000_000:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    continue
                requests = [json.loads(line) for line in file.read(calls[-1]).splitlines()]
                body = format_lines(*map(whole_picture, requests))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    threading.Thread(target=serve, daemon=True).start()
    noise = np.random.default_rng(0).integers(0, 256, (4, 800, 900, 3), dtype=np.uint8)
    try:
        found = make_endpoint(f"http://127.0.0.1:{held.getsockname()[1]}/").annotate(
            ImageBatch(batch_of(4, 900, 800).records, tuple(noise))
        )
    finally:
        held.close()
    assert [claims[0].regions[0].box for claims in found] == [(0, 0, 900, 800)] * 4
    assert len(calls) == 5 and calls[0] > 3_000_000


@pytest.mark.parametrize("drips", [False, True])
def test_a_service_that_hangs_at_an_image_fails_that_image_alone(drips: bool):
    free = threading.Event()

    def respond(handler, requests, call):
        if not any(request_number(request) == 1 for request in requests):
            return good(handler, requests)
        if drips:
            handler.send_response(200)
            handler.end_headers()
        while not free.wait(0.2):
            if drips:
                try:
                    handler.wfile.write(b"{")
                except OSError:
                    return None

    counted = CountedCalls(respond)
    with serve_lines(counted) as url:
        found = make_endpoint(url, timeout=2, retries=3).annotate(batch_of(3))
        free.set()
    assert [i for i, one in enumerate(found) if one != PICTURE] == [1]
    assert type(found[1]) is FlorenceError and "answered nothing for 2 seconds" in str(found[1])
    assert counted.calls == [[0, 1, 2], [0], [1], [2]], "it is given that time once in a batch and once alone"


def test_a_service_with_no_right_answer_is_unavailable():
    counted = CountedCalls(lambda handler, requests, call: reply(handler, b"<html>Log in</html>"))
    with serve_lines(counted) as url:
        theirs = make_endpoint(url, retries=0)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="found '<html>Log in</html>'"):
                theirs.annotate(batch_of(9))
    assert counted.calls == [list(range(9)), [0], [1], [2]] * 2, "after so many in a row it is let alone"


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "credentials"),
        (403, "right to this"),
        (404, "path of the url"),
        (405, "path of the url"),
        (301, "url right"),
        (501, "url right"),
    ],
)
def test_an_error_that_no_image_causes_stops_at_once(status: int, remedy: str):
    counted = CountedCalls(
        lambda handler, requests, call: reply(handler, b"go\n away", status, Location="http://127.0.0.1:1/elsewhere")
    )
    with serve_lines(counted) as url, pytest.raises(UnavailableError, match=f"answers {status} .*: go away.*{remedy}"):
        make_endpoint(url).annotate(batch_of(4))
    assert counted.calls == [[0, 1, 2, 3]]
