"""VOC data sets as people have them: layouts, encodings, shapes, and what is not read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from format_sets import claims_of, image, read_back

from florence.errors import NotListedError, StoreError
from florence.formats import FORMATS
from florence.formats.matching import ReadResult, find_claims
from florence.records import ImageRecord

BOX = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>60</xmax><ymax>80</ymax></bndbox>"


def named(name: str, **more) -> ImageRecord:
    """Return an image of 160 × 120 pixels."""
    return image(0, **{"name": name, "width": 160, "height": 120, "image_id": name, **more})


def thing(name: str = "cat", content: str = BOX) -> str:
    return f"<object><name>{name}</name>{content}</object>"


def xml(
    objects: str = "", filename: str = "", size: str = "<size><width>160</width><height>120</height></size>"
) -> str:
    return f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>"


def lay(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(folder: Path, *names: str, **settings) -> ReadResult:
    return read_back("voc", folder, [named(name) for name in names], **settings)


def found_by_path(folder: Path, name: str) -> list[str]:
    """Return the names of an image's objects, matched by its path alone; none if it is not listed."""
    form = FORMATS.get("voc")()
    try:
        return [c.text for c in find_claims(form.open(form.files(str(folder))), named(name)).claims]
    except NotListedError:
        return []


# ---------------------------------------------------------------- which picture


@pytest.mark.parametrize(
    ("picture", "path", "filename"),
    [
        ("train/a.jpg", "train/a.xml", "a.jpg"),
        ("train/a.jpg", "train/a.xml", ""),
        ("train/sub/a.jpg", "train/sub/a.xml", "a.jpg"),
        ("a.jpg", "a.xml", "C:\\photos\\a.jpg"),
        ("a.JPG", "a.XML", "/home/me/a.jpg"),
        ("a.png", "a.xml", "a.jpg"),
        ("a.jpg", "a.xml", "renamed-since.jpg"),
        ("a.jpg", "a.xml", "a"),
        ("JPEGImages/a.jpg", "Annotations/a.xml", "a.jpg"),
        ("VOC2012/JPEGImages/a.jpg", "VOC2012/Annotations/a.xml", "a.jpg"),
        ("JPEGImages/sub/a.jpg", "Annotations/sub/a.xml", "a.jpg"),
        ("images/a.png", "Annotations/a.xml", "a.jpg"),
        ("a.jpg", "Annotations/a.xml", "a.jpg"),
        ("JPEGImages/photo.jpg", "Annotations/0001.xml", "photo.jpg"),
    ],
)
def test_the_picture_of_a_file_is_found_in_every_layout(tmp_path: Path, picture: str, path: str, filename: str):
    lay(tmp_path, {picture: "", path: xml(thing(), filename)})
    assert found_by_path(tmp_path, picture) == ["cat"]
    other = str(Path(picture).with_name("b.jpg"))
    assert found_by_path(tmp_path, other) == []


def test_a_flat_set_by_split_is_known_from_both_folders(tmp_path: Path):
    files = {
        f"{part}/{k}.{end}": "" if end == "jpg" else xml(thing(k), f"{k}.jpg")
        for part, k in (("train", "a"), ("valid", "c"))
        for end in ("jpg", "xml")
    }
    lay(tmp_path, files)
    assert [found_by_path(tmp_path, name) for name in ("train/a.jpg", "valid/c.jpg", "a.jpg", "valid/a.jpg")] == [
        ["a"],
        ["c"],
        ["a"],
        [],
    ]
    assert found_by_path(tmp_path / "valid", "c.jpg") == ["c"]
    lay(tmp_path, {"valid/a.jpg": "", "valid/a.xml": xml(thing("other"), "a.jpg")})
    assert found_by_path(tmp_path, "train/a.jpg") == ["a"] and found_by_path(tmp_path, "a.jpg") == []


def test_months_are_no_splits(tmp_path: Path):
    lay(tmp_path, {"jan/p0.jpg": "", "jan/p0.xml": xml(thing(), "p0.jpg")})
    assert found_by_path(tmp_path, "jan/p0.jpg") == ["cat"] and found_by_path(tmp_path, "p0.jpg") == []


