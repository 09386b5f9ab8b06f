"""The lock of a workspace: every command that writes takes it; it says who is at work; a dead holder has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flow_workspaces import environment, write_params
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app
from flows.lock import HELD, WorkspaceLockedError, lock_environment, lock_for_flow, lock_workspace

READING = {
    "init": "makes a new workspace",
    "doctor": "",
    "schedule": "starts loops, each of which locks",
    "predict": "fetches models under a lock of their own",
    "export": "writes outside of the workspace",
    "review export": "writes outside of the workspace",
    "review people": "reads reviews",
    "lineage": "reads the registry, git and DVC",
    **dict.fromkeys(("models show", "models compare", "models log"), "reads the registry"),
}
"""Commands that a command at work keeps nobody from, and why."""
ARGUMENTS = {
    "review import": ["reviews.json"],
    "audit": ["--labels", "reviews.json"],
    "refuse": ["--reason", "it misses bicycles"],
}


def commands() -> dict[str, list[str]]:
    """Return every command: name → the words that run it."""
    found: dict[str, list[str]] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        if inner := getattr(command, "commands", None):
            found |= {f"{name} {one}": [name, one, *ARGUMENTS.get(f"{name} {one}", [])] for one in inner}
        else:
            found[name] = [name, *ARGUMENTS.get(name, [])]
    return found


WRITING = {**{name: words for name, words in commands().items() if name not in READING}}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch) -> Path:
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(HELD, raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "reviews.json").write_text("[]")
    return tmp_path


@pytest.mark.parametrize("name", [*WRITING, "validate --staging"])
def test_a_command_that_writes_is_refused_beside_another(workspace: Path, name: str):
    words = WRITING.get(name) or name.split()
    with lock_workspace(workspace, "florence loop"):
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, name
    assert f"`florence loop` is at work in {workspace} (process {os.getpid()}, since 20" in done.output
    assert "Traceback" not in done.output and not (workspace / "build").exists()


def test_the_commands_that_take_no_lock_are_known():
    assert set(READING) <= set(commands()) and {"train", "annotate", "promote", "report"} <= set(WRITING)


def test_a_stage_of_the_holder_passes_and_others_do_not(workspace: Path, monkeypatch):
    assert lock_environment(workspace) == {}
    with lock_workspace(workspace, "florence loop"):
        own = lock_environment(workspace)
        monkeypatch.setenv(HELD, own[HELD])
        with lock_workspace(workspace, "florence train"):
            pass
        monkeypatch.setenv(HELD, "another")
        with pytest.raises(WorkspaceLockedError, match="florence loop"), lock_workspace(workspace, "florence train"):
            pass
        monkeypatch.delenv(HELD)
        with pytest.raises(WorkspaceLockedError), lock_workspace(workspace, "florence train"):
            pass
    monkeypatch.setenv(HELD, own[HELD])  # of a holder that has ended: locked as by anybody
    with lock_workspace(workspace, "florence train"):
        monkeypatch.delenv(HELD)
        with pytest.raises(WorkspaceLockedError, match="florence train"), lock_workspace(workspace, "florence loop"):
            pass


def test_a_flow_works_under_the_lock_of_its_command_and_nobody_else_does(workspace: Path):
    with lock_for_flow(workspace, "florence loop"):
        with lock_workspace(workspace, "florence loop"):  # as the flow does
            pass
        own = lock_environment(workspace)
        assert os.environ[HELD] == own[HELD]
        done = subprocess.run([sys.executable, "-c", TAKER, str(workspace)], env=environment(**{HELD: "another"}))
        assert done.returncode == 3, "the flow's end has not freed it"
    assert HELD not in os.environ
    with lock_workspace(workspace, "florence train"):
        pass


TAKER = """
import sys
from pathlib import Path
from flows.lock import WorkspaceLockedError, lock_workspace
try:
    with lock_workspace(Path(sys.argv[1]), "florence train"):
        pass
except WorkspaceLockedError:
    sys.exit(3)
"""
HOLDER = """
import os, sys, time
from pathlib import Path
from flows.lock import lock_workspace
with lock_workspace(Path(sys.argv[1]), "florence loop"):
    if os.fork() == 0:  # as a worker of a data loader, which may live on for a while
        print("locked", flush=True)  # by the child: it has let go of its copy of the lock by now
        time.sleep(30)
        os._exit(0)
    time.sleep(30)
"""


def test_the_lock_of_a_killed_process_is_taken_over(workspace: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workspace)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(WorkspaceLockedError, match=f"process {holder.pid}"):
            with lock_workspace(workspace, "florence train"):
                pass
        holder.kill()
        holder.wait()
        with lock_workspace(workspace, "florence train"):
            pass
    finally:
        os.killpg(holder.pid, 9)
        holder.stdout.close()


def test_a_lock_file_that_says_nothing_still_locks(workspace: Path):
    import fcntl

    (workspace / ".florence").mkdir()
    for text in ("", "4711", '{"pid": 1}', "[1"):
        with (workspace / ".florence/lock").open("w") as file:
            file.write(text)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(WorkspaceLockedError, match="another command is at work"):
                with lock_workspace(workspace, "florence train"):
                    pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / ".florence").write_text("a file")
    with pytest.raises(Exception, match="cannot be written to .*florence train needs to"):
        with lock_workspace(tmp_path, "florence train"):
            pass
