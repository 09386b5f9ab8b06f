"""The MLflow store: where it lies, how it is addressed, and its errors."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow_stores import find_closed_port, mlflow_store, read_rows, registry, tracker

from florence.config import TrackingSettings
from florence.errors import FlorenceError, SettingsError
from flows.adapters.environment import redact_text
from flows.adapters.mlflow_store import MlflowStore, hold_lock, store_uri
from flows.adapters.model_registry import ModelRegistry
from flows.adapters.tracking import Tracker

# ---------------------------------------------------------------- the store


def test_the_store_lies_in_the_workspace_wherever_one_stands(tmp_path, monkeypatch):
    root, elsewhere = tmp_path / "wörk #1% space", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = tracker(root)
    found.log_report(found.loop_run("a", {}), _folder(tmp_path / "report"))
    assert not list(elsewhere.iterdir())
    assert sorted(p.name for p in root.iterdir()) == ["build"]
    assert [p.name for p in (root / "build/mlartifacts").rglob("*.html")] == ["index.html"]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "index.html").write_text("<p>report</p>", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///build/mlflow.db", "sqlite:////w/build/mlflow.db"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("sqlite:///a.db?timeout=9", "sqlite:////w/a.db?timeout=9"),
        ("https://host:5000/x", "https://host:5000/x"),
        ("postgresql://u:p@host/db", "postgresql://u:p@host/db"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_uris(uri, expected):
    assert store_uri(uri, Path("/w")) == expected


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///x/mlruns", "sqlite://", "sqlite:///:memory:"])
def test_a_folder_or_memory_is_no_store(uri):
    with pytest.raises(SettingsError, match="sqlite:///build/mlflow.db"):
        store_uri(uri, Path("/w"))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:s3cret@host/db",
        "at https://user:s3cret@host:5000/api, twice https://user:s3cret@other",
        "mysql+pymysql://user:pa@s3cret@host/db",
        "https://host/?password=s3cret&x=1",
        "https://host/?x=1&api_token=s3cret",
        "postgresql://s3cret@host/db",
    ],
)
def test_credentials_of_urls_are_redacted(text):
    assert "s3cret" not in redact_text(text) and "host" in redact_text(text)


def test_databricks_keeps_its_models_in_unity_catalog(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    found = [
        MlflowStore(TrackingSettings(uri=uri, model="main.vision.florence"), tmp_path)
        for uri in ("databricks", "databricks://p", "https://h")
    ]
    assert [t.registry_uri for t in found] == ["databricks-uc", "databricks-uc://p", "https://h"]


def test_the_tables_are_made_under_a_lock(tmp_path):
    found, opened = mlflow_store(tmp_path), threading.Event()
    with hold_lock(tmp_path / "build/mlflow.lock"):
        worker = threading.Thread(target=lambda: (found.client, opened.set()))
        worker.start()
        assert not opened.wait(0.5)
    worker.join(60)
    assert opened.is_set()


def test_artifacts_go_where_the_settings_say(tmp_path):
    where = {
        name: mlflow_store(tmp_path, experiment=name, artifacts=uri)
        for name, uri in (("a", "kept here"), ("b", "s3://bucket/x"), ("c", None))
        if uri
    }
    found = {name: t.client.get_experiment(t.experiment_id).artifact_location for name, t in where.items()}
    assert found == {"a": (tmp_path / "kept here").as_uri(), "b": "s3://bucket/x"}
    server = MlflowStore(TrackingSettings(uri="http://127.0.0.1:1"), tmp_path)
    assert server._artifact_location() is None  # it decides itself


def test_importing_the_tracker_does_not_import_mlflow_which_is_then_quiet(tmp_path):
    code = (
        "import sys; import flows.adapters.tracking; from flows.adapters.mlflow_store import MlflowStore\n"
        "from flows.adapters.model_registry import ModelRegistry; from florence.config import TrackingSettings\n"
        "assert not {'mlflow', 'torch', 'pandas'} & set(sys.modules), 'imported early'\n"
        f"t = ModelRegistry(MlflowStore(TrackingSettings(), {str(tmp_path)!r})); assert 'mlflow' not in sys.modules\n"
        "assert t.champion() is None\n"
        "from mlflow.telemetry import get_telemetry_client; assert get_telemetry_client() is None\n"
    )
    tracker(tmp_path)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DO_NOT", "PYTEST", "CI"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---------------------------------------------------------------- what goes wrong


def test_an_unreachable_server_is_an_error_within_seconds(tmp_path):
    start = time.monotonic()
    with pytest.raises(
        FlorenceError, match=r"http://•••@127.0.0.1:\d+ does not answer.*is the server running, and tracking.uri right"
    ) as caught:
        store = MlflowStore(TrackingSettings(uri=f"http://user:s3cret@127.0.0.1:{find_closed_port()}"), tmp_path)
        Tracker(store).loop_run("l", {})
    assert "s3cret" not in str(caught.value) and time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [("ffffffffffff", "a newer MLflow than .* made the store"), ("451aebb31d03", "mlflow db upgrade")],
)
def test_a_store_of_another_schema(tmp_path, revision, remedy):
    tracker(tmp_path)
    with sqlite3.connect(tmp_path / "build/mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(FlorenceError, match=f"MLflow at sqlite:.*mlflow.db: cannot open the store: .*{remedy}"):
        tracker(tmp_path).loop_run("l", {})


def test_a_file_that_is_no_store(tmp_path):
    (tmp_path / "build").mkdir()
    (tmp_path / "build/mlflow.db").write_bytes(b"notes, not a database; " * 100)
    with pytest.raises(FlorenceError, match="not a database.*move it away, or name another"):
        registry(tmp_path).champion()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    with pytest.raises(FlorenceError, match="cannot open the store"):
        ModelRegistry(MlflowStore(TrackingSettings(uri="sqlite:///taken/mlflow.db"), tmp_path)).champion()


def test_a_database_without_its_driver(tmp_path):
    pytest.importorskip("sqlalchemy")
    with pytest.raises(FlorenceError, match="driver is not installed") as caught:
        store = MlflowStore(TrackingSettings(uri="postgresql://user:s3cret@127.0.0.1/db"), tmp_path)
        ModelRegistry(store).champion()
    assert "s3cret" not in str(caught.value)


def test_a_deleted_experiment_is_an_error_with_the_command_to_restore_it(tmp_path):
    found = tracker(tmp_path)
    found.store.client.delete_experiment(found.store.experiment_id)
    with pytest.raises(FlorenceError, match="mlflow experiments restore -x 1"):
        tracker(tmp_path).loop_run("l", {})


def test_our_own_mistakes_stay_mistakes(tmp_path):
    with pytest.raises(KeyError):
        tracker(tmp_path).log_snapshot("r", "data", {}, None)


@pytest.mark.accept
def test_many_processes_open_a_new_store_at_once(tmp_path):
    code = (
        "from flows.adapters.tracking import Tracker; from flows.adapters.mlflow_store import MlflowStore; "
        "from florence.config import TrackingSettings; "
        f"print(Tracker(MlflowStore(TrackingSettings(), {str(tmp_path)!r})).loop_run('l', {{}}))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    message = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], message
    assert read_rows(tmp_path, "SELECT count(*) FROM experiments WHERE name = 'florence'") == [(1,)]
