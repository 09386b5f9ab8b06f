"""A loop that is killed with SIGKILL at three points resumes by the same command and ends with the same result."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from flow_workspaces import environment, florence, write_params

from flows.init import create_workspace
from flows.state import read_state

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
SETTINGS = {"collect": {"shard": 3}, "train": {"steps": 60}}
"""24 scenes in 8 shards, and enough steps to kill the loop between them."""


def make(folder: Path) -> Path:
    create_workspace(folder)
    write_params(folder, **SETTINGS)
    return folder


def data_hash(folder: Path) -> str:
    return yaml.safe_load((folder / "data.dvc").read_text())["outs"][0]["md5"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> str:
    """Return the hash that a loop of one round ends with."""
    folder = make(tmp_path_factory.mktemp("undisturbed") / "w")
    done = florence(folder, "loop", "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    return data_hash(folder)


def shards_done(folder: Path) -> int:
    return len(list((folder / ".florence/store/coverage").rglob("*.parquet")))


def annotating(folder: Path) -> bool:
    return shards_done(folder) >= 3


def training(folder: Path) -> bool:
    """Return whether a checkpoint has been written."""
    return any((folder / ".florence/checkpoints").rglob("*.safetensors")) or any(
        (folder / ".florence/checkpoints").rglob("*.pt")
    )


def is_compared(folder: Path) -> bool:
    """Return whether the decision is written and the model not yet registered."""
    return (folder / "metrics/decision.json").exists()


def kill_when(folder: Path, reached: Callable[[Path], bool]) -> None:
    """Start a loop, and kill it, and it alone, as soon as it has come so far."""
    with (folder.parent / "killed.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "loop", "--rounds", "1"],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while not reached(folder):
                assert process.poll() is None, (folder.parent / "killed.log").read_text()
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
    state = read_state(folder)
    assert state is not None and not state.finished


def left_behind(folder: Path) -> list[str]:
    """Return the processes that still have the workspace as their current folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == folder:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            pass
    return found


@pytest.mark.parametrize("reached", [annotating, training, is_compared], ids=lambda f: f.__name__)
def test_killed_and_started_again(tmp_path: Path, undisturbed: str, reached: Callable[[Path], bool]):
    folder = make(tmp_path / "w")
    kill_when(folder, reached)
    before = {p: p.stat().st_mtime_ns for p in (folder / ".florence/store/claims").rglob("*.parquet")}
    shards = shards_done(folder)
    end = time.monotonic() + 30
    while left_behind(folder) and time.monotonic() < end:
        time.sleep(0.2)
    assert left_behind(folder) == []

    done = florence(folder, "loop", "--rounds", "1", "--verbose")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on with loop" in done.stdout
    known = re.findall(r"(\d+) of 8 shards already annotated", done.stdout + done.stderr)
    assert sum(map(int, known)) == shards >= 3
    finished = {str(p.relative_to(folder)) for p in before} & {
        str(p.relative_to(folder)) for p in (folder / ".florence/store/claims").rglob("*.parquet")
    }
    again = [
        p
        for p in before
        if (folder / ".florence/store/coverage" / p.parent.name / p.name).exists() and p.stat().st_mtime_ns != before[p]
    ]
    assert len(again) <= len(before) - shards and finished
    assert data_hash(folder) == undisturbed

    whole_and_single(folder)
    versions = sorted_versions(folder)
    assert versions == ["1"], "the model is registered once"


def whole_and_single(folder: Path) -> None:
    """Assert that every table can be read and that no row is double."""
    ids: list[str] = []
    for path in sorted((folder / "data").rglob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        if "claims" in path.parts:
            ids += table["annotation_id"].to_pylist()
        if "labels" in path.parts:
            labels = table["annotation_id"].to_pylist()
            assert len(labels) == len(set(labels))
    assert ids and len(ids) == len(set(ids))
    assert not list(folder.rglob("*.part"))


def sorted_versions(folder: Path) -> list[str]:
    from flows.tracked import open_workspace

    return sorted(v.version for v in open_workspace(folder).registry.versions())
