"""Near-duplicates among images."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from engine_claims import box, image, tables
from PIL import Image, ImageEnhance

from florence.config import EngineSettings
from florence.engine import fuse
from florence.engine.filters.duplicates import find_near_duplicates
from florence.images import decode_image, perceptual_hash
from florence.records import IMAGES, table_annotations, table_images
from florence.sources import SOURCES

MAX_DISTANCE = EngineSettings().near_duplicate


def hashed(bits: np.ndarray, split: list[str], ids: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "image_id": [f"{k:064x}" for k in ids.tolist()],
            "split": split,
            "phash": [row.tobytes().hex() for row in np.packbits(bits, axis=1)],
        }
    )


def one_by_one(table: pa.Table, max_distance: int) -> list[bool]:
    rows = table.to_pylist()
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(row["phash"]), np.uint8)) for row in rows]
    stays: list[int] = []
    found = [False] * len(rows)
    for k in sorted(range(len(rows)), key=lambda k: (rows[k]["split"] == "train", rows[k]["image_id"])):
        if rows[k]["split"] == "train" and any((bits[k] != bits[j]).sum() <= max_distance for j in stays):
            found[k] = True
        else:
            stays.append(k)
    return found


@pytest.mark.parametrize(
    "pictures, flips, max_distance", [(150, 20, 24), (8, 12, 10), (1, 30, 24), (600, 40, 32), (40, 5, 0), (40, 3, 1)]
)
def test_near_duplicates_equal_those_of_pairwise_comparison(pictures: int, flips: int, max_distance: int):
    rng = np.random.default_rng(pictures)
    bits = rng.integers(0, 2, (pictures, 256)).astype(np.uint8)[rng.integers(pictures, size=1400)]
    for row in bits:
        row[rng.choice(256, rng.integers(flips + 1), replace=False)] ^= 1
    table = hashed(
        bits, rng.choice(["train", "gold", "held_out"], 1400, p=[0.9, 0.05, 0.05]).tolist(), rng.permutation(1400)
    )
    assert (
        find_near_duplicates(table, max_distance).tolist() == one_by_one(table, max_distance)
        and 0 < find_near_duplicates(table, max_distance).sum() < 1400
    )


def test_held_out_and_gold_images_stay_and_of_others_the_smaller_id():
    bits = np.zeros((5, 256), np.uint8)
    bits[4, :200] = 1
    table = hashed(bits, ["train", "train", "gold", "held_out", "train"], np.asarray([1, 0, 9, 8, 7]))
    assert find_near_duplicates(table, 24).tolist() == [True, True, False, False, False]
    assert find_near_duplicates(table.filter(pa.array([True, True, False, False, True])), 24).tolist() == [
        True,
        False,
        False,
    ]


def test_images_without_a_hash_have_no_near_duplicates():
    table = hashed(np.zeros((3, 256), np.uint8), ["train"] * 3, np.arange(3)).set_column(
        2, "phash", pa.array([None, None, "0" * 64])
    )
    assert not find_near_duplicates(table, 32).any()
    assert not find_near_duplicates(table.slice(0, 0), 32).any()


def records(*hashes: str | None) -> list:
    from dataclasses import replace

    return [replace(image(name), phash=value) for name, value in zip("abcd", hashes, strict=False)]


def test_labels_of_a_near_duplicate_are_dropped_with_the_reason():
    images = records("0" * 64, "0" * 63 + "3", "f" * 64, None)
    by_annotator = {"a": {i.image_id: [box("cat", 10, 10, 50, 50), box("thin", 10, 10, 11, 50)] for i in images}}
    claims, table, coverage = tables(by_annotator, images)
    rows = table_annotations(fuse(claims, table, coverage, EngineSettings(), 0))
    reasons = {(row.image_id[0], row.text): row.reason for row in rows}
    assert reasons == {(name, "cat"): "near_duplicate" if name == "b" else "" for name in "abcd"} | {
        (name, "thin"): "degenerate" for name in "abcd"
    }
    for settings, known in (
        (EngineSettings(near_duplicate=None), table),
        (EngineSettings(near_duplicate=1), table),
        (EngineSettings(), table.drop_columns(["phash"])),
    ):
        assert sum(row.kept for row in table_annotations(fuse(claims, known, coverage, settings, 0))) == 4
    assert (
        fuse(claims, table.take([3, 1, 0, 2]), coverage, EngineSettings(), 0)["reason"]
        .to_pylist()
        .count("near_duplicate")
        == 1
    )


def test_a_table_from_before_there_was_a_hash_is_read():
    table = tables({"a": {}}, [image()])[1]
    assert (
        next(table_images(table.drop_columns(["phash"])))[0] == next(table_images(table))[0] and "phash" in IMAGES.names
    )


# ---------------------------------------------------------------- hashes


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=quality)
    return Image.open(io.BytesIO(sink.getvalue())).convert("RGB")


EDITS = {
    "half as large": lambda picture: picture.resize(
        (picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC
    ),
    "twice as large": lambda picture: picture.resize(
        (picture.width * 2, picture.height * 2), Image.Resampling.BILINEAR
    ),
    "compressed": lambda picture: jpeg(picture, 40),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "all of it": lambda picture: jpeg(
        ImageEnhance.Brightness(picture.resize((picture.width // 2, picture.height // 2))).enhance(1.1), 60
    ),
}


def differ(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


@pytest.fixture(scope="module")
def pictures() -> dict[str, list[np.ndarray]]:
    """Return all photos, and scenes."""
    found = {
        "photos": SOURCES.get("samples")().images(frozenset()),
        "scenes": SOURCES.get("scenes")(count=150, size=128, scale=1.12).images(frozenset()),
    }
    return {
        name: [decode_image(one.data, one.name) for one in images if not isinstance(one, Exception)]
        for name, images in found.items()
    }


@pytest.mark.parametrize("source", ["photos", "scenes"])
def test_hashes_of_edited_pictures_are_near_and_others_are_far(pictures, source: str):
    whole = [perceptual_hash(pixels) for pixels in pictures[source]]
    assert all(value is not None and len(value) == 64 for value in whole) and len(whole) > 10
    # twice the bound lies between edited and other pictures
    assert min(differ(a, b) for k, a in enumerate(whole) for b in whole[:k]) > 2 * MAX_DISTANCE
    for name, change in EDITS.items():
        for pixels, value in zip(pictures[source][:40], whole, strict=False):
            assert differ(value, perceptual_hash(np.asarray(change(Image.fromarray(pixels))))) <= MAX_DISTANCE, name


def test_hashes_equal_those_of_the_library(pictures):
    import imagehash

    for pixels in pictures["photos"][:3]:
        assert perceptual_hash(pixels) == str(imagehash.phash(Image.fromarray(pixels), hash_size=16))


@pytest.mark.parametrize("shape", [(1, 1), (40, 60), (1, 500), (3000, 2)])
def test_a_plain_picture_has_no_hash(shape: tuple[int, int]):
    assert perceptual_hash(np.full((*shape, 3), 120, np.uint8)) is None
    noisy = np.full((*shape, 3), 120, np.uint8)
    noisy[0, 0] = 122
    assert perceptual_hash(noisy) is None
