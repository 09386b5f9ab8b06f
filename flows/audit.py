"""An audit from the command line: what is read, who is asked, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from florence.audit.correction import CorrectionPlan, plan_correction, write_corrected
from florence.audit.issues import SWAPPED, LabelIssue
from florence.audit.others import AnnotatorClaims, join_claims
from florence.audit.page import render_audit
from florence.audit.project import write_audit_project
from florence.audit.reading import (
    AuditImages,
    FolderImages,
    LabelFile,
    StoreImages,
    open_labels,
    read_claim_files,
    read_given,
    state_images,
)
from florence.audit.result import Audit, audit_labels, describe_audit, write_issue_list
from florence.audit.workspace import collect_workspace_claims
from florence.config import EngineSettings
from florence.errors import DataError, FlorenceError, StoreError
from florence.export import replace_folder
from florence.formats.matching import read_label_set
from florence.images import is_image
from florence.label_report import describe_losses
from florence.progress import Progress
from florence.store import EXPORT_NOTE
from flows.adapters.mlflow_store import store_uri
from flows.adapters.sqlite_urls import sqlite_file
from flows.lock import lock_workspace
from flows.models import fetch_champion, find_model
from flows.terminal import LISTED, say
from flows.tracked import TrackedWorkspace, open_workspace


@dataclass(frozen=True, slots=True)
class AuditChoice:
    """What is audited, by whom, and what is written.

    ``labels``, ``format``: the data set; an empty format is guessed. ``images``: folder of the pictures. ``claims``,
    ``families``: files of other annotators' claims. ``annotators``: whether the workspace's annotators are asked.
    ``student``: a model that annotates too; None: the champion, if there is one. ``out``: folder of the results;
    ``force``: whether it may be replaced. ``project_images``: how many images the Label Studio project has at most.
    ``corrected``: path of a corrected copy; it is written where ``write`` says so, with the issues of at least
    ``min_confidence``.
    """

    labels: str
    format: str
    images: str | None
    claims: tuple[str, ...]
    families: tuple[str, ...]
    annotators: bool
    student: str | None
    out: Path
    force: bool
    project_images: int
    corrected: Path | None
    min_confidence: float
    write: bool


def audit(choice: AuditChoice, root: Path, progress: Progress) -> None:
    """Audit a data set, write page, list and project, and say what was found.

    Raises FlorenceError for what cannot be read or written, before any annotator is asked where it can be known.
    """
    _check_choice(choice)
    with _open_asked(choice, root) as workspace:
        file = open_labels(choice.labels, choice.format)
        images = _find_images(choice, file, workspace, progress)
        labels = read_given(file, images)
        for line in describe_losses(labels.losses):
            say(line)
        parts = [read_claim_files(choice.claims, choice.families, file, images)] if choice.claims else []
        if workspace is not None:
            parts.append(_ask_annotators(choice, workspace, images, progress))
        settings = workspace.settings.engine if workspace is not None else EngineSettings()
        found = audit_labels(file, images, labels, join_claims(parts), settings)
        for line in describe_audit(found):
            say(line)
        _write_results(found, choice, progress)
        if choice.corrected is not None:
            plan = plan_correction(file, labels.read, images.records, found.issues, choice.min_confidence)
            _report_correction(found, plan, choice)


def _check_choice(choice: AuditChoice) -> None:
    if choice.write and choice.corrected is None:
        raise FlorenceError("--write: it writes the corrected copy, whose path --corrected PATH names")
    if choice.corrected is not None and choice.write and choice.corrected.exists():
        raise StoreError(f"--corrected {choice.corrected} is there already; choose another path")
    if "://" not in choice.labels:
        source = Path(choice.labels).expanduser().resolve()
        if source.is_dir() and choice.out.resolve().is_relative_to(source):
            raise StoreError(f"--out {choice.out} lies in {choice.labels}, which is not written to")


@contextmanager
def _open_asked(choice: AuditChoice, root: Path) -> Iterator[TrackedWorkspace | None]:
    """Yield the workspace whose annotators are asked, kept from other commands meanwhile; None where claims suffice."""
    if choice.claims and not choice.annotators:
        yield None
        return
    if not (root / "params.yaml").exists():
        raise FlorenceError(
            "who else has looked at the images? Give other annotators' claims with --claims FILE, or run this in a "
            "workspace, whose annotators are asked (`florence init` makes one)"
        )
    workspace = open_workspace(root)
    with lock_workspace(workspace.root, "florence audit"):
        yield workspace


def _find_images(
    choice: AuditChoice, file: LabelFile, workspace: TrackedWorkspace | None, progress: Progress
) -> AuditImages:
    """Return the images: below --images; those of a snapshot or of the workspace; below the data set; or as stated."""
    if choice.images is not None:
        images: AuditImages = FolderImages(choice.images, progress)
        if not images.records:
            raise DataError(f"--images {choice.images}: no picture is there")
        return images
    if file.format == "snapshot":
        return StoreImages(file.files.store)
    if workspace is not None:
        stored = StoreImages(workspace.store)
        if stored.records and read_label_set(file.labels, stored.records).claims:
            return stored
    if not file.files.single and any(is_image(name) for name in file.files.store.names("")):
        return FolderImages(choice.labels, progress)
    return state_images(file.labels)


def _ask_annotators(
    choice: AuditChoice, workspace: TrackedWorkspace, images: AuditImages, progress: Progress
) -> AnnotatorClaims:
    """Return the claims of the workspace's annotators, the student included where there is one."""
    claims, outcomes = collect_workspace_claims(
        workspace, images, _find_student(choice, workspace), choice.labels, progress
    )
    for outcome in outcomes:
        if outcome.left:
            say(f"{outcome.annotator}: {outcome.left} images not annotated: {outcome.error}")
    if not len(claims.coverage) and not choice.claims:
        raise DataError(
            "no annotator of this workspace claims objects in these images"
            + ("" if images.has_files else ", and their pictures are not here to ask one now: --images DIR")
            + "; name a detector in params.yaml, or give --claims FILE"
        )
    return claims


