"""The training loop: flat, in reading order, the same bytes from the same corpus and settings on one machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from florence.config import Train
from florence.errors import ModelError
from florence.model.checkpoint import Checkpoint
from florence.model.encoding import encode, image_features
from florence.training import state
from florence.training.batches import IGNORED, Batch, batch, steps_of
from florence.training.corpus import Corpus, Progress

if TYPE_CHECKING:
    import torch

Log = Callable[[int, dict[str, float]], None]
LOG_EVERY = 20
"""Steps that a point of the curve is the mean of."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training did. ``curve``: a row for every `LOG_EVERY` steps (step, loss, lr, and the loss of each task); ``resumed``: the step it went on from."""

    steps: int
    resumed: int
    curve: tuple[Mapping[str, float], ...]
    counts: Mapping[str, int]


def train(
    checkpoint: Checkpoint, corpus: Corpus, settings: Train, folder: Path, key: str, log: Log = lambda step, values: None, progress: Progress = lambda what, done, of: None
) -> Trained:
    """Train ``checkpoint.model`` in place. Checkpoints go to ``folder`` under ``key``; a later call with the same key goes on from the last.

    Loss: cross-entropy of the target tokens, the mean over all valid ones of a step, the same for every task (paper, section 3).
    Raises ModelError where the loss is not finite, before the optimiser's step, naming the images.
    """
    import torch

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = checkpoint.model.train()
    steps = steps_of(settings, len(corpus.records))
    optimiser = _optimiser(model, settings)
    saved = state.resume(folder, key, model, optimiser)
    first, curve, window = (saved.step, list(saved.curve), list(saved.window)) if saved else (0, [], [])
    began, seen = time.perf_counter(), 0
    for step, data in _prefetched(corpus, settings, first, steps, checkpoint):
        rate = learning_rate(settings, step, steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(settings.seed * 1_000_003 + step)
        loss, by_task, valid = _step_loss(checkpoint, data)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"the loss of step {step} is {value}; nothing was changed by it. Images: {', '.join(i[:12] for i in data.image_ids)}. "
                "Lower train.lr or train.clip, or look at these images' labels"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        window.append(state.Seen(value * valid, by_task, valid))
        seen += len(data.image_ids)
        progress("train", step + 1, steps)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            row = _row(step + 1, rate, window)
            curve.append(row)
            log(step + 1, {**_live(row), "images_per_second": seen / (time.perf_counter() - began)})
            window = []
        if (step + 1) % settings.checkpoint_every == 0 and step + 1 < steps:
            state.save(folder, key, step + 1, model, optimiser, curve, window)
    model.eval()
    return Trained(steps, first, tuple(curve), dict(sorted(corpus.counts.items())))


def learning_rate(settings: Train, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    warmup = min(settings.warmup, steps // 10)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _optimiser(model: Any, settings: Train) -> torch.optim.AdamW:
    """AdamW; vectors (norms, biases) are not decayed."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), eps=1e-8, fused=True)


def _prefetched(corpus: Corpus, settings: Train, first: int, steps: int, checkpoint: Checkpoint) -> Iterator[tuple[int, Batch]]:
    """(step, batch) from ``first`` on; the next batch is made while the last one is learnt from."""
    text = checkpoint.model.config.text_config

    def make(step: int) -> Batch:
        return batch(corpus, settings, step, text.pad_token_id, text.decoder_start_token_id)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, first) if first < steps else None
        for step in range(first, steps):
            data = coming.result()  # type: ignore[union-attr]
            coming = pool.submit(make, step + 1) if step + 1 < steps else None
            yield step, data


def _step_loss(checkpoint: Checkpoint, data: Batch) -> tuple[torch.Tensor, dict[str, tuple[float, int]], int]:
    """(mean loss over the valid tokens, per task (sum of losses, valid tokens), valid tokens)."""
    import torch

    model = checkpoint.model
    device = model.device
    features = image_features(model, checkpoint.tensor(data.squares).to(device))
    states, mask = encode(model, features, torch.from_numpy(data.images).to(device), torch.from_numpy(data.prompts).to(device))
    parts, owners = [], []
    for group in data.groups:
        rows = torch.from_numpy(group.rows).to(device)
        hidden = model.model.language_model.decoder(
            input_ids=torch.from_numpy(group.inputs).to(device), encoder_hidden_states=states[rows], encoder_attention_mask=mask[rows], use_cache=False
        ).last_hidden_state
        labels = torch.from_numpy(group.labels).to(device)
        valid = labels != IGNORED
        # the head, which is most of a small model's work, sees valid tokens alone
        parts.append(torch.nn.functional.cross_entropy(model.lm_head(hidden[valid]).float(), labels[valid], reduction="none"))
        owners.append(np.repeat(group.rows, (group.labels != IGNORED).sum(axis=1)))
    losses = torch.cat(parts)
    return losses.mean(), _by_task(data.tasks, np.concatenate(owners), losses.detach().cpu().numpy()), len(losses)


def _by_task(tasks: tuple[str, ...], owners: np.ndarray, losses: np.ndarray) -> dict[str, tuple[float, int]]:
    names = sorted(set(tasks))
    code = np.asarray([names.index(name) for name in tasks])[owners]
    sums, counts = np.bincount(code, losses, len(names)), np.bincount(code, minlength=len(names))
    return {name: (float(s), int(c)) for name, s, c in zip(names, sums, counts, strict=True)}


def _row(step: int, rate: float, window: list[state.Seen]) -> dict[str, float]:
    """A point of the curve: means over the tokens of a window of steps."""
    row: dict[str, float] = {"step": step, "loss": sum(seen.loss for seen in window) / sum(seen.tokens for seen in window), "lr": rate}
    for name in sorted({name for seen in window for name in seen.tasks}):
        pairs = [seen.tasks[name] for seen in window if name in seen.tasks]
        row[name] = sum(s for s, _ in pairs) / max(sum(c for _, c in pairs), 1)
    return row


def _live(row: dict[str, float]) -> dict[str, float]:
    return {(f"loss/{name.strip('<>')}" if name.startswith("<") else name): value for name, value in row.items() if name != "step"}
