"""COCO's JSON as tools and people write it: read as it is meant where that is certain, else told, never guessed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from format_sets import image, read_back

from florence.errors import DataError
from florence.records import ImageRecord

RECORD = image(2, width=160, height=120, name="a.jpg")
BOX = [10, 20, 50, 60]


def document(folder: Path, annotations: list, name: str = "l.json", **more) -> Path:
    """Return a file with the image a.jpg, 160 × 120, and the categories 1 (cat) and 2 (dog)."""
    values = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 160, "height": 120}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": BOX, **values} for values in annotations],
    }
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**values, **more}))
    return path


def read(path: Path, record: ImageRecord = RECORD, **settings):
    """Return the boxes with names of the image, and (unit, reason, count) of each problem."""
    found = read_back("coco", path, [record], **settings)
    claims = found.claims[record.image_id].claims if record.image_id in found.claims else None
    boxes = None if claims is None else [(c.text, c.regions[0].box if c.regions else None) for c in claims]
    return boxes, [(p.unit, p.reason, p.count) for p in found.problems]


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("image_id", [7, "7", 7.0, " 7 "])
@pytest.mark.parametrize("category_id", [1, "1", 1.0])
def test_ids_are_numbers_or_texts(tmp_path: Path, image_id, category_id):
    path = document(tmp_path, [{"image_id": image_id, "category_id": category_id}])
    assert read(path) == ([("cat", (10, 20, 60, 80))], [])


@pytest.mark.parametrize("image_id", [None, True, [7], 7.5, "", "seven"])
def test_other_ids_are_told(tmp_path: Path, image_id):
    boxes, problems = read(document(tmp_path, [{"image_id": image_id}, {}]))
    assert len(boxes) == 1 and problems == [("label", "not of an image of the file", 1)]


def test_an_id_of_two_images_refuses_both(tmp_path: Path):
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": "7", "file_name": "b.jpg"}, {"id": 8, "file_name": "c.jpg"}]
    path = document(tmp_path, [{}, {"image_id": 8}], images=images)
    records = [image(k, width=160, height=120, name=f"{'abc'[k]}.jpg") for k in range(3)]
    found = read_back("coco", path, records)
    assert set(found.claims) == {records[2].image_id}
    assert {found.errors[r.image_id].reason for r in records[:2]} == {"several images of one id"}


def test_an_id_of_two_categories_refuses_its_labels(tmp_path: Path):
    categories = [{"id": 1, "name": "cat"}, {"id": "1", "name": "dog"}, {"id": 2, "name": "cow"}]
    boxes, problems = read(document(tmp_path, [{}, {"category_id": 2}], categories=categories))
    assert [name for name, _ in boxes] == ["cow"] and problems == [("label", "several categories of one id", 1)]


# ---------------------------------------------------------------- names of categories


def test_names_are_one_class_where_only_white_space_differs(tmp_path: Path):
    categories = [{"id": 1, "name": "person "}, {"id": 2, "name": "person"}, {"id": 3, "name": "cafe\u0301"}]
    path = document(tmp_path, [{}, {"category_id": 2, "bbox": [1, 2, 3, 4]}], categories=categories)
    boxes, problems = read(path)
    assert [name for name, _ in boxes] == ["person", "person"]
    assert problems == [
        ("part", "classes of one name are one class", 1),
        ("part", "white space or Unicode form of a name changed", 1),
    ]


@pytest.mark.parametrize("name", ["🙂", "+", "…", "★", "猫", "7", "<OD>"])
def test_names_of_any_characters_are_read(tmp_path: Path, name):
    assert read(document(tmp_path, [{}], categories=[{"id": 1, "name": name}])) == ([(name, (10, 20, 60, 80))], [])


@pytest.mark.parametrize("name", [None, "", " ", "<loc_5>", ["cat"], True, "a\0"])
def test_names_that_cannot_be_used_lose_their_labels(tmp_path: Path, name):
    categories = [{"id": 1, "name": name}, {"id": 2, "name": "dog"}]
    boxes, problems = read(document(tmp_path, [{}, {"category_id": 2}, {}], categories=categories))
    assert [name for name, _ in boxes] == ["dog"]
    assert [unit for unit, _, _ in problems] == ["part", "label", "label"]


# ---------------------------------------------------------------- forms of boxes and masks


@pytest.mark.parametrize(
    "values",
    [
        {"bbox": ["10", "20", "50.0", "60"]},
        {"bbox": "[10, 20, 50, 60]"},
        {"bbox": "10,20,50,60"},
        {"bbox": [10, 20, 60, 80], "bbox_mode": 0},
        {"iscrowd": "0", "segmentation": None},
        {"segmentation": [], "keypoints": []},
        {"segmentation": [[]], "keypoints": [0, 0, 0]},
        {"attributes": {"rotation": 0.0}},
        {"caption": ""},
    ],
)
def test_boxes_in_other_forms(tmp_path: Path, values):
    assert read(document(tmp_path, [values])) == ([("cat", (10, 20, 60, 80))], [])


@pytest.mark.parametrize(
    "segmentation",
    [
        [10, 20, 60, 20, 60, 80],
        [["10", "20", "60", "20", "60", "80"]],
        [[[10, 20], [60, 20], [60, 80]]],
        [[10, 20, 60, 20, 60, 80], []],
    ],
)
def test_polygons_in_other_forms(tmp_path: Path, segmentation):
    found = read_back("coco", document(tmp_path, [{"segmentation": segmentation}]), [RECORD])
    (claim,) = found.claims[RECORD.image_id].claims
    assert claim.regions[0].polygons == ((10, 20, 60, 20, 60, 80),) and not found.problems


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"bbox": [35, 50, 50, 60, 30]}, "a rotated box"),
        ({"attributes": {"rotation": 30.0}}, "a rotated box"),
        ({"bbox": [0.1, 0.2, 0.3, 0.4]}, "a box in another unit"),
        ({"bbox_mode": 3}, "a box in another unit"),
        ({"bbox": [10, 20, 0, 60]}, "a box without an inside"),
        ({"bbox": None}, "not the numbers expected"),
        ({"bbox": [10, 20, float("inf"), 5]}, "not a number"),
        ({"bbox": [10**400, 20, 30, 5]}, "not a number"),
        ({"bbox": {"x": 1}}, "not the numbers expected"),
        ({"bbox": [500, 20, 30, 5]}, "no pixel of the image"),
        ({"iscrowd": 1}, "a crowd"),
        ({"iscrowd": "1"}, "a crowd"),
        ({"iscrowd": True, "segmentation": {"size": [120, 160], "counts": [19200]}}, "a crowd"),
        ({"category_id": None, "caption": "a cat at the left"}, "a caption of a region"),
        ({"category_id": None}, "not of a category of the file"),
        ({"category_id": 9}, "not of a category of the file"),
        ({"category_id": True}, "not of a category of the file"),
    ],
)
def test_what_is_no_object_is_lost_and_told(tmp_path: Path, values, reason):
    boxes, problems = read(document(tmp_path, [values, {"category_id": 2}]))
    assert boxes == [("dog", (10, 20, 60, 80))] and problems == [("label", reason, 1)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"keypoints": [20, 30, 2, 0, 0, 0], "num_keypoints": 1}, "key points are not read"),
        ({"bbox": [100, 20, 80, 60]}, "a box that reaches out of the image"),
        ({"bbox": [0, 0, 0, 0], "segmentation": [[10, 20, 60, 20, 60, 80]]}, "box not understood"),
        ({"segmentation": "abc"}, "mask not understood"),
        ({"segmentation": [[10**400] * 6]}, "mask not understood"),
        ({"caption": "a cat at the left"}, "a caption of a region"),
    ],
)
def test_what_is_used_without_a_part_is_told(tmp_path: Path, values, reason):
    boxes, problems = read(document(tmp_path, [values]))
    assert len(boxes) == 1 and problems == [("part", reason, 1)]


def test_panoptic_segments_are_counted(tmp_path: Path):
    segments = {"segments_info": [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}], "file_name": "a.png"}
    boxes, problems = read(document(tmp_path, [{**segments, "category_id": None, "bbox": None}, {}]))
    assert len(boxes) == 1 and problems == [("label", "panoptic segments", 2)]


def test_stuff_is_no_object(tmp_path: Path):
    categories = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
    boxes, problems = read(document(tmp_path, [{}, {"category_id": 2}], categories=categories))
    assert [name for name, _ in boxes] == ["cat"]
    assert ("label", "stuff, which is no object", 1) in problems


# ---------------------------------------------------------------- states of an image


def test_an_image_of_which_nothing_is_understood_is_not_empty(tmp_path: Path):
    found = read_back("coco", document(tmp_path, [{"category_id": 9}, {"iscrowd": 1}]), [RECORD])
    assert RECORD.image_id not in found.claims and RECORD.image_id in found.errors
    found = read_back("coco", document(tmp_path, []), [RECORD])
    assert found.claims[RECORD.image_id].claims == () and not found.problems


# ---------------------------------------------------------------- sizes, and photos turned by EXIF

TURNED = image(2, width=120, height=160, name="a.jpg")
"""The upright size of a photo that is stored as 160 × 120."""


def test_swapped_sides_are_read_where_a_box_proves_the_upright_image(tmp_path: Path):
    boxes, problems = read(document(tmp_path, [{"bbox": [10, 100, 50, 55]}, {}]), TURNED)
    assert boxes == [("cat", (10, 100, 60, 155)), ("cat", (10, 20, 60, 80))]
    assert problems == [("part", "width and height swapped", 1)]


@pytest.mark.parametrize("bbox", [BOX, [100, 20, 50, 60], [10, 100, 140, 55]])
def test_swapped_sides_are_refused_where_nothing_proves_it(tmp_path: Path, bbox):
    path = document(tmp_path, [{"bbox": bbox}])
    found = read_back("coco", path, [TURNED])
    error = found.errors[TURNED.image_id]
    assert error.reason == "labels of another size" and "swapped_sizes" in str(error) and "EXIF" in str(error)
    found = read_back("coco", path, [TURNED], swapped_sizes=True)
    assert len(found.claims[TURNED.image_id].claims) == 1


def test_an_image_without_labels_needs_no_proof(tmp_path: Path):
    assert read(document(tmp_path, []), TURNED) == ([], [("part", "width and height swapped", 1)])


def test_another_size_is_refused_whatever_is_set(tmp_path: Path):
    found = read_back(
        "coco", document(tmp_path, [{}]), [image(2, width=320, height=240, name="a.jpg")], swapped_sizes=True
    )
    assert [error.reason for error in found.errors.values()] == ["labels of another size"]


def test_a_file_of_another_size_among_several_loses_its_labels_alone(tmp_path: Path):
    document(tmp_path, [{}, {"category_id": 2}], "a.json")
    images = [{"id": 7, "file_name": "a.jpg", "width": 320, "height": 240}]
    document(tmp_path, [{}, {"bbox": [1, 2, 3, 4]}], "b.json", images=images)
    boxes, problems = read(tmp_path)
    assert [name for name, _ in boxes] == ["cat", "dog"]
    assert ("label", "labels of another size", 2) in problems


# ---------------------------------------------------------------- several files, and how they are stored


def test_files_of_splits_have_their_own_folders(tmp_path: Path):
    """Roboflow's layout: the same file name in two splits is two images."""
    for folder, name in (("train", "cat"), ("valid", "dog")):
        document(tmp_path, [{}], f"{folder}/_annotations.coco.json", categories=[{"id": 1, "name": name}])
    records = [image(k, width=160, height=120, name=f"{folder}/a.jpg") for k, folder in enumerate(("train", "valid"))]
    found = read_back("coco", tmp_path, records)
    assert [[c.text for c in found.claims[r.image_id].claims] for r in records] == [["cat"], ["dog"]]
    flat = image(2, width=160, height=120, name="a.jpg")
    assert flat.image_id not in read_back("coco", tmp_path, [flat]).claims


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_and_compression(tmp_path: Path, encoding: str, packed: bool):
    path = document(tmp_path, [{}], categories=[{"id": 1, "name": "Käfer 猫"}])
    data = json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode(encoding)
    path.unlink()
    path = tmp_path / ("l.json.gz" if packed else "l.json")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read(path) == read(tmp_path) == ([("Käfer 猫", (10, 20, 60, 80))], [])


