"""The vision tower's first lesson, before any text: what, in which colour and from where to where, at every cell of its last stage.

The paper starts from a vision encoder that knows images already (UniCL); a tower that starts from noise learns to see far sooner from a
target in every cell than through a decoder's words. Used to make the weights that come with the package; the head is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from florence.geometry import rasterise
from florence.model.checkpoint import Checkpoint
from florence.pixels import decode
from florence.records import Annotation, ImageRecord, table_annotations, table_images
from florence.store import Store
from florence.training import state

if TYPE_CHECKING:
    import torch

COVERED = 0.25
"""Share of a cell that an object has to cover to be the cell's."""
NOTHING = 0.3
"""Weight of cells without an object in the loss of names."""
RARE = 4.0
"""Weight of a letter that is there against one that is not."""
WAVES = 12
"""A side of a box is told as cos(πkx) of its place x (0 … 1) for k = 1 … this many."""
PLACE = 4.0
"""Weight of the boxes in the loss."""
FINE = 8
"""Parts of a cell's side in which an outline is told."""
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What is looked for in written signs."""
PARTS = 2
"""Parts from left to right in which a cell's letters are told: a cell is as wide as two letters, and their order has to be seen."""
SAVE_EVERY = 250
"""Steps between checkpoints."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Cells:
    """Targets at every cell. ``squares``: (n, side, side, 3) uint8; ``names``: (n, g, g), 0 where there is nothing; ``words``: (n, kinds, g, g), for each kind of
    attribute the number of its word, 0 where none of them is said, −1 where there is no object; ``boxes``: (n, 4, g, g), the object's box as shares
    of the image; ``letters``: (n, PARTS · `LETTERS`, g, g) bool, which have their middle in each part of the cell; ``kinds``: number of names, nothing included; ``sizes``: of
    each kind of attribute, nothing said included; ``outlines``: (n, FINE², g, g) bool, the parts of the cell, row by row, that the object covers."""

    squares: np.ndarray
    names: np.ndarray
    words: np.ndarray
    boxes: np.ndarray
    letters: np.ndarray
    outlines: np.ndarray
    kinds: int
    sizes: tuple[int, ...]


def cells(checkpoint: Checkpoint, data: Store, attributes: Sequence[Sequence[str]], split: str = "train") -> Cells:
    """The targets of every image of a split in ``data`` whose objects' outlines are in its ``truth/``. Attributes are read from the objects' descriptions."""
    grid = _grid(checkpoint)
    names: dict[str, int] = {}
    rows: list[tuple[np.ndarray, ...]] = []
    for shard in data.names("images", ".parquet"):
        truth: dict[str, list[Annotation]] = {}
        for row in table_annotations(data.read_table(shard.replace("images/", "truth/", 1))):
            truth.setdefault(row.image_id, []).append(row)
            if row.task == "<OD>":
                names.setdefault(row.text, len(names) + 1)
        for record, content in table_images(data.read_table(shard, filters=[("split", "=", split)])):
            square = checkpoint.shrink(decode(content or b"", record.name))
            rows.append((square, *_targets(record, truth.get(record.image_id, []), grid, names, attributes)))
    stacked = [np.stack(part) for part in zip(*rows, strict=True)]
    squares, labels, words, boxes, letters, outlines = stacked
    return Cells(
        squares, labels, words, boxes, letters, outlines, len(names) + 1, tuple(len(kind) + 1 for kind in attributes)
    )


def _grid(checkpoint: Checkpoint) -> int:
    from florence.model.checkpoint import image_tokens

    return math.isqrt(image_tokens(checkpoint) - 1)


def _targets(
    record: ImageRecord, truth: list[Annotation], grid: int, names: dict[str, int], attributes: Sequence[Sequence[str]]
) -> tuple[np.ndarray, ...]:
    label, box = np.zeros((grid, grid), np.int16), np.zeros((4, grid, grid), np.float32)
    fine = np.zeros((FINE * FINE, grid, grid), bool)
    words, letters = (
        -np.ones((len(attributes), grid, grid), np.int8),
        np.zeros((PARTS * len(LETTERS), grid, grid), bool),
    )
    told = {row.regions[0].box: row.text.split() for row in truth if row.task == "<DENSE_REGION_CAPTION>"}
    size = np.asarray([record.width, record.height] * 2, float)
    objects = [row for row in truth if row.task == "<OD>"]
    # the smaller of two that share a cell has it
    for row in sorted(
        objects, key=lambda row: -float(np.prod(np.subtract(row.regions[0].bounds[2:], row.regions[0].bounds[:2])))
    ):
        side = grid * FINE
        outline = [
            [v * side / (record.height if i & 1 else record.width) for i, v in enumerate(points)]
            for points in row.regions[0].polygons
        ]
        parts = (
            rasterise(outline, side, side)
            .reshape(grid, FINE, grid, FINE)
            .transpose(1, 3, 0, 2)
            .reshape(FINE * FINE, grid, grid)
        )
        mask = parts.mean(axis=0) > COVERED
        fine[:, mask] = parts[:, mask]
        label[mask] = names[row.text]
        said = told.get(row.regions[0].box, [])
        for kind, known in enumerate(attributes):
            words[kind][mask] = next((known.index(word) + 1 for word in said if word in known), 0)
        box[:, mask] = (np.asarray(row.regions[0].bounds) / size)[:, None]
    for row in truth:
        if row.task == "<OCR_WITH_REGION>" and row.regions[0].quad:
            corners = np.asarray(row.regions[0].quad, float).reshape(4, 2) / size[:2]
            left, right = (corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2
            for place, letter in enumerate(row.text):
                x, y = (left + (right - left) * (place + 0.5) / len(row.text)) * grid
                if letter in LETTERS and 0 <= x < grid and 0 <= y < grid:
                    letters[int(x % 1 * PARTS) * len(LETTERS) + LETTERS.index(letter), int(y), int(x)] = True
    return label, words, box, letters, fine


def see(
    checkpoint: Checkpoint,
    seen: Cells,
    folder: Path,
    key: str,
    *,
    steps: int,
    batch: int = 48,
    lr: float = 3e-3,
    letters: float = 1.0,
    seed: int = 0,
    threads: int = 2,
    progress: Progress | None = None,
) -> float:
    """Train the vision tower in place on ``seen``, mirrored at random; returns the last loss. Killed, it goes on from the last checkpoint ``key`` in ``folder``.

    Loss: the sum of the cross-entropies of names and (half) of attributes, the squared error of boxes, the binary cross-entropy of outlines, and ``letters`` times that of
    letters, summed over them: each a mean over its cells. Boxes are told in waves, as location tokens start (`florence.model.presets.initialise`): a product of two such codes has its peak
    where both mean one place, so that the language model soon finds a region that it is asked about, and soon tells where a thing is.
    """
    import torch

    from florence.training.muon import Muon, hidden_matrices

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tower = checkpoint.model.model.vision_tower.train()
    width = checkpoint.model.config.vision_config.embed_dim[-1]
    head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, sum(_widths(seen))))
    both = torch.nn.ModuleDict({"tower": tower, "head": head})
    matrices = hidden_matrices(tower)
    hidden = {id(p) for p in matrices}
    optimiser = Muon(matrices, [p for p in both.parameters() if id(p) not in hidden], lr=lr, weight_decay=0.05)
    where = state.resume(folder, key, both, optimiser)
    loss = torch.zeros(())
    for step in range(where.step, steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        random = np.random.default_rng([seed, step])
        chosen = random.choice(len(seen.squares), min(batch, len(seen.squares)), replace=False)
        some = _mirrored(seen, chosen, random.random(len(chosen)) < 0.5)
        loss = _loss(head(tower(checkpoint.tensor(some.squares)).last_hidden_state.permute(0, 2, 3, 1)), some, letters)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimiser.step()
        where.step = step + 1
        if where.step % SAVE_EVERY == 0 or where.step == steps:
            state.save(folder, key, where, both, optimiser)
        if progress:
            progress(key, step + 1, steps)
    checkpoint.model.eval()
    return float(loss.detach())


def _widths(seen: Cells) -> list[int]:
    """How many numbers the head gives of names, each kind of attribute, place, letters and outline."""
    return [seen.kinds, *seen.sizes, 4 * WAVES, PARTS * len(LETTERS), FINE * FINE]


def _mirrored(seen: Cells, chosen: np.ndarray, turned: np.ndarray) -> Cells:
    """The chosen images and targets, left and right exchanged where ``turned``; mirrored letters are no letters, so images with signs stay as they are."""
    squares, names, words, boxes = (part[chosen].copy() for part in (seen.squares, seen.names, seen.words, seen.boxes))
    letters, outlines = seen.letters[chosen], seen.outlines[chosen].copy()
    turned = turned & ~letters.any(axis=(1, 2, 3))
    squares[turned] = squares[turned][:, :, ::-1]
    names[turned], words[turned] = names[turned][:, :, ::-1], words[turned][..., ::-1]
    x0, y0, x1, y1 = np.moveaxis(boxes[turned][..., ::-1], 1, 0)
    boxes[turned] = np.stack([1 - x1, y0, 1 - x0, y1], axis=1)
    grid = names.shape[1]
    parts = outlines[turned].reshape(-1, FINE, FINE, grid, grid)
    outlines[turned] = parts[:, :, ::-1, :, ::-1].reshape(-1, FINE * FINE, grid, grid)
    return replace(seen, squares=squares, names=names, words=words, boxes=boxes, letters=letters, outlines=outlines)


def _loss(said: torch.Tensor, some: Cells, letters: float) -> torch.Tensor:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

    what, *told, place, written, drawn = said.split(_widths(some), dim=-1)
    weight = torch.ones(some.kinds)
    weight[0] = NOTHING
    labels = torch.from_numpy(some.names).long()
    there = labels > 0
    loss = cross_entropy(what.flatten(0, 2), labels.flatten(), weight=weight)
    for kind, logits in enumerate(told):
        loss = loss + 0.5 * cross_entropy(logits[there], torch.from_numpy(some.words[:, kind]).long()[there])
    sides = torch.from_numpy(some.boxes).permute(0, 2, 3, 1)[there]
    waves = torch.cos(math.pi * sides[..., None] * torch.arange(1, WAVES + 1)).flatten(1)
    loss = loss + PLACE * mse_loss(place[there], waves)
    loss = loss + binary_cross_entropy_with_logits(
        drawn[there], torch.from_numpy(some.outlines).permute(0, 2, 3, 1)[there].float()
    )
    ink = torch.from_numpy(some.letters).permute(0, 2, 3, 1)
    inked = ink.any(dim=-1)
    if bool(inked.any()):
        loss = loss + letters * ink.shape[-1] * binary_cross_entropy_with_logits(
            written[inked], ink[inked].float(), pos_weight=torch.tensor(RARE)
        )
    return loss
