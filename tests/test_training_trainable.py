"""The trained model: transformers' own loss, frozen parts, adapters, micro-batches, precisions, resolution stages."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import scenes, settings, small
from transformers import Florence2ForConditionalGeneration
from workspaces import workspace_of

from florence.config import TrainSettings
from florence.errors import SettingsError
from florence.model.checkpoint import Checkpoint, build, load
from florence.model.generate import Query, predict
from florence.store import Store
from florence.training import loop, read_dataset, train
from florence.training.batches import BatchLoader, TrainingBatch, load_batch
from florence.training.trainable import PARTS, make_trainable, part_of
from florence.workspace.train import train_model


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Store:
    torch.set_num_threads(1)
    return scenes(tmp_path_factory.mktemp("data"), 20)


PAD = 1


def nano(side: int = 32) -> Checkpoint:
    return build("nano", image_size=side, seed=1)


def train_nano(data: Store, tmp_path: Path, chosen: TrainSettings, side: int = 32) -> tuple[Checkpoint, tuple]:
    checkpoint = nano(side)
    return checkpoint, train(checkpoint, read_dataset(checkpoint, chosen, data), chosen, tmp_path, "key").curve


def examples(data: TrainingBatch) -> list[tuple[int, list[int], list[int]]]:
    """Return (image, prompt ids, target ids) of every row, from the packed arrays alone."""
    found: list[list] = [
        [int(image), [int(i) for i in ids if i != PAD], []]
        for group in data.prompts
        for image, ids in zip(group.images, group.input_ids, strict=True)
    ]
    for target in data.targets:
        for owner, label in zip(target.label_rows, target.labels, strict=True):
            found[owner][2].append(int(label))
    return [tuple(row) for row in found]


def test_the_loss_is_that_of_transformers_on_the_same_examples(data, tmp_path, monkeypatch):
    """Every row alone through Florence2ForConditionalGeneration(labels=…); a step's loss is the mean over all tokens of
    all its parts.
    """
    checkpoint, chosen = nano(), small(batch_size=6, tasks_per_image=4, gradient_accumulation_steps=2)
    dataset = read_dataset(checkpoint, chosen, data)
    parts = BatchLoader(dataset, chosen).load_step(0)
    reference = copy.deepcopy(checkpoint.model)
    assert (
        len(parts) == 2
        and parts[0].tokens != parts[1].tokens
        and all(len(part.prompts) > 1 and len(part.targets) > 1 for part in parts)
    )
    total = torch.zeros(())
    for part in parts:
        pixels = checkpoint.normalise(part.pixel_values)
        for image, prompt, target in examples(part):
            tokens = [reference.config.image_token_id] * (
                reference.get_image_features(pixels[:1]).pooler_output.shape[1]
            )
            theirs = reference(
                input_ids=torch.tensor([tokens + prompt]),
                pixel_values=pixels[image : image + 1],
                labels=torch.tensor([target]),
            )
            total = total + theirs.loss * len(target)
    loss = total / sum(part.tokens for part in parts)
    loss.backward()
    gradients = {}

    real = loop.BatchLoader.iterate_from
    monkeypatch.setattr(
        loop.BatchLoader, "iterate_from", lambda self, first: (pair for pair in real(self, first) if pair[0] == 0)
    )
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, closure=None: gradients.update(
            {n: p.grad.clone() for n, p in checkpoint.model.named_parameters()}
        ),
    )
    clip = small(batch_size=6, tasks_per_image=4, gradient_accumulation_steps=2, max_grad_norm=1e9, steps=1)
    curve = train(checkpoint, dataset, clip, tmp_path, "key").curve
    assert curve[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, parameter in reference.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=2e-5, rtol=1e-3), name


def test_micro_batches_come_to_the_same_step(data, tmp_path):
    curves = [
        train_nano(data, tmp_path / str(n), small(batch_size=8, gradient_accumulation_steps=n, steps=5))[1]
        for n in (1, 4)
    ]
    for a, b in zip(*curves, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_collating_loses_nothing(data):
    checkpoint, chosen = nano(), small(batch_size=12, tasks_per_image=5)
    dataset = read_dataset(checkpoint, chosen, data)
    packed = load_batch(dataset, chosen, 0)
    assert sorted(np.concatenate([g.rows for g in packed.targets])) == list(range(len(packed.tasks)))
    buffer = dataset.read_buffer(dataset.order.buffers(0)[0])
    known = {}
    for index in range(len(dataset)):
        image = buffer.read_image(index, 32)
        known[image.record.image_id] = {
            (name, tuple(e.prompt), tuple(e.target)) for name, found in image.examples.items() for e in found
        }
    for (image, prompt, target), name in zip(examples(packed), packed.tasks, strict=True):
        assert (name, tuple(prompt), tuple(target)) in known[packed.image_ids[image]]
    for target in packed.targets:
        flat = target.decoder_input_ids.reshape(-1)
        follows = np.setdiff1d(target.valid, np.arange(0, flat.size, target.decoder_input_ids.shape[1]))
        assert (
            np.array_equal(flat[follows], target.labels[np.searchsorted(target.valid, follows) - 1])
            and (target.decoder_input_ids[:, 0] == 2).all()
        )


def test_what_is_frozen_stays_bit_for_bit_and_the_rest_moves(data, tmp_path):
    before = nano().model.state_dict()
    for part in PARTS:
        checkpoint, _ = train_nano(data, tmp_path / part, small(freeze=(part,), steps=2))
        moved = {name: not torch.equal(before[name], value) for name, value in checkpoint.model.named_parameters()}
        assert not any(changed for name, changed in moved.items() if part_of(name) == part), part
        for other in set(PARTS) - {part}:
            assert any(changed for name, changed in moved.items() if part_of(name) == other), (part, other)
        assert all(p.requires_grad for p in checkpoint.model.parameters()), "nothing stays frozen afterwards"
    assert {part_of(name) for name in moved} == set(PARTS)
    with pytest.raises(SettingsError, match="nothing is left"):
        train_nano(data, tmp_path, small(freeze=tuple(PARTS)))


def test_adapters_alone_are_trained_and_merge_into_plain_weights(data, tmp_path):
    chosen = settings(lora={"rank": 4, "alpha": 64.0}, lr=0.02, steps=8)
    checkpoint = load("nano-scratch", image_size=32)
    before = {name: value.clone() for name, value in checkpoint.model.named_parameters()}
    pictures = [np.random.default_rng(n).integers(0, 255, (40, 40, 3), dtype=np.uint8) for n in range(2)]
    queries = [Query(image, name) for image in (0, 1) for name in ("<OD>", "<CAPTION>")]
    dataset = read_dataset(checkpoint, chosen.train, data)
    with make_trainable(checkpoint, chosen.train) as model:
        trained_names = [name for name, p in model.named_parameters() if p.requires_grad]
        assert trained_names and all("lora_" in name for name in trained_names)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
        checkpoint.model.eval()
        step = load_batch(dataset, chosen.train, 0)
        apart = float(model(step)[0].detach())
        texts = [a.text for a in predict(checkpoint, pictures, queries, max_tokens=16)]
    with make_trainable(checkpoint, small()) as model:
        checkpoint.model.eval()
        assert float(model(step)[0].detach()) == pytest.approx(apart, rel=1e-5)
    assert [a.text for a in predict(checkpoint, pictures, queries, max_tokens=16)] == texts
    assert any(not torch.allclose(before[name], p) for name, p in checkpoint.model.named_parameters())
    train_model(workspace_of(chosen, data=data, root=tmp_path))
    model = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert {name for name, _ in model.named_parameters()} == set(before), "no adapter is left in what is saved"
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all(name.endswith(tuple(f"{t}.weight" for t in chosen.train.lora.targets)) for name in moved)
    frozen = settings(lora={}, freeze=("vision", "encoder", "decoder"))
    with pytest.raises(SettingsError, match="image_projection"):
        train_model(workspace_of(frozen, data=data, root=tmp_path / "none"))


def test_recomputed_activations_give_the_same_weights(data, tmp_path):
    models = [
        train_nano(data, tmp_path / str(again), small(gradient_checkpointing=again, steps=3))[0].model
        for again in (False, True)
    ]
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b), name


def test_activations_are_recomputed(data):
    checkpoint, chosen = nano(), small(gradient_checkpointing=True)
    dataset = read_dataset(checkpoint, chosen, data)
    calls = []
    for layer in (
        checkpoint.model.model.vision_tower.blocks[2][0].spatial_block,
        checkpoint.model.model.language_model.decoder.layers[1].fc1,
    ):
        layer.register_forward_hook(lambda module, given, out: calls.append(type(module).__name__))
    with make_trainable(checkpoint, chosen) as model:
        total, _ = model(load_batch(dataset, chosen, 0))
        once = calls.copy()
        total.backward()
    assert calls == once + once[::-1] or sorted(calls) == sorted(once * 2)
    assert len(calls) == 2 * len(once)


def test_half_precision_follows_the_whole_one(data, tmp_path):
    curves = {p: train_nano(data, tmp_path / p, small(precision=p, steps=5))[1] for p in ("fp32", "bf16")}
    for a, b in zip(curves["fp32"], curves["bf16"], strict=True):
        assert a["loss"] != b["loss"] and a["loss"] == pytest.approx(b["loss"], rel=0.03)
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="fp16 needs a GPU"):
            train_nano(data, tmp_path, small(precision="fp16"))


def test_stages_of_resolution(data, tmp_path):
    chosen = small(steps=6, resolutions=({"image_size": 16, "share": 0.7}, {"image_size": 32, "share": 0.3}))
    checkpoint = nano(32)
    sides = []
    checkpoint.model.model.vision_tower.register_forward_pre_hook(
        lambda module, given: sides.append(given[0].shape[-1])
    )
    train(checkpoint, read_dataset(checkpoint, chosen, data), chosen, tmp_path, "key")
    assert sides == [16] * 4 + [32] * 2


HARD = {
    "precision": "bf16",
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "lora": {"rank": 2, "dropout": 0.1},
    "freeze": ("vision",),
    "resolutions": ({"image_size": 16, "share": 0.5}, {"image_size": 32, "share": 0.5}),
    "shuffle_buffer": 1,
    "temperature": 2.0,
}


def test_resumed_with_every_setting_it_ends_bit_for_bit_the_same(data, tmp_path, monkeypatch):
    whole = train_model(workspace_of(settings(**HARD), data=data, root=tmp_path / "whole"))
    real, calls = loop._accumulate_gradients, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(loop, "_accumulate_gradients", failing)
    with pytest.raises(KeyboardInterrupt):
        train_model(workspace_of(settings(**HARD), data=data, root=tmp_path / "broken"))
    monkeypatch.setattr(loop, "_accumulate_gradients", real)
    assert train_model(workspace_of(settings(**HARD), data=data, root=tmp_path / "broken")) == whole
    assert (tmp_path / "whole/model/model.safetensors").read_bytes() == (
        tmp_path / "broken/model/model.safetensors"
    ).read_bytes()
