"""Pretraining of the vision tower: name, attributes, box, mask and letters at every cell of its last stage.

The paper starts from a vision encoder that was trained on images before (UniCL). A tower that starts from noise learns
far sooner from a target in every cell than through the text of a decoder. Used to make the weights that come with the
package; the head is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from florence.geometry import rasterise
from florence.images import decode_image
from florence.model.checkpoint import Checkpoint, image_tokens
from florence.progress import Progress, show_nothing
from florence.records import Annotation, ImageRecord, table_annotations, table_images
from florence.store import Store
from florence.training.checkpoint import resume, save_checkpoint

if TYPE_CHECKING:
    import torch

MIN_COVERED = 0.25
"""Least share of a cell that an object covers to own it."""
EMPTY_WEIGHT = 0.3
"""Weight of cells without an object in the loss of names."""
POSITIVE_WEIGHT = 4.0
"""Weight of a letter that is there, against 1 of a letter that is not."""
WAVES = 12
"""A coordinate x (0 … 1) of a box is predicted as cos(πkx) for k = 1 … this many."""
BOX_WEIGHT = 4.0
"""Weight of the boxes in the loss."""
MASK_PARTS = 8
"""Parts of a cell's side in which its mask is predicted."""
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What is looked for in written signs."""
LETTER_PARTS = 2
"""Parts, from left to right, in which the letters of a cell are predicted: a cell is two letters wide, and their order
matters."""
SAVE_STEPS = 250
"""Steps between checkpoints."""


@dataclass(frozen=True, slots=True)
class CellTargets:
    """The targets at every cell of the grid (g, g) of n images.

    ``pixels``: (n, side, side, 3) uint8; ``names``: (n, g, g), number of the object's name, 0 where there is none;
    ``attributes``: (n, types, g, g), for each type of attribute the number of its word, 0 where the description has
    none of them, −1 where there is no object; ``boxes``: (n, 4, g, g), the object's box as shares of the image;
    ``letters``: (n, LETTER_PARTS · `LETTERS`, g, g) bool, whose middle is in each part of the cell; ``masks``: (n,
    MASK_PARTS², g, g) bool, the parts of the cell, row by row, that the object covers; ``name_count``: names, "none"
    included; ``word_counts``: words of each type of attribute, "none" included.
    """

    pixels: np.ndarray
    names: np.ndarray
    attributes: np.ndarray
    boxes: np.ndarray
    letters: np.ndarray
    masks: np.ndarray
    name_count: int
    word_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VisionSettings:
    """Settings of one training of the vision tower. ``letters``: weight of the letters in the loss."""

    steps: int
    batch_size: int = 48
    lr: float = 3e-3
    letters: float = 1.0
    threads: int = 2


def read_cell_targets(
    checkpoint: Checkpoint, data: Store, attributes: Sequence[Sequence[str]], split: str = "train"
) -> CellTargets:
    """Read the targets of every image of ``split`` in ``data``, whose `truth/` has the objects' polygons.

    ``attributes``: the words of each type of attribute, which are looked for in the objects' descriptions.
    """
    grid = math.isqrt(image_tokens(checkpoint) - 1)
    names: dict[str, int] = {}
    rows: list[tuple[np.ndarray, ...]] = []
    for shard in data.names("images", ".parquet"):
        truth: dict[str, list[Annotation]] = {}
        for row in table_annotations(data.read_table(shard.replace("images/", "truth/", 1))):
            truth.setdefault(row.image_id, []).append(row)
            if row.task == "<OD>":
                names.setdefault(row.text, len(names) + 1)
        for record, content in table_images(data.read_table(shard, filters=[("split", "=", split)])):
            pixels = checkpoint.resize(decode_image(content or b"", record.name))
            annotations = truth.get(record.image_id, [])
            objects = _object_targets(record, annotations, grid, names, attributes)
            rows.append((pixels, *objects, _letter_targets(record, annotations, grid)))
    pixels, labels, words, boxes, masks, letters = (np.stack(part) for part in zip(*rows, strict=True))
    word_counts = tuple(len(known) + 1 for known in attributes)
    return CellTargets(pixels, labels, words, boxes, letters, masks, len(names) + 1, word_counts)


def _object_targets(
    record: ImageRecord,
    truth: list[Annotation],
    grid: int,
    names: Mapping[str, int],
    attributes: Sequence[Sequence[str]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return names, attributes, boxes and masks of one image, as in `CellTargets`."""
    labels, boxes = np.zeros((grid, grid), np.int16), np.zeros((4, grid, grid), np.float32)
    masks = np.zeros((MASK_PARTS * MASK_PARTS, grid, grid), bool)
    words = -np.ones((len(attributes), grid, grid), np.int8)
    descriptions = {row.regions[0].box: row.text.split() for row in truth if row.task == "<DENSE_REGION_CAPTION>"}
    size = np.asarray([record.width, record.height] * 2, float)
    objects = [row for row in truth if row.task == "<OD>"]
    # largest first, so that the smaller of two that share a cell keeps it
    for row in sorted(objects, key=_negative_area):
        parts = _mask_parts(record, row, grid)
        is_covered = parts.mean(axis=0) > MIN_COVERED
        masks[:, is_covered] = parts[:, is_covered]
        labels[is_covered] = names[row.text]
        description = descriptions.get(row.regions[0].box, [])
        for number, known in enumerate(attributes):
            words[number][is_covered] = next((known.index(word) + 1 for word in description if word in known), 0)
        boxes[:, is_covered] = (np.asarray(row.regions[0].bounds) / size)[:, None]
    return labels, words, boxes, masks


