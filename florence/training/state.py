"""Checkpoints of a training: what learns, the optimiser's moments, the scaler and the curve so far in one safetensors file, written whole or not at all.

Random numbers are no part of it: each step's are a function of the seed and the step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from florence.errors import ModelError

NAME = "training.safetensors"
MOMENTS = frozenset({"step", "exp_avg", "exp_avg_sq"})
"""Of AdamW; a matrix that Muon trains has exp_avg alone."""


class Seen(NamedTuple):
    """One step's part in the next point of the curve: the sum of its losses, the same with the number of tokens by task, and its tokens."""

    loss: float
    tasks: Mapping[str, tuple[float, float]]
    tokens: float


@dataclass
class Progressed:
    """Where a training stands. ``step``: steps done; ``curve``: its points; ``window``: steps since the last point; ``counts``: what was left out."""

    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    window: list[Seen] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def save(folder: Path, key: str, where: Progressed, model: Any, optimiser: Any, scaler: Any = None) -> None:
    """Write the state, in place of the one before. Raises ModelError where it cannot be written."""
    from safetensors.torch import save_file

    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    tensors = {f"weight.{name}": p.detach().contiguous() for name, p in learnt.items()}
    names = {id(p): name for name, p in learnt.items()}
    for parameter, moments in optimiser.state.items():
        for moment in MOMENTS & moments.keys():
            tensors[f"{moment}.{names[id(parameter)]}"] = moments[moment].detach().clone().contiguous()
    tensors.update({f"buffer.{name}": b.detach().clone().contiguous() for name, b in model.named_buffers()})
    about = {
        "key": key,
        "progressed": json.dumps(asdict(where)),
        "scaler": json.dumps(scaler.state_dict() if scaler is not None else None),
    }
    target = folder / key / NAME
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=about)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(
            f"the checkpoint {target} cannot be written: {error}; free some space and start again"
        ) from None


def resume(folder: Path, key: str, model: Any, optimiser: Any, scaler: Any = None) -> Progressed:
    """Put model, optimiser and scaler where the last checkpoint under ``key`` stood; the start where there is none, or a damaged one."""
    import torch
    from safetensors import SafetensorError, safe_open

    path = folder / key / NAME
    if not path.is_file():
        return Progressed()
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError):
        path.unlink(missing_ok=True)
        return Progressed()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"weight.{name}"])
            if f"exp_avg.{name}" in tensors:
                saved = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
                optimiser.state[parameter] = {moment: value.to(parameter.device) for moment, value in saved.items()}
        for name, buffer in model.named_buffers():
            if f"buffer.{name}" in tensors:
                buffer.copy_(tensors[f"buffer.{name}"])
    if scaler is not None and (told := json.loads(about["scaler"])):
        scaler.load_state_dict(told)
    found = json.loads(about["progressed"])
    return Progressed(found["step"], found["curve"], [Seen(*seen) for seen in found["window"]], found["counts"])
