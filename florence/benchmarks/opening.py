"""The benchmarks by their names."""

from __future__ import annotations

from pathlib import Path

from florence.benchmarks import Benchmark
from florence.benchmarks.coco_detection import CocoDetection
from florence.benchmarks.vqa import VisualQuestions
from florence.errors import UnknownNameError


def open_benchmark(name: str, root: Path) -> Benchmark:
    """Read the benchmark ``name`` from ``root``. Raises UnknownNameError, and DataError for files that are not it."""
    if name == CocoDetection.name:
        return CocoDetection(root)
    if name == VisualQuestions.name:
        return VisualQuestions(root)
    raise UnknownNameError("benchmark", name, (CocoDetection.name, VisualQuestions.name))
