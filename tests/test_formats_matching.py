"""Labels of a data set matched with images, and the paths of data sets."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest
from format_sets import image, read_back

from florence.errors import DataError, NotListedError, UnknownNameError
from florence.formats import FORMATS, LabelSet, list_writable_formats
from florence.formats.matching import find_claims
from florence.records import ImageRecord


def labels(folder: Path, *names: str) -> LabelSet:
    """Write a data set in which each image's claim is the image's name."""
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"name": name, "text": name}) + "\n" for name in names), encoding="utf-8")
    form = FORMATS.get("alttext")()
    return form.open(form.files(str(path)))


def named(name: str, **more) -> ImageRecord:
    return image(0, name=name, image_id=f"id of {name}", **more)


def claimed_text(found: LabelSet, name: str, **names) -> str:
    (claim,) = find_claims(found, named(name), **names).claims
    return claim.text


def test_the_whole_path_counts(tmp_path: Path):
    found = labels(tmp_path, "a.png", "sub/a.png", "./other/a.png", "back\\a.png", "cafe\u0301.png")
    assert [claimed_text(found, n) for n in ("a.png", "sub/a.png", "other/a.png", "back/a.png", "caf\u00e9.png")] == [
        "a.png",
        "sub/a.png",
        "./other/a.png",
        "back\\a.png",
        "cafe\u0301.png",
    ]
    for name in ("A.png", "b.png", "x/a.png", "a.png.png", "a.jpg"):
        with pytest.raises(NotListedError, match="has no labels of"):
            find_claims(found, named(name))


def test_a_name_without_an_ending_stands_for_any(tmp_path: Path):
    found = labels(tmp_path, "sub/a", "b.1", "c.png")
    assert (
        claimed_text(found, "sub/a.jpg") == claimed_text(found, "sub/a.webp") == "sub/a"
        and claimed_text(found, "b.1.jpg") == "b.1"
    )
    with pytest.raises(NotListedError):
        find_claims(found, named("c.png.jpg"))


def test_fronts_of_paths_are_mapped(tmp_path: Path):
    found = labels(tmp_path, "1.jpg", "images/train/2.jpg")
    assert (
        claimed_text(found, "train2017/1.jpg", strip="train2017/") == "1.jpg"
        and claimed_text(found, "2.jpg", prefix="images/train/") == "images/train/2.jpg"
    )
    assert claimed_text(found, "all/2.jpg", strip="all/", prefix="images/train/") == "images/train/2.jpg"
    with pytest.raises(NotListedError, match="does not begin with train2017/"):
        find_claims(found, named("val2017/1.jpg"), strip="train2017/")


def test_base_names_match_if_wanted_and_unique(tmp_path: Path):
    found = labels(tmp_path, "x/1.jpg", "y/2.jpg", "z/2.jpg")
    with pytest.raises(
        NotListedError, match=r"but of x/1\.jpg: if that is the same image, set strip, prefix or base_names"
    ):
        find_claims(found, named("train/1.jpg"))
    assert claimed_text(found, "train/1.jpg", base_names=True) == "x/1.jpg"
    with pytest.raises(NotListedError, match="2 images called train/2.jpg"):
        find_claims(found, named("train/2.jpg"), base_names=True)


def test_base_names_are_used_on_whole_sets_where_both_sides_have_one(tmp_path: Path):
    labels(tmp_path, "x/1.jpg", "x/2.jpg", "y/3.jpg", "z/3.jpg", "exact/4.jpg", "9.jpg")
    names = ["p/1.jpg", "p/2.jpg", "q/2.jpg", "p/3.jpg", "exact/4.jpg", "other/4.jpg"]
    found = read_back("alttext", tmp_path / "texts.jsonl", [named(n) for n in names])
    assert {k.removeprefix("id of "): [c.text for c in v.claims] for k, v in found.claims.items()} == {
        "p/1.jpg": ["x/1.jpg"],
        "exact/4.jpg": ["exact/4.jpg"],
    }
    assert found.unknown == ("p/2.jpg", "q/2.jpg", "p/3.jpg", "other/4.jpg") and found.unmatched == (
        "x/2.jpg",
        "y/3.jpg",
        "z/3.jpg",
        "9.jpg",
    )


def test_another_size_is_an_error_and_no_match(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"image": {"name": "a.png", "width": 48, "height": 64}, "annotations": []})
    )
    form = FORMATS.get("jsonl")()
    with pytest.raises(DataError, match="labels for 48 × 64 pixels, but the upright image has 64 × 48"):
        find_claims(form.open(form.files(str(tmp_path))), image(0))


def test_data_sets_may_be_anywhere(tmp_path: Path):
    memory = fsspec.filesystem("memory")
    line = json.dumps({"image": {"name": "a.png"}, "annotations": [{"task": "<CAPTION>", "text": "a cat"}]})
    memory.pipe_file("/bucket/set/a.jsonl", line.encode())
    form = FORMATS.get("jsonl")()
    stamps = []
    for uri in ("memory://bucket/set", "memory://bucket/set/a.jsonl"):
        files = form.files(uri)
        assert len(find_claims(form.open(files), image(0)).claims) == 1
        stamps.append(files.stamp())
        assert files.stamp() == stamps[-1] and files.digest() == form.files(uri).digest()
    memory.pipe_file("/bucket/set/a.jsonl", line.encode() + b"\n")
    assert [form.files(uri).stamp() for uri in ("memory://bucket/set", "memory://bucket/set/a.jsonl")] != stamps


def test_formats_are_found_by_their_files():
    assert FORMATS.names() == ("alttext", "coco", "imagefolder", "jsonl", "labelstudio", "snapshot", "voc", "yolo")
    assert list_writable_formats() == ("coco", "jsonl", "labelstudio", "voc", "yolo")
    with pytest.raises(UnknownNameError, match="unknown format 'kitti'; known: alttext, coco"):
        FORMATS.get("kitti")
    for name in FORMATS.names():
        form = FORMATS.get(name)
        assert (
            form.__doc__
            and form.Options.__doc__
            and form.annotation_types
            and all(field.description for field in form.Options.model_fields.values())
        )
