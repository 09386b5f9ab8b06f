"""Training checkpoints: one safetensors file with trained weights, the optimiser's moments, scaler and curve.

It is written whole or not at all. Random numbers are not saved: each step's are a function of the seed and the step.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from florence.errors import ModelError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

NAME = "training.safetensors"
MOMENTS = frozenset({"step", "exp_avg", "exp_avg_sq"})
"""Of AdamW; a matrix that Muon trains has exp_avg alone."""

COUNT = "tensors"
"""How many tensors the file has: those of moments depend on the steps done."""


class StepLoss(NamedTuple):
    """The losses of one step: their sum, by task (sum, tokens), and the tokens."""

    loss: float
    tasks: Mapping[str, tuple[float, float]]
    tokens: float


@dataclass
class TrainingState:
    """How far a training has come.

    ``step``: steps done; ``curve``: its points; ``recent``: steps since the last point; ``left_out``: counts by name.
    """

    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    recent: list[StepLoss] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def save_checkpoint(
    folder: Path, key: str, state: TrainingState, model: Any, optimiser: Any, scaler: Any = None
) -> None:
    """Write the checkpoint ``key``, in place of the last one. Raises ModelError where it cannot be written."""
    from safetensors.torch import save_file

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    tensors = {f"weight.{name}": p.detach().contiguous() for name, p in trained.items()}
    names = {id(p): name for name, p in trained.items()}
    for parameter, moments in optimiser.state.items():
        for moment in MOMENTS & moments.keys():
            tensors[f"{moment}.{names[id(parameter)]}"] = moments[moment].detach().clone().contiguous()
    tensors.update({f"buffer.{name}": b.detach().clone().contiguous() for name, b in model.named_buffers()})
    metadata = {
        "key": key,
        COUNT: str(len(tensors)),
        "state": json.dumps(asdict(state)),
        "scaler": json.dumps(scaler.state_dict() if scaler is not None else None),
    }
    target = folder / key / NAME
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=metadata)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(
            f"the checkpoint {target} cannot be written: {error}; free some space and start again"
        ) from None


def resume(folder: Path, key: str, model: Any, optimiser: Any, scaler: Any = None) -> TrainingState:
    """Set model, optimiser and scaler to the last checkpoint ``key`` and return its state.

    Returns the state of a new training, and changes nothing, if there is no checkpoint or it is damaged: cut short,
    without one of its tensors, or with one of another shape. Raises ModelError where it cannot be read.
    """
    import torch

    path = folder / key / NAME
    if not path.is_file():
        return TrainingState()
    try:
        state, scaler_state, tensors = _read_checkpoint(path)
        _check_tensors(tensors, model)
    except OSError as error:
        raise ModelError(
            f"the checkpoint {path} cannot be read: {error.strerror or error}; mend that and start again"
        ) from None
    except _DamagedError as error:
        logger.warning("the checkpoint %s is damaged (%s): the training starts anew", path, error)
        path.unlink(missing_ok=True)
        return TrainingState()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"weight.{name}"])
            if f"exp_avg.{name}" in tensors:
                moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
                optimiser.state[parameter] = {moment: value.to(parameter.device) for moment, value in moments.items()}
        for name, buffer in model.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])
    if scaler is not None and scaler_state:
        scaler.load_state_dict(scaler_state)
    return state


class _DamagedError(Exception):
    """A checkpoint is not what `save_checkpoint` has written; it says why."""


def _read_checkpoint(path: Path) -> tuple[TrainingState, Any, dict[str, torch.Tensor]]:
    """Return a checkpoint's state, that of its scaler, and all its tensors. Raises OSError, _DamagedError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        saved, scaler_state = json.loads(metadata["state"]), json.loads(metadata["scaler"])
        recent = [StepLoss(*values) for values in saved["recent"]]
        state = TrainingState(int(saved["step"]), list(saved["curve"]), recent, dict(saved["left_out"]))
        expected = int(metadata.get(COUNT, len(tensors)))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _DamagedError(f"{type(error).__name__}: {error}") from None
    if len(tensors) != expected:
        raise _DamagedError(f"it has {len(tensors)} of {expected} tensors")
    return state, scaler_state, tensors


def _check_tensors(tensors: Mapping[str, torch.Tensor], model: Any) -> None:
    """Raise _DamagedError where ``tensors`` are not those of the training of ``model``."""
    parameters = dict(model.named_parameters())
    shapes = {f"weight.{name}": p.shape for name, p in parameters.items() if p.requires_grad}
    shapes |= {f"buffer.{name}": buffer.shape for name, buffer in model.named_buffers()}
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise _DamagedError(f"{missing[0]} is missing")
    for name, tensor in tensors.items():
        kind, _, own = name.partition(".")
        if kind in MOMENTS - {"step"}:
            shapes[name] = parameters[own].shape if own in parameters else ()
        if name in shapes and tensor.shape != shapes[name]:
            raise _DamagedError(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(shapes[name])}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise _DamagedError(f"{name} holds NaN or infinity")
