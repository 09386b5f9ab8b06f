"""People's reviews: the images most worth a look as a Label Studio project, and what was made of it as claims of the annotator `human`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.config import EngineSettings
from florence.engine.consensus.clusters import ClusterOverlap, cluster_claims
from florence.errors import DataError
from florence.export import chosen_round, replacing, write_picture
from florence.formats import EXPORT_NOTE, OBJECTS, ExportPlan, LabelledImage, assign_paths, read_label_set
from florence.formats.labelstudio import LabelStudioFormat
from florence.metrics import normalize_label
from florence.progress import Progress, show_nothing
from florence.records import (
    ANNOTATIONS,
    CAPTIONS,
    RECORD_COLUMNS,
    SPLITS,
    Annotation,
    Claim,
    ImageRecord,
    Region,
    annotate,
    annotations_table,
    table_annotations,
    table_images,
)
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.annotate import COVERAGE, HUMAN, AnnotatorVersion, find_human_annotator
from florence.workspace.layout import list_shards, next_round, read_images

MOST = 300
"""Names of objects that a reviewer is offered, beyond those that are shown."""
VOTED = ("", "low_confidence")
"""Reasons of labels that were kept, or that too few agreed on."""


# ---------------------------------------------------------------- out


@dataclass(frozen=True, slots=True)
class Asked:
    """What was written to be reviewed. ``disagreement``: of the first image and of the last; ``reviewed``: images that have been before, and are left out."""

    round: int
    images: int
    labels: int
    disagreement: tuple[float, float]
    reviewed: int


def export_review(
    workspace: Workspace, out: Path, images: int, *, force: bool = False, progress: Progress = show_nothing
) -> Asked:
    """Write the ``images`` of the snapshot's last round about which there is most disagreement as a Label Studio project, with their labels as a start.

    Disagreement is 1 − agreement, on average over an image's labels, those that too few agreed on included; of equals the lower id comes first. Objects and
    captions are shown: those that were kept as one prediction, with those that too few agreed on as another. Images that people have reviewed are not asked about again. Raises as `florence.export.export` does, and DataError where none is left.
    """
    data, store = workspace.data, workspace.store
    number = chosen_round(data, None)
    labels = data.read_table(f"labels/round={number}/labels.parquet")
    known = set(_images_of(store, find_human_annotator(store)))
    ranked = [(value, image_id) for value, image_id in _disagreement(labels) if image_id not in known][:images]
    if not ranked:
        raise DataError(
            f"{data.uri}: round {number} has no labels that are disputed"
            + (f" beside those of the {len(known)} images that are reviewed" if known else "")
        )
    shown = _shown(labels, [image_id for _, image_id in ranked])
    kinds = {row.task for rows in shown.values() for row in rows if row.kept}
    plan = ExportPlan(
        _names(labels, shown), (OBJECTS, *(kind for kind in CAPTIONS if kind in kinds)), SPLITS, False, True
    )
    with replacing(out, force) as folder:
        LabelStudioFormat().write_tasks(
            folder, _tasks(data, folder, [image_id for _, image_id in ranked], shown, progress), plan, {"round": number}
        )
        (folder / EXPORT_NOTE).write_text(
            json.dumps({"format": "review", "round": number, "images": len(ranked)}, sort_keys=True) + "\n",
            encoding="utf-8",
        )
    kept = sum(row.kept for rows in shown.values() for row in rows)
    return Asked(number, len(ranked), kept, (ranked[0][0], ranked[-1][0]), len(known))


def _disagreement(labels: pa.Table) -> list[tuple[float, str]]:
    """(disagreement, image) of every image that has labels which were voted on, the most disputed first."""
    voted = labels.filter(pc.and_(pc.is_in(labels["reason"], pa.array(VOTED)), pc.is_valid(labels["confidence"])))
    mean = voted.group_by("image_id").aggregate([("confidence", "mean")])
    pairs = zip(mean["confidence_mean"].to_pylist(), mean["image_id"].to_pylist(), strict=True)
    return sorted(((round(1 - value, 9), image_id) for value, image_id in pairs), key=lambda pair: (-pair[0], pair[1]))


def _shown(labels: pa.Table, images: Sequence[str]) -> dict[str, list[Annotation]]:
    """What a reviewer is shown of each image: objects, as boxes, and captions; those that too few agreed on too."""
    rows = labels.filter(
        pc.and_(
            pc.is_in(labels["reason"], pa.array(VOTED)),
            pc.and_(
                pc.is_in(labels["task"], pa.array([OBJECTS, *CAPTIONS])), pc.is_in(labels["image_id"], pa.array(images))
            ),
        )
    )
    result: dict[str, list[Annotation]] = {image_id: [] for image_id in images}
    for row in table_annotations(rows):
        boxed = tuple(replace(region, box=region.bounds, polygons=()) for region in row.regions)
        result[row.image_id].append(replace(row, regions=boxed))
    return result


def _names(labels: pa.Table, shown: Mapping[str, Sequence[Annotation]]) -> tuple[str, ...]:
    """Names that a reviewer may give: those that are shown, and the commonest others."""
    there = {row.text for rows in shown.values() for row in rows if row.task == OBJECTS}
    common = Counter(labels.filter(pc.and_(labels["kept"], pc.equal(labels["task"], OBJECTS)))["text"].to_pylist())
    others = sorted((name for name in common if name not in there), key=lambda name: (-common[name], name))
    return tuple(sorted([*there, *others[:MOST]]))


def _tasks(
    data: Store, folder: Path, images: Sequence[str], shown: Mapping[str, Sequence[Annotation]], progress: Progress
) -> Iterator[tuple[LabelledImage, dict[str, Sequence[Annotation]]]]:
    """The images in their order with their predictions, each with its picture written."""
    records: dict[str, ImageRecord] = {}
    shards: dict[str, str] = {}
    for name in data.names("images", ".parquet"):
        for record, _ in table_images(data.read_table(name, RECORD_COLUMNS, [("image_id", "in", list(images))])):
            records[record.image_id], shards[record.image_id] = record, name
    places, _ = assign_paths([records[image_id] for image_id in images if image_id in records], by_stem=False)
    for done, image_id in enumerate(places, start=1):
        (content,) = data.read_table(shards[image_id], ["bytes"], [("image_id", "=", image_id)])["bytes"].to_pylist()
        write_picture(folder / "images" / places[image_id], content, records[image_id])
        progress("export", done, len(places))
        kept = tuple(row for row in shown[image_id] if row.kept)
        yield (
            LabelledImage(records[image_id], places[image_id], kept),
            {"kept": kept, "kept and disputed": shown[image_id]},
        )


# ---------------------------------------------------------------- in


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What an import came to. ``version``: that people's claims have now; ``images``: reviewed in it; ``claims``: made of it, ``rejected`` of them say that
    something is not there; ``total``: images that people have reviewed in all; ``unknown``: images that are not here; ``problems``: what could not be used.
    """

    version: str
    images: int
    claims: int
    rejected: int
    total: int
    unknown: tuple[str, ...]
    problems: tuple[str, ...]
    new: bool = True