def _negative_area(row: Annotation) -> float:
    bounds = row.regions[0].bounds
    return -float(np.prod(np.subtract(bounds[2:], bounds[:2])))


def _mask_parts(record: ImageRecord, row: Annotation, grid: int) -> np.ndarray:
    """Return which parts of each cell an object covers, (MASK_PARTS², g, g) bool."""
    side = grid * MASK_PARTS
    polygons = [
        [v * side / (record.height if i & 1 else record.width) for i, v in enumerate(points)]
        for points in row.regions[0].polygons
    ]
    parts = rasterise(polygons, side, side).reshape(grid, MASK_PARTS, grid, MASK_PARTS)
    return parts.transpose(1, 3, 0, 2).reshape(MASK_PARTS * MASK_PARTS, grid, grid)


def _letter_targets(record: ImageRecord, truth: list[Annotation], grid: int) -> np.ndarray:
    """Return the letters of one image, as in `CellTargets`."""
    letters = np.zeros((LETTER_PARTS * len(LETTERS), grid, grid), bool)
    size = np.asarray([record.width, record.height], float)
    for row in truth:
        if row.task == "<OCR_WITH_REGION>" and row.regions[0].quad:
            corners = np.asarray(row.regions[0].quad, float).reshape(4, 2) / size
            left, right = (corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2
            for number, letter in enumerate(row.text):
                x, y = (left + (right - left) * (number + 0.5) / len(row.text)) * grid
                if letter in LETTERS and 0 <= x < grid and 0 <= y < grid:
                    part = int(x % 1 * LETTER_PARTS)
                    letters[part * len(LETTERS) + LETTERS.index(letter), int(y), int(x)] = True
    return letters


def train_vision_tower(
    checkpoint: Checkpoint,
    targets: CellTargets,
    settings: VisionSettings,
    folder: Path,
    key: str,
    *,
    seed: int = 0,
    progress: Progress = show_nothing,
) -> float:
    """Train the vision tower in place on ``targets``, mirrored at random; returns the last loss.

    If it is killed, it resumes from the last checkpoint ``key`` in ``folder``. Boxes are predicted as waves, as
    location tokens start (`florence.model.presets.initialise`): the product of two such codes peaks where both mean one
    place, so that the language model soon finds a region in the image, and soon says where an object is.
    """
    import torch

    from florence.training.muon import Muon, hidden_matrices

    torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    tower = checkpoint.model.model.vision_tower.train()
    width = checkpoint.model.config.vision_config.embed_dim[-1]
    head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, sum(_head_widths(targets))))
    trained = torch.nn.ModuleDict({"tower": tower, "head": head})
    matrices = hidden_matrices(tower)
    hidden = {id(p) for p in matrices}
    others = [p for p in trained.parameters() if id(p) not in hidden]
    optimiser = Muon(matrices, others, lr=settings.lr, weight_decay=0.05)
    state = resume(folder, key, trained, optimiser)
    loss = torch.zeros(())
    for step in range(state.step, settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(settings, step)
        batch = _draw_batch(targets, settings, np.random.default_rng([seed, step]))
        hidden_states = tower(checkpoint.normalise(batch.pixels)).last_hidden_state
        loss = _cell_loss(head(hidden_states.permute(0, 2, 3, 1)), batch, settings.letters)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        state.step = step + 1
        if state.step % SAVE_STEPS == 0 or state.step == settings.steps:
            save_checkpoint(folder, key, state, trained, optimiser)
        progress(key, step + 1, settings.steps)
    checkpoint.model.eval()
    return float(loss.detach())


def _learning_rate(settings: VisionSettings, step: int) -> float:
    """Linear warm-up over 50 steps, times a cosine to a fiftieth."""
    warmup = min(1.0, (step + 1) / 50)
    return settings.lr * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))


