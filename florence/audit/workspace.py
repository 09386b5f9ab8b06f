"""The claims of a workspace's annotators about the images of an audit: read from its store, or made now.

Images that an annotator has not annotated yet are annotated in a store of the audit's own, below build/ of the
workspace; the working store is only read. A run that was stopped goes on from what that store has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from florence.audit.others import AnnotatorClaims
from florence.audit.reading import SOURCE, AuditImages
from florence.config import Settings
from florence.coverage import COVERAGE
from florence.formats import OBJECTS
from florence.progress import Progress, show_nothing
from florence.records import ANNOTATIONS, HUMAN, IMAGES, RECORD_COLUMNS, STUDENT, digest
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.annotate import (
    AnnotatorVersion,
    ShardOutcome,
    annotate_shard,
    list_annotators,
    make_annotator,
    read_profiles,
    write_declarations,
)

PER_SHARD = 256


def collect_workspace_claims(
    workspace: Workspace,
    images: AuditImages,
    student: str | None,
    audited: str,
    progress: Progress = show_nothing,
) -> tuple[AnnotatorClaims, tuple[ShardOutcome, ...]]:
    """Return the objects that the workspace's annotators claim in ``images``, and what became of those asked now.

    ``student``: the folder of a model that annotates too. ``audited``: the address of the audited labels; an annotator
    that claims what they say is left out. Annotators that need the truth are not asked, and none is where the pictures
    are not here.
    """
    settings = _assign_to_all(workspace.settings)
    scratch = replace_store(workspace, settings, images)
    known = [
        one
        for one in list_annotators(settings, student, workspace.store)
        if not _claims_audited(settings, one, workspace.root, audited)
    ]
    objects = [one for one in known if _claims_objects(settings, one)]
    outcomes = _annotate_missing(workspace, scratch, images, known, objects, progress) if images.has_files else ()
    ids = pa.array([record.image_id for record in images.records], pa.string())
    claims, coverage = [], []
    for annotator in objects:
        covered: pa.Array | None = None
        for store in (workspace.store, scratch.store):
            rows = store.read_tables(f"claims/{annotator.key}", ANNOTATIONS)
            looks = store.read_tables(f"coverage/{annotator.key}", COVERAGE, older=True)
            wanted = ids if covered is None else ids.filter(pc.invert(pc.is_in(ids, covered)))
            rows = rows.filter(pc.and_(pc.is_in(rows["image_id"], wanted), pc.equal(rows["task"], OBJECTS)))
            looks = looks.filter(pc.is_in(looks["image_id"], wanted))
            claims.append(rows)
            coverage.append(looks)
            covered = looks["image_id"].combine_chunks()
    profiles = [
        *read_profiles(settings, workspace.store, [a for a in objects if a.name == HUMAN]),
        *read_profiles(settings, scratch.store, [a for a in objects if a.name != HUMAN]),
    ]
    return (
        AnnotatorClaims(
            pa.concat_tables([ANNOTATIONS.empty_table(), *claims]),
            pa.concat_tables([COVERAGE.empty_table(), *coverage], promote_options="permissive"),
            tuple(profiles),
        ),
        outcomes,
    )


def replace_store(workspace: Workspace, settings: Settings, images: AuditImages) -> Workspace:
    """Return the workspace with a store of the audit's own, by the images that are audited."""
    key = digest(sorted(record.image_id for record in images.records))
    return Workspace(workspace.root, settings, Store(str(workspace.root / "build" / "audit" / key)), workspace.data)


def _assign_to_all(settings: Settings) -> Settings:
    """Return settings by which every annotator is asked about every image."""
    sections = {name: section.model_copy(update={"sources": ("*",)}) for name, section in settings.annotators.items()}
    return settings.model_copy(update={"annotators": sections})


def _claims_audited(settings: Settings, annotator: AnnotatorVersion, root: Path, audited: str) -> bool:
    """Return whether an annotator claims what the audited labels say."""
    if annotator.name not in settings.annotators:
        return False
    uri = settings.annotators[annotator.name].options.get("uri")
    return isinstance(uri, str) and (root / uri).resolve() == Path(audited).resolve()


def _claims_objects(settings: Settings, annotator: AnnotatorVersion) -> bool:
    """Return whether an annotator can claim objects, other than by the truth, and has a vote."""
    if annotator.name == HUMAN:
        return True
    if annotator.name == STUDENT or annotator.folder is not None:
        return OBJECTS in settings.engine.student.tasks
    instance, _ = make_annotator(settings, annotator.name)
    return OBJECTS in instance.tasks and instance.role != "ranker" and "truth" not in instance.needs


# ---------------------------------------------------------------- annotating now


def _annotate_missing(
    workspace: Workspace,
    scratch: Workspace,
    images: AuditImages,
    known: Sequence[AnnotatorVersion],
    objects: Sequence[AnnotatorVersion],
    progress: Progress,
) -> tuple[ShardOutcome, ...]:
    """Annotate the images that an annotator of objects has not annotated; with those whose claims it needs."""
    asked = [one for one in _with_dependencies(known, objects) if one.name != HUMAN]
    missing = {one.key: _find_missing(workspace.store, one, images) for one in asked if one in objects}
    left: set[str] = set().union(*missing.values())
    wanted = [record.image_id for record in images.records if record.image_id in left]
    if not wanted:
        write_declarations(scratch, asked)
        return ()
    shards = list(_write_shards(scratch.store, images, wanted))
    outcomes: list[ShardOutcome] = []
    for done, shard in enumerate(shards):
        progress("annotate", done, len(shards))
        outcomes += annotate_shard(scratch, asked, shard)
    progress("annotate", len(shards), len(shards))
    return tuple(outcomes)


def _with_dependencies(known: Sequence[AnnotatorVersion], wanted: Sequence[AnnotatorVersion]) -> list[AnnotatorVersion]:
    """Return annotators and those whose claims they are given, in the order of work."""
    names = {one.name for one in wanted}
    for one in reversed(known):
        if one.name in names:
            names |= set(one.depends_on)
    return [one for one in known if one.name in names]


def _find_missing(store: Store, annotator: AnnotatorVersion, images: AuditImages) -> set[str]:
    """Return the images that an annotator has not annotated in the working store."""
    looks = store.read_tables(f"coverage/{annotator.key}", COVERAGE, ["image_id", "error"], older=True)
    finished = set(looks.filter(pc.equal(looks["error"], ""))["image_id"].to_pylist())
    return {record.image_id for record in images.records} - finished


def _write_shards(store: Store, images: AuditImages, wanted: Sequence[str]) -> Iterator[str]:
    """Write the wanted images as shards, unless they are there; yield the names of the shards."""
    records = {record.image_id: replace(record, source=SOURCE) for record in images.records}
    for number, start in enumerate(range(0, len(wanted), PER_SHARD)):
        shard, some = f"{SOURCE}-{number:05d}", wanted[start : start + PER_SHARD]
        name = f"images/{shard}.parquet"
        if not store.exists(name) or store.read_table(name, ["image_id"])["image_id"].to_pylist() != list(some):
            files = images.read(some)
            rows = [
                {**{column: getattr(records[i], column) for column in RECORD_COLUMNS}, "bytes": files[i]}
                for i in some
                if i in files
            ]
            store.write_table(name, pa.Table.from_pylist(rows, schema=IMAGES))
        yield shard
