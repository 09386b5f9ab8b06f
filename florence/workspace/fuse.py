"""Fuse: run the data engine over the claims of a round's annotators."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from florence.coverage import COVERAGE
from florence.engine import fuse
from florence.errors import DataError
from florence.progress import Progress, show_nothing
from florence.records import ANNOTATIONS, HUMAN, AnnotatorProfile
from florence.rounds import delete_older_names, name_labels
from florence.workspace.annotate import AnnotatorVersion, read_profiles
from florence.workspace.base import Workspace
from florence.workspace.form import check_store
from florence.workspace.layout import read_images


def fuse_round(
    workspace: Workspace,
    annotators: Sequence[AnnotatorVersion],
    round: int,
    progress: Progress = show_nothing,
    *,
    write: bool = True,
) -> pa.Table:
    """Return the engine's labels of a round, kept and dropped ones, from the claims of ``annotators``.

    On gold images people's claims are left out: they are the reference that labels are measured against there. The
    labels are written to the working store (`florence.rounds`) unless ``write`` is false. Raises DataError where there
    is no annotator.
    """
    settings, store = workspace.settings, workspace.store
    check_store(store)
    claims = [store.read_tables(f"claims/{annotator.key}", ANNOTATIONS) for annotator in annotators]
    coverage = [store.read_tables(f"coverage/{annotator.key}", COVERAGE, older=True) for annotator in annotators]
    if not claims:
        raise DataError("no annotators: add one to `annotators` in params.yaml")
    images, profiles = read_images(store), read_profiles(settings, store, annotators)
    gold = images.filter(pc.equal(images["split"], "gold"))["image_id"]
    people = [is_person(profile) for profile in profiles]
    labels = fuse(
        pa.concat_tables(_leave_out(gold, claims, people)),
        images,
        pa.concat_tables(_leave_out(gold, coverage, people), promote_options="default"),
        settings.engine,
        round,
        profiles,
        settings.flow.workers,
        lambda done, total: progress("fuse", done, total),
    )
    if write:
        store.write_table(name_labels(round), labels)
        delete_older_names(store)
    return labels


def is_person(profile: AnnotatorProfile) -> bool:
    """Return whether the claims of an annotator are people's."""
    return profile.role == "human" or profile.name == HUMAN


def _leave_out(images: pa.ChunkedArray, tables: Sequence[pa.Table], people: Sequence[bool]) -> list[pa.Table]:
    """Return ``tables``, those of ``people`` without rows about ``images``."""
    return [
        table.filter(pc.invert(pc.is_in(table["image_id"], images.combine_chunks()))) if person else table
        for table, person in zip(tables, people, strict=True)
    ]
