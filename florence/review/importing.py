"""People's labels back: of training images they become claims of `human`, of all others reviews (`florence.people`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.coverage import COVERAGE
from florence.engine.consensus.clusters import ClusterOverlap, cluster_claims
from florence.errors import DataError
from florence.formats import OBJECTS, LabelSet
from florence.formats.accounting import count_problems, describe_error
from florence.formats.labelstudio import LabelStudioFormat
from florence.formats.matching import ReadResult, read_label_set
from florence.label_report import LossCount, describe_losses
from florence.records import (
    ANNOTATIONS,
    CAPTIONS,
    HUMAN,
    Annotation,
    Claim,
    ImageRecord,
    Region,
    annotate,
    annotations_table,
    fold_label,
    table_annotations,
    table_images,
)
from florence.review.blind_import import BlindImport, collect_blind, find_blind_import, store_blind
from florence.review.ranking import VOTED_REASONS
from florence.rounds import find_labels, list_rounds, next_round
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.annotate import AnnotatorVersion, find_human_annotator
from florence.workspace.layout import list_shards, read_images


@dataclass(frozen=True, slots=True)
class ReviewImport:
    """The result of an import.

    ``version``: of people's claims from now on. ``images``: reviewed in this import. ``claims``: made of it;
    ``rejected`` of them say that something is not there. ``total``: images that people have reviewed in all.
    ``unknown``: images that are not in the store. ``losses``: what could not be used, by reason. ``new``: False for a
    file that was imported before. ``complete``: whether people's claims name every object of every reviewed image.
    ``blind``: what it has of gold and held-out images, which ``images`` and ``claims`` do not count.
    """

    version: str
    images: int
    claims: int
    rejected: int
    total: int
    unknown: tuple[str, ...]
    losses: tuple[LossCount, ...]
    new: bool = True
    complete: bool = False
    blind: BlindImport = field(default_factory=BlindImport)

    def describe_losses(self) -> list[str]:
        """Return what could not be used in the words that are used of label sets."""
        return describe_losses(self.losses)


def import_review(workspace: Workspace, file: str) -> ReviewImport:
    """Store the annotations of a Label Studio project: as claims of `human`, which outrank all others, and as reviews.

    Of gold and held-out images every reviewer's annotation is a review and nobody's claim: reviews make the reference
    that labels and models are measured against. The rest is about training images.

    They replace people's earlier claims about the same images; the same file again changes nothing. Labels of an
    exported project that a reviewer removed become claims that something is not there, unless some of the reviewer's
    labels of that image could not be read: it may be one of those. People's declaration says whether their claims are
    complete (`florence.records.AnnotatorProfile`): a reviewer of an exported project saw its labels and could add what
    was missing; of a project of other origin, or of an image some of whose labels could not be read, that is unknown.
    Raises StoreError or DataError for a file that cannot be read, and DataError where it is about none of the store's
    images.
    """
    settings, store, data = workspace.settings, workspace.store, workspace.data
    files = LabelStudioFormat().files(file)
    labels = LabelStudioFormat().open(files)
    mark = files.digest()[:12]
    before = find_human_annotator(store)
    records = {record.image_id: record for record, _ in table_images(read_images(store))}
    known = _find_version(store, mark), find_blind_import(store, mark)
    total = len(list_reviewed_images(store, before))
    if known[0] is not None:
        return ReviewImport(known[0], 0, 0, 0, total, (), (), new=False)
    found = read_label_set(labels, records.values())
    reviews, blind = collect_blind(labels, found, records, given=settings.review.names == "given")
    found = _leave_out_blind(found, records)
    if not found.claims and not reviews:
        why = f"; {found.problems[0]}" if found.problems else ""
        raise DataError(f"{file}: none of its {len(labels.entries)} annotated images is in {store.uri}{why}")
    if reviews and known[1] is None:
        store_blind(store, mark, reviews)
    losses = count_problems([*map(describe_error, found.errors.values()), *found.problems, *blind.problems])
    if not found.claims:
        version = before.version if before else ""
        return ReviewImport(version, 0, 0, 0, total, found.unmatched, losses, known[1] is None, blind=blind)
    shown = _find_shown_rounds(labels, found)
    complete = _are_complete(store, before, found.claims, shown)
    claims = {image_id: _remove_scores(found_claims.claims) for image_id, found_claims in found.claims.items()}
    removed = _find_removed_labels(settings.engine, store, data, claims, shown)
    version = f"{int(before.version.split('-')[0]) + 1 if before else 1:04d}-{mark}"
    round = next_round(store, data)
    rows = {i: annotate(i, (*claims[i], *removed.get(i, ())), HUMAN, version, round) for i in claims}
    store.write_json(f"annotators/{HUMAN}@{version}.json", {"role": "human", "vocabulary": None, "complete": complete})
    total = _write_claims(store, version, {**_copy_claims(store, before, version), **rows})
    rejected = sum(map(len, removed.values()))
    count = sum(map(len, rows.values()))
    return ReviewImport(
        version, len(rows), count, rejected, total, found.unmatched, losses, complete=complete, blind=blind
    )


def _find_shown_rounds(labels: LabelSet, found: ReadResult) -> dict[str, int]:
    """Return image id → the round whose labels its reviewer saw, of images all of whose labels could be read."""
    whole = {i for i, read in found.claims.items() if all(problem.unit != "label" for problem in read.problems)}
    return {
        entry.image_id: number
        for entry in labels.entries
        if entry.image_id in whole and isinstance(number := entry.raw[1].get("round"), int)
    }


def _leave_out_blind(found: ReadResult, records: Mapping[str, ImageRecord]) -> ReadResult:
    """Return what is about training images, with the problems that are about no image."""
    train = {image_id for image_id, record in records.items() if record.split == "train"}
    others = [entry for image_id, entries in found.entries.items() if image_id not in train for entry in entries]
    reads = [read for image_id, read in found.claims.items() if image_id not in train]
    left = {id(one) for entry in others for one in entry.raw[2]} | {id(one) for read in reads for one in read.problems}
    return replace(
        found,
        claims={image_id: read for image_id, read in found.claims.items() if image_id in train},
        errors={image_id: error for image_id, error in found.errors.items() if image_id in train},
        problems=tuple(one for one in found.problems if id(one) not in left),
    )


def _are_complete(
    store: Store, before: AnnotatorVersion | None, reviewed: Collection[str], shown: Collection[str]
) -> bool:
    """Return whether people's claims are complete for all images: those ``reviewed`` now, and those of ``before``.

    ``shown``: images of an exported project whose labels could all be read.
    """
    if not set(reviewed) <= set(shown):
        return False
    if before is None or set(list_reviewed_images(store, before)) <= set(shown):
        return True
    name = f"annotators/{before.key}.json"
    return store.exists(name) and store.read_object(name).get("complete") is True


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


def list_reviewed_images(store: Store, people: AnnotatorVersion | None) -> list[str]:
    """Return the ids of the images that people have reviewed."""
    return (
        []
        if people is None
        else store.read_tables(f"coverage/{people.key}", COVERAGE, ["image_id"])["image_id"].to_pylist()
    )


def _copy_claims(store: Store, before: AnnotatorVersion | None, version: str) -> dict[str, tuple[Annotation, ...]]:
    """Return people's earlier claims by image, at the new version; each keeps its round."""
    rows: dict[str, list[Annotation]] = {image_id: [] for image_id in list_reviewed_images(store, before)}
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
