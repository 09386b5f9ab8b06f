"""What each run tells about label sets: which images they know, and what of them is not used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from florence.label_report import LabelSetReport, describe_label_set
from florence.records import ImageRecord
from florence.workspace import Workspace
from florence.workspace.annotate import (
    describe_label_sets,
    find_label_sets,
    list_annotators,
    refuse_unmatched_label_sets,
    report_label_sets,
)
from flows.terminal import say


def check_label_sets(workspace: Workspace) -> None:
    """Say what the label sets know of the images in the store.

    Raises FlorenceError where a required annotator's labels cannot be read, or are of none of its images.
    """
    reports = report_label_sets(workspace, list_annotators(workspace.settings, files=workspace.store))
    for line in describe_label_sets(workspace.settings, reports):
        say(line)
    refuse_unmatched_label_sets(workspace.settings, reports)


def list_label_set_lines(workspace: Workspace, more: Iterable[ImageRecord] = ()) -> list[str]:
    """Return what `check_label_sets` would say, with ``more`` images than the store has; nothing is written.

    Raises FlorenceError where a required annotator's labels cannot be read.
    """
    reports = report_label_sets(
        workspace, list_annotators(workspace.settings, files=workspace.store), more, write=False
    )
    return describe_label_sets(workspace.settings, reports)


def rate_label_sets(workspace: Workspace) -> Iterator[tuple[str, Literal["ok", "warn", "fail"], str, str]]:
    """Yield the name, status, finding and remedy of each annotator with a label set; nothing is written.

    Raises FlorenceError where a required annotator's labels cannot be read.
    """
    annotators = list_annotators(workspace.settings, files=workspace.store)
    if not (with_labels := find_label_sets(workspace.settings, annotators)):
        return
    if not workspace.store.names("images", ".parquet"):
        names = ", ".join(one.name for one in with_labels)
        found = f"no image is collected yet, so it is unknown which ones {names} match"
        yield "labels", "warn", found, "`florence loop --dry-run` tells"
        return
    for report in report_label_sets(workspace, annotators, write=False):
        section = workspace.settings.annotators[report.annotator]
        found = describe_label_set(report, section.min_matched)[0]
        remedy = report.remedy or f"correct annotators.{report.annotator}: docs/formats.md says how images are matched"
        yield f"labels of {report.annotator}", _rate(report, section.required, section.min_matched), found, remedy


def _rate(report: LabelSetReport, is_required: bool, min_matched: float) -> Literal["ok", "warn", "fail"]:
    if report.images and not report.known:
        return "fail" if is_required else "warn"
    return "warn" if report.share < min_matched else "ok"
