"""Known errors, put into right labels: missing, swapped, misplaced and spurious ones, and how well rankings find them.

It imports nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from _samples import Box, Found, Sample
from _scoring import box_overlaps

KINDS = ("missing", "swapped", "misplaced", "spurious")
SHARE = 0.05
"""Share of the labels that have an error of each kind."""
HIT = 0.5
"""IoU from which a box that a ranking names is that of a missing label."""


@dataclass(frozen=True)
class Corrupted:
    """Labels with known errors, by picture: those given, the error of each ("" for none), and those removed."""

    given: list[list[Found]]
    error: list[list[str]]
    removed: list[list[Found]]

    def count(self, kind: str) -> int:
        """Return how many errors of a kind there are."""
        if kind == "missing":
            return sum(map(len, self.removed))
        return sum(one == kind for each in self.error for one in each)


def corrupt(sample: Sample, seed: int, share: float = SHARE) -> Corrupted:
    """Return the sample's true labels with ``share`` of them in error for each kind; the same seed gives the same.

    A wrong name is half of the time a look-alike's in the sense of the names' order, else drawn by how frequent names
    are. A wrong box has an IoU of 0.2 to 0.6 with the right one. A spurious label has the size and name of some other
    label and lies where no label is.
    """
    rng = np.random.default_rng([seed, 907])
    labels = [(k, item) for k, picture in enumerate(sample.pictures) for item in picture.truth]
    common = [item for _, item in labels]
    names = sorted({item.name for item in common})
    count = max(round(share * len(labels)), 1)
    order = rng.permutation(len(labels))
    kind_of = {int(n): KINDS[j] for j in range(3) for n in order[j * count : (j + 1) * count]}
    result = Corrupted([[] for _ in sample.pictures], [[] for _ in sample.pictures], [[] for _ in sample.pictures])
    for number, (k, item) in enumerate(labels):
        kind = kind_of.get(number, "")
        if kind == "missing":
            result.removed[k].append(item)
            continue
        picture = sample.pictures[k]
        if kind == "swapped" and len(names) > 1:
            item = Found(_other_name(item.name, names, common, rng), item.box)
        elif kind == "misplaced":
            item = Found(item.name, _other_box(item.box, (picture.width, picture.height), rng))
        result.given[k].append(item)
        result.error[k].append(kind)
    for _ in range(count):
        k = int(rng.integers(len(sample.pictures)))
        picture = sample.pictures[k]
        box = _free_box(common, picture.truth, (picture.width, picture.height), rng)
        if box is not None:
            result.given[k].append(Found(common[int(rng.integers(len(common)))].name, box))
            result.error[k].append("spurious")
    return result


def _other_name(name: str, names: Sequence[str], common: Sequence[Found], rng: np.random.Generator) -> str:
    at = names.index(name)
    if rng.random() < 0.5:
        return names[at - at % 3 + (at % 3 + 1) % 3] if at - at % 3 + 2 < len(names) else names[at - 1]
    while (other := common[int(rng.integers(len(common)))].name) == name:
        pass
    return other


def _other_box(box: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Return a box that is shifted and of another size, with an IoU of 0.2 to 0.6 with ``box``."""
    sides = np.asarray([box[2] - box[0], box[3] - box[1]])
    for _ in range(1000):
        shift, scale = rng.normal(0, 0.3, 2) * sides, np.exp(rng.normal(0, 0.3, 2))
        middle = np.asarray([box[0] + box[2], box[1] + box[3]]) / 2 + shift
        half = sides * scale / 2
        moved = np.clip([*(middle - half), *(middle + half)], 0, [*size, *size])
        if min(moved[2] - moved[0], moved[3] - moved[1]) > 2:
            if 0.2 <= box_overlaps(moved[None], np.asarray([box]))[0, 0] <= 0.6:
                return tuple(float(v) for v in moved)  # type: ignore[return-value]
    return box


def _free_box(
    common: Sequence[Found], truth: Sequence[Found], size: tuple[int, int], rng: np.random.Generator
) -> Box | None:
    """Return a box as large as some label's that overlaps no true one by more than 0.1; None where there is no room."""
    known = np.asarray([item.box for item in truth]).reshape(-1, 4)
    for _ in range(50):
        other = common[int(rng.integers(len(common)))].box
        width, height = other[2] - other[0], other[3] - other[1]
        if width >= size[0] or height >= size[1]:
            continue
        x, y = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
        box = (float(x), float(y), float(x + width), float(y + height))
        if not len(known) or box_overlaps(np.asarray([box]), known).max() <= 0.1:
            return box
    return None


# ---------------------------------------------------------------- rankings


@dataclass(frozen=True)
class Ranking:
    """Scores of the given labels of each picture, a list for a list; and boxes that are taken for missing labels."""

    labels: dict[str, list[np.ndarray]]
    missing: list[list[tuple[Box, float]]]


def judge_ranking(known: Corrupted, ranking: Ranking) -> dict[str, tuple[float, float, float]]:
    """Return (precision at k, recall at 2 k, average precision) of each kind; k: how many errors of it there are."""
    result = {}
    for kind in KINDS:
        count = known.count(kind)
        if kind == "missing":
            score, right = _find_removed(known, ranking.missing)
        else:
            score = np.concatenate([*ranking.labels[kind], np.zeros(0)])
            right = np.asarray([one == kind for each in known.error for one in each])
        order = np.argsort(-score, kind="stable")
        hits = right[order]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        result[kind] = (
            float(hits[:count].sum() / count),
            float(hits[: 2 * count].sum() / count),
            float((precision * hits).sum() / count),
        )
    return result


def _find_removed(known: Corrupted, found: list[list[tuple[Box, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return score and whether it is a removed label of each box; a removed label is found once, by the surest box."""
    scores, rights = [], []
    for removed, boxes in zip(known.removed, found, strict=True):
        left = list(removed)
        for box, score in sorted(boxes, key=lambda pair: -pair[1]):
            overlaps = box_overlaps(np.asarray([box]), np.asarray([item.box for item in left]).reshape(-1, 4))[0]
            hit = len(left) > 0 and overlaps.max() >= HIT
            if hit:
                left.pop(int(overlaps.argmax()))
            scores.append(score)
            rights.append(hit)
    return np.asarray(scores, float), np.asarray(rights, bool)
