"""Any model on a public benchmark: found, asked, scored, and written to a folder of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.benchmarks import Benchmark
from florence.benchmarks.opening import open_benchmark
from florence.benchmarks.run import collect_benchmark_answers
from florence.evaluate.scores import round_figure
from florence.model.presets import PRESETS
from florence.store import Store
from flows.models import resolve_model_folder
from flows.tracked import open_workspace

if TYPE_CHECKING:
    from florence.model.checkpoint import Checkpoint

FOLDER = "build/evaluation"
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Scores of a model on a benchmark.

    ``images``: how many were asked about; ``of``: how many there are; ``paper``: published figures, by key of
    ``figures``; both in percent; ``folder``: where answers and scores lie.
    """

    benchmark: str
    model: str
    images: int
    of: int
    figures: dict[str, float]
    paper: dict[str, dict[str, float]]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """Return what scores.json holds."""
        return {
            "benchmark": self.benchmark,
            "model": self.model,
            "images": self.images,
            "of": self.of,
            "figures": {key: round_figure(value) for key, value in self.figures.items()},
            "paper": self.paper,
        }


def evaluate_benchmark(
    root: Path, benchmark: str, files: Path, model: str, limit: int | None, progress: Progress
) -> BenchmarkResult:
    """Score ``model`` on the first ``limit`` images of a benchmark, whose files lie in ``files``.

    Answers are written to build/evaluation/ as they are given, so the same command goes on after a kill; the folder's
    name has a digest of the weights and of the benchmark's files, so answers of other ones are never taken.
    """
    opened = open_benchmark(benchmark, files)
    images = list(opened.images[:limit])
    checkpoint = _load(root, model)
    folder = root / FOLDER / f"{_slug(model)}-{benchmark}-{_digest(checkpoint, opened)}"
    out = Store(str(folder))
    from florence.model.generate import predict

    answers = collect_benchmark_answers(
        images, out, partial(predict, checkpoint), lambda done, of: progress(benchmark, done, of)
    )
    paper = {key: dict(values) for key, values in opened.paper.items()}
    figures = opened.score(images, answers)
    result = BenchmarkResult(benchmark, model, len(images), len(opened.images), figures, paper, folder)
    out.write_json("scores.json", result.to_json())
    return result


def _load(root: Path, model: str) -> Checkpoint:
    """Load a folder, a preset, a name on the hub (it has a slash), or an alias or version of the registry."""
    from florence.model.checkpoint import load

    if folder := resolve_model_folder(model):
        return load(str(folder))
    if model.removesuffix("-scratch") in PRESETS or "/" in model:
        return load(model)
    return load(str(open_workspace(root).registry.fetch(model)))


def _slug(model: str) -> str:
    return re.sub(r"[^\w.-]+", "_", model).strip("_.")[-60:] or "model"


def _digest(checkpoint: Checkpoint, benchmark: Benchmark) -> str:
    """Return 12 digits that stand for all that the answers depend on."""
    found = hashlib.sha256(f"{benchmark.digest()} {checkpoint.image_size}".encode())
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy())
    return found.hexdigest()[:12]


def format_benchmark(result: BenchmarkResult) -> str:
    """Return the figures as a table, the published ones beside them."""
    columns = list(dict.fromkeys(name for values in result.paper.values() for name in values))
    rows = [["", "this model", *columns]]
    for key, value in result.figures.items():
        known = result.paper.get(key, {})
        rows.append([key, f"{value:.1f}", *(f"{known[name]:.1f}" if name in known else "" for name in columns)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    some = "" if result.images == result.of else ": a part, not comparable with published figures"
    head = f"{result.model} on {result.benchmark}, {result.images} of {result.of} images{some}"
    return "\n".join([head, *(line.rstrip() for line in lines)])
