"""Run an annotator as a program or as an HTTP endpoint: ``python -m florence.annotators NAME``.

An annotator that needs packages of its own runs so in an environment of its own. It reads and writes the lines that
docs/annotators.md documents; the annotators `program` and `endpoint` are the other side.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.errors import DataError, FlorenceError, SettingsError
from florence.garbage import relax_garbage_collection
from florence.images import decode_image
from florence.processes.protocol import AnnotationRequest, format_answer
from florence.processes.server import AnnotationServer, answer_lines
from florence.records import ClaimsOrError


def describe(annotator: Annotator) -> dict[str, Any]:
    """Return what an annotator is, and what the settings of `program` and `endpoint` have to say of it."""
    return {
        "annotator": annotator.name,
        "version": annotator.version,
        "tasks": annotator.tasks,
        "role": annotator.role,
        "reads_claims": "claims" in annotator.needs,
        "vocabulary": annotator.vocabulary(),
    }


def answer_batch(annotator: Annotator, requests: Sequence[AnnotationRequest]) -> Iterator[bytes]:
    """Yield the lines that answer requests: first those whose image cannot be read, then the others in order."""
    readable: list[AnnotationRequest] = []
    pixels = []
    for request in requests:
        try:
            if "pixels" in annotator.needs:
                pixels.append(read_pixels(request))
            readable.append(request)
        except (FlorenceError, OSError) as error:
            yield format_answer(request.record.image_id, FlorenceError(str(error)))
    batch = ImageBatch(
        tuple(r.record for r in readable),
        tuple(pixels),
        tuple(r.claims if "claims" in annotator.needs else () for r in readable),
        ((),) * len(readable),
    )
    for record, answer in zip(batch.records, annotate_or_fail(annotator, batch), strict=True):
        yield format_answer(record.image_id, answer)


def read_pixels(request: AnnotationRequest) -> np.ndarray:
    """Return the picture (H, W, 3) of a request.

    Raises ImageError or OSError where it cannot be read, DataError where it has another size than the request.
    """
    record = request.record
    pixels = decode_image(
        request.image if request.image is not None else Path(request.path or "").read_bytes(),
        record.name or record.image_id,
    )
    if pixels.shape[:2] != (record.height, record.width):
        raise DataError(
            f"width, height: {pixels.shape[1]} and {pixels.shape[0]}, those of the upright picture, are expected; "
            f"found {record.width} and {record.height}"
        )
    return pixels


def annotate_or_fail(annotator: Annotator, batch: ImageBatch) -> list[ClaimsOrError]:
    """Return the claims about each image, or its error; where the whole batch fails, each image is tried alone."""
    try:
        return list(annotator.annotate(batch)) if batch.records else []
    except MemoryError:
        raise
    except Exception as error:
        if len(batch.records) == 1:
            return [error if isinstance(error, FlorenceError) else FlorenceError(f"{type(error).__name__}: {error}")]
    single = [
        ImageBatch(batch.records[i : i + 1], batch.pixels[i : i + 1], batch.claims[i : i + 1], batch.truth[i : i + 1])
        for i in range(len(batch.records))
    ]
    return [answer for one in single for answer in annotate_or_fail(annotator, one)]


# ---------------------------------------------------------------- the command line


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "python -m florence.annotators",
        description="Run an annotator as a program that reads and writes lines of JSON, or as an HTTP endpoint.",
    )
    parser.add_argument("use", help="the annotator, as params.yaml's `use`")
    parser.add_argument("--options", metavar="FILE", help="its settings, a JSON object")
    parser.add_argument("--name", help="its name in params.yaml; default: the same as `use`")
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
        "--describe", action="store_true", help="print its version, tasks and vocabulary as JSON, and end"
    )
    return parser


def make_annotator(use: str, name: str | None, options: str | None) -> Annotator:
    """Return the annotator that the command line names, with the settings in the file ``options``.

    Raises UnknownNameError, or SettingsError naming what is wrong with its settings.
    """
    try:
        values = json.loads(Path(options).read_text(encoding="utf-8")) if options else {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"--options: {options} is no JSON that can be read: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--options: {options}: an object is expected; found {type(values).__name__}")
    annotator = ANNOTATORS.get(use)(name=name or use, **values)
    if "truth" in annotator.needs:
        raise SettingsError(
            f"{use} needs known truth, which is sent to nobody; it runs in the loop's own process alone"
        )
    return annotator


def serve_http(annotator: Annotator, host: str, port: int, batch_size: int) -> None:
    """Answer over HTTP until interrupted. Raises SettingsError if it cannot bind to the address."""
    description = json.dumps(describe(annotator)).encode() + b"\n"
    try:
        server = AnnotationServer(
            lambda requests: answer_batch(annotator, requests), description, (host, port), batch_size
        )
    except OSError as error:
        raise SettingsError(f"--http: cannot bind to {host}:{port}: {error}") from None
    with server:
        print(f"{annotator.name} answers at http://{host}:{server.server_address[1]}", file=sys.stderr, flush=True)
        server.serve_forever()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    given = make_parser().parse_args(words)
    relax_garbage_collection()
    # Whatever libraries print, also below Python, goes to standard error: a line of theirs among the answers would end
    # the conversation.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        annotator = make_annotator(given.use, given.name, given.options)
        annotator.device = given.device
        if given.describe:
            out.write(json.dumps(describe(annotator), indent=1).encode() + b"\n")
            out.close()
            return 0
        annotator.load()
        if given.http is None:
            answer_lines(lambda requests: answer_batch(annotator, requests), sys.stdin.buffer, out, given.batch)
        else:
            serve_http(annotator, given.host, given.http, given.batch)
    except FlorenceError as error:
        print(error, file=sys.stderr)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # nobody listens any more: what is buffered cannot be written
    return 0


if __name__ == "__main__":
    sys.exit(main())
