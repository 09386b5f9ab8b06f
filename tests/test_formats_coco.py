"""COCO's JSON against pycocotools: each reads the files of the other."""

from __future__ import annotations

import contextlib
import io
import json
from array import array
from pathlib import Path

import numpy as np
import pytest
from format_sets import NAMES, assert_near, claims_of, image, labelled, objects, read_back, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference
from pycocotools.coco import COCO

from florence.errors import DataError, SettingsError
from florence.formats import FORMATS
from florence.formats._masks import decode_run_lengths, trace_pixel_edges
from florence.geometry import polygon_area
from florence.records import Claim, ImageRecord, Region

RECORD = image(2)


def document(folder: Path, annotations: list, **more) -> Path:
    """Return a file with one image, 640 × 480, and two categories whose ids leave gaps."""
    values = {
        "images": [{"id": 7, "file_name": RECORD.name, "width": 640, "height": 480}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [{"id": k, "image_id": 7, "category_id": 3, **values} for k, values in enumerate(annotations)],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps({**values, **more}))
    return path


def open_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def draw_mask(coco: COCO, annotation: dict) -> np.ndarray:
    return coco.annToMask(annotation).astype(bool)


# ---------------------------------------------------------------- there and back


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_objects_and_captions_come_back(tmp_path_factory, data):
    records = [image(k) for k in range(5)]
    found = []
    for record in records:
        claims = data.draw(objects(record)) + data.draw(
            objects(record, shapes="polygon", most=2) if record.width > 1 else st.just([])
        )
        found.append(
            (
                record,
                claims
                + [
                    Claim(annotation_type, f"a text of {annotation_type}")
                    for annotation_type in data.draw(
                        st.lists(st.sampled_from(["<CAPTION>", "<DETAILED_CAPTION>"]), unique=True)
                    )
                ],
            )
        )
    folder = tmp_path_factory.mktemp("coco")
    write(FORMATS.get("coco")(), folder, found)
    imported = read_back("coco", folder, records)
    for record, claims in found:
        again = {
            task: [c for c in claims_of(imported, record) if (c.task == "<OD>") == (task == "<OD>")]
            for task in ("<OD>", "text")
        }
        assert_near(again["<OD>"], [c for c in claims if c.task == "<OD>"])
        assert_near(again["text"], [c for c in claims if c.task != "<OD>"])
    assert not imported.unknown and not imported.unmatched


def polygons_and_run_lengths() -> list[dict]:
    """Return annotations of an image of 640 by 480: polygons, a box alone, run lengths as text and as numbers."""
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:480, :640]
    ring = ((xx - 300) ** 2 + (yy - 200) ** 2 < 150**2) & ~((xx - 320) ** 2 + (yy - 220) ** 2 < 60**2)
    small = np.zeros((480, 640), bool)
    small[100:103, 200:202] = True
    small[103, 202] = True
    noisy = np.zeros((480, 640), bool)
    noisy[300:340, 400:460] = rng.random((40, 60)) < 0.6
    annotations = [
        {
            "bbox": [10.25, 20.5, 30.125, 40.75],
            "segmentation": [[10.25, 20.5, 40.375, 20.5, 40.375, 61.25, 12, 60]],
            "area": 1.0,
            "iscrowd": 0,
        },
        {
            "category_id": 90,
            "bbox": [0, 0, 640, 480],
            "segmentation": [[0, 0, 100, 0, 100, 90, 0, 90], [300, 300, 640, 300, 640, 480]],
            "area": 1.0,
            "iscrowd": 0,
        },
        {"bbox": [5, 5, 1, 1], "segmentation": [], "area": 1.0, "iscrowd": 0},
    ]
    for k, mask in enumerate((ring, small, noisy)):
        packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
        runs = np.diff(
            np.flatnonzero(np.concatenate([[True], np.diff(mask.T.ravel().astype(int)) != 0, [True]]))
        ).tolist()
        counts = packed["counts"].decode() if k % 2 else ([0] if mask[0, 0] else []) + runs
        bbox = reference.toBbox(packed).tolist()
        annotations.append(
            {
                "category_id": 90,
                "bbox": bbox,
                "segmentation": {"size": [480, 640], "counts": counts},
                "area": float(mask.sum()),
                "iscrowd": k % 2,
            }
        )
    return annotations