def _find_student(choice: AuditChoice, workspace: TrackedWorkspace) -> str | None:
    """Return the folder of the model that annotates too; None without one: no store is made to look for a champion."""
    if choice.student is not None:
        return str(find_model(workspace, choice.student))
    database = sqlite_file(store_uri(workspace.settings.tracking.uri, workspace.root))
    if database is not None and not database.exists():
        return None
    champion = fetch_champion(workspace)
    return None if champion is None else str(champion.model)


def _write_results(found: Audit, choice: AuditChoice, progress: Progress) -> None:
    """Write page, list and project, whole or not at all."""
    with replace_folder(choice.out, choice.force) as folder:
        count = 0
        if found.images.has_files and found.issues and choice.project_images:
            (folder / "label-studio").mkdir()
            count = write_audit_project(found, folder / "label-studio", choice.project_images, progress)
        (folder / "issues.csv").write_bytes(write_issue_list(found))
        page = render_audit(found, has_project=count > 0)
        (folder / "index.html").write_bytes(page.encode("utf-8", "replace"))
        note = {"format": "audit", "labels": choice.labels, "issues": len(found.issues), "images": count}
        (folder / EXPORT_NOTE).write_text(json.dumps(note, sort_keys=True) + "\n", encoding="utf-8")
    say(f"{len(found.issues)} label issues: {choice.out / 'index.html'}, {choice.out / 'issues.csv'}")
    if count:
        say(f"To confirm them: {choice.out / 'label-studio' / 'README.md'} ({count} images)")
    elif not found.images.has_files:
        say("no pictures are here, so none are drawn and there is no Label Studio project: --images names their folder")


def _report_correction(found: Audit, plan: CorrectionPlan, choice: AuditChoice) -> None:
    """Write the corrected copy, or say what would be changed."""
    assert choice.corrected is not None
    name_of = {record.image_id: record.name for record in found.images.records}
    what = f"{len(plan.applied)} changes of probability {choice.min_confidence:g} or more in {len(plan.files)} files"
    for issue, reason in plan.refused[:LISTED]:
        say(f"  cannot be changed: {_describe(issue, name_of)}: {reason}")
    if not choice.write:
        for issue in plan.applied[:LISTED]:
            say(f"  would change: {_describe(issue, name_of)}")
        if len(plan.applied) > LISTED:
            say(f"  and {len(plan.applied) - LISTED} more")
        say(f"{what}; nothing is written: --write writes {choice.corrected}")
        return
    write_corrected(found.file, plan, choice.corrected)
    say(f"wrote {choice.corrected}: {what}; pictures are not copied")


def _describe(issue: LabelIssue, name_of: dict[str, str]) -> str:
    box = issue.box or issue.right_box or ()
    label = f"{issue.name} → {issue.right_name}" if issue.kind == SWAPPED else issue.name or issue.right_name
    return (
        f"{name_of[issue.image_id]}: {issue.kind} ({issue.probability:.2f}): {label} "
        f"at {', '.join(f'{value:.0f}' for value in box)}"
    )
