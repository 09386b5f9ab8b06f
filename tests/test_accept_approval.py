"""A run of `florence schedule` that waits for approval: suspended, it survives a kill, and goes on once decided."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flow_workspaces import environment, florence, write_params
from test_accept_schedule import post, wait_for
from test_flows_loop import SETTINGS

from flows.init import create_workspace
from flows.tracked import open_workspace

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]


@contextmanager
def scheduled(folder: Path) -> Iterator[str]:
    """Serve the workspace; yield the URL of Prefect's API. At the end all of it is killed."""
    log = folder.parent / f"schedule-{len(list(folder.parent.iterdir()))}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "schedule"],
            cwd=folder,
            env=environment(),
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        try:
            found = wait_for("the API", lambda: re.search(r"API (http://127\.0\.0\.1:\d+/api)", log.read_text()), 300)
            wait_for("the deployment", lambda: post(found[1], "/deployments/filter"), 120)
            yield found[1]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


def runs(url: str) -> list[dict[str, Any]]:
    return post(url, "/flow_runs/filter", flows={"name": {"any_": ["refine"]}})


def state_of(url: str, run: str) -> str:
    return next(one["state_name"] for one in runs(url) if one["id"] == run)


def test_a_suspended_run_survives_a_kill_and_is_approved_on_the_page_and_by_command(tmp_path: Path):
    folder = tmp_path / "w"
    create_workspace(folder)
    promotion = {"approval": "manual", "mode": "not_worse", "margin": 1.0, "min_images": 2, "task_margin": 1.0}
    flow = {"cron": "0 3 1 1 *", "rounds": 2}
    write_params(folder, **{**SETTINGS, "promotion": {"primary_task": "<OD>", **promotion}, "flow": flow})
    with scheduled(folder) as url:
        (deployment,) = post(url, "/deployments/filter")
        run = post(url, f"/deployments/{deployment['id']}/create_flow_run")["id"]
        wait_for("the suspension", lambda: state_of(url, run) == "Suspended", 900)
        assert florence(folder, "models").stdout.count("waits for approval") == 1
        idle = florence(folder, "loop")  # the lock is free, and nothing is started
        assert idle.returncode == 0 and "waits for approval" in idle.stdout + idle.stderr
    with scheduled(folder) as url:
        assert state_of(url, run) == "Suspended"
        answer = {"approve": True, "reason": "looked at the report", "name": "Ann"}
        resumed = post(url, f"/flow_runs/{run}/resume", run_input=answer)
        assert resumed["status"] == "ACCEPT", resumed
        wait_for("the next suspension or the end", lambda: version(folder) == "1", 300)
        champion = open_workspace(folder).registry.find("champion")
        assert champion.tags["approval.who"].startswith("Ann")
        wait_for("the suspension of round 1", lambda: state_of(url, run) == "Suspended", 900)
        done = florence(folder, "approve", "--reason", "by command")
        assert done.returncode == 0 and "the suspended Prefect run goes on" in done.stdout + done.stderr, done
        wait_for("the end", lambda: state_of(url, run) == "Completed", 300)
        assert version(folder) == "2"
    moves = json.loads(florence(folder, "models", "log", "--json").stdout)
    assert [move["action"] for move in moves] == ["approve", "approve"]
    assert [move["reason"] for move in moves] == [answer["reason"], "by command"]


def version(folder: Path) -> str:
    champion = open_workspace(folder).registry.champion()
    return champion.version if champion is not None else ""
