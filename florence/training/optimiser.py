"""The optimiser of a training and its learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from florence.config import TrainSettings

if TYPE_CHECKING:
    import torch


def make_optimiser(model: Any, settings: TrainSettings) -> torch.optim.AdamW:
    """Return AdamW, or Muon for the matrices of hidden layers; vectors (norms, biases) are not decayed."""
    import torch

    from florence.training.muon import Muon, hidden_matrices

    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.optimizer == "muon":
        matrices = [p for p in hidden_matrices(model) if p.requires_grad]
        hidden = {id(p) for p in matrices}
        others = [p for p in parameters if id(p) not in hidden]
        return Muon(matrices, others, lr=settings.lr, weight_decay=settings.weight_decay)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.lr, betas=(0.9, 0.98), eps=1e-8, fused=True
    )


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to a hundredth of the peak."""
    warmup = min(settings.warmup, steps // 10)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def scheduled_rate(settings: TrainSettings, step: int, steps: int, sparse_start: int) -> float:
    """Return the learning rate of a step; the sparse tasks, from ``sparse_start`` on, have a schedule of their own.

    Training them is a fine-tuning: at the rate where the schedule before has ended they would hardly be learnt.
    """
    if step >= sparse_start:
        return learning_rate(settings, step - sparse_start, steps - sparse_start)
    return learning_rate(settings, step, sparse_start)
