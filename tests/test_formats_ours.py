"""Our own JSON lines, columns of texts, and snapshots."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from format_sets import TEXT, assert_near, boxes, claims_of, image, labelled, objects, polygons_inside, read_back, write
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.errors import DataError, SettingsError, StoreError
from florence.formats import FORMATS
from florence.records import Claim, Region, table_annotations, table_images
from florence.store import Store

RECORD = image(2)


# ---------------------------------------------------------------- JSON lines


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_is_lost(tmp_path_factory, data):
    found = []
    score = st.one_of(st.none(), st.floats(0, 1))
    for record in (image(k) for k in range(5)):
        claims = [dataclasses.replace(c, score=data.draw(score)) for c in data.draw(objects(record))]
        claims += data.draw(objects(record, shapes="polygon", most=2)) if record.width > 1 else []
        for text in data.draw(st.lists(TEXT, max_size=2)):
            a, b = data.draw(boxes(record)), data.draw(boxes(record))
            whole = (0.0, 0.0, float(record.width), float(record.height))
            claims += [
                Claim("<CAPTION>", text, (), data.draw(score)),
                Claim("<DENSE_REGION_CAPTION>", text, (Region(text, box=a),)),
                Claim(
                    "<CAPTION_TO_PHRASE_GROUNDING>",
                    text,
                    (Region(text[:2], box=a, span=(0, 2), score=0.5), Region(text[:2], box=b, span=(0, 2))),
                ),
                Claim("<OCR_WITH_REGION>", text, (Region(text, quad=(*a, *b), score=data.draw(score)),)),
                Claim("<VQA>", text, (Region("yes", box=whole), Region("no", box=whole))),
                Claim("<CLASSIFICATION>", text, (Region(text, box=whole),)),
            ]
            if record.width > 1:
                claims.append(
                    Claim(
                        "<REFERRING_EXPRESSION_SEGMENTATION>",
                        text,
                        (Region(text, polygons=data.draw(polygons_inside(record))),),
                    )
                )
        found.append((record, claims))
    folder = tmp_path_factory.mktemp("lines")
    items = write(FORMATS.get("jsonl")(), folder, found)
    imported = read_back("jsonl", folder, [record for record, _ in found])
    for record, claims in found:
        assert_near(claims_of(imported, record), claims, 0)
    lines = [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").split("\n") if line]
    for line, item in zip(lines, items, strict=True):
        assert {k: v for k, v in line["image"].items() if k != "file"} == dataclasses.asdict(item.record)
        assert [set(row) for row in line["annotations"]] == [
            {f.name for f in dataclasses.fields(row)} - {"image_id"} for row in item.rows
        ]


def test_an_image_is_known_by_its_bytes_whatever_its_name(tmp_path: Path):
    write(FORMATS.get("jsonl")(), tmp_path, [(RECORD, [Claim("<CAPTION>", "a cat")])])
    assert len(claims_of(read_back("jsonl", tmp_path, [image(2, name="renamed.png")]), RECORD)) == 1
    path = tmp_path / "labels.jsonl"
    path.write_text(path.read_text() * 2)
    assert read_back("jsonl", tmp_path, [RECORD]).unknown == (RECORD.name,), "two lines about one image"


def test_a_text_may_hold_other_ends_of_lines(tmp_path: Path):
    claims = [Claim("<CAPTION>", "one\u2028two\u0085three\x0cfour\r\nfive")]
    write(FORMATS.get("jsonl")(), tmp_path, [(RECORD, claims)])
    assert claims_of(read_back("jsonl", tmp_path, [RECORD]), RECORD) == tuple(claims)


def test_lines_by_hand_need_little(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(
        '{"image": {"name": "sub/b.jpg"}, "annotations": '
        '[{"task": "<OD>", "text": "cat", "regions": [{"box": [1, 2, 700, 40]}]}]}\n'
    )
    assert claims_of(read_back("jsonl", tmp_path / "a.jsonl", [RECORD]), RECORD) == (
        Claim("<OD>", "cat", (Region("cat", box=(1, 2, 640, 40)),)),
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task": "<od>", "text": "x"}, "task: found '<od>'; one of <OD>"),
        ({"task": "<CAPTION>"}, "text: found None"),
        (3, "task: found 3"),
        ({"task": "<OD>", "text": "x", "regions": 3}, "regions: found int"),
        ({"task": "<OD>", "text": "x", "regions": [3]}, r"regions\[0\]: found 3"),
        ({"task": "<OD>", "text": "x", "regions": [{}]}, "a box, a quad or polygons"),
        ({"task": "<OD>", "text": "x", "regions": [{"box": [1, 2, 3]}]}, r"regions\[0\]\.box: found"),
        ({"task": "<OD>", "text": "x", "regions": [{"box": [1, 2, 1, 3]}]}, "a box with pixels"),
        ({"task": "<OD>", "text": "x", "regions": [{"quad": [1] * 7}]}, "quad: found"),
        ({"task": "<OD>", "text": "x", "regions": [{"polygons": [[1, 2]]}]}, "three corners"),
        ({"task": "<OD>", "text": "x", "regions": [{"box": [1, 2, 3, 4], "span": [2, 1]}]}, "span"),
    ],
)
def test_a_bad_label_loses_only_itself(tmp_path: Path, row, message: str):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"image": {"name": RECORD.name}, "annotations": [row, {"task": "<CAPTION>", "text": "a cat"}]})
    )
    found = read_back("jsonl", tmp_path, [RECORD])
    assert [c.text for c in found.claims[RECORD.image_id].claims] == [
        "a cat"
    ] and "a.jsonl: line 1: annotations[0]" in found.problems[0].detail
    with pytest.raises(AssertionError, match=message):
        claims_of(found, RECORD)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        "{}",
        '{"image": {}}',
        '{"image": {"name": 3}}',
        '{"image": {"name": "x"}, "annotations": 3}',
        '{"image": {"name": "x", "width": "x"}, "annotations": []}',
    ],
)
def test_a_bad_line_loses_only_itself(tmp_path: Path, line: str):
    (tmp_path / "a.jsonl").write_text(f'{line}\n\n{{"image": {{"name": "sub/b.jpg"}}, "annotations": []}}\n')
    found = read_back("jsonl", tmp_path, [RECORD])
    assert (
        found.claims[RECORD.image_id].claims == () and len(found.problems) == 1 and "line 1" in found.problems[0].detail
    )


# ---------------------------------------------------------------- columns of texts


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, min_size=5, max_size=5), st.sampled_from(["csv", "tsv", "parquet", "jsonl"]))
def test_texts_of_every_ending_come_back(tmp_path_factory, texts: list[str], ending: str):
    records = [image(k) for k in range(5)]
    rows = [
        {"id": k, "file_name": record.name, "caption": text}
        for k, (record, text) in enumerate(zip(records, texts, strict=True))
    ]
    path = tmp_path_factory.mktemp("alt") / f"texts.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ending == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    found = read_back("alttext", path, records)
    assert [claims_of(found, record) for record in records] == [(Claim("<CAPTION>", text),) for text in texts]


def test_columns_are_named_where_they_are_unusual(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("Bild,Worte\nsub/b.jpg,eine Katze\nsub/b.jpg,zwei\nsub/b.jpg,zwei\na.png,\n")
    with pytest.raises(DataError, match=r"t\.csv: found the columns Bild, Worte; name or .* is expected"):
        read_back("alttext", path, [RECORD])
    found = read_back(
        "alttext", path, [RECORD, image(0), image(1)], name="Bild", text="Worte", kind="<DETAILED_CAPTION>"
    )
    assert [c.text for c in found.claims[RECORD.image_id].claims] == ["eine Katze", "zwei"]
    assert [(p.unit, p.reason) for p in found.problems] == [("label", "the same text again")]
    assert found.claims[image(0).image_id].claims == () and found.unknown == ("sub/a.png",)
    with pytest.raises(SettingsError, match="kind"):
        FORMATS.get("alttext")(kind="<OD>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,text\na.png,x,y\nsub/b.jpg,ok\n", "line 2 has 3 fields; 2 are expected"),
        ("name,text\n,x\nsub/b.jpg,ok\n", "line 2: name: found ''"),
        ('name,text\nsub/b.jpg,ok\na.png,"x\n', "not well formed"),
    ],
)
def test_a_bad_row_loses_only_itself(tmp_path: Path, content: str, message: str):
    (tmp_path / "t.csv").write_text(content)
    found = read_back("alttext", tmp_path / "t.csv", [RECORD])
    assert (
        [c.text for c in found.claims[RECORD.image_id].claims] == ["ok"]
        and len(found.problems) == 1
        and message in found.problems[0].detail
    )


def test_other_files_are_errors(tmp_path: Path):
    (tmp_path / "t.parquet").write_bytes(b"x")
    with pytest.raises(StoreError, match="not a Parquet file"):
        read_back("alttext", tmp_path / "t.parquet", [RECORD])
    (tmp_path / "t.csv").write_bytes(b"name,text\n\xff,x\n")
    with pytest.raises(DataError, match="byte 10 is not UTF-8"):
        read_back("alttext", tmp_path / "t.csv", [RECORD])
    with pytest.raises(StoreError, match="does not exist"):
        read_back("alttext", tmp_path / "u.csv", [RECORD])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/x.md").write_text("x")
    with pytest.raises(StoreError, match=r"has no file that ends in \.csv"):
        read_back("alttext", tmp_path / "empty", [RECORD])


# ---------------------------------------------------------------- snapshots


def test_a_snapshot_s_kept_labels_are_claims(small_snapshot: Store):
    records = [
        record for name in small_snapshot.names("images") for record, _ in table_images(small_snapshot.read_table(name))
    ]
    other = labelled(RECORD, []).record
    for settings_, number, least in (({}, 1, 0.0), ({"round": 0}, 0, 0.0), ({"min_confidence": 0.7}, 1, 0.7)):
        found = read_back("snapshot", small_snapshot.uri, [*records, other], **settings_)
        rows = table_annotations(small_snapshot.read_table(f"labels/round-{number:05d}.parquet"))
        assert found.unknown == (other.name,)
        for record in records:
            kept = [row for row in rows if row.image_id == record.image_id and row.kept and row.confidence >= least]
            assert claims_of(found, record) == tuple(Claim(row.task, row.text, row.regions, row.score) for row in kept)


def test_truth_is_known_of_the_images_that_have_it(small_snapshot: Store):
    records = [
        record for name in small_snapshot.names("images") for record, _ in table_images(small_snapshot.read_table(name))
    ]
    found = read_back("snapshot", small_snapshot.uri, records, part="truth")
    assert {r.source for r in records if r.image_id in found.claims} == {"scenes"} and all(
        imported.claims for imported in found.claims.values()
    )
    with pytest.raises(StoreError, match=r"labels/round-00007… of a snapshot"):
        FORMATS.get("snapshot")(round=7).files(small_snapshot.uri + "/truth")
