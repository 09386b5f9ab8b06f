"""Programs and services that annotate, written for tests: good ones and others.

They need nothing but the standard library.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from florence.annotators import ANNOTATORS, ImageBatch
from florence.records import Claim, ImageRecord, Region

ROOT = Path(__file__).parents[1]

PREFACE = """
import json, os, signal, subprocess, sys, time

def requests():
    for line in sys.stdin:
        if line.strip():
            yield json.loads(line)

def make_answer(request, label="thing", **more):
    box = [0, 0, request["width"], request["height"]]
    annotations = [{"label": label, "box": box, "score": 0.5}]
    return {"image_id": request["image_id"], "annotations": annotations, **more}

def send(answer):
    print(answer if isinstance(answer, str) else json.dumps(answer), flush=True)

"""

THING = [Claim("<OD>", "thing", (Region("thing", box=(0, 0, 12, 8), score=0.5),), 0.5)]
GOOD = """
for request in requests():
    send(make_answer(request))
"""


def write_program(folder: Path, body: str, name: str = "annotator.py") -> Path:
    """Return a program of `PREFACE` and ``body``."""
    path = folder / name
    path.write_text(PREFACE + body, encoding="utf-8")
    return path


def write_documented_program(folder: Path) -> Path:
    """Return the program that docs/annotators.md shows."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/annotators.md").read_text(encoding="utf-8"), re.M | re.S
    )
    path = folder / "brightest.py"
    path.write_text(code, encoding="utf-8")
    return path


def make_program(command, **options):
    """Return the annotator of a command."""
    return ANNOTATORS.get("program")(
        name="theirs", **{"command": command, "tasks": ["<OD>"], "timeout": 20, "start": 20, **options}
    )


def make_python_program(folder: Path, body: str, **options):
    """Return the annotator of a program of `PREFACE` and ``body``."""
    return make_program([sys.executable, str(write_program(folder, body))], **options)


def gone(pid: int, seconds: float = 20) -> bool:
    """Return whether a process ends within ``seconds``; a zombie has not ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def wait_for_programs_to_end() -> None:
    """Wait until all that a test started has ended and was waited for, when nobody holds its annotator any more."""
    gc.collect()
    until = time.monotonic() + 20
    while (left := _programs()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def _programs() -> list[str]:
    """Return the command lines of this process's children that are annotators or zombies.

    Others, as a server that other tests have started, are left out.
    """
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [path.read_text() for pid in children if (path := Path(f"/proc/{pid}/cmdline")).exists()]
    return [command for command in commands if "annotator.py" in command or not command]


def batch_of(count: int, width: int = 12, height: int = 8, *, first: int = 0, name: str = "x.png") -> ImageBatch:
    """Return ``count`` pictures, whose ids are numbers from ``first`` on; the first pixel encodes the number too."""
    records = tuple(
        ImageRecord(f"{i:064x}", width, height, "mine", name, "", None, "train") for i in range(first, first + count)
    )
    pictures = []
    for i in range(first, first + count):
        pixels = np.full((height, width, 3), 90, np.uint8)
        pixels[0, 0] = i % 256, i // 256 % 256, 7
        pictures.append(pixels)
    return ImageBatch(records, tuple(pictures), ((),) * count, ((),) * count)


def png_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a PNG by its header."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def whole_picture(request: dict) -> dict:
    """Return an answer to a request with an image: one object, as large as the picture."""
    width, height = png_size(base64.b64decode(request["image"]))
    return {
        "image_id": request["image_id"],
        "annotations": [{"label": "picture", "box": [0, 0, width, height], "score": 0.75}],
    }


@contextmanager
def serve_lines(respond: Callable[[BaseHTTPRequestHandler, list[dict]], None]) -> Iterator[str]:
    """Serve; ``respond`` answers the requests of each POST. Yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            posted = self.rfile.read(int(self.headers["Content-Length"])).split(b"\n")
            respond(self, [json.loads(line) for line in posted if line.strip()])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/annotate"
        finally:
            server.shutdown()


def reply(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    """Send a whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/x-ndjson", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def format_lines(*answers: object) -> bytes:
    """Return answers as lines, and bytes unchanged."""
    return b"".join(a if isinstance(a, bytes) else json.dumps(a).encode() + b"\n" for a in answers)


def make_endpoint(url: str, **options):
    """Return the annotator of a service at ``url``."""
    return ANNOTATORS.get("endpoint")(
        name="theirs", **{"url": url, "version": "1", "tasks": ["<OD>"], "timeout": 20, **options}
    )


def request_number(request: dict) -> int:
    """Return the number that is the id of a request's image."""
    return int(request["image_id"], 16)


class CountedCalls:
    """Answers a POST by ``respond``, and keeps the image numbers and headers of each."""

    def __init__(self, respond):
        self.respond, self.calls, self.headers = respond, [], []

    def __call__(self, handler: BaseHTTPRequestHandler, requests: list[dict]) -> None:
        self.calls.append([request_number(request) for request in requests])
        self.headers.append(dict(handler.headers))
        self.respond(handler, requests, len(self.calls))
