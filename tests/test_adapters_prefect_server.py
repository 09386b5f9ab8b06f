"""Prefect's own commands, and ours that need Prefect, against a real server of a workspace."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_workspaces import CONSENSUS, ROOT, environment, write_params
from typer.testing import CliRunner

from flows.adapters.prefect_server import is_healthy, prefect_api, refuses_nulls
from flows.cli import app

COMMANDS = (
    ["work-pool", "create", "florence", "--type", "process"],
    ["deployment", "ls"],
    ["flow-run", "ls"],
    ["work-pool", "ls"],
    ["deploy", "--prefect-file", str(ROOT / "infra/prefect.yaml"), "--name", "florence"],
    ["deployment", "inspect", "refine/florence"],
)
"""Commands of infra/README.md and those that show what they have made."""
RUN = """
import json, os, sys
from prefect.cli import app
for words in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:  # a process each, as from a shell, but Prefect is imported once
        sys.argv = ["prefect", *words]
        try:
            app()
        finally:
            sys.stdout.flush()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"{' '.join(words)}: exit {code}", flush=True)
"""
WITHOUT_PREFECT = """
import sys
import flows.cli, flows.models, flows.doctor, flows.init, flows.plan, flows.predict, flows.schedule
import flows.adapters.quality
import florence.ablation, florence.export, florence.report, florence.review, florence.workspace.compare
import florence.workspace.evaluate, florence.workspace.train
assert "prefect" not in sys.modules, "imported before its environment is set"
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A workspace whose one annotator has no program, so that annotation fails."""
    root = tmp_path_factory.mktemp("workspace")
    broken = {"use": "program", "sources": ["*"], "tasks": ["<OD>"], "version": "1"}
    broken["command"] = [sys.executable, "-c", "raise SystemExit('no model here')"]
    write_params(root, sources={"scenes": {"count": 6}}, annotators={"broken": broken, "crude": dict(CONSENSUS)})
    return root


@pytest.fixture(scope="module")
def url(workspace: Path) -> Iterator[str]:
    """The API of the server that `florence schedule` would keep in the workspace."""
    before = dict(os.environ)
    try:
        for name in [name for name in os.environ if name.startswith("PREFECT")]:
            del os.environ[name]
        with prefect_api(workspace, lasting=True) as found:
            yield found
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_prefects_commands_work(url: str, tmp_path: Path):
    own = environment(PREFECT_API_URL=url, PREFECT_HOME=str(tmp_path), PREFECT_SERVER_ANALYTICS_ENABLED="false")
    command = [sys.executable, "-c", RUN, json.dumps(COMMANDS)]
    done = subprocess.run(command, env=own, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    for words in COMMANDS:
        assert f"{' '.join(words)}: exit 0" in done.stdout, done.stderr[-600:]
    assert "'entrypoint': 'flows.refine.refine'" in done.stdout and "'pull_steps': []" in done.stdout
    assert not refuses_nulls(url)


def test_annotate_uses_the_workspaces_server_and_speaks_plainly(url: str, workspace: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(workspace)
    assert CliRunner().invoke(app, ["collect"]).exit_code == 0
    done = CliRunner().invoke(app, ["annotate", "--student", str(tmp_path)])
    assert done.exit_code == 1 and "holds no model" in done.output
    (tmp_path / "home").mkdir()
    own = environment(HOME=str(tmp_path / "home"))
    command = [sys.executable, "-m", "flows.cli", "annotate"]
    done = subprocess.run(command, env=own, cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[0].startswith("error: 1 annotators could not finish")
    assert not [word for word in ("Traceback", "prefect", "Prefect", "INFO", "Task run") if word in done.stderr]
    assert done.stdout == ""
    assert not (tmp_path / "home/.prefect").exists()
    with sqlite3.connect(workspace / ".florence/prefect/prefect.db") as database:
        (runs,) = database.execute("SELECT count(*) FROM flow_run WHERE state_type != 'SCHEDULED'").fetchone()
    assert runs == 1 and is_healthy(url), "the flow ran on the server that was there"


def test_prefect_is_not_imported_before_its_environment_is_set():
    subprocess.run([sys.executable, "-c", WITHOUT_PREFECT], env=environment(), check=True)
