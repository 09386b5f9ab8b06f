"""The loop: what it decides to do, and what it refuses. tests/test_flows_loop.py runs one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import fake_annotators
import pytest
from flow_workspaces import CONSENSUS, florence, params, write_params
from workspaces import workspace_of

from florence.config import settings_from
from florence.errors import DataError, UnavailableError
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators
from florence.workspace.collect import collect_images
from florence.workspace.fuse import fuse_round
from florence.workspace.layout import list_shards
from florence.workspace.publish import publish_snapshot, restore_store
from flows.lock import WorkspaceLockedError, lock_workspace
from flows.plan import describe_plan, is_idle, plan_loop
from flows.state import LoopState, write_state
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


@pytest.fixture(scope="module")
def published(annotated: Path, tmp_path_factory) -> Path:
    """Return a clone of the workspace with its published snapshot pulled: all that is not in data/ is missing."""
    folder = tmp_path_factory.mktemp("published") / "w"
    shutil.copytree(annotated, folder)
    opened = open_workspace(folder)
    annotators = list_annotators(opened.settings)
    fuse_round(opened, annotators, 0)
    publish_snapshot(opened, annotators, 0)
    shutil.rmtree(folder / ".florence")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_in_a_clone_the_plan_is_made_from_the_snapshot_and_is_what_the_loop_does(published: Path):
    from flows.loop.start import choose_state, resume_state

    opened, before = open_workspace(published), contents(published)
    plan = plan_loop(opened, None)
    assert plan.new == 0 and plan.total == 24 and plan.missing == {} and plan.is_idle, "nothing is annotated anew"
    text = describe_plan(plan)
    assert "filled from data/, snapshot" in text and "of round 0" in text and "nothing to do" in text
    assert "images: 24 collected, 0 new" in text and "no loop has run here" in text
    assert contents(published) == before, "a plan writes nothing"

    state = resume_state(opened)
    assert state == plan.state and choose_state(opened, state, None) == (None, "")
    assert collect_images(opened).new == 0 and plan_loop(opened, None).restored == ""
    shutil.rmtree(published / ".florence")


def test_a_clone_without_its_data_says_so(tmp_path: Path):
    write_params(tmp_path)
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0.dir\n  path: data\n")
    plan = plan_loop(open_workspace(tmp_path), None)
    assert plan.new == 24 and plan.rounds == range(0, 2)
    assert describe_plan(plan).startswith(
        "data.dvc names a snapshot that is not here: a fresh one is started (`dvc pull`"
    )


def test_a_clone_with_new_images_and_settings_plans_those_alone(published: Path, tmp_path: Path):
    folder = tmp_path / "w"
    shutil.copytree(published, folder)
    write_params(folder, sources={"scenes": {"use": "scenes", "count": 26}}, annotators={"late": dict(CONSENSUS)})
    plan = plan_loop(open_workspace(folder), 1)
    assert (plan.new, plan.missing, plan.rounds) == (2, {"late": 24}, range(1, 2))


def test_a_restoration_that_is_killed_is_finished(published: Path, tmp_path: Path, monkeypatch):
    folder = tmp_path / "w"
    shutil.copytree(published, folder)
    opened, done, copy_in = open_workspace(folder), [], Store.copy_in
    whole = sum(1 for name in contents(folder) if name.startswith("data/images/"))

    def copy(self: Store, other: Store, name: str, **named: bool) -> None:
        if sum(one.startswith("images/") for one in done) == 2:
            raise KeyboardInterrupt
        done.append(name)
        copy_in(self, other, name, **named)

    monkeypatch.setattr(Store, "copy_in", copy)
    with pytest.raises(KeyboardInterrupt):
        restore_store(opened)
    monkeypatch.setattr(Store, "copy_in", copy_in)
    assert len(list_shards(opened.store)) == 2 < whole
    assert plan_loop(opened, None).new == 0 and "filled from data/" in describe_plan(plan_loop(opened, None))
    assert restore_store(opened) and len(list_shards(opened.store)) == whole and restore_store(opened) == 0


def finished(folder: Path, **more) -> LoopState:
    """Return the state after a loop of two rounds, written."""
    from flows.plan import hash_images, hash_settings

    opened = open_workspace(folder)
    state = LoopState(
        "a-loop", 0, 2, 2, accepted=1, images=hash_images(opened), settings=hash_settings(opened), finished=True
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
    with lock_workspace(annotated, "florence train"):
        output = florence(annotated, "collect")
        assert output.returncode == 1 and f"process {os.getpid()}" in output.stderr
        with pytest.raises(WorkspaceLockedError):
            with lock_workspace(annotated, "florence train"):
                pass
    with lock_workspace(annotated, "florence train"):
        pass


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
