"""The wire form of annotators that run elsewhere: a line of JSON for each image that is asked about, and one for each answer.

docs/annotators.md tells it to those who write such a program. Both sides are here: `request_line` and `answer` are the side that asks,
`requested` and `answer_line` the one that is asked.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from florence.errors import FlorenceError, UnavailableError
from florence.processes.annotations import AnnotationLine, Text, WireLine, build_claim, shorten
from florence.records import Annotation, Claim, ClaimsOrError, ImageRecord, Region

LINES = "application/x-ndjson"
"""The content type of lines."""
MAX_LINE = 64 * 2**20
"""Bytes of an answer's line at most."""


class ProtocolError(FlorenceError):
    """A line that is no answer to anything that was asked; what else its writer says cannot be trusted."""


class _AnswerLine(WireLine):
    image_id: str
    annotations: tuple[Any, ...] | None = None
    error: Text | None = None
    retry: Annotated[bool, Field(strict=True)] = False


class _ClaimLine(AnnotationLine):
    annotation_id: str = ""
    annotator: str = ""
    version: str = ""
    round: int = 0


class _RequestLine(WireLine):
    image_id: str
    width: Annotated[int, Field(strict=True, ge=1)]
    height: Annotated[int, Field(strict=True, ge=1)]
    path: str | None = None
    image: str | None = None
    source: str = ""
    name: str = ""
    alt_text: str | None = None
    claims: tuple[_ClaimLine, ...] = ()


@dataclass(frozen=True, slots=True)
class AnnotationRequest:
    """One image that is asked about: ``image`` is the file's bytes, or else ``path`` its place."""

    record: ImageRecord
    claims: tuple[Annotation, ...]
    path: str | None
    image: bytes | None


# ---------------------------------------------------------------- the side that asks


def format_request(
    record: ImageRecord, claims: Iterable[Annotation] | None, *, path: str | None = None, image: bytes | None = None
) -> bytes:
    """The line that asks about one image, ASCII, with its end. ``claims``: what others said; None where that is not read."""
    line: dict[str, Any] = {"image_id": record.image_id, "width": record.width, "height": record.height}
    line |= {"source": record.source, "name": record.name, "alt_text": record.alt_text}
    line |= {"path": path} if image is None else {"image": base64.b64encode(image).decode()}
    if claims is not None:
        who = ("annotation_id", "annotator", "version", "round")
        line["claims"] = [
            {name: getattr(row, name) for name in who} | _written(row.task, row.text, row.regions, row.score)
            for row in claims
        ]
    return _json(line)


def answer(
    line: bytes, number: int, asked: Mapping[str, ImageRecord], tasks: Collection[str]
) -> tuple[str, ClaimsOrError]:
    """The image that a line answers about, and what is said of it: claims, or the error that costs this image.

    ``number``: of the line, for errors. ``asked``: the images that an answer may be about, by id. ``tasks``: the kinds that may be claimed.
    Raises ProtocolError where the line is no JSON object, or about no image that was asked.
    """
    value = _object(line, number)
    image_id = value.get("image_id")
    if not isinstance(image_id, str) or image_id not in asked:
        raise ProtocolError(
            f"line {number}, image_id: one of the {len(asked)} that were asked is expected; found {shorten(image_id)}"
        )
    try:
        read = _checked(_AnswerLine, value, f"line {number}")
        if read.error or (read.error is not None and read.annotations is None):
            return image_id, (UnavailableError if read.retry else FlorenceError)(
                read.error[:2000] or "the program gives no reason"
            )
        if read.annotations is None:
            raise FlorenceError(
                f"line {number}, annotations: a list is expected, empty where nothing is seen; found none"
            )
        return image_id, [
            _claim(item, f"line {number}, annotations.{index}", asked[image_id], tasks)
            for index, item in enumerate(read.annotations)
        ]
    except FlorenceError as error:
        return image_id, error


def _claim(item: Any, where: str, record: ImageRecord, tasks: Collection[str]) -> Claim:
    read = _checked(AnnotationLine, item, where)
    if read.task not in tasks:
        raise FlorenceError(
            f"{where}.task: one of the declared tasks is expected, {', '.join(tasks)}; found {shorten(read.task)}"
        )
    return build_claim(read, where, record)


# ---------------------------------------------------------------- the side that is asked