def test_the_file_s_own_name_counts_before_a_copied_filename(tmp_path: Path):
    lay(
        tmp_path,
        {"a.jpg": "", "b.jpg": "", "c.jpg": "", "a.xml": xml(thing("a"), "b.jpg"), "b.xml": xml(thing("b"), "c.jpg")},
    )
    assert [found_by_path(tmp_path, f"{name}.jpg") for name in "abc"] == [["a"], ["b"], []]


# ---------------------------------------------------------------- three states


def test_what_was_not_read_is_not_empty(tmp_path: Path):
    files = {
        "empty": xml(),
        "nested": f"<annotation><objects>{thing()}</objects></annotation>",
        "capitals": f"<annotation><Object><name>cat</name>{BOX}</Object></annotation>",
        "loose": f"<annotation>{BOX}</annotation>",
        "space": f'<annotation xmlns="urn:x">{thing()}</annotation>',
        "cvat": f"<annotations>{thing()}</annotations>",
        "cut": xml(thing())[:-20],
        "bad": xml(thing(content="<polygon><x1>1</x1></polygon>")),
        "good": xml(thing() + thing("dog", BOX + BOX)),
    }
    lay(
        tmp_path,
        {f"{name}.{end}": text if end == "xml" else "" for name, text in files.items() for end in ("xml", "jpg")},
    )
    found = read(tmp_path, *(f"{name}.jpg" for name in files), "none.jpg")
    assert {k: [c.text for c in v.claims] for k, v in found.claims.items()} == {"empty.jpg": [], "good.jpg": ["cat"]}
    assert set(found.errors) == {f"{name}.jpg" for name in files} - set(found.claims) and found.unknown == ("none.jpg",)
    told = {(p.reason, p.unit): 0 for p in found.problems}
    assert told.keys() == {("not the layout of VOC", "file"), ("not XML", "file"), ("not one box", "label")}


def test_pictures_alone_are_no_set(tmp_path: Path):
    lay(tmp_path, {"a.jpg": ""})
    with pytest.raises(StoreError, match=r"has no file that ends in \.xml"):
        read(tmp_path, "a.jpg")


# ---------------------------------------------------------------- encodings, and XML that attacks


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("gbk", "猫"),
        ("shift_jis", "ネコ"),
        ("euc-kr", "고양이"),
        ("big5", "貓"),
        ("latin-1", "été"),
        ("windows-1251", "кот"),
        ("utf-16", "猫"),
        ("utf-8", "🐈"),
    ],
)
def test_files_are_read_in_the_encoding_that_they_declare(tmp_path: Path, encoding: str, name: str):
    lay(tmp_path, {"a.xml": f"<?xml version='1.0' encoding='{encoding}'?>\n{xml(thing(name))}".encode(encoding)})
    assert found_by_path(tmp_path, "a.jpg") == [name]


def test_a_declaration_that_is_not_true(tmp_path: Path):
    lay(
        tmp_path,
        {
            "a.xml": f'<?xml version="1.0" encoding="utf-16"?>{xml(thing("é"))}',
            "b.xml": xml(thing("é")).encode("latin-1"),
        },
    )
    lay(
        tmp_path,
        {
            "c.xml": f'<?xml version="1.0" encoding="no-such"?>{xml(thing())}',
            "d.xml": b"\xef\xbb\xbf" + xml(thing("é")).encode(),
        },
    )
    found = read(tmp_path, *(f"{k}.jpg" for k in "abcd"))
    assert {k: v.claims[0].text for k, v in found.claims.items()} == {"a.jpg": "é", "d.jpg": "é"}
    assert "declare the encoding, or save the file as UTF-8" in str(found.errors["b.jpg"])
    assert "unknown encoding: no-such" in str(found.errors["c.jpg"])


