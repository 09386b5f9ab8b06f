"""The issues of an audit as a Label Studio project, in which people confirm them: those with most to gain first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from florence.audit.correction import correct_claims
from florence.audit.issues import LabelIssue
from florence.audit.result import LIKELY, Audit
from florence.export import find_export_form, write_image
from florence.formats import OBJECTS, ExportPlan, LabelledImage
from florence.formats._file_names import FileNames
from florence.formats._studio_project import StudioTask
from florence.formats.labelstudio import LabelStudioFormat
from florence.progress import Progress
from florence.records import SPLITS, Annotation, Claim, annotate

AT_ONCE = 64
"""Pictures in memory at once."""


def write_audit_project(audit: Audit, folder: Path, images: int, progress: Progress) -> int:
    """Write the project of the ``images`` with most expected errors below ``folder``; return how many have a picture.

    Each task has two predictions: the labels as given, and with the likely issues applied.
    """
    by_image: dict[str, list[LabelIssue]] = {}
    for issue in audit.issues:
        by_image.setdefault(issue.image_id, []).append(issue)
    expected = {image_id: sum(issue.probability for issue in issues) for image_id, issues in by_image.items()}
    chosen = sorted(expected, key=lambda image_id: (-expected[image_id], image_id))[:images]
    names = sorted({*audit.labels.given.name, *(i.right_name for i in audit.issues if i.right_name)})
    plan = ExportPlan(tuple(names), (OBJECTS,), SPLITS, False, True)
    written: list[str] = []

    def tasks() -> Iterator[StudioTask]:
        for task in _make_tasks(audit, folder, chosen, by_image):
            written.append(task.item.record.image_id)
            progress("write project", len(written), len(chosen))
            yield task

    LabelStudioFormat().write_tasks(folder, tasks(), plan, {})
    return len(written)


def _make_tasks(
    audit: Audit, folder: Path, chosen: Sequence[str], by_image: dict[str, list[LabelIssue]]
) -> Iterator[StudioTask]:
    records = {record.image_id: record for record in audit.images.records}
    names = FileNames(by_stem=False, with_source=False)
    for start in range(0, len(chosen), AT_ONCE):
        some = chosen[start : start + AT_ONCE]
        files = audit.images.read(some)
        for image_id in some:
            if image_id not in files:
                continue
            record = records[image_id]
            path = names.assign(record, find_export_form(files[image_id], record).endings)
            write_image(folder / "images" / path, files[image_id], record)
            issues = by_image[image_id]
            claims = audit.labels.claims.get(image_id, ())
            likely = [issue for issue in issues if issue.probability >= LIKELY]
            predictions = {
                "given": _make_rows(image_id, claims, "given"),
                "corrected": _make_rows(image_id, correct_claims(claims, likely), "corrected"),
            }
            doubts = {
                f"{k}. {issue.kind} ({issue.probability:.2f})": _describe(issue)
                for k, issue in enumerate(issues[:20], start=1)
            }
            yield StudioTask(LabelledImage(record, path, predictions["given"]), predictions, doubts=doubts)


def _make_rows(image_id: str, claims: Sequence[Claim], name: str) -> tuple[Annotation, ...]:
    """Return objects as boxes."""
    boxed = [
        replace(claim, regions=(replace(claim.regions[0], box=claim.regions[0].bounds, quad=None, polygons=()),))
        for claim in claims
        if claim.task == OBJECTS and claim.regions
    ]
    return annotate(image_id, boxed, name, "1")


def _describe(issue: LabelIssue) -> str:
    place = issue.box or issue.right_box
    at = "" if place is None else f" at {', '.join(f'{value:.0f}' for value in place)}"
    names = {issue.name, issue.right_name} - {None}
    said = f"{issue.name} → {issue.right_name}" if len(names) == 2 else next(iter(names), "")
    claimed = f"; claimed by {', '.join(issue.claimed_by)}" if issue.claimed_by else "; claimed by nobody else"
    return f"{said}{at}{claimed}"
