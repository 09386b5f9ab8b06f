"""What is in doubt about an image's labels: how likely each is wrong, who claims what, and who is silent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.coverage import COVERAGE
from florence.engine.evidence import Evidence, weigh_evidence
from florence.formats import OBJECTS
from florence.geometry import Box, paired_iou
from florence.records import ANNOTATIONS, CAPTIONS, Annotation
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.annotate import AnnotatorVersion, read_profiles
from florence.workspace.layout import read_images

MAX_IMAGES = 3_000
"""Images up to which annotators are judged by the claims about all."""
MODEL_IMAGES = 2_000
"""Images that annotators are judged by, where there are more: the first by id, which is a hash of the content."""
MIN_OVERLAP = 0.5
"""Least IoU of a label with the item that it is."""
LISTED = 12
"""Labels of an image whose doubts are listed for a reviewer."""


@dataclass(frozen=True, slots=True)
class ClaimNote:
    """What one annotator claims of an item. ``p_right``: how likely it is right, by all annotators; None: unknown."""

    annotator: str
    text: str
    score: float | None = None
    p_right: float | None = None
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Doubt:
    """A label that a person may look at. ``wrong``: how likely it is wrongly kept or wrongly dropped.

    ``claims``: of the annotators with a vote about it; ``silent``: annotators that were asked and claim nothing there.
    """

    label: Annotation
    claims: tuple[ClaimNote, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def confidence(self) -> float:
        """The label's confidence."""
        return self.label.confidence or 0.0

    @property
    def wrong(self) -> float:
        """How many labels are expected to be wrong because of this one, 0…1."""
        return 1 - self.confidence if self.label.kept else self.confidence

    @property
    def name(self) -> str:
        """The object's name, or what kind of text it is."""
        return self.label.text if self.label.task == OBJECTS else self.label.task.strip("<>").lower().replace("_", " ")

    def describe(self) -> str:
        """Return name, confidence and whether it is dropped, in a few words."""
        return f"{self.name} {self.confidence:.2f}{'' if self.label.kept else ' (dropped)'}"

    def explain(self) -> str:
        """Return who claims what: each name or text with the annotators that claim it, then those that are silent."""
        found: dict[str, list[str]] = {}
        for claim in sorted(self.claims, key=lambda c: (c.text != self.label.text, c.text, c.annotator)):
            score = "" if claim.score is None else f" {claim.score:.2f}"
            found.setdefault(claim.text, []).append(claim.annotator + score)
        parts = [f"{text}: {', '.join(who)}" for text, who in found.items()]
        return "; ".join([*parts, *([f"nothing: {', '.join(self.silent)}"] if self.silent else [])])


def collect_doubts(workspace: Workspace, labels: Mapping[str, Sequence[Annotation]]) -> dict[str, list[Doubt]]:
    """Return the doubts about ``labels`` (image → labels), the largest first, with the claims of the last snapshot.

    Without claims in the snapshot only the labels tell.
    """
    data, settings = workspace.data, workspace.settings
    annotators = _list_annotators(data)
    claims, coverage, images = _read_tables(data, annotators, tuple(labels))
    profiles = read_profiles(settings, data, annotators)
    objects = claims.filter(pc.equal(claims["task"], OBJECTS))
    evidence = weigh_evidence(objects, images, coverage, settings.engine, profiles, tasks=(OBJECTS,), by_others=())
    noted = _note_objects(evidence, tuple(labels))
    rankers = pa.array([profile.name for profile in profiles if profile.role == "ranker"], pa.string())
    texts = _note_captions(claims.filter(pc.invert(pc.is_in(claims["annotator"], rankers))), tuple(labels))
    result = {}
    for image_id, rows in labels.items():
        named = _match_items([row for row in rows if row.task == OBJECTS], noted.get(image_id, []))
        captions = [Doubt(row, tuple(texts.get((image_id, row.task), ()))) for row in rows if row.task in CAPTIONS]
        result[image_id] = sorted([*named, *captions], key=lambda doubt: -round(doubt.wrong, 9))
    return result


def list_doubts(doubts: Iterable[Doubt]) -> dict[str, str]:
    """Return a numbered list for a reviewer: label and confidence → who claims what; only labels that may be wrong."""
    rows = [doubt for doubt in doubts if doubt.wrong >= 0.005][:LISTED]
    return {f"{k}. {doubt.describe()}": doubt.explain() for k, doubt in enumerate(rows, start=1)}