def entities(levels: int = 12) -> str:
    """Return a file whose entities are 10 ** ``levels`` texts."""
    lines = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, levels))
    return f'<!DOCTYPE a [<!ENTITY l0 "lol">{lines}]>{xml(thing(f"&l{levels - 1};"))}'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    "attack",
    [
        entities(),
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{xml(thing("&x;"))}',
        f'<!DOCTYPE a [<!ENTITY % p SYSTEM "http://localhost/x.dtd"> %p;]>{xml(thing())}',
        f'<!DOCTYPE a [<!ENTITY x "{"lol" * 1000}">]>{xml(thing("&x;" * 1000))}',
    ],
)
def test_entities_are_refused_in_every_encoding(tmp_path: Path, attack: str, encoding: str):
    lay(tmp_path, {"bad.xml": attack.encode(encoding), "a.xml": xml(thing())})
    found = read(tmp_path, "a.jpg", "bad.jpg")
    assert [c.text for c in found.claims["a.jpg"].claims] == ["cat"] and set(found.errors) == {"bad.jpg"}
    assert [(p.reason, p.unit) for p in found.problems] == [("entities in XML", "file")]


def test_a_declared_encoding_hides_no_entities(tmp_path: Path):
    hidden = entities().encode("utf-7")
    lay(
        tmp_path,
        {"a.xml": b"<?xml version='1.0' encoding='utf-7'?>" + hidden.replace(b"<!ENTITY", "<!ENTITY".encode("utf-7"))},
    )
    assert set(read(tmp_path, "a.jpg").errors) == {"a.jpg"}


def test_what_is_nested_deeply_or_very_large_is_one_file_s_problem(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("florence.formats._voc_set.MOST_BYTES", 2_000_000)
    deep = "<a>" * 200_000
    lay(
        tmp_path,
        {
            "deep.xml": f"<annotation>{deep}{deep.replace('<', '</')}</annotation>",
            "large.xml": xml("<a>" + "x" * 2_000_000 + "</a>"),
            "a.xml": xml(thing()),
        },
    )
    found = read(tmp_path, "a.jpg", "large.jpg")
    assert [c.text for c in found.claims["a.jpg"].claims] == ["cat"] and set(found.errors) == {"large.jpg"}
    assert ("a file that is too large", "file") in [(p.reason, p.unit) for p in found.problems]


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("size", "angle"), [((60.0, 20.0), 0.5), ((60.0, 20.0), 2.8), ((30.0, 30.0), 0.0), ((20.0, 60.0), -0.3)]
)
def test_a_turned_box_is_a_polygon(tmp_path: Path, size: tuple[float, float], angle: float):
    shape = f"<robndbox><cx>80</cx><cy>60</cy><w>{size[0]}</w><h>{size[1]}</h><angle>{angle}</angle></robndbox>"
    lay(tmp_path, {"a.xml": xml(thing(content=shape))})
    (claim,) = claims_of(read(tmp_path, "a.jpg"), named("a.jpg"))
    (polygon,) = claim.regions[0].polygons
    expected = cv2.boxPoints(((80.0, 60.0), size, float(np.degrees(angle))))
    mine = np.reshape(polygon, (-1, 2))
    assert all(np.abs(expected - corner).sum(axis=1).min() < 1e-3 for corner in mine)
    assert claim.regions[0].box == pytest.approx((*expected.min(axis=0), *expected.max(axis=0)), abs=1e-3)


def test_what_is_not_read_of_an_object_is_told(tmp_path: Path):
    parts = f"<part><name>head</name>{BOX}</part>" * 2
    polygon = "<polygon><x1>10</x1><y1>20</y1><x2>60</x2><y2>20</y2><x3>60</x3><y3>80</y3></polygon>"
    lay(
        tmp_path,
        {
            "Annotations/a.xml": xml(thing(content=BOX + parts + polygon), "a.jpg"),
            "SegmentationClass/a.png": "",
            "SegmentationObject/a.png": "",
        },
    )
    found = read(tmp_path, "JPEGImages/a.jpg")
    assert [c.regions[0].box for c in found.claims["JPEGImages/a.jpg"].claims] == [(9, 19, 60, 80)]
    assert {(p.reason, p.unit, p.count) for p in found.problems} == {
        ("masks are not read", "part", 2),
        ("parts are not read", "part", 2),
        ("polygon replaced by its box", "part", 1),
    }


