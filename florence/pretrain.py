"""Makes the weights that come with the package: ``python -m florence.pretrain`` in the folder ``pretrain``.

Scenes whose vocabularies share no object, background or word with the demo's train, one after the other: the vision
tower, to tell many invented figures and letters apart (`florence.training.vision`); then the whole model, to name
regions, to read, and to do every task. The language model is taught few names: a name costs it hundreds of examples,
and these names are of no further use. No label is noisy: what is drawn is known.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from florence.codec.locations import BINS
from florence.config import TrainSettings, settings_from
from florence.model.checkpoint import Checkpoint, load
from florence.records import ANNOTATIONS, TASKS
from florence.rounds import name_labels
from florence.store import Store
from florence.training import read_dataset, train
from florence.training.vision import VisionSettings, read_cell_targets, train_vision_tower
from florence.workspace import Workspace
from florence.workspace.collect import collect_images


def pretrain(params: dict[str, Any], work: Path, out: Path) -> None:
    """Make the weights below ``out`` with the settings ``params`` (pretrain/params.yaml).

    Scenes and checkpoints are written to ``work``; if it is killed, it resumes from them.
    """
    checkpoint = load("nano-scratch", image_size=params["image_size"], seed=params["seed"])
    if not (work / next(iter(params["lessons"]))).is_dir():
        targets = read_cell_targets(checkpoint, _draw(params["figures"], work / "figures"), params["attributes"])
        for name, lesson in params["vision"].items():
            train_vision_tower(
                checkpoint,
                targets,
                VisionSettings(**lesson),
                work / "checkpoints",
                name,
                seed=params["seed"],
                progress=_ProgressBars(),
            )
    data = _draw(params["scenes"], work / "scenes")
    for name, lesson in params["lessons"].items():
        folder = work / name
        if not folder.is_dir():
            weights = {**dict.fromkeys(TASKS, 0.0), **lesson["task_weights"]}
            settings = TrainSettings(**{**lesson, "task_weights": weights, "seed": params["seed"]})
            dataset = read_dataset(checkpoint, settings, data)
            train(checkpoint, dataset, settings, work / "checkpoints", name, progress=_ProgressBars())
            part = work / f"{name}.part"
            checkpoint.save(part)
            part.rename(folder)
        checkpoint = load(str(folder), image_size=params["image_size"])
    interpolate_locations(checkpoint, params["scenes"]["size"])
    save_half_precision(checkpoint, out)


def _draw(scenes: dict[str, Any], folder: Path) -> Store:
    """Draw scenes as a snapshot labelled by their truth; what was drawn before is not drawn again."""
    data = Store(str(folder))
    values = {"sources": {"scenes": scenes}, "annotators": {}, "split": {"held_out": 0.05, "gold": 0.0}}
    collect_images(Workspace(folder, settings_from(values, "pretrain/params.yaml"), data, data), _ProgressBars())
    if not data.names("labels", ".parquet"):
        data.write_table(name_labels(0), data.read_tables("truth", ANNOTATIONS))
    return data


def interpolate_locations(checkpoint: Checkpoint, side: int) -> None:
    """Set the location tokens that scenes of ``side`` pixels never use, in place, by linear interpolation.

    Drawn boxes begin and end at whole pixels: with fewer pixels than bins most bins are never trained, but real labels
    lie anywhere.
    """
    import torch

    used = torch.arange(side + 1) * BINS // side
    used = used.clamp(max=BINS - 1).unique()
    if len(used) >= BINS:
        return
    bins = torch.arange(BINS)
    after = torch.searchsorted(used, bins).clamp(1, len(used) - 1)
    low, high = used[after - 1], used[after]
    share = ((bins - low) / (high - low)).clamp(0, 1)[:, None]
    ids = torch.as_tensor(checkpoint.lexicon.locations)
    with torch.no_grad():
        table = checkpoint.model.get_input_embeddings().weight
        trained = table[ids].clone()
        table[ids] = trained[low] * (1 - share) + trained[high] * share


def save_half_precision(checkpoint: Checkpoint, out: Path) -> None:
    """Write a checkpoint in half precision, without changing it."""
    replace(checkpoint, model=copy.deepcopy(checkpoint.model).half()).save(out)


class _ProgressBars:
    """A progress bar for each piece of work."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what not in self.bars:
            self.bars[what] = tqdm(total=total, desc=what, mininterval=5)
        bar = self.bars[what]
        bar.update(done - bar.n)


if __name__ == "__main__":
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    pretrain(params, Path("work"), Path("../florence/model/nano"))
