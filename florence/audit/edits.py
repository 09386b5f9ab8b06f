"""What the editors of data sets share: corrections of an image's labels, and finding the label that is meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from florence.audit.issues import LabelIssue
from florence.formats import LabelSetEntry
from florence.geometry import Box
from florence.records import ImageRecord

NEAR = 1.5
"""Pixels that the sides of a box in a file may be off the box that was read: formats round."""
NOT_FOUND = "the label was not found in the file"


@dataclass(frozen=True)
class Correction:
    """The issues of one image that are to be applied. ``entries``: what the data set has about the image."""

    record: ImageRecord
    entries: tuple[LabelSetEntry, ...]
    issues: tuple[LabelIssue, ...]


@dataclass
class EditedFiles:
    """Files by name that change, and the issues that were not applied, with the reason."""

    files: dict[str, bytes] = field(default_factory=dict)
    refused: list[tuple[LabelIssue, str]] = field(default_factory=list)


def find_label(issue: LabelIssue, labels: Iterable[tuple[int, str, Box]], taken: Iterable[int] = ()) -> int | None:
    """Return the key of the label that an issue is about: of its name, and its box the nearest; None if none is near.

    ``labels``: key, name and box (pixels) of each label of the image; ``taken``: keys that are spoken for.
    """
    if issue.box is None:
        return None
    left = set(taken)
    near = [
        (distance, key)
        for key, name, box in labels
        if key not in left
        and name == issue.name
        and (distance := max(abs(a - b) for a, b in zip(box, issue.box, strict=True))) <= NEAR
    ]
    return min(near)[1] if near else None


def clip(box: Box, record: ImageRecord) -> Box:
    """Return a box inside the image, as claims have it."""
    return (
        min(max(box[0], 0.0), float(record.width)),
        min(max(box[1], 0.0), float(record.height)),
        min(max(box[2], 0.0), float(record.width)),
        min(max(box[3], 0.0), float(record.height)),
    )