def test_what_is_read_and_written_again_is_the_same_to_pycocotools(tmp_path: Path):
    path = document(tmp_path, polygons_and_run_lengths())
    before = open_coco(path)
    write(
        FORMATS.get("coco")(),
        tmp_path / "again",
        [(RECORD, claims_of(read_back("coco", path, [RECORD], crowds=True), RECORD))],
    )
    after = open_coco(tmp_path / "again/annotations/instances_gold.json")
    names = [{c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} for coco in (before, after)]
    for one, other in zip(
        before.loadAnns(sorted(before.getAnnIds())), after.loadAnns(sorted(after.getAnnIds())), strict=True
    ):
        assert names[0][one["category_id"]] == names[1][other["category_id"]]
        assert np.abs(np.subtract(one["bbox"], other["bbox"])).max() < 1e-6
        if one["segmentation"]:
            a, b = draw_mask(before, one), draw_mask(after, other)
            assert (a & b).sum() / (a | b).sum() == 1
            assert other["area"] == b.sum()
    assert after.loadImgs(after.getImgIds())[0]["file_name"] == RECORD.name


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_polygons_of_run_lengths_cover_the_same_pixels(height: int, width: int, seed: int, share: float):
    mask = np.random.default_rng(seed).random((height, width)) < share
    packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert (decode_run_lengths({"size": [height, width], "counts": packed["counts"].decode()}) == mask).all()
    polygons = trace_pixel_edges(mask)
    assert all(polygon_area(points) > 0 for points in polygons), "clockwise"
    if mask.any():
        again = reference.decode(reference.merge(reference.frPyObjects([list(p) for p in polygons], height, width)))
        assert (again.astype(bool) == mask).all()
    else:
        assert polygons == ()


def test_our_document_has_what_the_format_asks_for(tmp_path: Path):
    """The fields of cocodataset.org's description of the format."""
    write(
        FORMATS.get("coco")(),
        tmp_path,
        [(image(0), [Claim("<OD>", "cat", (Region("cat", box=(1, 2, 30, 40)),), 0.5), Claim("<CAPTION>", 'a "cat"')])],
    )
    assert sorted(p.name for p in (tmp_path / "annotations").iterdir()) == [
        "captions_train.json",
        "instances_train.json",
    ]
    values = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    (written,) = values["images"]
    assert written.pop("sha256") == image(0).image_id
    assert written == {"id": 1, "file_name": "a.png", "width": 64, "height": 48, "license": 1}
    assert values["categories"] == [{"id": 1, "name": "cat", "supercategory": ""}]
    assert values["licenses"] == [{"id": 1, "name": "CC0", "url": ""}]
    assert values["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 29, 38],
            "area": 29 * 38,
            "segmentation": [],
            "iscrowd": 0,
            "score": 0.5,
        }
    ]
    (caption,) = json.loads((tmp_path / "annotations/captions_train.json").read_text())["annotations"]
    assert caption == {"id": 2, "image_id": 1, "caption": 'a "cat"', "task": "<CAPTION>"}


# ---------------------------------------------------------------- files that are not quite right


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"bbox": [1, 2, 3]},
            r"annotations\[0\]\.bbox: found \[1, 2, 3\]; x, y, width and height in pixels are expected",
        ),
        ({"bbox": [1, 2, "x", 4]}, r"bbox\[2\]: found 'x'; a number is expected"),
        ({"bbox": [1, 2, float("nan"), 4]}, r"bbox\[2\]: found nan"),
        ({"bbox": [1, 2, 0, 4]}, "a width of 0"),
        ({"bbox": [700, 2, 10, 10]}, "no pixel of the image, which is 640 × 480"),
        ({"bbox": [1, 2, 3, 4], "category_id": 4}, r"category_id: found 4; the id of one of the file's categories"),
        ({"bbox": [1, 2, 3, 4], "category_id": [4]}, "category_id"),
        ({"bbox": [1, 2, 3, 4], "image_id": 8}, r"annotations\[0\]\.image_id: found 8"),
        ({"bbox": [1, 2, 3, 4], "image_id": {}}, "image_id"),
        ({"bbox": [1, 2, 30, 40], "iscrowd": 1}, "a crowd of cat is not one object"),
        ({"caption": " "}, r"annotations\[0\]\.caption: found ' '; a text is expected"),
    ],
)
def test_a_bad_annotation_loses_only_itself_and_is_reported(tmp_path: Path, values: dict, message: str):
    path = document(tmp_path, [values, {"bbox": [10, 20, 30, 40], "category_id": 90}])
    found = read_back("coco", path, [RECORD])
    assert [c.text for c in found.claims[RECORD.image_id].claims] == ["dog"]
    (problem,) = found.problems
    assert str(path) in problem.detail
    with pytest.raises(AssertionError, match=message):
        claims_of(found, RECORD)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [["x"] * 6],
        "abc",
        5,
        {"size": [480, 640], "counts": "#"},
        {"size": [480, 640], "counts": "~~~"},
        {"size": [2, 2], "counts": [4]},
        {"size": [480, 640], "counts": [5]},
        {"size": [480, 640], "counts": [-5, 307205]},
        {"size": [480, 640]},
        {"size": [10**9, 10**9], "counts": []},
        {"size": "big", "counts": []},
        {"size": [480, 640], "counts": "oooooooooooooo"},
    ],
)
def test_a_bad_polygon_loses_only_the_polygon(tmp_path: Path, segmentation):
    found = read_back("coco", document(tmp_path, [{"bbox": [10, 20, 30, 40], "segmentation": segmentation}]), [RECORD])
    (claim,) = found.claims[RECORD.image_id].claims
    assert claim.regions[0].box == (10, 20, 40, 60) and claim.regions[0].polygons == ()
    (problem,) = found.problems
    assert "annotations[0].segmentation" in problem.detail and "without polygons" in problem.detail


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "found list"),
        (b'[{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a list of 1 results"),
        (b'{"images": [{"id": 7, "file_name": "a.jpg"}]}', "nobody has looked at them"),
        (b'{"a": 1}', "found 'a'"),
        (b'{"images": {}}', "found 'images'"),
        (b'{"images": [], "annotations": 5}', "annotations: found int"),
        (b'{"images": [], "annotations": [], "categories": {"a": 1}}', "categories: found dict"),
        (b"[" * 100000, "not JSON"),
    ],
)
def test_a_file_in_another_format_is_an_error(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_back("coco", path, [RECORD])
    assert str(path) in str(raised.value)


def test_images_and_categories_that_are_not_right_cost_themselves(tmp_path: Path):
    images = [
        {"id": 7, "file_name": RECORD.name},
        {"id": 7, "file_name": RECORD.name},
        {"id": 8},
        "x",
        {"file_name": "no id"},
        {"id": 9, "file_name": "n.jpg", "width": "wide", "height": 3},
    ]
    path = document(
        tmp_path, [{"bbox": [10, 20, 30, 40]}], images=images, categories=[{"id": 3, "name": "cat"}, {"id": 5}, None]
    )
    found = read_back("coco", path, [RECORD])
    assert [c.text for c in found.claims[RECORD.image_id].claims] == ["cat"]
    assert [p.detail.split(": ")[1].split(".")[0] for p in found.problems] == [
        "categories[1]",
        "categories[2]",
        "images[2]",
        "images[3]",
        "images[4]",
        "images[5]",
    ]
    assert [p.unit for p in found.problems] == ["part"] * 2 + ["image"] * 4


def test_an_object_that_two_files_have_is_taken_once(tmp_path: Path):
    document(tmp_path, [{"bbox": [10, 20, 30, 40]}, {"bbox": [10, 20, 30, 40]}]).rename(tmp_path / "instances_val.json")
    document(tmp_path, [{"bbox": [10, 20, 30, 40], "keypoints": [1, 2, 2]}]).rename(
        tmp_path / "person_keypoints_val.json"
    )
    (tmp_path / "captions_val.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": RECORD.name}],
                "annotations": [{"id": 1, "image_id": 1, "caption": "two cats"}],
            }
        )
    )
    found = read_back("coco", tmp_path, [RECORD], captions="<DETAILED_CAPTION>")
    claims = found.claims[RECORD.image_id].claims
    assert [(p.unit, p.reason, p.count) for p in found.problems] == [
        ("label", "the same object in another file", 1),
    ]
    assert [(c.task, c.text) for c in claims] == [("<DETAILED_CAPTION>", "two cats"), ("<OD>", "cat"), ("<OD>", "cat")]


