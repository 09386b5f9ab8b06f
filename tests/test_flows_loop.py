"""A loop over a hundred scenes from end to end: one round, then a second in which the first one's model annotates."""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from flow_workspaces import CONSENSUS, write_params
from typer.testing import CliRunner

from florence.report.facts import LoopFacts
from flows.cli import app
from flows.init import create_workspace
from flows.state import read_state
from flows.tracked import open_workspace

SCENES = 100
SETTINGS = {
    "sources": {"scenes": {"count": SCENES, "size": 64}},
    "annotators": {
        "careful": {**CONSENSUS, "missed": 0.1, "mislabelled": 0.1, "invented": 0.05},
        "hasty": {**CONSENSUS, "missed": 0.25},
        "crude": {**CONSENSUS, "missed": 0.35, "mislabelled": 0.25, "invented": 0.2},
    },
    "collect": {"shard": 50},
    "split": {"held_out": 0.2, "gold": 0.4},
    "engine": {"student": {"tasks": ["<OD>"], "min_score": 0.0}},
    "train": {"steps": 12, "batch_size": 8, "tasks_per_image": 2, "save_steps": 100},
    "evaluate": {"max_images": 10},
}


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Come back to the folder of before: a flow makes its workspace the current folder."""
    before = Path.cwd()
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, prefect) -> Path:
    """The workspace after one round. Tests of it stand before those of `second_round`, which goes on in it."""
    from flows.refine import refine

    folder = tmp_path_factory.mktemp("loop") / "w"
    create_workspace(folder)
    write_params(folder, **SETTINGS)
    with inside(folder):
        assert "1 rounds, champion version 1" in refine(str(folder), 1)
    return folder


@pytest.fixture(scope="module")
def second_round(workspace: Path) -> Path:
    """The workspace after another round of the same loop, with the first one's model as an annotator."""
    from flows.refine import refine

    with inside(workspace):
        assert ": 2 rounds, champion version" in refine(str(workspace), 2)
    return workspace


def rows(folder: Path, *names: str) -> list[dict]:
    """Return the rows of all tables of the working store that ``names`` match; it keeps rejected rounds too."""
    store = folder / ".florence/store"
    tables = [pq.read_table(path) for name in names for path in sorted(store.glob(name))]
    return [row for table in tables for row in table.to_pylist()]


def overlap(a: list[float], b: list[float]) -> float:
    """Return the intersection over union of two boxes."""
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def f1(found: list[dict], truth: list[dict]) -> float:
    """Return the F1 of objects at IoU 0.5 under their names, each object of the truth found once."""
    known = defaultdict(list)
    for row in truth:
        known[row["image_id"], row["text"]].append(row["regions"][0]["box"])
    objects, hits = sum(map(len, known.values())), 0
    for row in found:
        boxes = known[row["image_id"], row["text"]]
        best = max(boxes, key=lambda box: overlap(box, row["regions"][0]["box"]), default=None)
        if best is not None and overlap(best, row["regions"][0]["box"]) >= 0.5:
            boxes.remove(best)
            hits += 1
    return 2 * hits / (objects + len(found))


def objects(table: list[dict]) -> list[dict]:
    return [row for row in table if row["task"] == "<OD>" and row["kept"] and row["text"]]


# ---------------------------------------------------------------- one round


