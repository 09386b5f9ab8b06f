"""Image files: bytes → upright RGB pixels, checked before they are decoded; perceptual hashes."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageFile, ImageOps

from florence.errors import ImageError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""Formats that are read. Others, such as EPS, can start foreign programs."""
MAX_PIXELS = 100_000_000
ORIENTATION = 0x0112
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
    struct.error,
)
"""What Pillow raises for damaged files; it depends on the format."""
HASH_SIDE, MIN_CONTRAST = 16, 8
"""Frequencies on each side of a perceptual hash; levels of grey (of 256) that a hashed image spans at least."""


def decode_image(data: bytes, name: str, *, min_side: int = 1, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels (height, width, 3), uint8, RGB, of an image file, with its EXIF orientation applied.

    Transparent pixels are put on white, 16 bits are scaled to 8, an animation gives its first frame. Colour profiles
    are not applied. Raises ImageError(name, reason) with reason empty, unreadable, truncated, too_large (width × height
    above ``max_pixels``; not decoded) or too_small (a side below ``min_side``).
    """
    with open_image(data, name, min_side=min_side, max_pixels=max_pixels) as image:
        return np.ascontiguousarray(_rgb(image))


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
        raise _damage_error(data, name, error) from None
    if image.format == "GIF" and _is_gif_cut(data):
        raise ImageError(name, "truncated", f"the file ends after {len(data):,} bytes, inside the first frame")
    try:
        return ImageOps.exif_transpose(image)
    except MALFORMED:
        return image  # the EXIF data are damaged, the image is whole


def make_upright(data: bytes, name: str) -> bytes:
    """Return ``data`` if its image is stored upright, else an upright file of the same format (JPEG quality 95).

    Not every program applies the EXIF orientation. Raises ImageError as `decode_image` does.
    """
    with _read_header(data, name) as image:
        if _orientation(image) == 1:
            return data
        form, profile = image.format, image.info.get("icc_profile")
    sink = io.BytesIO()
    with open_image(data, name) as image:
        image.info.pop("exif", None)
        image.save(sink, "JPEG" if form == "MPO" else form, quality=95, icc_profile=profile)
    return sink.getvalue()


def _read_header(data: bytes, name: str) -> Image.Image:
    """Return the image with only its header read; Pillow's own limit of pixels is not applied, so the size is known."""
    if not data:
        raise ImageError(name, "empty", "0 bytes")
    Image.init()
    failure: BaseException | None = None
    for form in FORMATS:
        factory, accept = Image.OPEN[form]
        if accept is not None and accept(data[:16]) is not True:
            continue
        try:
            return factory(io.BytesIO(data), name)
        except MALFORMED as error:
            failure = failure or error
    raise (
        _damage_error(data, name, failure)
        if failure
        else ImageError(name, "unreadable", f"not in an image format that is read ({', '.join(FORMATS)})")
    )


def _damage_error(data: bytes, name: str, error: BaseException) -> ImageError:
    if _is_cut_short(data):
        return ImageError(name, "truncated", f"the file ends after {len(data):,} bytes")
    return ImageError(name, "unreadable", f"damaged: {str(error)[:120]}" if str(error) else "damaged")


def _is_cut_short(data: bytes) -> bool:
    """Return whether a damaged file lacks its end, judged by the end mark or length of its format."""
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


def _rgb(image: Image.Image) -> np.ndarray:
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
