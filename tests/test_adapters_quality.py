"""Every expectation fails on a table broken in its way; suites are data that can be edited; pages are always built."""

from __future__ import annotations

import html
import html.parser
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from broken_tables import BEFORE, BROKEN, ROUND, SETTINGS, Tables

from florence.config import settings_from
from florence.errors import DataError, SettingsError, ValidationFailedError
from florence.records import ANNOTATIONS, BASE_TYPES, IMAGES
from florence.store import Store
from florence.workspace.collect import choose_split
from flows.adapters import quality, quality_tables

ROOT = Path(__file__).parents[1]
BOUNDS = {"max_drop_rate": 0.95, "max_shift": 0.5, "round": 1}


@pytest.fixture(scope="module")
def good(small_snapshot) -> Tables:
    """Return the small snapshot, with splits by hash, boxes cut to the images, and more rows of some types."""
    images = [
        {**row, "bytes": b"", "split": choose_split(row["image_id"], SETTINGS)}
        for row in small_snapshot.read_tables("images", IMAGES).to_pylist()
    ]
    size = {row["image_id"]: (row["width"], row["height"]) for row in images}
    tables = Tables(images, *(small_snapshot.read_table(name).to_pylist() for name in (ROUND, BEFORE)))
    for row in tables.labels + tables.before:
        for region in row["regions"]:
            width, height = size[row["image_id"]]
            if region["box"]:
                x0, y0, x1, y1 = region["box"]
                region["box"] = [max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)]
    words = dict(
        tables.labels[0],
        task="<REFERRING_EXPRESSION_SEGMENTATION>",
        text="the left ball",
        annotation_id="expression",
        kept=True,
        reason="",
    )
    polygons = [[1.0, 1.0, 20.0, 1.0, 20.0, 30.0]]
    words["regions"] = [
        {"label": "the left ball", "box": None, "quad": None, "polygons": polygons, "score": None, "span": None}
    ]
    tables.labels.append(words)
    for round, rows in ((1, tables.labels), (0, tables.before)):
        more = [row for row in rows if row["task"] == "<OD>" and row["kept"]]
        rows += [dict(row, annotation_id=f"{row['annotation_id']}-{copy}-{round}") for row in more for copy in range(4)]
    for number, row in enumerate(tables.labels):
        row.update(kept=True, reason="", confidence=0.9) if number % 7 else row.update(
            kept=False, reason="low_confidence", confidence=0.1
        )
    return tables


@pytest.fixture()
def copied(good: Tables) -> Tables:
    return Tables(
        *(
            json.loads(json.dumps(rows, default=lambda b: ""))
            for rows in ([{**i, "bytes": None} for i in good.images], good.labels, good.before)
        )
    )


@pytest.fixture(scope="module")
def session():
    with quality.silence_great_expectations():
        return quality.ValidationSession(BOUNDS)


def expectations() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the expectations by table, type and column; the second of the same name has a 2 at the end."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for table, items in quality.read_suites(ROOT / "expectations").items():
        for item in items:
            name = " ".join([table, item["type"].removeprefix("expect_"), item["kwargs"].get("column", "")]).strip()
            found[name if name not in found else f"{name} 2"] = (table, item)
    return found


SHIPPED = expectations()


def test_every_expectation_has_a_table_that_breaks_it():
    assert set(BROKEN) == {name for name in SHIPPED if not name.startswith("schema")}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_expectation_fails_on_a_broken_table(name: str, copied: Tables, session, tmp_path: Path):
    table, item = SHIPPED[name]
    BROKEN[name](copied)
    with quality.silence_great_expectations():
        frame = quality_tables.make_tables(SETTINGS, copied.write(tmp_path), 1)[table]
        checked = session.check(table, frame, [item])
    assert checked.passed == 0 and len(checked.failures) == 1
    (line,) = checked.failures
    assert line.startswith(f"{table}: {item['type']}(") and "could not be computed" not in line, line
    assert item["kwargs"].get("column", "") in line and item.get("notes", "") in line


