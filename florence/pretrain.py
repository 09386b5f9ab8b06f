"""How the weights that come with the package are made: ``python -m florence.pretrain`` in the folder ``pretrain``.

Scenes of vocabularies that share no object, background or word with the demo's teach, one after the other: the vision tower to tell many invented figures apart, and
letters (`florence.training.vision`); the whole model to name regions, to read, and every task. The language model is taught few names: a name costs it hundreds of
examples, and these names are of no further use. No label is noisy: what is drawn is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from florence import stages
from florence.codec.locations import BINS
from florence.config import TrainSettings, settings_from
from florence.model.checkpoint import Checkpoint, load
from florence.records import ANNOTATIONS, TASKS
from florence.store import Store
from florence.training import read_dataset, train
from florence.training.vision import cells, see


def pretrain(params: dict[str, Any], work: Path, out: Path) -> None:
    """Make the weights below ``out`` as ``params`` (pretrain/params.yaml) say; pictures and checkpoints go to ``work``. Killed, it goes on where it stood."""
    checkpoint = load("nano-scratch", image_size=params["image_size"], seed=params["seed"])
    if not (work / next(iter(params["lessons"]))).is_dir():
        seen = cells(checkpoint, _drawn(params["figures"], work / "figures"), params["attributes"])
        for name, lesson in params["vision"].items():
            see(checkpoint, seen, work / "checkpoints", name, seed=params["seed"], progress=_Bar(), **lesson)
    data = _drawn(params["scenes"], work / "scenes")
    for name, lesson in params["lessons"].items():
        learnt = work / name
        if not learnt.is_dir():
            settings = TrainSettings(
                **{
                    **lesson,
                    "task_weights": {**dict.fromkeys(TASKS, 0.0), **lesson["task_weights"]},
                    "seed": params["seed"],
                }
            )
            train(
                checkpoint,
                read_dataset(checkpoint, settings, data),
                settings,
                work / "checkpoints",
                name,
                progress=_Bar(),
            )
            part = work / f"{name}.part"
            checkpoint.save(part)
            part.rename(learnt)
        checkpoint = load(str(learnt), image_size=params["image_size"])
    spread(checkpoint, params["scenes"]["size"])
    ship(checkpoint, out)


def _drawn(scenes: dict[str, Any], folder: Path) -> Store:
    """Scenes as a snapshot whose labels are their truth; those that are drawn already are not drawn again."""
    data = Store(str(folder))
    stages.collect(
        settings_from(
            {"sources": {"scenes": scenes}, "annotators": {}, "split": {"held_out": 0.05, "gold": 0.0}},
            "pretrain/params.yaml",
        ),
        data,
        _Bar(),
    )
    if not data.names("labels", ".parquet"):
        data.write_table("labels/round=0/labels.parquet", data.read_tables("truth", ANNOTATIONS))
    return data


def spread(checkpoint: Checkpoint, side: int) -> None:
    """Give location tokens that scenes of ``side`` pixels never use the mean of their neighbours, weighted by nearness, in place.

    What is drawn begins and ends at whole pixels; with fewer of them than bins, most bins are never learnt, and real labels lie anywhere.
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
        learnt = table[ids].clone()
        table[ids] = learnt[low] * (1 - share) + learnt[high] * share


def ship(checkpoint: Checkpoint, out: Path) -> None:
    """Write a checkpoint in half precision, without changing it."""
    import copy
    import dataclasses

    dataclasses.replace(checkpoint, model=copy.deepcopy(checkpoint.model).half()).save(out)


class _Bar:
    """A progress bar for each thing that is done."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __call__(self, what: str, done: int, of: int | None) -> None:
        if what not in self.bars:
            self.bars[what] = tqdm(total=of, desc=what, mininterval=5)
        bar = self.bars[what]
        bar.update(done - bar.n)


if __name__ == "__main__":
    pretrain(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")), Path("work"), Path("nano"))
