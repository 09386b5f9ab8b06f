"""Tables of texts and of boxes, and text files beside pictures: delimiters, encodings, what is no text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from format_sets import image, read_back

from florence.errors import DataError, StoreError
from florence.records import ImageRecord

A = image(2, width=160, height=120, name="a.jpg")
B = image(3, width=160, height=120, name="b.jpg")
BOX = (10.0, 20.0, 60.0, 80.0)


def texts(path: Path, record: ImageRecord = A, /, name: str = "alttext", **settings):
    """Return the texts of an image, None where nothing is known of it, and (unit, reason, count) of each problem."""
    found = read_back(name, path, [record], **settings)
    claims = found.claims.get(record.image_id)
    return claims and [c.text for c in claims.claims], [(p.unit, p.reason, p.count) for p in found.problems]


def save(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---------------------------------------------------------------- tables of texts


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("text", ["a cat, a dog; and 3 | more", 'he said "no"', "line\nbreak"])
def test_delimiters_are_known_by_the_first_line(tmp_path: Path, delimiter: str, ending: str, text: str):
    quoted = '"' + text.replace('"', '""') + '"'
    path = save(tmp_path / f"t.{ending}", f"File_Name {delimiter}Caption\na.jpg{delimiter}{quoted}\n")
    assert texts(path) == ([text], [])


def test_spreadsheets_say_their_delimiter_first(tmp_path: Path):
    assert texts(save(tmp_path / "t.csv", "sep=;\r\nname;text\r\na.jpg;a cat\r\n")) == (["a cat"], [])


def test_quotes_in_tabs_without_rules_are_characters(tmp_path: Path):
    path = save(tmp_path / "t.tsv", 'name\ttext\na.jpg\t"Hello" she said\nb.jpg\t5" nail\n')
    assert texts(path) == (['"Hello" she said'], []) and texts(path, B) == (['5" nail'], [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le"])
def test_unicode_is_known_by_itself(tmp_path: Path, encoding: str):
    path = save(tmp_path / "t.csv", "name,text\na.jpg,ein Käfer 🙂\n".encode(encoding))
    assert texts(path) == (["ein Käfer 🙂"], [])
    assert texts(save(tmp_path / "t.csv.gz", gzip.compress(path.read_bytes()))) == (["ein Käfer 🙂"], [])


@pytest.mark.parametrize(("encoding", "text"), [("cp1252", "ein Käfer"), ("gbk", "猫在垫子上"), ("shift_jis", "猫")])
def test_other_encodings_are_named_and_never_guessed(tmp_path: Path, encoding: str, text: str):
    path = save(tmp_path / "t.csv", f"name,text\na.jpg,{text}\n".encode(encoding))
    with pytest.raises(DataError, match="not UTF-8"):
        texts(path)
    assert texts(path, encoding=encoding) == ([text], [])


@pytest.mark.parametrize("text", ["0 0.5 0.5 0.4 0.6", "1 2 3 4", "cat 10 20 30 40"])
def test_a_label_line_is_never_a_text(tmp_path: Path, text: str):
    row = json.dumps({"name": "a.jpg", "text": text})
    found = read_back("alttext", save(tmp_path / "t.jsonl", row), [A])
    assert not found.claims and A.image_id in found.errors
    assert [p.unit for p in found.problems] == ["label"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("name,text\na.jpg,a cat\na.jpg\n", "a row of too many or too few fields"),
        ("name,text\na.jpg,a cat\na.jpg,b,c\n", "a row of too many or too few fields"),
        ("name,text\na.jpg,a cat\n ,b\n", "a row without an image's path"),
        ("name,text\na.jpg,a cat\na.jpg,a cat\n", "the same text again"),
    ],
)
def test_a_row_that_is_not_used_is_told(tmp_path: Path, rows: str, reason: str):
    assert texts(save(tmp_path / "t.csv", rows)) == (["a cat"], [("label", reason, 1)])


def test_a_missing_text_is_not_an_empty_one(tmp_path: Path):
    rows = [{"name": "a.jpg", "text": "a cat"}, {"name": "b.jpg"}]
    path = save(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert B.image_id in read_back("alttext", path, [B]).errors
    rows[1]["text"] = None
    assert texts(save(path, "\n".join(map(json.dumps, rows))), B) == ([], [])


def test_tables_of_splits_have_their_own_pictures(tmp_path: Path):
    for folder in ("train", "valid"):
        save(tmp_path / folder / "t.csv", f"name,text\na.jpg,of {folder}\n")
    for folder in ("train", "valid"):
        record = image(2, width=160, height=120, name=f"{folder}/a.jpg")
        assert texts(tmp_path, record)[0] == [f"of {folder}"]
    assert not texts(tmp_path)[0]


def test_a_table_that_cannot_be_read_leaves_the_others(tmp_path: Path):
    save(tmp_path / "a.csv", "name,text\na.jpg,a cat\n")
    save(tmp_path / "b.parquet", b"x")
    save(tmp_path / "c.csv", "x,y\n1,2\n")
    shown, problems = texts(tmp_path)
    assert shown == ["a cat"] and [unit for unit, _, _ in problems] == ["file", "file"]


# ---------------------------------------------------------------- text files beside pictures


def test_text_files_beside_pictures_are_their_captions(tmp_path: Path):
    save(tmp_path / "a.txt", "a cat\non a mat\n")
    save(tmp_path / "b.jpg.caption", "a dog")
    save(tmp_path / "classes.txt", "cat\ndog\n")
    assert texts(tmp_path) == (["a cat on a mat"], []) and texts(tmp_path, B) == (["a dog"], [])


@pytest.mark.parametrize(
    "content", ["0 0.5 0.5 0.4 0.6\n", "1\n10 20 30 40", "10,20,30,20,30,40,10,40,EXIT", b"\xff\xfa caf\xe9", "7"]
)
def test_what_is_no_caption_is_told_and_its_picture_not_annotated(tmp_path: Path, content):
    save(tmp_path / "a.txt", content)
    save(tmp_path / "b.txt", "a dog")
    found = read_back("alttext", tmp_path, [A, B])
    assert list(found.claims) == [B.image_id] and A.image_id in found.errors
    assert [(p.unit, p.count) for p in found.problems] == [("label", 1)]


# ---------------------------------------------------------------- Hugging Face's metadata


def boxes(path: Path, record: ImageRecord = A, **settings):
    found = read_back("imagefolder", path, [record], **settings)
    claims = found.claims.get(record.image_id)
    shown = claims and [(c.text, c.regions[0].box) if c.regions else c.text for c in claims.claims]
    return shown, [(p.unit, p.reason, p.count) for p in found.problems]


def metadata(folder: Path, *rows: dict) -> Path:
    return save(folder / "metadata.jsonl", "\n".join(map(json.dumps, rows))).parent


SIDE_BY_SIDE = {"bbox": [[10, 20, 50, 60], [1, 2, 3, 4]], "categories": ["cat", "dog"]}


@pytest.mark.parametrize(
    "objects",
    [
        SIDE_BY_SIDE,
        {"bbox": SIDE_BY_SIDE["bbox"], "category": ["cat", "dog"], "id": [1, 2], "area": [3000, 12]},
        [{"bbox": [10, 20, 50, 60], "category": "cat"}, {"bbox": [1, 2, 3, 4], "label": "dog"}],
        json.dumps(SIDE_BY_SIDE),
    ],
)
def test_boxes_and_texts_of_metadata(tmp_path: Path, objects):
    folder = metadata(tmp_path, {"file_name": "a.jpg", "text": "a cat and a dog", "objects": objects})
    assert boxes(folder) == (["a cat and a dog", ("cat", BOX), ("dog", (1, 2, 4, 6))], [])


def test_metadata_in_other_tables(tmp_path: Path):
    row = {"file_name": "a.jpg", "text": "two", "objects": json.dumps(SIDE_BY_SIDE)}
    quoted = '"' + row["objects"].replace('"', '""') + '"'
    save(tmp_path / "csv/metadata.csv", f"file_name,text,objects\na.jpg,two,{quoted}\n")
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.Table.from_pylist([{**row, "objects": SIDE_BY_SIDE}]), tmp_path / "parquet/metadata.parquet")
    for folder in ("csv", "parquet"):
        assert boxes(tmp_path / folder)[0] == ["two", ("cat", BOX), ("dog", (1, 2, 4, 6))]


def test_numbers_of_categories_need_names(tmp_path: Path):
    folder = metadata(tmp_path, {"file_name": "a.jpg", "objects": {**SIDE_BY_SIDE, "categories": [0, 1]}})
    found = read_back("imagefolder", folder, [A])
    assert not found.claims and [p.reason for p in found.problems] == ["a category by number"] * 2
    assert boxes(folder, names=["cat", "dog"]) == ([("cat", BOX), ("dog", (1, 2, 4, 6))], [])
    assert boxes(folder, names=["cat"]) == ([("cat", BOX)], [("label", "a category by number", 1)])


def test_boxes_of_two_corners_are_named(tmp_path: Path):
    folder = metadata(tmp_path, {"file_name": "a.jpg", "objects": {"bbox": [[10, 20, 60, 80]], "categories": ["cat"]}})
    assert boxes(folder, boxes="xyxy") == ([("cat", BOX)], [])


def test_splits_have_their_own_pictures(tmp_path: Path):
    for folder in ("train", "test"):
        metadata(tmp_path / folder, {"file_name": "a.jpg", "text": f"of {folder}"})
    assert boxes(tmp_path, image(2, width=160, height=120, name="train/a.jpg")) == (["of train"], [])


def test_what_says_nothing_is_not_empty(tmp_path: Path):
    rows = [{"file_name": "a.jpg", "objects": None}, {"file_name": "b.jpg", "objects": {"bbox": [], "categories": []}}]
    found = read_back("imagefolder", metadata(tmp_path, *rows), [A, B])
    assert found.unknown == ("a.jpg",) and found.claims[B.image_id].claims == ()


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ({"bbox": [[1, 2, 3, 4]], "categories": ["cat", "dog"]}, "boxes and categories differ in number"),
        ("no JSON", "not JSON"),
        (5, "objects that are not understood"),
        ({"bbox": [[0.1, 0.2, 0.3, 0.4]], "categories": ["cat"]}, "none of its labels was understood"),
        ({"bbox": [[1, 2, 3]], "categories": ["cat"]}, "none of its labels was understood"),
        ({"bbox": [[1, 2, 3, 4]], "categories": ["<loc_7>"]}, "none of its labels was understood"),
    ],
)
def test_metadata_that_is_not_understood(tmp_path: Path, objects, reason):
    found = read_back("imagefolder", metadata(tmp_path, {"file_name": "a.jpg", "objects": objects}), [A])
    assert [error.reason for error in found.errors.values()] == [reason]


def test_a_folder_without_metadata_is_told(tmp_path: Path):
    save(tmp_path / "x.csv", "a,b")
    with pytest.raises(StoreError, match=r"metadata\.jsonl"):
        boxes(tmp_path)


# ---------------------------------------------------------------- JSON lines


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ({"file_name": "a.jpg", "text": "a cat"}, "imagefolder"),
        ({"image": "a.jpg", "prefix": "<OD>", "suffix": "cat<loc_1><loc_2><loc_3><loc_4>"}, "fine-tuned"),
        ({"image": "a.jpg", "conversations": []}, "conversations"),
        ({"data": {"image": "a.jpg"}, "annotations": []}, "labelstudio"),
        ({"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}, "results of COCO"),
        ({"image": "a.jpg", "caption": "a cat"}, "alttext"),
    ],
)
def test_lines_of_other_programs_are_named(tmp_path: Path, line: dict, match: str):
    with pytest.raises(DataError, match=match):
        read_back("jsonl", save(tmp_path / "l.jsonl", json.dumps(line)), [A])


@pytest.mark.parametrize("more", [{}, {"annotations": [], "looked_at": []}, {"annotations": None}])
def test_a_line_that_nobody_looked_at_is_not_empty(tmp_path: Path, more: dict):
    path = save(tmp_path / "l.jsonl", json.dumps({"image": {"name": "a.jpg"}, **more}))
    found = read_back("jsonl", path, [A])
    assert not found.claims and [p.unit for p in found.problems] == ["image"]


def test_names_of_lines_are_normalised_and_checked(tmp_path: Path):
    box = {"box": [10, 20, 60, 80]}
    rows = [{"task": "<OD>", "text": text, "regions": [box]} for text in ("person ", "person", "<loc_1>", "★", 5.5)]
    found = read_back(
        "jsonl", save(tmp_path / "l.jsonl", json.dumps({"image": {"name": "a.jpg"}, "annotations": rows})), [A]
    )
    claims = found.claims[A.image_id].claims
    assert [c.text for c in claims] == [c.regions[0].label for c in claims] == ["person", "person", "★"]
    assert sorted((p.unit, p.reason) for p in found.problems) == [
        ("label", "a name that is no text"),
        ("label", "a name with a token of the model"),
        ("part", "classes of one name are one class"),
    ]
