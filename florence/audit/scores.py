"""The four scores: how likely each given label, or each item that is not among them, is an error.

The given labels are an annotator whose errors are estimated, not a truth. What the others are worth is estimated by how
often the given labels confirm what they claim, and what a spurious label looks like by labels moved into other images
(a shuffled-image baseline). With r the recall of the given labels, m_i the probability that they confirm item i (a
logistic model of what is claimed of it), and q_g the ratio of the densities of what the others say about given labels
and about moved ones (the odds of a logistic model that tells them apart):

    real_i = m_i / r
    missing    = real_i (1 − r) / (real_i (1 − r) + 1 − real_i)      of an item that no given label is of
    spurious   = π / q_g                                             π: share of spurious labels, below the least q
    swapped    = (1 − spurious) both P(another name is right)
    misplaced  = (1 − spurious) both P(the box is wrong)

1 − r is what given labels do not confirm of the surest items, less the share that is the others' mistake: half of it
for one family, less for several. ``both``: the label and its item are of one object, real_i with odds that rise with
their overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence.audit.alignment import GivenLabels, LabelAlignment, align_labels
from florence.audit.boxes import estimate_misplaced
from florence.audit.logistic import logit, predict_across_folds, shrunken_rate
from florence.audit.names import estimate_swapped
from florence.audit.others import SHARED, OtherItems, count_families
from florence.names import NameTable

LEAST_SPURIOUS, MOST_SPURIOUS, MOST_SURE = 0.001, 0.05, 0.98
"""Bounds of π, and of P(spurious)."""
LEAST_RATIO = 0.8
"""π as a share of the least ratio: it can be no more than that."""
SUREST, LEAST_SUREST = 0.3, 20
"""How many items, the surest ones, the recall of the given labels is counted on: a share of those that they confirm."""
PRIOR_RECALL, PRIOR_ITEMS = 0.95, 20.0
OVERLAP_ODDS = 20.0


@dataclass(frozen=True)
class LabelScores:
    """How likely each error is: of given labels (n,), and of items (``missing``, 0 where a given label is of the item).

    ``checked``: (n,), whether any other annotator looked at the label's image. ``real``: (items,).
    """

    spurious: np.ndarray
    swapped: np.ndarray
    misplaced: np.ndarray
    missing: np.ndarray
    real: np.ndarray
    checked: np.ndarray
    aligned: LabelAlignment


def score_labels(given: GivenLabels, items: OtherItems, names: NameTable) -> LabelScores:
    """Return how likely each given label is an error, and each item a missing label."""
    aligned = align_labels(given, items, names)
    confirmed = aligned.label >= 0
    looked_at = given.looked_at[items.image]
    rows = np.flatnonzero(looked_at)
    agree = np.full(len(items), 1e-3)
    if len(rows):
        agree[rows] = _estimate_confirmation(items, aligned, names, rows)
    recall = _estimate_recall(agree[rows], confirmed[rows], count_families(items)[rows])
    real = np.clip(agree / recall, 1e-3, 0.995)
    missing = real * (1 - recall) / (real * (1 - recall) + 1 - real)
    checked = np.asarray(items.asked.any(axis=1))[given.image]
    spurious = np.where(checked, _estimate_spurious(given, items, aligned, real, names), 0.0)
    both = (1 - spurious) * _estimate_both(aligned, real)
    return LabelScores(
        spurious=spurious,
        swapped=both * estimate_swapped(given, items, aligned, names),
        misplaced=both * estimate_misplaced(given, items, aligned),
        missing=np.where(confirmed | ~looked_at, 0.0, missing),
        real=real,
        checked=checked,
        aligned=aligned,
    )


def _log_side(box: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.sqrt(np.prod(np.maximum(box[:, 2:] - box[:, :2], 1.0), axis=1))))


def _centre(values: np.ndarray) -> np.ndarray:
    return values - values.mean() if len(values) else values


def _code(names: list[str]) -> np.ndarray:
    return np.asarray(np.unique(np.asarray(names, object).astype(str), return_inverse=True)[1].reshape(-1))


# ---------------------------------------------------------------- items


def _estimate_confirmation(
    items: OtherItems, aligned: LabelAlignment, names: NameTable, rows: np.ndarray
) -> np.ndarray:
    """Return (rows,) m: how likely a given label is of an item, by what is claimed of it, without the given labels."""
    y = (aligned.label[rows] >= 0).astype(float)
    image = items.image[rows]
    rate = shrunken_rate(_code([names.canonical(items.name[k]) for k in rows.tolist()]), y, image)
    side = _centre(_log_side(items.box[rows]))
    asked = items.asked[image]
    columns: list[tuple[np.ndarray, float]] = [
        (np.ones(len(rows)), 0.0),
        (logit(items.right[rows]), 0.7),
        (_centre(logit(items.real[rows])), 0.0),
        (_centre(logit(rate)), 0.5),
        (side, 0.0),
        (side**2, 0.0),
        (aligned.near_label[rows], -3.0),
    ]
    for annotator in range(len(items.annotators)):
        of_item = np.full(len(items), np.nan)
        claims = np.flatnonzero(items.claim_annotator == annotator)
        of_item[items.claim_item[claims]] = np.nan_to_num(items.claim_score[claims], nan=-1.0)
        score = of_item[rows]
        claimed = ~np.isnan(score)
        scored = claimed & (score >= 0)
        graded = np.zeros(len(rows))
        if scored.any():
            graded[scored] = _centre(logit(np.clip(score[scored], 0.01, 0.99)))
        columns += [(claimed.astype(float), 0.0), (graded, 0.0)]
        if not asked[:, annotator].all():
            columns.append((asked[:, annotator].astype(float), 0.0))
    x = np.stack([column for column, _ in columns], axis=1)
    return predict_across_folds(x, y, image, np.asarray([weight for _, weight in columns]))


def _estimate_recall(agree: np.ndarray, confirmed: np.ndarray, families: np.ndarray) -> float:
    """Return r, by the surest items: what given labels do not confirm of them is missing, or the others' mistake.

    ``families``: how many claim each item; one is as likely wrong as the given labels, several less so.
    """
    count = max(int(np.ceil(SUREST * confirmed.sum())), LEAST_SUREST)
    surest = np.argsort(-agree, kind="stable")[:count]
    own_share = 1 - SHARED ** (families[surest] - 1) / 2
    missing = (own_share * ~confirmed[surest]).sum()
    return float(np.clip(1 - (missing + (1 - PRIOR_RECALL) * PRIOR_ITEMS) / (len(surest) + PRIOR_ITEMS), 0.7, 0.995))


def _estimate_both(aligned: LabelAlignment, real: np.ndarray) -> np.ndarray:
    """Return (n,) how likely a label and its item are of one object; 0 without an item."""
    p = np.append(real, 0.0)[aligned.item]
    odds = p / (1 - p) * (1 + OVERLAP_ODDS * aligned.iou**2)
    return odds / (1 + odds)


# ---------------------------------------------------------------- labels


def _estimate_spurious(
    given: GivenLabels, items: OtherItems, aligned: LabelAlignment, real: np.ndarray, names: NameTable
) -> np.ndarray:
    """Return (n,) how likely a label is of nothing, or of an object that has another label."""
    if not len(given):
        return np.zeros(0)
    canonical = [names.canonical(name) for name in given.name]
    confirmed = (aligned.item >= 0).astype(float)
    rate = logit(shrunken_rate(_code(canonical), confirmed, given.image))
    able = _count_able(items, given, canonical)
    rows, shuffled = _shuffle_labels(given)
    moved = align_labels(_join(given, shuffled), items, names)
    # the labels of an image come first, then those moved into it
    at = np.argsort(np.argsort(np.concatenate([given.image, shuffled.image]), kind="stable"))[len(given) :]
    facts = [(given, aligned, np.arange(len(given)), rate, able), (shuffled, moved, at, rate[rows], able[rows])]
    x, expected = zip(*(_label_features(*fact, real) for fact in facts), strict=True)
    y = np.concatenate([np.ones(len(given)), np.zeros(len(shuffled))])
    image = np.concatenate([given.image, given.image[rows]])
    p = predict_across_folds(np.concatenate(x), y, image, expected[0])[: len(given)]
    ratio = p / np.maximum(1 - p, 1e-6) * len(shuffled) / len(given)
    share = float(np.clip(LEAST_RATIO * np.quantile(ratio, 0.01), LEAST_SPURIOUS, MOST_SPURIOUS))
    return np.asarray(np.minimum(share / np.maximum(ratio, 1e-9), MOST_SURE))


def _shuffle_labels(given: GivenLabels) -> tuple[np.ndarray, GivenLabels]:
    """Return labels moved into the next image, scaled to its size, and which ones they are: at most one an image."""
    images = np.unique(given.image)
    rows = np.asarray(
        [first + k % max(count, 1) for k, (first, count) in enumerate(_list_ranges(given.image, images))], np.int64
    )
    to = np.roll(images, 1)
    scale = np.tile(given.size[to] / np.maximum(given.size[given.image[rows]], 1), 2)
    order = np.argsort(to, kind="stable")
    rows, to = rows[order], to[order]
    shuffled = GivenLabels(
        to,
        np.zeros(len(rows), np.int64),
        given.box[rows] * scale[order],
        tuple(given.name[k] for k in rows.tolist()),
        given.looked_at,
        given.size,
    )
    return rows, shuffled


def _list_ranges(image: np.ndarray, images: np.ndarray) -> list[tuple[int, int]]:
    """Return the first label of each image, and how many it has."""
    first, end = np.searchsorted(image, images), np.searchsorted(image, images, side="right")
    return list(zip(first.tolist(), (end - first).tolist(), strict=True))


def _join(given: GivenLabels, more: GivenLabels) -> GivenLabels:
    """Return all labels in the order of their images, those of ``more`` last in each."""
    order = np.argsort(np.concatenate([given.image, more.image]), kind="stable")
    name = (*given.name, *more.name)
    return GivenLabels(
        np.concatenate([given.image, more.image])[order],
        np.concatenate([given.index, more.index])[order],
        np.concatenate([given.box, more.box])[order],
        tuple(name[k] for k in order.tolist()),
        given.looked_at,
        given.size,
    )


def _label_features(
    labels: GivenLabels, aligned: LabelAlignment, at: np.ndarray, rate: np.ndarray, able: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what tells a label of its own image from one of another image, and the weights that are expected.

    ``at``: where the labels are in ``aligned``. Silence of the others says more about a large object, and about a name
    that they often confirm.
    """
    item = aligned.item[at]
    confirmed = (item >= 0).astype(float)
    silent = 1 - confirmed
    side = _log_side(labels.box) - np.log(60)
    columns: list[tuple[np.ndarray, float]] = [
        (np.ones(len(labels)), 0.0),
        (confirmed, 4.0),
        (aligned.iou[at], 2.0),
        (aligned.p_name[at], 1.0),
        (confirmed * logit(np.append(real, 0.5)[item]), 0.3),
        (silent * side, -0.5),
        (silent * side**2, 0.0),
        (confirmed * side, 0.0),
        (silent * rate, -0.7),
        (confirmed * rate, 0.0),
        (silent * able, -0.3),
        (silent * aligned.near_item[at], 1.0),
        (silent * aligned.overlap[at], 0.0),
        (silent * np.minimum(aligned.crowding[at], 1.5), 1.0),
    ]
    return np.stack([column for column, _ in columns], axis=1), np.asarray([weight for _, weight in columns])


def _count_able(items: OtherItems, given: GivenLabels, canonical: list[str]) -> np.ndarray:
    """Return (n,) how many of those that looked have the label's name, less the mean."""
    count = np.zeros(len(given))
    for annotator, vocabulary in enumerate(items.vocabularies):
        able = np.asarray([vocabulary is None or name in vocabulary for name in canonical], bool)
        count += items.asked[given.image, annotator] & able
    return _centre(count)
