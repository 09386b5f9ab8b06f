"""A chat endpoint on loopback with OpenAI's protocol: it checks requests as the real ones do, and fails on demand.

It also has Azure's route for image analysis.

A script is given each call and returns how it is answered: None for a whole answer, or one of the faults below.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

KEY = "sk-mine-0123456789abcdef"
MODEL = "tiny-vl"
KNOWN = {"model", "messages", "temperature", "seed", "max_tokens", "max_completion_tokens", "response_format"}


@dataclass(frozen=True)
class ReceivedCall:
    """One call: its number from 0, its JSON or bytes, and the prompt's text and pictures if it is a chat."""

    number: int
    body: Any
    text: str = ""
    images: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Fault:
    """How a call is answered wrongly.

    ``change`` edits a whole answer's JSON; ``raw`` replaces it.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    change: Callable[[dict[str, Any]], Any] | None = None
    raw: bytes | None = None
    content_type: str = "application/json"
    hang: float = 0
    close: bool = False


@dataclass
class Call:
    """The outcome of a call. Times are of `time.monotonic`; ``tokens``: of question and answer, as reported."""

    arrived: float
    status: int = 0
    tokens: int = 0
    answered: float = 0.0


@dataclass
class Service:
    """The running server: its address, and the log of all calls in the order of arrival."""

    url: str
    script: Callable[[ReceivedCall], Fault | None]
    calls: list[Call] = field(default_factory=list)
    received: list[ReceivedCall] = field(default_factory=list)
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    under_way: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Return the tokens that whole answers have reported."""
        return sum(call.tokens for call in self.calls)


def error(status: int, message: str = "no", **more: Any) -> Fault:
    """Return an error as the protocol has it. ``more``: headers, with _ for -."""
    headers = tuple((key.replace("_", "-"), value) for key, value in more.items() if key not in ("code", "param"))
    body = {"error": {"message": message, "type": "error", "param": more.get("param"), "code": more.get("code")}}
    return Fault(status, headers, raw=json.dumps(body).encode())


def model_answer(text: str | None, reason: str = "stop", refusal: str | None = None) -> Fault:
    """Another text than the model's."""

    def change(body: dict[str, Any]) -> dict[str, Any]:
        body["choices"][0] = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": refusal},
            "finish_reason": reason,
        }
        return body

    return Fault(change=change)


HTML = Fault(raw=b"<!doctype html><html><body>Sign in</body></html>", content_type="text/html; charset=utf-8")
HALF = Fault(raw=b'{"id": "1", "choices": [{"index": 0, "message": {"role": "assist')
CLOSED = Fault(close=True)
HANG = Fault(hang=3600)
EMPTY, CUT, REFUSAL, APOLOGY = (
    model_answer(""),
    model_answer("a cat and", "length"),
    model_answer(None, refusal="I will not."),
    model_answer("I'm sorry, but I can't assist with that."),
)
NO_CHOICES = Fault(change=lambda body: {**body, "choices": []})
FOREIGN_JSON = Fault(raw=b'{"detail": "not what you asked for"}')
NOT_JSON, OTHER_KEYS = model_answer("Here you are: a cat."), model_answer('{"caption of the image": "a cat"}')
FOREIGN_ANSWERS = (HTML, HALF, NO_CHOICES, FOREIGN_JSON)
UNUSABLE = (EMPTY, CUT, REFUSAL, APOLOGY)


def describe_pixels(pixels: np.ndarray) -> str:
    """Return the model's text about a picture: a function of its pixels that a JPEG changes little."""
    height, width = pixels.shape[:2]
    means = pixels.reshape(-1, 3).mean(axis=0)
    return f"a {('red', 'green', 'blue')[int(means.argmax())]} picture of {width} by {height}"


@contextmanager
def serve_chat(
    script: Callable[[ReceivedCall], Fault | None] = lambda received: None, key: str | None = KEY
) -> Iterator[Service]:
    """Run a chat endpoint at ``url`` (ending in /v1), and under Azure's paths at the address without it.

    ``key``: the one that is expected; None for no key.
    """
    with _serve(_Chat, script, key) as service:
        service.url += "/v1"
        yield service