def _draw_batch(targets: CellTargets, settings: VisionSettings, random: np.random.Generator) -> CellTargets:
    count = len(targets.pixels)
    chosen = random.choice(count, min(settings.batch_size, count), replace=False)
    return _mirror(targets, chosen, random.random(len(chosen)) < 0.5)


def _mirror(targets: CellTargets, chosen: np.ndarray, is_mirrored: np.ndarray) -> CellTargets:
    """Return the chosen images and targets, with left and right swapped where ``is_mirrored`` (chosen,).

    Mirrored letters are no letters, so images with signs stay as they are.
    """
    pixels, names, attributes, boxes = (
        part[chosen].copy() for part in (targets.pixels, targets.names, targets.attributes, targets.boxes)
    )
    letters, masks = targets.letters[chosen], targets.masks[chosen].copy()
    swap = is_mirrored & ~letters.any(axis=(1, 2, 3))
    pixels[swap] = pixels[swap][:, :, ::-1]
    names[swap], attributes[swap] = names[swap][:, :, ::-1], attributes[swap][..., ::-1]
    x0, y0, x1, y1 = np.moveaxis(boxes[swap][..., ::-1], 1, 0)
    boxes[swap] = np.stack([1 - x1, y0, 1 - x0, y1], axis=1)
    grid = names.shape[1]
    parts = masks[swap].reshape(-1, MASK_PARTS, MASK_PARTS, grid, grid)
    masks[swap] = parts[:, :, ::-1, :, ::-1].reshape(-1, MASK_PARTS * MASK_PARTS, grid, grid)
    return replace(
        targets, pixels=pixels, names=names, attributes=attributes, boxes=boxes, letters=letters, masks=masks
    )


def _head_widths(targets: CellTargets) -> list[int]:
    """Return the head's outputs for names, each type of attribute, box, letters and mask."""
    letters, mask = LETTER_PARTS * len(LETTERS), MASK_PARTS * MASK_PARTS
    return [targets.name_count, *targets.word_counts, 4 * WAVES, letters, mask]


def _cell_loss(logits: torch.Tensor, batch: CellTargets, letter_weight: float) -> torch.Tensor:
    """Return the loss of the head's outputs (n, g, g, widths).

    The sum of the cross-entropies of names and (half) of attributes, `BOX_WEIGHT` times the squared error of boxes, the
    binary cross-entropy of masks, and ``letter_weight`` times that of letters, summed over the letters: each is a mean
    over its cells.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

    names, *attributes, boxes, letters, masks = logits.split(_head_widths(batch), dim=-1)
    weight = torch.ones(batch.name_count)
    weight[0] = EMPTY_WEIGHT
    labels = torch.from_numpy(batch.names).long()
    is_object = labels > 0
    loss = cross_entropy(names.flatten(0, 2), labels.flatten(), weight=weight)
    for number, words in enumerate(attributes):
        targets = torch.from_numpy(batch.attributes[:, number]).long()
        loss = loss + 0.5 * cross_entropy(words[is_object], targets[is_object])
    sides = torch.from_numpy(batch.boxes).permute(0, 2, 3, 1)[is_object]
    waves = torch.cos(math.pi * sides[..., None] * torch.arange(1, WAVES + 1)).flatten(1)
    loss = loss + BOX_WEIGHT * mse_loss(boxes[is_object], waves)
    covered = torch.from_numpy(batch.masks).permute(0, 2, 3, 1)[is_object].float()
    loss = loss + binary_cross_entropy_with_logits(masks[is_object], covered)
    written = torch.from_numpy(batch.letters).permute(0, 2, 3, 1)
    has_letter = written.any(dim=-1)
    if bool(has_letter.any()):
        loss = loss + letter_weight * written.shape[-1] * binary_cross_entropy_with_logits(
            letters[has_letter], written[has_letter].float(), pos_weight=torch.tensor(POSITIVE_WEIGHT)
        )
    return loss
