"""An image is looked at for an annotation type only where a label set says something of that type about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_runs import annotate_all, read_coverage
from engine_claims import box, image, tables
from format_sets import image as picture
from format_sets import read_back
from test_export_states import BOXES, TEXTS, cover, declare
from test_workspace_label_sets import CAT, draw, workspace, write_coco

from florence.coverage import COVERAGE, find_looked_at
from florence.engine.claims import read_claims
from florence.formats import FORMATS
from florence.formats.matching import Matching, read_label_set
from florence.image_files import PRESENT, FileRow, ImageFiles
from florence.records import ANNOTATION_TYPES, Claim, annotate, annotations_table
from florence.store import Store
from florence.workspace.annotate import describe_label_sets, list_annotators, report_label_sets

OBJECTS, CAPTION, CATEGORY = "<OD>", "<CAPTION>", "<CLASSIFICATION>"
THING = {"task": OBJECTS, "text": "cat", "regions": [{"box": [1, 2, 9, 9]}]}
TEXT = {"task": CAPTION, "text": "a cat on a mat"}
BROKEN = {"task": OBJECTS, "text": "cat", "regions": [{"box": [1, 2]}]}


def looks(form: str, uri: Path, *names: str, **settings: Any) -> dict[str, tuple[str, ...] | None | str]:
    """Return what each image was looked at for; "unknown" or "refused" where it was not."""
    records = [picture(0, name=name, image_id=name) for name in names]
    found = read_back(form, uri, records, **settings)
    result: dict[str, Any] = dict.fromkeys(found.unknown, "unknown") | dict.fromkeys(found.errors, "refused")
    return result | {name: read.looked_at for name, read in found.claims.items()}


def test_coco_s_file_of_captions_does_not_speak_of_objects(tmp_path: Path):
    write_coco(tmp_path / "instances_train.json", {"both.jpg": [CAT], "empty.jpg": [], "broken.jpg": [{"bbox": [1]}]})
    images = [{"id": k, "file_name": f"{name}.jpg"} for k, name in enumerate(("both", "texts", "silent", "broken"))]
    captions = [{"id": k, "image_id": k, "caption": "a cat"} for k in (0, 1, 3)]
    texts = {"images": images, "annotations": captions}
    (tmp_path / "captions_train.json").write_text(json.dumps(texts))
    names = [f"{name}.jpg" for name in ("both", "empty", "texts", "silent", "broken")]
    assert looks("coco", tmp_path, *names) == {
        "both.jpg": (OBJECTS, CAPTION),
        "empty.jpg": (OBJECTS,),
        "texts.jpg": (CAPTION,),
        "silent.jpg": (CAPTION,),
        "broken.jpg": (CAPTION,),
    }, "an object that was not understood does not say that there is none"


def test_a_file_of_key_points_alone_does_not_speak_of_objects(tmp_path: Path):
    images = [{"id": k, "file_name": f"{name}.jpg"} for k, name in enumerate(("points", "silent", "boxed"))]
    points = {"image_id": 0, "category_id": 1, "keypoints": [20, 30, 2], "num_keypoints": 1}
    file = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": [{"id": 1, **points}]}
    path = tmp_path / "person_keypoints.json"
    path.write_text(json.dumps(file))
    unknown = dict.fromkeys(("points.jpg", "silent.jpg", "boxed.jpg"), ())
    assert looks("coco", path, *unknown) == {**unknown, "points.jpg": "refused"}
    # COCO's own files of key points have boxes too
    boxed = {"id": 2, **points, "image_id": 2, "bbox": [1, 2, 9, 9]}
    path.write_text(json.dumps({**file, "annotations": [{"id": 1, **points}, boxed]}))
    assert looks("coco", path, *unknown) == {
        "points.jpg": "refused",
        "silent.jpg": (OBJECTS,),
        "boxed.jpg": (OBJECTS,),
    }


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("captions_default.json", {"categories": []}, (CAPTION,)),
        ("instances_default.json", {"categories": []}, (OBJECTS,)),
        ("labels.json", {"categories": [{"id": 1, "name": "cat"}]}, (OBJECTS,)),
        ("labels.json", {}, (CAPTION,)),
    ],
)
def test_coco_files_without_annotations_are_told_by_their_categories(tmp_path: Path, name: str, more, expected):
    document = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], **more}
    (tmp_path / name).write_text(json.dumps(document))
    assert looks("coco", tmp_path, "a.jpg") == {"a.jpg": expected}


def test_a_line_says_what_its_image_was_looked_at_for(tmp_path: Path):
    lines: dict[str, dict[str, Any]] = {
        "objects": {"annotations": [], "looked_at": [OBJECTS]},
        "more": {"annotations": [TEXT], "looked_at": [OBJECTS]},
        "texts": {"annotations": [TEXT], "looked_at": [CAPTION]},
        "people's own": {"annotations": [TEXT]},
        "broken": {"annotations": [BROKEN, TEXT]},
        "partly": {"annotations": [BROKEN, THING]},
        "no list": {"annotations": [], "looked_at": "objects"},
        "no type": {"annotations": [], "looked_at": ["<ODD>"]},
        "nothing": {"annotations": [], "looked_at": []},
    }
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps({"image": {"name": name}, **line}) + "\n" for name, line in lines.items()))
    assert looks("jsonl", path, *lines) == {
        "objects": (OBJECTS,),
        "more": (OBJECTS, CAPTION),
        "texts": (CAPTION,),
        "people's own": None,
        "broken": (CAPTION,),
        "partly": (OBJECTS, CAPTION),
        "no list": "unknown",
        "no type": "unknown",
        "nothing": "unknown",
    }


def test_who_only_wrote_texts_in_label_studio_did_not_look_for_objects(tmp_path: Path):
    rectangle = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["cat"]}
    drawn = {"type": "rectanglelabels", "from_name": "label", "to_name": "image", "id": "1", "value": rectangle}
    chosen = {"type": "choices", "from_name": "category", "to_name": "image", "id": "2", "value": {"choices": ["in"]}}
    ellipse = {"type": "ellipselabels", "id": "3", "value": {"ellipselabels": ["cat"]}}
    made = {"a.jpg": [drawn], "b.jpg": [chosen], "c.jpg": [drawn, chosen], "d.jpg": [], "e.jpg": [ellipse, chosen]}
    tasks = [{"id": 1, "data": {"image": name}, "annotations": [{"result": found}]} for name, found in made.items()]
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    assert looks("labelstudio", tmp_path, *made) == {
        "a.jpg": (OBJECTS,),
        "b.jpg": (CATEGORY,),
        "c.jpg": (OBJECTS, CATEGORY),
        "d.jpg": None,
        "e.jpg": (CATEGORY,),
    }


def test_a_row_of_hugging_face_with_a_text_alone_does_not_speak_of_objects(tmp_path: Path):
    rows: dict[str, dict[str, Any]] = {
        "a.jpg": {"text": "a cat", "objects": {"bbox": [[1, 2, 9, 9]], "categories": ["cat"]}},
        "b.jpg": {"text": "a cat"},
        "c.jpg": {"text": "a cat", "objects": None},
        "d.jpg": {"objects": {"bbox": [], "categories": []}},
        "e.jpg": {"text": "a cat", "objects": {"bbox": [[1, 2, 9, 9]], "categories": [7]}},
        "f.jpg": {"text": None, "objects": None},
    }
    path = tmp_path / "metadata.jsonl"
    path.write_text("".join(json.dumps({"file_name": name, **row}) + "\n" for name, row in rows.items()))
    assert looks("imagefolder", path, *rows) == {
        "a.jpg": (OBJECTS, CAPTION),
        "b.jpg": (CAPTION,),
        "c.jpg": (CAPTION,),
        "d.jpg": (OBJECTS,),
        "e.jpg": (CAPTION,),
        "f.jpg": "unknown",
    }


def test_two_entries_of_a_picture_add_up(tmp_path: Path):
    write_coco(tmp_path / "instances.json", {"a.jpg": []}, (64, 48))
    texts = {"images": [{"id": 1, "file_name": "b.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    (tmp_path / "captions.json").write_text(json.dumps(texts))
    rows = [FileRow("photos", None, name, "id", 1, None, PRESENT) for name in ("a.jpg", "b.jpg")]
    form = FORMATS.get("coco")()
    record = picture(0, name="a.jpg", image_id="id")
    matching = Matching(files=ImageFiles.of_rows(rows))
    found = read_label_set(form.open(form.files(str(tmp_path))), [record], matching)
    assert set(found.claims["id"].looked_at or ()) == {OBJECTS, CAPTION}


# ---------------------------------------------------------------- coverage


def test_coverage_report_and_exports_know_the_types(tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg")
    write_coco(tmp_path / "instances.json", {"a.jpg": [CAT], "c.jpg": []})
    texts = {"images": [{"id": 1, "file_name": "b.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    (tmp_path / "captions.json").write_text(json.dumps(texts))
    section = {"use": "existing", "format": "coco", "uri": str(tmp_path)}
    found = workspace(tmp_path, photos, {"both": section, "boxes": {**section, "tasks": [OBJECTS]}})
    annotate_all(found.settings, found.store)
    both, boxes = read_coverage(found.store, "both"), read_coverage(found.store, "boxes")
    assert {name: row["looked_at"] for name, row in both.items()} == {
        "a.jpg": OBJECTS,
        "b.jpg": CAPTION,
        "c.jpg": OBJECTS,
    }
    assert {name: row["looked_at"] for name, row in boxes.items()} == dict.fromkeys(boxes), "all that it claims"
    assert "says nothing about it of <OD>" in boxes["b.jpg"]["error"]

    reports = report_label_sets(found, list_annotators(found.settings))
    assert [report.looked_at for report in reports] == [{CAPTION: 1, OBJECTS: 2}, {OBJECTS: 2}]
    assert [(r.labelled, r.empty, r.not_listed) for r in reports] == [(2, 1, 0), (1, 1, 1)]
    line = describe_label_sets(found.settings, reports)[0]
    assert "of these images, it says something for <CAPTION> about 1, for <OD> about 2" in line

    ids = {name: row["image_id"] for name, row in both.items()}
    found.store.write_table("labels/round-00000.parquet", annotations_table([]))
    known = find_looked_at(found.store, 0, "labels/round-00000.parquet")
    assert known == {ids["a.jpg"]: {OBJECTS}, ids["b.jpg"]: {CAPTION}, ids["c.jpg"]: {OBJECTS}}


def test_a_table_without_the_column_covers_every_type(tmp_path: Path):
    store = Store(str(tmp_path))
    declare(store, "old@1", [*BOXES, *TEXTS])
    cover(store, "old@1", {"a": "", "b": "ValueError: broken"})
    name = "coverage/old@1/photos-00000.parquet"
    store.write_table(name, store.read_table(name).drop_columns(["looked_at", "unread"]))
    store.write_table("labels/round-00000.parquet", annotations_table([]))
    assert find_looked_at(store, 0, "labels/round-00000.parquet") == {"a": {OBJECTS, CAPTION}}
    assert store.read_tables("coverage/old@1", COVERAGE, older=True).schema.names == COVERAGE.names


def test_silence_about_a_type_that_was_not_looked_for_is_no_evidence():
    images = [image(name) for name in "abc"]
    ids = [one.image_id for one in images]
    cat, text = box("cat", 1, 2, 30, 40), Claim(CAPTION, "a cat")
    claims, records, coverage = tables({"set": {ids[0]: [cat], ids[1]: [text], ids[2]: []}}, images)
    every = read_claims(claims, coverage, records)
    assert every.compute_coverage(ANNOTATION_TYPES.index(OBJECTS)).tolist() == [[True], [True], [True]]
    told = coverage.append_column("looked_at", [[OBJECTS, CAPTION, None]])
    some = read_claims(claims, told, records)
    assert some.compute_coverage(ANNOTATION_TYPES.index(OBJECTS)).tolist() == [[True], [False], [True]]
    assert some.compute_coverage(ANNOTATION_TYPES.index(CAPTION)).tolist() == [[False], [True], [True]]
    assert not some.compute_coverage(ANNOTATION_TYPES.index(CATEGORY)).any(), "it claims none anywhere"
    assert np.array_equal(some.image, every.image)


def test_a_snapshot_speaks_of_what_its_annotators_looked_for(tmp_path: Path, small_snapshot: Store):
    records = [picture(0, image_id=name, name=name) for name in ("boxes", "texts", "nobody")]
    store = Store(str(tmp_path))
    shard = small_snapshot.names("images", ".parquet")[0]
    one = small_snapshot.read_table(shard).slice(0, 1).to_pylist()[0]
    rows = [{**one, "image_id": r.image_id, "width": r.width, "height": r.height} for r in records]
    table = small_snapshot.read_table(shard)
    store.write_table("images/photos-00000.parquet", type(table).from_pylist(rows, schema=table.schema))
    declare(store, "boxes@1", BOXES)
    cover(store, "boxes@1", {"boxes": "", "nobody": "ValueError: broken"})
    labels = annotate("texts", [Claim(CAPTION, "a cat")], "consensus", "1", 0)
    store.write_table("labels/round-00000.parquet", annotations_table(labels))
    names = [record.name for record in records]
    assert looks("snapshot", tmp_path, *names) == {"boxes": (OBJECTS,), "texts": (CAPTION,), "nobody": "unknown"}


@pytest.mark.parametrize("form", ["jsonl", "labelstudio", "alttext"])
def test_an_empty_image_was_looked_at_for_what_its_set_has_labels_of(tmp_path: Path, form: str):
    """Formats can hold more types than the people who made a data set thought of."""
    photos = draw(tmp_path / "photos", "a.jpg", "b.jpg")
    line = {"image": {"name": "a.jpg"}, "annotations": [TEXT]}
    text = {"type": "textarea", "from_name": "caption", "to_name": "image", "id": "1", "value": {"text": ["a cat"]}}
    made = [("a.jpg", [text]), ("b.jpg", [])]
    content = {
        "jsonl": "\n".join(json.dumps(one) for one in (line, {"image": {"name": "b.jpg"}, "annotations": []})),
        "labelstudio": json.dumps([{"data": {"image": n}, "annotations": [{"result": found}]} for n, found in made]),
        "alttext": "name,text\na.jpg,a cat\nb.jpg,\n",
    }[form]
    path = tmp_path / {"jsonl": "l.jsonl", "labelstudio": "l.json", "alttext": "l.csv"}[form]
    path.write_text(content)
    found = workspace(tmp_path, photos, {"set": {"use": "existing", "format": form, "uri": str(path)}})
    annotate_all(found.settings, found.store)
    rows = read_coverage(found.store, "set")
    assert {name: (row["error"], row["looked_at"]) for name, row in rows.items()} == {
        "a.jpg": ("", CAPTION),
        "b.jpg": ("", CAPTION),
    }
