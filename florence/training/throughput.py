"""How fast a training is, compared with what the machine can do. Shown to people; nothing of it is versioned."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from florence.training.batches import TrainingBatch

if TYPE_CHECKING:
    from florence.training.trainable import TrainableModel

MATRIX_SIDE = 1024
"""Side of the square matrices whose product is timed."""
SECONDS = 0.3
"""How long it is timed."""


def matmul_peak(device: Any, dtype: Any) -> float:
    """Measure the floating point operations a second of a matrix product on ``device``, with the current threads."""
    import torch

    a = torch.ones(MATRIX_SIDE, MATRIX_SIDE, device=device, dtype=dtype)
    wait: Callable[[], None] = torch.cuda.synchronize if a.is_cuda else (lambda: None)
    for _ in range(2):
        a @ a
    wait()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - began)
    return 2 * MATRIX_SIDE**3 / best


def count_flops(model: TrainableModel, batch: TrainingBatch) -> int:
    """Count the floating point operations of one pass over ``batch``, forward and backward; drops all gradients."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        total, _ = model(batch)
        total.backward()
    for parameter in model.parameters():
        parameter.grad = None
    return int(counter.get_total_flops())


@dataclass
class ThroughputMeter:
    """Counts images, pairs and operations since the last reading.

    ``peak``: operations a second of all processes together; 0: not measured.
    """

    peak: float = 0.0
    _images: float = 0.0
    _pairs: float = 0.0
    _flops: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    def add(self, images: float, pairs: float, flops: float) -> None:
        """Add one step's images, image–task pairs and operations."""
        self._images, self._pairs, self._flops = self._images + images, self._pairs + pairs, self._flops + flops

    def read(self) -> dict[str, float]:
        """Return images_per_second, pairs_per_second and, where the peak is known, peak_share; start counting anew."""
        took = max(time.perf_counter() - self._began, 1e-9)
        rates = {"images_per_second": self._images / took, "pairs_per_second": self._pairs / took}
        if self.peak:
            rates["peak_share"] = self._flops / took / self.peak
        self._images = self._pairs = self._flops = 0.0
        self._began = time.perf_counter()
        return rates
