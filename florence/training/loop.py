"""The training loop: the same bytes from the same dataset and settings on one machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from florence.config import TrainSettings
from florence.errors import ModelError, SettingsError
from florence.model.checkpoint import Checkpoint
from florence.progress import Log, Progress, show_nothing
from florence.store import Store
from florence.training.batches import BatchLoader, TrainingBatch
from florence.training.checkpoint import StepLoss, TrainingState, resume, save_checkpoint
from florence.training.dataset import LEFT_OUT, TrainingDataset
from florence.training.optimiser import make_optimiser, scheduled_rate
from florence.training.throughput import ThroughputMeter, count_flops, matmul_peak

if TYPE_CHECKING:
    from accelerate import Accelerator

    from florence.training.trainable import TrainableModel

LOG_EVERY = 20
"""Steps that one point of the curve averages."""
FAILED = "failed-step.json"
"""Beside the checkpoint: the images and tasks of the step whose loss or gradient was not finite."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The figures of a training.

    ``curve``: a row for every `LOG_EVERY` steps (step, loss, lr, and the loss of each task); ``resumed``: the step it
    was resumed from; ``left_out``: counts by `LEFT_OUT`; ``images``: number of training images.
    """

    steps: int
    resumed: int
    curve: tuple[Mapping[str, float], ...]
    left_out: Mapping[str, int]
    images: int


def train(
    checkpoint: Checkpoint,
    dataset: TrainingDataset,
    settings: TrainSettings,
    folder: Path,
    key: str,
    log: Log | None = None,
    progress: Progress = show_nothing,
) -> TrainingResult:
    """Train ``checkpoint.model`` in place, together with the other processes if it was started as one of several.

    Checkpoints are saved in ``folder`` under ``key``; a later call with the same key resumes from the last. ``log``
    gets every point of the curve, with images_per_second, pairs_per_second (an image and one task's example) and
    peak_share (of the measured matmul peak).

    Loss: the sum of the cross-entropies of all target tokens of a step, over every micro-batch and process, divided by
    their number; the same for every task (paper, section 3). Raises ModelError where a loss or gradient is not finite,
    before the optimiser's step, and SettingsError for settings that this machine does not support.
    """
    from florence.training.trainable import make_trainable

    accelerator = _make_accelerator(settings)
    checkpoint.model.to(accelerator.device)
    with make_trainable(checkpoint, settings) as model:
        optimiser = make_optimiser(checkpoint.model, settings)
        optimiser.zero_grad(set_to_none=True)  # of an earlier training of this model
        state = resume(folder, key, checkpoint.model, optimiser, accelerator.scaler)
        first = state.step
        _check_same_step(accelerator, first, folder)
        run = _Run(settings, accelerator, folder, key, *accelerator.prepare(model, optimiser))
        loader = BatchLoader(dataset, settings, accelerator.process_index, accelerator.num_processes)
        reporter = _make_reporter(log, progress, settings, accelerator)
        for step, batches in loader.iterate_from(first):
            rate = scheduled_rate(settings, step, loader.steps, loader.sparse_start)
            for group in optimiser.param_groups:
                group["lr"] = rate
            reporter.count_flops(model, batches, accelerator)
            statistics = _take_step(run, step, batches)
            _add_step(state, statistics)
            reporter.report_step(statistics, batches, step + 1, loader.steps)
            if (step + 1) % LOG_EVERY == 0 or step + 1 == loader.steps:
                state.curve.append(_curve_point(step + 1, rate, state.recent))
                state.recent = []
                reporter.report_point(state.curve[-1])
            if accelerator.is_main_process and (step + 1) % settings.save_steps == 0 and step + 1 < loader.steps:
                save_checkpoint(folder, key, state, checkpoint.model, optimiser, accelerator.scaler)
        accelerator.wait_for_everyone()
    left_out = dict(sorted(state.left_out.items()))
    return TrainingResult(loader.steps, first, tuple(state.curve), left_out, len(dataset))


def _make_accelerator(settings: TrainSettings) -> Accelerator:
    """Set threads and seed; return accelerate's view of the machine: a GPU, the other processes, if there are any."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    gpu = torch.cuda.is_available()
    if settings.precision == "fp16" and not gpu:
        raise SettingsError("train.precision: fp16 needs a GPU, and there is none; use bf16 or fp32")
    AcceleratorState._reset_state()  # another training of this process may have had another precision
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(settings.precision, settings.precision),
        cpu=not gpu,
        step_scheduler_with_optimizer=False,
    )
    torch.set_num_threads(settings.threads)  # accelerate may have set it
    return accelerator