def parse_request(line: bytes, number: int) -> AnnotationRequest:
    """What a line asks. Raises ProtocolError naming the field where it is no such line."""
    value = _object(line, number)
    try:
        read = _checked(_RequestLine, value, f"line {number}")
        image = None if read.image is None else base64.b64decode(read.image, validate=True)
    except binascii.Error as error:
        raise ProtocolError(f"line {number}, image: base64 is expected; {error}") from None
    except FlorenceError as error:
        raise ProtocolError(str(error)) from None
    if image is None and read.path is None:
        raise ProtocolError(
            f"line {number}: the image is expected, as path or as image; found {', '.join(sorted(value))}"
        )
    record = ImageRecord(read.image_id, read.width, read.height, read.source, read.name, "", read.alt_text, "train")
    return AnnotationRequest(record, tuple(_annotation(row, read.image_id) for row in read.claims), read.path, image)


def _annotation(row: _ClaimLine, image_id: str) -> Annotation:
    said = row.claim()
    return Annotation(
        row.annotation_id,
        image_id,
        said.task,
        row.annotator,
        row.version,
        row.round,
        said.text,
        said.regions,
        said.score,
    )


def format_answer(image_id: str, said: ClaimsOrError) -> bytes:
    """The line that answers about one image, ASCII, with its end. A claim that cannot be written, as of a score that is no number, makes it an error."""
    if not isinstance(said, FlorenceError):
        try:
            return _json(
                {"image_id": image_id, "annotations": [_written(c.task, c.text, c.regions, c.score) for c in said]}
            )
        except (ValueError, TypeError) as error:
            said = FlorenceError(f"a claim cannot be written as JSON: {error}")
    return _json({"image_id": image_id, "error": str(said), "retry": isinstance(said, UnavailableError)})


# ---------------------------------------------------------------- both


def _written(task: str, text: str, regions: Iterable[Region], score: float | None) -> dict[str, Any]:
    return {"task": task, "text": text, "score": _float(score), "regions": [_place(region) for region in regions]}


def _place(region: Region) -> dict[str, Any]:
    return {
        "label": region.label,
        "box": _floats(region.box),
        "quad": _floats(region.quad),
        "polygons": [_floats(p) for p in region.polygons],
        "score": _float(region.score),
        "span": None if region.span is None else [int(v) for v in region.span],
    }


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _floats(values: Iterable[float] | None) -> list[float] | None:
    return None if values is None else [float(v) for v in values]


def _json(value: dict[str, Any]) -> bytes:
    # ASCII, so that it is read the same whatever encoding the other side takes for granted.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ProtocolError(
            f"line {number}: a JSON object is expected (what is not an answer belongs on standard error); found {shorten(line.decode(errors='replace').strip())}"
        )
    return value


def _checked(model: type[Any], value: Any, where: str) -> Any:
    """``value`` as a ``model``. Raises FlorenceError naming the first field that is wrong, what was found and what is allowed."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([where, *map(str, first["loc"])])
        raise FlorenceError(
            f"{field}: {first['msg']}" + ("" if first["type"] == "missing" else f"; found {shorten(first['input'])}")
        ) from None


class LineReader:
    """Whole lines of bytes that come in pieces. ``number``: how many there were; ``rest``: what has no end yet."""

    def __init__(self) -> None:
        self.number = 0
        self.rest = bytearray()

    def of(self, data: bytes) -> Iterator[bytes]:
        """The lines that ``data`` makes whole, blank ones left out. Raises ProtocolError where one has more than `MAX_LINE` bytes."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            line, self.rest = bytes(self.rest + end), bytearray()
            self.number += 1
            if line.strip():
                yield line
        self.rest += rest
        if len(self.rest) > MAX_LINE:
            raise ProtocolError(f"line {self.number + 1} has more than {MAX_LINE:,} bytes")


def encode_png(pixels: np.ndarray, level: int) -> bytes:
    """Pixels (H, W, 3) uint8 as a PNG file. ``level``: 0 stores them, which is as quick as it gets; 1…9 take more time and less room."""
    height, width = pixels.shape[:2]
    values = pixels.reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 2 if level else 0  # each row as its difference from the one above, which packs better
    rows[:, 1:] = values
    if level:
        rows[1:, 1:] -= values[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), level)), (b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