@pytest.mark.parametrize(
    "content",
    [b"{", b"[1, 2]", b"\x1f\x8bnot gzip", b'{"images": []}', b'[{"image_id": 7, "bbox": [1, 2, 3, 4]}]', b"9" * 5000],
)
def test_a_file_that_cannot_be_read_leaves_the_others(tmp_path: Path, content: bytes):
    document(tmp_path, [{}], "a.json")
    (tmp_path / "b.json").write_bytes(content)
    boxes, problems = read(tmp_path)
    assert len(boxes) == 1 and [(unit, count) for unit, _, count in problems] == [("file", 1)]
    with pytest.raises(DataError, match=r"b\.json"):
        read(tmp_path / "b.json")


def test_the_picture_is_known_by_its_content_where_the_file_tells_it(tmp_path: Path):
    images = [{"id": 7, "file_name": "elsewhere/x.jpg", "sha256": RECORD.image_id}]
    boxes, _ = read(document(tmp_path, [{}], images=images))
    assert len(boxes) == 1


def test_lvis_names_a_file_by_its_address(tmp_path: Path):
    path = document(tmp_path, [{"bbox": [1, 2, 3, 4]}])
    values = json.loads(path.read_text())
    name = values["images"][0].pop("file_name")
    values["images"][0]["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
    path.write_text(json.dumps(values))
    record = image(0, name=name.rsplit("/")[-1], width=RECORD.width, height=RECORD.height, image_id=RECORD.image_id)
    assert len(read_back("coco", path, [record]).claims[RECORD.image_id].claims) == 1