@contextmanager
def serve_reader(
    script: Callable[[ReceivedCall], Fault | None] = lambda received: None, key: str | None = KEY
) -> Iterator[Service]:
    """Run Azure's route for image analysis: every black rectangle on a light ground is an OCR line of two words."""
    with _serve(_Reading, script, key) as service:
        yield service


@contextmanager
def _serve(
    handler: type[_Handler], script: Callable[[ReceivedCall], Fault | None], key: str | None
) -> Iterator[Service]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {}), bind_and_activate=True)
    server.daemon_threads = True
    service = Service(f"http://127.0.0.1:{server.server_address[1]}", script)
    server.RequestHandlerClass.service, server.RequestHandlerClass.key, server.RequestHandlerClass.over = (
        service,
        key,
        threading.Event(),
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.RequestHandlerClass.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    service: Service
    key: str | None
    over: threading.Event
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        """Print nothing on the terminal."""

    def do_POST(self) -> None:
        """Count the call, check it, and answer it by the script."""
        call = Call(time.monotonic())
        with self.service.lock:
            number = len(self.service.calls)
            self.service.calls.append(call)
            self.service.under_way += 1
            self.service.most = max(self.service.most, self.service.under_way)
        try:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(call, number, data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            call.answered = time.monotonic()
            with self.service.lock:
                self.service.under_way -= 1

    def _answer(self, call: Call, number: int, data: bytes) -> None:
        wrong = self.refusal(data)
        received = self.read(number, data) if wrong is None else None
        if received is not None:
            with self.service.lock:
                self.service.received.append(received)
        fault = wrong or self.service.script(received) or Fault()  # type: ignore[arg-type]
        if fault.hang:
            self.over.wait(fault.hang)
            self.close_connection = True
            return
        if fault.close:
            self.close_connection = True
            return
        payload = fault.raw
        if payload is None:
            body = self.answer(received)  # type: ignore[arg-type]
            body = fault.change(body) if fault.change else body
            payload = json.dumps(body).encode()
            if isinstance(body, dict) and "usage" in body:
                call.tokens = body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
        call.status = fault.status
        self.send_response(fault.status)
        for name, value in (
            *fault.headers,
            ("Content-Type", fault.content_type),
            ("Content-Length", str(len(payload))),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def complain(self, fault: Fault) -> Fault:
        """Note in the log a refusal that no test asked for."""
        self.service.complaints.append((fault.raw or b"").decode())
        return fault

    def refusal(self, data: bytes) -> Fault | None:
        raise NotImplementedError

    def read(self, number: int, data: bytes) -> ReceivedCall:
        raise NotImplementedError

    def answer(self, received: ReceivedCall) -> dict[str, Any]:
        raise NotImplementedError


class _Chat(_Handler):
    def refusal(self, data: bytes) -> Fault | None:
        path = urlsplit(self.path)
        azure = path.path == f"/openai/deployments/{MODEL}/chat/completions" and "api-version" in parse_qs(path.query)
        if path.path != "/v1/chat/completions" and not azure:
            return error(404, "Not Found")
        given = self.headers.get("api-key") if azure else self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key is not None and given != self.key:
            return error(401, f"Incorrect API key provided: {given}", code="invalid_api_key")
        try:
            body = json.loads(data)
        except ValueError:
            return self.complain(error(400, "not JSON"))
        if body.get("model") != MODEL:
            return error(404, f"The model `{body.get('model')}` does not exist.", param="model", code="model_not_found")
        if unknown := set(body) - KNOWN:
            return self.complain(
                error(400, f"Unrecognized request argument supplied: {unknown}", param=sorted(unknown)[0])
            )
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        if not (
            isinstance(limit, int)
            and limit > 0
            and isinstance(body.get("seed", 0), int)
            and body.get("temperature", 0) == 0
        ):
            return self.complain(error(400, "a number is wrong"))
        form = body.get("response_format")
        if form is not None and not (
            form["type"] == "json_schema"
            and form["json_schema"]["name"]
            and form["json_schema"]["schema"]["type"] == "object"
        ):
            return self.complain(error(400, "response_format is wrong", param="response_format"))
        return self._messages(body.get("messages"))

    def _messages(self, messages: Any) -> Fault | None:
        if not isinstance(messages, list) or not messages or messages[-1].get("role") != "user":
            return self.complain(error(400, "messages is wrong", param="messages"))
        for message in messages:
            parts = message.get("content")
            for part in parts if isinstance(parts, list) else [{"type": "text", "text": parts}]:
                if part.get("type") == "text" and isinstance(part.get("text"), str):
                    continue
                if part.get("type") != "image_url" or not part["image_url"]["url"].startswith(
                    "data:image/jpeg;base64,"
                ):
                    return self.complain(error(400, "a part of a message is wrong", param="messages"))
        return None

    def read(self, number: int, data: bytes) -> ReceivedCall:
        body = json.loads(data)
        parts = [
            part
            for message in body["messages"]
            for part in (
                message["content"]
                if isinstance(message["content"], list)
                else [{"type": "text", "text": message["content"]}]
            )
        ]
        pictures = []
        for part in parts:
            if part["type"] == "image_url":
                with Image.open(
                    io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",", 1)[1], validate=True))
                ) as image:
                    assert image.format == "JPEG"
                    pictures.append(np.asarray(image.convert("RGB")))
        return ReceivedCall(
            number, body, "\n".join(part["text"] for part in parts if part["type"] == "text"), tuple(pictures)
        )

    def answer(self, received: ReceivedCall) -> dict[str, Any]:
        text = (
            " and ".join(describe_pixels(pixels) for pixels in received.images)
            or f"a text about {len(received.text)} letters"
        )
        if "response_format" in received.body:
            keys = received.body["response_format"]["json_schema"]["schema"]["required"]
            text = json.dumps({key: f"{key}: {text}" for key in keys})
        prompt = len(received.text) // 4 + sum(image.shape[0] * image.shape[1] // 750 for image in received.images)
        return {
            "id": f"chatcmpl-{received.number}",
            "object": "chat.completion",
            "created": 1,
            "model": received.body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": len(text) // 4,
                "total_tokens": prompt + len(text) // 4,
            },
        }


