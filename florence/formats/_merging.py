"""The labels of one picture under two of its names."""

from __future__ import annotations

import numpy as np

from florence.formats import ImageClaims, LabelProblem, LabelSetEntry
from florence.geometry import box_iou
from florence.records import Claim, ImageRecord

SAME_BOX = 0.5
"""Least IoU of two boxes of one name that are the same object, labelled under two names of one picture."""


def merge_claims(first: ImageClaims, more: ImageClaims, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
    """Return the claims of two entries about one image; a label that both have is one."""
    left, added = list(first.claims), []
    for claim in more.claims:
        if (known := next((k for k, other in enumerate(left) if _is_same(claim, other)), None)) is None:
            added.append(claim)
        else:
            del left[known]
    problems = [*first.problems, *more.problems]
    where = f"{next(iter(entry.names), record.name)}: the same picture as {record.name}"
    if again := len(more.claims) - len(added):
        problems.append(LabelProblem("labelled again under another name of the picture", where, "label", again))
    if added or left:
        detail = f"{where}, with other labels; it gets those of both"
        problems.append(LabelProblem("other labels under another name of the picture", detail, "part"))
    looks = (first.looked_at, more.looked_at)
    looked_at = None if None in looks else tuple(dict.fromkeys(kind for types in looks for kind in types or ()))
    return ImageClaims((*first.claims, *added), tuple(problems), looked_at)


def _is_same(a: Claim, b: Claim) -> bool:
    """Return whether two claims are the same label: equal texts, and boxes that overlap."""
    if (a.task, a.text, len(a.regions)) != (b.task, b.text, len(b.regions)):
        return False
    boxes = [[region.bounds for region in claim.regions] for claim in (a, b)]
    if not a.regions or any(box is None for side in boxes for box in side):
        return a.regions == b.regions
    overlap = box_iou(np.asarray(boxes[0], float), np.asarray(boxes[1], float)).diagonal()
    return bool((overlap >= SAME_BOX).all())
