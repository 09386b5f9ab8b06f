"""What others may ask a served model: one row of a request, checked before anything of it is decoded.

A row is an image, a task, and the input of the task's prompt. Whatever serves a model uses `read_request`. An image is
the bytes of a file, those in base64, or a data URL: never a path or an address, which the server would open for
whoever asks. All images that cannot be used have one error text, which tells nothing about the server.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from florence.errors import EncodeError, FlorenceError, ImageError, UnknownNameError
from florence.images import decode_image
from florence.tasks import task as find_task

MAX_TASK = 64
"""Characters of a task's name that is looked up."""
DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.IGNORECASE)
BASE64_SHARE = 1.4
"""Characters of base64 for a byte, with line ends: 4/3, and two of 64."""
URL_SAFE = str.maketrans("-_", "+/", " \t\r\n\f\v")
"""Both alphabets of base64 are read; white space is left out."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a request may have at most.

    ``rows``: rows; ``image_bytes``: bytes of one image's file; ``pixels``: of one image; ``characters``: of an input;
    ``request_bytes``: bytes of all images of a request, each counted once; ``body_bytes``: of a request as it is sent.
    """

    rows: int = 10_000
    image_bytes: int = 20_000_000
    pixels: int = 50_000_000
    characters: int = 2_000
    request_bytes: int = 50_000_000
    body_bytes: int = 75_000_000

    @property
    def image_error(self) -> str:
        """The error of every image that cannot be used."""
        return (
            "the image cannot be used: a whole picture file is expected (JPEG, PNG, WebP, …) as bytes, in base64 or as "
            f"a data URL, of at most {self.image_bytes:,} bytes and {self.pixels:,} pixels"
        )


LIMITS = RequestLimits()


class RequestError(FlorenceError):
    """A row of a request cannot be answered; the others can."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A row of a request. ``image``: the bytes of a file, not decoded yet; ``prompt``: the task's, with its input."""

    image: bytes
    task: str
    input: str
    prompt: str


def read_request(image: Any, task: Any, input: Any, limits: RequestLimits = LIMITS) -> ModelRequest:
    """Check a row of a request: an image, a task as "<OD>", and the input of its prompt, None or NaN for none.

    Raises RequestError, which says what is wrong with the row.
    """
    if not isinstance(task, str) or len(task) > MAX_TASK:
        raise RequestError(f'task: a name is expected, as "<OD>"; found {_shown(task)}')
    if _is_missing(input):
        input = ""
    if not isinstance(input, str):
        raise RequestError(f"input: a text is expected; found {_shown(input)}")
    if len(input) > limits.characters:
        raise RequestError(f"input: {len(input):,} characters; at most {limits.characters:,} are allowed")
    if not _is_unicode(task) or not _is_unicode(input):
        raise RequestError("task and input: half of a surrogate pair is no text")
    try:
        prompt = find_task(task).prompt(input)
    except (UnknownNameError, EncodeError) as error:
        raise RequestError(str(error)) from None
    return ModelRequest(read_image(image, limits), task, input, prompt)


def read_image(image: Any, limits: RequestLimits = LIMITS) -> bytes:
    """Return the bytes of an image's file, given as bytes, in base64 or as a data URL. Raises RequestError."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image) if len(image) <= limits.image_bytes else b""
    elif isinstance(image, str) and len(image) <= limits.image_bytes * BASE64_SHARE + 200:
        data = _decode_base64(image)
    else:
        data = b""
    if not 0 < len(data) <= limits.image_bytes:
        raise RequestError(limits.image_error)
    return data


def decode_request_image(data: bytes, limits: RequestLimits = LIMITS) -> np.ndarray:
    """Return the pixels (height, width, 3), uint8, of an image's file. Raises RequestError."""
    try:
        return decode_image(data, "image", max_pixels=limits.pixels)
    except (ImageError, MemoryError):
        raise RequestError(limits.image_error) from None


def _decode_base64(text: str) -> bytes:
    """Return the bytes of a text in base64, b"" where it is none."""
    if found := DATA_URL.match(text):
        text = text[found.end() :]
    text = text.translate(URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    return f"a text of {len(value):,} characters" if isinstance(value, str) else type(value).__name__
