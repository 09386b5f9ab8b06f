"""Gold and held-out images out as Label Studio projects: to be labelled blind, and to be adjudicated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from florence.errors import DataError, SettingsError
from florence.export import find_export_form, replace_folder, write_image
from florence.formats import OBJECTS, ExportPlan, LabelledImage
from florence.formats._file_names import FileNames
from florence.formats._studio_project import StudioTask
from florence.formats.labelstudio import LabelStudioFormat
from florence.metrics.detection import f1_score
from florence.people import Review, read_reviews
from florence.progress import Progress, show_nothing
from florence.records import CAPTIONS, SPLITS, Annotation, Region, digest
from florence.review.export import MAX_OTHER_NAMES, read_records
from florence.rounds import list_labels
from florence.store import EXPORT_NOTE, Store
from florence.workspace import Workspace
from florence.workspace.layout import list_shards, read_images

BLIND_SPLITS = ("gold", "held_out")
TYPES = (OBJECTS, *CAPTIONS)
"""Annotation types that people are asked for."""


@dataclass(frozen=True, slots=True)
class BlindChoice:
    """Which images people label blind.

    ``images``: how many of ``split``, in the order of a hash, so that a larger number adds to a smaller one.
    ``calibrate``: how many more of those whose label is known, adjudicated or truth. ``repeat``: share of all of them
    that is in the project twice. ``types``: what is asked for. ``names``: names of objects that are offered; empty:
    those of the last round's labels and of earlier reviews. ``new``: leave out images that have a review.
    """

    split: str
    images: int = 100
    calibrate: int = 0
    repeat: float = 0.0
    types: tuple[str, ...] = (OBJECTS,)
    names: tuple[str, ...] = ()
    new: bool = False

    def __post_init__(self) -> None:
        if self.split not in BLIND_SPLITS:
            raise SettingsError(f"split {self.split!r}: {' or '.join(BLIND_SPLITS)} is expected")
        if bad := [name for name in self.types if name not in TYPES]:
            raise SettingsError(f"{bad[0]} cannot be labelled blind; known: {', '.join(TYPES)}")


@dataclass(frozen=True, slots=True)
class BlindExport:
    """What was written: images, those of a known label among them, those that come twice, and all of the split."""

    images: int
    calibrate: int
    repeated: int
    available: int
    names: int


def export_blind(
    workspace: Workspace, out: Path, choice: BlindChoice, *, force: bool = False, progress: Progress = show_nothing
) -> BlindExport:
    """Write images of a split as a project without predictions, in an order that says nothing.

    Nobody's claims are in it: neither beside an image nor in the order. Raises DataError where the split has no such
    image, or no name of an object is known; StoreError as `florence.export.replace_folder` does.
    """
    from florence.evaluate.references import order_by_hash, read_truth_of_type

    source, reviews = _choose_store(workspace), read_reviews(workspace.store)
    images = read_images(source)
    of_split = images.filter(pc.equal(images["split"], choice.split))["image_id"].to_pylist()
    if not of_split:
        raise DataError(
            f"no image is in the split {choice.split}: the setting split.{choice.split} is "
            f"{getattr(workspace.settings.split, choice.split)}, and {len(images)} images are collected. Splits are "
            "drawn when an image is collected: raise the setting before that"
        )
    reviewed = {one.image_id for one in reviews}
    ordered = order_by_hash(of_split, "review")
    chosen = [i for i in ordered if not (choice.new and i in reviewed)][: choice.images]
    known = {one.image_id for one in reviews if one.adjudicated} | set(
        read_truth_of_type(source, of_split, OBJECTS) if choice.calibrate else ()
    )
    extra = [i for i in ordered if i in known and i not in chosen][: choice.calibrate]
    if not chosen and not extra:
        raise DataError(f"every image of the split {choice.split} has been reviewed")
    chosen += extra
    repeated = order_by_hash(chosen, "repeat")[: round(choice.repeat * len(chosen))]
    names = choice.names or _list_names(source, reviews)
    if OBJECTS in choice.types and not names:
        raise DataError("no name of an object is known yet: name those that people may give (--names 'cat, dog')")
    plan = ExportPlan(names, choice.types, SPLITS, False, True)
    with replace_folder(out, force) as folder:
        pictures = _write_pictures(source, folder, chosen, progress)
        order = sorted([(i, 0) for i in chosen] + [(i, 1) for i in repeated], key=_mix)
        tasks = (StudioTask(pictures[image_id], {}) for image_id, _ in order if image_id in pictures)
        LabelStudioFormat().write_tasks(folder, tasks, plan, {"blind": list(choice.types)})
        _write_note(folder, "blind", len(chosen))
    return BlindExport(len(chosen), len(extra), len(repeated), len(of_split), len(names))


def _mix(task: tuple[str, int]) -> str:
    return digest(f"order|{task[1]}|{task[0]}".encode())


def _choose_store(workspace: Workspace) -> Store:
    """Return the snapshot, or the working store before there is one. Raises DataError where neither has an image."""
    store = workspace.data if workspace.data.exists("snapshot.json") else workspace.store
    if not list_shards(store):
        raise DataError("no image has been collected: florence collect")
    return store


def _list_names(source: Store, reviews: Sequence[Review]) -> tuple[str, ...]:
    """Return the names of the objects of the last round's kept labels, the commonest ones, and those of reviews."""
    names = {row.text for one in reviews for row in one.list_rows(OBJECTS)}
    if tables := list_labels(source):
        labels = source.read_table(tables[max(tables)], ["task", "text", "kept"])
        objects = labels.filter(pc.and_(labels["kept"], pc.equal(labels["task"], OBJECTS)))["text"].to_pylist()
        names |= {name for name, _ in Counter(objects).most_common(MAX_OTHER_NAMES)}
    return tuple(sorted(names))


