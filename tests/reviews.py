"""Reviews in tests: a published round, what a review export asks about, and what people make of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from workspaces import workspace_of

from florence.config import Settings
from florence.records import Annotation, ImageRecord, table_annotations, table_images
from florence.review import export_review
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators
from florence.workspace.fuse import fuse_round
from florence.workspace.layout import read_images
from florence.workspace.publish import publish_snapshot

ReviewWorkspace = tuple[Settings, Store, Store, Path]


def publish_round(settings: Settings, store: Store, data: Store, number: int) -> list[Annotation]:
    """Annotate what is missing, fuse, and publish; the labels of the round."""
    asked = list_annotators(settings)
    for shard in store.stems("images"):
        annotate_shard(workspace_of(settings, store), asked, shard)
    who = list_annotators(settings, None, store)
    fuse_round(workspace_of(settings, store), who, number)
    publish_snapshot(workspace_of(settings, store, data), who, number)
    return table_annotations(data.read_table(f"labels/round-{number:05d}.parquet"))


def read_labels(data: Store, number: int = 0) -> list[Annotation]:
    return table_annotations(data.read_table(f"labels/round-{number:05d}.parquet"))


def read_records(data: Store) -> dict[str, ImageRecord]:
    return {record.image_id: record for record, _ in table_images(read_images(data))}


def export_tasks(parts: ReviewWorkspace, images: int = 4) -> list[dict]:
    """Tasks of a project: of the most uncertain images, those that have both an object and a caption that was kept."""
    settings, store, data, folder = parts
    export_review(workspace_of(settings, store, data), folder / "review", 24)
    tasks = json.loads((folder / "review/tasks.json").read_text())
    return [
        task
        for task in tasks
        if {"rectanglelabels", "textarea"} <= {r["type"] for r in task["predictions"][0]["result"]}
    ][:images]


def write_corrections(
    folder: Path, tasks: list[dict], change: Callable[[dict, list[dict]], list[dict] | None], name: str = "project.json"
) -> str:
    """Return Label Studio's export of tasks with the changed results; None: the person skipped the task."""
    result = []
    for k, task in enumerate(tasks):
        start = [dict(r) for r in task["predictions"][0]["result"]]
        changed = change(task["data"], start)
        annotation = {
            "id": k,
            "completed_by": 1,
            "result": start if changed is None else changed,
            "was_cancelled": changed is None,
            "ground_truth": False,
            "updated_at": "2026-01-01T00:00:00Z",
        }
        result.append({"id": k, "data": task["data"], "annotations": [annotation], "predictions": [], "project": 1})
    (folder / name).write_text(json.dumps(result))
    return str(folder / name)


def read_claim_files(store: Store) -> dict[str, bytes]:
    return {name: store.read_bytes(name) for folder in ("claims", "coverage") for name in store.names(folder)}
