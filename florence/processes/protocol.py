"""The protocol of annotators outside this process: a line of JSON for each request about an image, and for each answer.

docs/annotators.md documents it for writers of such annotators. Both sides are here: `format_request` and
`parse_answer` for the side that asks, `parse_request` and `format_answer` for the annotator.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from florence.errors import FlorenceError, UnavailableError
from florence.processes.annotations import AnnotationLine, Text, WireLine, build_claim, shorten
from florence.records import Annotation, Claim, ClaimsOrError, ImageRecord, PartialClaims, Region

CONTENT_TYPE = "application/x-ndjson"
MAX_LINE = 64 * 2**20
"""Bytes of an answer's line at most."""
MAX_REASON = 2000
"""Characters of an answer's error that are kept."""


class ProtocolError(FlorenceError):
    """A line that answers nothing that was asked; nothing else that its writer writes can be trusted."""


class AnswerLine(WireLine):
    """An answer, as JSON has it. Its annotations are checked one by one, later."""

    image_id: str
    annotations: tuple[Any, ...] | None = None
    looked_at: tuple[str, ...] | None = None
    error: Text | None = None
    retry: Annotated[bool, Field(strict=True)] = False


class ClaimLine(AnnotationLine):
    """An earlier claim in a request, as JSON has it."""

    annotation_id: str = ""
    annotator: str = ""
    version: str = ""
    round: int = 0


class RequestLine(WireLine):
    """A request, as JSON has it."""

    image_id: str
    width: Annotated[int, Field(strict=True, ge=1)]
    height: Annotated[int, Field(strict=True, ge=1)]
    path: str | None = None
    image: str | None = None
    source: str = ""
    name: str = ""
    alt_text: str | None = None
    claims: tuple[ClaimLine, ...] = ()


@dataclass(frozen=True, slots=True)
class AnnotationRequest:
    """A request about one image, with the bytes of its file (``image``) or the path to it."""

    record: ImageRecord
    claims: tuple[Annotation, ...]
    path: str | None
    image: bytes | None


# ---------------------------------------------------------------- the side that asks


def format_request(
    record: ImageRecord, claims: Iterable[Annotation] | None, *, path: str | None = None, image: bytes | None = None
) -> bytes:
    """Return the line, ASCII with its end, that asks about one image.

    ``claims``: those of earlier annotators; None where the annotator does not read them.
    """
    line: dict[str, Any] = {"image_id": record.image_id, "width": record.width, "height": record.height}
    line |= {"source": record.source, "name": record.name, "alt_text": record.alt_text}
    line |= {"path": path} if image is None else {"image": base64.b64encode(image).decode()}
    if claims is not None:
        identity = ("annotation_id", "annotator", "version", "round")
        line["claims"] = [
            {name: getattr(row, name) for name in identity}
            | _annotation_fields(row.task, row.text, row.regions, row.score)
            for row in claims
        ]
    return _format_json(line)


def parse_answer(
    line: bytes, number: int, requested: Mapping[str, ImageRecord], tasks: Collection[str]
) -> tuple[str, ClaimsOrError]:
    """Return the id of the image that a line answers about, and its claims or the error that this image gets.

    ``number``: of the line, for errors. ``requested``: the images that an answer may be about, by id. ``tasks``: the
    annotation types that may be claimed. Raises ProtocolError where the line is no JSON object, or about another image.
    """
    value = _parse_object(line, number)
    image_id = value.get("image_id")
    if not isinstance(image_id, str) or image_id not in requested:
        raise ProtocolError(
            f"line {number}, image_id: one of the {len(requested)} that were asked is expected; "
            f"found {shorten(image_id)}"
        )
    try:
        answer = _validate(AnswerLine, value, f"line {number}")
        if answer.error or (answer.error is not None and answer.annotations is None):
            return image_id, (UnavailableError if answer.retry else FlorenceError)(
                answer.error[:MAX_REASON] or "the program gives no reason"
            )
        if answer.annotations is None:
            raise FlorenceError(
                f"line {number}, annotations: a list is expected, empty where nothing is seen; found none"
            )
        claims = _parse_claims(answer.annotations, f"line {number}", requested[image_id], tasks)
        return image_id, _limit_looks(claims, answer.looked_at, f"line {number}", tasks)
    except FlorenceError as error:
        return image_id, error


def _parse_claims(items: Sequence[Any], where: str, record: ImageRecord, tasks: Collection[str]) -> list[Claim]:
    """Return the claims of an answer. Raises FlorenceError for the first wrong one, which says what is lost with it."""
    claims = []
    for index, item in enumerate(items):
        try:
            claims.append(_parse_claim(item, f"{where}, annotations.{index}", record, tasks))
        except FlorenceError as error:
            others = len(items) - 1
            lost = f"; the {others} other annotations of the image are not used either" if others > 1 else ""
            lost = "; the other annotation of the image is not used either" if others == 1 else lost
            raise FlorenceError(f"{error}{lost}") from None
    return claims


