"""Copied, moved and linked workspaces: artifacts are read and written in the workspace, and nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from mlflow_stores import mlflow_store, read_rows
from test_adapters_model_registry import copy_rounds, files, model_folder, register_rounds

from florence.config import TrackingSettings
from florence.errors import SettingsError
from flows.adapters import prefect_server
from flows.adapters.mlflow_locations import COLUMNS, WORKSPACE, find_moved, follow_workspace, is_half_made
from flows.adapters.mlflow_store import MlflowStore, store_uri
from flows.adapters.model_registry import ModelRegistry
from flows.adapters.prefect_server import set_prefect_environment
from flows.adapters.sqlite_urls import build_sqlite_uri, sqlite_file
from flows.adapters.tracking import Tracker

NAMES = [
    "plain",
    "a blank",
    "ümlaut ß",
    "100%",
    "%3F",
    "#1",
    "what?",
    "a;b",
    "it's",
    'say "no"',
    "back\\slash",
    "a?b=c&d",
]


def content(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def locations(root: Path) -> set[Path]:
    """Return every local artifact location in the workspace's store."""
    found = set()
    for table, column in COLUMNS[:-1]:
        for (value,) in read_rows(root, f"SELECT {column} FROM {table}"):
            if value and value.startswith("file:"):
                found.add(Path(url2pathname(urlsplit(value).path)))
    return found


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A workspace with a champion, at home where it is."""
    root = tmp_path / "original"
    copy_rounds(root).promote()
    assert locations(root) and all(path.is_relative_to(root) for path in locations(root))
    return root


@pytest.mark.parametrize("name", ["plain", "ä b%3F;'", "what? #1%"])
def test_a_copy_reads_and_writes_its_own_files_alone(original: Path, name: str, tmp_path: Path, capsys):
    copy = tmp_path / name
    shutil.rmtree(original / "models")
    shutil.copytree(original, copy)
    before = content(original)
    (copy / "build/mlartifacts").rename(copy / "build/hidden")  # what is read now would be the original's
    with pytest.raises(Exception, match="cannot fetch the model"):
        ModelRegistry(mlflow_store(copy)).fetch("champion")
    (copy / "build/hidden").rename(copy / "build/mlartifacts")
    again = register_rounds(copy, 2)  # round 0 is there already
    assert [v.version for v in again.versions()] == ["2", "1"]
    assert (again.fetch("champion") / "model.safetensors").read_bytes() == b"weights of round 0"
    assert (again.fetch("2") / "model.safetensors").read_bytes() == b"weights of round 1"
    run = again.versions()[0].run_id
    Tracker(again.store).log_files(run, [copy / "models/1/config.json"], "scores")
    assert Tracker(again.store).read_file(run, "scores/config.json") == b"{}"
    assert content(original) == before
    assert locations(copy) and all(path.is_relative_to(copy) for path in locations(copy))
    # MLflow may print lines of its own
    lines = [line for line in capsys.readouterr().err.splitlines() if "copied or moved" in line]
    assert len(lines) == 1 and str(original) in lines[0]


@pytest.mark.parametrize("name", ["plain", "what? #1%"])
def test_a_moved_workspace_finds_its_models_and_says_so_once(original: Path, name: str, tmp_path: Path, capsys):
    moved = tmp_path / "deeper" / name
    moved.parent.mkdir()
    original.rename(moved)
    assert files(ModelRegistry(mlflow_store(moved)).fetch("champion"))["model.safetensors"] == b"weights of round 0"
    assert "copied or moved" in capsys.readouterr().err
    ModelRegistry(mlflow_store(moved)).fetch("champion")
    assert capsys.readouterr().err == ""
    moved.rename(original)  # and back
    assert ModelRegistry(mlflow_store(original)).champion() is not None
    assert all(path.is_relative_to(original) for path in locations(original))


def test_a_store_without_the_tag_is_understood_by_its_folder_of_artifacts(original: Path, tmp_path: Path):
    with sqlite3.connect(original / "build/mlflow.db") as database:
        database.execute("DELETE FROM experiment_tags")
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    assert ModelRegistry(mlflow_store(copy)).champion() is not None
    assert all(path.is_relative_to(copy) for path in locations(copy))


def test_a_folder_that_the_settings_no_longer_name_follows_too(tmp_path: Path):
    root, moved = tmp_path / "a", tmp_path / "b"
    mlflow_store(root, artifacts="kept here").experiment_id  # noqa: B018 - makes it
    root.rename(moved)
    store = mlflow_store(moved)
    assert store.client.get_experiment(store.experiment_id).artifact_location == (moved / "kept here").as_uri()


@pytest.mark.parametrize(("old", "new"), [("w", "w/inner"), ("outer/w", "outer")])
def test_a_copy_inside_the_original_and_around_it(old: str, new: str, tmp_path: Path):
    original = tmp_path / old
    copy_rounds(original)
    parts = {p.name: p for p in original.iterdir()}
    (tmp_path / new).mkdir(exist_ok=True)
    for name, path in parts.items():
        shutil.copytree(path, tmp_path / new / name)
    for _ in range(2):
        mlflow_store(tmp_path / new).client  # noqa: B018
        assert all(path.relative_to(tmp_path / new).parts[0] == "build" for path in locations(tmp_path / new))
        assert all(path.relative_to(original).parts[0] == "build" for path in locations(original))


def test_a_link_to_the_workspace_is_the_same_workspace(original: Path, tmp_path: Path, capsys):
    link = tmp_path / "link"
    link.symlink_to(original)
    before = read_rows(original, "SELECT artifact_uri FROM runs")
    store = MlflowStore(TrackingSettings(), link)
    assert ModelRegistry(store).champion() is not None and Tracker(store).loop_run("another", {})
    assert read_rows(original, "SELECT artifact_uri FROM runs")[: len(before)] == before
    assert capsys.readouterr().err == ""
    new, other = tmp_path / "new", tmp_path / "other"
    shutil.copytree(original, other)
    original.rename(new)
    link.unlink()
    link.symlink_to(other)  # as a link to the latest of several does
    assert ModelRegistry(MlflowStore(TrackingSettings(), link)).champion() is not None
    assert all(path.is_relative_to(other) for path in locations(other))


def test_what_is_kept_elsewhere_stays_there(tmp_path: Path):
    root, nas = tmp_path / "w", tmp_path / "nas/build/mlartifacts"
    for settings in ({"artifacts": str(nas)}, {"artifacts": "s3://bucket/x", "experiment": "b"}):
        mlflow_store(root, **settings).experiment_id  # noqa: B018
    root.rename(tmp_path / "moved")
    assert mlflow_store(tmp_path / "moved", artifacts=str(nas)).find_moved() is not None  # the tag alone
    store = mlflow_store(tmp_path / "moved", artifacts=str(nas))
    found = {e.name: e.artifact_location for e in store.client.search_experiments() if e.name != "Default"}
    assert found == {"florence": nas.as_uri(), "b": "s3://bucket/x"}


def test_a_database_outside_of_the_workspace_is_left_alone(original: Path, tmp_path: Path, capsys):
    shared = tmp_path / "shared.db"
    shutil.copy(original / "build/mlflow.db", shared)
    before = shared.read_bytes()
    store = MlflowStore(TrackingSettings(uri=f"sqlite:///{shared}"), tmp_path / "another")
    assert store.find_moved() is None and ModelRegistry(store).champion() is not None
    assert shared.read_bytes() == before and capsys.readouterr().err == ""


def test_locations_are_rewritten_all_or_not_at_all(original: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    file = copy / "build/mlflow.db"
    with sqlite3.connect(file) as database:  # the last of the tables refuses
        database.execute("CREATE TRIGGER no BEFORE UPDATE ON model_versions BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.IntegrityError):
        follow_workspace(file, copy, "build/mlartifacts")
    assert all(path.is_relative_to(original) for path in locations(copy))
    with sqlite3.connect(file) as database:
        database.execute("DROP TRIGGER no")
    assert follow_workspace(file, copy, "build/mlartifacts") is not None
    assert find_moved(file, copy, "build/mlartifacts") is None and locations(copy) == {
        copy / path.relative_to(original) for path in locations(original)
    }


def test_the_experiment_is_tagged_with_its_workspace(tmp_path: Path):
    store = mlflow_store(tmp_path)
    assert store.client.get_experiment(store.experiment_id).tags == {WORKSPACE: str(tmp_path)}


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize("name", NAMES)
def test_the_database_lies_in_the_workspace_whatever_that_is_called(name: str, tmp_path: Path):
    root = tmp_path / name
    uri = store_uri("sqlite:///build/mlflow.db", root)
    assert sqlite_file(uri) == root / "build/mlflow.db"
    mlflow_store(root)
    before = sorted(tmp_path.iterdir())
    store = MlflowStore(TrackingSettings(), root)
    run = Tracker(store).loop_run("l", {})
    Tracker(store).log_files(run, [model_folder(root / "m") / "config.json"])
    assert Tracker(store).read_file(run, "config.json") == b"{}"
    assert read_rows(root, "SELECT count(*) FROM runs") == [(1,)]
    assert sorted(tmp_path.iterdir()) == before and sorted(p.name for p in root.iterdir()) == [
        ".florence",
        "build",
        "m",
    ]


def test_a_new_store_is_made_in_a_folder_of_any_name_and_nothing_beside_it(tmp_path: Path, monkeypatch):
    root = tmp_path / """what? it's "a:b" #1;ä%3F\\x"""
    root.mkdir()
    monkeypatch.chdir(root)
    store = MlflowStore(TrackingSettings(), Path.cwd())
    assert Tracker(store).loop_run("l", {})
    assert [p.name for p in tmp_path.iterdir()] == [root.name] and [p.name for p in root.iterdir()] == ["build"]
    assert all(path.is_relative_to(root / "build") for path in locations(root)) and len(locations(root)) == 3


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///a.db?timeout=9", "sqlite:////w?/a.db"),
        ("sqlite:///file:a.db?uri=true", "sqlite:////w?/a.db"),
        ("sqlite:///file:///x%3Fy/a.db?uri=true&mode=rw", "/x?y/a.db"),
        ("sqlite+pysqlite:////x/a.db", "/x/a.db"),
    ],
)
def test_other_addresses_of_a_database(uri: str, expected: str):
    found = store_uri(uri, Path("/w?"))
    assert sqlite_file(found) == Path(expected.removeprefix("sqlite:///"))
    assert ("mode=rw" in found) == ("mode=rw" in uri) and ("timeout=9" in found) == ("timeout=9" in uri)
    assert found.startswith("sqlite+pysqlite:")