def test_answers_to_questions_are_checked_where_there_are_any(copied: Tables, session, tmp_path: Path):
    def annotation_types(folder: Path) -> dict[str, int]:
        frame = quality_tables.make_tables(SETTINGS, copied.write(folder), 1)["annotation_types"]
        return dict(zip(frame["task"], frame["labels"], strict=True))

    plain = annotation_types(tmp_path / "plain")
    size = {image["image_id"]: (float(image["width"]), float(image["height"])) for image in copied.images}
    row = next(row for row in copied.labels if row["task"] == "<OD>")
    whole = {
        "label": "two",
        "box": [0.0, 0.0, *size[row["image_id"]]],
        "quad": None,
        "polygons": [],
        "score": None,
        "span": None,
    }
    copied.labels.append(
        dict(
            row,
            task="<VQA>",
            text="How many dogs are there?",
            annotation_id="asked",
            kept=True,
            reason="",
            regions=[whole],
        )
    )
    assert list(plain) == list(BASE_TYPES) and annotation_types(tmp_path / "asked") == {**plain, "<VQA>": 1}
    frames = quality_tables.make_tables(SETTINGS, copied.write(tmp_path), 1)
    with quality.silence_great_expectations():
        for table in ("labels", "regions", "annotation_types"):
            items = [item for where, item in SHIPPED.values() if where == table]
            assert session.check(table, frames[table], items).failures == ()


def workspace(folder: Path, tables: Tables) -> tuple[Path, Store]:
    shutil.copytree(ROOT / "expectations", folder / "expectations")
    return folder, tables.write(folder / "data")


def test_a_good_snapshot_passes_twice_with_the_same_bytes_and_pages_about_it(copied: Tables, tmp_path: Path):
    root, data = workspace(tmp_path, copied)
    counts = quality.validate_snapshot(SETTINGS, data, root)
    written = (root / "metrics/validation.json").read_bytes()
    assert json.loads(written) == counts and counts["passed"] == counts["expectations"] == len(SHIPPED)
    assert counts["rows"]["labels"] == len(copied.labels) and counts["rows"]["regions"] == sum(
        len(r["regions"]) for r in copied.labels if r["kept"]
    )
    pages = {p.name for p in (root / "build/data_docs/expectations").iterdir()}
    assert (root / "build/data_docs/index.html").exists() and pages == {
        f"{table}.html" for table in quality_tables.TABLES
    }
    assert quality.validate_staging(SETTINGS, data, 1, root) == counts
    assert (root / "metrics/validation.json").read_bytes() == written


def check_pages_need_no_network(docs: Path) -> None:
    """Check that nothing is loaded or run by a page, that it has a style, and that the index's links lead to pages."""
    pages = sorted(docs.rglob("*.html"))
    assert len(pages) > 3
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = [attributes for tag, attributes in read_tags(text) if tag in ("link", "img", "script", "iframe")]
        assert not [one for one in loaded if str(one.get("href") or one.get("src")).startswith("http")], page
        assert "<script" not in text and "default-src 'none'" in html.unescape(text) and "border-collapse" in text
    links = [one["href"] for tag, one in read_tags((docs / "index.html").read_text(encoding="utf-8")) if tag == "a"]
    assert len(links) >= 4 and all((docs / str(link)).is_file() for link in links)


def read_tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    """Return the tags of a page with their attributes."""
    found: list[tuple[str, dict[str, str | None]]] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))

    Reader().feed(text)
    return found


def test_a_failure_names_the_expectation_the_row_and_what_to_do_and_has_pages(copied: Tables, tmp_path: Path):
    root, store = workspace(tmp_path, copied)
    row = copied.of("<OD>")[3]
    row["score"] = 1.7
    row["regions"][0]["box"] = [4.0, 4.0, 9.0, 5000.0]
    copied.write(tmp_path / "data")
    with pytest.raises(ValidationFailedError) as caught:
        quality.validate_staging(SETTINGS, store, 1, root)
    scores, outside = caught.value.failures
    total = len(copied.labels)
    assert scores == (
        "labels: expect_column_values_to_be_between(score, max_value=1.0, min_value=0.0) – "
        f"1 of {total} rows unexpected, e.g. 1.7 (annotation {row['annotation_id']})"
    )
    assert (
        outside.startswith("regions: expect_column_values_to_be_between(outside, max_value=0.5)")
        and row["annotation_id"] in outside
    )
    page = next((root / "build/data_docs/validations/labels").rglob("*.html")).read_text(encoding="utf-8")
    assert "1.7" in page and "Failed" in page
    check_pages_need_no_network(root / "build/data_docs")
    index = (root / "build/data_docs/index.html").read_text(encoding="utf-8")
    assert html.escape(scores) in index and html.escape(outside) in index
    assert "<td>schema</td>" in index and "<td>labels</td>" in index and 'class="unmet">' in index
    assert (root / "build/data_docs/index.html").exists() and not (root / "metrics/validation.json").exists()


