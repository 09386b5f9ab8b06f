"""Doubtful images out as a Label Studio project, with what is in doubt about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from florence.errors import DataError
from florence.export import choose_export_round, find_export_form, replace_folder, write_image
from florence.formats import OBJECTS, ExportPlan, LabelledImage
from florence.formats._file_names import FileNames
from florence.formats._studio_project import StudioTask
from florence.formats.labelstudio import LabelStudioFormat
from florence.progress import Progress, show_nothing
from florence.records import CAPTIONS, RECORD_COLUMNS, SPLITS, Annotation, ImageRecord, table_annotations, table_images
from florence.review.doubts import Doubt, collect_doubts, list_doubts
from florence.review.importing import list_reviewed_images
from florence.review.ranking import Ranking, rank_images, select_voted
from florence.rounds import find_labels
from florence.store import EXPORT_NOTE, Store
from florence.workspace import Workspace
from florence.workspace.annotate import find_human_annotator
from florence.workspace.layout import read_images

MAX_OTHER_NAMES = 300
"""Names of objects that a reviewer is offered beside those in the shown labels."""
MIN_SUGGESTED = 0.1
"""Least confidence of a dropped label that is shown as a suggestion."""
FIRST = 5
"""Images of which a terminal says why they come first."""
FIRST_DOUBTS = 4
"""Labels that are named as the reason."""


@dataclass(frozen=True, slots=True)
class ReviewExport:
    """What an export wrote.

    ``expected_wrong``: labels expected to be wrong, of the first image and of the last; ``total_wrong``: of all that
    were written, and of the whole round. ``reviewed``: images left out, as people have reviewed them. ``first``: why
    the first images were chosen, a line each.
    """

    round: int
    images: int
    labels: int
    expected_wrong: tuple[float, float]
    total_wrong: tuple[float, float]
    reviewed: int
    first: tuple[str, ...] = ()


def export_review(
    workspace: Workspace, out: Path, images: int, *, force: bool = False, progress: Progress = show_nothing
) -> ReviewExport:
    """Write the ``images`` images that people should see first as a Label Studio project.

    They are those training images of the snapshot's last round whose labels hold the most errors by their confidences,
    unlike each other: `florence.review.ranking`. Objects and captions are shown: the kept ones as one prediction, with
    those of low confidence that may be right as another. Each region, a table beside the image and ``doubts.jsonl``
    tell who claims what. Reviewed images are left out. Raises what `florence.export.export` raises, and DataError where
    no image is left.
    """
    data, store = workspace.data, workspace.store
    number = choose_export_round(data, None)
    labels = data.read_table(find_labels(data, number))
    reviewed = set(list_reviewed_images(store, find_human_annotator(store)))
    records = read_images(data)
    whole = rank_images(labels, records, images, leave_out=sorted(reviewed.union(_list_blind(records))))
    if not len(whole):
        raise DataError(
            f"{data.uri}: round {number} has no other labels to review"
            + (f" beside those of the {len(reviewed)} images that are reviewed" if reviewed else "")
        )
    shown = _select_shown_labels(labels, whole.image_ids)
    doubts = collect_doubts(workspace, shown)
    types = {row.task for rows in shown.values() for row in rows if row.kept}
    asked = (OBJECTS, *(task for task in CAPTIONS if task in types))
    plan = ExportPlan(_choose_names(labels, shown, doubts), asked, SPLITS, False, True)
    with replace_folder(out, force) as folder:
        chosen = read_records(data, whole.image_ids)
        LabelStudioFormat().write_tasks(
            folder, _make_tasks(data, folder, chosen, shown, doubts, progress), plan, {"round": number}
        )
        _write_doubts(folder, chosen, whole, doubts)
        (folder / EXPORT_NOTE).write_text(
            json.dumps({"format": "review", "round": number, "images": len(whole)}, sort_keys=True) + "\n",
            encoding="utf-8",
        )
    return ReviewExport(
        number,
        len(whole),
        sum(row.kept for rows in shown.values() for row in rows),
        (float(whole.expected_wrong[0]), float(whole.expected_wrong[-1])),
        (float(whole.expected_wrong.sum()), whole.all_wrong),
        len(reviewed),
        tuple(_explain_first(chosen, whole, doubts)),
    )


def _list_blind(images: pa.Table) -> list[str]:
    """Return the ids of gold and held-out images, whose labels nobody is shown."""
    return images.filter(pc.not_equal(images["split"], "train"))["image_id"].to_pylist()


def _select_shown_labels(labels: pa.Table, images: Sequence[str]) -> dict[str, list[Annotation]]:
    """Return the labels that a reviewer is shown of each image: objects, as boxes, and captions."""
    voted = select_voted(labels)
    result: dict[str, list[Annotation]] = {image_id: [] for image_id in images}
    for row in table_annotations(voted.filter(pc.is_in(voted["image_id"], pa.array(images, pa.string())))):
        boxed = tuple(replace(region, box=region.bounds, polygons=()) for region in row.regions)
        result[row.image_id].append(replace(row, regions=boxed))
    return result


def _choose_names(
    labels: pa.Table, shown: Mapping[str, Sequence[Annotation]], doubts: Mapping[str, Sequence[Doubt]]
) -> tuple[str, ...]:
    """Return the names that a reviewer may give: those of the shown labels and claims, and the commonest others."""
    near = {row.text for rows in shown.values() for row in rows if row.task == OBJECTS}
    near |= {c.text for of in doubts.values() for doubt in of if doubt.label.task == OBJECTS for c in doubt.claims}
    common = Counter(labels.filter(pc.and_(labels["kept"], pc.equal(labels["task"], OBJECTS)))["text"].to_pylist())
    others = sorted((name for name in common if name not in near), key=lambda name: (-common[name], name))
    return tuple(sorted([*near, *others[:MAX_OTHER_NAMES]]))


# ---------------------------------------------------------------- the files


def read_records(data: Store, images: Sequence[str]) -> dict[str, tuple[ImageRecord, str]]:
    """Return the records of images and the shards that they are in, in the order of ``images``."""
    found = {}
    for name in data.names("images", ".parquet"):
        for record, _ in table_images(data.read_table(name, RECORD_COLUMNS, [("image_id", "in", list(images))])):
            found[record.image_id] = record, name
    return {image_id: found[image_id] for image_id in images if image_id in found}


def _make_tasks(
    data: Store,
    folder: Path,
    records: Mapping[str, tuple[ImageRecord, str]],
    shown: Mapping[str, Sequence[Annotation]],
    doubts: Mapping[str, Sequence[Doubt]],
    progress: Progress,
) -> Iterator[StudioTask]:
    """Yield the images in their order with their predictions and doubts; write each image's file."""
    several = len({record.source for record, _ in records.values()}) > 1
    names = FileNames(by_stem=False, with_source=several)
    for done, (image_id, (record, shard)) in enumerate(records.items(), start=1):
        (content,) = data.read_table(shard, ["bytes"], [("image_id", "=", image_id)])["bytes"].to_pylist()
        path = names.assign(record, find_export_form(content, record).endings)
        write_image(folder / "images" / path, content, record)
        progress("export", done, len(records))
        kept = tuple(row for row in shown[image_id] if row.kept)
        likely = tuple(row for row in shown[image_id] if row.kept or (row.confidence or 0) >= MIN_SUGGESTED)
        notes = {doubt.label.annotation_id: f"{doubt.describe()}. {doubt.explain()}" for doubt in doubts[image_id]}
        predictions = {"kept": kept, "kept and uncertain": likely}
        yield StudioTask(LabelledImage(record, path, kept), predictions, notes, list_doubts(doubts[image_id]))


