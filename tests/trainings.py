"""Shared by tests of training: drawn scenes in several shards, labelled by their truth, and small settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workspaces import workspace_of

from florence.config import Settings, TrainSettings, settings_from
from florence.records import ANNOTATIONS
from florence.store import Store
from florence.workspace.collect import collect_images

SMALL: dict[str, Any] = {
    "steps": 6,
    "batch_size": 4,
    "tasks_per_image": 2,
    "threads": 1,
    "save_steps": 2,
    "max_epochs": 1000,
    "warmup": 2,
}


def scenes(folder: Path, count: int = 30, shard: int = 10) -> Store:
    """Write ``count`` scenes in shards of ``shard`` images, in the layout of data/."""
    store = Store(str(folder))
    collect_images(
        workspace_of(
            settings_from(
                {
                    "sources": {"scenes": {"use": "scenes", "count": count, "size": 64}},
                    "annotators": {},
                    "collect": {"shard": shard},
                }
            ),
            store,
        )
    )
    store.write_table("labels/round-00000.parquet", store.read_tables("truth", ANNOTATIONS))
    return store


def settings(**train: Any) -> Settings:
    """Return the settings of a small training of `nano` from noise at 32 pixels."""
    return settings_from(
        {
            "sources": {},
            "annotators": {},
            "model": {"init": "nano-scratch", "image_size": 32},
            "train": {**SMALL, **train},
        }
    )


def small(**train: Any) -> TrainSettings:
    """Return the section `train` of `settings`."""
    return settings(**train).train
