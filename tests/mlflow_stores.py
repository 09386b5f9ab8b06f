"""Workspaces with an MLflow store: making its tables takes seconds, so they are made once and copied."""

from __future__ import annotations

import atexit
import shutil
import socket
import sqlite3
import tempfile
from functools import lru_cache
from pathlib import Path

from florence.config import TrackingSettings
from flows.adapters.mlflow_locations import follow_workspace
from flows.adapters.mlflow_store import ARTIFACTS, MlflowStore
from flows.adapters.model_registry import ModelRegistry
from flows.adapters.tracking import Tracker


@lru_cache
def empty_store() -> Path:
    """Return the file of a store that has tables and nothing in them."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    assert MlflowStore(TrackingSettings(), folder).client is not None
    return folder / "build/mlflow.db"


def mlflow_store(root: Path, **settings: str) -> MlflowStore:
    """Return the store of the workspace ``root``, made if there is none."""
    file = root / "build/mlflow.db"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty_store(), file)
        follow_workspace(file, root.resolve(), ARTIFACTS)
    return MlflowStore(TrackingSettings(**settings), root)


def tracker(root: Path, **settings: str) -> Tracker:
    """Return the tracker of the workspace ``root``."""
    return Tracker(mlflow_store(root, **settings))


def registry(root: Path, **settings: str) -> ModelRegistry:
    """Return the model registry of the workspace ``root``."""
    return ModelRegistry(mlflow_store(root, **settings))


def read_rows(root: Path, query: str, *values) -> list[tuple]:
    """Return the rows of a query of the workspace's store."""
    with sqlite3.connect(root / "build/mlflow.db") as database:
        return database.execute(query, values).fetchall()


def find_closed_port() -> int:
    """Return a port of this machine that nothing listens to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