def _write_pictures(source: Store, folder: Path, images: Sequence[str], progress: Progress) -> dict[str, LabelledImage]:
    """Write the files of images, each once; return what a project has of each."""
    records = read_records(source, images)
    names = FileNames(by_stem=False, with_source=len({record.source for record, _ in records.values()}) > 1)
    result = {}
    for done, (image_id, (record, shard)) in enumerate(records.items(), start=1):
        (content,) = source.read_table(shard, ["bytes"], [("image_id", "=", image_id)])["bytes"].to_pylist()
        path = names.assign(record, find_export_form(content, record).endings)
        write_image(folder / "images" / path, content, record)
        progress("export", done, len(records))
        result[image_id] = LabelledImage(record, path, ())
    return result


def _write_note(folder: Path, kind: str, images: int) -> None:
    note = {"format": kind, "images": images}
    (folder / EXPORT_NOTE).write_text(json.dumps(note, sort_keys=True) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- adjudication


def export_disagreements(
    workspace: Workspace, out: Path, images: int, *, force: bool = False, progress: Progress = show_nothing
) -> BlindExport:
    """Write the images whose reviewers disagree, those that do most first, with each reviewer's labels to choose from.

    An image that has been adjudicated, and one with fewer than two reviewers that count, is left out. What is imported
    of the project decides. Raises DataError where nobody disagrees.
    """
    source = _choose_store(workspace)
    reviews = read_reviews(workspace.store)
    disagreeing = find_disagreements(reviews, workspace.settings.review.exclude)
    chosen = list(disagreeing)[:images]
    if not chosen:
        raise DataError("no image has two reviewers that disagree and is not adjudicated")
    types = tuple(t for t in TYPES if any(t in one.types for i in chosen for one in disagreeing[i]))
    plan = ExportPlan(_list_names(source, reviews), types, SPLITS, False, True)
    with replace_folder(out, force) as folder:
        pictures = _write_pictures(source, folder, chosen, progress)
        tasks = _make_tasks(pictures, disagreeing)
        LabelStudioFormat().write_tasks(folder, tasks, plan, {"adjudicate": True, "blind": list(types)})
        _write_note(folder, "disagreements", len(chosen))
    return BlindExport(len(chosen), 0, 0, len(disagreeing), len(plan.names))


def _make_tasks(pictures: Mapping[str, LabelledImage], reviews: Mapping[str, Sequence[Review]]) -> Iterator[StudioTask]:
    for image_id, picture in pictures.items():
        yield StudioTask(picture, {one.reviewer: _list_shown(one) for one in reviews[image_id]})


def _list_shown(review: Review) -> list[Annotation]:
    """Return a reviewer's objects, as boxes, and captions."""
    shown = [row for row in review.rows if row.task in TYPES]
    return [replace(r, regions=tuple(replace(g, box=g.bounds, polygons=()) for g in r.regions)) for r in shown]


def find_disagreements(reviews: Sequence[Review], exclude: Sequence[str] = ()) -> dict[str, list[Review]]:
    """Return image id → its reviews, of images whose reviewers differ in objects; the most first."""
    decided = {one.image_id for one in reviews if one.adjudicated}
    by_image: dict[str, list[Review]] = {}
    for one in reviews:
        if one.image_id not in decided and one.reviewer not in exclude and not one.repeat and OBJECTS in one.types:
            by_image.setdefault(one.image_id, []).append(one)
    agreement = {
        image_id: float(np.mean([f1_score(_regions(a), _regions(b)) for k, a in enumerate(found) for b in found[:k]]))
        for image_id, found in by_image.items()
        if len(found) > 1
    }
    return {i: by_image[i] for i in sorted(agreement, key=lambda i: (agreement[i], i)) if agreement[i] < 1}


def _regions(review: Review) -> list[Region]:
    return [Region(row.text, box=region.bounds) for row in review.list_rows(OBJECTS) for region in row.regions]
