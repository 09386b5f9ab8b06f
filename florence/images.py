"""Image files: bytes → upright RGB pixels, checked before they are decoded; perceptual hashes."""

from __future__ import annotations

import io
import posixpath
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps

from florence.errors import ImageError

try:
    from pillow_heif import register_heif_opener
except ImportError:
    register_heif_opener = None  # type: ignore[assignment]

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
"""Formats that are read, HEIF with the extra ``heic``. Others, such as EPS, can start foreign programs."""
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jif .pjpeg .pjp .mpo .png .apng .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm "
    ".avif .heic .heif .hif .jp2 .j2k .jpx".split()
)
"""Endings of the files of these formats."""
COMMON_FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""Formats that programs for training open, with the endings by which they find the files (`CommonForm`)."""
PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
"""Modes of Pillow's images that a PNG can hold."""
MAX_PIXELS = 100_000_000
ORIENTATION = 0x0112
PNG_MARK, JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd9"
MAX_TEXT = 1 << 20
"""Bytes of a text or colour profile in a PNG above which Pillow refuses the whole file."""
_MARKS: dict[str, tuple[tuple[int, bytes], ...]] = {
    "JPEG": ((0, b"\xff\xd8\xff"),),
    "PNG": ((0, PNG_MARK),),
    "GIF": ((0, b"GIF87a"), (0, b"GIF89a")),
    "WEBP": ((8, b"WEBP"),),
    "BMP": ((0, b"BM"),),
    "TIFF": ((0, b"II*\0"), (0, b"MM\0*")),
    "AVIF": ((4, b"ftypavif"), (4, b"ftypavis")),
    "JPEG2000": ((0, b"\xff\x4f\xff\x51"), (0, b"\0\0\0\x0cjP  ")),
    "HEIF": tuple((4, b"ftyp" + brand) for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    "PDF": ((0, b"%PDF"),),
    "ZIP": ((0, b"PK\x03\x04"), (0, b"PK\x05\x06")),
    "TAR": ((257, b"ustar"),),
    "GZIP": ((0, b"\x1f\x8b"),),
    "7Z": ((0, b"7z\xbc\xaf\x27\x1c"),),
    "RAR": ((0, b"Rar!"),),
    "XZ": ((0, b"\xfd7zXZ"),),
    "BZIP2": ((0, b"BZh"),),
    "ZSTANDARD": ((0, b"\x28\xb5\x2f\xfd"),),
    "MP4": ((4, b"ftyp"),),
    "HTML": ((0, b"<!DOCTYPE html"), (0, b"<!doctype html"), (0, b"<html")),
}
"""What files begin with, as (offset, bytes)."""
ARCHIVES = frozenset({"ZIP", "TAR", "GZIP", "7Z", "RAR", "XZ", "BZIP2", "ZSTANDARD"})
MALFORMED = (
    SyntaxError,
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
    EOFError,
    OSError,
    RuntimeError,
    struct.error,
)
"""What Pillow raises for damaged files; it depends on the format."""
HASH_SIDE, MIN_CONTRAST = 16, 8
"""Frequencies on each side of a perceptual hash; levels of grey (of 256) that a hashed image spans at least."""


def is_image(name: str) -> bool:
    """Return whether a path has the ending of a picture's file."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def decode_image(data: bytes, name: str, *, min_side: int = 1, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels (height, width, 3), uint8, RGB, of an image file, with its EXIF orientation applied.

    Transparent pixels are put on white, 16 bits are scaled to 8, an animation gives its first frame. Colour profiles
    are not applied. Raises ImageError(name, reason) with reason empty, unreadable, truncated, too_large (width × height
    above ``max_pixels``; not decoded) or too_small (a side below ``min_side``).
    """
    with open_image(data, name, min_side=min_side, max_pixels=max_pixels) as image:
        return np.ascontiguousarray(rgb_pixels(image))


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """Return width and height of the upright image, from its header alone.

    Raises ImageError (empty, unreadable, truncated).
    """
    with _read_header(data, name) as image:
        width, height = image.size
        # Pillow has swapped the sides of a rotated TIFF already when it read the header.
        return (height, width) if image.format != "TIFF" and _orientation(image) >= 5 else (width, height)


def open_image(data: bytes, name: str, *, min_side: int = 1, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the first frame as a Pillow image in its own mode, decoded and upright.

    Raises ImageError as `decode_image` does.
    """
    image = _read_header(data, name)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            name, "too_large", f"{width} × {height} pixels; at most {max_pixels:,} are allowed (collect.max_pixels)"
        )
    if min(width, height) < min_side:
        raise ImageError(
            name, "too_small", f"{width} × {height} pixels; sides of at least {min_side} are needed (collect.min_side)"
        )
    # Other libraries switch this on for the whole process; half an image would then pass as a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
    except MALFORMED as error:
        image = _load_despite(data, name, error)
    if image.format == "GIF" and _is_gif_cut(data):
        raise ImageError(name, "truncated", f"the file ends after {len(data):,} bytes, inside the first frame")
    try:
        return ImageOps.exif_transpose(image)
    except MALFORMED:
        return image  # the EXIF data are damaged, the image is whole


@dataclass(frozen=True, slots=True)
class CommonForm:
    """How an image file is written for other programs.

    ``endings``: those of its format there, the usual one first. ``converted``: its own format is none that they all
    open, so it becomes a PNG. ``rotated``: it is stored on its side, which not every program notices.
    """

    endings: tuple[str, ...]
    converted: bool
    rotated: bool


def find_common_form(data: bytes, name: str) -> CommonForm:
    """Return how an image file is written for other programs, from its header alone.

    Raises ImageError (empty, unreadable, truncated).
    """
    with _read_header(data, name) as image:
        converted = image.format not in COMMON_FORMATS
        return CommonForm(COMMON_FORMATS["PNG" if converted else str(image.format)], converted, _orientation(image) > 1)


def write_common_form(data: bytes, name: str) -> bytes:
    """Return ``data`` if every program reads its image as it is meant, else an upright file (JPEG quality 95).

    That has the same format, or is a PNG (`CommonForm`). Raises ImageError as `decode_image` does.
    """
    form = find_common_form(data, name)
    if not form.converted and not form.rotated:
        return data
    with _read_header(data, name) as image:
        format, profile = image.format, image.info.get("icc_profile")
    sink = io.BytesIO()
    with open_image(data, name) as image:
        image.info.pop("exif", None)
        if form.converted and image.mode not in PNG_MODES:
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.save(
            sink,
            "PNG" if form.converted else "JPEG" if format == "MPO" else format,
            quality=95,
            icc_profile=profile if image.mode in PNG_MODES or not form.converted else None,
        )
    return sink.getvalue()


def _read_header(data: bytes, name: str) -> Image.Image:
    """Return the image with only its header read; Pillow's own limit of pixels is not applied, so the size is known."""
    if not data:
        raise ImageError(name, "empty", "0 bytes")
    Image.init()
    can_open_heic()
    failure: BaseException | None = None
    for form in (form for form in FORMATS if form in Image.OPEN):
        factory, accept = Image.OPEN[form]
        if accept is not None and accept(data[:16]) is not True:
            continue
        try:
            return factory(io.BytesIO(data), name)
        except MALFORMED as error:
            failure = failure or error
            if form == "PNG" and (bare := _strip_png(data)) != data:
                return _read_header(bare, name)
    raise (_damage_error(data, name, failure) if failure else ImageError(name, "unreadable", _explain_format(data)))


def can_open_heic() -> bool:
    """Return whether HEIC pictures can be read: whether pillow-heif, the extra ``heic``, is installed."""
    if register_heif_opener is not None and "HEIF" not in Image.OPEN:
        register_heif_opener(thumbnails=False)
    return register_heif_opener is not None


def sniff_format(head: bytes) -> str:
    """Return the format of a file by its first bytes: one of `FORMATS`, another that is known, or ""."""
    for form, marks in _MARKS.items():
        if any(head[offset:].startswith(mark) for offset, mark in marks):
            return form
    return ""


def _explain_format(data: bytes) -> str:
    form = sniff_format(data[:512])
    if form == "HEIF":
        return "a HEIC picture: `pip install 'florence[heic]'` brings what reads it"
    return f"{f'a {form} file' if form else 'not in an image format that is read'} ({', '.join(FORMATS)})"


def _load_despite(data: bytes, name: str, error: BaseException) -> Image.Image:
    """Return a picture that Pillow refuses though all of its pixels are there; raise ImageError for any other."""
    if data.startswith(PNG_MARK) and (bare := _strip_png(data)) != data:
        rest = bare
    elif data.startswith(b"\xff\xd8") and _has_all_pixels(data):
        rest = data + JPEG_END
    else:
        raise _damage_error(data, name, error) from None
    try:
        image = _read_header(rest, name)
        image.load()
    except (ImageError, *MALFORMED):
        raise _damage_error(data, name, error) from None
    return image


def _strip_png(data: bytes) -> bytes:
    """Return a PNG without what is not part of the picture and may be why it was refused.

    That is large texts and colour profiles, and chunks of metadata with a wrong checksum.
    """
    parts, at, texts = [PNG_MARK], len(PNG_MARK), 0
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        form, end = data[at + 4 : at + 8], at + 12 + size
        whole, body = data[at:end], data[at + 8 : end - 4]
        is_needed = form[:1].isupper() or form in (b"tRNS", b"acTL", b"fcTL", b"fdAT")
        if not is_needed and zlib.crc32(form + body) != int.from_bytes(whole[-4:], "big"):
            whole = b""
        elif form in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            texts += (length := _inflated_size(form, body))
            whole = whole if length <= MAX_TEXT and texts <= 8 * MAX_TEXT else b""
        parts.append(whole)
        at = end
    return b"".join(parts) + data[at:]


def _inflated_size(form: bytes, body: bytes) -> int:
    """Return how long a chunk is when it is inflated, but never more than `MAX_TEXT` + 1."""
    start = body.find(b"\0") + 1
    if form == b"iTXt":
        if body[start : start + 1] != b"\x01":
            return len(body)
        start = body.find(b"\0", body.find(b"\0", start + 2) + 1)
    if form == b"tEXt":
        return len(body)
    try:
        return len(zlib.decompressobj().decompress(body[start + 1 :], MAX_TEXT + 1))
    except zlib.error:
        return MAX_TEXT + 1


def _has_all_pixels(data: bytes) -> bool:
    """Return whether a JPEG that has no end mark has all of its pixels: what follows them then changes none.

    Of a progressive one that is unknown: later scans may be missing.
    """
    if JPEG_END in data[-2:] or not (b"\xff\xc0" in data or b"\xff\xc1" in data) or b"\xff\xc2" in data[:65536]:
        return False
    try:
        first, second = (
            Image.OPEN["JPEG"][0](io.BytesIO(data + rest + JPEG_END), "") for rest in (b"", b"\xa5\x5a\x3c" * 99)
        )
        return first.tobytes() == second.tobytes()
    except MALFORMED:
        return False


def _damage_error(data: bytes, name: str, error: BaseException) -> ImageError:
    if _is_cut_short(data):
        return ImageError(name, "truncated", f"the file ends after {len(data):,} bytes")
    return ImageError(name, "unreadable", f"damaged: {str(error)[:120]}" if str(error) else "damaged")


def _is_cut_short(data: bytes) -> bool:
    """Return whether a damaged file lacks its end, judged by the end mark or length of its format."""
    if data[4:8] in (b"ftyp", b"jP  "):
        at = 0
        while at + 8 <= len(data) and (size := int.from_bytes(data[at : at + 4], "big")) > 1:
            at += size
        return at > len(data) or at + 8 > len(data) > at
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" not in data[-1024:]
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" not in data[-1024:]
    if data[:4] == b"GIF8":
        return data.rstrip(b"\0")[-1:] != b";"
    if data[:4] == b"RIFF" and len(data) >= 8:
        return struct.unpack("<I", data[4:8])[0] + 8 > len(data)
    if data[:2] == b"BM" and len(data) >= 6:
        return struct.unpack("<I", data[2:6])[0] > len(data)
    # TIFF and PPM have no end mark: Pillow fails on them at the first strip or row that is missing.
    return data[:4] in (b"II*\0", b"MM\0*") or (data[:1] == b"P" and data[1:2].isdigit())


def _is_gif_cut(data: bytes) -> bool:
    """Return whether the first frame ends early: Pillow leaves its lower part empty, without an error."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while at < len(data):
        mark = data[at]
        at += {0x21: 2, 0x2C: 10}.get(mark, len(data))
        if mark == 0x2C and at <= len(data):
            at += (3 << (data[at - 1] & 7) + 1 if data[at - 1] & 0x80 else 0) + 1
        while at < len(data) and data[at]:
            at += data[at] + 1
        if at >= len(data):
            return True
        at += 1
        if mark == 0x2C:
            return False
    return True


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except MALFORMED:
        return 1


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """Return an image of any mode as (height, width, 3) uint8."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = _to_eight_bits(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Return grey values as uint8: 16-bit values by their full range, others by the range they use."""
    if values.dtype == np.uint16 or (values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 65535):
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if values.dtype.kind == "f" and 0 <= low and high <= 1:
        low, high = 0.0, 1.0
    scaled = (np.nan_to_num(wide, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return ``pixels`` (H, W, 3) shrunk by area to a longer side of at most ``side``; never enlarged."""
    import cv2

    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    return cv2.resize(
        pixels, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )


def perceptual_hash(pixels: np.ndarray) -> str | None:
    """Return the perceptual hash (imagehash's pHash) of an image (H, W, 3): 256 bits as 64 hexadecimal digits.

    Hashes of copies that are scaled, compressed again or a little brighter differ in few bits, hashes of different
    images in about half of the bits. None for an image with too little contrast.
    """
    import imagehash

    side = 4 * HASH_SIDE
    grey = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.LANCZOS)
    if np.ptp(np.asarray(grey).astype(int)) < MIN_CONTRAST:
        return None
    return str(imagehash.phash(grey, hash_size=HASH_SIDE))