class _Reading(_Handler):
    def refusal(self, data: bytes) -> Fault | None:
        path = urlsplit(self.path)
        query = parse_qs(path.query)
        if path.path != "/computervision/imageanalysis:analyze" or "api-version" not in query:
            return _azure(404, "404", "Resource not found")
        if self.key is not None and self.headers.get("Ocp-Apim-Subscription-Key") != self.key:
            return _azure(
                401,
                "401",
                f"Access denied due to invalid subscription key {self.headers.get('Ocp-Apim-Subscription-Key')}",
            )
        if query.get("features") != ["read"] or self.headers["Content-Type"] != "application/octet-stream":
            return self.complain(_azure(400, "InvalidRequest", "The request is wrong"))
        try:
            with Image.open(io.BytesIO(data)) as image:
                small = min(image.size) < 50 or max(image.size) > 16000 or image.format not in ("JPEG", "PNG")
        except OSError:
            small = True
        if small or len(data) > 20_000_000:
            return self.complain(_azure(400, "InvalidImageSize", "The image is too small or too large"))
        return None

    def read(self, number: int, data: bytes) -> ReceivedCall:
        with Image.open(io.BytesIO(data)) as image:
            return ReceivedCall(number, data, images=(np.asarray(image.convert("L")),))

    def answer(self, received: ReceivedCall) -> dict[str, Any]:
        import cv2

        (grey,) = received.images
        count, _, stats, _ = cv2.connectedComponentsWithStats((grey < 90).astype(np.uint8))
        lines = []
        for x, y, w, h, area in stats[1:count].tolist():
            if area >= 30:
                words = [
                    {"text": text, "boundingPolygon": _corners(x0, y, w // 2, h), "confidence": sure}
                    for text, x0, sure in (("OPEN", x, 0.9), ("DAILY", x + w // 2, 0.7))
                ]
                lines.append({"text": "OPEN DAILY", "boundingPolygon": _corners(x, y, w, h), "words": words})
        return {
            "modelVersion": "2023-10-01",
            "metadata": {"width": grey.shape[1], "height": grey.shape[0]},
            "readResult": {"blocks": [{"lines": lines}]},
        }


def _corners(x: int, y: int, w: int, h: int) -> list[dict[str, int]]:
    return [{"x": x, "y": y}, {"x": x + w, "y": y}, {"x": x + w, "y": y + h}, {"x": x, "y": y + h}]


def _azure(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Fault:
    return Fault(status, headers, raw=json.dumps({"error": {"code": code, "message": message}}).encode())


azure_error = _azure
