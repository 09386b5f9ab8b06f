"""Everything over HTTP: a real MLflow server, which keeps the artifacts itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow_stores import empty_store
from test_adapters_model_registry import files, real_model, used_elsewhere

from florence.config import TrackingSettings
from florence.errors import FlorenceError
from flows.adapters.mlflow_store import MlflowStore
from flows.adapters.model_registry import ModelRegistry
from flows.adapters.tracking import Tracker

pytestmark = pytest.mark.accept


@pytest.fixture
def server(tmp_path):
    import shutil

    import requests

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store(), folder / "mlflow.db")
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "kept"),
    ]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=env, start_new_session=True
        )
    uri, end = f"http://127.0.0.1:{port}", time.monotonic() + 240
    try:
        while True:
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-2000:]
            try:
                requests.get(uri + "/health", timeout=2).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the server and the workers it started
        process.wait()


def test_a_loop_over_http(tmp_path, server):
    root = tmp_path / "w"
    root.mkdir()
    store = MlflowStore(TrackingSettings(uri=server), root)
    found, models = Tracker(store), ModelRegistry(store)
    loop = found.loop_run("l1", {"train": {"lr": 0.1}})
    run = found.round_run(loop, 0, {"snapshot": "s0"})
    with found.open_curves(run) as live:
        for step in range(100):
            live(step, {"loss": 1 / (step + 1)})
    found.log_snapshot(run, "s3://bucket/dvc", {"id": "s0", "counts": {}}, "0" * 32 + ".dir")
    folder = real_model(root / "model")
    assert [models.register(run, folder, {"snapshot": "s0"}) for _ in range(2)] == ["1", "1"]
    assert models.promote().tags == {"snapshot": "s0"}
    found.finish(run)

    store = MlflowStore(TrackingSettings(uri=server), tmp_path / "other")
    again, models = Tracker(store), ModelRegistry(store)
    assert (again.loop_run("l1", {}), again.round_run(loop, 0)) == (loop, run)
    assert len(store.client.get_metric_history(run, "loss")) == 100
    assert files(models.fetch("champion")) == files(folder)
    assert sorted(p.name for p in root.iterdir()) == ["model"]
    message = used_elsewhere(tmp_path, server, {})
    assert message["table"][0]["text"] == message["table"][1]["text"]
    with pytest.raises(FlorenceError, match="nothing to roll back to"):
        models.rollback()


def test_two_workspaces_and_two_clones_on_one_server(tmp_path, server):
    """Two workspaces have a champion each; clones of one share theirs, and both logs stay whole."""
    from concurrent.futures import ThreadPoolExecutor

    from flow_workspaces import write_params

    from flows.models import fetch_champion
    from flows.tracked import open_workspace

    model = real_model(tmp_path / "model")
    for name in ("one", "two", "clone"):
        write_params(tmp_path / name, workspace=f"{name.replace('clone', 'one')}-1", tracking={"uri": server})
    opened = {name: open_workspace(tmp_path / name) for name in ("one", "two", "clone")}

    def work(name: str) -> list[str]:
        workspace, versions = opened[name], []
        parent = workspace.tracker.loop_run(name, {})
        for number in range(2):
            run = workspace.tracker.round_run(parent, number)
            tags = {"florence.workspace": workspace.settings.workspace}
            version = workspace.registry.register(run, model, tags)
            workspace.registry.promote(version, f"{name} {number}")
            versions.append(version)
        return versions

    with ThreadPoolExecutor(3) as pool:
        made = dict(zip(opened, pool.map(work, opened), strict=True))
    assert made["two"] == ["1", "2"] and sorted(made["one"] + made["clone"]) == ["1", "2", "3", "4"]
    for name, others in (("one", {"one", "clone"}), ("two", {"two"}), ("clone", {"one", "clone"})):
        reasons = [move.reason for move in opened[name].registry.moves()]
        assert sorted(reasons) == sorted(f"{other} {number}" for other in others for number in range(2))
    champions = {name: fetch_champion(workspace) for name, workspace in opened.items()}
    assert champions["one"] and champions["clone"] and champions["two"]
    assert champions["one"].version == champions["clone"].version and champions["two"].version == "2"
