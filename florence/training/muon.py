"""Muon: steps of equal size in every direction, for a network that starts from noise.

A matrix's step is its gradient's momentum G with every singular value made about one (Jordan et al., Muon, 2024; Liu et
al., arXiv 2502.16982). With X = G / ‖G‖, each Newton–Schulz iteration is X ← aX + (bA + cA²)X, where A = XXᵀ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

SPECTRAL_NORM = 10.0
"""Spectral norm of a matrix's step, as a multiple of the learning rate of AdamW's parameters."""
MOMENTUM = 0.95
ITERATIONS = 5
"""Newton–Schulz iterations."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Their coefficients a, b, c, which bring singular values to 0.7 … 1.2 in five iterations (Jordan et al., 2024)."""


class Muon(torch.optim.AdamW):
    """Muon for ``matrices``, AdamW for ``others`` (norms, biases, embeddings, heads).

    Computed in float32: torch.optim.Muon computes in bfloat16, which most CPUs have no instructions for. Kernels of
    convolutions (out, in, h, w) count as matrices (out, in·h·w). ``lr`` is AdamW's; the step of a matrix has
    `SPECTRAL_NORM` times it as spectral norm.
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore ``state``; AdamW would look for a step count, which the state of a matrix does not have."""
        moments = {p: values for p, values in state["state"].items() if values.keys() == {"exp_avg"}}
        others = {p: values for p, values in state["state"].items() if p not in moments}
        # untyped_calls_exclude does not see through super()
        super().__setstate__({**state, "state": defaultdict(dict, others)})  # type: ignore[no-untyped-call]
        self.state.update(moments)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update all parameters that have a gradient; the gradients of matrices are set to None."""
        for group in self.param_groups:
            if group["muon"]:
                self._orthogonal_steps(group)
        return super().step(closure)

    def _orthogonal_steps(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg"].lerp_(p.grad, 1 - MOMENTUM)
            momentum = p.grad.lerp(state["exp_avg"], MOMENTUM).flatten(1)
            by_shape.setdefault((momentum.shape[0], momentum.shape[1]), []).append((p, momentum))
            p.grad = None  # so that AdamW skips it
        for (rows, columns), members in by_shape.items():
            steps = orthogonalise(torch.stack([momentum for _, momentum in members]))
            size = SPECTRAL_NORM * group["lr"] * max(1.0, rows / columns) ** 0.5
            for (p, _), step in zip(members, steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(step.view_as(p), alpha=-size)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return the matrices (n, rows, columns) with their singular values made about one."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def hidden_matrices(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the weights of linear layers and convolutions with more than three rows and columns.

    Without weights that are embeddings too, and without depthwise kernels.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    weights: list[Any] = [
        part.weight
        for part in module.modules()
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d) and min(part.weight.shape[:2]) > 3
    ]
    return [weight for weight in dict.fromkeys(weights) if id(weight) not in embeddings]
