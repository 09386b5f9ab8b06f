"""A snapshot written in other formats, by the command as a person uses it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from format_sets import read_back
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from test_cli import call

from florence import export as writing
from florence.coverage import COVERAGE
from florence.errors import DataError, SettingsError, StoreError
from florence.formats import list_writable_formats
from florence.records import (
    IMAGES,
    Annotation,
    Claim,
    ImageRecord,
    Region,
    annotate,
    annotations_table,
    table_annotations,
    table_images,
)
from florence.store import Store


@pytest.fixture
def workspace(small_snapshot: Store, tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "params.yaml").write_text("sources: {}\nannotators: {}\n")
    os.symlink(small_snapshot.root, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(data: Store) -> list[ImageRecord]:
    return [record for name in data.names("images") for record, _ in table_images(data.read_table(name))]


def kept(data: Store, number: int = 1) -> list[Annotation]:
    return [row for row in table_annotations(data.read_table(f"labels/round-{number:05d}.parquet")) if row.kept]


def make(folder: Path, found: list[tuple[ImageRecord, bytes, list[Claim]]], **more) -> Store:
    """A snapshot of some images, with labels that are all kept."""
    store = Store(str(folder))
    for source in sorted({record.source for record, _, _ in found}):
        rows = [{**dataclasses.asdict(record), "bytes": data} for record, data, _ in found if record.source == source]
        store.write_table(f"images/{source}-00000.parquet", pa.Table.from_pylist(rows, schema=IMAGES))
    labels = [
        dataclasses.replace(row, confidence=0.75)
        for record, _, claims in found
        for row in annotate(record.image_id, claims, "consensus", "1")
    ]
    store.write_table("labels/round-00000.parquet", annotations_table(labels))
    looked = [
        {"image_id": record.image_id, "annotator": "all", "version": "1", "claims": len(claims), "error": ""}
        for record, _, claims in found
    ]
    store.write_table("coverage/all@1/all-00000.parquet", pa.Table.from_pylist(looked, schema=COVERAGE))
    return store


def picture(width: int, height: int, file_format: str = "PNG", **more) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(
        sink, file_format, **more
    )
    return sink.getvalue()


def record(
    data: bytes, name: str, width: int, height: int, source: str = "photos", split: str = "train"
) -> ImageRecord:
    return ImageRecord(hashlib.sha256(data).hexdigest(), width, height, source, name, "CC0", None, split)


def thing(name: str, box: tuple[float, ...]) -> Claim:
    return Claim("<OD>", name, (Region(name, box=box),))


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize("name", list_writable_formats())
def test_every_kept_label_is_written_or_told(workspace: Path, small_snapshot: Store, name: str):
    output = call("export", "--format", name, "--out", "out")
    note = json.loads((workspace / "out/florence-export.json").read_text())
    rows = Counter(row.task for row in kept(small_snapshot))
    assert sum(note["labels"].values()) + sum(note["left_out"].values()) == sum(rows.values())
    for task, number in note["labels"].items():
        assert f"{task}: {number} labels" in output and rows[task] == number
    for reason, number in note["left_out"].items():
        assert f"left out: {reason} ({number})" in output
    found = read_back(name, "out", images(small_snapshot), **({"predictions": True} if name == "labelstudio" else {}))
    assert not found.unknown and not found.unmatched and not found.errors and not found.problems
    result = Counter(claim.task for entry in found.claims.values() for claim in entry.claims)
    assert result == Counter(note["labels"])
    assert note == {
        **note,
        "format": name,
        "snapshot": "snap-1",
        "round": 1,
        "split": "all",
        "images": len(images(small_snapshot)),
    }
    assert not list(workspace.glob(".out*")), "nothing half-written is left"


@pytest.mark.parametrize("name", list_writable_formats())
def test_pictures_are_the_files_that_labels_name(workspace: Path, small_snapshot: Store, name: str):
    call("export", "--format", name, "--out", "out")
    files = {
        hashlib.sha256(path.read_bytes()).hexdigest(): path for path in (workspace / "out").rglob("*") if path.is_file()
    }
    assert {r.image_id for r in images(small_snapshot)} <= set(files)
    if name == "coco":
        with contextlib.redirect_stdout(io.StringIO()):
            for path in (workspace / "out/annotations").glob("instances_*.json"):
                for values in COCO(str(path)).imgs.values():
                    with Image.open(workspace / "out/images" / values["file_name"]) as picture:
                        assert picture.size == (values["width"], values["height"])
    call("export", "--format", name, "--out", "bare", "--images", "none")
    assert not [path for path in (workspace / "bare").rglob("*") if path.suffix in (".png", ".jpg")]


def test_what_is_chosen_is_what_is_written(workspace: Path, small_snapshot: Store):
    call(
        "export",
        "--format",
        "jsonl",
        "--out",
        "out",
        "--split",
        "train",
        "--tasks",
        "OD",
        "--tasks",
        "<CAPTION>",
        "--min-confidence",
        "0.6",
        "--round",
        "0",
    )
    train = {r.image_id for r in images(small_snapshot) if r.split == "train"}
    rows = [row for row in kept(small_snapshot, 0) if row.image_id in train and row.task in ("<OD>", "<CAPTION>")]
    lines = [json.loads(line) for line in (workspace / "out/labels.jsonl").read_text().splitlines()]
    assert {line["image"]["image_id"] for line in lines} == train
    written = sorted(row["annotation_id"] for line in lines for row in line["annotations"])
    assert written == sorted(row.annotation_id for row in rows if row.confidence >= 0.6)
    note = json.loads((workspace / "out/florence-export.json").read_text())
    assert sum(note["left_out"].values()) == len(rows) - len(written) and set(note["left_out"]) <= {
        "<OD>: confidence below 0.6",
        "<CAPTION>: confidence below 0.6",
    }


def test_the_same_snapshot_gives_the_same_bytes(workspace: Path):
    for name in list_writable_formats():
        for folder in ("one", "two"):
            call("export", "--format", name, "--out", f"{folder}/{name}")
    one, two = (
        {p.relative_to(workspace / f): p.read_bytes() for p in (workspace / f).rglob("*") if p.is_file()}
        for f in ("one", "two")
    )
    assert one == two


def test_a_dry_run_says_the_same_and_writes_nothing(workspace: Path):
    before = sorted(workspace.iterdir())
    dry = call("export", "--format", "voc", "--out", "out", "--dry-run")
    assert sorted(p for p in workspace.iterdir() if p.name != "code.json") == [
        p for p in before if p.name != "code.json"
    ]
    wet = call("export", "--format", "voc", "--out", "out")
    assert dry.splitlines()[1:] == wet.splitlines()[1:] and dry.startswith("would write 13 images of round 1")
    assert "<CAPTION>: the format has no such labels" in dry and "lost: <OD>: the polygons" in dry


# ---------------------------------------------------------------- where it is written


def test_a_folder_that_is_taken_is_left_alone(workspace: Path):
    (workspace / "photos").mkdir()
    (workspace / "photos/mine.jpg").write_bytes(b"x")
    for more in ([], ["--force"]):
        assert "it is no export" in call("export", "--format", "coco", "--out", "photos", *more, code=1)
    assert [p.name for p in (workspace / "photos").iterdir()] == ["mine.jpg"]
    (workspace / "file").write_text("x")
    assert "is there already" in call("export", "--format", "coco", "--out", "file", code=1)
    (workspace / "empty").mkdir()
    call("export", "--format", "coco", "--out", "empty")
    assert "--force replaces it" in call("export", "--format", "yolo", "--out", "empty", code=1)
    call("export", "--format", "yolo", "--out", "empty", "--force")
    assert not (workspace / "empty/annotations").exists() and (workspace / "empty/data.yaml").exists()


def test_an_export_that_fails_leaves_what_was_there(workspace: Path, small_snapshot: Store, monkeypatch):
    call("export", "--format", "coco", "--out", "out")
    before = {p: p.read_bytes() for p in (workspace / "out").rglob("*") if p.is_file()}

    def broken(*_) -> bool:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(writing, "write_image", broken)
    assert "cannot write x: No space left on device" in call(
        "export", "--format", "coco", "--out", "out", "--force", code=1
    )
    assert {p: p.read_bytes() for p in (workspace / "out").rglob("*") if p.is_file()} == before and not list(
        workspace.glob(".out*")
    )


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--format", "kitti"], "there is no such format; allowed: coco, jsonl, labelstudio, voc, yolo"),
        (["--format", "snapshot"], "it is read only"),
        (["--format", "coco", "--split", "test"], "one of train, held_out, gold or all"),
        (["--format", "coco", "--tasks", "OBJECTS"], "--tasks <OBJECTS>: there is no such annotation type"),
        (["--format", "coco", "--round", "5"], "has no labels of round 5; it has those of 0, 1"),
        (["--format", "coco", "--images", "link"], "copy or none"),
    ],
)
def test_what_can_not_be_done_is_said_before_anything_is_written(workspace: Path, arguments: list[str], output: str):
    assert output in call("export", "--out", "out", *arguments, code=1)
    assert not (workspace / "out").exists()


def test_without_a_snapshot_there_is_nothing_to_write(tmp_path: Path):
    with pytest.raises(DataError, match="has no labels; `florence loop`"):
        writing.export(Store(str(tmp_path)), tmp_path / "out", writing.ExportChoice("coco"))
    with pytest.raises(SettingsError):
        writing.export(Store(str(tmp_path)), tmp_path / "out", writing.ExportChoice("kitti"))


# ---------------------------------------------------------------- pictures of every sort


def test_pictures_stored_on_their_side_are_written_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = picture(40, 24, file_format, exif=exif)
        found.append((record(data, f"turned.{file_format.lower()}", 24, 40), data, [thing("cat", (2, 3, 20, 38))]))
    data = picture(30, 20)
    found.append((record(data, "upright.png", 30, 20), data, []))
    result = writing.export(make(tmp_path / "data", found), tmp_path / "out", writing.ExportChoice("coco"))
    assert result.rotated == 4
    for one, data, _ in found:
        with Image.open(tmp_path / "out/images" / one.name) as now, Image.open(io.BytesIO(data)) as before:
            assert (
                now.size == (one.width, one.height)
                and now.getexif().get(0x0112, 1) == 1
                and now.format == before.format
            )
            difference = np.abs(
                np.asarray(now.convert("RGB"), int) - np.asarray(ImageOps.exif_transpose(before).convert("RGB"), int)
            )
            assert difference.mean() < (12 if now.format in ("JPEG", "WEBP") else 1e-9), (
                "noise, written again with loss"
            )
    assert (tmp_path / "out/images/upright.png").read_bytes() == data


def test_names_that_clash_are_told_apart_and_counted(tmp_path: Path):
    found = []
    for k, (name, source) in enumerate(
        [("a.png", "one"), ("A.PNG", "one"), ("sub/a.png", "one"), ("a.png", "two"), ("../../up.png", "two")]
    ):
        data = picture(20 + k, 20)
        found.append((record(data, name, 20 + k, 20, source), data, [thing(f"thing {k}", (0, 0, 5, 5))]))
    result = writing.export(make(tmp_path / "data", found), tmp_path / "out", writing.ExportChoice("voc"))
    assert result.renamed == 2
    files = sorted(
        str(p.relative_to(tmp_path / "out/JPEGImages")) for p in (tmp_path / "out/JPEGImages").rglob("*") if p.is_file()
    )
    assert files == ["one/A-2.PNG", "one/a.png", "one/sub/a.png", "two/a.png", "two/up.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"], "nothing stands outside"


def test_a_picture_that_can_not_be_looked_into_is_written_as_it_is(tmp_path: Path):
    one = record(b"not a picture", "a.jpg", 20, 20)
    result = writing.export(
        make(tmp_path / "data", [(one, b"not a picture", [])]), tmp_path / "out", writing.ExportChoice("jsonl")
    )
    assert result.images == 1 and (tmp_path / "out/images/a.jpg").read_bytes() == b"not a picture"


def test_a_snapshot_of_nothing_is_a_data_set_of_nothing(tmp_path: Path):
    for name in list_writable_formats():
        data = make(tmp_path / f"data {name}", [])
        result = writing.export(data, tmp_path / name, writing.ExportChoice(name))
        assert (result.images, result.labels) == (0, {})
    with pytest.raises(StoreError):
        writing.export(data, tmp_path / "voc", writing.ExportChoice("coco"))