def _check_same_step(accelerator: Accelerator, step: int, folder: Path) -> None:
    """Raise ModelError where processes found different checkpoints."""
    if accelerator.num_processes == 1:
        return
    from accelerate.utils import gather_object

    steps = sorted(set(gather_object([step])))
    if len(steps) > 1:
        raise ModelError(
            f"the processes resume from different steps ({', '.join(map(str, steps))}): "
            f"{folder} has to be one folder that all machines share"
        )


# ---------------------------------------------------------------- one step


@dataclass(frozen=True, slots=True)
class _Run:
    """What every step uses. ``model``: a `TrainableModel`; model and optimiser are wrapped by accelerate."""

    settings: TrainSettings
    accelerator: Accelerator
    folder: Path
    key: str
    model: Any
    optimiser: Any


@dataclass(frozen=True, slots=True)
class _StepStatistics:
    """One step, summed over all processes. ``pairs``: of an image and one task's example."""

    loss: StepLoss
    left_out: Mapping[str, int]
    images: float
    pairs: float


def _take_step(run: _Run, step: int, batches: Sequence[TrainingBatch]) -> _StepStatistics:
    """Take one optimiser step. Raises ModelError, with the weights unchanged, where loss or gradient is not finite."""
    settings, accelerator = run.settings, run.accelerator
    losses, tokens = _accumulate_gradients(run, step, batches)
    trained = [p for p in run.model.parameters() if p.requires_grad]
    norm = float(accelerator.clip_grad_norm_(trained, settings.max_grad_norm))
    statistics = _sum_statistics(losses, batches, settings, accelerator)
    loss = statistics.loss.loss
    if not math.isfinite(loss) or not (math.isfinite(norm) or _lowers_scale(accelerator)):
        _fail(run, step, loss / max(tokens, 1), norm, batches)
    if tokens:
        run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)
    return statistics


def _accumulate_gradients(run: _Run, step: int, batches: Sequence[TrainingBatch]) -> tuple[list[np.ndarray], int]:
    """Add up the gradient of one step; returns the losses (tokens,) of each batch, and the tokens of all processes."""
    import torch

    settings, accelerator = run.settings, run.accelerator
    world, rank = accelerator.num_processes, accelerator.process_index
    tokens = sum(batch.tokens for batch in batches)
    if world > 1:
        tokens = int(accelerator.reduce(torch.tensor(tokens, device=accelerator.device), "sum"))
    losses = []
    for number, batch in enumerate(batches):
        # dropout has a seed of its own in every step and batch, so that none of its state has to be saved
        seed = np.random.SeedSequence([settings.seed, 2, step, rank * len(batches) + number])
        torch.manual_seed(int(seed.generate_state(1, np.uint32)[0]))
        is_last = number + 1 == len(batches)
        with nullcontext() if is_last else accelerator.no_sync(run.model):
            total, each = run.model(batch)
            if tokens:
                # accelerate averages gradients over processes; wanted is their sum, divided by all tokens
                accelerator.backward(total * (world / tokens))
        losses.append(each.float().cpu().numpy())
    return losses, tokens


def _sum_statistics(
    losses: Sequence[np.ndarray], batches: Sequence[TrainingBatch], settings: TrainSettings, accelerator: Accelerator
) -> _StepStatistics:
    """Sum losses and tokens by task, and what was left out, over the batches of all processes."""
    names = settings.drawn
    code = {name: number for number, name in enumerate(names)}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for each, batch in zip(losses, batches, strict=True):
        if batch.tasks:
            rows = np.concatenate([group.label_rows for group in batch.targets])
            tasks = np.asarray([code[name] for name in batch.tasks])[rows]
            sums += np.bincount(tasks, each, len(names))
            counts += np.bincount(tasks, minlength=len(names))
    left_out = [float(sum(batch.left_out.get(name, 0) for batch in batches)) for name in LEFT_OUT]
    sizes = [sum(len(batch.image_ids) for batch in batches), sum(len(batch.tasks) for batch in batches)]
    row = np.concatenate([sums, counts, left_out, sizes])
    if accelerator.num_processes > 1:
        import torch

        row = accelerator.reduce(torch.from_numpy(row).to(accelerator.device), "sum").cpu().numpy()
    n = len(names)
    by_task = {name: (float(row[i]), float(row[n + i])) for name, i in code.items() if row[n + i]}
    return _StepStatistics(
        StepLoss(float(row[:n].sum()), by_task, float(row[n : 2 * n].sum())),
        {name: int(row[2 * n + i]) for i, name in enumerate(LEFT_OUT) if row[2 * n + i]},
        float(row[-2]),
        float(row[-1]),
    )


def _lowers_scale(accelerator: Accelerator) -> bool:
    """Whether the scaler of fp16 answers a gradient that is not finite by lowering its scale and skipping the step."""
    return accelerator.scaler is not None and accelerator.scaler.get_scale() > 1


