"""Training: repeatable, resumable, from training images alone, and it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from florence import stages
from florence.config import Train, settings_from
from florence.errors import DataError, ModelError
from florence.model.checkpoint import build, weights_hash
from florence.records import ANNOTATIONS
from florence.store import Store
from florence.training import loop, read_corpus, train
from florence.training.batches import IGNORED, batch, indices, steps_of

SMALL = {"steps": 6, "images": 4, "tasks_per_image": 2, "threads": 1, "checkpoint_every": 2, "max_epochs": 1000, "warmup": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Store:
    """Thirty scenes whose labels are their truth."""
    store = Store(str(tmp_path_factory.mktemp("data")))
    stages.collect(settings_from({"sources": {"scenes": {"use": "scenes", "count": 30, "size": 64}}, "specialists": {}}), store)
    store.write_table("labels/round=0/labels.parquet", store.read_tables("truth", ANNOTATIONS))
    return store


def settings(**more):
    return settings_from({"sources": {}, "specialists": {}, "model": {"init": "nano-scratch", "image_size": 32}, "train": {**SMALL, **more}})


def test_the_same_settings_give_the_same_bytes(data, tmp_path):
    figures = [stages.train_model(settings(), data, tmp_path / name) for name in ("a", "b")]
    assert figures[0] == figures[1]
    for name in ("metrics/train.json", "plots/train.csv", "model/model.safetensors", "model/config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    other = stages.train_model(settings(seed=1), data, tmp_path / "c")
    assert other["loss"] != figures[0]["loss"]


def test_killed_and_started_again_it_ends_as_an_undisturbed_one(data, tmp_path, monkeypatch):
    stages.train_model(settings(), data, tmp_path / "whole")
    real, calls = loop._step_loss, []

    def failing(checkpoint, seen):
        calls.append(seen)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(checkpoint, seen)

    monkeypatch.setattr(loop, "_step_loss", failing)
    with pytest.raises(KeyboardInterrupt):
        stages.train_model(settings(), data, tmp_path / "broken")
    assert not (tmp_path / "broken" / "model").exists()
    monkeypatch.setattr(loop, "_step_loss", real)
    steps = []
    stages.train_model(settings(), data, tmp_path / "broken", progress=lambda what, done, of: steps.append(done) if what == "train" else None)
    assert steps == [5, 6], "the four steps up to the last checkpoint are not done again"
    assert weights_hash(tmp_path / "whole/model") == weights_hash(tmp_path / "broken/model")
    assert (tmp_path / "whole/plots/train.csv").read_bytes() == (tmp_path / "broken/plots/train.csv").read_bytes()
    assert not list((tmp_path / "broken/.florence/checkpoints").iterdir()), "a finished training leaves nothing to start from"


def test_a_checkpoint_cut_in_two_is_not_read(data, tmp_path):
    checkpoint = build("nano", image_size=32)
    corpus = read_corpus(checkpoint, Train(**SMALL), data)
    folder = tmp_path / "checkpoints"
    (folder / "key").mkdir(parents=True)
    (folder / "key" / "training.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0half")
    assert train(checkpoint, corpus, Train(**SMALL), folder, "key").resumed == 0


def test_only_training_images_are_learnt_from(data):
    corpus = read_corpus(build("nano", image_size=32), Train(**SMALL), data)
    splits = {r["image_id"]: r["split"] for r in stages.images_table(data).to_pylist()}
    assert {splits[r.image_id] for r in corpus.records} == {"train"}
    assert len(corpus.records) == list(splits.values()).count("train")


def test_batches_are_a_function_of_the_step_and_cover_every_image(data):
    chosen = Train(**SMALL)
    corpora = [read_corpus(build("nano", image_size=32), chosen, data) for _ in range(2)]
    n = len(corpora[0].records)
    a, b = (batch(c, chosen, 3, 1, 2) for c in corpora)
    assert a.tasks == b.tasks and np.array_equal(a.prompts, b.prompts) and np.array_equal(a.squares, b.squares)
    seen = np.concatenate([indices(chosen, n, step) for step in range(n)])[: 4 * n]
    assert np.array_equal(np.bincount(seen[: n * (len(seen) // n)], minlength=n), np.full(n, len(seen) // n)), "each image once an epoch"
    for group in a.groups:
        labels = np.where(group.labels == IGNORED, 1, group.labels)
        assert np.array_equal(group.inputs[:, 1:], labels[:, :-1]) and (group.inputs[:, 0] == 2).all()
    assert sorted(np.concatenate([g.rows for g in a.groups])) == list(range(len(a.tasks)))


def test_long_targets_are_shortened_by_whole_regions_and_counted(data):
    checkpoint = build("nano", image_size=32)
    corpus = read_corpus(checkpoint, Train(**{**SMALL, "max_target": 14}), data)
    for index in range(len(corpus.records)):
        for name, examples in corpus.examples(index).items():
            for one in examples:
                assert len(one.target) <= 14 and one.target[-1] == checkpoint.lexicon.eos, name
    assert corpus.counts["shortened"] > 0 and corpus.counts["too_long"] > 0


def test_it_learns_what_it_is_shown(data):
    """Six images by heart: the loss falls far below that of guessing."""
    torch.manual_seed(0)
    chosen = Train(**{**SMALL, "steps": 120, "images": 6, "lr": 2e-3, "warmup": 10, "checkpoint_every": 1000, "task_weights": {"<REGION_TO_CATEGORY>": 1.0}})
    checkpoint = build("nano", image_size=64)
    corpus = read_corpus(checkpoint, chosen, data)
    corpus.records, corpus.squares = corpus.records[:6], corpus.squares[:6]
    curve = train(checkpoint, corpus, chosen, Path("/nonexistent"), "none").curve
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]


def test_a_loss_that_is_no_number_stops_before_the_weights_change(data, tmp_path):
    checkpoint = build("nano", image_size=32)
    corpus = read_corpus(checkpoint, Train(**SMALL), data)
    with torch.no_grad():
        checkpoint.model.model.multi_modal_projector.image_proj_norm.weight[0] = float("nan")
    before = checkpoint.model.get_input_embeddings().weight.clone()
    with pytest.raises(ModelError, match=corpus.records[int(indices(Train(**SMALL), len(corpus.records), 0)[0])].image_id[:12]):
        train(checkpoint, corpus, Train(**SMALL), tmp_path, "key")
    assert torch.equal(before, checkpoint.model.get_input_embeddings().weight)


def test_few_images_mean_few_steps():
    assert steps_of(Train(steps=1000, images=24, max_epochs=30), 30) == 38
    assert steps_of(Train(steps=1000, images=24, max_epochs=30), 100_000) == 1000


def test_without_labels_it_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="dvc pull"):
        read_corpus(build("nano", image_size=32), Train(**SMALL), Store(str(tmp_path)))


def test_figures_say_what_was_left_out(data, tmp_path):
    stages.train_model(settings(max_target=14), data, tmp_path)
    figures = json.loads((tmp_path / "metrics/train.json").read_text())
    assert figures["left_out"]["too_long"] > 0 and figures["steps"] == 6
