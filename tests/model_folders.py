"""Shared by tests of checkpoint folders: a small model, its changes, and comparisons of answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from florence.hub.weight_files import WEIGHTS
from florence.model.checkpoint import load
from florence.model.folders import open_folder
from florence.model.generate import Query, predict

Tensors = dict[str, torch.Tensor]
LAYER = "model.language_model.decoder.layers."
SHARED, HEAD = "model.language_model.shared.weight", "lm_head.weight"


def changed(source: Path, target: Path, change: Callable[[Tensors], object]) -> str:
    """Copy a checkpoint with its tensors changed."""
    shutil.copytree(source, target)
    tensors = load_file(target / WEIGHTS)
    change(tensors)
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    return str(target)


def picture() -> list[np.ndarray]:
    return [np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)]


def assert_alike(*folders: Path | str) -> None:
    """Check that models answer the same; where a tensor lies in memory may change the last digits of a score."""
    queries = [Query(0, "<OD>"), Query(0, "<CAPTION>")]
    found = [predict(load(str(folder)), picture(), queries, max_tokens=12) for folder in folders]
    texts, scores = ([[getattr(a, part) for a in answers] for answers in found] for part in ("text", "score"))
    assert all(text == texts[0] for text in texts) and np.allclose(scores, scores[:1], rtol=1e-5, atol=0)


def check(folder: Path | str) -> None:
    """Do what `load` does to find out whether a checkpoint is whole."""
    open_folder(str(folder)).load_model()


def drop(start: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(start)]


def replace(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: make(tensors[name])})