def _fail(run: _Run, step: int, loss: float, norm: float, batches: Sequence[TrainingBatch]) -> None:
    """Write the images and tasks of a step whose loss or gradient is not finite, and raise ModelError."""
    from accelerate.utils import gather_object

    images = [
        {
            "image_id": image,
            "tasks": sorted(
                {
                    batch.tasks[row]
                    for row in np.flatnonzero(np.concatenate([group.images for group in batch.prompts]) == number)
                }
            ),
        }
        for batch in batches
        for number, image in enumerate(batch.image_ids)
    ]
    if run.accelerator.num_processes > 1:
        images = gather_object(images)
    store, name = Store(str(run.folder)), f"{run.key}/{FAILED}"
    if run.accelerator.is_main_process:
        store.write_json(name, {"step": step, "loss": str(loss), "gradient_norm": str(norm), "images": images})
    what = (
        f"the gradient of step {step} has the norm {norm}"
        if math.isfinite(loss)
        else f"the loss of step {step} is {loss}"
    )
    first = ", ".join(str(row["image_id"])[:12] for row in images[:6])
    raise ModelError(
        f"{what}; the weights were not changed by it. {store.uri}/{name} names its {len(images)} images "
        f"and their tasks ({first}{' …' if len(images) > 6 else ''}). Lower train.lr or train.max_grad_norm, "
        "or look at the labels of these images"
    )


# ---------------------------------------------------------------- the curve, and what people see


def _add_step(state: TrainingState, statistics: _StepStatistics) -> None:
    """Add a step that is done to the state."""
    state.step += 1
    state.recent.append(statistics.loss)
    for name, count in statistics.left_out.items():
        state.left_out[name] = state.left_out.get(name, 0) + count


def _curve_point(step: int, rate: float, recent: Sequence[StepLoss]) -> dict[str, float]:
    """Return a point of the curve: means over the tokens of the recent steps."""
    row: dict[str, float] = {
        "step": step,
        "loss": sum(loss.loss for loss in recent) / max(sum(loss.tokens for loss in recent), 1),
        "lr": rate,
    }
    for name in sorted({name for loss in recent for name in loss.tasks}):
        pairs = [loss.tasks[name] for loss in recent if name in loss.tasks]
        row[name] = sum(s for s, _ in pairs) / max(sum(c for _, c in pairs), 1)
    return row


@dataclass
class _Reporter:
    """Reports a training to ``log`` and ``progress``. ``meter``: None where nothing is logged.

    ``processes``: number of them; ``flops``: operations of one process's step, by image size.
    """

    log: Log | None
    progress: Progress
    meter: ThroughputMeter | None
    processes: int
    flops: dict[int, float] = field(default_factory=dict)

    def count_flops(self, model: TrainableModel, batches: Sequence[TrainingBatch], accelerator: Accelerator) -> None:
        """Count the operations of the first step at an image size; steps like it cost about as much."""
        side = batches[0].pixel_values.shape[1]
        if self.meter is None or side in self.flops:
            return
        batch = next((batch for batch in batches if batch.tasks), None)
        self.flops[side] = 0.0
        if batch is not None:
            with accelerator.autocast():
                self.flops[side] = float(count_flops(model, batch)) * len(batches)

    def report_step(self, statistics: _StepStatistics, batches: Sequence[TrainingBatch], step: int, steps: int) -> None:
        """Report that ``step`` of ``steps`` steps are done."""
        if self.meter is not None:
            flops = self.flops[batches[0].pixel_values.shape[1]] * self.processes
            self.meter.add(statistics.images, statistics.pairs, flops)
        self.progress("train", step, steps)

    def report_point(self, point: Mapping[str, float]) -> None:
        """Log a point of the curve, with the speed since the last one."""
        if self.meter is None or self.log is None:
            return
        values = {
            (f"loss/{name.strip('<>')}" if name.startswith("<") else name): value
            for name, value in point.items()
            if name != "step"
        }
        self.log(int(point["step"]), {**values, **self.meter.read()})


def _make_reporter(log: Log | None, progress: Progress, settings: TrainSettings, accelerator: Accelerator) -> _Reporter:
    """Return the reporter of this process; only the main process reports."""
    if not accelerator.is_main_process:
        return _Reporter(None, show_nothing, None, accelerator.num_processes)
    if log is None:
        return _Reporter(None, progress, None, accelerator.num_processes)
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision, torch.float32)
    peak = matmul_peak(accelerator.device, dtype) * accelerator.num_processes
    return _Reporter(log, progress, ThroughputMeter(peak), accelerator.num_processes)
