"""What each run tells about label sets: which images they know, and what of them is not used."""

from __future__ import annotations

from collections.abc import Iterable

from florence.records import ImageRecord
from florence.workspace import Workspace
from florence.workspace.annotate import (
    describe_label_sets,
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
