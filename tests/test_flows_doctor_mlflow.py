"""The doctor looks into the MLflow store: the experiment, the champion, the files and runs of what is registered."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_stores import mlflow_store, read_rows
from test_adapters_model_registry import register_rounds

from florence.config import Settings, settings_from
from flows.adapters.mlflow_locations import follow_workspace
from flows.adapters.mlflow_store import ARTIFACTS
from flows.doctor import Check
from flows.doctor.mlflow import check_mlflow

SETTINGS: Settings = settings_from({"sources": {}, "annotators": {}})


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("doctor") / "w"
    register_rounds(root, 2).promote()
    return root


def checked(root: Path) -> dict[str, Check]:
    return {check.name: check for check in check_mlflow(SETTINGS, root)}


def execute(root: Path, *statements: str) -> None:
    with sqlite3.connect(root / "build/mlflow.db") as database:
        for statement in statements:
            database.execute(statement)


def test_a_whole_store_has_no_fault_and_a_new_one_only_no_champion(registered: Path, tmp_path: Path):
    # both were made without an id of the workspace
    known = {"MLflow": "ok", "workspace id": "warn"}
    assert {name: check.status for name, check in checked(registered).items()} == {**known, "champion": "ok"}
    mlflow_store(tmp_path)
    assert {name: check.status for name, check in checked(tmp_path).items()} == {**known, "champion": "warn"}
    assert read_rows(tmp_path, "SELECT name FROM experiments") == [("Default",)], "looking makes nothing"


def _weights(root: Path, number: int) -> Path:
    version = {"1": "round 0", "2": "round 1"}[str(number)].encode()
    (file,) = [p for p in (root / "build").rglob("*.safetensors") if version in p.read_bytes()]
    return file


def _run_of(root: Path, version: int) -> str:
    return read_rows(root, "SELECT run_id FROM model_versions WHERE version = ?", version)[0][0]


FAULTS: list[tuple[str, Callable[[Path], object], str, str, str]] = [
    (
        "deleted experiment",
        lambda root: execute(root, "UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'florence'"),
        "experiment",
        "fail",
        "experiment 'florence' has been deleted → `mlflow experiments restore -x 1`",
    ),
    (
        "the champion's files",
        lambda root: _weights(root, 2).unlink(),
        "champion's files",
        "fail",
        "version 2: its weights",
    ),
    (
        "another version's folder",
        lambda root: shutil.rmtree(_weights(root, 1).parents[2]),
        "registered models",
        "warn",
        "version 1: .* does not exist → .*delete these versions",
    ),
    (
        "all artifacts",
        lambda root: shutil.rmtree(root / "build/mlartifacts"),
        "champion's files",
        "fail",
        "does not exist",
    ),
    (
        "the champion's run",
        lambda root: execute(root, f"UPDATE runs SET lifecycle_stage='deleted' WHERE run_uuid='{_run_of(root, 2)}'"),
        "champion's files",
        "fail",
        "its run .* has been deleted; `mlflow runs restore",
    ),
    (
        "a version's row of its run",
        lambda root: execute(root, "UPDATE model_versions SET run_id = 'nobody' WHERE version = 1"),
        "registered models",
        "warn",
        "version 1: its run nobody is gone",
    ),
    (
        "an alias that leads nowhere",
        lambda root: execute(root, "UPDATE registered_model_aliases SET version = 9 WHERE alias = 'champion'"),
        "champion",
        "fail",
        "champion is version 9, which is not registered; registered: 2, 1 → .*florence promote VERSION",
    ),
    (
        "a newer MLflow",
        lambda root: execute(root, "UPDATE alembic_version SET version_num = 'ffffffffffff'"),
        "MLflow",
        "fail",
        "a newer MLflow than .* made the store",
    ),
    (
        "no database",
        lambda root: (root / "build/mlflow.db").write_bytes(b"notes, not a database; " * 100),
        "MLflow",
        "fail",
        "not a database.*move it away",
    ),
]


@pytest.mark.parametrize(("name", "harm", "check", "status", "message"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_each_fault_is_found_with_its_remedy(
    name: str, harm: Callable[[Path], object], check: str, status: str, message: str, registered: Path, tmp_path: Path
):
    root = tmp_path / "w"
    shutil.copytree(registered, root)
    follow_workspace(root / "build/mlflow.db", root, ARTIFACTS)
    harm(root)
    found = checked(root)[check]
    assert found.status == status
    assert re.search(message, f"{found.found} → {found.remedy}", re.DOTALL), found


def test_a_copy_is_told_and_nothing_is_rewritten(registered: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(registered, root)
    before = (root / "build/mlflow.db").read_bytes()
    found = checked(root)
    assert found["artifacts"].status == "warn" and str(registered) in found["artifacts"].found
    assert found["champion"].status == "ok" and (root / "build/mlflow.db").read_bytes() == before


def test_a_locked_database_is_named(registered: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("flows.adapters.mlflow_locations.WAIT", 0.1)
    root = tmp_path / "w"
    shutil.copytree(registered, root)
    holder = sqlite3.connect(root / "build/mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        found = checked(root)["MLflow"]
    finally:
        holder.close()
    assert found.status == "fail" and "another process holds the database" in found.found
