"""A loop of two rounds over a hundred scenes; the first round's model annotates in the second."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from flow_workspaces import CONSENSUS, write_params

from flows.init import create_workspace

SCENES = 100
SETTINGS = {
    "sources": {"scenes": {"count": SCENES, "size": 64}},
    "annotators": {
        "careful": {**CONSENSUS, "missed": 0.1, "mislabelled": 0.1, "invented": 0.05},
        "hasty": {**CONSENSUS, "missed": 0.25},
        "crude": {**CONSENSUS, "missed": 0.35, "mislabelled": 0.25, "invented": 0.2},
    },
    "collect": {"shard": 50},
    "engine": {"student": {"tasks": ["<OD>"], "min_score": 0.0}},
    "train": {"steps": 30, "batch_size": 8, "tasks_per_image": 2, "save_steps": 100},
    "evaluate": {"max_images": 20},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, prefect) -> Path:
    """The workspace after the loop."""
    from flows.refine import refine

    folder, before = tmp_path_factory.mktemp("student") / "w", Path.cwd()
    create_workspace(folder)
    write_params(folder, **SETTINGS)
    try:
        refine(str(folder), 2)
    finally:
        os.chdir(before)
    return folder


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


def test_the_student_looks_at_every_image_of_the_second_round_alone(workspace: Path):
    coverage = rows(workspace, "coverage/student@*/*.parquet")
    assert len({row["image_id"] for row in coverage}) == len(coverage) == SCENES
    claims = rows(workspace, "claims/student@*/*.parquet")
    assert claims and {row["round"] for row in claims} == {1} and {row["task"] for row in claims} == {"<OD>"}
    others = rows(workspace, "claims/careful@*/*.parquet", "claims/hasty@*/*.parquet", "claims/crude@*/*.parquet")
    assert {row["round"] for row in others} == {0}


def test_labels_of_both_rounds_are_better_than_the_best_annotators_claims(workspace: Path):
    truth = objects(rows(workspace, "truth/*.parquet"))
    claims = [objects(rows(workspace, f"claims/{name}@*/*.parquet")) for name in ("careful", "hasty", "crude")]
    best = max(f1(found, truth) for found in claims)
    for number in (0, 1):
        labels = rows(workspace, f"labels/round={number}/labels.parquet")
        assert {row["annotator"] for row in labels} == {"consensus"}
        assert all(0 <= row["confidence"] <= 1 for row in objects(labels))
        assert all(row["kept"] == (row["reason"] == "") for row in labels)
        assert f1(objects(labels), truth) > best


def test_the_model_of_the_first_round_is_the_student(workspace: Path):
    facts = json.loads((workspace / "build/loop.json").read_text())
    first, second = facts["rounds"]
    assert (first["round"], first["decision"], second["round"]) == (0, "accepted", 1)
    assert second["parent"] == first["snapshot_id"] and second["decision"] in ("accepted", "rejected")
    assert {row["name"] for row in second["annotator_quality"]} >= {"student", "careful", "hasty", "crude"}
    assert any(row["task"] == "<OD>" and row["without_student"] is not None for row in second["churn"])


def test_images_that_score_models_are_never_trained_on(workspace: Path):
    images = pq.read_table(sorted((workspace / "data/images").glob("*.parquet")), columns=["image_id", "split"])
    held_out = images.filter(pc.not_equal(images["split"], "train"))
    trained = json.loads((workspace / "metrics/train.json").read_text())["images"]
    assert 0 < trained <= SCENES - len(held_out)


def test_asked_again_it_has_nothing_to_do(workspace: Path):
    from flows.refine import refine

    before = Path.cwd()
    try:
        assert "nothing" in refine(str(workspace)) or "rejected" in (workspace / ".florence/loop.json").read_text()
    finally:
        os.chdir(before)
