"""Merge the objects that earlier annotators claimed in one image, and say in words where and how big they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from florence.geometry import Box, box_iou
from florence.records import Annotation, ImageRecord

SAME_BOX_IOU = 0.5
"""IoU from which two boxes are in the same position."""
CONTAINED_SHARE = 0.8
"""Share of a box inside another one of the same label from which both are one object."""
SMALL, BIG = 0.05, 0.35
"""Shares of the image's area: below the first an object is small, above the second big."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object, merged from the claims of several annotators.

    ``box``: pixels, the mean of the claims' boxes, weighted by score. ``score``: the highest of theirs. ``annotators``:
    names of the annotators that gave it this label.
    """

    label: str
    box: Box
    score: float
    annotators: frozenset[str]

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the box, in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    def area_share(self, record: ImageRecord) -> float:
        """Return the box's share of the image's area."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1]) / (record.width * record.height)


def merge_objects(claims: Iterable[Annotation], min_score: float, min_alone: float) -> tuple[SceneObject, ...]:
    """Return the objects of <OD> claims: first those that more annotators named, then those of higher score.

    Claims of one label in the same position are one object. Of several labels in one position, the best is kept.
    Objects with a score under ``min_score`` are left out; under ``min_alone`` if a single annotator named them.
    """
    rows = [
        (row.text, row.regions[0].bounds, 1.0 if row.score is None else row.score, row.annotator)
        for row in claims
        if row.task == "<OD>" and row.regions
    ]
    clusters: list[list[tuple[str, Box, float, str]]] = []
    for row in sorted(rows, key=lambda r: (-r[2], r)):
        own = next((c for c in clusters if c[0][0] == row[0] and is_same_box(c[0][1], row[1])), None)
        if own is None:
            clusters.append(own := [])
        own.append(row)
    found = sorted(
        (_merge_cluster(cluster) for cluster in clusters), key=lambda s: (-len(s.annotators), -s.score, s.label, s.box)
    )
    kept: list[SceneObject] = []
    for item in found:
        is_sure = item.score >= (min_score if len(item.annotators) > 1 else min_alone)
        if is_sure and not any(
            is_same_box(item.box, o.box) or (item.label == o.label and _is_contained(item.box, o.box)) for o in kept
        ):
            kept.append(item)
    return tuple(kept)


def select_category(claims: Iterable[Annotation], min_score: float, min_alone: float) -> tuple[str, float] | None:
    """Return what annotators call the whole image (<CLASSIFICATION>) and its score; None where none is sure.

    That is the name that most annotators gave; of equals the one of the highest score. ``min_score``: least score;
    ``min_alone``: of a name that a single annotator gave.
    """
    found: dict[str, dict[str, float]] = {}
    for row in claims:
        if row.task == "<CLASSIFICATION>" and row.text.strip():
            scores = found.setdefault(row.text, {})
            scores[row.annotator] = max(scores.get(row.annotator, 0.0), 1.0 if row.score is None else row.score)
    sure = [
        (-len(scores), -max(scores.values()), name)
        for name, scores in found.items()
        if max(scores.values()) >= (min_score if len(scores) > 1 else min_alone)
    ]
    return (min(sure)[2], -min(sure)[1]) if sure else None


def is_same_box(a: Box, b: Box) -> bool:
    """Return whether two boxes are in the same position."""
    return bool(box_iou(np.asarray(a), np.asarray(b))[0, 0] >= SAME_BOX_IOU)


def _is_contained(a: Box, b: Box) -> bool:
    """Return whether the smaller of two boxes lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(width, 0.0) * max(height, 0.0) >= CONTAINED_SHARE * smaller


def _merge_cluster(cluster: Sequence[tuple[str, Box, float, str]]) -> SceneObject:
    weights = np.asarray([max(score, 1e-3) for _, _, score, _ in cluster])
    # Rounded, because a mean of equal edges may come out beyond them, and so outside the image.
    x0, y0, x1, y1 = (
        round(float(v), 6) for v in np.average([box for _, box, _, _ in cluster], axis=0, weights=weights)
    )
    annotators = frozenset(annotator for *_, annotator in cluster)
    return SceneObject(cluster[0][0], (x0, y0, x1, y1), cluster[0][2], annotators)


def referring_expression(item: SceneObject, objects: Sequence[SceneObject], record: ImageRecord) -> str | None:
    """Return an expression that fits this object alone: its label, or the outermost of its label; None if none does."""
    others = [other for other in objects if other.label == item.label and other is not item]
    if not others:
        return f"the {item.label}"
    for axis, side, low, high in ((0, record.width, "leftmost", "rightmost"), (1, record.height, "topmost", "lowest")):
        distances = [item.centre[axis] - other.centre[axis] for other in others]
        if max(distances) <= -side / 24:
            return f"the {low} {item.label}"
        if min(distances) >= side / 24:
            return f"the {high} {item.label}"
    return None


def position_phrase(point: tuple[float, float], record: ImageRecord) -> str:
    """Return where a point (x, y), in pixels, is in the picture, by thirds: "at the top left"."""
    x, y = point[0] / record.width, point[1] / record.height
    column = "left" if x < 0.38 else "right" if x > 0.62 else ""
    row = "top" if y < 0.38 else "bottom" if y > 0.62 else ""
    if row:
        return f"at the {row} {column}".rstrip()
    return f"on the {column}" if column else "in the middle"


def size_word(area_share: float) -> str:
    """Return "small", "big" or nothing, by the share of the image's area."""
    return "small" if area_share < SMALL else "big" if area_share > BIG else ""
