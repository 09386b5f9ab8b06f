"""The loop: its decisions, and one tiny loop from end to end with every real part."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
from pathlib import Path

import fake_annotators
import pytest
from flow_workspaces import florence, params, write_params
from workspaces import workspace_of

from florence.config import settings_from
from florence.errors import DataError, FlorenceError, UnavailableError
from florence.report.facts import LoopFacts
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators
from florence.workspace.collect import collect_images
from florence.workspace.layout import list_shards
from flows.init import create_workspace
from flows.plan import describe_plan, is_idle, plan_loop
from flows.state import LoopState, WorkspaceLockedError, lock_workspace, read_state, write_state
from flows.tracked import open_workspace

# ---------------------------------------------------------------- what there is to do


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    """Return a workspace whose images are collected and annotated, without git and DVC; tests change its state."""
    folder = tmp_path_factory.mktemp("annotated")
    write_params(folder)
    settings, store = settings_from(params()), Store(str(folder / ".florence/store"))
    collect_images(workspace_of(settings, store))
    for shard in list_shards(store):
        annotate_shard(workspace_of(settings, store), list_annotators(settings), shard)
    return folder


def finished(folder: Path, **more) -> LoopState:
    """Return the state after a loop of two rounds, written."""
    from flows.plan import hash_images, hash_settings

    opened = open_workspace(folder)
    state = LoopState(
        "a-loop", 0, 2, 2, accepted=1, images=hash_images(opened.store), settings=hash_settings(opened), finished=True
    )
    state = dataclasses.replace(state, **more)
    write_state(folder, state)
    return state


def decided(folder: Path, state: LoopState | None, rounds: int | None = None):
    from flows.loop.start import choose_state

    return choose_state(open_workspace(folder), state, rounds)


def test_a_first_loop_begins_at_round_0(annotated: Path):
    state, why = decided(annotated, None)
    assert state is not None and (state.first_round, state.wanted, state.done, state.student) == (0, 2, 0, None)
    assert why == "a new loop"


def test_nothing_new_is_nothing_to_do(annotated: Path):
    assert decided(annotated, finished(annotated)) == (None, "")
    assert is_idle(open_workspace(annotated), None)
    assert "nothing to do" in describe_plan(plan_loop(open_workspace(annotated), None))


def test_a_loop_that_was_broken_off_goes_on(annotated: Path):
    state, why = decided(annotated, finished(annotated, done=1, finished=False))
    assert state is not None and (state.loop_id, state.round, state.wanted) == ("a-loop", 1, 2)
    assert "going on" in why and not is_idle(open_workspace(annotated), None)


@pytest.mark.parametrize(
    ("rounds", "rejected", "wanted"),
    [(3, "", 3), (2, "", None), (1, "", None), (3, "not better", None), (None, "", None)],
)
def test_more_rounds_are_added_unless_the_last_was_rejected(
    annotated: Path, rounds: int | None, rejected: str, wanted: int | None
):
    state, _ = decided(annotated, finished(annotated, rejected=rejected), rounds)
    assert (state.wanted if state else None) == wanted
    assert is_idle(open_workspace(annotated), rounds) == (wanted is None)


@pytest.mark.parametrize(
    ("change", "named"), [({"images": "other"}, "new images"), ({"settings": {}}, "changed settings")]
)
def test_a_new_loop_is_numbered_on(annotated: Path, change: dict, named: str):
    state, why = decided(annotated, finished(annotated, **change))
    assert state is not None and (state.first_round, state.done, state.wanted, state.accepted) == (2, 0, 2, 1)
    assert state.loop_id != "a-loop" and named in why and not is_idle(open_workspace(annotated), None)


def test_a_new_image_is_noticed_without_being_collected(annotated: Path, tmp_path: Path):
    finished(annotated)
    opened = open_workspace(annotated, {"sources": {"scenes": {"count": 25}}})
    before = opened.store.names("images")
    assert not is_idle(opened, None) and plan_loop(opened, None).new == 1
    assert opened.store.names("images") == before


def test_a_new_version_of_an_annotator_is_work(annotated: Path):
    finished(annotated)
    opened = open_workspace(annotated, {"annotators": {"careful": {"seed": 1}}})
    assert not is_idle(opened, None) and plan_loop(opened, None).missing == {"careful": 24}


def test_an_annotator_that_fails_as_before_is_no_change(annotated: Path, tmp_path: Path, prefect):
    from flows.loop.start import find_changes

    folder = tmp_path / "w"
    shutil.copytree(annotated, folder)
    state = finished(folder)
    write_params(
        folder,
        annotators={
            "late": fake_annotators.annotator_section(required=False),
            "reader": fake_annotators.annotator_section(needs=["claims"], depends_on=["careful"]),
        },
    )
    with fake_annotators.fake_annotator_registered():
        opened = open_workspace(folder)
        fake_annotators.BEFORE["late"] = down
        assert plan_loop(opened, None).missing == {"late": 24, "reader": 24}
        assert find_changes(opened, state) == ["new claims of late, reader"]
        assert plan_loop(opened, None).missing == {"late": 24} and not is_idle(opened, None)
        assert find_changes(opened, state) == []
        fake_annotators.BEFORE.clear()
        assert find_changes(opened, state) == ["new claims of late"] and plan_loop(opened, None).missing == {}


def down(self, batch):
    raise UnavailableError("the service is down")


def test_partial_files_of_a_killed_run_are_removed(annotated: Path):
    from flows.loop.start import remove_partial_files

    opened = open_workspace(annotated)
    left = [
        Path(opened.store.root, "images/.scenes-00000.parquet.0.part"),
        Path(opened.data.root, "labels/.labels.parquet.0.part"),
    ]
    whole = opened.store.names("images")
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    remove_partial_files(opened)
    assert not any(path.exists() for path in left) and opened.store.names("images") == whole


# ---------------------------------------------------------------- lock and state


def test_a_second_run_is_refused_and_the_lock_is_freed(annotated: Path):
    with lock_workspace(annotated):
        output = florence(annotated, "collect")
        assert output.returncode == 1 and f"process {os.getpid()}" in output.stderr
        with pytest.raises(WorkspaceLockedError):
            with lock_workspace(annotated):
                pass
    with lock_workspace(annotated):
        pass


def test_a_state_that_is_none_is_refused(tmp_path: Path):
    assert read_state(tmp_path) is None
    Store(str(tmp_path / ".florence")).write_json("loop.json", {"loop": 1})
    with pytest.raises(FlorenceError, match="not the state of a loop"):
        read_state(tmp_path)


# ---------------------------------------------------------------- one tiny loop


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, prefect) -> Path:
    """Return a workspace after a loop of one round."""
    from flows.refine import refine

    folder, before = tmp_path_factory.mktemp("loop") / "w", Path.cwd()
    create_workspace(folder)
    write_params(folder)
    try:
        output = refine(str(folder), 1)
    finally:
        os.chdir(before)
    assert "1 rounds, champion version 1" in output
    return folder


def test_the_loop_leaves_a_snapshot_a_model_and_a_champion(workspace: Path):
    opened = open_workspace(workspace)
    snapshot = opened.data.read_json("snapshot.json")
    assert (
        snapshot["round"] == 0
        and snapshot["counts"]["images"] == 24
        and set(snapshot["annotators"]) == {"careful", "hasty", "crude"}
    )
    champion = opened.registry.champion()
    assert (
        champion is not None
        and champion.tags["dvc_hash"] == opened.snapshots.data_hash()
        and champion.tags["snapshot"] == snapshot["id"]
    )
    run = opened.tracker.store.client.get_run(champion.run_id)
    assert run.info.status == "FINISHED" and run.inputs.dataset_inputs[0].dataset.name == "FLD"
    parent = opened.tracker.store.client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED" and parent.data.params["train.steps"] == "3"
    assert {"loss"} <= {key.split("/")[-1] for key in run.data.metrics}


def test_the_facts_describe_the_round(workspace: Path):
    facts = LoopFacts.from_json((workspace / "build/loop.json").read_bytes())
    (round,) = facts.rounds
    state = read_state(workspace)
    assert state is not None and facts.loop_id == state.loop_id
    assert (round.round, round.decision, round.model_version, round.dvc_hash) == (
        0,
        "accepted",
        "1",
        open_workspace(workspace).snapshots.data_hash(),
    )
    assert {
        "collect",
        "annotate",
        "fuse",
        "validate",
        "publish",
        "snapshot",
        "dvc train",
        "dvc evaluate",
        "register",
    } <= set(round.seconds)
    assert all(seconds >= 0 for seconds in round.seconds.values())
    assert (workspace / "build/report/index.html").stat().st_size > 1000


def test_the_state_holds_what_the_next_round_needs(workspace: Path):
    state = read_state(workspace)
    assert state is not None and state.finished and (state.accepted, state.champion) == (0, "1")
    assert (Path(state.student or "") / "model.safetensors").read_bytes() == (
        workspace / "model/model.safetensors"
    ).read_bytes()
    assert Path(state.scores or "").read_bytes() == (workspace / "scores/scores.parquet").read_bytes()


def test_prefect_has_the_runs_and_their_artifacts(workspace: Path):
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort, TaskRunSort

    async def look():
        async with get_client() as client:
            runs = await client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=200)
            artifacts = await client.read_artifacts(
                artifact_filter=ArtifactFilter(),
                flow_run_filter=FlowRunFilter(),
                task_run_filter=TaskRunFilter(),
                sort=ArtifactSort.CREATED_DESC,
                limit=200,
            )
            return runs, artifacts, await client.read_task_runs(sort=TaskRunSort.END_TIME_DESC, limit=200)

    runs, artifacts, tasks = asyncio.run(look())
    assert {"Completed"} == {r.state_name for r in runs if r.name and r.parameters.get("root") == str(workspace)}
    assert {"florence-round", "florence-report"} <= {a.key for a in artifacts}
    assert {"collect", "fuse", "validate", "publish", "snapshot", "dvc repro"} <= {t.name.split("-")[0] for t in tasks}


def test_started_again_it_does_nothing(workspace: Path):
    files = {p: p.stat().st_mtime_ns for p in workspace.rglob("*") if p.is_file() and ".git" not in p.parts}
    output = florence(workspace, "loop")
    assert output.returncode == 0, output.stderr
    assert "nothing new: 24 images" in output.stdout and "champion version 1" in output.stdout
    changed = {
        p.name
        for p in workspace.rglob("*")
        if p.is_file() and ".git" not in p.parts and files.get(p) != p.stat().st_mtime_ns
    }
    assert changed <= {"lock", "mlflow.lock", "mlflow.db", "code.json"}, changed


def test_no_images_is_an_error(tmp_path: Path, prefect, monkeypatch):
    from flows.refine import refine

    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    values = params()
    (tmp_path / "photos").mkdir()
    values["sources"] = {"photos": {"use": "folder", "uri": "photos"}}
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    with pytest.raises(DataError, match="photos"):
        refine(str(tmp_path), 1)
