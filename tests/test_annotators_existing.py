"""The labels of a data set as the claims of an annotator."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from format_sets import image

from florence.annotators import ImageBatch
from florence.annotators.existing import Existing
from florence.errors import DataError, FlorenceError, NotListedError, SettingsError, StoreError, UnknownNameError

RECORD = image(2)


def coco(folder: Path, *annotations: dict) -> dict:
    path = folder / "instances.json"
    images = [
        {"id": 1, "file_name": RECORD.name, "width": 640, "height": 480},
        {"id": 2, "file_name": "a.png", "width": 64, "height": 48},
        {"id": 3, "file_name": "other/a.png", "width": 9, "height": 9},
    ]
    values = [{"id": k, "image_id": 1, "category_id": 1, **row} for k, row in enumerate(annotations)]
    path.write_text(
        json.dumps(
            {
                "images": images,
                "annotations": values,
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "zebra"}],
            }
        )
    )
    return {"format": "coco", "uri": str(path)}


def make_existing(options: dict, **more) -> Existing:
    return Existing(name="mine", **{**options, **more})


def test_an_image_that_is_not_listed_is_not_one_without_objects(tmp_path: Path):
    annotator = make_existing(coco(tmp_path, {"bbox": [1, 2, 3, 4]}))
    annotator.load()
    there, empty, unknown, other = annotator.annotate(ImageBatch((RECORD, image(0), image(1), image(3))))
    assert [c.text for c in there] == ["cat"] and empty == []
    assert (
        isinstance(unknown, NotListedError)
        and isinstance(unknown, FlorenceError)
        and "has no labels of sub/a.png" in str(unknown)
    )
    assert isinstance(other, DataError) and "9 × 9" in str(other)


def test_vocabulary_is_the_data_set_s_own(tmp_path: Path):
    options = coco(tmp_path)
    assert make_existing(options).vocabulary() == ("cat", "zebra")
    assert make_existing(options, tasks=["<CAPTION>"]).vocabulary() is None
    assert make_existing(options).tasks == ("<OD>", "<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")


def test_only_tasks_that_are_asked_for_are_claimed(tmp_path: Path):
    options = coco(tmp_path, {"bbox": [1, 2, 3, 4]}, {"caption": "a cat"})
    for tasks, texts in ((["<OD>"], ["cat"]), (["<CAPTION>", "<OD>"], ["cat", "a cat"])):
        (claims,) = make_existing(options, tasks=tasks).annotate(ImageBatch((RECORD,)))
        assert isinstance(claims, list) and [c.text for c in claims] == texts
    (error,) = make_existing(options, tasks=["<DETAILED_CAPTION>"]).annotate(ImageBatch((RECORD,)))
    assert isinstance(error, NotListedError) and "says nothing about it of <DETAILED_CAPTION>" in str(error)
    with pytest.raises(SettingsError, match="annotators.mine.tasks: <VQA>: the format coco has <OD>"):
        make_existing(options, tasks=["<VQA>"])


def test_version_follows_from_what_the_files_say(tmp_path: Path):
    options = coco(tmp_path, {"bbox": [1, 2, 3, 4]})
    annotator = make_existing(options)
    version, path = annotator.version, Path(options["uri"])
    text = path.read_text()
    os.utime(path, (1, 1))
    assert annotator.version == version == make_existing(options).version, "a file's time is no part of it"
    path.write_text(text.replace("zebra", "horse"))
    assert annotator.version != version and annotator.version == make_existing(options).version
    annotator.load()
    assert annotator.vocabulary() == ("cat", "horse")
    path.write_text(text)
    os.utime(path, (5, 5))
    annotator.load()
    assert annotator.version == version and annotator.vocabulary() == ("cat", "zebra")
    assert make_existing(options, human=True).version != version


def test_version_of_a_folder_follows_every_file_and_which_images_there_are(tmp_path: Path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text("names: [cat]")
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 1 1\n")
    options = {"format": "yolo", "uri": str(tmp_path)}
    versions = {make_existing(options).version}
    for path, content in (
        ("labels/b.txt", ""),
        ("labels/a.txt", ""),
        ("images/c.png", ""),
        ("data.yaml", "names: [dog]"),
    ):
        (tmp_path / path).write_text(content)
        versions.add(make_existing(options).version)
    assert len(versions) == 5


def test_people_s_labels_are_marked(tmp_path: Path):
    assert (
        make_existing(coco(tmp_path)).role == "annotator" and make_existing(coco(tmp_path), human=True).role == "human"
    )


def test_settings_are_checked_before_anything_is_read():
    for options, texts in (
        ({"format": "coco"}, "annotators.mine.uri"),
        (
            {"format": "coco", "uri": "x", "settings": {"crowd": 1}},
            r"annotators\.mine\.settings\.crowd: no such setting; found 1; allowed: crowds",
        ),
        ({"format": "alttext", "uri": "x", "settings": {"kind": "<OD>"}}, r"annotators\.mine\.settings\.kind"),
        ({"format": "coco", "uri": "x", "tasks": ["<od>"]}, "tasks: .*<od> is not annotated"),
        ({"format": "coco", "uri": "x", "tasks": []}, "tasks"),
    ):
        with pytest.raises(SettingsError, match=texts):
            make_existing(options)
    with pytest.raises(UnknownNameError, match="unknown format 'kitti'"):
        make_existing({"format": "kitti", "uri": "x"})
    with pytest.raises(StoreError, match="nowhere does not exist"):
        _ = make_existing({"format": "coco", "uri": "nowhere"}).version


def test_what_cannot_be_used_is_reported(tmp_path: Path):
    options = coco(tmp_path, {"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4], "category_id": 5})
    annotator = make_existing(options, human=True)
    (claims,) = annotator.annotate(ImageBatch((RECORD,)))
    assert isinstance(claims, list) and len(claims) == 1
    report = annotator.report_labels([RECORD, image(0), image(1), image(3)])
    assert (report.annotator, report.format, report.address, report.human) == ("mine", "coco", options["uri"], True)
    assert (report.images, report.labelled, report.empty, report.not_listed) == (4, 1, 1, 1)
    assert [loss.count for loss in report.refused] == [1], "an image of another size"
    assert report.used == {"<OD>": 1} and report.lost == 2
    assert any("category_id: found 5" in loss.examples[0] for loss in report.losses)
    narrow = make_existing(options, tasks=["<CAPTION>"]).report_labels([RECORD])
    assert (narrow.used, narrow.unread, narrow.lost) == ({}, {"<OD>": 1}, 3)


def test_paths_are_matched_as_settings_say(tmp_path: Path):
    options = coco(tmp_path, {"bbox": [1, 2, 3, 4]})
    record = image(2, name="train/sub/b.jpg")
    for more, there in (
        ({}, False),
        ({"strip": "train/"}, True),
        ({"base_names": True}, True),
        ({"prefix": "x/"}, False),
    ):
        (texts,) = make_existing(options, **more).annotate(ImageBatch((record,)))
        assert isinstance(texts, list) == there, more


def test_formats_that_told_unread_images_from_empty_ones_later_have_a_version_of_their_own(tmp_path: Path):
    annotator = make_existing(coco(tmp_path))
    assert annotator.ingredients()["reader"] == "3", "else old stores would go on to hold unread images as empty ones"
