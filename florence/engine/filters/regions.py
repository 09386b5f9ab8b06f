"""Filters of boxes: their shape, and non-maximum suppression among boxes of one label."""

from __future__ import annotations

import numpy as np

from florence.config import EngineSettings
from florence.engine.pairs import find_suppressed, list_ranked_pairs
from florence.geometry import paired_iou


def flag_degenerate_boxes(box: np.ndarray, settings: EngineSettings) -> np.ndarray:
    """Return (n,) whether each box (n, 4) is thinner than ``min_side`` pixels."""
    return (box[:, 2:] - box[:, :2]).min(axis=1, initial=np.inf) < settings.min_side


def flag_near_full_boxes(box: np.ndarray, size: np.ndarray, settings: EngineSettings) -> np.ndarray:
    """Return (n,) whether each box (n, 4) covers more than ``max_area`` of its image (n, 2: width, height)."""
    return np.prod(box[:, 2:] - box[:, :2], axis=1) > settings.max_area * np.prod(size, axis=1)


def flag_duplicates(
    image: np.ndarray, label: np.ndarray, box: np.ndarray, rank: np.ndarray, settings: EngineSettings
) -> np.ndarray:
    """Return (n,) whether each box (n, 4) is suppressed by a kept one of the same ``image`` and ``label`` (n,).

    Greedy non-maximum suppression: boxes whose IoU exceeds ``nms_iou`` give way to the one of higher ``rank`` (n,).
    """
    better, worse = list_ranked_pairs(rank, label, image)
    near = paired_iou(box[better], box[worse]) > settings.nms_iou
    return find_suppressed(better[near], worse[near], len(image))
