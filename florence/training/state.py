"""Checkpoints of a training: weights, the optimiser's moments and the curve so far in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from florence.errors import ModelError

NAME = "training.safetensors"


class Seen(NamedTuple):
    """One step's part in the next point of the curve: the sum of its losses, the same with the number of tokens by task, and its tokens."""

    loss: float
    tasks: Mapping[str, tuple[float, int]]
    tokens: int


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a training stood. ``window``: steps since the curve's last point."""

    step: int
    curve: tuple[Mapping[str, float], ...]
    window: tuple[Seen, ...]


def save(
    folder: Path, key: str, step: int, model: Any, optimiser: Any, curve: Sequence[Mapping[str, float]], window: Sequence[Seen] = ()
) -> None:
    """Write the state after ``step`` steps, in place of the one before. Raises ModelError where it can not be written."""
    from safetensors.torch import save_file

    tensors = {f"weight.{name}": p.detach().contiguous() for name, p in model.named_parameters()}
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter, moments in optimiser.state.items():
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"{moment}.{names[id(parameter)]}"] = moments[moment].detach().clone().contiguous()
    tensors.update({f"buffer.{name}": b.detach().clone().contiguous() for name, b in model.named_buffers()})
    target = folder / key / NAME
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={"key": key, "step": str(step), "curve": json.dumps(list(curve)), "window": json.dumps(list(window))})
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(f"the checkpoint {target} can not be written: {error}; free some space and start again") from None


def resume(folder: Path, key: str, model: Any, optimiser: Any) -> Saved | None:
    """Put model and optimiser where the last checkpoint under ``key`` stood; None where there is none, or a damaged one."""
    import torch
    from safetensors import SafetensorError, safe_open

    path = folder / key / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError):
        path.unlink(missing_ok=True)
        return None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            if f"exp_avg.{name}" in tensors:
                optimiser.state[parameter] = {moment: tensors[f"{moment}.{name}"] for moment in ("step", "exp_avg", "exp_avg_sq")}
        for name, buffer in model.named_buffers():
            if f"buffer.{name}" in tensors:
                buffer.copy_(tensors[f"buffer.{name}"])
    return Saved(int(about["step"]), tuple(json.loads(about["curve"])), tuple(Seen(*seen) for seen in json.loads(about["window"])))
