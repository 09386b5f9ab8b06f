"""A folder of real photos, with the files that every such folder has: damaged, huge, foreign, rotated, double."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from flow_workspaces import florence
from PIL import Image

from florence.images import decode_image
from florence.records import Annotation, table_annotations
from florence.sources import SOURCES, SourceImage
from flows.init import create_workspace

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
ASIDE = {"cut.jpg": "truncated", "nothing.jpg": "empty", "words.jpg": "unreadable", "huge.png": "too_large"}
TAKEN = ("cmyk.jpg", "sixteen.png", "moving.gif", "turned.jpg", "Ein Foto – früh, 早.jpg")
OVERLAY = {
    "train": {"steps": 5, "warmup": 1, "batch_size": 2, "threads": 1},
    "evaluate": {"tasks": ["<OD>", "<CAPTION>"], "max_images": 3, "bootstrap": 100},
    "split": {"held_out": 0.2, "gold": 0.1},
}


def saved(image: Image.Image, image_format: str = "JPEG", **more) -> bytes:
    sink = io.BytesIO()
    image.save(sink, image_format, **more)
    return sink.getvalue()


def huge_png() -> bytes:
    """Return a PNG whose header claims 60,000 × 60,000 pixels."""

    def chunk(chunk_type: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + chunk_type + data + struct.pack(">I", zlib.crc32(chunk_type + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Write at least 30 real photos, parts of those of packages, and the ten special files."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    pictures = []
    for found in SOURCES.get("samples")().images(frozenset()):
        if isinstance(found, SourceImage):
            image = Image.fromarray(decode_image(found.data, found.name))
            image.thumbnail((480, 480))
            pictures.append(image)
    parts = [
        image.crop((x * image.width // 3, 0, image.width * (x + 2) // 3, image.height))
        for image in pictures
        for x in (0, 1)
    ] + pictures
    for number, image in enumerate(parts[:32]):
        image_format, ending = ("PNG", "png") if number % 3 == 0 else ("JPEG", "jpg")
        (folder / ("more" if number % 2 else ".") / f"photo {number:02d}.{ending}").write_bytes(
            saved(image, image_format)
        )
    first, second = pictures[0], pictures[1]
    good = saved(second, quality=90)
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "nothing.jpg").write_bytes(b"")
    (folder / "words.jpg").write_text("not a picture")
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "cmyk.jpg").write_bytes(saved(first.convert("CMYK")))
    Image.fromarray(np.asarray(first.convert("L")).astype(np.uint16) * 257).save(folder / "sixteen.png")
    (folder / "moving.gif").write_bytes(
        saved(first.convert("P"), "GIF", save_all=True, append_images=[second.resize(first.size).convert("P")])
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    (folder / "turned.jpg").write_bytes(saved(second.transpose(Image.Transpose.ROTATE_90), quality=95, exif=exif))
    (folder / "upright.jpg").write_bytes(saved(second, quality=95))
    (folder / "Ein Foto – früh, 早.jpg").write_bytes(saved(pictures[2], quality=91))
    shutil.copy(folder / "upright.jpg", folder / "more" / "the same again.jpg")
    return folder


def test_a_folder_of_photos_goes_through(photos: Path, tmp_path: Path):
    folder = tmp_path / "W"
    create_workspace(folder)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(OVERLAY))
    done = florence(folder, "loop", "--images", str(photos), "--rounds", "1", "--config", str(tmp_path / "tiny.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    for name, reason in ASIDE.items():
        assert f"images/{name}: {reason}" in done.stdout
    assert "duplicate" in done.stdout and "Traceback" not in done.stderr

    images = pq.read_table(
        folder / "data/images/images-00000.parquet", columns=["image_id", "name", "width", "height"], partitioning=None
    ).to_pylist()
    by_name = {row["name"]: row for row in images}
    assert len(images) >= 36 and set(TAKEN) <= set(by_name)
    (facts,) = json.loads((folder / "build/loop.json").read_text())["rounds"]
    aside = {row["name"]: row["reason"] for row in pq.read_table(folder / "data/rejected_files.parquet").to_pylist()}
    (listing,) = [one for one in facts["listings"] if one["source"] == "images"]
    assert listing["files"] == listing["images"] + listing["texts"] + sum(one["count"] for one in listing["unused"])
    double = {"upright.jpg", "more/the same again.jpg"} & set(aside)
    assert (
        {name: aside[name] for name in ASIDE} == ASIDE
        and [aside[name] for name in double] == ["duplicate"]
        and len(aside) == 5
    )

    rotated, upright = (
        by_name[n] for n in ("turned.jpg", next(iter({"upright.jpg", "more/the same again.jpg"} - double)))
    )
    assert (rotated["width"], rotated["height"]) == (upright["width"], upright["height"])
    told = [claims(folder, row["image_id"]) for row in (rotated, upright)]
    for task in ("<CLASSIFICATION>", "<CAPTION>"):
        assert {row.text for row in told[0] if row.task == task} == {row.text for row in told[1] if row.task == task}
    tasks = {row.task for image in by_name.values() for row in claims(folder, image["image_id"])}
    assert {"<CLASSIFICATION>", "<CAPTION>", "<OCR_WITH_REGION>"} <= tasks and "<OD>" not in tasks
    assert "images: no detector is named: image-level tags only" in done.stdout
    report = (folder / "build/report/index.html").read_text(encoding="utf-8")
    assert "no detector is named" in report and "use: detector" in report
    assert (folder / "build/report/index.html").stat().st_size > 10_000


def claims(folder: Path, image_id: str) -> list[Annotation]:
    """Return what annotators claim of an image."""
    return [
        row
        for path in (folder / "data/claims").rglob("*.parquet")
        for row in table_annotations(pq.read_table(path, filters=[("image_id", "=", image_id)], partitioning=None))
    ]