def _write_doubts(
    folder: Path,
    records: Mapping[str, tuple[ImageRecord, str]],
    ranking: Ranking,
    doubts: Mapping[str, Sequence[Doubt]],
) -> None:
    """Write ``doubts.jsonl``: a line an image, in order, with its labels and who claims what of them."""
    with (folder / "doubts.jsonl").open("w", encoding="utf-8") as file:
        for image_id, wrong in zip(ranking.image_ids, ranking.expected_wrong.tolist(), strict=True):
            record, _ = records[image_id]
            line = {
                "image_id": image_id,
                "source": record.source,
                "name": record.name,
                "expected_wrong": round(wrong, 6),
                "labels": [_as_json(doubt) for doubt in doubts[image_id]],
            }
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _as_json(doubt: Doubt) -> dict[str, Any]:
    label = doubt.label
    return {
        "task": label.task,
        "text": label.text,
        "box": list(label.regions[0].bounds) if label.regions else None,
        "confidence": label.confidence,
        "kept": label.kept,
        "claims": [asdict(claim) for claim in doubt.claims],
        "silent": list(doubt.silent),
    }


def _explain_first(
    records: Mapping[str, tuple[ImageRecord, str]], ranking: Ranking, doubts: Mapping[str, Sequence[Doubt]]
) -> Iterator[str]:
    """Yield a line about each of the first images: how many labels are expected to be wrong, and which."""
    for image_id, wrong in list(zip(ranking.image_ids, ranking.expected_wrong.tolist(), strict=True))[:FIRST]:
        found = [doubt for doubt in doubts[image_id] if doubt.wrong >= 0.05]
        named = ", ".join(doubt.describe() for doubt in found[:FIRST_DOUBTS])
        more = f" and {len(found) - FIRST_DOUBTS} more" if len(found) > FIRST_DOUBTS else ""
        yield f"{records[image_id][0].name}: {wrong:.1f} wrong labels expected" + (f": {named}{more}" if named else "")
