"""How likely a given label has a wrong name.

A label and its item have different names because the label's name is wrong, or because the others' is. Symbols: t the
item's name, u the label's, m = P(the two agree) by how sure the others are, q the share of labels whose name is right,
n how many families of annotators claim t of the item:

    right = 1 − (1 − m) / 2 · c^(n − 1)                one other is as likely wrong as the label, several less so
    P(label wrong | u ≠ t)  ∝  (1 − q) f(u) right      f(u): share of u among all labels that disagree
    P(label right | u ≠ t)  ∝  q max((1 − right) k(u | t), p(u) f(u))

of which 1 − c^n is kept, as nothing tells of one family that it is the label that is wrong.

    k(u | t)  share of u among the labels that disagree with items of t, shrunk to f(u): what annotators confuse
    p(u)      how likely the others find u themselves
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence.audit.alignment import GivenLabels, LabelAlignment
from florence.audit.logistic import logit, predict_across_folds, shrunken_rate
from florence.audit.others import SHARED, OtherItems, count_families
from florence.names import NameTable

LEAST_IOU = 0.4
"""Least IoU of a label and its item for their names to be compared."""
PRIOR_LABELS = 3.0
"""How many disagreeing labels f(u) counts for in k(u | t)."""
LEAST_WRONG, MOST_WRONG = 0.002, 0.3
"""Bounds of 1 − q."""


@dataclass(frozen=True)
class _Pairs:
    """Labels with their items: ``row``, ``item``: (n,) of each; ``label_name``, ``item_name``: numbers of names."""

    row: np.ndarray
    item: np.ndarray
    label_name: np.ndarray
    item_name: np.ndarray
    image: np.ndarray
    p_name: np.ndarray

    @property
    def same(self) -> np.ndarray:
        return self.p_name >= 0.5


def estimate_swapped(given: GivenLabels, items: OtherItems, aligned: LabelAlignment, names: NameTable) -> np.ndarray:
    """Return (n,) P(another name is right | the label and its item are of one object)."""
    result = np.zeros(len(given))
    rows = np.flatnonzero((aligned.item >= 0) & (aligned.iou >= LEAST_IOU))
    if not len(rows):
        return result
    codes: dict[str, int] = {}
    item = aligned.item[rows]
    pairs = _Pairs(
        rows,
        item,
        np.asarray([codes.setdefault(names.canonical(given.name[k]), len(codes)) for k in rows.tolist()]),
        np.asarray([codes.setdefault(names.canonical(items.name[k]), len(codes)) for k in item.tolist()]),
        given.image[rows],
        aligned.p_name[rows],
    )
    agree = _estimate_agreement(items, pairs)
    share, confusion = _estimate_confusion(pairs, len(codes))
    families = _count_taken(items, names)[pairs.item]
    right = 1 - (1 - agree) / 2 * SHARED ** (families - 1)
    found = np.maximum(pairs.p_name, 1e-4)
    wrong = float(np.clip((~pairs.same).mean() / 2, LEAST_WRONG, MOST_WRONG))
    p = np.zeros(len(rows))
    for _ in range(5):
        is_wrong = wrong * share * right
        is_right = (1 - wrong) * np.maximum((1 - right) * confusion, found * share)
        p = np.where(pairs.same, wrong * (1 - found), is_wrong / (is_wrong + is_right))
        wrong = float(np.clip(p.mean(), LEAST_WRONG, MOST_WRONG))
    result[rows] = (
        p * (1 - SHARED**families) * _share_able(items, pairs, [names.canonical(given.name[k]) for k in rows.tolist()])
    )
    return result


def _estimate_agreement(items: OtherItems, pairs: _Pairs) -> np.ndarray:
    """Return (n,) m: how likely the given label agrees with the item's name, by what the others claim of it."""
    item = pairs.item
    right = items.right[item] / items.real[item]
    claims = np.bincount(items.claim_item, minlength=len(items))[item]
    side = np.log(np.sqrt(np.prod(items.box[item, 2:] - items.box[item, :2], axis=1)) + 1)
    rate = shrunken_rate(pairs.item_name, pairs.same.astype(float), pairs.image)
    x = np.stack(
        [
            np.ones(len(item)),
            logit(right),
            logit(rate) - logit(np.asarray(rate.mean())),
            np.log(claims),
            side - side.mean(),
        ],
        axis=1,
    )
    return predict_across_folds(x, pairs.same.astype(float), pairs.image, np.asarray([0.0, 0.7, 0.5, 0.5, 0.0]))


def _count_taken(items: OtherItems, names: NameTable) -> np.ndarray:
    """Return (items,) how many families claim the item's name, at least one."""
    taken = np.asarray([names.canonical(name) for name in items.name], object)[items.claim_item]
    return count_families(items, np.asarray(items.claim_name, object) == taken)


def _estimate_confusion(pairs: _Pairs, names: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) f(u) and k(u | t) of each pair, counted without the pair itself."""
    differ = ~pairs.same
    total = np.bincount(pairs.label_name, differ, names) + np.bincount(pairs.label_name, minlength=names) / max(
        names, 1
    )
    share = (total / total.sum())[pairs.label_name]
    pair = np.unique(pairs.item_name * names + pairs.label_name, return_inverse=True)[1]
    of_pair, of_item = (
        np.bincount(pair, differ)[pair] - differ,
        np.bincount(pairs.item_name, differ)[pairs.item_name] - differ,
    )
    return share, (of_pair + PRIOR_LABELS * share) / (of_item + PRIOR_LABELS)


def _share_able(items: OtherItems, pairs: _Pairs, label: list[str]) -> np.ndarray:
    """Return (n,) the share of the claims about the item by annotators that have the label's name, 1 for none."""
    if all(vocabulary is None for vocabulary in items.vocabularies):
        return np.ones(len(pairs.row))
    claimers: dict[int, list[int]] = {int(k): [] for k in pairs.item}
    for item, annotator in zip(items.claim_item.tolist(), items.claim_annotator.tolist(), strict=True):
        if item in claimers:
            claimers[item].append(annotator)
    able = [
        [(v := items.vocabularies[a]) is None or name in v for a in claimers[int(item)]] or [True]
        for item, name in zip(pairs.item, label, strict=True)
    ]
    return np.asarray([sum(each) / len(each) for each in able])
