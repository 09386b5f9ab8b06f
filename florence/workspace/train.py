"""Train: learn a model from the snapshot's last round of labels."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from florence.progress import Log, Progress, show_nothing
from florence.records import digest
from florence.rounds import list_labels
from florence.workspace.base import Workspace
from florence.workspace.code import hash_code


def train_model(workspace: Workspace, log: Log | None = None, progress: Progress = show_nothing) -> dict[str, Any]:
    """Train on the snapshot's last round; return the figures of metrics/train.json.

    Writes ``model/``, ``metrics/train.json`` and ``plots/train.csv``. Starts from `model.init`, or continues from the
    checkpoint that a killed training of the same snapshot and settings left. Of several processes that were started
    together the first alone writes. Raises ModelError for a model that does not exist or a loss that is not finite,
    SettingsError for settings that this machine cannot run, DataError where there is nothing to learn.
    """
    from florence.training import TrainingJob, run_training
    from florence.training.launch import process_rank

    root, settings, data = workspace.root, workspace.settings, workspace.data
    folder, part = root / ".florence" / "checkpoints", root / ".florence" / "model.part"
    key = training_key(workspace)
    is_first = not process_rank()
    for other in folder.glob("*") if is_first and folder.is_dir() else ():
        if other.name != key:
            shutil.rmtree(other, ignore_errors=True)
    done = run_training(
        TrainingJob(settings.model, settings.train, data.uri, str(folder), key, str(part)), log, progress
    )
    figures = {
        "steps": done.steps,
        "images": done.images,
        "loss": round(done.curve[-1]["loss"], 6),
        "loss_by_task": {
            name: round(value, 6) for name, value in sorted(done.curve[-1].items()) if name.startswith("<")
        },
        "left_out": {name: int(count) for name, count in done.left_out.items()},
    }
    if is_first:
        shutil.rmtree(root / "model", ignore_errors=True)
        part.rename(root / "model")
        workspace.files.write_json("metrics/train.json", figures)
        workspace.files.write_bytes("plots/train.csv", _curve_csv(done.curve))
        shutil.rmtree(folder / key, ignore_errors=True)
    return figures


def training_key(workspace: Workspace) -> str:
    """Return the digest of what a training is a function of: the snapshot's labels and images, settings and code."""
    data, tables = workspace.data, list_labels(workspace.data)
    labels = data.read_bytes(tables[max(tables)]) if tables else b""
    return digest(
        [
            digest(labels, 64),
            data.names("images", ".parquet"),
            workspace.settings.model.digest(),
            workspace.settings.train.digest(),
            hash_code(),
        ]
    )


def _curve_csv(curve: Iterable[Mapping[str, float]]) -> bytes:
    """Return the curve as a table: step, loss, lr, then the loss of each task, empty where it was not sampled."""
    curve = list(curve)
    names = ["step", "loss", "lr", *sorted({name for row in curve for name in row if name.startswith("<")})]
    lines = [",".join(names)] + [",".join(f"{row[name]:.6g}" if name in row else "" for name in names) for row in curve]
    return ("\n".join(lines) + "\n").encode()