def import_review(workspace: Workspace, file: str) -> Reviewed:
    """Store what people made of a Label Studio project as claims of the annotator `human`, which outrank all others from the next round on.

    An image that is in it replaces what they said of it before; the same file again changes nothing. Where they were shown a project of ours, what they took
    away is claimed not to be there. Raises StoreError or DataError for a file that cannot be read, and DataError where it is about none of the store's images.
    """
    settings, store, data = workspace.settings, workspace.store, workspace.data
    form = LabelStudioFormat()
    files = form.files(file)
    labels = form.open(files)
    mark = files.digest()[:12]
    before = find_human_annotator(store)
    records = {record.image_id: record for record, _ in table_images(read_images(store))}
    if (known := _version_of(store, mark)) is not None:
        return Reviewed(known, 0, 0, 0, len(_images_of(store, before)), (), (), new=False)
    found = read_label_set(labels, records.values())
    if not found.claims:
        why = f"; {found.problems[0]}" if found.problems else ""
        raise DataError(
            f"{file}: none of its {len(labels.entries)} images that somebody has looked at is in {store.uri}{why}"
        )
    shown = {
        entry.image_id: number
        for entry in labels.entries
        if entry.image_id is not None and isinstance(number := entry.raw[1].get("round"), int)
    }
    claims = {image_id: _sure(told.claims) for image_id, told in found.claims.items()}
    gone = _taken_away(settings.engine, store, data, claims, shown)
    version = f"{int(before.version.split('-')[0]) + 1 if before else 1:04d}-{mark}"
    round = next_round(store, data)
    rows = {i: annotate(i, (*claims[i], *gone.get(i, ())), HUMAN, version, round) for i in claims}
    total = _write(store, version, {**_carried(store, before, version), **rows})
    rejected = sum(map(len, gone.values()))
    problems = (*(str(error) for error in found.errors.values()), *found.problems)
    return Reviewed(version, len(rows), sum(map(len, rows.values())), rejected, total, found.unmatched, problems)


