"""The training loop: flat, in reading order, the same bytes from the same corpus and settings on one machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from florence.config import Train
from florence.errors import ModelError, SettingsError
from florence.model.checkpoint import Checkpoint
from florence.store import Store
from florence.training import state
from florence.training.batches import Batch, Feed
from florence.training.corpus import LEFT_OUT, Corpus, Progress
from florence.training.order import side_of, steps_of, turn_of

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from florence.training.learner import Learner
    from florence.training.speed import Meter

Log = Callable[[int, dict[str, float]], None]
LOG_EVERY = 20
"""Steps that a point of the curve is the mean of."""
FAILED = "failed-step.json"
"""Beside the checkpoint: what the step was about whose loss or gradient was not finite."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training did. ``curve``: a row for every `LOG_EVERY` steps (step, loss, lr, and the loss of each task); ``resumed``: the step it went on
    from; ``counts``: what was left out, by `LEFT_OUT`; ``images``: that were learnt from."""

    steps: int
    resumed: int
    curve: tuple[Mapping[str, float], ...]
    counts: Mapping[str, int]
    images: int


def train(
    checkpoint: Checkpoint,
    corpus: Corpus,
    settings: Train,
    folder: Path,
    key: str,
    log: Log | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Trained:
    """Train ``checkpoint.model`` in place, together with the other processes where it was started as one of several.

    Checkpoints go to ``folder`` under ``key``; a later call with the same key goes on from the last. ``log`` is given every point of the curve, and
    images_per_second, pairs_per_second (an image and one task's example) and peak_share (of the measured matmul peak).

    Loss: the sum of the cross-entropies of all target tokens of a step, over every micro-batch and process, divided by their number; the same for every task (paper,
    section 3). Raises ModelError where a loss or gradient is not finite, before the optimiser's step, and SettingsError for settings that this machine cannot do.
    """
    import torch

    from florence.training.learner import learning

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    accelerator = _accelerator(settings)
    torch.set_num_threads(settings.threads)
    main, world = accelerator.is_main_process, accelerator.num_processes
    checkpoint.model.to(accelerator.device)
    steps = steps_of(settings, len(corpus))
    turn = turn_of(settings, steps, corpus.later is not None)
    with learning(checkpoint, settings) as learner:
        optimiser = _optimiser(checkpoint.model, settings)
        optimiser.zero_grad(set_to_none=True)  # of whatever trained this model before
        where = state.resume(folder, key, checkpoint.model, optimiser, accelerator.scaler)
        first = where.step
        _agreed(accelerator, where, folder)
        prepared, stepper = accelerator.prepare(learner, optimiser)
        meter, work = _meter(log if main else None, settings, accelerator), {}
        for step, parts in Feed(corpus, settings, accelerator.process_index, world).steps_from(first):
            rate = (
                learning_rate(settings, step - turn, steps - turn)
                if step >= turn
                else learning_rate(settings, step, turn)
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            side = side_of(settings, step, steps, checkpoint.image_size)
            if meter is not None and side not in work:
                work[side] = _flops(learner, parts, accelerator)
            seen, tokens = _learn(prepared, parts, settings, step, accelerator)
            norm = float(
                accelerator.clip_grad_norm_(
                    [p for p in checkpoint.model.parameters() if p.requires_grad], settings.max_grad_norm
                )
            )
            figures = _summed(seen, parts, settings, accelerator)
            if not math.isfinite(figures.seen.loss) or not (math.isfinite(norm) or _rescaled(accelerator)):
                _stop(step, figures.seen.loss / max(tokens, 1), norm, parts, Store(str(folder)), key, accelerator)
            if tokens:
                stepper.step()
            stepper.zero_grad(set_to_none=True)
            where.step = step + 1
            where.window.append(figures.seen)
            for name, count in figures.counts.items():
                where.counts[name] = where.counts.get(name, 0) + count
            if meter is not None:
                meter.add(figures.images, figures.pairs, work[side] * world)
            if main:
                progress("train", step + 1, steps)
            if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
                row = _row(step + 1, rate, where.window)
                where.curve.append(row)
                where.window = []
                if meter is not None and log is not None:
                    log(step + 1, {**_live(row), **meter.read()})
            if main and (step + 1) % settings.save_steps == 0 and step + 1 < steps:
                state.save(folder, key, where, checkpoint.model, optimiser, accelerator.scaler)
        accelerator.wait_for_everyone()
    return Trained(steps, first, tuple(where.curve), dict(sorted(where.counts.items())), len(corpus))


def learning_rate(settings: Train, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak. What is learnt last (`train.sparse`) has both anew: it is a fine-tuning."""
    warmup = min(settings.warmup, steps // 10)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _accelerator(settings: Train) -> Accelerator:
    """Where and how it is trained: a GPU where there is one; one of several processes where it was started so."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    gpu = torch.cuda.is_available()
    if settings.precision == "fp16" and not gpu:
        raise SettingsError("train.precision: fp16 needs a GPU, and there is none; use bf16 or fp32")
    AcceleratorState._reset_state()  # another training of this process may have had another precision
    return Accelerator(
        mixed_precision={"fp32": "no"}.get(settings.precision, settings.precision),
        cpu=not gpu,
        step_scheduler_with_optimizer=False,
    )


def _optimiser(model: Any, settings: Train) -> torch.optim.AdamW:
    """AdamW, or Muon for hidden layers' matrices; vectors (norms, biases) are not decayed."""
    import torch

    from florence.training.muon import Muon, hidden_matrices

    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.optimizer == "muon":
        matrices = [p for p in hidden_matrices(model) if p.requires_grad]
        hidden = {id(p) for p in matrices}
        return Muon(
            matrices, [p for p in parameters if id(p) not in hidden], lr=settings.lr, weight_decay=settings.weight_decay
        )
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.lr, betas=(0.9, 0.98), eps=1e-8, fused=True
    )


def _agreed(accelerator: Accelerator, where: state.Progressed, folder: Path) -> None:
    """Raise ModelError where processes found different checkpoints."""
    if accelerator.num_processes == 1:
        return
    from accelerate.utils import gather_object

    found = sorted(set(gather_object([where.step])))
    if len(found) > 1:
        raise ModelError(
            f"the processes go on from different steps ({', '.join(map(str, found))}): {folder} has to be one folder that all machines share"
        )


def _learn(
    prepared: Any, parts: Sequence[Batch], settings: Train, step: int, accelerator: Accelerator
) -> tuple[list[np.ndarray], int]:
    """Put the gradient of one step into the parameters; returns the losses of each part's tokens, and the tokens of the whole step."""
    import torch

    world, rank = accelerator.num_processes, accelerator.process_index
    tokens = sum(part.tokens for part in parts)
    if world > 1:
        tokens = int(accelerator.reduce(torch.tensor(tokens, device=accelerator.device), "sum"))
    losses = []
    for number, part in enumerate(parts):
        # dropout draws anew in every step and part, whatever happened before: nothing of it needs to be saved
        torch.manual_seed(
            int(
                np.random.SeedSequence([settings.seed, 2, step, rank * len(parts) + number]).generate_state(
                    1, np.uint32
                )[0]
            )
        )
        last = number + 1 == len(parts)
        with nullcontext() if last else accelerator.no_sync(prepared):
            total, each = prepared(part)
            if tokens:
                # gradients are averaged over processes: a sum over all of them, divided by all tokens, is wanted
                accelerator.backward(total * (world / tokens))
        losses.append(each.float().cpu().numpy())
    return losses, tokens


@dataclass(frozen=True, slots=True)
class _Figures:
    """One step, over all processes."""

    seen: state.Seen
    counts: Mapping[str, int]
    images: float
    pairs: float


def _summed(
    losses: Sequence[np.ndarray], parts: Sequence[Batch], settings: Train, accelerator: Accelerator
) -> _Figures:
    """What a step came to: the sums of losses by task, tokens, what was left out, summed over all processes."""
    names = settings.drawn
    code = {name: number for number, name in enumerate(names)}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for each, part in zip(losses, parts, strict=True):
        if part.tasks:
            tasks = np.asarray([code[name] for name in part.tasks])[
                np.concatenate([group.owners for group in part.targets])
            ]
            sums += np.bincount(tasks, each, len(names))
            counts += np.bincount(tasks, minlength=len(names))
    left = [float(sum(part.counts.get(name, 0) for part in parts)) for name in LEFT_OUT]
    row = np.concatenate(
        [sums, counts, left, [sum(len(part.image_ids) for part in parts), sum(len(part.tasks) for part in parts)]]
    )
    if accelerator.num_processes > 1:
        import torch

        row = accelerator.reduce(torch.from_numpy(row).to(accelerator.device), "sum").cpu().numpy()
    n = len(names)
    tasks_seen = {name: (float(row[i]), float(row[n + i])) for name, i in code.items() if row[n + i]}
    left_out = {name: int(row[2 * n + i]) for i, name in enumerate(LEFT_OUT) if row[2 * n + i]}
    return _Figures(
        state.Seen(float(row[:n].sum()), tasks_seen, float(row[n : 2 * n].sum())),
        left_out,
        float(row[-2]),
        float(row[-1]),
    )


def _rescaled(accelerator: Accelerator) -> bool:
    """Whether a gradient that is not finite comes of fp16's scale, which the scaler then lowers; the step is skipped."""
    return accelerator.scaler is not None and accelerator.scaler.get_scale() > 1


def _stop(
    step: int, loss: float, norm: float, parts: Sequence[Batch], folder: Store, key: str, accelerator: Accelerator
) -> None:
    """Say which images and tasks a step was about whose loss or gradient is not finite. Raises ModelError."""
    from accelerate.utils import gather_object

    about = [
        {
            "image_id": image,
            "tasks": sorted(
                {
                    part.tasks[row]
                    for row in np.flatnonzero(np.concatenate([group.images for group in part.prompts]) == number)
                }
            ),
        }
        for part in parts
        for number, image in enumerate(part.image_ids)
    ]
    if accelerator.num_processes > 1:
        about = gather_object(about)
    if accelerator.is_main_process:
        folder.write_json(
            f"{key}/{FAILED}", {"step": step, "loss": str(loss), "gradient_norm": str(norm), "images": about}
        )
    what = (
        f"the loss of step {step} is {loss}"
        if not math.isfinite(loss)
        else f"the gradient of step {step} has the norm {norm}"
    )
    raise ModelError(
        f"{what}; nothing was changed by it. {folder.uri}/{key}/{FAILED} names its {len(about)} images and their tasks "
        f"({', '.join(str(row['image_id'])[:12] for row in about[:6])}{' …' if len(about) > 6 else ''}). Lower train.lr or train.max_grad_norm, or look at these images' labels"
    )


def _meter(log: Log | None, settings: Train, accelerator: Accelerator) -> Meter | None:
    if log is None:
        return None
    import torch

    from florence.training.speed import Meter, matmul_peak

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision, torch.float32)
    return Meter(matmul_peak(accelerator.device, dtype) * accelerator.num_processes)


def _flops(learner: Learner, parts: Sequence[Batch], accelerator: Accelerator) -> float:
    """Operations of one process's step, counted on its first part: a step like it is taken to cost as much."""
    from florence.training.speed import flops

    part = next((part for part in parts if part.tasks), None)
    if part is None:
        return 0.0
    with accelerator.autocast():
        return float(flops(learner, part)) * len(parts)


def _row(step: int, rate: float, window: Sequence[state.Seen]) -> dict[str, float]:
    """A point of the curve: means over the tokens of a window of steps."""
    row: dict[str, float] = {
        "step": step,
        "loss": sum(seen.loss for seen in window) / max(sum(seen.tokens for seen in window), 1),
        "lr": rate,
    }
    for name in sorted({name for seen in window for name in seen.tasks}):
        pairs = [seen.tasks[name] for seen in window if name in seen.tasks]
        row[name] = sum(s for s, _ in pairs) / max(sum(c for _, c in pairs), 1)
    return row


def _live(row: dict[str, float]) -> dict[str, float]:
    return {
        (f"loss/{name.strip('<>')}" if name.startswith("<") else name): value
        for name, value in row.items()
        if name != "step"
    }
