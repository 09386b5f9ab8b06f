"""Pascal VOC, with xml.etree as the other reader."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from format_sets import assert_near, boxes, claims_of, image, labelled, objects, read_back, write
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.formats import FORMATS
from florence.records import Claim, Region

RECORD = image(2)


def thing(name: str, box: tuple[float, ...]) -> Claim:
    return Claim("<OD>", name, (Region(name, box=box),))


def annotation(
    folder: Path,
    objects: str,
    name: str = "sub/b",
    filename: str = "sub/b.jpg",
    size: str = "<size><width>640</width><height>480</height></size>",
) -> Path:
    path = folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>", encoding="utf-8")
    return path


def box(xmin: object, ymin: object, xmax: object, ymax: object, name: str = "cat", more: str = "") -> str:
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whole_pixels_come_back_exactly(tmp_path_factory, data):
    records = [image(k) for k in range(5)]
    found = [(record, data.draw(objects(record, whole=True))) for record in records]
    folder = tmp_path_factory.mktemp("voc")
    items = write(FORMATS.get("voc")(), folder, found)
    imported = read_back("voc", folder, records)
    assert not imported.unknown and not imported.unmatched
    for (record, claims), item in zip(found, items, strict=True):
        assert_near(claims_of(imported, record), claims, 0)
        root = ElementTree.parse(folder / "Annotations" / f"{item.path.rsplit('.', 1)[0]}.xml").getroot()
        assert root.findtext("filename") == item.path and [
            root.findtext(f"size/{side}") for side in ("width", "height")
        ] == [str(record.width), str(record.height)]
        assert [o.findtext("name") for o in root.findall("object")] == [c.text for c in claims]
        for o, claim in zip(root.findall("object"), claims, strict=True):
            xmin, ymin, xmax, ymax = (int(o.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= xmin <= xmax <= record.width and 1 <= ymin <= ymax <= record.height
            x0, y0, x1, y1 = claim.regions[0].box
            assert (xmax - xmin + 1) * (ymax - ymin + 1) == (x1 - x0) * (y1 - y0), "as many pixels on both sides"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_edges_inside_a_pixel_go_to_the_nearest_between_two(tmp_path_factory, data):
    expected = data.draw(st.lists(boxes(RECORD), min_size=1, max_size=5))
    folder = tmp_path_factory.mktemp("voc")
    write(FORMATS.get("voc")(), folder, [(RECORD, [thing("cat", b) for b in expected])])
    for claim, corners in zip(claims_of(read_back("voc", folder, [RECORD]), RECORD), expected, strict=True):
        found = claim.regions[0].box
        assert all(
            abs(a - b) <= (0.5 if high - low >= 1 else 1)
            for a, b, low, high in zip(found, corners, corners[:2] * 2, corners[2:] * 2, strict=True)
        )
        assert found[2] - found[0] >= 1 and found[3] - found[1] >= 1


def test_pixels_are_numbered_from_one_and_both_ends_belong_to_the_box(tmp_path: Path):
    write(
        FORMATS.get("voc")(),
        tmp_path,
        [(image(0), [thing("first", (0, 0, 1, 1)), thing("all", (0, 0, 64, 48)), thing("last", (63, 47, 64, 48))])],
    )
    root = ElementTree.parse(tmp_path / "Annotations/a.xml").getroot()
    found = {
        o.findtext("name"): [o.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        for o in root.findall("object")
    }
    assert found == {"first": ["1", "1", "1", "1"], "all": ["1", "1", "64", "48"], "last": ["64", "48", "64", "48"]}
    annotation(tmp_path, box(1, 1, 1, 1) + box(640, 480, 640, 480) + box("10.5", "20.5", "30", "40"))
    found = read_back("voc", tmp_path, [RECORD])
    claims = found.claims[RECORD.image_id].claims
    assert [c.regions[0].box for c in claims] == [(0, 0, 1, 1), (639, 479, 640, 480), (9.5, 19.5, 30, 40)]
    assert [p.reason for p in found.problems] == ["a box whose numbers are not those of pixels"]


def test_layout_is_the_devkits(tmp_path: Path):
    write(FORMATS.get("voc")(), tmp_path, [(image(k), [thing("cat", (0, 0, 1, 1))]) for k in (0, 1, 2)])
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "Annotations/a.xml",
        "Annotations/sub/a.xml",
        "Annotations/sub/b.xml",
        "ImageSets/Main/test.txt",
        "ImageSets/Main/train.txt",
        "ImageSets/Main/val.txt",
        "labelmap.txt",
    ]
    assert (tmp_path / "ImageSets/Main/val.txt").read_text() == "sub/a\n"
    root = ElementTree.parse(tmp_path / "Annotations/sub/a.xml").getroot()
    assert (
        root.findtext("folder") == "JPEGImages/sub"
        and root.findtext("size/depth") == "3"
        and root.findtext("segmented") == "0"
    )
    assert [(e.tag, e.text) for e in root.find("object")][1:4] == [
        ("pose", "Unspecified"),
        ("truncated", "0"),
        ("difficult", "0"),
    ]


def test_what_xml_cannot_hold_is_not_written():
    rows = labelled(
        RECORD,
        [
            thing("a\x00b", (0, 0, 5, 5)),
            thing("a\ufffe", (0, 0, 5, 5)),
            thing("a\tb\n😀", (0, 0, 5, 5)),
            Claim("<CAPTION>", "cat"),
        ],
    ).rows
    assert [FORMATS.get("voc")().explain_refusal(row) for row in rows] == [
        "<OD>: a name with characters that XML cannot hold",
        "<OD>: a name with characters that XML cannot hold",
        "",
        "<CAPTION>: the format has no such labels",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            box(5, 5, 4, 9),
            r"object\[0\]/bndbox: found 5, 5, 4, 9; xmin, ymin, xmax and ymax in this order are expected",
        ),
        (box("x", 5, 9, 9), r"bndbox/xmin: found 'x'; a number is expected"),
        (box("nan", 5, 9, 9), "a number is expected"),
        (box(1000, 1, 1001, 2), "no pixel of the image"),
        ("<object><name>cat</name></object>", "bndbox: found none; one box is expected"),
        (box(1, 1, 2, 2, name=" "), r"object\[0\]/name: found ''; a text is expected"),
    ],
)
def test_a_bad_object_loses_only_itself(tmp_path: Path, content: str, message: str):
    path = annotation(tmp_path, content + box(1, 1, 10, 10, "dog"))
    found = read_back("voc", tmp_path, [RECORD])
    assert [c.text for c in found.claims[RECORD.image_id].claims] == ["dog"]
    assert str(path) in found.problems[0].detail
    with pytest.raises(AssertionError, match=message):
        claims_of(found, RECORD)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<annotation>",
        b"<html/>",
        b"\xff",
        b'<!DOCTYPE a [<!ENTITY x "y">]><annotation/>',
        b"<?xml version='1.0' encoding='none'?><annotation/>",
    ],
)
def test_a_file_that_is_none_loses_only_itself(tmp_path: Path, content: bytes):
    annotation(tmp_path, box(1, 1, 10, 10))
    (tmp_path / "Annotations/bad.xml").write_bytes(content)
    found = read_back("voc", tmp_path, [RECORD])
    assert len(found.claims[RECORD.image_id].claims) == 1 and "bad.xml" in found.problems[0].detail


def test_flags_are_out_of_the_way(tmp_path: Path):
    annotation(
        tmp_path,
        box(
            1,
            1,
            9,
            9,
            more="<pose>Left</pose><truncated>1</truncated><difficult>1</difficult>",
        ),
    )
    assert [c.text for c in claims_of(read_back("voc", tmp_path, [RECORD]), RECORD)] == ["cat"]
    found = read_back("voc", tmp_path, [RECORD], difficult=False)
    assert "difficult" in found.problems[0].detail and RECORD.image_id in found.errors, "it is not empty"


def test_an_image_is_known_by_its_file_name_or_by_that_of_its_xml(tmp_path: Path):
    annotation(tmp_path, box(1, 1, 9, 9), "1", "sub/b.jpg")
    assert len(claims_of(read_back("voc", tmp_path, [RECORD]), RECORD)) == 1
    assert len(claims_of(read_back("voc", tmp_path, [image(2, name="JPEGImages/sub/b.jpg")]), RECORD)) == 1
    assert len(claims_of(read_back("voc", tmp_path / "Annotations", [RECORD]), RECORD)) == 1, (
        "the folder of the files themselves"
    )
    annotation(tmp_path, "", "2", "sub/b.jpg")
    assert read_back("voc", tmp_path, [RECORD]).unknown == (RECORD.name,), "a name that two files give is no name"
    assert len(claims_of(read_back("voc", tmp_path, [image(2, name="1.png")]), RECORD)) == 1


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>", "<size/>"])
def test_a_size_that_is_not_stated_is_not_compared(tmp_path: Path, size: str):
    annotation(tmp_path, box(1, 1, 9, 9), size=size)
    assert len(claims_of(read_back("voc", tmp_path, [RECORD]), RECORD)) == 1


def test_another_size_is_an_error_of_that_image(tmp_path: Path):
    annotation(tmp_path, box(1, 1, 9, 9), size="<size><width>480</width><height>640</height></size>")
    annotation(tmp_path, box(1, 1, 9, 9), "a", "a.png", "<size><width>64</width><height>48</height></size>")
    found = read_back("voc", tmp_path, [RECORD, image(0)])
    assert "480 × 640" in str(found.errors[RECORD.image_id]) and list(found.claims) == [image(0).image_id]
