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