def edit(root: Path, table: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "expectations" / f"{table}.json"
    suite = json.loads(path.read_text(encoding="utf-8"))
    change(suite)
    path.write_text(json.dumps(suite), encoding="utf-8")


def test_a_user_adds_an_expectation_and_it_decides(copied: Tables, tmp_path: Path):
    root, data = workspace(tmp_path, copied)
    strict = {
        "type": "expect_column_mean_to_be_between",
        "kwargs": {"column": "confidence", "min_value": 0.99},
        "notes": "Ours.",
    }
    edit(root, "labels", lambda suite: suite["expectations"].append(strict))
    with pytest.raises(
        ValidationFailedError,
        match=r"labels: expect_column_mean_to_be_between\(confidence, min_value=0.99\) – found 0\.\d+\. Ours\.",
    ):
        quality.validate_snapshot(SETTINGS, data, root)


def test_a_warning_stops_nothing(copied: Tables, session, tmp_path: Path):
    item = {
        "type": "expect_column_mean_to_be_between",
        "kwargs": {"column": "confidence", "min_value": 0.99},
        "severity": "warning",
    }
    with quality.silence_great_expectations():
        checked = session.check(
            "labels", quality_tables.make_tables(SETTINGS, copied.write(tmp_path), 1)["labels"], [item]
        )
    assert (checked.passed, checked.failures) == (0, ()) and "confidence" in checked.warnings[0]


def test_bounds_come_from_the_settings(copied: Tables, tmp_path: Path):
    root, data = workspace(tmp_path, copied)
    for name in ("images", "labels", "regions", "training"):
        edit(root, name, lambda suite: suite["expectations"].clear())
    tight = settings_from({"sources": {}, "annotators": {}, "validation": {"max_drop_rate": 0.01, "max_shift": 0.5}})
    with pytest.raises(
        ValidationFailedError,
        match=r"annotation_types: .*\(drop_rate, max_value=0.01, where labels >= 50\).*<OD>.*validation\.max_drop_rate",
    ):
        quality.validate_snapshot(tight, data, root)


def test_a_new_source_shifts_nothing_and_a_lost_annotation_type_does(copied: Tables, tmp_path: Path):
    only = {row["image_id"] for row in copied.images if row["source"] == "scenes"}
    copied.before = [row for row in copied.before if row["image_id"] in only and row["task"] == "<CAPTION>"]
    annotation_types = quality_tables.make_tables(SETTINGS, copied.write(tmp_path), 1)["annotation_types"].set_index(
        "task"
    )
    now = [row for row in copied.labels if row["image_id"] in only]
    kept = [
        sum(row["kept"] and row["task"] == "<CAPTION>" for row in rows) / len({row["image_id"] for row in rows})
        for rows in (now, copied.before)
    ]
    assert annotation_types.loc["<CAPTION>", "shift"] == pytest.approx(abs(kept[0] - kept[1]) / kept[1])
    assert annotation_types["shift"].notna().sum() == 1


def test_columns_of_another_type_or_not_in_every_file_stop_before_the_rest(copied: Tables, tmp_path: Path):
    root, data = workspace(tmp_path, copied)
    data.write_table(
        ROUND,
        data.read_table(ROUND)
        .drop_columns(["confidence"])
        .append_column("extra", pa.nulls(len(copied.labels), pa.int8())),
    )
    data.write_table("images/all-00001.parquet", data.read_table("images/all-00000.parquet").drop_columns(["licence"]))
    with pytest.raises(ValidationFailedError) as caught:
        quality.validate_snapshot(SETTINGS, data, root)
    text = str(caught.value)
    assert "labels.extra: int8" in text and "labels.confidence: double" in text
    assert "expect_column_values_to_be_in_set(everywhere" in text and "images.licence: string" in text


def test_shards_from_before_images_had_a_hash_pass(copied: Tables, tmp_path: Path):
    root, data = workspace(tmp_path, copied)
    name = "images/all-00000.parquet"
    data.write_table(name, data.read_table(name).drop_columns(["phash"]))
    quality.validate_snapshot(SETTINGS, data, root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["expectations"].append(
                {"type": "expect_column_values_to_be_betwen", "kwargs": {"column": "score"}}
            ),
            "labels.json: expect_column_values_to_be_betwen: there is no such expectation; "
            "did you mean expect_column_values_to_be_between",
        ),
        (
            lambda s: s["expectations"].append(
                {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "scor"}}
            ),
            "labels.json: expect_column_values_to_not_be_null: the table has no column 'scor'; it has: annotation_id",
        ),
        (
            lambda s: s["expectations"].append(
                {"type": "expect_column_values_to_be_between", "kwargs": {"column": "score", "min_vlue": 0}}
            ),
            "labels.json: expect_column_values_to_be_between: .*min_vlue",
        ),
        (
            lambda s: s["expectations"].append(
                {
                    "type": "expect_column_values_to_be_between",
                    "kwargs": {"column": "score", "max_value": {"$PARAMETER": "top"}},
                }
            ),
            "labels.json: .* unknown .PARAMETER 'top'; known: max_drop_rate",
        ),
        (lambda s: s["expectations"].append({"kwargs": {}}), r"labels.json: expectation \d+: \"type\""),
        (lambda s: s.pop("expectations"), "labels.json: a suite is"),
    ],
)
def test_a_wrong_suite_is_named_with_what_is_wrong(change, message: str, copied: Tables, tmp_path: Path):
    root, data = workspace(tmp_path, copied)
    edit(root, "labels", change)
    with pytest.raises(SettingsError, match=message):
        quality.validate_snapshot(SETTINGS, data, root)


