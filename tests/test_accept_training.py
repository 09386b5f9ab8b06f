"""Gain of training on scenes of names that the weights in the package were not trained on.

Questions are answered from the image, and two stages of resolution learn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from workspaces import workspace_of

from florence.config import Settings, settings_from
from florence.records import ANNOTATIONS, TASKS, table_annotations, table_images
from florence.store import Store
from florence.workspace.collect import collect_images
from florence.workspace.evaluate import evaluate_model
from florence.workspace.train import train_model

pytestmark = [pytest.mark.accept, pytest.mark.timeout(3600)]


def workspace(root: Path, count: int, train: dict, **more) -> tuple[Settings, Store]:
    """Write scenes with questions, labelled by their truth, below ``root``/data; return settings to train on them.

    Training is at 96 pixels, from the weights in the package.
    """
    weights = {**dict.fromkeys(TASKS, 0.0), **train.pop("task_weights")}
    settings = settings_from(
        {
            "sources": {"scenes": {"use": "scenes", "count": count, "questions": True}},
            "annotators": {},
            "split": {"held_out": 0.1, "gold": 0.0},
            "train": {"task_weights": weights, "tasks_per_image": 4, **train},
            **more,
        }
    )
    data = Store(str(root / "data"))
    collect_images(workspace_of(settings, data))
    data.write_table("labels/round-00000.parquet", data.read_tables("truth", ANNOTATIONS))
    return settings, data


def trained(settings: Settings, data: Store, root: Path) -> dict:
    """Return the scores of a training."""
    train_model(workspace_of(settings, data=data, root=root))
    evaluate_model(workspace_of(settings, data=data, root=root))
    return Store(str(root)).read_json("metrics/scores.json")


def prior(data: Store) -> float:
    """Return the share of held-out questions that are right without the image, by the most frequent answer to each."""
    held_out = {
        record.image_id
        for name in data.names("images", ".parquet")
        for record, _ in table_images(data.read_table(name))
        if record.split == "held_out"
    }
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    questions: list[tuple[str, str]] = []
    for row in table_annotations(data.read_tables("truth", ANNOTATIONS)):
        if row.task == "<VQA>":
            if row.image_id in held_out:
                questions.append((row.text, row.regions[0].label))
            else:
                answers[row.text][row.regions[0].label] += 1
    everywhere = Counter(answer for found in answers.values() for answer in found.elements())
    is_right = [(answers.get(question) or everywhere).most_common(1)[0][0] == answer for question, answer in questions]
    return sum(is_right) / len(is_right)


def test_questions_are_answered_better_than_without_looking(tmp_path: Path):
    evaluate = {"tasks": ["<VQA>", "<CLASSIFICATION>"], "shuffled_image_tasks": ["<VQA>"], "max_examples": 10}
    settings, data = workspace(
        tmp_path,
        4000,
        {"steps": 500, "task_weights": {"<VQA>": 3, "<CLASSIFICATION>": 1}},
        evaluate=evaluate,
        promotion={"primary_task": "<VQA>"},
    )
    found = trained(settings, data, tmp_path)["<VQA>"]["truth"]
    print(f"<VQA> {found}; without the image {prior(data):.3f}")
    assert found["low"] > prior(data) and found["low"] > found["shuffled"] + 0.05 and found["invalid"] == 0


def test_a_training_in_two_stages_of_resolution(tmp_path: Path):
    weights = {"<OD>": 3, "<REGION_TO_CATEGORY>": 2}
    evaluate = {"tasks": list(weights), "shuffled_image_tasks": list(weights)}
    stages_of = [{"image_size": 64, "share": 0.6}, {"image_size": 96, "share": 0.4}]
    settings, data = workspace(
        tmp_path, 2000, {"steps": 200, "resolutions": stages_of, "task_weights": weights}, evaluate=evaluate
    )
    found = trained(settings, data, tmp_path)
    curve = Store(str(tmp_path)).read_json("metrics/train.json")
    print({task: found[task]["truth"] for task in weights}, curve)
    for task in weights:
        assert found[task]["truth"]["low"] > found[task]["truth"]["shuffled"], task
    assert found["<OD>"]["truth"]["value"] > 0.3
