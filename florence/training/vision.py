"""The vision tower's first lesson, before any text: what, in which colour and from where to where, at every cell of its last stage.

The paper starts from a vision encoder that knows images already (UniCL); a tower that starts from noise learns to see far sooner from a
target in every cell than through a decoder's words. Used to make the weights that come with the package; the head is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from florence.geometry import rasterise
from florence.model.checkpoint import Checkpoint
from florence.pixels import decode
from florence.records import Annotation, ImageRecord, table_annotations, table_images
from florence.store import Store

COVERED = 0.25
"""Share of a cell that an object has to cover to be the cell's."""
NOTHING = 0.3
"""Weight of cells without an object in the loss of names."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Cells:
    """Targets at every cell. ``squares``: (n, side, side, 3) uint8; ``names``: (n, g, g), 0 where there is nothing; ``colours``: (n, g, g), −1 where not
    told; ``boxes``: (n, 4, g, g), the object's box as shares of the image; ``kinds``: number of names, nothing included; ``tones``: of colours."""

    squares: np.ndarray
    names: np.ndarray
    colours: np.ndarray
    boxes: np.ndarray
    kinds: int
    tones: int


def cells(checkpoint: Checkpoint, data: Store, colours: tuple[str, ...]) -> Cells:
    """The targets of every image in ``data`` whose objects' outlines are in its ``truth/``. Colours are read from the objects' descriptions."""
    grid = _grid(checkpoint)
    names: dict[str, int] = {}
    rows: list[tuple[np.ndarray, ...]] = []
    for shard in data.names("images", ".parquet"):
        truth: dict[str, list[Annotation]] = {}
        for row in table_annotations(data.read_table(shard.replace("images/", "truth/", 1))):
            truth.setdefault(row.image_id, []).append(row)
        for record, content in table_images(data.read_table(shard)):
            square = checkpoint.shrink(decode(content or b"", record.name))
            rows.append((square, *_targets(record, truth.get(record.image_id, []), grid, names, colours)))
    stacked = [np.stack(part) for part in zip(*rows, strict=True)]
    return Cells(stacked[0], stacked[1], stacked[2], stacked[3], len(names) + 1, len(colours))


def _grid(checkpoint: Checkpoint) -> int:
    from florence.model.checkpoint import image_tokens

    return math.isqrt(image_tokens(checkpoint) - 1)


def _targets(record: ImageRecord, truth: list[Annotation], grid: int, names: dict[str, int], colours: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    label, tone, box = np.zeros((grid, grid), np.int64), -np.ones((grid, grid), np.int64), np.zeros((4, grid, grid), np.float32)
    told = {row.regions[0].box: row.text.split() for row in truth if row.task == "<DENSE_REGION_CAPTION>"}
    size = np.asarray([record.width, record.height] * 2, float)
    objects = [row for row in truth if row.task == "<OD>"]
    # the smaller of two that share a cell has it
    for row in sorted(objects, key=lambda row: -float(np.prod(np.subtract(row.regions[0].bounds[2:], row.regions[0].bounds[:2])))):
        side = grid * 8
        outline = [[v * side / (record.height if i & 1 else record.width) for i, v in enumerate(points)] for points in row.regions[0].polygons]
        mask = rasterise(outline, side, side).reshape(grid, 8, grid, 8).mean(axis=(1, 3)) > COVERED
        label[mask] = names.setdefault(row.text, len(names) + 1)
        tone[mask] = next((colours.index(word) for word in told.get(row.regions[0].box, []) if word in colours), -1)
        box[:, mask] = (np.asarray(row.regions[0].bounds) / size)[:, None]
    return label, tone, box


def see(checkpoint: Checkpoint, seen: Cells, *, steps: int, batch: int = 48, lr: float = 1.5e-3, seed: int = 0, threads: int = 2, progress: Progress | None = None) -> float:
    """Train the vision tower in place on ``seen``, mirrored at random; returns the last loss.

    Loss: cross-entropy of the name, half that of the colour, twice the smooth L1 distance of the box, each a mean over its cells.
    """
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tower = checkpoint.model.model.vision_tower.train()
    width = checkpoint.model.config.vision_config.embed_dim[-1]
    head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, seen.kinds + seen.tones + 4))
    parameters = [*tower.parameters(), *head.parameters()]
    groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05}, {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=lr, fused=True)
    loss = torch.zeros(())
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        random = np.random.default_rng([seed, step])
        chosen = random.choice(len(seen.squares), min(batch, len(seen.squares)), replace=False)
        squares, names, colours, boxes = _mirrored(seen, chosen, random.random(len(chosen)) < 0.5)
        said = head(tower(checkpoint.tensor(squares)).last_hidden_state.permute(0, 2, 3, 1))
        loss = _loss(said, names, colours, boxes, seen)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if progress:
            progress("see", step + 1, steps)
    checkpoint.model.eval()
    return float(loss.detach())


def _mirrored(seen: Cells, chosen: np.ndarray, turned: np.ndarray) -> tuple[np.ndarray, ...]:
    """The chosen images and targets, left and right exchanged where ``turned``."""
    squares, names, colours, boxes = (part[chosen].copy() for part in (seen.squares, seen.names, seen.colours, seen.boxes))
    squares[turned] = squares[turned][:, :, ::-1]
    names[turned], colours[turned] = names[turned][:, :, ::-1], colours[turned][:, :, ::-1]
    x0, y0, x1, y1 = np.moveaxis(boxes[turned][..., ::-1], 1, 0)
    boxes[turned] = np.stack([1 - x1, y0, 1 - x0, y1], axis=1)
    return squares, names, colours, boxes


def _loss(said: Any, names: np.ndarray, colours: np.ndarray, boxes: np.ndarray, seen: Cells) -> Any:
    import torch
    from torch.nn.functional import cross_entropy, smooth_l1_loss

    what, tone, place = said.split([seen.kinds, seen.tones, 4], dim=-1)
    weight = torch.ones(seen.kinds)
    weight[0] = NOTHING
    labels, tones = torch.from_numpy(names), torch.from_numpy(colours)
    there, told = labels > 0, tones >= 0
    boxes_there = torch.from_numpy(boxes).permute(0, 2, 3, 1)[there]
    return (
        cross_entropy(what.flatten(0, 2), labels.flatten(), weight=weight)
        + 0.5 * cross_entropy(tone[told], tones[told])
        + 2 * smooth_l1_loss(place[there].sigmoid(), boxes_there, beta=0.05)
    )
