"""Shared by the benchmarks: models, timing in turn, and the table."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

BASE = 384
"""Pixels a side at which the geometry `base` is measured."""
VOCABULARY = 51289
"""Tokens of the published vocabulary."""


def parse_options(about: str, repeats: int) -> argparse.Namespace:
    """Parse the options of a benchmark."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("base", "nano", "both"), default="both")
    parser.add_argument("--images", type=int, help="images a step or a call (default: as many as the benchmark says)")
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"timed runs of each side, taken in turn (default {repeats})"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser.parse_args()


def load_model(name: str) -> Any:
    """Return a `Checkpoint`: `nano` with its weights, or `base` with random weights and the published number of tokens.

    Without dropout.
    """
    from florence.model import checkpoint, presets

    if name == "nano":
        return checkpoint.load("nano")
    parts = copy.deepcopy(presets.PRESETS["base"])
    parts["text"]["dropout"] = parts["vision"]["drop_path_rate"] = 0.0
    presets.PRESETS["measured"] = parts
    found = checkpoint.build("measured", image_size=BASE)
    found.model.resize_token_embeddings(VOCABULARY)
    found.model.config.text_config.vocab_size = VOCABULARY
    return dataclasses.replace(found)  # its cached lexicon is out of date


def time_in_turn(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each side.

    Each runs once to warm up; then one run of each, again and again, so that all sides
    suffer alike from other load.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            if repeat:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(title: str, rows: Sequence[Sequence[Any]]) -> None:
    """Print rows, the first of which is the head, as Markdown."""
    print(f"\n{title}\n")
    for number, row in enumerate(rows):
        print("| " + " | ".join(str(value) for value in row) + " |")
        if not number:
            print("|" + "---|" * len(row))


def write_figures(path: Path | None, what: str, threads: int, figures: Mapping[str, Any]) -> None:
    """Write the figures with what they were measured on, if ``path`` is given."""
    if path is not None:
        import torch
        import transformers

        about = {
            "benchmark": what,
            "threads": threads,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        path.write_text(json.dumps({**about, "models": figures}, indent=2) + "\n", encoding="utf-8")
