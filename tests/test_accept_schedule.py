"""`florence schedule` with a schedule of one minute, seen through Prefect's API."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow_workspaces import environment, florence, write_params

from flows.init import create_workspace

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]


def post(url: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def wait_for(what: str, look: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(1)
    raise AssertionError(f"{what}: not seen within {seconds} s")


def test_runs_by_itself_refuses_overlaps_and_does_nothing_twice(tmp_path: Path):
    folder = tmp_path / "w"
    create_workspace(folder)
    # long enough that the next minute finds it at work
    write_params(folder, flow={"cron": "* * * * *", "rounds": 1}, train={"steps": 1500, "save_steps": 500})
    log = tmp_path / "schedule.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "schedule"], cwd=folder, env=environment(), stdout=sink, stderr=sink
        )
        try:
            watch(folder, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(90)
            finally:
                process.kill()
    assert process.returncode in (0, 130, 143), log.read_text()
    message = log.read_text()
    assert "Traceback" not in message, message
    url = re.search(r"API (http://127\.0\.0\.1:\d+/api)", message)
    assert url is not None
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{url[1]}/health", timeout=5)


def watch(folder: Path, log: Path) -> None:
    found = wait_for("the API's address", lambda: re.search(r"API (http://127\.0\.0\.1:\d+/api)", log.read_text()), 300)
    url = found[1]

    def runs(*states: str) -> list[dict[str, Any]]:
        return [
            run
            for run in post(url, "/flow_runs/filter", flows={"name": {"any_": ["refine"]}})
            if run["state_type"] in states
        ]

    first = wait_for("a run that started by itself", lambda: runs("RUNNING", "COMPLETED"), 240)[0]
    assert first["auto_scheduled"] and first["deployment_id"]
    refused = wait_for("an overlapping run, refused", lambda: runs("CANCELLED"), 240)[0]
    assert refused["id"] != first["id"] and refused["auto_scheduled"]
    by_hand = florence(folder, "loop")
    assert by_hand.returncode == 1 and "at work" in by_hand.stderr

    wait_for("the first run's end", lambda: first["id"] in {run["id"] for run in runs("COMPLETED")}, 900)
    later = wait_for("a later run", lambda: [run for run in runs("COMPLETED") if run["id"] != first["id"]], 300)[0]
    logs = post(url, "/logs/filter", logs={"flow_run_id": {"any_": [later["id"]]}}, limit=200)
    assert any("nothing new" in line["message"] for line in logs), logs
    assert not runs("FAILED", "CRASHED")
