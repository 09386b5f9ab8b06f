"""Label issues: what is most likely wrong with a data set's labels, the likeliest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence.audit.alignment import GivenLabels
from florence.audit.others import OtherItems
from florence.audit.scores import LabelScores
from florence.geometry import Box
from florence.records import ImageRecord

MISSING, SWAPPED, MISPLACED, SPURIOUS = "missing", "swapped", "misplaced", "spurious"
KINDS = (MISSING, SWAPPED, MISPLACED, SPURIOUS)
DESCRIPTIONS = {
    MISSING: "an object without a label",
    SWAPPED: "a label with a wrong name",
    MISPLACED: "a label with a wrong box",
    SPURIOUS: "a label of no object, or of one that has another label",
}
LEAST = 0.01
"""Least probability of an issue that is listed."""


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """An error that a label most likely is.

    ``probability``: how likely it is this error, and so the gain expected of looking at it, in labels. ``index``:
    position of the label among the claims about its image, None for a missing one. ``name``, ``box``: as given; None
    for a missing one. ``right_name``, ``right_box``: as it should be by the others; None for a spurious one.
    ``claimed_by``: the annotators that claim an object there.
    """

    kind: str
    probability: float
    image_id: str
    index: int | None
    name: str | None
    box: Box | None
    right_name: str | None
    right_box: Box | None
    claimed_by: tuple[str, ...] = ()


def list_issues(
    images: Sequence[ImageRecord], given: GivenLabels, items: OtherItems, scores: LabelScores
) -> tuple[LabelIssue, ...]:
    """Return the issues, the likeliest first: at most one of each kind for a label, and one for each missing label."""
    claimed_by = _list_claimers(items)
    found: list[LabelIssue] = []

    def add(kind: str, probability: np.ndarray, is_item: bool = False) -> None:
        for k in np.flatnonzero(probability >= LEAST).tolist():
            label, item = (None, k) if is_item else (k, int(scores.aligned.item[k]))
            has_item = item >= 0 and kind != SPURIOUS
            found.append(
                LabelIssue(
                    kind,
                    round(float(probability[k]), 6),
                    images[int(items.image[k] if label is None else given.image[k])].image_id,
                    None if label is None else int(given.index[label]),
                    None if label is None else given.name[label],
                    None if label is None else _box(given.box[label]),
                    (given.name[k] if kind == MISPLACED else items.name[item]) if has_item else None,
                    _box(given.box[k] if kind == SWAPPED else items.box[item]) if has_item else None,
                    claimed_by[item] if item >= 0 else (),
                )
            )

    add(MISSING, scores.missing, is_item=True)
    add(SWAPPED, scores.swapped)
    add(MISPLACED, scores.misplaced)
    add(SPURIOUS, scores.spurious)
    order = {image.image_id: k for k, image in enumerate(images)}

    def rank(issue: LabelIssue) -> tuple[float, int, int, int]:
        return (-issue.probability, order[issue.image_id], KINDS.index(issue.kind), issue.index or 0)

    return tuple(sorted(found, key=rank))


def _box(values: np.ndarray) -> Box:
    x0, y0, x1, y1 = values.tolist()
    return (x0, y0, x1, y1)


def _list_claimers(items: OtherItems) -> list[tuple[str, ...]]:
    found: list[list[str]] = [[] for _ in range(len(items))]
    for item, annotator in zip(items.claim_item.tolist(), items.claim_annotator.tolist(), strict=True):
        found[item].append(items.annotators[annotator])
    return [tuple(sorted(set(names))) for names in found]
