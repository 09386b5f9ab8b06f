"""How fast a training is, against what the machine can do. For people who watch: nothing of it is versioned."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from florence.training.batches import Batch

if TYPE_CHECKING:
    from florence.training.learner import Learner

SIDE = 1024
"""Of the square matrices whose product is timed."""
SECONDS = 0.3
"""For how long."""


def matmul_peak(device: Any, dtype: Any) -> float:
    """Floating point operations a second of the product of two matrices of `SIDE` × `SIDE`, on ``device``, with the threads that are set now."""
    import torch

    a = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    wait = torch.cuda.synchronize if a.is_cuda else (lambda: None)
    for _ in range(2):
        a @ a
    wait()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


def flops(learner: Learner, data: Batch) -> int:
    """Floating point operations of one pass over ``data``, forward and backward, as torch counts them. Gradients are thrown away."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        total, _ = learner(data)
        total.backward()
    for parameter in learner.parameters():
        parameter.grad = None
    return int(counter.get_total_flops())


@dataclass
class Meter:
    """What has gone through since the last reading. ``peak``: of all processes together, operations a second; 0: not measured."""

    peak: float = 0.0
    _images: float = 0.0
    _pairs: float = 0.0
    _flops: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    def add(self, images: float, pairs: float, flops: float) -> None:
        """One step's images, image–task pairs and operations."""
        self._images, self._pairs, self._flops = self._images + images, self._pairs + pairs, self._flops + flops

    def read(self) -> dict[str, float]:
        """images_per_second, pairs_per_second, and peak_share where the peak is known; counting starts again."""
        took = max(time.perf_counter() - self._began, 1e-9)
        figures = {"images_per_second": self._images / took, "pairs_per_second": self._pairs / took}
        if self.peak:
            figures["peak_share"] = self._flops / took / self.peak
        self._images = self._pairs = self._flops = 0.0
        self._began = time.perf_counter()
        return figures