def test_the_loop_leaves_a_snapshot_a_model_and_a_champion(workspace: Path):
    opened = open_workspace(workspace)
    snapshot = opened.data.read_json("snapshot.json")
    assert (
        snapshot["round"] == 0
        and snapshot["counts"]["images"] == SCENES
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
    assert parent.info.status == "FINISHED" and parent.data.params["train.steps"] == "12"
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
    with inside(workspace):
        os.chdir(workspace)
        output = CliRunner().invoke(app, ["loop"])
    assert output.exit_code == 0, output.output
    assert f"nothing new: {SCENES} images" in output.stdout and "champion version 1" in output.stdout
    changed = {
        p.name
        for p in workspace.rglob("*")
        if p.is_file() and ".git" not in p.parts and files.get(p) != p.stat().st_mtime_ns
    }
    assert changed <= {"lock", "mlflow.lock", "mlflow.db", "code.json"}, changed


# ---------------------------------------------------------------- the second, with the student


def test_the_student_looks_at_every_image_of_the_second_round_alone(second_round: Path):
    coverage = rows(second_round, "coverage/student@*/*.parquet")
    assert len({row["image_id"] for row in coverage}) == len(coverage) == SCENES
    claims = rows(second_round, "claims/student@*/*.parquet")
    assert claims and {row["round"] for row in claims} == {1} and {row["task"] for row in claims} == {"<OD>"}
    others = rows(second_round, "claims/careful@*/*.parquet", "claims/hasty@*/*.parquet", "claims/crude@*/*.parquet")
    assert {row["round"] for row in others} == {0}


def test_labels_of_both_rounds_are_better_than_the_best_annotators_claims(second_round: Path):
    truth = objects(rows(second_round, "truth/*.parquet"))
    claims = [objects(rows(second_round, f"claims/{name}@*/*.parquet")) for name in ("careful", "hasty", "crude")]
    best = max(f1(found, truth) for found in claims)
    for number in (0, 1):
        labels = rows(second_round, f"labels/round-{number:05d}.parquet")
        assert {row["annotator"] for row in labels} == {"consensus"}
        assert all(0 <= row["confidence"] <= 1 for row in objects(labels))
        assert all(row["kept"] == (row["reason"] == "") for row in labels)
        assert f1(objects(labels), truth) > best


def test_the_model_of_the_first_round_is_the_student(second_round: Path):
    facts = json.loads((second_round / "build/loop.json").read_text())
    first, second = facts["rounds"]
    assert (first["round"], first["decision"], second["round"]) == (0, "accepted", 1)
    assert second["parent"] == first["snapshot_id"] and second["decision"] in ("accepted", "rejected")
    assert {row["name"] for row in second["annotator_quality"]} >= {"student", "careful", "hasty", "crude"}
    assert any(row["task"] == "<OD>" and row["without_student"] is not None for row in second["churn"])


def test_images_that_score_models_are_never_trained_on(second_round: Path):
    images = pq.read_table(sorted((second_round / "data/images").glob("*.parquet")), columns=["image_id", "split"])
    held_out = images.filter(pc.not_equal(images["split"], "train"))
    trained = json.loads((second_round / "metrics/train.json").read_text())["images"]
    assert 0 < trained <= SCENES - len(held_out)


def test_asked_again_it_has_nothing_to_do(second_round: Path):
    from flows.refine import refine

    with inside(second_round):
        assert refine(str(second_round)) == "nothing new"


def test_a_rejected_round_whose_labels_are_not_better_is_set_back(second_round: Path):
    (second,) = [r for r in json.loads((second_round / "build/loop.json").read_text())["rounds"] if r["round"] == 1]
    assert second["labels_kept"] is False and "not shown to be better than those of round 0" in second["labels_reason"]
    assert json.loads((second_round / "data/snapshot.json").read_text())["round"] == 0
    state = read_state(second_round)
    assert state is not None and (state.accepted, state.champion, state.attempt) == (0, "1", 2)


@pytest.fixture(scope="module")
def better_labels(second_round: Path) -> Path:
    """The workspace after a loop with an annotator that makes no mistakes: its labels are better, its model is not."""
    from flows.refine import refine

    expert = {**CONSENSUS, "missed": 0.0, "mislabelled": 0.0, "invented": 0.0, "shifted": 0.0}
    annotators = {**SETTINGS["annotators"], "expert": expert}
    write_params(second_round, **{**SETTINGS, "annotators": annotators, "train": {**SETTINGS["train"], "steps": 2}})
    with inside(second_round):
        assert "stopped by a round whose model was rejected" in refine(str(second_round), 1)
    return second_round


def test_better_labels_are_kept_though_their_model_was_rejected(better_labels: Path):
    (only,) = json.loads((better_labels / "build/loop.json").read_text())["rounds"]
    assert (only["round"], only["decision"], only["labels_kept"]) == (2, "rejected", True)
    assert "its labels are better than those of round 0 on gold images: <OD> f1 +" in only["labels_reason"]
    state = read_state(better_labels)
    assert state is not None and (state.accepted, state.champion, state.attempt, state.finished) == (2, "1", 3, True)
    assert state.student is not None and (Path(state.student) / "config.json").exists(), "the champion annotates"
    data = better_labels / "data"
    snapshot = json.loads((data / "snapshot.json").read_text())
    assert (snapshot["round"], snapshot["attempt"]) == (2, 2), "the second model that is compared with this champion"
    assert open_workspace(better_labels).registry.champion().version == "1"
    page = (better_labels / "build/report/index.html").read_text()
    assert "The labels are kept" in page and "How it was decided" in page


def test_better_labels_are_where_the_next_loop_goes_on(better_labels: Path):
    from flows.refine import refine

    with inside(better_labels):
        assert refine(str(better_labels)) == "nothing new"
    kept = sorted(path.name for path in (better_labels / ".florence/accepted").iterdir())
    assert kept == ["round=0", "round=2"]


def test_the_registry_is_listed_compared_and_logged(better_labels: Path):
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return done.output

    with inside(better_labels):
        os.chdir(better_labels)
        rows = json.loads(run("models", "--json"))
        assert [(row["version"], row["decision"], row["round"]) for row in rows] == [
            ("3", "rejected", "2"),
            ("2", "rejected", "1"),
            ("1", "accepted", "0"),
        ]
        assert rows[2]["aliases"] == ["champion"] and rows[0]["aliases"] == ["challenger"]
        assert "challenger" in run("models").splitlines()[1] and "champion" in run("models").splitlines()[3]
        shown = json.loads(run("models", "show", "champion", "--json"))
        assert (
            shown["version"] == "1" and shown["lineage"]["snapshot"] and shown["reason"].startswith("the first model")
        )
        assert [(s["task"], s["reference"], s["n"]) for s in shown["scores"]] == [("<OD>", "truth", 10)]
        assert "accepted: the first model" in run("models", "show") and "<OD> (truth)" in run("models", "show")
        compared = run("models", "compare", "1", "challenger")
        assert "version 3 would not be promoted over version 1" in compared and "30 images are needed" in compared
        (move,) = json.loads(run("models", "log", "--json"))
        assert (move["before"], move["after"], move["action"]) == (None, "1", "promote")
        assert move["reason"].startswith("the first model") and "promoted none → 1 by " in run("models", "log")
        for words, message in (
            (("promote",), "version 3 of 'florence' was rejected"),
            (("promote", "3", "--force"), "--force needs --reason TEXT"),
            (("models", "show", "9"), "has no version or alias '9'"),
        ):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 1 and message in done.output, words
        assert "version 3" in run("promote", "3", "--force", "--reason", "a trial")
        assert "it was 3" in run("rollback", "--reason", "the trial is over")
        assert "promoted 1 → 3" in run("models", "log") and ", although it was rejected: a trial" in run(
            "models", "log"
        )
