"""Label Studio's JSON: the documented form, coordinates by its own formula, and the annotations of people."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from format_sets import TEXT, assert_near, boxes, claims_of, image, objects, polygons_inside, read_back, write
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.errors import DataError, SettingsError
from florence.formats import FORMATS
from florence.formats.matching import find_claims
from florence.records import Claim, Region

RECORD = image(2)
DRAWN = {"x": 10.0, "y": 20.0, "width": 30.0, "height": 40.0, "rotation": 0, "rectanglelabels": ["cat"]}
BOX = (64.0, 96.0, 256.0, 288.0)


def result(value: dict, result_type: str = "rectanglelabels", name: str = "label", id: str = "r1", **more) -> dict:
    return {
        "id": id,
        "type": result_type,
        "from_name": name,
        "to_name": "image",
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "value": value,
        **more,
    }


def work(*results: dict, **more) -> dict:
    return {
        "id": 1,
        "completed_by": 1,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2021-03-09T22:16:08.728353Z",
        **more,
    }


def tasks(folder: Path, *annotations: dict, data: dict | None = None, **more) -> Path:
    path = folder / "export.json"
    path.write_text(
        json.dumps(
            [
                {
                    "id": 1,
                    "data": data or {"image": f"/data/local-files/?d={RECORD.name}"},
                    "annotations": list(annotations),
                    "predictions": [],
                    **more,
                }
            ]
        )
    )
    return path


# ---------------------------------------------------------------- there and back


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_all_annotation_types_come_back(tmp_path_factory, data):
    found = []
    for record in (image(k) for k in range(5)):
        claims = data.draw(objects(record)) + (
            data.draw(objects(record, shapes="polygon", most=2)) if record.width > 1 else []
        )
        for text in data.draw(st.lists(TEXT, max_size=2)):
            box = data.draw(boxes(record))
            claims.append(Claim("<DENSE_REGION_CAPTION>", text, (Region(text, box=box),)))
            quad = (box[0], box[1], box[2], box[1], box[2], box[3], (box[0] + box[2]) / 2, box[3])
            claims.append(Claim("<OCR_WITH_REGION>", text, (Region(text, quad=quad, score=0.5),), 0.5))
            if record.width > 1:
                claims.append(
                    Claim(
                        "<REFERRING_EXPRESSION_SEGMENTATION>",
                        text,
                        (Region(text, polygons=data.draw(polygons_inside(record))),),
                    )
                )
        for annotation_type in ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"):
            claims += [Claim(annotation_type, text) for text in data.draw(st.lists(TEXT, max_size=1))]
        whole = (0.0, 0.0, float(record.width), float(record.height))
        claims += [
            Claim("<CLASSIFICATION>", text, (Region(text, box=whole),))
            for text in data.draw(st.lists(TEXT, max_size=1))
        ]
        found.append((record, claims))
    folder = tmp_path_factory.mktemp("studio")
    write(FORMATS.get("labelstudio")(), folder, found)
    imported = read_back("labelstudio", folder / "tasks.json", [record for record, _ in found], predictions=True)
    for record, claims in found:
        assert_near(claims_of(imported, record), claims)


def test_what_is_written_has_the_documented_shape(tmp_path: Path):
    square = (64.0, 48.0, 128.0, 48.0, 128.0, 96.0)
    claims = [
        Claim("<OD>", 'a "cat" & <dog>', (Region("x", box=BOX),), 0.5),
        Claim("<OD>", "dog", (Region("dog", polygons=(square, square)),)),
        Claim("<CAPTION>", "two\nlines"),
    ]
    write(FORMATS.get("labelstudio")(), tmp_path, [(RECORD, claims), (image(0), [])])
    first, second = json.loads((tmp_path / "tasks.json").read_text())
    assert first["data"] == {
        "image": "/data/local-files/?d=images/sub/b.jpg",
        "image_id": RECORD.image_id,
        "source": "photos",
        "name": RECORD.name,
    }
    assert second["predictions"] == [{"model_version": "florence", "result": []}]
    (prediction,) = first["predictions"]
    assert set(prediction) == {"model_version", "result"}
    box, one, other, relation, text = prediction["result"]
    for drawn in (box, one, other):
        assert {
            "id",
            "type",
            "from_name",
            "to_name",
            "original_width",
            "original_height",
            "image_rotation",
            "value",
        } <= set(drawn)
        assert (drawn["original_width"], drawn["original_height"]) == (640, 480)
    assert (
        box["type"] == "rectanglelabels"
        and box["value"] == {**DRAWN, "rectanglelabels": ['a "cat" & <dog>']}
        and box["score"] == 0.5
    )
    assert one["type"] == "polygonlabels" and one["value"] == {
        "points": [[10, 10], [20, 10], [20, 20]],
        "closed": True,
        "polygonlabels": ["dog"],
    }
    assert relation == {"type": "relation", "from_id": one["id"], "to_id": other["id"], "direction": "right"}
    assert (text["type"], text["value"]) == ("textarea", {"text": ["two\nlines"]})
    config = ElementTree.parse(tmp_path / "config.xml").getroot()
    controls = {element.get("name"): element for element in config.iter() if element.get("toName") == "image"}
    assert {r["from_name"] for r in prediction["result"] if "from_name" in r} <= set(controls)
    assert [label.get("value") for label in controls["label"]] == ['a "cat" & <dog>', "dog"]
    assert config.find("Image").attrib["value"] == "$image" and "LOCAL_FILES" in (tmp_path / "README.md").read_text()


# ---------------------------------------------------------------- what people draw and write


def test_coordinates_are_percent_of_the_sides(tmp_path: Path):
    (claim,) = claims_of(read_back("labelstudio", tasks(tmp_path, work(result(DRAWN))), [RECORD]), RECORD)
    assert (claim.task, claim.text, claim.regions[0].box, claim.regions[0].polygons) == ("<OD>", "cat", BOX, ())


@settings(max_examples=60, deadline=None)
@given(st.floats(-360, 720))
def test_a_rotated_rectangle_is_a_polygon(tmp_path_factory, angle: float):
    value = {**DRAWN, "x": 50.0, "y": 50.0, "width": 5.0, "height": 10.0, "rotation": angle}
    (claim,) = claims_of(
        read_back("labelstudio", tasks(tmp_path_factory.mktemp("s"), work(result(value))), [RECORD]), RECORD
    )
    turn = complex(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    corners = [complex(320, 240) + turn * c for c in (0, 32, complex(32, 48), complex(0, 48))]
    expected = [v for c in corners for v in (c.real, c.imag)]
    box = (min(expected[0::2]), min(expected[1::2]), max(expected[0::2]), max(expected[1::2]))
    assert claim.regions[0].box == pytest.approx(box, abs=1e-9)
    if abs(math.sin(math.radians(2 * angle))) > 1e-6:
        assert claim.regions[0].polygons[0] == pytest.approx(expected, abs=1e-9)


def test_a_rectangle_rotated_by_90_degrees_is_a_box(tmp_path: Path):
    value = {**DRAWN, "x": 50.0, "y": 50.0, "width": 5.0, "height": 10.0, "rotation": 90}
    (claim,) = claims_of(read_back("labelstudio", tasks(tmp_path, work(result(value))), [RECORD]), RECORD)
    assert claim.regions[0].box == pytest.approx((272, 240, 320, 272)) and claim.regions[0].polygons == ()


def test_a_region_s_text_is_an_ocr_line_with_the_region_s_corners(tmp_path: Path):
    drawn = {**DRAWN, "rotation": 90, "x": 50.0, "y": 50.0, "width": 5.0, "height": 10.0, "rectanglelabels": ["Text"]}
    rectangle = {key: drawn[key] for key in ("x", "y", "width", "height", "rotation")}
    written = result({**rectangle, "text": ["EXIT"]}, "textarea", "transcription")
    for order in ([result(drawn), written], [written, result(drawn)]):
        found = read_back("labelstudio", tasks(tmp_path, work(*order)), [RECORD])
        (claim,) = found.claims[RECORD.image_id].claims
        assert [(p.unit, p.reason) for p in found.problems] == [("part", "the name of a text's region")]
        assert (claim.task, claim.text) == ("<OCR_WITH_REGION>", "EXIT")
        assert claim.regions[0].quad == pytest.approx((320, 240, 320, 272, 272, 272, 272, 240), abs=1e-9)


def test_texts_and_choices_about_the_whole_image(tmp_path: Path):
    results = [
        result({"text": ["a cat", "  "]}, "textarea", "caption", "t1"),
        result({"text": ["more"]}, "textarea", "summary", "t2"),
        result({"choices": ["indoors"]}, "choices", "where", "t3"),
        result({"choices": ["a place"]}, "choices", "summary_choice", "t4"),
        result({"text": "Z"}, "textarea", "text", "t5"),
    ]
    found = read_back(
        "labelstudio",
        tasks(tmp_path, work(*results)),
        [RECORD],
        kinds={"summary": "<DETAILED_CAPTION>", "summary_choice": "<CAPTION>"},
    )
    assert [(c.task, c.text) for c in found.claims[RECORD.image_id].claims] == [
        ("<CAPTION>", "a cat"),
        ("<DETAILED_CAPTION>", "more"),
        ("<CLASSIFICATION>", "indoors"),
        ("<CAPTION>", "a place"),
    ]
    assert len(found.problems) == 1 and "belongs to no region" in found.problems[0].detail
    with pytest.raises(SettingsError, match="<OD> is not made of texts"):
        FORMATS.get("labelstudio")(kinds={"summary": "<OD>"})


def test_tasks_that_nobody_has_opened_are_not_listed(tmp_path: Path):
    for works, why in (((), "nobody has annotated"), ((work(result(DRAWN), was_cancelled=True),), "skipped")):
        found = read_back("labelstudio", tasks(tmp_path, *works), [RECORD])
        assert found.unknown == (RECORD.name,) and why in found.problems[0].detail
    found = read_back("labelstudio", tasks(tmp_path, work()), [RECORD])
    assert claims_of(found, RECORD) == (), "one that was submitted empty is"


def test_of_several_works_the_truth_then_the_newest_counts_or_that_of_one_person(tmp_path: Path):
    def drawn(name: str, **more) -> dict:
        return work(result({**DRAWN, "rectanglelabels": [name]}), **more)

    works = [
        drawn("new", completed_by=2, updated_at="2021-04-01T00:00:00Z"),
        drawn("old", completed_by={"id": 3, "email": "c@x.org"}),
        drawn("skipped", completed_by=4, was_cancelled=True),
    ]
    path = tasks(tmp_path, *works)

    def taken(**settings) -> list[str]:
        return [
            c.text
            for imported in read_back("labelstudio", path, [RECORD], **settings).claims.values()
            for c in imported.claims
        ]

    assert (
        taken() == ["new"]
        and taken(annotator="3") == ["old"]
        and taken(annotator="c@x.org") == ["old"]
        and taken(annotator="4") == []
    )
    assert "2 annotations of it" in read_back("labelstudio", path, [RECORD]).problems[0].detail
    path = tasks(tmp_path, *works, drawn("true", ground_truth=True))
    assert taken() == ["true"]


def test_predictions_are_taken_where_asked_for(tmp_path: Path):
    path = tasks(
        tmp_path,
        work(result(DRAWN)),
        predictions=[{"model_version": "1", "result": [result({**DRAWN, "rectanglelabels": ["dog"]}, score=0.25)]}],
    )
    (claim,) = claims_of(read_back("labelstudio", path, [RECORD], predictions=True), RECORD)
    assert (claim.text, claim.score) == ("dog", 0.25)


def test_json_min_is_read(tmp_path: Path):
    drawn = {**DRAWN, "original_width": 640, "original_height": 480}
    rectangle = {key: drawn[key] for key in ("x", "y", "width", "height", "rotation")}
    rows = [
        {
            "image": RECORD.name,
            "id": 1,
            "label": [drawn, {**drawn, "x": 50, "rectanglelabels": ["Text"]}],
            "caption": "a cat",
            "source": "photos",
            "transcription": [{**rectangle, "x": 50, "text": ["EXIT"]}],
            "detailed_caption": ["one", "two"],
            "annotator": 1,
            "annotation_id": 1,
            "updated_at": "2021-01-02",
        },
        {"image": RECORD.name, "id": 1, "label": [], "annotator": 2, "annotation_id": 2, "updated_at": "2021-01-01"},
    ]
    path = tmp_path / "min.json"
    path.write_text(json.dumps(rows))
    claims = read_back("labelstudio", path, [RECORD]).claims[RECORD.image_id].claims
    assert [(c.task, c.text) for c in claims] == [
        ("<OD>", "cat"),
        ("<OCR_WITH_REGION>", "EXIT"),
        ("<CAPTION>", "a cat"),
        ("<DETAILED_CAPTION>", "one"),
        ("<DETAILED_CAPTION>", "two"),
    ]
    assert claims[0].regions[0].box == BOX
    assert read_back("labelstudio", path, [RECORD], annotator="2").claims[RECORD.image_id].claims == ()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/local-files/?d=photos/sub/b%20c.jpg", "photos/sub/b c.jpg"),
        ("/data/upload/3/1a2b3c4d-b.jpg", "b.jpg"),
        ("/data/upload/1a2b3c4d-b.jpg", "1a2b3c4d-b.jpg"),
        ("s3://bucket/sub/b.jpg", "sub/b.jpg"),
        ("https://example.com/a%20b/c.jpg?x=1", "a b/c.jpg"),
        ("sub/b.jpg", "sub/b.jpg"),
        ("/sub/b.jpg", "sub/b.jpg"),
    ],
)
def test_images_are_known_by_the_path_in_their_address(tmp_path: Path, address: str, name: str):
    form = FORMATS.get("labelstudio")()
    labels = form.open(form.files(str(tasks(tmp_path, work(result(DRAWN)), data={"image": address}))))
    assert len(find_claims(labels, image(2, name=name)).claims) == 1


def test_a_file_of_a_target_storage_is_read(tmp_path: Path):
    (tmp_path / "1.json").write_text(
        json.dumps({**work(result(DRAWN)), "task": {"id": 1, "data": {"image": RECORD.name}}})
    )
    assert len(claims_of(read_back("labelstudio", tmp_path, [RECORD]), RECORD)) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            result({**DRAWN, "x": "left"}),
            r"\[0\]\.annotations\[0\]\.result\[0\]\.value\.x: found 'left'; a number is expected",
        ),
        (result({**DRAWN, "width": 0}), "no pixel of the image"),
        (result({**DRAWN, "rectanglelabels": []}), "without a label or a text"),
        (result({"points": [[1, 2], [3]]}, "polygonlabels"), "pairs of percent"),
        (result({"points": [[1, 2], [3, 4]]}, "polygonlabels"), "at least three corners"),
        (result({"rle": [1], "format": "rle"}, "brushlabels"), "type 'brushlabels'"),
        ("x", "type ''"),
        ({**result({}), "value": None}, "value.x: found None"),
    ],
)
def test_a_bad_result_loses_only_itself(tmp_path: Path, bad: dict, message: str):
    found = read_back(
        "labelstudio", tasks(tmp_path, work(bad, result({**DRAWN, "rectanglelabels": ["dog"]}, id="r2"))), [RECORD]
    )
    assert [c.text for c in found.claims[RECORD.image_id].claims] == ["dog"]
    with pytest.raises(AssertionError, match=message):
        claims_of(found, RECORD)


@pytest.mark.parametrize("content", ["", "[1]", '"x"', "{"])
def test_what_is_no_export_is_an_error(tmp_path: Path, content: str):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=r"x\.json"):
        read_back("labelstudio", tmp_path / "x.json", [RECORD])


@pytest.mark.parametrize(
    "task",
    [
        {"data": {}},
        {"data": None},
        {"data": {"image": 3}},
        {"id": 3},
        {"data": {"image": "a.png"}, "annotations": 3},
        {"data": {"image": "a.png"}, "annotations": [3]},
    ],
)
def test_a_bad_task_loses_only_itself(tmp_path: Path, task: dict):
    path = tasks(tmp_path, work(result(DRAWN)))
    path.write_text(json.dumps([task, *json.loads(path.read_text())]))
    found = read_back("labelstudio", path, [RECORD])
    assert len(found.claims[RECORD.image_id].claims) == 1 and "[0]" in found.problems[0].detail


def test_another_size_is_an_error_of_that_image(tmp_path: Path):
    assert "640 × 480" in str(
        read_back("labelstudio", tasks(tmp_path, work(result(DRAWN))), [image(2, width=320)]).errors[RECORD.image_id]
    )
