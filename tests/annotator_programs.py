"""Programs and services that annotate, written for tests: good ones and others. They need nothing but the standard library."""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from florence.annotators import ImageBatch
from florence.records import ImageRecord

ROOT = Path(__file__).parents[1]

PREFACE = """
import json, os, signal, subprocess, sys, time

def requests():
    for line in sys.stdin:
        if line.strip():
            yield json.loads(line)

def make_answer(request, label="thing", **more):
    return {"image_id": request["image_id"], "annotations": [{"label": label, "box": [0, 0, request["width"], request["height"]], "score": 0.5}], **more}

def send(answer):
    print(answer if isinstance(answer, str) else json.dumps(answer), flush=True)

"""


def write_program(folder: Path, body: str, name: str = "annotator.py") -> Path:
    """A program of `PREFACE` and ``body``."""
    path = folder / name
    path.write_text(PREFACE + body, encoding="utf-8")
    return path


def write_documented_program(folder: Path) -> Path:
    """The program that docs/annotators.md shows."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/annotators.md").read_text(encoding="utf-8"), re.M | re.S
    )
    path = folder / "brightest.py"
    path.write_text(code, encoding="utf-8")
    return path


def batch_of(count: int, width: int = 12, height: int = 8, *, first: int = 0, name: str = "x.png") -> ImageBatch:
    """``count`` pictures, whose ids are numbers from ``first`` on. The first pixel tells the number too."""
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
    """Width and height by a PNG's own header."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def whole_picture(request: dict) -> dict:
    """An answer about a request with an image: one object, as large as the picture that was sent."""
    width, height = png_size(base64.b64decode(request["image"]))
    return {
        "image_id": request["image_id"],
        "annotations": [{"label": "picture", "box": [0, 0, width, height], "score": 0.75}],
    }


@contextmanager
def serve_lines(respond: Callable[[BaseHTTPRequestHandler, list[dict]], None]) -> Iterator[str]:
    """The URL of a server that has ``respond`` answer the requests of each POST."""

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
    """A whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/x-ndjson", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def format_lines(*answers: object) -> bytes:
    """Answers as lines; bytes as they are."""
    return b"".join(a if isinstance(a, bytes) else json.dumps(a).encode() + b"\n" for a in answers)
