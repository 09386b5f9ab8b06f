"""Stores of a few scenes, and the annotation of them by fake annotators."""

from __future__ import annotations

import shutil
from pathlib import Path

from workspaces import workspace_of

from florence.config import Settings, settings_from
from florence.records import IMAGES
from florence.store import Store
from florence.workspace.annotate import annotate_shard, count_missing, list_annotators
from florence.workspace.collect import collect_images
from florence.workspace.layout import list_shards

SCENES = {"scenes": {"use": "scenes", "count": 10, "size": 64}}


def make_settings(annotators: dict, size: int = 10, **more) -> Settings:
    return settings_from({"sources": SCENES, "annotators": annotators, "collect": {"shard": size}, **more})


def collect_scenes(folder: Path) -> Path:
    """Collect 10 scenes in one shard of a store in ``folder``."""
    collect_images(workspace_of(make_settings({}), Store(str(folder))))
    return folder


def copy_store(collected: Path, folder: Path) -> Store:
    shutil.copytree(collected, folder)
    return Store(str(folder))


def annotate_all(chosen: Settings, store: Store, **more) -> dict:
    """Annotate every shard, as a flow does, and return each annotator's last outcome."""
    outcomes = {}
    for name in list_shards(store):
        outcomes |= {
            o.annotator: o for o in annotate_shard(workspace_of(chosen, store), list_annotators(chosen), name, **more)
        }
    return outcomes


def read_written(store: Store) -> dict[str, bytes]:
    return {
        name: store.read_bytes(name) for folder in ("claims", "coverage", "annotators") for name in store.names(folder)
    }


def list_names(store: Store) -> list[str]:
    return store.read_tables("images", IMAGES, ["name"])["name"].to_pylist()


def read_coverage(store: Store, name: str) -> dict[str, dict]:
    by_id = dict(
        zip(
            *(store.read_tables("images", IMAGES, ["image_id", "name"])[c].to_pylist() for c in ("image_id", "name")),
            strict=True,
        )
    )
    return {
        by_id[row["image_id"]]: row
        for file in store.names("coverage")
        if f"/{name}@" in file
        for row in store.read_table(file).to_pylist()
    }


def count_left(chosen: Settings, store: Store) -> dict[str, int]:
    return {
        name: sum(shards.values())
        for name, shards in count_missing(workspace_of(chosen, store), list_annotators(chosen)).items()
        if shards
    }


def fail_images(images, error: Exception):
    """Return a hook that answers ``images`` with ``error``, and all others as ever."""
    return lambda self, batch: [
        error if r.name in images else claims for r, claims in zip(batch.records, self.claims_of(batch), strict=True)
    ]


def raise_at(error: BaseException, images=None):
    """Return a hook that raises ``error`` for a batch with one of ``images``; None: for every batch."""

    def before(self, batch):
        if images is None or set(images) & {r.name for r in batch.records}:
            raise error

    return before


def raise_on_load(error: Exception):
    """Return a hook that raises ``error`` when an annotator is loaded."""

    def load(self):
        raise error

    return load
