"""A workspace with its tracker, model registry and snapshots: what a command or a flow works with."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.records import digest
from florence.store import Store
from florence.workspace import Workspace, working_store
from florence.workspace.code import hash_code
from florence.workspace.form import check_snapshot
from flows.adapters.git_records import GitRecords
from flows.adapters.mlflow_store import MlflowStore
from flows.adapters.model_registry import ModelRegistry
from flows.adapters.snapshots import Snapshots
from flows.adapters.tracking import Tracker
from flows.frozen import find_frozen, read_run_settings
from flows.params import read_settings_with

PARENT = "FLORENCE_PARENT_PID"
"""Environment variable with the process id of the `florence schedule` that started this run."""


@dataclass(frozen=True, slots=True)
class TrackedWorkspace(Workspace):
    """A workspace with what tracks it: runs and models in MLflow, snapshots in DVC, records in git."""

    tracker: Tracker
    registry: ModelRegistry
    snapshots: Snapshots
    records: GitRecords

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.root / "build" / "report"

    @property
    def ablation(self) -> Path:
        """The folder of ablations."""
        return self.root / "build" / "ablation"

    @property
    def build(self) -> Store:
        """The folder of everything that can be made again."""
        return Store(str(self.root / "build"))


@contextmanager
def report_end(finish: Callable[[str], None]) -> Iterator[None]:
    """Call ``finish`` when the block ends, with how MLflow says it: FINISHED, FAILED, or KILLED (Ctrl-C, SIGTERM)."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except Exception:
        raise
    except BaseException:
        status = "KILLED"
        raise
    finally:
        finish(status)


def open_workspace(root: Path | str = ".", overlay: Mapping[str, Any] | None = None) -> TrackedWorkspace:
    """Open the workspace in ``root``, with ``overlay`` laid over its settings; nothing is connected to yet.

    Inside a run the settings are those that it has frozen.

    Raises SettingsError where there is no workspace, OldFormatError where its snapshot has an older form.
    """
    folder = Path(root).resolve()
    settings = read_settings_with(folder, overlay) if overlay else read_run_settings(folder)
    data = Store(str(folder / "data"))
    check_snapshot(data)
    write_code_json(folder)
    mlflow_store = MlflowStore(settings.tracking, folder)
    return TrackedWorkspace(
        root=folder,
        settings=settings,
        store=working_store(settings, folder),
        data=data,
        tracker=Tracker(mlflow_store),
        registry=ModelRegistry(mlflow_store),
        snapshots=Snapshots(folder, settings.snapshots, None if overlay else find_frozen(folder)),
        records=GitRecords(folder),
    )


def write_code_json(root: Path) -> None:
    """Write the hash of the installed code to code.json, on which DVC's stages depend, if it has changed."""
    text = json.dumps({"code": hash_code()}, indent=2, sort_keys=True) + "\n"
    file = root / "code.json"
    if not file.exists() or file.read_bytes() != text.encode():
        Store(str(root)).write_bytes("code.json", text.encode())


def run_key(workspace: TrackedWorkspace) -> str:
    """Return the digest that the stages of one `dvc repro` share: of snapshot and settings."""
    return digest([workspace.snapshots.data_hash(), workspace.settings.digest()])


class StageSeconds:
    """Seconds of the stages that DVC runs, in build/seconds.json: they are processes of their own."""

    def __init__(self, root: Path) -> None:
        self.store = Store(str(root / "build"))

    def read(self) -> dict[str, float]:
        """Return stage → seconds."""
        return self.store.read_object("seconds.json") if self.store.exists("seconds.json") else {}

    def add(self, stage: str, seconds: float) -> None:
        """Add ``seconds`` to those of ``stage``."""
        known = self.read()
        self.store.write_json("seconds.json", {**known, stage: round(known.get(stage, 0.0) + seconds, 2)})

    def clear(self) -> None:
        """Delete all seconds."""
        self.store.delete("seconds.json")


def end_with_parent(environment: Mapping[str, str], end: Callable[[int], Any] = os._exit) -> None:
    """End this process as soon as the `florence schedule` that started it is dead: nothing may stay at work."""
    if PARENT not in environment:
        return
    parent = int(environment[PARENT])

    def watch() -> None:
        while _alive(parent):
            time.sleep(0.5)
        end(1)

    threading.Thread(target=watch, name="florence-parent", daemon=True).start()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed process that nobody has waited for still has its number.
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
