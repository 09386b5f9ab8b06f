"""People's reviews: uncertain images out as a Label Studio project, corrections back as claims of `human`."""

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
from florence.coverage import COVERAGE
from florence.engine.consensus.clusters import ClusterOverlap, cluster_claims
from florence.errors import DataError
from florence.export import choose_export_round, find_export_form, replace_folder, write_image
from florence.formats import OBJECTS, ExportPlan, LabelledImage
from florence.formats._file_names import FileNames
from florence.formats.accounting import count_problems, describe_error
from florence.formats.labelstudio import LabelStudioFormat
from florence.formats.matching import read_label_set
from florence.label_report import LossCount, describe_losses
from florence.metrics import fold_label
from florence.progress import Progress, show_nothing
from florence.records import (
    ANNOTATIONS,
    CAPTIONS,
    HUMAN,
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
from florence.rounds import find_labels, list_rounds, next_round
from florence.store import EXPORT_NOTE, Store
from florence.workspace import Workspace
from florence.workspace.annotate import AnnotatorVersion, find_human_annotator
from florence.workspace.layout import list_shards, read_images

MAX_OTHER_NAMES = 300
"""Names of objects that a reviewer is offered beside those in the shown labels."""
VOTED_REASONS = ("", "low_confidence")
"""Drop reasons of labels that people review: none (kept), or a confidence that is too low."""


# ---------------------------------------------------------------- export


@dataclass(frozen=True, slots=True)
class ReviewExport:
    """What an export wrote.

    ``uncertainty``: of the first image and of the last. ``reviewed``: images left out, as people have reviewed them.
    """

    round: int
    images: int
    labels: int
    uncertainty: tuple[float, float]
    reviewed: int


def export_review(
    workspace: Workspace, out: Path, images: int, *, force: bool = False, progress: Progress = show_nothing
) -> ReviewExport:
    """Write the ``images`` most uncertain images of the snapshot's last round as a Label Studio project.

    The uncertainty of an image is 1 − confidence, on average over its labels (those dropped for low confidence
    included); of equals the lower id comes first. Objects and captions are shown: the kept ones as one prediction,
    with those of low confidence as another. Reviewed images are left out. Raises what `florence.export.export` raises,
    and DataError where no image is left.
    """
    data, store = workspace.data, workspace.store
    number = choose_export_round(data, None)
    labels = data.read_table(find_labels(data, number))
    reviewed = set(_list_reviewed_images(store, find_human_annotator(store)))
    ranked = [(value, image_id) for value, image_id in _rank_by_uncertainty(labels) if image_id not in reviewed][
        :images
    ]
    if not ranked:
        raise DataError(
            f"{data.uri}: round {number} has no other labels to review"
            + (f" beside those of the {len(reviewed)} images that are reviewed" if reviewed else "")
        )
    shown = _select_shown_labels(labels, [image_id for _, image_id in ranked])
    types = {row.task for rows in shown.values() for row in rows if row.kept}
    plan = ExportPlan(
        _choose_names(labels, shown), (OBJECTS, *(task for task in CAPTIONS if task in types)), SPLITS, False, True
    )
    with replace_folder(out, force) as folder:
        LabelStudioFormat().write_tasks(
            folder,
            _write_images(data, folder, [image_id for _, image_id in ranked], shown, progress),
            plan,
            {"round": number},
        )
        (folder / EXPORT_NOTE).write_text(
            json.dumps({"format": "review", "round": number, "images": len(ranked)}, sort_keys=True) + "\n",
            encoding="utf-8",
        )
    kept = sum(row.kept for rows in shown.values() for row in rows)
    return ReviewExport(number, len(ranked), kept, (ranked[0][0], ranked[-1][0]), len(reviewed))


def _rank_by_uncertainty(labels: pa.Table) -> list[tuple[float, str]]:
    """Return (uncertainty, image) of every image with labels that were voted on, the most uncertain first."""
    voted = labels.filter(
        pc.and_(pc.is_in(labels["reason"], pa.array(VOTED_REASONS)), pc.is_valid(labels["confidence"]))
    )
    mean = voted.group_by("image_id").aggregate([("confidence", "mean")])
    pairs = zip(mean["confidence_mean"].to_pylist(), mean["image_id"].to_pylist(), strict=True)
    return sorted(((round(1 - value, 9), image_id) for value, image_id in pairs), key=lambda pair: (-pair[0], pair[1]))


def _select_shown_labels(labels: pa.Table, images: Sequence[str]) -> dict[str, list[Annotation]]:
    """Return the labels that a reviewer is shown of each image: objects, as boxes, and captions."""
    rows = labels.filter(
        pc.and_(
            pc.is_in(labels["reason"], pa.array(VOTED_REASONS)),
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


def _choose_names(labels: pa.Table, shown: Mapping[str, Sequence[Annotation]]) -> tuple[str, ...]:
    """Return the names that a reviewer may give: those in the shown labels, and the commonest others."""
    shown_names = {row.text for rows in shown.values() for row in rows if row.task == OBJECTS}
    common = Counter(labels.filter(pc.and_(labels["kept"], pc.equal(labels["task"], OBJECTS)))["text"].to_pylist())
    others = sorted((name for name in common if name not in shown_names), key=lambda name: (-common[name], name))
    return tuple(sorted([*shown_names, *others[:MAX_OTHER_NAMES]]))


def _write_images(
    data: Store, folder: Path, images: Sequence[str], shown: Mapping[str, Sequence[Annotation]], progress: Progress
) -> Iterator[tuple[LabelledImage, dict[str, Sequence[Annotation]]]]:
    """Yield the images in their order with their predictions; write each image's file."""
    records: dict[str, ImageRecord] = {}
    shards: dict[str, str] = {}
    for name in data.names("images", ".parquet"):
        for record, _ in table_images(data.read_table(name, RECORD_COLUMNS, [("image_id", "in", list(images))])):
            records[record.image_id], shards[record.image_id] = record, name
    several = len({record.source for record in records.values()}) > 1
    names = FileNames(by_stem=False, with_source=several)
    found = [image_id for image_id in images if image_id in records]
    for done, image_id in enumerate(found, start=1):
        record = records[image_id]
        (content,) = data.read_table(shards[image_id], ["bytes"], [("image_id", "=", image_id)])["bytes"].to_pylist()
        path = names.assign(record, find_export_form(content, record).endings)
        write_image(folder / "images" / path, content, record)
        progress("export", done, len(found))
        kept = tuple(row for row in shown[image_id] if row.kept)
        yield LabelledImage(record, path, kept), {"kept": kept, "kept and uncertain": shown[image_id]}


# ---------------------------------------------------------------- import


@dataclass(frozen=True, slots=True)
class ReviewImport:
    """The result of an import.

    ``version``: of people's claims from now on. ``images``: reviewed in this import. ``claims``: made of it;
    ``rejected`` of them say that something is not there. ``total``: images that people have reviewed in all.
    ``unknown``: images that are not in the store. ``losses``: what could not be used, by reason. ``new``: False for a
    file that was imported before.
    """

    version: str
    images: int
    claims: int
    rejected: int
    total: int
    unknown: tuple[str, ...]
    losses: tuple[LossCount, ...]
    new: bool = True

    def describe_losses(self) -> list[str]:
        """Return what could not be used in the words that are used of label sets."""
        return describe_losses(self.losses)


def import_review(workspace: Workspace, file: str) -> ReviewImport:
    """Store the annotations of a Label Studio project as claims of `human`; they outrank all others.

    They replace people's earlier claims about the same images; the same file again changes nothing. Labels of an
    exported project that a reviewer removed become claims that something is not there, unless some of the reviewer's
    labels of that image could not be read: it may be one of those. Raises StoreError or DataError
    for a file that cannot be read, and DataError where it is about none of the store's images.
    """
    settings, store, data = workspace.settings, workspace.store, workspace.data
    form = LabelStudioFormat()
    files = form.files(file)
    labels = form.open(files)
    mark = files.digest()[:12]
    before = find_human_annotator(store)
    records = {record.image_id: record for record, _ in table_images(read_images(store))}
    if (version := _find_version(store, mark)) is not None:
        return ReviewImport(version, 0, 0, 0, len(_list_reviewed_images(store, before)), (), (), new=False)
    found = read_label_set(labels, records.values())
    if not found.claims:
        why = f"; {found.problems[0]}" if found.problems else ""
        raise DataError(f"{file}: none of its {len(labels.entries)} annotated images is in {store.uri}{why}")
    shown = {
        entry.image_id: number
        for entry in labels.entries
        if entry.image_id is not None and isinstance(number := entry.raw[1].get("round"), int)
    }
    whole = {i for i, read in found.claims.items() if all(problem.unit != "label" for problem in read.problems)}
    shown = {image_id: number for image_id, number in shown.items() if image_id in whole}
    claims = {image_id: _remove_scores(found_claims.claims) for image_id, found_claims in found.claims.items()}
    removed = _find_removed_labels(settings.engine, store, data, claims, shown)
    version = f"{int(before.version.split('-')[0]) + 1 if before else 1:04d}-{mark}"
    round = next_round(store, data)
    rows = {i: annotate(i, (*claims[i], *removed.get(i, ())), HUMAN, version, round) for i in claims}
    total = _write_claims(store, version, {**_copy_claims(store, before, version), **rows})
    rejected = sum(map(len, removed.values()))
    losses = count_problems([*map(describe_error, found.errors.values()), *found.problems])
    return ReviewImport(version, len(rows), sum(map(len, rows.values())), rejected, total, found.unmatched, losses)


def _remove_scores(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Return people's claims without the scores of the labels that they started from."""
    return tuple(
        replace(claim, score=None, regions=tuple(replace(region, score=None) for region in claim.regions))
        for claim in claims
    )


def _find_version(store: Store, mark: str) -> str | None:
    """Return the version that an import of the same file made; None where there is none."""
    folders = {name.split("/")[1] for name in store.names("coverage", ".parquet")}
    return next(
        (
            folder.split("@")[1]
            for folder in sorted(folders)
            if folder.startswith(f"{HUMAN}@") and folder.endswith(f"-{mark}") and _is_complete(store, folder)
        ),
        None,
    )


def _is_complete(store: Store, folder: str) -> bool:
    both = (
        {name.rsplit("/", 1)[1] for name in store.names(f"{part}/{folder}", ".parquet")}
        for part in ("claims", "coverage")
    )
    return next(both) == next(both)


def _list_reviewed_images(store: Store, people: AnnotatorVersion | None) -> list[str]:
    """Return the ids of the images that people have reviewed."""
    return (
        []
        if people is None
        else store.read_tables(f"coverage/{people.key}", COVERAGE, ["image_id"])["image_id"].to_pylist()
    )


def _copy_claims(store: Store, before: AnnotatorVersion | None, version: str) -> dict[str, tuple[Annotation, ...]]:
    """Return people's earlier claims by image, at the new version; each keeps its round."""
    rows: dict[str, list[Annotation]] = {image_id: [] for image_id in _list_reviewed_images(store, before)}
    if before is not None:
        for row in table_annotations(store.read_tables(f"claims/{before.key}", ANNOTATIONS)):
            rows[row.image_id].append(row)
    return {
        image_id: tuple(
            replace(new, round=old.round)
            for old, new in zip(
                claims,
                annotate(image_id, (Claim(r.task, r.text, r.regions, r.score) for r in claims), HUMAN, version),
                strict=True,
            )
        )
        for image_id, claims in rows.items()
    }


def _write_claims(store: Store, version: str, rows: Mapping[str, Sequence[Annotation]]) -> int:
    """Write claims, then coverage, shard by shard; return the number of images.

    A version counts once both are complete.
    """
    written: dict[str, list[str]] = {}
    for shard in list_shards(store):
        ids = [
            i for i in store.read_table(f"images/{shard}.parquet", ["image_id"])["image_id"].to_pylist() if i in rows
        ]
        if ids:
            written[shard] = ids
            store.write_table(
                f"claims/{HUMAN}@{version}/{shard}.parquet", annotations_table(row for i in ids for row in rows[i])
            )
    for shard, ids in written.items():
        coverage = [
            {"image_id": i, "annotator": HUMAN, "version": version, "claims": len(rows[i]), "error": ""} for i in ids
        ]
        store.write_table(
            f"coverage/{HUMAN}@{version}/{shard}.parquet", pa.Table.from_pylist(coverage, schema=COVERAGE)
        )
    return sum(map(len, written.values()))


# ---------------------------------------------------------------- rejected labels


def _find_removed_labels(
    settings: EngineSettings, store: Store, data: Store, claims: Mapping[str, Sequence[Claim]], shown: Mapping[str, int]
) -> dict[str, list[Claim]]:
    """Return claims without a text for each label that a reviewer was shown, or could have added, and did not keep.

    ``shown``: image → the round whose labels were shown. Raises DataError where that round is missing.
    """
    result: dict[str, list[Claim]] = {}
    for number in sorted({shown[i] for i in claims if i in shown}):
        source = store if number in list_rounds(store) else data
        name = find_labels(source, number)
        images = [i for i in claims if shown.get(i) == number]
        if not source.exists(name):
            raise DataError(
                f"the labels of round {number}, which {len(images)} of the images were reviewed with, "
                f"are neither in {store.uri} nor in {data.uri}; `dvc checkout` their snapshot"
            )
        rows: dict[str, list[Annotation]] = {}
        for row in table_annotations(source.read_table(name, filters=[("image_id", "in", images)])):
            rows.setdefault(row.image_id, []).append(row)
        result |= {
            i: [
                *_list_removed_objects(settings, rows.get(i, ()), claims[i]),
                *_list_removed_captions(rows.get(i, ()), claims[i]),
            ]
            for i in images
        }
    return {image_id: removed for image_id, removed in result.items() if removed}


def _list_removed_objects(
    settings: EngineSettings, labels: Sequence[Annotation], claims: Sequence[Claim]
) -> list[Claim]:
    """Return a claim without a text for the box of each label that no claim of people is clustered with."""
    labels = [
        row for row in labels if row.task == OBJECTS and row.reason in (*VOTED_REASONS, "rejected") and row.regions
    ]
    boxes = [(row.text, row.regions[0].bounds) for row in labels] + [
        (c.text, c.regions[0].bounds) for c in claims if c.task == OBJECTS
    ]
    if not labels:
        return []
    codes: dict[str, int] = {}
    code = np.asarray([codes.setdefault(fold_label(text), len(codes)) for text, _ in boxes])
    is_human = np.arange(len(boxes)) >= len(labels)
    cluster = cluster_claims(
        np.zeros(len(boxes), np.int64),
        is_human.astype(np.int64),
        np.asarray([box for _, box in boxes]),
        code,
        ClusterOverlap(settings.iou, settings.same_iou),
    )
    confirmed = set(cluster[is_human].tolist())
    return [
        Claim(OBJECTS, "", (Region("", box=boxes[k][1]),))
        for k in range(len(labels))
        if int(cluster[k]) not in confirmed
    ]


def _list_removed_captions(labels: Sequence[Annotation], claims: Sequence[Claim]) -> list[Claim]:
    claimed = {claim.task for claim in claims}
    return [
        Claim(task, "")
        for task in CAPTIONS
        if task not in claimed and any(row.task == task and row.kept for row in labels)
    ]
