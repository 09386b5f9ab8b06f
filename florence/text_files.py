"""Text files of other people: how they are encoded, and whether one beside a picture is a caption at all.

A ``.txt`` beside a picture may be a caption, or the labels of the picture in one of many formats (YOLO, DOTA, KITTI,
ICDAR, the boxes of a labelling tool), a list of names or of paths. Numbers are never a caption.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import posixpath
import re
import zlib

from florence.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and their encodings; that of UTF-32 begins with that of UTF-16."""

LIST_NAMES = frozenset(
    "_darknet _classes classes classnames class_names labels labelmap label_map names obj predefined_classes "
    "train val valid validation test trainval images readme licence license requirements".split()
)
"""Names, without ending, of files that belong to a whole folder: lists of classes or of pictures, notes."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_PARTS = re.compile(r"[\s,;|]+")
_PICTURE = re.compile(r"\S.*\.(?:jpe?g|png|gif|bmp|webp|tiff?|heic|avif|jfif)", re.IGNORECASE)
_HEADER = re.compile(r"(?:imagesource|gsd|acquisition dates)\s*:.*", re.IGNORECASE)


MAX_UNPACKED = 4 << 30
"""Most bytes that a compressed file may become."""


def decode_text(data: bytes, encoding: str = "") -> str:
    """Return the text of a file: by its byte order mark, else in ``encoding``, else in UTF-8.

    UTF-16 without a mark is known by its zero bytes; a file compressed by gzip is unpacked first. Raises DataError
    where the bytes are not in that encoding; the message has no file's name.
    """
    data = _unpack(data) if data.startswith(b"\x1f\x8b") else data
    found = next((name for mark, name in _MARKS if data.startswith(mark)), encoding or _guess_encoding(data))
    try:
        return data.decode(found)
    except LookupError:
        raise DataError(f"{found!r} is no encoding that Python knows; utf-8, cp1252 and gbk are some") from None
    except UnicodeError as error:
        at = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else "it"
        raise DataError(f"{at} is not {found.upper()}, the encoding that is expected") from None


def _unpack(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(MAX_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"it begins as a file of gzip, and cannot be unpacked: {error}") from None
    if len(unpacked) > MAX_UNPACKED:
        raise DataError(f"unpacked, it has more than {MAX_UNPACKED >> 30} GiB; unpack it and divide it")
    return unpacked


def _guess_encoding(data: bytes) -> str:
    """Return UTF-16 where most characters have a zero byte on one side, as those of Latin texts have; else UTF-8."""
    even, odd = data[0:4096:2], data[1:4096:2]
    for name, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if 2 * zeros.count(0) > len(zeros) and 10 * others.count(0) < len(others):
            return name
    return "utf-8"


def explain_non_caption(text: str, name: str = "") -> str:
    """Return why the text of a file beside a picture is not its caption, as a phrase to be counted; empty if it is one.

    ``name``: of the file. An empty text is no caption either.
    """
    stem = posixpath.splitext(posixpath.basename(name))[0].casefold()
    if stem in LIST_NAMES:
        return "a list or a note of the whole folder"
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return "no text" if not text.strip() else "comments alone"
    if "\0" in text or text.count("\ufffd") > len(text) // 10:
        return "not a text file"
    if _is_markup(text.strip()):
        return "XML or JSON"
    if all(_NUMBER.fullmatch(part) for line in lines for part in _PARTS.split(line) if part):
        return "numbers alone, as labels are"
    labels = sum(is_label_line(line) or _HEADER.fullmatch(line) is not None for line in lines)
    if 2 * labels >= len(lines):
        return "lines of labels with coordinates"
    if all(_PICTURE.fullmatch(line) for line in lines) and (len(lines) > 1 or not re.search(r"\s", lines[0])):
        return "names of pictures"
    return ""


def is_label_line(line: str) -> bool:
    """Return whether a line is a label with coordinates: at least four numbers in a row, with few words around them."""
    parts = [part for part in _PARTS.split(line.strip()) if part]
    numbers = [_NUMBER.fullmatch(part) is not None for part in parts]
    run = best = 0
    for number in numbers:
        run = run + 1 if number else 0
        best = max(best, run)
    if best < 4:
        return False
    # labels begin or end with their numbers: a class's name before them, a class or a text after them
    first = "," in line and len(numbers) >= 8 and all(numbers[:8])
    return first or len(parts) - sum(numbers) <= max(2, best // 2)


def _is_markup(text: str) -> bool:
    if text.startswith("<") and re.match(r"<(?:\?xml|!doctype|annotations?\b)", text, re.IGNORECASE):
        return True
    if text[0] not in "[{":
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
