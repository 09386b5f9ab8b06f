"""What label sets know of the images: every image and label counted once, before any annotator works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from annotation_runs import annotate_all, count_left, read_coverage
from PIL import Image
from workspaces import workspace_of

from florence.config import Settings, settings_from
from florence.errors import DataError, StoreError
from florence.label_report import LabelSetReport
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.annotate import (
    describe_label_sets,
    find_unusable_annotators,
    list_annotators,
    refuse_unmatched_label_sets,
    report_label_sets,
)
from florence.workspace.collect import collect_images

SIZE = (64, 48)
CAT = {"category_id": 1, "bbox": [4, 5, 20, 21]}


def draw(folder: Path, *names: str) -> Path:
    """Draw pictures that differ."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (number * 37 % 256, len(name), 90)).save(path)
    return folder


def write_coco(path: Path, images: dict[str, list[dict]], size: tuple[int, int] = SIZE) -> str:
    """Write a COCO file: image → its annotations."""
    numbers = {name: k for k, name in enumerate(images, start=1)}
    annotations = [{"image_id": numbers[name], **one} for name, found in images.items() for one in found]
    document = {
        "images": [{"id": k, "file_name": n, "width": size[0], "height": size[1]} for n, k in numbers.items()],
        "annotations": [{"id": k, **one} for k, one in enumerate(annotations, start=1)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(document))
    return str(path)


def workspace(folder: Path, photos: Path, annotators: dict) -> Workspace:
    """Return a workspace with the photos collected."""
    settings = make_settings(photos, annotators)
    found = workspace_of(settings, Store(str(folder / "store")), root=folder)
    collect_images(found)
    return found


def make_settings(photos: Path, annotators: dict) -> Settings:
    return settings_from(
        {
            "sources": {"photos": {"use": "folder", "uri": str(photos)}},
            "annotators": {name: {"sources": ["*"], **section} for name, section in annotators.items()},
        }
    )


def coco(uri: str, **more) -> dict:
    return {"use": "existing", "format": "coco", "uri": uri, **more}


def report(found: Workspace, **more) -> dict[str, LabelSetReport]:
    annotators = list_annotators(found.settings, files=found.store)
    return {one.annotator: one for one in report_label_sets(found, annotators, **more)}


def test_every_image_is_labelled_empty_not_listed_or_refused(tmp_path: Path):
    names = ("a.png", "b.png", "c.png", "d.png", "sub/e.png")
    uri = write_coco(
        tmp_path / "labels.json",
        {
            "a.png": [CAT, CAT, {**CAT, "category_id": 7}],
            "b.png": [],
            "c.png": [{**CAT, "category_id": 9}, {**CAT, "bbox": [1, 1, -4, 0]}],
            "x.png": [CAT, CAT],
        },
    )
    found = workspace(tmp_path, draw(tmp_path / "photos", *names), {"people": coco(uri, human=True)})
    one = report(found)["people"]
    assert (one.images, one.labelled, one.empty, one.not_listed) == (5, 1, 1, 2)
    assert [(loss.reason, loss.count) for loss in one.refused] == [("none of its labels was understood", 1)]
    assert (one.listed, one.matched, one.unmatched_examples) == (4, 3, ("x.png",))
    assert one.not_listed_examples == ("d.png", "sub/e.png") and one.human
    assert one.used == {"<OD>": 2}
    lost = {loss.reason: loss.count for loss in one.losses if loss.unit == "label"}
    assert one.lost == sum(lost.values()) == 5 and lost["of images that are not here"] == 2, "7 labels, 2 used"
    (line, *examples) = describe_label_sets(found.settings, [one])
    assert line.startswith(f"people (coco {uri}): knows 2 of 5 images (1 labelled, 1 looked at and empty, 2 not listed")
    assert "1 of the set's 4 images are not here" in line and len(examples) >= 2


def test_an_image_of_whose_labels_none_was_understood_is_not_one_without_objects(tmp_path: Path):
    uri = write_coco(tmp_path / "l.json", {"a.png": [{**CAT, "category_id": 9}], "b.png": [], "c.png": [CAT]})
    found = workspace(tmp_path, draw(tmp_path / "photos", "a.png", "b.png", "c.png"), {"people": coco(uri, human=True)})
    annotate_all(found.settings, found.store)
    coverage = read_coverage(found.store, "people")
    assert {name: (row["claims"], row["error"] == "") for name, row in coverage.items()} == {
        "a.png": (0, False),
        "b.png": (0, True),
        "c.png": (1, True),
    }
    assert "none of its 1 labels can be used" in coverage["a.png"]["error"]


@pytest.mark.parametrize(
    "ours, theirs, remedy",
    [
        (("train/a.png", "train/b.png", "train/c.png"), ("a.png", "b.png", "c.png"), "base_names: true"),
        (("train/a.png", "train/b.png", "train/c.png"), ("a.png", "b.png", "c.png"), "strip: train/"),
        (("a.png", "b.png", "c.png"), ("images/a.png", "images/b.png", "images/c.png"), "prefix: images/"),
        (("x/1/a.png", "x/2/a.png", "x/3/a.png"), ("y/1/a.png", "y/2/a.png", "y/3/a.png"), "strip: x/ with prefix: y/"),
        (("a.jpeg", "b.jpeg", "c.jpeg"), ("k/a.jpeg", "m/b.jpeg", "n/c.jpeg"), "base_names: true"),
        (("a.png", "b.png", "c.png"), ("0e9b3c1f-a.png", "1a2b3c4d-b.png", "99999999-c.png"), "upload_prefix: true"),
        (
            ("x/a.png", "y/b.png", "z/c.png"),
            ("images/0e9b3c1f-a.png", "images/1a2b3c4d-b.png", "images/99999999-c.png"),
            "upload_prefix: true with base_names: true",
        ),
    ],
)
def test_a_required_annotator_that_matches_nothing_stops_the_run_and_the_remedy_works(
    tmp_path: Path, ours: tuple, theirs: tuple, remedy: str
):
    uri = write_coco(tmp_path / "labels.json", {name: [CAT] for name in theirs})
    found = workspace(tmp_path, draw(tmp_path / "photos", *ours), {"voc_rf": coco(uri)})
    reports = report(found)
    with pytest.raises(DataError, match=f"voc_rf: knows 0 of 3 images; .*{remedy}.*would match 3") as error:
        refuse_unmatched_label_sets(found.settings, list(reports.values()))
    assert "required: false" in str(error.value)
    options = {k: True if v == "true" else v for k, v in (part.split(": ") for part in remedy.split(" with "))}
    chosen = make_settings(tmp_path / "photos", {"voc_rf": coco(uri, **options)})
    (again,) = report(workspace_of(chosen, found.store, root=tmp_path)).values()
    assert (again.labelled, again.remedy) == (3, "")


def test_base_names_that_several_pictures_share_are_no_remedy(tmp_path: Path):
    uri = write_coco(tmp_path / "labels.json", {"a.png": [CAT]})
    found = workspace(tmp_path, draw(tmp_path / "photos", "x/a.png", "y/a.png"), {"people": coco(uri)})
    assert "base_names" not in report(found)["people"].remedy


def test_labels_of_another_size_alone_stop_the_run_too(tmp_path: Path):
    uri = write_coco(tmp_path / "labels.json", {"a.png": [CAT, CAT]}, size=(640, 481))
    found = workspace(tmp_path, draw(tmp_path / "photos", "a.png"), {"people": coco(uri)})
    one = report(found)["people"]
    assert (one.images, one.known, sum(loss.count for loss in one.refused), one.lost) == (1, 0, 1, 2)
    with pytest.raises(DataError, match="people: knows 0 of 1 image: 1 refused"):
        refuse_unmatched_label_sets(found.settings, [one])


def test_a_small_share_warns_and_a_set_that_is_whole_among_many_images_does_not(tmp_path: Path):
    names = tuple(f"{k}.png" for k in range(10))
    uri = write_coco(tmp_path / "few.json", {"0.png": [CAT], "x.png": [CAT], "y.png": [CAT]})
    whole = write_coco(tmp_path / "whole.json", {"0.png": [CAT]})
    photos = draw(tmp_path / "photos", *names)
    found = workspace(tmp_path, photos, {"few": coco(uri), "whole": coco(whole), "off": coco(uri, min_matched=0)})
    lines = describe_label_sets(found.settings, list(report(found).values()))
    warned = [line.split(" ")[0] for line in lines if "warning: less than min_matched (0.5)" in line]
    assert warned == ["few"]


def test_reports_are_read_once_and_again_when_images_or_labels_change(tmp_path: Path):
    uri = write_coco(tmp_path / "labels.json", {"a.png": [CAT], "b.png": []})
    photos = draw(tmp_path / "photos", "a.png")
    found = workspace(tmp_path, photos, {"people": coco(uri)})
    assert report(found, write=False)["people"].labelled == 1 and not found.store.names("label_sets")
    first = report(found)["people"]
    (name,) = found.store.names("label_sets")
    kept = found.store.read_json(name)
    kept["report"]["labelled"] = 77
    found.store.write_json(name, kept)
    assert report(found)["people"].labelled == 77, "it is read from the store"
    found.store.write_bytes(name, b"torn")
    assert report(found)["people"] == first
    draw(photos, "zzz.png", "b.png")
    collect_images(found)
    assert (report(found)["people"].images, report(found)["people"].empty) == (3, 1)
    write_coco(Path(uri), {"a.png": [CAT], "b.png": [CAT]})
    assert (report(found)["people"].labelled, len(found.store.names("label_sets"))) == (2, 2)


# ---------------------------------------------------------------- annotators that are not required


def broken(folder: Path) -> dict[str, dict]:
    """Return annotators whose files are missing or of another format."""
    (folder / "torn.json").write_text("{")
    (folder / "empty").mkdir()
    (folder / "names.txt").write_text("cat\n")
    return {
        "no_file": coco(str(folder / "nowhere.json")),
        "no_folder": {"use": "existing", "format": "voc", "uri": str(folder / "nowhere")},
        "empty_folder": {"use": "existing", "format": "yolo", "uri": str(folder / "empty")},
        "no_format": {"use": "existing", "format": "kitti", "uri": str(folder)},
        "no_plugin": {"use": "nonsense"},
        "no_weights": {
            "use": "onnx_detector",
            "model": str(folder / "m.onnx"),
            "labels": str(folder / "names.txt"),
            "layout": "yolo",
        },
        "no_bucket": {"use": "existing", "format": "coco", "uri": "nowhere-protocol://x"},
    }


def test_an_annotator_that_is_not_required_is_left_out_and_told_of(tmp_path: Path):
    sections = broken(tmp_path)
    uri = write_coco(tmp_path / "labels.json", {"a.png": [CAT]})
    photos = draw(tmp_path / "photos", "a.png", "b.png")
    others = {name: {**section, "required": False} for name, section in sections.items()}
    found = workspace(tmp_path, photos, {"people": coco(uri), **others})
    left_out = find_unusable_annotators(found.settings)
    assert set(left_out) == set(sections) and all(left_out.values())
    assert [one.name for one in list_annotators(found.settings, files=found.store)] == ["people"]
    lines = describe_label_sets(found.settings, list(report(found).values()))
    assert {line.split(":")[0] for line in lines if "not used, as it is not required" in line} == set(sections)
    annotate_all(found.settings, found.store)
    assert count_left(found.settings, found.store) == {}
    for name, section in sections.items():
        with pytest.raises(Exception, match="annotators|unknown|m.onnx"):
            list_annotators(make_settings(photos, {name: section}))
    with pytest.raises(StoreError, match=r"annotators\.no_file: .*nowhere.json does not exist.*required: false"):
        list_annotators(make_settings(photos, {"no_file": sections["no_file"]}))


def test_labels_of_another_format_leave_the_annotator_out_unless_it_is_required(tmp_path: Path):
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "list.json").write_text("[1, 2]")
    photos = draw(tmp_path / "photos", "a.png")
    for name in ("torn.json", "list.json"):
        section = coco(str(tmp_path / name))
        found = workspace(tmp_path, photos, {"people": {**section, "required": False}})
        one = report(found)["people"]
        assert one.error and one.images == 1
        refuse_unmatched_label_sets(found.settings, [one])
        (line,) = describe_label_sets(found.settings, [one])
        assert line.startswith("people: knows 0 of 1 image: ") and name in line
        outcomes = annotate_all(found.settings, found.store)
        assert outcomes["people"].left == 1 and name in outcomes["people"].error
        with pytest.raises(DataError, match=name):
            report(workspace_of(make_settings(photos, {"people": section}), found.store, root=tmp_path))


def test_what_depends_on_an_annotator_that_is_left_out_goes_on(tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.png")
    sections = {
        "weights": {**broken(tmp_path)["no_weights"], "required": False},
        "texts": {"use": "describer", "depends_on": ["weights"]},
    }
    (one,) = list_annotators(make_settings(photos, sections))
    assert one.name == "texts" and one.depends_on == ()


def test_no_settings_are_advised_that_match_no_more(tmp_path: Path):
    """A picture of the set without a label file is known to the set, though not looked at."""
    photos = draw(tmp_path / "photos", "yolo/images/a.jpg", "yolo/images/unlabelled.jpg")
    for name, text in (("data.yaml", "names: [cat]\n"), ("labels/a.txt", "0 0.5 0.5 0.5 0.5\n")):
        path = photos / "yolo" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    section = {"use": "existing", "format": "yolo", "uri": str(photos / "yolo"), "strip": "yolo/"}
    found = workspace(tmp_path, photos, {"boxes": section})
    (report,) = report_label_sets(found, list_annotators(found.settings))
    assert (report.labelled, report.not_listed, report.remedy) == (1, 1, "")