def test_other_json_beside_the_folder_of_annotations_is_none_of_ours(tmp_path: Path):
    (tmp_path / "annotations").mkdir()
    document(tmp_path / "annotations", [{"bbox": [10, 20, 30, 40]}])
    (tmp_path / "info.json").write_text("[]")
    assert len(claims_of(read_back("coco", tmp_path, [RECORD]), RECORD)) == 1


def test_images_with_one_name_in_a_file_are_ambiguous(tmp_path: Path):
    path = document(
        tmp_path,
        [{"bbox": [10, 20, 30, 40]}],
        images=[{"id": 7, "file_name": RECORD.name}, {"id": 8, "file_name": RECORD.name}],
    )
    assert read_back("coco", path, [RECORD]).unknown == (RECORD.name,)


def test_vocabulary_is_every_category_also_one_without_objects(tmp_path: Path):
    form = FORMATS.get("coco")()
    assert form.open(form.files(str(document(tmp_path, [])))).vocabulary == ("cat", "dog")


def test_settings_are_checked():
    with pytest.raises(
        SettingsError, match="annotators.mine.settings.crowd: no such setting; found True; allowed: crowds, captions, "
    ):
        FORMATS.get("coco")("annotators.mine.settings.", crowd=True)
    with pytest.raises(SettingsError, match="captions: .*<CAPTION>.*found '<OD>'"):
        FORMATS.get("coco")(captions="<OD>")


def test_many_annotations_take_a_quarter_of_their_lists_memory(tmp_path: Path):
    path = document(tmp_path, [{"bbox": [1, 2, 3, 4], "segmentation": [list(range(200))]}])
    form = FORMATS.get("coco")()
    (entry,) = form.open(form.files(str(path))).entries
    assert isinstance(entry.raw[0].annotations[0].values["segmentation"][0], array)


def test_labels_without_a_region_are_not_written():
    record = ImageRecord("0" * 64, 64, 48, "photos", NAMES[0], "", None, "train")
    rows = labelled(
        record,
        [
            Claim("<OD>", "cat"),
            Claim("<OD>", "cat", (Region("cat", box=(1, 1, 1, 5)),)),
            Claim("<VQA>", "what?", (Region("x", box=(0, 0, 64, 48)),)),
        ],
    ).rows
    assert [FORMATS.get("coco")().explain_refusal(row) for row in rows] == [
        "<OD>: without a region",
        "<OD>: a box without an inside",
        "<VQA>: the format has no such labels",
    ]
