"""Which item of the other annotators each given label is about.

In each image the labels are assigned to items one to one, so that the sum of their gains is largest (the Hungarian
method): IoU, plus `NAME_GAIN` times how likely the label's name is of the item. A pair of different names needs
`LEAST_IOU_RENAMED`, a pair of one name `LEAST_IOU`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence.audit.others import OtherItems
from florence.geometry import box_iou
from florence.names import NameTable

NAME_GAIN = 0.5
LEAST_IOU, LEAST_IOU_RENAMED = 0.1, 0.4
SAME_NAME = 0.25
"""Least probability of a name for a label and an item to have one name."""


@dataclass(frozen=True)
class GivenLabels:
    """n given labels, in the order of their images.

    ``image``: (n,), number of the image; ``index``: (n,), position among its image's claims; ``box``: (n, 4);
    ``name``: as given. ``looked_at``: (images,), whether the data set says what is in an image; ``size``: (images, 2),
    width and height.
    """

    image: np.ndarray
    index: np.ndarray
    box: np.ndarray
    name: tuple[str, ...]
    looked_at: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class LabelAlignment:
    """``item``: (n,), the item of each given label, -1 for none; ``label``: (items,), the label of each item.

    ``iou``, ``p_name``: (n,), of a label and its item: overlap, and P(the label's name | the item is an object);
    ``near_item``: (n,), the largest IoU with an item that is not its own; ``near_label``: (items,), of an item, the
    largest IoU with a label of its name that is not its own; ``overlap``: (n,), with another label of its name;
    ``crowding``: (n,), the sum of its IoU with all other labels.
    """

    item: np.ndarray
    label: np.ndarray
    iou: np.ndarray
    p_name: np.ndarray
    near_item: np.ndarray
    near_label: np.ndarray
    overlap: np.ndarray
    crowding: np.ndarray


def align_labels(given: GivenLabels, items: OtherItems, names: NameTable) -> LabelAlignment:
    """Assign the given labels to the items of the others, image by image."""
    from scipy.optimize import linear_sum_assignment

    canonical = [names.canonical(name) for name in given.name]
    named = _list_names(items)
    result = LabelAlignment(
        np.full(len(given), -1, np.int64),
        np.full(len(items), -1, np.int64),
        iou=np.zeros(len(given)),
        p_name=np.zeros(len(given)),
        near_item=np.zeros(len(given)),
        near_label=np.zeros(len(items)),
        overlap=np.zeros(len(given)),
        crowding=np.zeros(len(given)),
    )
    count = len(given.looked_at)
    label_ends = np.searchsorted(given.image, np.arange(count + 1))
    item_ends = np.searchsorted(items.image, np.arange(count + 1))
    for image in range(count):
        a, b = int(label_ends[image]), int(label_ends[image + 1])
        c, d = int(item_ends[image]), int(item_ends[image + 1])
        if a == b:
            continue
        labels = canonical[a:b]
        result.overlap[a:b], result.crowding[a:b] = _overlap_labels(given.box[a:b], labels)
        if c == d:
            continue
        iou = box_iou(given.box[a:b], items.box[c:d])
        p_name = np.asarray([[_name_probability(name, named[k], names) for k in range(c, d)] for name in labels])
        same = p_name >= SAME_NAME
        possible = iou >= np.where(same, LEAST_IOU, LEAST_IOU_RENAMED)
        rows, columns = linear_sum_assignment(-np.where(possible, iou + NAME_GAIN * p_name, 0.0))
        chosen = possible[rows, columns]
        rows, columns = rows[chosen], columns[chosen]
        result.item[a + rows], result.label[c + columns] = c + columns, a + rows
        result.iou[a + rows], result.p_name[a + rows] = iou[rows, columns], p_name[rows, columns]
        rest = iou.copy()
        rest[rows, columns] = 0
        result.near_item[a:b], result.near_label[c:d] = rest.max(axis=1), (rest * same).max(axis=0)
    return result


def _list_names(items: OtherItems) -> list[dict[str, float]]:
    """Return P(name | it is an object) of each name that is claimed of each item."""
    result: list[dict[str, float]] = [{} for _ in range(len(items))]
    share = items.claim_right / items.real[items.claim_item]
    for item, name, p in zip(items.claim_item.tolist(), items.claim_name, share.tolist(), strict=True):
        result[item][name] = min(max(result[item].get(name, 0.0), p), 1.0)
    return result


def _name_probability(name: str, claimed: dict[str, float], names: NameTable) -> float:
    """Return how likely an object is rightly called ``name``: of what is claimed, and of what that is a kind of."""
    if name in claimed:
        return claimed[name]
    return max((p * names.similarity(other, name) for other, p in claimed.items()), default=0.0)


def _overlap_labels(box: np.ndarray, name: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) the largest IoU of each label with another of its name, and the sum with all others."""
    code = np.unique(name, return_inverse=True)[1]
    iou = box_iou(box, box)
    np.fill_diagonal(iou, 0.0)
    return (iou * (code[:, None] == code[None])).max(axis=1), iou.sum(axis=1)