@pytest.mark.parametrize(
    "size",
    [
        "<size><width>160.0</width><height>120.0</height></size>",
        "<size><width>-1</width><height>5</height></size>",
        "<size><width>?</width></size>",
    ],
)
def test_sizes_that_are_none_are_not_compared(tmp_path: Path, size: str):
    lay(tmp_path, {"a.xml": xml(thing(), size=size)})
    assert found_by_path(tmp_path, "a.jpg") == ["cat"]


def test_boxes_that_cannot_be_pixels_of_this_image(tmp_path: Path):
    shares = "<bndbox><xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.5</xmax><ymax>1</ymax></bndbox>"
    wide = "<bndbox><xmin>150</xmin><ymin>1</ymin><xmax>200</xmax><ymax>9</ymax></bndbox>"
    lay(tmp_path, {"a.xml": xml(thing(content=shares) + thing(content=wide))})
    found = read(tmp_path, "a.jpg")
    assert [c.regions[0].box for c in found.claims["a.jpg"].claims] == [(149, 0, 160, 9)]
    assert {(p.reason, p.unit) for p in found.problems} == {
        ("shares instead of pixels", "label"),
        ("a box that reaches out of the image", "part"),
    }


def test_swapped_sides_are_refused_and_told(tmp_path: Path):
    lay(tmp_path, {"a.xml": xml(thing(), size="<size><width>120</width><height>160</height></size>")})
    found = read(tmp_path, "a.jpg")
    assert "120 × 160" in str(found.errors["a.jpg"])


def test_names_are_kept_in_one_form(tmp_path: Path):
    lay(tmp_path, {"a.xml": xml(thing(" traffic\n light") + thing("traffic light") + thing("+") + thing("&#8203;"))})
    found = read(tmp_path, "a.jpg")
    assert [c.text for c in found.claims["a.jpg"].claims] == ["traffic light", "traffic light", "+"]
    assert sorted((p.reason, p.unit) for p in found.problems) == [
        ("a name that shows nothing", "label"),
        ("classes of one name are one class", "part"),
    ]


# ---------------------------------------------------------------- what the numbers of a box are


def corners_of(*numbers: float) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), numbers, strict=True)
    return f"<bndbox>{''.join(f'<{side}>{value}</{side}>' for side, value in sides)}</bndbox>"


def test_distances_from_the_corner_are_read_where_the_settings_say_so(tmp_path: Path):
    objects = thing(content=corners_of(16.0, 24.0, 48.0, 96.0)) + thing("dog", corners_of(0, 0.5, 160, 120))
    lay(tmp_path, {"a.xml": xml(objects), "a.jpg": ""})
    (edges,) = read(tmp_path, "a.jpg", corners="edges").claims.values()
    assert [claim.regions[0].box for claim in edges.claims] == [(16, 24, 48, 96), (0, 0.5, 160, 120)]
    found = read(tmp_path, "a.jpg")
    assert [claim.regions[0].box for claim in found.claims["a.jpg"].claims] == [(15, 23, 48, 96), (0, 0, 160, 120)]
    (problem,) = found.problems
    assert (problem.unit, problem.count) == ("part", 1) and "set corners: edges" in problem.detail


@pytest.mark.parametrize(("value", "is_turned"), [("30.0", True), ("-90", True), ("0.0", False), ("360", False)])
def test_a_box_that_cvat_says_is_turned_is_told(tmp_path: Path, value: str, is_turned: bool):
    attribute = f"<attributes><attribute><name>rotation</name><value>{value}</value></attribute></attributes>"
    lay(tmp_path, {"a.xml": xml(thing() + thing("dog", BOX + attribute)), "a.jpg": ""})
    found = read(tmp_path, "a.jpg")
    assert [claim.text for claim in found.claims["a.jpg"].claims] == (["cat"] if is_turned else ["cat", "dog"])
    assert [(p.unit, p.reason) for p in found.problems] == ([("label", "a rotated box")] if is_turned else [])


def test_the_xml_of_cvat_itself_is_named(tmp_path: Path):
    lay(tmp_path, {"annotations.xml": "<annotations><image name='a.jpg'/></annotations>"})
    (problem,) = read(tmp_path, "a.jpg").problems
    assert "export it as COCO or Pascal VOC" in problem.detail
