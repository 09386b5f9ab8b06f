"""Promotion by approval in loops without a deployment: waiting, approved, refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_workspaces import write_params
from test_flows_loop import SETTINGS, inside
from typer.testing import CliRunner

from florence.report.facts import LoopFacts
from flows.cli import app
from flows.init import create_workspace
from flows.state import read_state
from flows.tracked import open_workspace


@pytest.fixture(scope="module", autouse=True)
def dead_receiver() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.adapters.webhook.PAUSES", ())
        patch.setenv("FLORENCE_WEBHOOK_URL", "http://127.0.0.1:9/hidden")
        patch.setenv("FLORENCE_WEBHOOK_SECRET", "a-secret")
        yield


@pytest.fixture(scope="module")
def one_that_waits(tmp_path_factory, prefect, dead_receiver) -> Path:
    """Return a workspace whose first model waits; the receiver of its events is dead."""
    from flows.refine import refine

    folder = tmp_path_factory.mktemp("waiting") / "w"
    create_workspace(folder)
    write_params(folder, **{**SETTINGS, "promotion": {"primary_task": "<OD>", "approval": "manual"}})
    with inside(folder):
        assert refine(str(folder), 2) == "version 1 waits for approval: florence approve"
    return folder


@pytest.fixture
def waiting(tmp_path: Path, one_that_waits: Path) -> Path:
    """Return a copy of it."""
    shutil.copytree(one_that_waits, tmp_path / "w", symlinks=True)
    return tmp_path / "w"


def run(folder: Path, *arguments: str) -> str:
    with inside(folder):
        os.chdir(folder)
        output = CliRunner().invoke(app, list(arguments))
    return output.output


def events(folder: Path) -> list[str]:
    files = sorted((folder / ".florence/outbox").iterdir())
    return [json.loads(file.read_bytes())["event"].removeprefix("florence.model.") for file in files]


def test_an_approved_model_is_the_champion_and_the_next_round_follows(waiting: Path):
    from flows.refine import refine

    opened, state = open_workspace(waiting), read_state(waiting)
    assert state is not None and (state.waiting, state.done, state.finished) == ("1", 0, False)
    assert opened.registry.champion() is None and events(waiting) == ["waiting"]
    assert "version 1 waits for approval since" in run(waiting, "loop") and read_state(waiting) == state
    assert "version 1 waits for approval since" in run(waiting, "models")

    assert "is the champion" in run(waiting, "approve", "--reason", "looked at it")
    assert "approved already, by" in run(waiting, "approve", "1")
    champion, state = opened.registry.champion(), read_state(waiting)
    assert champion is not None and (champion.version, champion.tags["approval"]) == ("1", "approved")
    assert state is not None and (state.waiting, state.done, state.champion, state.accepted) == ("", 1, "1", 0)
    assert (Path(state.student or "") / "model.safetensors").is_file() and Path(state.scores or "").is_file()
    (move,) = opened.registry.moves()
    assert (move.action, move.after, move.reason) == ("approve", "1", "looked at it")
    (round,) = LoopFacts.from_json((waiting / "build/loop.json").read_bytes()).rounds
    assert round.approval is not None and (round.approval.status, round.approval.who) == ("approved", move.who)
    assert sorted(events(waiting)) == ["approved", "promoted", "waiting"]

    with inside(waiting):
        refine(str(waiting))
    after = read_state(waiting)
    assert after is not None and after.loop_id == state.loop_id and (after.done, after.waiting) in ((1, "2"), (2, ""))
    assert len(opened.registry.versions()) == 2


def test_a_refused_model_counts_as_rejected(waiting: Path):
    opened = open_workspace(waiting)
    assert "was refused" in run(waiting, "refuse", "--reason", "misses bicycles")
    state = read_state(waiting)
    assert state is not None and state.finished and "misses bicycles" in state.rejected and state.waiting == ""
    assert opened.registry.champion() is None and opened.registry.find("1").tags["decision"] == "rejected"
    (round,) = LoopFacts.from_json((waiting / "build/loop.json").read_bytes()).rounds
    assert round.decision == "rejected" and round.labels_kept is not None
    assert "--force --reason" in run(waiting, "promote", "1")
    assert sorted(events(waiting)) == ["refused", "waiting"]
