"""The annotator's side of the protocol: answer lines on standard input, or posted over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO

from florence.processes.protocol import CONTENT_TYPE, AnnotationRequest, ProtocolError, parse_request

MAX_BODY = 2**30
"""Bytes of a POST at most."""

AnswerBatch = Callable[[Sequence[AnnotationRequest]], Iterator[bytes]]
"""Yields the lines that answer a batch of requests."""


def answer_lines(answer_batch: AnswerBatch, lines: BinaryIO, out: BinaryIO, batch_size: int) -> None:
    """Answer lines until they end: ``batch_size`` of them at once, or as many as come before a blank line."""
    waiting: list[AnnotationRequest] = []

    def flush() -> None:
        for line in answer_batch(waiting):
            out.write(line)
        out.flush()
        waiting.clear()

    for number, line in enumerate(iter(lines.readline, b""), 1):
        if line.strip():
            waiting.append(parse_request(line, number))
        if len(waiting) == batch_size or not line.strip():
            flush()
    flush()


class AnnotationServer(ThreadingHTTPServer):
    """Answer lines that are posted to any path, and a GET with ``description``; one batch is worked on at a time.

    Raises OSError if it cannot bind to ``address``.
    """

    def __init__(
        self, answer_batch: AnswerBatch, description: bytes, address: tuple[str, int], batch_size: int
    ) -> None:
        super().__init__(address, _RequestHandler)
        self.answer_batch, self.description, self.batch_size = answer_batch, description, batch_size
        self.lock = threading.Lock()


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: AnnotationServer

    def do_GET(self) -> None:
        self._reply(200, self.server.description, "application/json")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            return self._reply(
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
            return self._reply(400, f"{error}\n".encode())
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        size = self.server.batch_size
        for start in range(0, len(requests), size):
            with self.server.lock:
                lines = b"".join(self.server.answer_batch(requests[start : start + size]))
            self.wfile.write(b"%x\r\n%b\r\n" % (len(lines), lines))
        self.wfile.write(b"0\r\n\r\n")

    def _reply(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
