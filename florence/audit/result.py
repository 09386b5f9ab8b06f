"""An audit as one value: what was audited, by whom, and the issues; and its list as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from florence.audit.issues import KINDS, LabelIssue, list_issues
from florence.audit.others import AnnotatorClaims, OtherItems, find_other_items
from florence.audit.reading import AuditImages, LabelFile, ReadLabels
from florence.audit.scores import LabelScores, score_labels
from florence.config import EngineSettings
from florence.errors import DataError
from florence.geometry import Box
from florence.names import build_name_table

LIKELY = 0.5
"""Probability from which an issue is counted as likely."""
SIDES = ("left", "top", "right", "bottom")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text begins with that spreadsheets compute."""


@dataclass(frozen=True)
class Audit:
    """What an audit found: the ``issues``, the likeliest first, and what they follow from."""

    file: LabelFile
    images: AuditImages
    labels: ReadLabels
    items: OtherItems
    scores: LabelScores
    issues: tuple[LabelIssue, ...]

    def count_likely(self, kind: str) -> int:
        """Return how many issues of a kind are likely."""
        return sum(issue.kind == kind and issue.probability >= LIKELY for issue in self.issues)

    def expect(self, kind: str) -> float:
        """Return how many errors of a kind are expected: the sum of the probabilities."""
        return sum(issue.probability for issue in self.issues if issue.kind == kind)


def audit_labels(
    file: LabelFile, images: AuditImages, labels: ReadLabels, others: AnnotatorClaims, settings: EngineSettings
) -> Audit:
    """Audit the given labels by the claims of others.

    Raises DataError where no other annotator looked at an image that has given labels.
    """
    names = build_name_table(settings)
    items = find_other_items(others, images.table(), settings, names)
    if not (items.asked.any(axis=1) & labels.given.looked_at).any():
        raise DataError(
            "no other annotator has looked at an image that has given labels; --claims FILE gives the claims of one"
        )
    scores = score_labels(labels.given, items, names)
    return Audit(file, images, labels, items, scores, list_issues(images.records, labels.given, items, scores))


def write_issue_list(audit: Audit) -> bytes:
    """Return the issues as CSV, in UTF-8 with a mark that spreadsheets know it by."""
    text = io.StringIO()
    writer = csv.writer(text)
    boxes = [f"{which}_{side}" for which in ("given", "right") for side in SIDES]
    writer.writerow(["rank", "kind", "probability", "image", "given_name", "right_name", *boxes, "claimed_by"])
    name_of = {record.image_id: record.name for record in audit.images.records}
    for rank, issue in enumerate(audit.issues, start=1):
        texts = [name_of[issue.image_id], issue.name or "", issue.right_name or ""]
        writer.writerow(
            [rank, issue.kind, issue.probability]
            + [_escape(text) for text in texts]
            + [*_list_sides(issue.box), *_list_sides(issue.right_box)]
            + [_escape(", ".join(issue.claimed_by))]
        )
    return text.getvalue().encode("utf-8-sig", "surrogateescape")


def _escape(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _list_sides(box: Box | None) -> Iterator[str]:
    return (f"{value:.1f}" for value in box) if box is not None else iter([""] * 4)


def describe_audit(audit: Audit) -> list[str]:
    """Return lines that say what was audited, by whom, and how many errors of each kind are expected."""
    given = audit.labels.given
    looked = int(given.looked_at.sum())
    checked = int((given.looked_at & audit.items.asked.any(axis=1)).sum())
    lines = [
        f"{len(given)} given labels of {looked} images, checked in {checked} of them by "
        f"{', '.join(audit.items.annotators)}"
    ]
    lines += [
        f"  {kind}: {audit.expect(kind):.0f} expected, {audit.count_likely(kind)} of them likely (probability "
        f"{LIKELY:g} or more)"
        for kind in KINDS
    ]
    return lines
