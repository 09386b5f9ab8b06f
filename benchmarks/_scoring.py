"""How right objects are: F1, average precision, and how well a stated confidence is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from _samples import Objects

from florence.metrics.calibration import brier_score, expected_calibration_error, measure_calibration

THRESHOLDS = tuple(float(v) for v in np.round([0.0, 0.01, *np.arange(0.025, 0.96, 0.025)], 3))
"""Least scores that the other methods are tuned over."""
BINS = 15


def box_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (n, 4) and (m, 4), as (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def hits(found: Objects, truth: Objects, least: Sequence[float]) -> np.ndarray:
    """Return which objects are true, at each least IoU, as (n, len(least)).

    An object is true if it has the name of a true object of its picture and enough overlap with it; each true object is
    found once, by the best score first. So the hits among objects above a score do not depend on those below it.
    """
    result = np.zeros((len(found.score), len(least)), bool)
    order = np.argsort(-found.score, kind="stable")
    true: dict[tuple[int, int], list[int]] = {}
    for k, key in enumerate(zip(truth.picture.tolist(), truth.name.tolist(), strict=True)):
        true.setdefault(key, []).append(k)
    groups: dict[tuple[int, int], list[int]] = {}
    for k in order.tolist():
        key = (int(found.picture[k]), int(found.name[k]))
        if key in true:
            groups.setdefault(key, []).append(k)
    for key, members in groups.items():
        overlap = box_overlaps(found.box[members], truth.box[true[key]])
        for column, level in enumerate(least):
            free = np.where(overlap >= level, overlap, -1.0)
            for row, k in enumerate(members):
                best = int(free[row].argmax())
                if free[row, best] >= 0:
                    result[k, column] = True
                    free[:, best] = -1.0
    return result


def f1(right: np.ndarray, true: int) -> float:
    """Return the F1 of objects of which some are right, among ``true`` objects."""
    return float(2 * right.sum() / max(len(right) + true, 1))


def f1_by_threshold(score: np.ndarray, right: np.ndarray, true: int) -> np.ndarray:
    """Return the F1 of the objects of at least each score of `THRESHOLDS`."""
    return np.asarray([f1(right[score >= least], true) for least in THRESHOLDS])


def average_precision(score: np.ndarray, right: np.ndarray, true: int) -> float:
    """Return the area below the precision–recall curve over the objects of all names, precision made monotonic."""
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(right[order])
    precision = np.maximum.accumulate((found / np.arange(1, len(found) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(np.r_[0, found / max(true, 1)]) * precision))


def calibration_error(stated: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error over bins of equally many objects; 0 for none."""
    return expected_calibration_error(stated, right, BINS) if len(stated) else 0.0


def calibration_bins(stated: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """Return (mean stated, share right, objects) of bins of equally many objects."""
    found = measure_calibration(stated, right, BINS)
    return [(point.confidence, point.right, point.n) for point in found.bins] if found else []


def judge(found: Objects, truth: Objects) -> dict[str, float | None]:
    """Return the figures of a method's objects: F1 of the kept ones, the others of all that it states.

    ``right at 0.9``: share right of the kept objects stated at 0.9 or more; None if there is none.
    """
    at = hits(found, truth, (0.5, 0.75))
    kept = found.kept
    true = len(truth.score)
    # objects that are kept are matched among themselves
    of_kept = at if kept.all() else hits(found.where(kept), truth, (0.5, 0.75))
    sure = found.score[kept] >= 0.9
    return {
        "f1": f1(of_kept[:, 0], true),
        "f1_75": f1(of_kept[:, 1], true),
        "ap": average_precision(found.score, at[:, 0], true),
        "ece": calibration_error(found.score, at[:, 0].astype(float)),
        "ece_kept": calibration_error(found.score[kept], of_kept[:, 0].astype(float)),
        "brier": brier_score(found.score, at[:, 0]) if len(found.score) else 0.0,
        "right at 0.9": float(of_kept[sure, 0].mean()) if sure.any() else None,
        "sure": int(sure.sum()),
        "kept": int(kept.sum()),
    }
