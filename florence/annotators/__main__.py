"""Any annotator as a program, or as an endpoint: ``python -m florence.annotators NAME``. So one that needs packages of its own runs in an environment of its own.

It reads lines and writes lines, as docs/annotators.md says; the annotators `program` and `endpoint` are the other side.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import numpy as np

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.errors import DataError, FlorenceError, SettingsError
from florence.images import decode_image
from florence.processes.protocol import LINES, AnnotationRequest, ProtocolError, format_answer, parse_request
from florence.records import ClaimsOrError

MAX_BODY = 2**30
"""Bytes of a POST at most."""


def described(annotator: Annotator) -> dict:
    """What the settings of `program` and `endpoint` have to say of it, and what it is."""
    return {
        "annotator": annotator.name,
        "version": annotator.version,
        "tasks": annotator.tasks,
        "role": annotator.role,
        "reads_claims": "claims" in annotator.needs,
        "vocabulary": annotator.vocabulary(),
    }


def answers(annotator: Annotator, requests: Sequence[AnnotationRequest]) -> Iterator[bytes]:
    """The lines that answer a batch: those of images that cannot be read first, then the others in order."""
    readable: list[AnnotationRequest] = []
    pixels = []
    for request in requests:
        try:
            if "pixels" in annotator.needs:
                pixels.append(_seen(request))
            readable.append(request)
        except (FlorenceError, OSError) as error:
            yield format_answer(request.record.image_id, FlorenceError(str(error)))
    batch = ImageBatch(
        tuple(r.record for r in readable),
        tuple(pixels),
        tuple(r.claims if "claims" in annotator.needs else () for r in readable),
        ((),) * len(readable),
    )
    for record, said in zip(batch.records, _said(annotator, batch), strict=True):
        yield format_answer(record.image_id, said)


def _seen(request: AnnotationRequest) -> np.ndarray:
    """The picture that is asked about. Raises ImageError or OSError where it cannot be read, DataError where it is not of the size that was told."""
    record = request.record
    found = decode_image(
        request.image if request.image is not None else Path(request.path or "").read_bytes(),
        record.name or record.image_id,
    )
    if found.shape[:2] != (record.height, record.width):
        raise DataError(
            f"width, height: {found.shape[1]} and {found.shape[0]}, those of the upright picture, are expected; found {record.width} and {record.height}"
        )
    return found


def _said(annotator: Annotator, batch: ImageBatch) -> list[ClaimsOrError]:
    """What it says of each image; where it fails on the batch, each is tried alone."""
    try:
        return list(annotator.annotate(batch)) if batch.records else []
    except MemoryError:
        raise
    except Exception as error:
        if len(batch.records) == 1:
            return [error if isinstance(error, FlorenceError) else FlorenceError(f"{type(error).__name__}: {error}")]
    alone = [
        ImageBatch(batch.records[i : i + 1], batch.pixels[i : i + 1], batch.claims[i : i + 1], batch.truth[i : i + 1])
        for i in range(len(batch.records))
    ]
    return [said for one in alone for said in _said(annotator, one)]


def converse(annotator: Annotator, lines: BinaryIO, out: BinaryIO, size: int) -> None:
    """Answer lines until there are no more: ``size`` of them at once, or as many as there are before a blank line."""
    waiting: list[AnnotationRequest] = []

    def flush() -> None:
        for line in answers(annotator, waiting):
            out.write(line)
        out.flush()
        waiting.clear()

    for number, line in enumerate(iter(lines.readline, b""), 1):
        if line.strip():
            waiting.append(parse_request(line, number))
        if len(waiting) == size or not line.strip():
            flush()
    flush()


def server(annotator: Annotator, host: str, port: int, size: int) -> ThreadingHTTPServer:
    """A server that answers lines posted to it, whatever the path, and tells what it is to a GET. One call at a time is worked on."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            self._whole(200, json.dumps(described(annotator)).encode() + b"\n", "application/json")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > MAX_BODY:
                self.close_connection = True
                return self._whole(
                    411 if not length.isdigit() else 413,
                    f"Content-Length: a number up to {MAX_BODY:,} is expected\n".encode(),
                )
            try:
                requests = [
                    parse_request(line, number)
                    for number, line in enumerate(self.rfile.read(int(length)).split(b"\n"), 1)
                    if line.strip()
                ]
                if any(request.image is None for request in requests):
                    raise ProtocolError("image: base64 is expected over HTTP; found path, a file of this machine")
            except ProtocolError as error:
                return self._whole(400, f"{error}\n".encode())
            self.send_response(200)
            self.send_header("Content-Type", LINES)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(requests), size):
                with lock:
                    lines = b"".join(answers(annotator, requests[start : start + size]))
                self.wfile.write(b"%x\r\n%b\r\n" % (len(lines), lines))
            self.wfile.write(b"0\r\n\r\n")

        def _whole(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer((host, port), Handler)


def arguments() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(
        "python -m florence.annotators",
        description="Run an annotator as a program that reads and writes lines of JSON, or as an HTTP endpoint.",
    )
    parser.add_argument("use", help="the annotator, as params.yaml's `use`")
    parser.add_argument("--options", metavar="FILE", help="its settings, a JSON object")
    parser.add_argument("--name", help="what it is called in params.yaml; default: the same as `use`")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="images it is given at once (16)")
    parser.add_argument(
        "--device",
        default=os.environ.get("FLORENCE_DEVICE", "auto"),
        help="where it computes; default: FLORENCE_DEVICE, or auto",
    )
    parser.add_argument("--http", type=int, metavar="PORT", help="answer over HTTP; 0: any free port")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to bind to (127.0.0.1: this machine alone). There is no access control here",
    )
    parser.add_argument(
        "--describe", action="store_true", help="tell its version, tasks and vocabulary as JSON, and end"
    )
    return parser


def made(use: str, name: str | None, options: str | None) -> Annotator:
    """The annotator that the command line names. Raises UnknownNameError, or SettingsError naming what is wrong with its settings."""
    try:
        values = json.loads(Path(options).read_text(encoding="utf-8")) if options else {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"--options: {options} is no JSON that can be read: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--options: {options}: an object is expected; found {type(values).__name__}")
    annotator = ANNOTATORS.get(use)(name=name or use, **values)
    if "truth" in annotator.needs:
        raise SettingsError(
            f"{use} looks at known truth, which is sent to nobody; it runs in the loop's own process alone"
        )
    return annotator


def main(words: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    given = arguments().parse_args(words)
    # What libraries print goes to standard error, at the level of the file too: a line of theirs between the answers would end the conversation.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        annotator = made(given.use, given.name, given.options)
        annotator.device = given.device
        if given.describe:
            out.write(json.dumps(described(annotator), indent=1).encode() + b"\n")
            out.close()
            return 0
        annotator.load()
        if given.http is None:
            converse(annotator, sys.stdin.buffer, out, given.batch)
        else:
            serve(annotator, given.host, given.http, given.batch)
    except FlorenceError as error:
        print(error, file=sys.stderr)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # nobody listens any more: what is buffered cannot be written
    return 0


def serve(annotator: Annotator, host: str, port: int, size: int) -> None:
    """Answer over HTTP until interrupted. Raises SettingsError where the address cannot be had."""
    try:
        listening = server(annotator, host, port, size)
    except OSError as error:
        raise SettingsError(f"--http: {host}:{port} cannot be had: {error}") from None
    with listening:
        print(f"{annotator.name} answers at http://{host}:{listening.server_address[1]}", file=sys.stderr, flush=True)
        listening.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