@pytest.mark.parametrize(
    "uri", ["sqlite://mlflow.db", "sqlite:///x.db?mode=memory", "sqlite:///file::memory:?uri=true"]
)
def test_addresses_that_are_none_are_refused(uri: str):
    with pytest.raises(SettingsError, match="tracking.uri.*sqlite:///build/mlflow.db"):
        store_uri(uri, Path("/w"))


@pytest.mark.parametrize(("name", "is_set"), [("plain", False), ("a#b %3F", False), ("what?", True)])
def test_prefects_database_lies_in_the_workspace_too(name: str, is_set: bool, tmp_path: Path, monkeypatch):
    for variable in [variable for variable in os.environ if variable.startswith("PREFECT")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    set_prefect_environment(tmp_path / name)
    found = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL")
    assert (found is not None) == is_set
    if found is not None:
        assert found.startswith("sqlite+aiosqlite:///file:")
        assert sqlite_file(found) == tmp_path / name / ".florence/prefect/prefect.db"


def test_a_note_about_the_server_of_another_workspace_is_not_followed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(prefect_server, "is_healthy", lambda url: True)
    note = tmp_path / "w/.florence/prefect/server.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"url": "http://127.0.0.1:1/api", "pid": 1, "root": str(tmp_path / "w")}))
    assert prefect_server.find_server(tmp_path / "w") == "http://127.0.0.1:1/api"
    shutil.copytree(tmp_path / "w", tmp_path / "copy")
    assert prefect_server.find_server(tmp_path / "copy") is None


def test_a_url_is_read_by_sqlalchemy_as_it_was_meant(tmp_path: Path):
    from sqlalchemy import create_engine, text

    for name in NAMES:
        file = tmp_path / name / "x.db"
        file.parent.mkdir()
        engine = create_engine(build_sqlite_uri(file, query={"timeout": "5"}))
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE a (x)"))
            connection.commit()
        assert os.listdir(file.parent) == ["x.db"]
        engine.dispose()


# ---------------------------------------------------------------- a store that was half made


@pytest.mark.parametrize("statements", [[], ["CREATE TABLE experiments (x)"], ["DELETE FROM alembic_version"]])
def test_a_store_that_was_half_made_is_made_anew(statements: list[str], tmp_path: Path):
    file = tmp_path / "build/mlflow.db"
    if statements and statements[0].startswith("DELETE"):
        mlflow_store(tmp_path)
        statements = [*statements, "DELETE FROM experiments"]
    file.parent.mkdir(exist_ok=True)
    with sqlite3.connect(file) as database:
        for statement in statements:
            database.execute(statement)
    assert Tracker(MlflowStore(TrackingSettings(), tmp_path)).loop_run("l", {})
    assert sorted(p.name for p in file.parent.iterdir()) == ["mlflow.db", "mlflow.lock"]


def test_a_store_with_content_is_never_taken_for_half_made(tmp_path: Path):
    mlflow_store(tmp_path / "new")
    assert not is_half_made(tmp_path / "new/build/mlflow.db")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE mine (x)")
    assert not is_half_made(tmp_path / "other.db")