def test_missing_foreign_and_broken_suite_files(copied: Tables, tmp_path: Path):
    root, data = workspace(tmp_path, copied)
    (root / "expectations/annotation_types.json").rename(root / "expectations/unknown.json")
    with pytest.raises(SettingsError, match="annotation_types.json does not exist"):
        quality.validate_snapshot(SETTINGS, data, root)
    shutil.copy(root / "expectations/unknown.json", root / "expectations/annotation_types.json")
    with pytest.raises(SettingsError, match="unknown.json: there is no table of this name; tables: schema"):
        quality.validate_snapshot(SETTINGS, data, root)
    (root / "expectations/unknown.json").unlink()
    (root / "expectations/annotation_types.json").write_text("{", encoding="utf-8")
    with pytest.raises(SettingsError, match="annotation_types.json: not JSON"):
        quality.validate_snapshot(SETTINGS, data, root)
    with pytest.raises(DataError, match="dvc pull"):
        quality.validate_snapshot(SETTINGS, Store(str(tmp_path / "nothing")), root)


def test_importing_it_is_quick():
    code = "import sys, flows.adapters.quality; print(sorted({'great_expectations', 'pandas'} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_the_document_names_every_column_and_parameter(good: Tables, tmp_path: Path):
    text = (ROOT / "docs/expectations.md").read_text(encoding="utf-8")
    store = good.write(tmp_path)
    sections = {
        table: part
        for table, part in zip(quality_tables.TABLES, text.split("## Tables")[1].split("\n`")[1:], strict=True)
    }
    frames = {"schema": quality_tables.schema_table(store, 1), **quality_tables.make_tables(SETTINGS, store, 1)}
    own = {"images": set(IMAGES.names), "labels": set(ANNOTATIONS.names)}
    for table, frame in frames.items():
        assert sections[table].startswith(f"{table}`:")
        for column in set(frame.columns) - own.get(table, set()):
            assert f"`{column}`" in sections[table], (table, column)
    assert all(f"`{name}`" in text or f'"{name}"' in text for name in BOUNDS)