def _list_annotators(data: Store) -> list[AnnotatorVersion]:
    """The annotators of the snapshot."""
    named = data.read_object("snapshot.json").get("annotators") if data.exists("snapshot.json") else None
    return [AnnotatorVersion(name, version) for name, version in named.items()] if isinstance(named, dict) else []


def _read_tables(
    data: Store, annotators: Sequence[AnnotatorVersion], chosen: Sequence[str]
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Claims, coverage and images: of all images, or of the ``chosen`` ones and those that annotators are judged by."""
    images = read_images(data)
    filters = None
    if len(images) > MAX_IMAGES:
        sample = set(sorted(images["image_id"].to_pylist())[:MODEL_IMAGES]) | set(chosen)
        images = images.filter(pc.is_in(images["image_id"], pa.array(sorted(sample), pa.string())))
        filters = [("image_id", "in", sorted(sample))]
    claims, coverage = (
        [
            data.read_table(name, filters=filters, schema=schema)
            for one in annotators
            for name in data.names(f"{folder}/{one.key}", ".parquet")
        ]
        for folder, schema in (("claims", ANNOTATIONS), ("coverage", COVERAGE))
    )
    return (
        pa.concat_tables([ANNOTATIONS.empty_table(), *claims], promote_options="default"),
        pa.concat_tables([COVERAGE.empty_table(), *coverage], promote_options="default"),
        images,
    )


# ---------------------------------------------------------------- objects


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of the consensus: its label, its box, who claims what of it, and who is silent."""

    label: str
    box: Box
    claims: tuple[ClaimNote, ...]
    silent: tuple[str, ...]


def _note_objects(evidence: Evidence, chosen: Sequence[str]) -> dict[str, list[_Item]]:
    """The items of the ``chosen`` images."""
    wanted = pa.array(chosen, pa.string())
    items = evidence.items.filter(pc.is_in(evidence.items["image_id"], wanted))
    claims = evidence.claims.filter(
        pc.and_(pc.is_in(evidence.claims["image_id"], wanted), pc.equal(evidence.claims["vote_reason"], ""))
    )
    notes: dict[int, list[ClaimNote]] = {}
    columns = ("item", "annotator", "text", "score", "p_right", "box")
    for item, *values in zip(*(claims[name].to_pylist() for name in columns), strict=True):
        notes.setdefault(item, []).append(ClaimNote(*values))
    result: dict[str, list[_Item]] = {}
    for row in items.select(["item", "image_id", "label", "box", "silent"]).to_pylist():
        if row["box"] is not None:
            found = _Item(row["label"], tuple(row["box"]), tuple(notes.get(row["item"], ())), tuple(row["silent"]))
            result.setdefault(row["image_id"], []).append(found)
    return result


def _match_items(labels: Sequence[Annotation], items: Sequence[_Item]) -> list[Doubt]:
    """The doubt about each object's label: that of the item whose box overlaps it most, of its name if there is one.

    The item may have another name where the annotators are judged by other images than the label's round had.
    """
    result = []
    boxes = np.asarray([item.box for item in items], float).reshape(-1, 4)
    for label in labels:
        box = np.broadcast_to(np.asarray(label.regions[0].bounds, float), boxes.shape)
        overlap = paired_iou(box, boxes)
        same = np.asarray([item.label == label.text for item in items], float)
        rank = np.where(overlap >= MIN_OVERLAP, overlap + same, 0.0)
        best = int(rank.argmax()) if len(items) else -1
        if best >= 0 and rank[best] > 0:
            result.append(Doubt(label, items[best].claims, items[best].silent))
        else:
            result.append(Doubt(label))
    return result


def _note_captions(claims: pa.Table, chosen: Sequence[str]) -> dict[tuple[str, str], list[ClaimNote]]:
    """What annotators claim as captions of the ``chosen`` images, by image and annotation type."""
    rows = claims.filter(
        pc.and_(
            pc.is_in(claims["image_id"], pa.array(chosen, pa.string())),
            pc.is_in(claims["task"], pa.array(CAPTIONS)),
        )
    )
    result: dict[tuple[str, str], list[ClaimNote]] = {}
    columns = ("image_id", "task", "annotator", "text", "score")
    for image_id, task, *values in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        result.setdefault((image_id, task), []).append(ClaimNote(*values))
    return result
