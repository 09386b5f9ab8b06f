"""Decoding against known pixels, in every form that photos come in."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from florence import images
from florence.errors import ImageError
from florence.images import can_open_heic, decode_image, read_size, sniff_format

ORIENTATION = 0x0112


def encoded(image: Image.Image, form: str, **options) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def picture(width: int = 60, height: int = 40) -> np.ndarray:
    """Four flat quarters, so that orientation and colour survive JPEG."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 40)
    pixels[height // 2 :, : width // 2] = (30, 40, 220)
    pixels[height // 2 :, width // 2 :] = (240, 230, 60)
    return pixels


def noise(width: int = 90, height: int = 70) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_chunk(form: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + form + data + struct.pack(">I", zlib.crc32(form + data))


def raw_png(values: np.ndarray, depth: int, colour: int) -> bytes:
    """Return a PNG written by hand from big-endian samples (height, width[, channels])."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def reason(data: bytes, **options) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "x", **options)
    return caught.value.reason


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, form):
    upright = picture()
    # What a camera stores for each orientation, from the meaning of the tag: where row 0 and column 0 lie.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 95, "exif": exif} if form in ("JPEG", "WEBP") else {"exif": exif}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, **options)
    pixels = decode_image(data, "x")
    assert pixels.shape == upright.shape
    assert read_size(data, "x") == (60, 40)
    assert np.abs(pixels.astype(int) - upright).mean() < 6


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 64).astype(">u2").reshape(8, 8)
    expected = np.round(values.astype(float) / 257)
    grey = decode_image(raw_png(values, 16, 0), "x")
    assert np.abs(grey[..., 0] - expected).max() == 0
    rgb = decode_image(raw_png(np.repeat(values[..., None], 3, 2), 16, 2), "x")
    assert np.abs(rgb[..., 1] - expected).max() <= 1
    tiff = decode_image(encoded(Image.fromarray(values.astype("<u2")), "TIFF"), "x")
    assert np.array_equal(tiff, grey)


def test_float_and_wide_integer_grey():
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    assert np.array_equal(decode_image(encoded(Image.fromarray(ramp), "TIFF"), "x")[..., 0], np.round(ramp * 255))
    wide = Image.fromarray((ramp * 2_000_000).astype(np.int32))
    assert np.abs(decode_image(encoded(wide, "TIFF"), "x")[..., 0] - ramp * 255).max() <= 1


@pytest.mark.parametrize("marker", [True, False])
def test_cmyk_jpeg(marker):
    ink = np.zeros((32, 32, 4), np.uint8)
    ink[..., 1] = ink[..., 2] = 255  # magenta and yellow ink: red
    data = encoded(Image.frombytes("CMYK", (32, 32), ink.tobytes()), "JPEG", quality=95)
    start = data.index(b"\xff\xee")
    # Samples are stored inverted, as Adobe does; files without Adobe's marker do so too.
    if not marker:
        data = data[:start] + data[start + 2 + struct.unpack(">H", data[start + 2 : start + 4])[0] :]
    red, green, blue = decode_image(data, "x").reshape(-1, 3).mean(0)
    assert red > 200 and green < 60 and blue < 60


def test_transparency_lies_over_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 3] = [[0, 128, 255, 255]] * 4
    assert decode_image(encoded(Image.fromarray(rgba), "PNG"), "x")[0, :, 0].tolist() == [255, 127, 0, 0]
    grey = Image.fromarray(rgba).convert("LA")
    assert decode_image(encoded(grey, "PNG"), "x")[0, :, 0].tolist() == [255, 127, 0, 0]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 10, 10])
    assert decode_image(encoded(palette, "PNG"), "x")[0, 0].tolist() == [200, 10, 10]
    assert decode_image(encoded(palette, "PNG", transparency=1), "x")[0, 0].tolist() == [255, 255, 255]
    assert decode_image(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), "x")[
        0, 0
    ].tolist() == [
        255,
        255,
        255,
    ]


def test_one_bit_and_grey():
    assert decode_image(encoded(Image.new("1", (5, 3), 1), "PNG"), "x").tolist() == np.full((3, 5, 3), 255).tolist()
    assert decode_image(encoded(Image.new("L", (5, 3), 77), "BMP"), "x")[0, 0].tolist() == [77] * 3


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame(form):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
    assert decode_image(data, "x").reshape(-1, 3).mean(0).tolist() == [255, 0, 0]


def test_empty_and_foreign():
    assert reason(b"") == "empty"
    assert reason(b"this is a text, whatever it is called") == "unreadable"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n") == "unreadable"
    assert reason(b"\0" * 5000) == "unreadable"
    assert reason(b"\xff\xd8\xff\xd9") in ("unreadable", "truncated")


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_stops_is_truncated(form, options, share, monkeypatch):
    data = encoded(noise(), form, **options)
    assert decode_image(data, "whole").shape == (70, 90, 3)
    cut = data[: int(len(data) * share)]
    assert reason(cut) == "truncated"
    # Set by other libraries for the whole process; half a picture must not pass even then.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert reason(cut) == "truncated"


def test_damage_inside_is_unreadable():
    data = bytearray(encoded(noise(), "PNG"))
    at = data.index(b"IDAT") + 200
    data[at : at + 60] = b"\0" * 60
    assert reason(bytes(data)) == "unreadable"


def test_huge_is_refused_by_its_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + png_chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError) as caught:
        decode_image(data, "huge.png")
    assert caught.value.reason == "too_large"
    assert "60000 × 60000" in caught.value.detail
    assert read_size(data, "huge.png") == (60_000, 60_000)


def test_bounds_of_size_are_inclusive():
    data = encoded(Image.new("RGB", (30, 20)), "PNG")
    assert decode_image(data, "x", min_side=20, max_pixels=600).shape == (20, 30, 3)
    assert reason(data, min_side=21) == "too_small"
    assert reason(data, max_pixels=599) == "too_large"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_lose_the_picture():
    data = encoded(Image.fromarray(picture()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode_image(data, "x").shape == (40, 60, 3)
    assert read_size(data, "x") == (60, 40)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]), st.data())
def test_damage_gives_pixels_or_an_image_error(form, draw):
    data = bytearray(encoded(Image.fromarray(picture()), form))
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        pixels = decode_image(bytes(data[: draw.draw(st.integers(0, len(data)))]), "x", max_pixels=10_000_000)
    except ImageError as error:
        assert error.reason in ("empty", "unreadable", "truncated", "too_large", "too_small")
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


# ---------------------------------------------------------------- whole pictures that Pillow refuses

LARGE = "x" * 3_000_000


def with_texts(*chunks: tuple[str, str, bool], international: bool = False) -> bytes:
    info = PngInfo()
    for key, text, is_compressed in chunks:
        (info.add_itxt if international else info.add_text)(key, text, zip=is_compressed)
    return encoded(noise(60, 40), "PNG", pnginfo=info)


def with_wrong_checksum() -> bytes:
    data = bytearray(with_texts(("comment", "hello", False)))
    data[data.find(b"hello")] = ord("j")
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        with_texts(("comment", LARGE, True)),
        with_texts(("XML:com.adobe.xmp", LARGE, True), international=True),
        with_texts(*((f"k{k}", LARGE, False) for k in range(30))),
        encoded(noise(60, 40), "PNG", icc_profile=bytes(3_000_000)),
        with_wrong_checksum(),
        encoded(noise(60, 40), "PNG")[:-12],
    ],
    ids=["text", "xmp", "many texts", "colour profile", "checksum of a text", "no end"],
)
def test_a_png_is_whole_whatever_its_texts_are(data):
    assert np.array_equal(decode_image(data, "x"), np.asarray(noise(60, 40)))
    assert read_size(data, "x") == (60, 40)


def test_a_png_with_a_large_text_is_still_turned_by_its_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    info = PngInfo()
    info.add_text("comment", LARGE, zip=True)
    data = encoded(noise(60, 40), "PNG", pnginfo=info, exif=exif)
    assert decode_image(data, "x").shape == (60, 40, 3) and read_size(data, "x") == (40, 60)


def test_a_png_is_damaged_where_its_pixels_are():
    data = bytearray(with_texts(("comment", LARGE, True)))
    at = data.rfind(b"IDAT") + 40
    data[at] ^= 0xFF
    with pytest.raises(ImageError, match="unreadable|truncated"):
        decode_image(bytes(data), "x")
    with pytest.raises(ImageError) as error:
        decode_image(encoded(noise(60, 40), "PNG")[:-2000], "x")
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_without_its_end_mark_is_whole_only_if_all_pixels_are_there(subsampling):
    data = encoded(noise(60, 40), "JPEG", quality=90, subsampling=subsampling)
    assert np.array_equal(decode_image(data[:-2], "x"), decode_image(data, "x"))
    for cut in range(5, len(data) - 700, 97):
        with pytest.raises(ImageError) as error:
            decode_image(data[:-cut], "x")
        assert error.value.reason == "truncated"
    with pytest.raises(ImageError):
        decode_image(encoded(noise(60, 40), "JPEG", progressive=True)[:-2], "x")


def test_metadata_of_other_formats_may_be_large():
    exif = Image.Exif()
    exif[0x010E] = "d" * 60_000
    for form, options in (
        ("JPEG", {"exif": exif, "icc_profile": bytes(500_000), "comment": b"c" * 60_000}),
        ("WEBP", {"exif": b"Exif\0\0" + bytes(3_000_000), "xmp": bytes(3_000_000), "lossless": True}),
        ("TIFF", {"icc_profile": bytes(3_000_000)}),
    ):
        assert decode_image(encoded(noise(60, 40), form, **options), "x").shape == (40, 60, 3), form


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000", "HEIF"])
def test_newer_formats_are_read(form):
    if form == "HEIF":
        pytest.importorskip("pillow_heif")
        assert can_open_heic()
    flat = Image.new("RGB", (60, 40), (200, 30, 30))
    data = encoded(flat, form)
    assert np.abs(decode_image(data, "x").astype(int) - (200, 30, 30)).max() <= 6
    assert read_size(data, "x") == (60, 40) and sniff_format(data[:512]) == form
    with pytest.raises(ImageError) as error:
        decode_image(data, "x", max_pixels=2000)
    assert error.value.reason == "too_large"
    with pytest.raises(ImageError) as error:
        decode_image(data[:-20], "x")
    assert error.value.reason == "truncated"


def test_a_turned_avif_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise(60, 40), "AVIF", exif=exif)
    assert decode_image(data, "x").shape == (60, 40, 3) and read_size(data, "x") == (40, 60)


def test_the_format_of_what_is_no_picture_is_named():
    for data, text in ((b"%PDF-1.4 and more", "a PDF file"), (b"PK\x03\x04" + bytes(40), "a ZIP file")):
        with pytest.raises(ImageError, match=text):
            decode_image(data, "x.jpg")


def test_a_heic_picture_without_what_reads_it_says_so(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    data = encoded(noise(60, 40), "HEIF")
    monkeypatch.setattr(images, "register_heif_opener", None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    with pytest.raises(ImageError, match=r"pip install 'florence\[heic\]'"):
        decode_image(data, "photo.jpg")
