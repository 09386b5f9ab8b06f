"""Publish: copy a round from the working store into data/ as a snapshot.

Restore: fill an empty working store from one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from florence import image_files
from florence.engine.statistics import compute_statistics
from florence.errors import DataError
from florence.people import FOLDERS, REFERENCE
from florence.progress import Progress, show_nothing
from florence.records import digest
from florence.rounds import delete_older_names, find_labels, list_labels, name_labels
from florence.store import Store
from florence.workspace.annotate import AnnotatorVersion
from florence.workspace.base import Workspace
from florence.workspace.form import FORMAT, check_store, mark_store
from florence.workspace.layout import ANCHOR, read_images, read_rejected_files
from florence.workspace.people import write_reference

RESTORING = "restoring.json"
"""A file of a working store that is there while it is filled from a snapshot."""


def restore_store(workspace: Workspace) -> int:
    """Fill an empty working store from the snapshot (after ``dvc pull``); return the number of files copied.

    A restoration that was interrupted is finished.
    """
    store, data = workspace.store, workspace.data
    check_store(store)
    if not needs_restoring(workspace):
        return 0
    store.write_json(RESTORING, {})
    mark_store(store)
    copied = 0
    if data.exists("snapshot.json") and data.exists("baseline/scores.parquet"):
        name = f"baseline/round={data.read_object('snapshot.json')['round']}/scores.parquet"
        store.write_bytes(name, data.read_bytes("baseline/scores.parquet"))
        snapshot = data.read_object("snapshot.json")
        store.write_json(name_trial(snapshot["round"]), {"attempt": snapshot.get("attempt", 1)})
        copied += 1
    for name in (ANCHOR, "baseline/scores.parquet"):
        if data.exists(name) and len(scores := data.read_table(name)):
            store.write_table(ANCHOR, scores)
            copied += 1
            break
    for folder in ("annotators", "claims", "coverage", "truth", *FOLDERS, "labels", "images"):
        for name in data.names(folder):
            store.copy_in(data, name)
            copied += 1
    for name in ("rejected_files.parquet", image_files.NAME, *data.names(image_files.READINGS)):
        if copied and data.exists(name):
            store.copy_in(data, name)
    store.delete(RESTORING)
    return copied


def needs_restoring(workspace: Workspace) -> bool:
    """Return whether there is a snapshot, and the working store has none of its images, or part of them by a kill."""
    store = workspace.store
    return workspace.data.exists("snapshot.json") and (store.exists(RESTORING) or not store.names("images", ".parquet"))


def publish_snapshot(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], round: int, progress: Progress = show_nothing
) -> dict[str, Any]:
    """Write the working store to ``data/`` as the snapshot of ``round``; return snapshot.json, which is written last.

    Images are only ever added, claims and coverage of a shard grow; labels and statistics are written anew. Images
    without a file are left out where ``collect.gone`` says so. The
    champion's scores, and how many models were compared with it, are the working store's ``baseline/round=N/``, none
    where it has none; those of the first champion are `ANCHOR`. The same claims and
    settings give the same bytes. Raises DataError where ``data/`` holds a later round.
    """
    from florence.evaluate import SCORES

    store, data = workspace.store, workspace.data
    parent = _parent(data, round)
    left_out = list_left_out(workspace)
    _copy_claims(workspace, annotators, left_out, progress)
    labels = _leave_out(store.read_table(find_labels(store, round)), left_out)
    for number, name in list_labels(store).items():
        if number <= round and left_out:
            data.write_table(name_labels(number), _leave_out(store.read_table(name), left_out))
        elif number <= round:
            data.write_bytes(name_labels(number), store.read_bytes(name))
    delete_older_names(data)
    data.write_table("rejected_files.parquet", read_rejected_files(store))
    baseline = f"baseline/round={round}/scores.parquet"
    scores = store.read_table(baseline) if store.exists(baseline) else SCORES.empty_table()
    data.write_table("baseline/scores.parquet", scores)
    # an anchor that is the champion itself is none
    anchor = store.read_table(ANCHOR) if store.exists(ANCHOR) else scores
    data.write_table(ANCHOR, anchor if anchor != scores else SCORES.empty_table())
    _copy_files(store, data)
    write_reference(workspace, annotators, left_out)
    images = _leave_out(read_images(store), left_out)
    data.write_json("statistics.json", compute_statistics(labels, images))
    content = {
        "round": round,
        "parent": parent,
        "annotators": {annotator.name: annotator.version for annotator in annotators},
        "engine": workspace.settings.engine.digest(),
        "attempt": _read_attempt(store, round),
        **_counts(images, labels, data),
    }
    snapshot = {"format": FORMAT, "id": _identify(content, images, data, round), **content}
    data.write_json("snapshot.json", snapshot)
    return snapshot


def name_trial(round: int) -> str:
    """Return the file of a working store that says how many models were compared with the champion of ``round``."""
    return f"baseline/round={round}/trial.json"


def _read_attempt(store: Store, round: int) -> int:
    name = name_trial(round)
    return int(store.read_object(name)["attempt"]) if store.exists(name) else 1


def list_left_out(workspace: Workspace) -> frozenset[str]:
    """Return the ids of images that a snapshot leaves out: none, or those without a file, as ``collect.gone`` says."""
    if workspace.settings.collect.gone == "keep":
        return frozenset()
    return image_files.find_dropped_images(workspace.store)


def _leave_out(table: pa.Table, image_ids: frozenset[str]) -> pa.Table:
    if not image_ids:
        return table
    return table.filter(pc.invert(pc.is_in(table["image_id"], pa.array(sorted(image_ids), pa.string()))))


def _copy_files(store: Store, data: Store) -> None:
    """Copy what is known of the files, and when label sets were first read: whose labels are whose follows from it."""
    for name in (image_files.NAME, *store.names(image_files.READINGS)):
        if store.exists(name):
            data.copy_in(store, name, grows=True)


def _copy_claims(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], left_out: frozenset[str], progress: Progress
) -> None:
    """Copy images, truth, and the claims, coverage and declarations of ``annotators``, without images ``left_out``."""
    store, data = workspace.store, workspace.data
    folders = [
        "images",
        "truth",
        *FOLDERS,
        *(f"{name}/{one.key}" for one in annotators for name in ("claims", "coverage")),
    ]
    names = [name for folder in folders for name in store.names(folder, ".parquet")]
    names += [name for one in annotators if store.exists(name := f"annotators/{one.key}.json")]
    for done, name in enumerate(names, start=1):
        ids = store.read_table(name, ["image_id"])["image_id"] if left_out and name.endswith(".parquet") else None
        if ids is not None and not left_out.isdisjoint(ids.to_pylist()):
            data.write_table(name, _leave_out(store.read_table(name), left_out))
        else:
            data.copy_in(store, name, grows=not name.startswith(("images/", "truth/", "review")))
        progress("publish", done, len(names))


def _parent(data: Store, round: int) -> dict[str, Any] | None:
    """Return id and round of the snapshot that this round's follows.

    Raises DataError where a later one is published already.
    """
    if not data.exists("snapshot.json"):
        return None
    last = data.read_object("snapshot.json")
    if last["round"] > round:
        raise DataError(f"round {round} cannot be published: {data.uri} already holds round {last['round']}")
    return last["parent"] if last["round"] == round else {"id": last["id"], "round": last["round"]}


def _counts(images: pa.Table, labels: pa.Table, data: Store) -> dict[str, Any]:
    kept = labels.filter(labels["kept"])
    dropped = labels.filter(pc.invert(labels["kept"]))
    return {
        "counts": {
            "images": len(images),
            "images_by_split": _count(images["split"]),
            "images_by_source": _count(images["source"]),
            "labels": len(labels),
            "kept": len(kept),
            "dropped": len(dropped),
            "kept_by_task": _count(kept["task"]),
        },
        "drops": _count(dropped["reason"]),
        "rejected_files": _count(data.read_table("rejected_files.parquet")["reason"]),
    }


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted(Counter(column.to_pylist()).items()))


def recompute_id(data: Store) -> str:
    """Return the id that the snapshot in ``data`` has by its files, which is to be the one in its snapshot.json."""
    snapshot = data.read_object("snapshot.json", "id", "round")
    content = {name: value for name, value in snapshot.items() if name not in ("format", "id")}
    return _identify(content, read_images(data), data, snapshot["round"])


def _identify(content: dict[str, Any], images: pa.Table, data: Store, round: int) -> str:
    """Return the snapshot's id: a digest of snapshot.json, image ids, labels and what a model is compared with."""
    names = [name_labels(round), "baseline/scores.parquet", ANCHOR, *([REFERENCE] if data.exists(REFERENCE) else [])]
    return digest(
        [content, sorted(images["image_id"].to_pylist()), {name: digest(data.read_bytes(name), 64) for name in names}]
    )
