"""Ultralytics' YOLO folders, with another reader of ten lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from format_sets import assert_near, claims_of, image, labelled, objects, polygons_inside, read_back, write
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.errors import DataError
from florence.formats import FORMATS, ExportPlan
from florence.formats._joined_polygons import join_polygons, split_polygons
from florence.formats.matching import find_claims
from florence.geometry import polygon_area
from florence.records import Claim, Region

RECORD = image(2)
SETS = {"train": "train", "held_out": "val", "gold": "test"}


def parse_labels(folder: Path, picture: str) -> list[tuple[str, list[float]]]:
    """Return name and numbers of each object, read as Ultralytics does: label file per picture, names of data.yaml."""
    names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]
    before, after = picture.rsplit("images/", 1)
    label = folder / f"{before}labels/{after}"
    lines = [line.split() for line in label.with_suffix(".txt").read_text().strip().splitlines()]
    result = [(names[int(number)], [float(v) for v in values]) for number, *values in lines]
    assert all(0 <= v <= 1 for _, values in result for v in values)
    return result


def dataset(
    folder: Path,
    lines: str = "0 0.5 0.5 0.25 0.5\n",
    names: object = ("cat", "dog"),
    picture: str = "images/train/sub/b.jpg",
    **more,
) -> Path:
    values = {
        "train": "images/train",
        "val": "images/train",
        "names": list(names) if isinstance(names, tuple) else names,
        **more,
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(values))
    label = folder / picture.replace("images/", "labels/").rsplit(".", 1)[0]
    label.parent.mkdir(parents=True, exist_ok=True)
    label.with_suffix(".txt").write_text(lines)
    (folder / picture).parent.mkdir(parents=True, exist_ok=True)
    (folder / picture).write_bytes(b"")
    return folder


def corners(points: tuple[float, ...]) -> list[tuple[float, float]]:
    """Return a polygon's corners in an order that does not depend on its start and direction."""
    return sorted(zip(points[0::2], points[1::2], strict=True))