def _sure(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Claims without the scores of what they were made of: people are sure."""
    return tuple(
        replace(claim, score=None, regions=tuple(replace(region, score=None) for region in claim.regions))
        for claim in claims
    )


def _version_of(store: Store, mark: str) -> str | None:
    """The version that this very import made."""
    folders = {name.split("/")[1] for name in store.names("coverage", ".parquet")}
    return next(
        (
            folder.split("@")[1]
            for folder in sorted(folders)
            if folder.startswith(f"{HUMAN}@") and folder.endswith(f"-{mark}") and _whole(store, folder)
        ),
        None,
    )


def _whole(store: Store, folder: str) -> bool:
    both = (
        {name.rsplit("/", 1)[1] for name in store.names(f"{kind}/{folder}", ".parquet")}
        for kind in ("claims", "coverage")
    )
    return next(both) == next(both)


def _images_of(store: Store, people: AnnotatorVersion | None) -> list[str]:
    """The images that people have reviewed."""
    return (
        []
        if people is None
        else store.read_tables(f"coverage/{people.key}", COVERAGE, ["image_id"])["image_id"].to_pylist()
    )


def _carried(store: Store, before: AnnotatorVersion | None, version: str) -> dict[str, tuple[Annotation, ...]]:
    """What people said before, image by image, at the new version; the round stays that in which they said it."""
    rows: dict[str, list[Annotation]] = {image_id: [] for image_id in _images_of(store, before)}
    if before is not None:
        for row in table_annotations(store.read_tables(f"claims/{before.key}", ANNOTATIONS)):
            rows[row.image_id].append(row)
    return {
        image_id: tuple(
            replace(new, round=old.round)
            for old, new in zip(
                said,
                annotate(image_id, (Claim(r.task, r.text, r.regions, r.score) for r in said), HUMAN, version),
                strict=True,
            )
        )
        for image_id, said in rows.items()
    }


def _write(store: Store, version: str, rows: Mapping[str, Sequence[Annotation]]) -> int:
    """Write claims, then coverage, shard by shard; returns the number of images. A version counts when it is whole."""
    written: dict[str, list[str]] = {}
    for shard in list_shards(store):
        there = [
            i for i in store.read_table(f"images/{shard}.parquet", ["image_id"])["image_id"].to_pylist() if i in rows
        ]
        if there:
            written[shard] = there
            store.write_table(
                f"claims/{HUMAN}@{version}/{shard}.parquet", annotations_table(row for i in there for row in rows[i])
            )
    for shard, there in written.items():
        coverage = [
            {"image_id": i, "annotator": HUMAN, "version": version, "claims": len(rows[i]), "error": ""} for i in there
        ]
        store.write_table(
            f"coverage/{HUMAN}@{version}/{shard}.parquet", pa.Table.from_pylist(coverage, schema=COVERAGE)
        )
    return sum(map(len, written.values()))


# ---------------------------------------------------------------- what was taken away


def _taken_away(
    settings: EngineSettings, store: Store, data: Store, claims: Mapping[str, Sequence[Claim]], shown: Mapping[str, int]
) -> dict[str, list[Claim]]:
    """Claims without a text, at the place of each label that a reviewer was shown, or could have added, and has not left there.

    ``shown``: image → the round whose labels were shown. Raises DataError where that round is not here.
    """
    result: dict[str, list[Claim]] = {}
    for number in sorted({shown[i] for i in claims if i in shown}):
        name = f"labels/round={number}/labels.parquet"
        source = store if store.exists(name) else data
        images = [i for i in claims if shown.get(i) == number]
        if not source.exists(name):
            raise DataError(
                f"the labels of round {number}, which {len(images)} of the images were reviewed with, are neither in {store.uri} nor in {data.uri}; `dvc checkout` their snapshot"
            )
        rows: dict[str, list[Annotation]] = {}
        for row in table_annotations(source.read_table(name, filters=[("image_id", "in", images)])):
            rows.setdefault(row.image_id, []).append(row)
        result |= {
            i: [*_objects_gone(settings, rows.get(i, ()), claims[i]), *_captions_gone(rows.get(i, ()), claims[i])]
            for i in images
        }
    return {image_id: gone for image_id, gone in result.items() if gone}


def _objects_gone(settings: EngineSettings, labels: Sequence[Annotation], claims: Sequence[Claim]) -> list[Claim]:
    """The places of objects that people have nothing at; places are the same by the consensus's own rule."""
    labels = [row for row in labels if row.task == OBJECTS and row.reason in (*VOTED, "rejected") and row.regions]
    said = [(row.text, row.regions[0].bounds) for row in labels] + [
        (c.text, c.regions[0].bounds) for c in claims if c.task == OBJECTS
    ]
    if not labels:
        return []
    codes: dict[str, int] = {}
    code = np.asarray([codes.setdefault(normalize_label(text), len(codes)) for text, _ in said])
    annotator = np.arange(len(said)) >= len(labels)
    cluster = cluster_claims(
        np.zeros(len(said), np.int64),
        annotator.astype(np.int64),
        np.asarray([box for _, box in said]),
        code,
        ClusterOverlap(settings.iou, settings.same_iou),
    )
    answered = set(cluster[annotator].tolist())
    return [
        Claim(OBJECTS, "", (Region("", box=said[k][1]),)) for k in range(len(labels)) if int(cluster[k]) not in answered
    ]


def _captions_gone(labels: Sequence[Annotation], claims: Sequence[Claim]) -> list[Claim]:
    there = {claim.task for claim in claims}
    return [
        Claim(kind, "")
        for kind in CAPTIONS
        if kind not in there and any(row.task == kind and row.kept for row in labels)
    ]
