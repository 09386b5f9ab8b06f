"""What the outputs of detectors in ONNX files mean, by the layouts that are common: YOLO, NanoDet and DETR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from florence.errors import ModelError

EXPECTED = {
    "yolo": "(1, 4 + C, cells) or (1, 5 + C, cells), the same with the last two dimensions exchanged, or (1, boxes, 6)",
    "nanodet": "(1, points, C + 4 · bins), or for each stride (1, points, C) and (1, points, 4 · bins), with the points of strides 8, 16, 32 or 8, 16, 32, 64",
    "detr": "(1, queries, 4) and (1, queries, C) or (1, queries, C + 1)",
}
"""The shapes of outputs for C labels, by layout."""


@dataclass(frozen=True, slots=True)
class Found:
    """``boxes``: (n, 4), x0, y0, x1, y1 in pixels of the network's input; ``scores``: (n,), 0…1; ``labels``: (n,), numbers of labels from 0."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


Outputs = Mapping[str, np.ndarray]
Layout = Callable[[Outputs, int, tuple[int, int]], "Found | None"]
"""Outputs by name, number of labels, (height, width) of the input → what was found; None where the shapes do not fit."""


def read(layout: str, outputs: Outputs, count: int, size: tuple[int, int]) -> Found:
    """The boxes in a network's ``outputs`` for one image. Raises ModelError, with the shapes that are there, where they do not fit the layout."""
    found = LAYOUTS[layout](outputs, count, size)
    if found is None:
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in outputs.items())
        raise ModelError(
            f"the outputs do not fit layout {layout} with C = {count} labels: found {shapes}; expected {EXPECTED[layout]}. Is the list of labels whole?"
        )
    if np.isnan(found.scores).any():
        raise ModelError("scores that are no numbers")
    if found.scores.size and not (found.scores.min() >= -1e-3 and found.scores.max() <= 1 + 1e-3):
        raise ModelError(
            f"layout {layout}: scores from {found.scores.min():.3g} to {found.scores.max():.3g}; 0…1 is expected. Export the model with the sigmoid at its end"
        )
    return found


def _yolo(outputs: Outputs, count: int, size: tuple[int, int]) -> Found | None:
    """Rows of 4 + C columns are a box and scores; of 5 + C, with the score that there is an object between them; of 6, after suppression, corners,
    score and label. Coordinates none of which is above 2 are shares of the input.
    """
    for array in outputs.values():
        variants = _variants(array, count, size)
        if variants:
            _, turned, kind = min(variants)
            rows = (array[0].T if turned else array[0]).astype(np.float64)
            boxes = rows[:, :4] * (np.tile(size[::-1], 2) if len(rows) and rows[:, :4].max() <= 2 else 1.0)
            if kind == FINAL:
                labels = rows[:, 5].astype(int)
                there = (labels >= 0) & (labels < count)
                return Found(boxes[there], rows[there, 4], labels[there])
            named = rows[:, 4:] if kind == PLAIN else rows[:, 5:] * rows[:, 4:5]
            return Found(_corners(boxes), named.max(axis=1, initial=0), named.argmax(axis=1))
    return None


PLAIN, OBJECTNESS, FINAL = 0, 1, 2


def _variants(array: np.ndarray, count: int, size: tuple[int, int]) -> list[tuple[int, bool, int]]:
    """(preference, least first; whether rows and columns are exchanged; kind) of each reading that fits.

    A list of labels that is one too short or too long would make one kind of raw rows look like the other: networks with three anchors a cell
    have objectness, those with one that put columns first do not. A number of rows that the strides do not give may be either.
    """
    if array.ndim != 3 or len(array) != 1:
        return []
    cells = [sum(y * x for y, x in _grids(size, strides)) for strides in ((8, 16, 32), (8, 16, 32, 64))]
    result = []
    for turned in (False, True):
        rows, columns = array.shape[1:] if not turned else array.shape[:0:-1]
        anchors = next((n for n in (1, 3) if rows in [n * c for c in cells]), None)
        preference = 0 if anchors else 2
        if columns == 4 + count and anchors != 3:
            result.append((preference, turned, PLAIN))
        if columns == 5 + count and not (anchors == 1 and turned):
            result.append((preference, turned, OBJECTNESS))
        if columns == 6 and not turned:
            result.append((1, turned, FINAL))
    return result


