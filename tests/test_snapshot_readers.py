"""Every table of a snapshot, and every folder of tables, read by other programs; one annotator claims nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from workspaces import workspace_of

from florence.config import settings_from
from florence.rounds import list_labels
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators
from florence.workspace.collect import collect_images
from florence.workspace.fuse import fuse_round
from florence.workspace.publish import publish_snapshot

SETTINGS = {
    "sources": {"scenes": {"use": "scenes", "count": 6, "size": 64}},
    "annotators": {
        "careful": {"use": "simulated", "sources": ["*"]},
        "silent": {"use": "simulated", "sources": ["*"], "missed": 1, "invented": 0, "tasks": ["<OD>"]},
    },
    "collect": {"shard": 3},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The snapshot of two rounds over two shards."""
    root = tmp_path_factory.mktemp("published")
    settings = settings_from(SETTINGS)
    workspace = workspace_of(settings, Store(str(root / "store")), Store(str(root / "data")))
    collect_images(workspace)
    annotators = list_annotators(settings)
    for round in (0, 1):
        for shard in workspace.store.stems("images"):
            annotate_shard(workspace, annotators, shard, round)
        fuse_round(workspace, annotators, round)
        publish_snapshot(workspace, annotators, round)
    return root / "data"


def tables(data: Path) -> list[Path]:
    return sorted(data.rglob("*.parquet"))


def folders(data: Path) -> list[Path]:
    """Every folder of tables, and the folders of folders: all of one kind."""
    kinds = [path for path in data.iterdir() if path.is_dir() and any(path.rglob("*.parquet"))]
    return sorted({*kinds, *(p.parent for p in tables(data) if p.parent != data and p.parent.parent != data)})


def count_rows(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet"))


def test_tables_of_no_rows_have_no_row_group(published: Path):
    silent = sorted((published / "claims").glob("silent@*/*.parquet"))
    assert len(silent) == 2
    for path in tables(published):
        footer = pq.read_metadata(path)
        groups = [footer.row_group(k).num_rows for k in range(footer.num_row_groups)]
        assert all(groups) and bool(groups) == bool(footer.num_rows), path
    empty = {path.parent.name.split("@")[0] for path in tables(published) if not pq.read_metadata(path).num_rows}
    assert {"silent", "baseline"} <= empty


def test_each_table_by_datasets(published: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    for k, path in enumerate(tables(published)):
        rows = pq.read_metadata(path).num_rows
        options = {"data_files": str(path), "split": "train", "cache_dir": str(tmp_path / str(k))}
        streamed = datasets.load_dataset("parquet", streaming=True, **options)
        assert (sum(1 for _ in streamed), streamed.column_names) == (rows, pq.read_schema(path).names), path
        if rows:  # of no rows it makes no data set in memory, whatever the format
            assert datasets.load_dataset("parquet", **options).num_rows == rows


def test_each_table_by_pandas_and_duckdb(published: Path):
    for path in tables(published):
        rows = pq.read_metadata(path).num_rows
        assert len(pd.read_parquet(path)) == rows
        assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{path}')").fetchall() == [(rows,)]


def by_datasets(folder: Path, tmp_path: Path) -> int:
    return datasets.load_dataset(
        "parquet", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    ).num_rows


READERS: dict[str, Callable[[Path, Path], Any]] = {
    "pandas": lambda folder, _: len(pd.read_parquet(folder)),
    "pyarrow": lambda folder, _: len(pq.read_table(folder)),
    "pyarrow.dataset": lambda folder, _: ds.dataset(folder).count_rows(),
    "hive": lambda folder, _: len(ds.dataset(folder, partitioning="hive").to_table()),
    "duckdb": lambda folder, _: duckdb.sql(f"SELECT * FROM '{folder}/**/*.parquet'").df().shape[0],
    "duckdb, hive": lambda folder, _: duckdb.sql(
        f"SELECT count(*) FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
    ).fetchall()[0][0],
    "datasets": by_datasets,
}


@pytest.mark.parametrize("reader", READERS)
def test_each_folder_of_tables_is_one_table(published: Path, tmp_path: Path, reader: str):
    found = folders(published)
    assert {path.name.split("@")[0] for path in found} >= {
        "images",
        "labels",
        "claims",
        "coverage",
        "silent",
        "careful",
    }
    for folder in found:
        if count_rows(folder) or reader != "datasets":  # datasets has no table of no rows, of a folder or not
            assert READERS[reader](folder, tmp_path / folder.name) == count_rows(folder), folder


def test_rounds_are_told_apart_by_their_column(published: Path):
    found = pd.read_parquet(published / "labels")
    assert sorted(found["round"].unique()) == [0, 1] == list(list_labels(Store(str(published))))
    one = pd.read_parquet(published / "labels", filters=[("round", "=", 1)])
    assert len(one) == len(pd.read_parquet(published / "labels/round-00001.parquet"))


def test_a_snapshot_of_the_form_before_becomes_readable_when_it_is_published(tmp_path: Path):
    """The labels of form 2 are found, copied under today's names, and leave the old ones."""
    settings = settings_from({**SETTINGS, "sources": {"scenes": {"use": "scenes", "count": 2, "size": 64}}})
    workspace = workspace_of(settings, Store(str(tmp_path / "store")), Store(str(tmp_path / "data")))
    collect_images(workspace)
    annotators = list_annotators(settings)
    for shard in workspace.store.stems("images"):
        annotate_shard(workspace, annotators, shard, 0)
    labels = fuse_round(workspace, annotators, 0)
    first = publish_snapshot(workspace, annotators, 0)
    for store in (workspace.store, workspace.data):
        content = store.read_bytes("labels/round-00000.parquet")
        store.delete("labels")
        store.write_bytes("labels/round=0/labels.parquet", content)
    with pytest.raises(pa.ArrowException):
        pd.read_parquet(tmp_path / "data/labels")
    assert publish_snapshot(workspace, annotators, 0)["id"] == first["id"]
    assert workspace.data.names("labels") == ["labels/round-00000.parquet"]
    assert len(pd.read_parquet(tmp_path / "data/labels")) == len(labels)
    assert fuse_round(workspace, annotators, 0).equals(labels)
    assert workspace.store.names("labels") == ["labels/round-00000.parquet"]