def _limit_looks(
    claims: list[Claim], looked_at: Sequence[str] | None, where: str, tasks: Collection[str]
) -> list[Claim]:
    """Return claims that say what the image was looked at for, where an answer does.

    Raises FlorenceError for a type that was not declared.
    """
    if looked_at is None:
        return claims
    if wrong := [task for task in looked_at if task not in tasks]:
        raise FlorenceError(
            f"{where}, looked_at: some of the declared tasks are expected, {', '.join(tasks)}; "
            f"found {shorten(wrong[0])}"
        )
    return PartialClaims(claims, [task for task in tasks if task in looked_at])


def _parse_claim(item: Any, where: str, record: ImageRecord, tasks: Collection[str]) -> Claim:
    line = _validate(AnnotationLine, item, where)
    if line.task not in tasks:
        raise FlorenceError(
            f"{where}.task: one of the declared tasks is expected, {', '.join(tasks)}; found {shorten(line.task)}"
        )
    return build_claim(line, where, record)


# ---------------------------------------------------------------- the annotator's side


def parse_request(line: bytes, number: int) -> AnnotationRequest:
    """Return the request of a line. Raises ProtocolError naming the field where it is none."""
    value = _parse_object(line, number)
    try:
        request = _validate(RequestLine, value, f"line {number}")
        image = None if request.image is None else base64.b64decode(request.image, validate=True)
    except binascii.Error as error:
        raise ProtocolError(f"line {number}, image: base64 is expected; {error}") from None
    except FlorenceError as error:
        raise ProtocolError(str(error)) from None
    if image is None and request.path is None:
        raise ProtocolError(
            f"line {number}: the image is expected, as path or as image; found {', '.join(sorted(value))}"
        )
    record = ImageRecord(
        request.image_id, request.width, request.height, request.source, request.name, "", request.alt_text, "train"
    )
    claims = tuple(_build_annotation(row, request.image_id) for row in request.claims)
    return AnnotationRequest(record, claims, request.path, image)


def _build_annotation(line: ClaimLine, image_id: str) -> Annotation:
    claim = line.claim()
    return Annotation(
        line.annotation_id,
        image_id,
        claim.task,
        line.annotator,
        line.version,
        line.round,
        claim.text,
        claim.regions,
        claim.score,
    )


def format_answer(image_id: str, answer: ClaimsOrError) -> bytes:
    """Return the line, ASCII with its end, that answers about one image.

    A claim that JSON cannot hold, such as one with the score NaN, makes the answer an error.
    """
    if not isinstance(answer, FlorenceError):
        try:
            annotations = [_annotation_fields(c.task, c.text, c.regions, c.score) for c in answer]
            looks = {"looked_at": answer.looked_at} if isinstance(answer, PartialClaims) else {}
            return _format_json({"image_id": image_id, "annotations": annotations, **looks})
        except (ValueError, TypeError) as error:
            answer = FlorenceError(f"a claim cannot be written as JSON: {error}")
    return _format_json({"image_id": image_id, "error": str(answer), "retry": isinstance(answer, UnavailableError)})


# ---------------------------------------------------------------- both sides


def _annotation_fields(task: str, text: str, regions: Iterable[Region], score: float | None) -> dict[str, Any]:
    return {
        "task": task,
        "text": text,
        "score": _float(score),
        "regions": [_region_fields(region) for region in regions],
    }


def _region_fields(region: Region) -> dict[str, Any]:
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


def _format_json(value: dict[str, Any]) -> bytes:
    # ASCII is read the same whatever encoding the other side assumes.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _parse_object(line: bytes, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ProtocolError(
            f"line {number}: a JSON object is expected (what is not an answer belongs on standard error); "
            f"found {shorten(line.decode(errors='replace').strip())}"
        )
    return value


def _validate(model: type[Any], value: Any, where: str) -> Any:
    """Return ``value`` as a ``model``. Raises FlorenceError naming the first wrong field, and what was found."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([where, *map(str, first["loc"])])
        raise FlorenceError(
            f"{field}: {first['msg']}" + ("" if first["type"] == "missing" else f"; found {shorten(first['input'])}")
        ) from None


class LineReader:
    """Whole lines out of bytes that come in pieces. ``number``: of the last line; ``rest``: what has no end yet."""

    def __init__(self) -> None:
        self.number = 0
        self.rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that ``data`` completes, without blank ones.

        Raises ProtocolError where one has more than `MAX_LINE` bytes.
        """
        *ends, rest = data.split(b"\n")
        for end in ends:
            line, self.rest = bytes(self.rest + end), bytearray()
            self.number += 1
            if line.strip():
                yield line
        self.rest += rest
        if len(self.rest) > MAX_LINE:
            raise ProtocolError(f"line {self.number + 1} has more than {MAX_LINE:,} bytes")
