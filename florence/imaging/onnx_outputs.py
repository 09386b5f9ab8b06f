"""Read boxes from the outputs of detectors in ONNX files, by the common layouts: YOLO, NanoDet and DETR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from florence.errors import ModelError

EXPECTED_SHAPES = {
    "yolo": "(1, 4 + C, cells) or (1, 5 + C, cells), the same with the last two dimensions exchanged, or (1, boxes, 6)",
    "nanodet": "(1, points, C + 4 · bins), or for each stride (1, points, C) and (1, points, 4 · bins), "
    "with the points of strides 8, 16, 32 or 8, 16, 32, 64",
    "detr": "(1, queries, 4) and (1, queries, C) or (1, queries, C + 1)",
}
"""The shapes of outputs for C labels, by layout."""


@dataclass(frozen=True, slots=True)
class RawDetections:
    """All boxes that a network gives for one image, before any threshold.

    ``boxes``: (n, 4), x0, y0, x1, y1 in pixels of the network's input. ``scores``: (n,), 0…1. ``labels``: (n,), label
    numbers from 0.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


Outputs = Mapping[str, np.ndarray]
Layout = Callable[[Outputs, int, tuple[int, int]], "RawDetections | None"]
"""Outputs by name, number of labels, (height, width) of the input → detections; None if the shapes do not fit."""


def read_detections(layout: str, outputs: Outputs, label_count: int, size: tuple[int, int]) -> RawDetections:
    """Return the boxes in a network's ``outputs`` for one image. ``size``: (height, width) of the network's input.

    Raises ModelError if the shapes do not fit the layout, or scores are not between 0 and 1.
    """
    found = LAYOUTS[layout](outputs, label_count, size)
    if found is None:
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in outputs.items())
        raise ModelError(
            f"the outputs do not fit layout {layout} with C = {label_count} labels: found {shapes}; "
            f"expected {EXPECTED_SHAPES[layout]}. Is the list of labels complete?"
        )
    if np.isnan(found.scores).any():
        raise ModelError("scores that are not numbers")
    if found.scores.size and not (found.scores.min() >= -1e-3 and found.scores.max() <= 1 + 1e-3):
        raise ModelError(
            f"layout {layout}: scores from {found.scores.min():.3g} to {found.scores.max():.3g}; "
            "0…1 is expected. Export the model with the sigmoid at its end"
        )
    return found


# ---------------------------------------------------------------- YOLO

BOX_SCORES, BOX_OBJECTNESS_SCORES, AFTER_NMS = 0, 1, 2
"""What the columns of an output are, see `_read_yolo`."""


def _read_yolo(outputs: Outputs, label_count: int, size: tuple[int, int]) -> RawDetections | None:
    """Read rows of YOLO.

    Rows of 4 + C columns are a box and its scores. Rows of 5 + C have an objectness score between them. Rows of 6 come
    after suppression: corners, score and label. Coordinates of at most 2 are shares of the input's size.
    """
    for array in outputs.values():
        variants = _yolo_variants(array, label_count, size)
        if variants:
            _, transposed, columns = min(variants)
            rows = (array[0].T if transposed else array[0]).astype(np.float64)
            boxes = rows[:, :4] * (np.tile(size[::-1], 2) if len(rows) and rows[:, :4].max() <= 2 else 1.0)
            if columns == AFTER_NMS:
                labels = rows[:, 5].astype(int)
                known = (labels >= 0) & (labels < label_count)
                return RawDetections(boxes[known], rows[known, 4], labels[known])
            scores = rows[:, 4:] if columns == BOX_SCORES else rows[:, 5:] * rows[:, 4:5]
            return RawDetections(_to_corners(boxes), scores.max(axis=1, initial=0), scores.argmax(axis=1))
    return None


def _yolo_variants(array: np.ndarray, label_count: int, size: tuple[int, int]) -> list[tuple[int, bool, int]]:
    """Return each variant that fits: preference (least first), whether rows and columns are exchanged, columns.

    With a list of labels that is one too short or too long, rows with and without objectness look alike. They are told
    apart by the number of rows: networks with three anchors a cell have objectness; those with one anchor that put
    columns first do not. A number of rows that the strides do not give may be either.
    """
    if array.ndim != 3 or len(array) != 1:
        return []
    cells = [sum(y * x for y, x in _grid_sizes(size, strides)) for strides in ((8, 16, 32), (8, 16, 32, 64))]
    result = []
    for transposed in (False, True):
        rows, columns = array.shape[1:] if not transposed else array.shape[:0:-1]
        anchors = next((n for n in (1, 3) if rows in [n * c for c in cells]), None)
        preference = 0 if anchors else 2
        if columns == 4 + label_count and anchors != 3:
            result.append((preference, transposed, BOX_SCORES))
        if columns == 5 + label_count and not (anchors == 1 and transposed):
            result.append((preference, transposed, BOX_OBJECTNESS_SCORES))
        if columns == 6 and not transposed:
            result.append((1, transposed, AFTER_NMS))
    return result


