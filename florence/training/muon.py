"""Steps of equal size in every direction, for a network that starts from noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

PER_LR = 10.0
"""Spectral norm of a matrix's step, as a multiple of the learning rate that AdamW's parameters have."""
MOMENTUM = 0.95
ROUNDS = 5
"""Newton–Schulz iterations."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Their polynomial's coefficients, which bring singular values to 0.7 … 1.2 in five rounds (Jordan et al., Muon, 2024)."""


class Muon(torch.optim.AdamW):
    """Muon for ``matrices``, AdamW for ``others`` (norms, biases, embeddings, heads).

    A matrix's step is its gradient's momentum with every singular value made about one (Jordan et al., Muon, 2024; Liu et al.,
    arXiv 2502.16982), in float32: torch.optim.Muon computes in bfloat16, which most CPUs have no instructions for. Kernels of convolutions
    (out, in, h, w) count as matrices (out, in·h·w). ``lr`` is AdamW's, a matrix's step has `PER_LR` times it as spectral norm.
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        others: Iterable[torch.nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:
        others = list(others)
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "weight_decay": weight_decay, "muon": True},
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay, "muon": False},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "muon": False},
        ]
        super().__init__([group for group in groups if group["params"]], lr=lr, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of all parameters that have a gradient; matrices' gradients are used up."""
        for group in self.param_groups:
            if group["muon"]:
                self._orthogonal_steps(group)
        return super().step(closure)

    def _orthogonal_steps(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg"].lerp_(p.grad, 1 - MOMENTUM)
            wanted = p.grad.lerp(state["exp_avg"], MOMENTUM).flatten(1)
            alike.setdefault((wanted.shape[0], wanted.shape[1]), []).append((p, wanted))
            p.grad = None  # nothing is left for AdamW
        for (rows, columns), members in alike.items():
            steps = orthogonal(torch.stack([wanted for _, wanted in members]))
            size = PER_LR * group["lr"] * max(1.0, rows / columns) ** 0.5
            for (p, _), step in zip(members, steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(step.view_as(p), alpha=-size)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The matrices (n, rows, columns) with singular values of about one."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def hidden_matrices(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Weights of a module's linear layers and convolutions with more than a few rows and columns; none that is an embedding too, no depthwise kernels."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    weights: list[Any] = [
        part.weight
        for part in module.modules()
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d) and min(part.weight.shape[:2]) > 3
    ]
    return [weight for weight in dict.fromkeys(weights) if id(weight) not in embeddings]