# ---------------------------------------------------------------- there and back


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_boxes_come_back(tmp_path_factory, data):
    records = [image(k) for k in range(5)]
    found = [(record, data.draw(objects(record))) for record in records]
    folder = tmp_path_factory.mktemp("yolo")
    items = write(FORMATS.get("yolo")(), folder, found)
    imported = read_back("yolo", folder, records)
    for (record, claims), item in zip(found, items, strict=True):
        assert_near(claims_of(imported, record), claims)
        other = parse_labels(folder, f"images/{SETS[record.split]}/{item.path}")
        assert [name for name, _ in other] == [c.text for c in claims]
        for (_, (x, y, w, h)), claim in zip(other, claims, strict=True):
            corners = np.asarray([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * np.tile(
                [record.width, record.height], 2
            )
            assert np.abs(corners - claim.regions[0].box).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_polygons_come_back_also_several_of_one_object(tmp_path_factory, data):
    records = [image(k) for k in (0, 2, 4)]
    found = [(record, data.draw(objects(record, shapes="polygon", most=3))) for record in records]
    folder = tmp_path_factory.mktemp("yolo")
    write(FORMATS.get("yolo")(), folder, found)
    imported = read_back("yolo", folder, records)
    for record, claims in found:
        again = claims_of(imported, record)
        assert_near(again, claims, polygons=False)
        for one, other in zip(again, claims, strict=True):
            for a, b in zip(*(sorted(map(corners, claim.regions[0].polygons)) for claim in (one, other)), strict=True):
                assert np.abs(np.subtract(a, b)).max() < 1e-6


@settings(max_examples=80, deadline=None)
@given(polygons_inside(RECORD))
def test_joined_polygons_are_split_again(polygons):
    parts = split_polygons(tuple(join_polygons(polygons)))
    assert sorted(map(corners, parts)) == sorted(map(corners, polygons))
    assert sum(abs(polygon_area(p)) for p in parts) == pytest.approx(
        sum(abs(polygon_area(p)) for p in polygons), abs=1e-6
    )


def test_a_hole_stays_joined():
    keyhole = (0.0, 0.0, 3.0, 3.0, 3.0, 6.0, 6.0, 6.0, 6.0, 3.0, 3.0, 3.0, 0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 0.0, 9.0)
    assert polygon_area(keyhole) == 81 - 9 and split_polygons(keyhole) == (keyhole,)


def test_one_polygon_makes_all_lines_polygons(tmp_path: Path):
    square = (64.0, 48.0, 128.0, 48.0, 128.0, 96.0)
    claims = [
        Claim("<OD>", "cat", (Region("cat", box=(64, 48, 128, 96), polygons=(square,)),)),
        Claim("<OD>", "dog", (Region("dog", box=(0, 0, 320, 240)),)),
    ]
    items = write(FORMATS.get("yolo")(), tmp_path, [(RECORD, claims)])
    assert parse_labels(tmp_path, f"images/test/{RECORD.name}") == [
        ("cat", [0.1, 0.1, 0.2, 0.1, 0.2, 0.2]),
        ("dog", [0, 0, 0.5, 0, 0.5, 0.5, 0, 0.5]),
    ]
    again = claims_of(read_back("yolo", tmp_path, [RECORD]), RECORD)
    assert [c.regions[0].box for c in again] == [(64, 48, 128, 96), (0, 0, 320, 240)]
    plan = ExportPlan(("cat", "dog"), ("<OD>",), ("gold",), True, False)
    moved = Claim("<OD>", "cat", (Region("cat", box=(0, 48, 128, 96), polygons=(square,)),))
    losses = [
        FORMATS.get("yolo")().explain_loss(row, plan) for row in (*items[0].rows, *labelled(RECORD, [moved]).rows)
    ]
    assert losses[0] == "" and "only a box" in losses[1] and "the box" in losses[2]


def test_layout_is_ultralytics(tmp_path: Path):
    write(
        FORMATS.get("yolo")(),
        tmp_path,
        [(image(k), [Claim("<OD>", f"{'zebra' if k else 'a, b'}", (Region("x", box=(0, 0, 1, 1)),))]) for k in (0, 1)],
    )
    values = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert values == {"train": "images/train", "val": "images/val", "names": {0: "a, b", 1: "zebra"}}
    assert (tmp_path / "labels/val/sub/a.txt").read_text() == "1 0.5 0.5 1 1\n"


def test_an_only_set_stands_for_the_other(tmp_path: Path):
    write(FORMATS.get("yolo")(), tmp_path, [(RECORD, [])])
    assert yaml.safe_load((tmp_path / "data.yaml").read_text()) == {
        "train": "images/test",
        "val": "images/test",
        "test": "images/test",
        "names": {},
    }


# ---------------------------------------------------------------- what others write


def test_an_image_without_a_file_of_labels_has_no_objects_if_that_is_set(tmp_path: Path):
    dataset(tmp_path)
    (tmp_path / "images/train/a.png").write_bytes(b"")
    (tmp_path / "images/unlabelled").mkdir()
    (tmp_path / "images/unlabelled/c.png").write_bytes(b"")
    found = read_back("yolo", tmp_path, [image(0), RECORD, image(3, name="c.png"), image(1)], unlabelled_is_empty=True)
    assert claims_of(found, image(0)) == () and len(found.claims[RECORD.image_id].claims) == 1
    assert set(found.unknown) == {"c.png", "sub/a.png"}, "no set has them, so they have no coverage"


@pytest.mark.parametrize("name", ["images/train/sub/b.jpg", "train/sub/b.jpg", "sub/b.jpg"])
def test_a_source_may_be_the_data_set_or_a_folder_of_it(tmp_path: Path, name: str):
    form = FORMATS.get("yolo")()
    labels = form.open(form.files(str(dataset(tmp_path))))
    assert [c.text for c in find_claims(labels, image(2, name=name)).claims] == ["cat"]


def test_other_layouts_are_read(tmp_path: Path):
    form = FORMATS.get("yolo")()
    (tmp_path / "a").mkdir()
    dataset(
        tmp_path / "a",
        picture="train/images/b.jpg",
        train="../train/images",
        val="../valid/images",
        names={0: "cat", 1: "dog"},
    )
    assert len(find_claims(form.open(form.files(str(tmp_path / "a/data.yaml"))), image(2, name="b.jpg")).claims) == 1
    (tmp_path / "b").mkdir()
    dataset(tmp_path / "b", picture="images/b.jpg", train="train.txt", val=None)
    (tmp_path / "b/train.txt").write_text("./images/b.jpg\n")
    assert len(find_claims(form.open(form.files(str(tmp_path / "b"))), image(2, name="images/b.jpg")).claims) == 1
    (tmp_path / "c").mkdir()
    dataset(tmp_path / "c")
    (tmp_path / "c/images/train/sub/b.jpg").unlink()
    assert len(find_claims(form.open(form.files(str(tmp_path / "c"))), RECORD).claims) == 1, "labels alone"


def test_a_sixth_field_is_a_score(tmp_path: Path):
    (claim,) = claims_of(read_back("yolo", dataset(tmp_path, "1 0.5 0.5 0.25 0.5 0.75\n\n"), [RECORD]), RECORD)
    assert (claim.text, claim.score, claim.regions[0].box) == ("dog", 0.75, (240, 120, 400, 360))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "name: found 2; a whole number from 0 to 1 is expected"),
        ("0.5 0.5 0.5 0.1 0.1", "name: found 0.5"),
        ("cat 0.5 0.5 0.1 0.1", "name: found 'cat'"),
        ("0 0.5 0.5 0.1", "found 4 fields"),
        ("0", "found 1 fields"),
        ("0 0.5 0.5 0.1 x", "field 5: found 'x'"),
        ("0 320 240 10 10", "found 320; shares of the image's sides"),
        ("0 0.5 0.5 0 0.1", "no pixel"),
        ("0 nan 0.5 0.1 0.1", "a number is expected"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "found 8 fields"),
    ],
)
def test_a_bad_line_loses_only_itself(tmp_path: Path, line: str, message: str):
    found = read_back("yolo", dataset(tmp_path, f"{line}\n1 0.5 0.5 0.1 0.1\n"), [RECORD])
    assert [c.text for c in found.claims[RECORD.image_id].claims] == ["dog"]
    assert (
        len(found.problems) == 1
        and "labels/train/sub/b.txt: line 1" in found.problems[0].detail
        and message in found.problems[0].detail
    )


@pytest.mark.parametrize("names", [None, 5, "cat", [""], {"a": "cat"}, {0: ""}])
def test_names_that_are_none_are_an_error(tmp_path: Path, names: object):
    with pytest.raises(DataError, match="data.yaml: names: found"):
        read_back("yolo", dataset(tmp_path, names=names), [RECORD])


def test_a_folder_without_data_yaml_is_an_error(tmp_path: Path):
    dataset(tmp_path)
    (tmp_path / "data.yaml").write_text("a: [")
    with pytest.raises(DataError, match="not YAML"):
        read_back("yolo", tmp_path, [RECORD])
    (tmp_path / "data.yaml").write_text("train: images")
    with pytest.raises(DataError, match="no YAML file with names"):
        read_back("yolo", tmp_path, [RECORD])


def test_one_stem_of_two_images_is_ambiguous(tmp_path: Path):
    dataset(tmp_path, picture="images/train/b.jpg")
    dataset(tmp_path, picture="images/val/b.jpg", val="images/val")
    assert read_back("yolo", tmp_path, [image(2, name="b.jpg")]).unknown == ("b.jpg",)
    assert len(read_back("yolo", tmp_path, [image(2, name="val/b.jpg")]).claims) == 1
