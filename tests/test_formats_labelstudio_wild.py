"""Label Studio's JSON as projects have it: what is not read is told, label by label, and no image gets another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from format_sets import image, read_back

from florence.errors import DataError

RECORD = image(2, width=160, height=120, name="a.jpg")
OTHER = image(3, width=160, height=120, name="b.jpg")
PLACE = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}
BOX = (16.0, 24.0, 64.0, 72.0)


def result(value: dict, kind: str = "rectanglelabels", id: str | None = "r1", **more) -> dict:
    sides = {"original_width": 160, "original_height": 120}
    return {"id": id, "type": kind, "from_name": "c", "to_name": "image", **sides, "value": value, **more}


def drawn(*names, id: str | None = "r1", x: float = 10, **more) -> dict:
    return result({**PLACE, "x": x, "rectanglelabels": list(names)}, id=id, **more)


def save(folder: Path, *results: dict, data: dict | None = None, others: tuple[dict, ...] = ()) -> Path:
    work = [{"id": 1, "completed_by": 1, "result": list(results)}, *others]
    path = folder / "tasks.json"
    path.write_text(
        json.dumps([{"id": 1, "data": data or {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": work}])
    )
    return path


def read(path: Path, record=RECORD, **settings):
    """Return names and boxes of the objects, texts of the rest, and (unit, reason, count) of each problem."""
    found = read_back("labelstudio", path, [record], **settings)
    claims = found.claims[record.image_id].claims if record.image_id in found.claims else None
    shown = None if claims is None else [(c.text, c.regions[0].box) if c.task == "<OD>" else c.text for c in claims]
    return shown, [(p.unit, p.reason, p.count) for p in found.problems]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("ellipselabels", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "ellipselabels": ["ball"]}, "an ellipse"),
        ("ellipse", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20}, "an ellipse"),
        ("keypointlabels", {"x": 50, "y": 50, "width": 1, "keypointlabels": ["eye"]}, "a key point"),
        ("brushlabels", {"format": "rle", "rle": [0, 1, 2], "brushlabels": ["road"]}, "a brush mask"),
        ("videorectangle", {"sequence": [], "labels": ["car"]}, "a box in a video"),
        ("taxonomy", {"taxonomy": [["Animal", "Cat"]]}, "a nested choice"),
        ("choices", {"choices": [["Animal", "Cat"]]}, "a nested choice"),
        ("rating", {"rating": 4}, "a result of type rating"),
        ("", {}, "no result"),
        ("rectanglelabels", {**PLACE, "rectanglelabels": []}, "a region without a label"),
        ("rectanglelabels", {**PLACE, "rectanglelabels": [5.5]}, "a name that is no text"),
        ("rectanglelabels", {**PLACE, "rectanglelabels": ["<loc_1>"]}, "a name with a token of the model"),
        ("rectanglelabels", {**PLACE, "x": "left", "rectanglelabels": ["cat"]}, "not a number"),
        ("polygonlabels", {"points": [[1, 1], [9, 9]], "polygonlabels": ["cat"]}, "no polygon"),
        ("rectanglelabels", {**PLACE, "x": 300, "rectanglelabels": ["cat"]}, "no pixel of the image"),
        ("textarea", {"text": [5]}, "no text"),
    ],
)
def test_what_is_not_read_is_told(tmp_path: Path, kind: str, value: dict, reason: str):
    shown, problems = read(save(tmp_path, drawn("dog"), result(value, kind, "other")))
    assert shown == [("dog", BOX)] and problems == [("label", reason, 1)]


def test_each_label_of_a_region_is_counted(tmp_path: Path):
    ellipse = result({"x": 1, "y": 1, "radiusX": 1, "radiusY": 1, "ellipselabels": ["a", "b"]}, "ellipselabels", "e")
    shown, problems = read(save(tmp_path, drawn("cat", "dog", None), ellipse))
    assert shown == [("cat", BOX), ("dog", BOX)]
    assert sorted(problems) == [("label", "a name that is no text", 1), ("label", "an ellipse", 2)]


def test_turned_boxes_keep_their_corners(tmp_path: Path):
    found = read_back(
        "labelstudio", save(tmp_path, result({**PLACE, "rotation": 45, "rectanglelabels": ["cat"]})), [RECORD]
    )
    (claim,) = found.claims[RECORD.image_id].claims
    half = 2**-0.5
    corners = (16, 24, 16 + 48 * half, 24 + 48 * half, 16, 24 + 96 * half, 0, 24 + 48 * half)
    assert claim.regions[0].polygons[0] == pytest.approx(corners, abs=1e-9) and not found.problems


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_an_image_turned_on_the_screen_has_its_labels_where_they_were(tmp_path: Path, turned: int):
    assert read(save(tmp_path, drawn("cat", image_rotation=turned))) == ([("cat", BOX)], [])


# ---------------------------------------------------------------- regions and their ids


@pytest.mark.parametrize("id", ["r1", None, ""])
def test_regions_of_one_id_are_two_where_they_lie_apart(tmp_path: Path, id):
    shown, problems = read(save(tmp_path, drawn("cat", id=id), drawn("dog", id=id, x=50)))
    assert shown == [("cat", BOX), ("dog", (80, 24, 128, 72))] and not problems


def test_a_shape_and_its_label_are_one_region(tmp_path: Path):
    shape, label = result(PLACE, "rectangle"), result({**PLACE, "labels": ["cat"]}, "labels")
    assert read(save(tmp_path, shape, label)) == ([("cat", BOX)], [])


@pytest.mark.parametrize(
    "region",
    [
        result({"x": 1, "y": 1, "radiusX": 1, "radiusY": 1, "ellipselabels": ["a"]}, "ellipselabels"),
        drawn("cat", original_width=320, original_height=240),
        result({**PLACE, "y": None, "rectanglelabels": ["cat"]}),
    ],
)
def test_a_text_of_a_region_that_is_not_read_is_no_caption(tmp_path: Path, region: dict):
    written = result({"text": ["EXIT"]}, "textarea")
    shown, problems = read(save(tmp_path, drawn("dog", id="d"), region, written))
    assert shown == [("dog", BOX)] and [unit for unit, _, _ in problems] == ["label", "label"]
    orphan = result({**PLACE, "text": ["EXIT"]}, "textarea", "gone")
    assert read(save(tmp_path, drawn("dog"), orphan)) == (
        [("dog", BOX)],
        [("label", "a text that belongs to no region", 1)],
    )


def test_a_choice_about_a_region_is_not_about_the_image(tmp_path: Path):
    chosen = result({**PLACE, "choices": ["old"]}, "choices")
    for settings in ({}, {"kinds": {"c": "<CLASSIFICATION>"}}):
        shown, problems = read(save(tmp_path, drawn("cat"), chosen), **settings)
        assert shown == [("cat", BOX)] and problems == [("label", "a choice about a region", 1)]


def test_relations_that_are_not_read_are_told(tmp_path: Path):
    relation = {"type": "relation", "from_id": "r1", "to_id": "r2", "direction": "right"}
    shown, problems = read(save(tmp_path, drawn("cat"), drawn("dog", id="r2", x=50), relation))
    assert len(shown) == 2 and problems == [("part", "a relation", 1)]


# ---------------------------------------------------------------- sizes


def test_labels_of_another_size_are_refused(tmp_path: Path):
    big = {"original_width": 320, "original_height": 240}
    found = read_back("labelstudio", save(tmp_path, drawn("cat", **big)), [RECORD])
    assert [error.reason for error in found.errors.values()] == ["labels of another size"]
    shown, problems = read(save(tmp_path, drawn("cat"), drawn("dog", "cow", id="r2", x=50, **big)))
    assert shown == [("cat", BOX)] and problems == [("label", "labels of another size", 2)]


# ---------------------------------------------------------------- several images, several people


def test_pages_of_a_task_are_images_of_their_own(tmp_path: Path):
    data = {"image": ["s3://b/a.jpg", "s3://b/b.jpg"]}
    path = save(
        tmp_path, drawn("cat", item_index=0), drawn("dog", id="r2", item_index=1), drawn("cow", item_index=7), data=data
    )
    assert read(path) == ([("cat", BOX)], [("label", "a result of another tag", 1)])
    assert read(path, OTHER) == ([("dog", BOX)], [])


def test_results_follow_the_image_that_their_tag_is_named_for(tmp_path: Path):
    data = {"image": "s3://b/a.jpg", "after": "s3://b/b.jpg"}
    both = (drawn("cat"), drawn("dog", id="r2", to_name="after"), drawn("cow", id="r3", to_name="third"))
    path = save(tmp_path, *both, data=data)
    assert read(path) == ([("cat", BOX)], [("label", "a result of another tag", 1)])
    assert read(path, OTHER) == ([("dog", BOX)], [])


def test_where_it_is_unknown_which_image_is_meant_none_is_labelled(tmp_path: Path):
    data = {"image": "s3://b/a.jpg", "image2": "s3://b/b.jpg"}
    path = save(tmp_path, drawn("cat", to_name="img1"), drawn("dog", to_name="img2", id="r2"), data=data)
    for record in (RECORD, OTHER):
        shown, problems = read(path, record)
        assert shown is None and ("image", "results of an unknown image", 1) in problems


def test_one_image_may_have_a_tag_of_any_name(tmp_path: Path):
    assert read(save(tmp_path, drawn("cat", to_name="img"))) == ([("cat", BOX)], [])
    other = result({"text": ["a note"]}, "textarea", "t", to_name="words")
    assert read(save(tmp_path, drawn("cat", to_name="img"), other)) == (
        [("cat", BOX)],
        [("label", "a result of another tag", 1)],
    )


def test_what_other_people_drew_is_counted(tmp_path: Path):
    other = {"id": 2, "completed_by": 2, "result": [drawn("dog"), drawn("cow", id="r2", x=50)], "updated_at": "2020"}
    shown, problems = read(save(tmp_path, drawn("cat"), others=(other,)))
    assert [name for name, _ in shown] == ["dog", "cow"]
    assert problems == [("label", "another annotation of the same image", 1)]


def test_spellings_are_one_name(tmp_path: Path):
    shown, problems = read(save(tmp_path, drawn("person "), drawn("person", id="r2", x=50)))
    assert [name for name, _ in shown] == ["person", "person"]
    assert problems == [("part", "classes of one name are one class", 1)]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    "data", [{"video": "a.mp4"}, {"text": "words"}, {"image": None}, {"image": []}, {"image": [5]}]
)
def test_a_task_without_an_image_is_told(tmp_path: Path, data: dict):
    shown, problems = read(save(tmp_path, drawn("cat"), data=data))
    assert shown is None and problems == [("image", "a task without the address of an image", 1)]


def test_a_file_that_is_not_understood_leaves_the_others(tmp_path: Path):
    save(tmp_path, drawn("cat"))
    (tmp_path / "z.json").write_text("[1, 2]")
    assert read(tmp_path) == ([("cat", BOX)], [("file", "not a file of Label Studio", 1)])
    with pytest.raises(DataError, match="list of tasks"):
        read(tmp_path / "z.json")


def test_json_min_tells_what_it_has_beside_boxes(tmp_path: Path):
    task = {
        "id": 1,
        "image": "/data/upload/1/0a1b2c3d-a.jpg",
        "label": [
            {**PLACE, "rectanglelabels": ["cat"], "original_width": 160, "original_height": 120},
            {"x": 5, "y": 5, "radiusX": 1, "radiusY": 2, "ellipselabels": ["ball"]},
            {"x": 5, "y": 5, "width": 0.5, "keypointlabels": ["eye"]},
            {"format": "rle", "rle": [0], "brushlabels": ["road", "way"]},
        ],
        "meta": {"camera": "left"},
    }
    path = tmp_path / "min.json"
    path.write_text(json.dumps([task]))
    shown, problems = read(path)
    assert shown == [("cat", BOX)]
    assert problems == [("label", "an ellipse", 1), ("label", "a key point", 1), ("label", "a brush mask", 2)]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"annotations": [{"label": "cat", "coordinates": {"x": 1}}]}, "a task that nobody has annotated"),
        ({}, "a task that nobody has annotated"),
        ({"annotator": 1, "choice": "cat"}, "a field that may be a label"),
        ({"annotator": 1, "topics": ["cat", "dog"]}, "a field that may be a label"),
    ],
)
def test_a_flat_task_of_which_nothing_is_understood_is_not_empty(tmp_path: Path, task: dict, reason: str):
    """CreateML has such tasks, as have lists that are to be imported; in JSON-MIN a choice is a bare text."""
    path = tmp_path / "min.json"
    path.write_text(json.dumps([{"image": RECORD.name, "id": 1, **task}]))
    found = read_back("labelstudio", path, [RECORD])
    assert not found.claims and [(p.unit, p.reason) for p in found.problems] == [("image", reason)]


def test_a_bare_text_beside_boxes_is_told_and_read_where_it_is_named(tmp_path: Path):
    box = {**PLACE, "rectanglelabels": ["cat"]}
    path = tmp_path / "min.json"
    path.write_text(json.dumps([{"image": RECORD.name, "annotator": 1, "label": [box], "scene": "indoor"}]))
    assert read(path) == ([("cat", BOX)], [("part", "a field that may be a label", 1)])
    (claims,) = read_back("labelstudio", path, [RECORD], kinds={"scene": "<CLASSIFICATION>"}).claims.values()
    assert [(c.task, c.text) for c in claims.claims] == [("<OD>", "cat"), ("<CLASSIFICATION>", "indoor")]


def test_a_flat_task_without_results_by_a_person_is_empty(tmp_path: Path):
    path = tmp_path / "min.json"
    path.write_text(json.dumps([{"image": RECORD.name, "id": 1, "annotator": 1, "annotation_id": 4}]))
    assert read(path) == ([], [])
