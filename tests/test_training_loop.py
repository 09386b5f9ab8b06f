"""Training: repeatable, resumable, from training images alone, and it learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from trainings import SMALL, scenes, settings, small
from workspaces import workspace_of

from florence.config import TrainSettings
from florence.errors import DataError, ModelError
from florence.model.checkpoint import build, load
from florence.model.generate import Query, predict
from florence.records import IMAGES
from florence.store import Store
from florence.training import loop, read_dataset, train
from florence.training.batches import BatchLoader, load_batch
from florence.training.checkpoint import TrainingState, resume, save_checkpoint
from florence.training.optimiser import make_optimiser
from florence.training.sample_order import count_steps
from florence.workspace.layout import read_images
from florence.workspace.train import train_model


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Store:
    return scenes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """Return an undisturbed training."""
    root = tmp_path_factory.mktemp("whole")
    train_model(workspace_of(settings(), data=data, root=root))
    return root


def same(a: Path, b: Path) -> None:
    for name in ("metrics/train.json", "plots/train.csv", "model/model.safetensors", "model/config.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def test_the_same_settings_give_the_same_bytes(data, whole, tmp_path):
    train_model(workspace_of(settings(), data=data, root=tmp_path / "again"), log=lambda step, values: None)
    same(whole, tmp_path / "again")
    other = train_model(workspace_of(settings(seed=1), data=data, root=tmp_path / "other"))
    assert other["loss"] != json.loads((whole / "metrics/train.json").read_text())["loss"]


def test_killed_and_started_again_it_ends_as_an_undisturbed_one(data, whole, tmp_path, monkeypatch):
    real, calls = loop._accumulate_gradients, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(loop, "_accumulate_gradients", failing)
    with pytest.raises(KeyboardInterrupt):
        train_model(workspace_of(settings(), data=data, root=tmp_path))
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr(loop, "_accumulate_gradients", real)
    steps = []
    train_model(
        workspace_of(settings(), data=data, root=tmp_path),
        progress=lambda what, done, of: steps.append(done) if what == "train" else None,
    )
    assert steps == [5, 6], "the four steps up to the last checkpoint are not done again"
    same(whole, tmp_path)
    assert not list((tmp_path / ".florence/checkpoints").iterdir()), "a finished training leaves nothing to start from"


def test_a_checkpoint_cut_in_two_is_not_read(data, tmp_path):
    checkpoint = build("nano", image_size=32)
    (tmp_path / "key").mkdir(parents=True)
    (tmp_path / "key" / "training.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0half")
    assert (
        train(checkpoint, read_dataset(checkpoint, small(steps=1), data), small(steps=1), tmp_path, "key").resumed == 0
    )


def _change_state(file: Path, change) -> None:
    with safe_open(file, framework="pt") as opened:
        metadata, tensors = dict(opened.metadata()), {name: opened.get_tensor(name) for name in opened.keys()}
    change(tensors, metadata)
    save_file(tensors, file, metadata=metadata)


WEIGHT = "weight.model.multi_modal_projector.image_proj_norm.weight"
MOMENT = WEIGHT.replace("weight", "exp_avg", 1)
DAMAGES = {
    "no weight": lambda tensors, metadata: tensors.pop(WEIGHT),
    "no moment": lambda tensors, metadata: tensors.pop(MOMENT),
    "no buffer": lambda tensors, metadata: tensors.pop(next(n for n in tensors if n.startswith("buffer."))),
    "another shape": lambda tensors, metadata: tensors.update({WEIGHT: tensors[WEIGHT][:-1].clone()}),
    "a moment of another shape": lambda tensors, metadata: tensors.update({MOMENT: tensors[MOMENT][:-1].clone()}),
    "NaN": lambda tensors, metadata: tensors.update({WEIGHT: tensors[WEIGHT] * torch.nan}),
    "no state": lambda tensors, metadata: metadata.pop("state"),
    "no scaler": lambda tensors, metadata: metadata.pop("scaler"),
    "a state of another kind": lambda tensors, metadata: metadata.update(state="[1]"),
    "a state without a step": lambda tensors, metadata: metadata.update(state='{"recent": [], "curve": []}'),
    "losses of another kind": lambda tensors, metadata: metadata.update(
        state='{"recent": [[1]], "step": 1, "curve": [], "left_out": {}}'
    ),
}


@pytest.fixture(scope="module")
def trained():
    """A model after a step, and its optimiser."""
    model = build("nano", image_size=32).model
    optimiser = make_optimiser(model, small())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimiser.step()
    return model, optimiser


@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_a_damaged_checkpoint_changes_nothing_and_the_training_starts_anew(damage, trained, tmp_path, caplog):
    model, optimiser = trained
    save_checkpoint(tmp_path, "key", TrainingState(3, left_out={"few": 1}), model, optimiser)
    file = tmp_path / "key/training.safetensors"
    if damage:
        _change_state(file, DAMAGES[damage])
    fresh = build("nano", image_size=32, seed=1).model
    own = make_optimiser(fresh, small())
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    state = resume(tmp_path, "key", fresh, own)
    if damage is None:
        assert state == TrainingState(3, left_out={"few": 1}) and len(own.state) == len(optimiser.state)
        assert all(torch.equal(t, fresh.state_dict()[n]) for n, t in model.state_dict().items())
        return
    assert state == TrainingState() and not own.state and not file.exists() and "starts anew" in caplog.text
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in before.items())


def test_only_training_images_with_labels_are_used(data, tmp_path):
    checkpoint = build("nano", image_size=32)
    splits = {r["image_id"]: r["split"] for r in read_images(data).to_pylist()}
    chosen = small(batch_size=1000)
    ids = load_batch(read_dataset(checkpoint, chosen, data), chosen, 0).image_ids
    assert sorted(ids) == sorted(image for image, split in splits.items() if split == "train")
    shutil.copytree(data.root, tmp_path / "data")
    bare = Store(str(tmp_path / "data"))
    labels = bare.read_table("labels/round-00000.parquet")
    kept = [
        image != ids[0] and (image != ids[1] or annotation_type != "<OD>")
        for image, annotation_type in zip(labels["image_id"].to_pylist(), labels["task"].to_pylist(), strict=True)
    ]
    bare.write_table(
        "labels/round-00000.parquet",
        labels.set_column(labels.schema.get_field_index("kept"), "kept", pa.array(kept)),
    )
    assert len(read_dataset(checkpoint, chosen, bare)) == len(ids) - 1, "all labels of one image are dropped"
    only = small(batch_size=1000, task_weights={**dict.fromkeys(chosen.drawn, 0.0), "<OD>": 1.0})
    assert set(load_batch(read_dataset(checkpoint, only, bare), only, 0).image_ids) == set(ids[2:]), (
        "of another one, labels of trained tasks"
    )


def test_shards_from_before_images_had_a_hash_are_read(data, tmp_path):
    shutil.copytree(data.root, tmp_path / "data")
    older, checkpoint = Store(str(tmp_path / "data")), build("nano", image_size=32)
    names = older.names("images", ".parquet")
    assert len(names) > 1
    older.write_table(names[0], older.read_table(names[0]).drop_columns(["phash"]))
    now, before = (
        load_batch(read_dataset(checkpoint, small(), store), small(), 1).image_ids for store in (data, older)
    )
    assert now == before


def test_an_image_that_cannot_be_decoded_changes_no_other_position(data, whole, tmp_path):
    shutil.copytree(data.root, tmp_path / "data")
    broken = Store(str(tmp_path / "data"))
    checkpoint = build("nano", image_size=32)
    before = BatchLoader(read_dataset(checkpoint, small(), data), small())
    lost = before.load_step(1)[0].image_ids[1]
    for name in broken.names("images", ".parquet"):
        rows = broken.read_table(name).to_pylist()
        broken.write_table(
            name,
            pa.Table.from_pylist(
                [{**row, "bytes": row["bytes"][:200] if row["image_id"] == lost else row["bytes"]} for row in rows],
                schema=IMAGES,
            ),
        )
    after = BatchLoader(read_dataset(checkpoint, small(), broken), small())
    for step in range(6):
        a, b = before.load_step(step)[0], after.load_step(step)[0]
        assert [image for image in a.image_ids if image != lost] == list(b.image_ids)
        tasks = [
            a.tasks[row]
            for row, image in enumerate(np.concatenate([group.images for group in a.prompts]))
            if a.image_ids[image] != lost
        ]
        assert sorted(tasks) == sorted(b.tasks)
    figures = train_model(workspace_of(settings(), data=broken, root=tmp_path))
    assert figures["left_out"]["unreadable"] == 1 == figures["left_out"]["unreadable_truncated"]
    assert figures["images"] == json.loads((whole / "metrics/train.json").read_text())["images"]


def test_long_targets_are_shortened_by_whole_regions_and_counted(data):
    checkpoint = build("nano", image_size=32)
    chosen = small(max_target=14)
    dataset = read_dataset(checkpoint, chosen, data)
    buffer = dataset.read_buffer(dataset.order.buffers(0)[0])
    counts: dict[str, int] = {}
    endless = 0
    for index in range(len(dataset)):
        image = buffer.read_image(index, 32)
        for name, count in image.left_out.items():
            counts[name] = counts.get(name, 0) + count
        for name, examples in image.examples.items():
            for one in examples:
                assert len(one.target) <= 14 and checkpoint.lexicon.eos not in one.target[:-1], name
                endless += one.target[-1] != checkpoint.lexicon.eos
    assert counts["shortened"] > 0 and counts["too_long"] > 0
    assert endless == counts["shortened"], "a model must not learn that an answer ends where its target was cut"


def test_a_model_answers_as_long_as_its_targets_were(data, tmp_path):
    train_model(workspace_of(settings(max_target=14, steps=1), data=data, root=tmp_path))
    trained = load(str(tmp_path / "model"))
    assert trained.max_tokens == 14 and build("nano", image_size=32).max_tokens == 160
    pixels = np.zeros((32, 32, 3), np.uint8)
    by_default, longer = (
        predict(trained, [pixels], [Query(0, "<MORE_DETAILED_CAPTION>", "")], **more)[0]
        for more in ({}, {"max_tokens": 40})
    )
    assert by_default.truncated and longer.text.startswith(by_default.text[:20])
    assert len(longer.text) > len(by_default.text)


def test_what_is_left_out_is_counted_once_for_each_image(data, tmp_path):
    figures = train_model(workspace_of(settings(max_target=14, steps=12), data=data, root=tmp_path))
    chosen = small(max_target=14)
    dataset = read_dataset(build("nano", image_size=32), chosen, data)
    buffer = dataset.read_buffer(dataset.order.buffers(0)[0])
    assert 12 * 4 > len(dataset), "the second epoch has begun"
    assert figures["left_out"]["too_long"] == sum(
        buffer.read_image(i, 32).left_out.get("too_long", 0) for i in range(len(dataset))
    )


def test_it_learns_images_by_heart(data):
    """The loss of learned images falls far below that of guessing."""
    chosen = small(
        steps=120,
        batch_size=6,
        lr=2e-3,
        warmup=10,
        save_steps=1000,
        data_fraction=0.3,
        task_weights={**dict.fromkeys(small().drawn, 0.0), "<REGION_TO_CATEGORY>": 1.0},
    )
    checkpoint = build("nano", image_size=64)
    curve = train(checkpoint, read_dataset(checkpoint, chosen, data), chosen, Path("/nonexistent"), "none").curve
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(data, tmp_path, where, monkeypatch):
    checkpoint = build("nano", image_size=32)
    dataset = read_dataset(checkpoint, small(), data)
    norm = checkpoint.model.model.multi_modal_projector.image_proj_norm.weight
    if where == "loss":
        with torch.no_grad():
            norm[0] = float("nan")
    else:
        norm.register_hook(lambda gradient: gradient / 0.0)
    before = checkpoint.model.get_input_embeddings().weight.clone()
    with pytest.raises(ModelError, match=f"the {where} of step 0") as raised:
        train(checkpoint, dataset, small(), tmp_path, "key")
    assert torch.equal(before, checkpoint.model.get_input_embeddings().weight)
    assert "key/failed-step.json" in str(raised.value)
    report = json.loads((tmp_path / "key/failed-step.json").read_text())
    first = BatchLoader(dataset, small()).load_step(0)[0]
    assert [row["image_id"] for row in report["images"]] == list(first.image_ids)
    assert {name for row in report["images"] for name in row["tasks"]} == set(first.tasks)


def test_what_is_logged_while_it_runs(data, tmp_path):
    points = []
    train_model(
        workspace_of(settings(steps=21), data=data, root=tmp_path),
        log=lambda step, values: points.append((step, values)),
    )
    assert [step for step, _ in points] == [20, 21]
    for _, values in points:
        assert (
            values["images_per_second"] > 0
            and values["pairs_per_second"] > values["images_per_second"]
            and 0 < values["peak_share"] < 1.5
        )
        assert any(name.startswith("loss/") for name in values)
    assert (
        "per_second" not in (tmp_path / "metrics/train.json").read_text() + (tmp_path / "plots/train.csv").read_text()
    )


def test_few_images_mean_few_steps():
    assert count_steps(TrainSettings(steps=1000, batch_size=24, max_epochs=30), 30) == 38
    assert count_steps(TrainSettings(steps=1000, batch_size=24, max_epochs=30), 100_000) == 1000


def test_without_labels_it_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="dvc pull"):
        read_dataset(build("nano", image_size=32), TrainSettings(**SMALL), Store(str(tmp_path)))