# ---------------------------------------------------------------- NanoDet


def _read_nanodet(outputs: Outputs, label_count: int, size: tuple[int, int]) -> RawDetections | None:
    """Read scores and boxes at the points of a grid.

    Each point has the scores of C labels and, for each side of the box, the logits of its distance being 0, 1, 2 …
    strides; the distance is the expected value. Points are the cells' corners if there are four strides (NanoDet-Plus)
    and their centres if there are three (NanoDet).
    """
    flat = _flat_outputs(outputs)
    if len(flat) == 1:
        (rows,) = flat.values()
        scores, sides = rows[:, :label_count], rows[:, label_count:]
    else:
        # With 32 labels and 8 bins both have the same width, and only the names tell them apart.
        named = {
            name: array
            for name, array in flat.items()
            if array.shape[1] == label_count and not any(part in name.lower() for part in ("dis", "reg", "box"))
        }
        order = sorted(named.values(), key=lambda array: -len(array))
        rest = sorted((array for name, array in flat.items() if name not in named), key=lambda array: -len(array))
        if not order or [len(a) for a in order] != [len(a) for a in rest] or len({a.shape[1] for a in rest}) != 1:
            return None
        scores, sides = np.concatenate(order), np.concatenate(rest)
    if scores.shape[1] != label_count or sides.shape[1] < 8 or sides.shape[1] % 4:
        return None
    points = _grid_points(len(scores), size)
    if points is None:
        return None
    bins = sides.reshape(len(scores), 4, -1)
    shares = np.exp(bins - bins.max(axis=2, keepdims=True))
    distances = (shares @ np.arange(bins.shape[2])) / shares.sum(axis=2) * points[:, 2:]
    boxes = np.concatenate([points[:, :2] - distances[:, :2], points[:, :2] + distances[:, 2:]], axis=1)
    return RawDetections(boxes, scores.max(axis=1, initial=0), scores.argmax(axis=1))


def _grid_points(number: int, size: tuple[int, int]) -> np.ndarray | None:
    """Return (number, 3), x, y and stride of each point; None if no set of strides gives that number."""
    for strides, offset in (((8, 16, 32, 64), 0.0), ((8, 16, 32), 0.5)):
        parts = []
        for stride, (rows, columns) in zip(strides, _grid_sizes(size, strides), strict=True):
            y, x = np.mgrid[:rows, :columns].reshape(2, -1)
            parts.append(np.stack([(x + offset) * stride, (y + offset) * stride, np.full(len(x), stride)], axis=1))
        points = np.concatenate(parts).astype(np.float64)
        if len(points) == number:
            return points
    return None


# ---------------------------------------------------------------- DETR


def _read_detr(outputs: Outputs, label_count: int, size: tuple[int, int]) -> RawDetections | None:
    """Read a box (in shares of the input's size) and logits for every query.

    C logits are one sigmoid for each label; C + 1 are a softmax over labels and "no object".
    """
    flat = _flat_outputs(outputs)
    # With three or four labels both may have four columns. Then the names tell; if they do not, boxes come second.
    four_columns = sorted(
        (name for name, array in flat.items() if array.shape[1] == 4),
        key=lambda name: ("box" in name.lower(), list(flat).index(name)),
    )
    if not four_columns:
        return None
    boxes = flat[four_columns[-1]]
    logits = next(
        (
            array
            for name, array in flat.items()
            if name != four_columns[-1]
            and array.shape[1] in (label_count, label_count + 1)
            and len(array) == len(boxes)
        ),
        None,
    )
    if logits is None:
        return None
    if logits.shape[1] == label_count:
        scores = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    else:
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = (scores / scores.sum(axis=1, keepdims=True))[:, :label_count]
    return RawDetections(
        _to_corners(boxes) * np.tile(size[::-1], 2), scores.max(axis=1, initial=0), scores.argmax(axis=1)
    )


LAYOUTS: dict[str, Layout] = {"yolo": _read_yolo, "nanodet": _read_nanodet, "detr": _read_detr}


def _flat_outputs(outputs: Outputs) -> dict[str, np.ndarray]:
    """Return outputs of two or more dimensions as rows (n, columns)."""
    return {
        name: array.reshape(-1, array.shape[-1]).astype(np.float64)
        for name, array in outputs.items()
        if array.ndim >= 2
    }


def _grid_sizes(size: tuple[int, int], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the number of rows and columns of cells at each stride."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]


def _to_corners(boxes: np.ndarray) -> np.ndarray:
    """Return boxes (n, 4) of centre, width and height as corners."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