def _nanodet(outputs: Outputs, count: int, size: tuple[int, int]) -> Found | None:
    """For every point of a grid the scores of C labels and, for each side, how likely its distance is 0, 1, 2 … strides.

    Points are the cells' corners where there are four strides, as in NanoDet-Plus, and their middles where there are three, as before it.
    """
    flat = {
        name: array.reshape(-1, array.shape[-1]).astype(np.float64)
        for name, array in outputs.items()
        if array.ndim >= 2
    }
    if len(flat) == 1:
        (rows,) = flat.values()
        scores, sides = rows[:, :count], rows[:, count:]
    else:
        # With 32 labels and 8 bins both have one width, and the names alone tell.
        named = {
            name: array
            for name, array in flat.items()
            if array.shape[1] == count and not any(part in name.lower() for part in ("dis", "reg", "box"))
        }
        order = sorted(named.values(), key=lambda array: -len(array))
        rest = sorted((array for name, array in flat.items() if name not in named), key=lambda array: -len(array))
        if not order or [len(a) for a in order] != [len(a) for a in rest] or len({a.shape[1] for a in rest}) != 1:
            return None
        scores, sides = np.concatenate(order), np.concatenate(rest)
    if scores.shape[1] != count or sides.shape[1] < 8 or sides.shape[1] % 4:
        return None
    points = _points(len(scores), size)
    if points is None:
        return None
    bins = sides.reshape(len(scores), 4, -1)
    shares = np.exp(bins - bins.max(axis=2, keepdims=True))
    distances = (shares @ np.arange(bins.shape[2])) / shares.sum(axis=2) * points[:, 2:]
    boxes = np.concatenate([points[:, :2] - distances[:, :2], points[:, :2] + distances[:, 2:]], axis=1)
    return Found(boxes, scores.max(axis=1, initial=0), scores.argmax(axis=1))


def _points(number: int, size: tuple[int, int]) -> np.ndarray | None:
    """(number, 3): x, y and stride of each point; None where no set of strides gives so many."""
    for strides, offset in (((8, 16, 32, 64), 0.0), ((8, 16, 32), 0.5)):
        parts = []
        for stride, (rows, columns) in zip(strides, _grids(size, strides), strict=True):
            y, x = np.mgrid[:rows, :columns].reshape(2, -1)
            parts.append(np.stack([(x + offset) * stride, (y + offset) * stride, np.full(len(x), stride)], axis=1))
        points = np.concatenate(parts).astype(np.float64)
        if len(points) == number:
            return points
    return None


def _detr(outputs: Outputs, count: int, size: tuple[int, int]) -> Found | None:
    """For every query a box in shares of the input, and logits: of C labels, each for itself (sigmoid), or of C labels and nothing (softmax)."""
    flat = {
        name: array.reshape(-1, array.shape[-1]).astype(np.float64)
        for name, array in outputs.items()
        if array.ndim >= 2
    }
    # With three or four labels both may have four columns: then the names tell, and without telling names the boxes come second.
    places = sorted(
        (name for name, array in flat.items() if array.shape[1] == 4),
        key=lambda name: ("box" in name.lower(), list(flat).index(name)),
    )
    if not places:
        return None
    boxes = flat[places[-1]]
    logits = next(
        (
            array
            for name, array in flat.items()
            if name != places[-1] and array.shape[1] in (count, count + 1) and len(array) == len(boxes)
        ),
        None,
    )
    if logits is None:
        return None
    if logits.shape[1] == count:
        scores = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    else:
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = (scores / scores.sum(axis=1, keepdims=True))[:, :count]
    return Found(_corners(boxes) * np.tile(size[::-1], 2), scores.max(axis=1, initial=0), scores.argmax(axis=1))


LAYOUTS: dict[str, Layout] = {"yolo": _yolo, "nanodet": _nanodet, "detr": _detr}


def _grids(size: tuple[int, int], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns of cells at each stride."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) of centre, width and height as corners."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
