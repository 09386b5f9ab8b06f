"""Muon against a singular value decomposition, against torch's own, and resumed."""

from __future__ import annotations

import pytest
import torch
from trainings import scenes, small

from florence.model.checkpoint import build
from florence.training import loop, read_dataset, train
from florence.training.checkpoint import TrainingState, resume, save_checkpoint
from florence.training.muon import MOMENTUM, SPECTRAL_NORM, Muon, hidden_matrices, orthogonalise


def test_steps_have_the_singular_vectors_of_the_gradient_and_values_of_about_one():
    random = torch.Generator().manual_seed(0)
    for shape in ((3, 24, 40), (2, 40, 24), (4, 16, 16)):
        matrices = torch.randn(shape, generator=random)
        values = torch.linalg.svdvals(orthogonalise(matrices))
        assert values.min() > 0.3 and values.max() < 1.35, "five rounds bring all but vanishing values near one"
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        rotated = left.mT @ orthogonalise(matrices) @ right.mT
        torch.testing.assert_close(rotated, torch.diag_embed(rotated.diagonal(dim1=1, dim2=2)), atol=2e-4, rtol=0)


def test_agrees_with_torchs_muon_up_to_its_half_precision():
    random = torch.Generator().manual_seed(1)
    start = torch.randn(12, 20, generator=random)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one = Muon([ours], [], lr=0.02 / SPECTRAL_NORM, weight_decay=0.0)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.0, momentum=MOMENTUM, nesterov=True)
    for _ in range(5):
        gradient = torch.randn(12, 20, generator=random)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    assert (ours - start).norm() > 0.1
    torch.testing.assert_close(ours - start, theirs - start, rtol=0.05, atol=0.003)


def test_what_is_no_hidden_matrix_moves_as_adamw_moves_it():
    random = torch.Generator().manual_seed(2)
    table, bias, matrix = (
        torch.randn(9, 4, generator=random),
        torch.randn(4, generator=random),
        torch.nn.Parameter(torch.randn(8, 8, generator=random)),
    )
    ours = [torch.nn.Parameter(table.clone()), torch.nn.Parameter(bias.clone())]
    theirs = [torch.nn.Parameter(table.clone()), torch.nn.Parameter(bias.clone())]
    one = Muon([matrix], ours, lr=0.01, weight_decay=0.1)
    other = torch.optim.AdamW(
        [{"params": [theirs[0]], "weight_decay": 0.1}, {"params": [theirs[1]], "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.9, 0.98),
        fused=True,
    )
    for _ in range(3):
        matrix.grad = torch.randn(8, 8, generator=random)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=random)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_embeddings_heads_tied_to_them_and_depthwise_kernels_are_no_hidden_matrices():
    model = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(10, 8),
            "head": torch.nn.Linear(8, 10, bias=False),
            "inner": torch.nn.Linear(8, 6),
            "patches": torch.nn.Conv2d(3, 8, 7),
            "depthwise": torch.nn.Conv2d(8, 8, 3, groups=8),
            "conv": torch.nn.Conv2d(8, 16, 3),
        }
    )
    model["head"].weight = model["embedding"].weight
    assert [id(p) for p in hidden_matrices(model)] == [id(model["inner"].weight), id(model["conv"].weight)]


def test_resumed_from_a_checkpoint_it_ends_as_an_undisturbed_one(tmp_path):
    def run(steps: range, model, optimiser):
        for step in steps:
            random = torch.Generator().manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=random)
            optimiser.step()

    def fresh():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
        matrices = hidden_matrices(model)
        return model, Muon(matrices, [p for p in model.parameters() if p.ndim == 1], lr=0.01, weight_decay=0.1)

    whole, optimiser = fresh()
    run(range(6), whole, optimiser)
    half, optimiser = fresh()
    run(range(3), half, optimiser)
    save_checkpoint(tmp_path, "key", TrainingState(step=3), half, optimiser)
    resumed, optimiser = fresh()
    assert resume(tmp_path, "key", resumed, optimiser).step == 3
    run(range(3, 6), resumed, optimiser)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_killed_training_is_resumed_to_the_same_bytes(tmp_path, monkeypatch):
    data = scenes(tmp_path / "data", 20)
    chosen = small(optimizer="muon")

    def run(folder: str) -> list[torch.Tensor]:
        checkpoint = build("nano", image_size=32)
        train(checkpoint, read_dataset(checkpoint, chosen, data), chosen, tmp_path / folder, "key")
        return [p.detach() for p in checkpoint.model.parameters()]

    whole = run("whole")
    real, calls = loop._accumulate_gradients, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(loop, "_accumulate_gradients", failing)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    monkeypatch.setattr(loop, "_accumulate_gradients", real)
    for a, b in zip(whole, run("killed"), strict=True):
        assert torch.equal(a, b)
