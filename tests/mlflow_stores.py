"""Workspaces with an MLflow store: making its tables takes seconds, so they are made once and copied."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from florence.config import TrackingSettings
from flows.adapters.tracking import Tracker


@lru_cache
def empty_store() -> Path:
    """The file of a store that has tables and nothing in them."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    assert Tracker(TrackingSettings(), folder).client is not None
    return folder / "build/mlflow.db"


def tracker(root: Path, **settings: str) -> Tracker:
    """The tracker of the workspace ``root``, whose store is made if it has none."""
    file = root / "build/mlflow.db"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty_store(), file)
    return Tracker(TrackingSettings(**settings), root)
