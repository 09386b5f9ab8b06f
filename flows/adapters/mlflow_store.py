"""An MLflow store: how it is addressed, opened and kept quiet."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests

from florence.config import TrackingSettings
from florence.errors import FlorenceError, SettingsError
from flows.adapters.environment import redact_text
from flows.adapters.mlflow_errors import first_line, translate_errors
from flows.adapters.mlflow_locations import WORKSPACE, MovedStore, find_moved, follow_workspace, is_half_made
from flows.adapters.sqlite_urls import build_sqlite_uri, sqlite_file

ARTIFACTS = "build/mlartifacts"
"""Where an experiment keeps its artifacts by default, in the workspace."""
ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
"""The variable in which MLflow passes its default location of artifacts on."""


class MlflowStore:
    """The MLflow store that ``settings`` name, for the workspace ``root``.

    Nothing is imported or opened before it is used. A database inside the workspace follows it: where the workspace
    was copied or moved, opening it rewrites the locations of artifacts, and says so; not with ``follow`` false. Every
    method raises FlorenceError, naming the store and the remedy, where the store cannot be reached, read or written.
    Global state of MLflow is neither used nor changed.
    """

    def __init__(self, settings: TrackingSettings, root: Path | str, *, follow: bool = True) -> None:
        self.settings, self.root, self.follow = settings, Path(root).resolve(), follow
        self.uri = store_uri(settings.uri, self.root)
        # As MLflow resolves it: Databricks keeps its models in Unity Catalog.
        registry = self.uri.replace("databricks", "databricks-uc", 1) if self.uri.startswith("databricks") else self.uri
        self.registry_uri = os.environ.get("MLFLOW_REGISTRY_URI") or registry
        self.lock = threading.RLock()
        self._client: Any = None
        self._experiment: str | None = None

    @property
    @translate_errors("open the store")
    def client(self) -> Any:
        """The MlflowClient; the first use opens the store, and makes it where there is none."""
        with self.lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> Any:
        if not is_database(self.uri):
            if self.uri.startswith("http"):
                ping(self.uri)
            return self._new_client(self.uri)
        if (file := sqlite_file(self.uri)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that make the tables at once destroy each other's work.
        with hold_lock(self.root / "build/mlflow.lock"):
            if self.follow and file is not None and file.is_relative_to(self.root):
                moved = follow_workspace(file, self.root, self._artifacts_within())
                if moved is not None:
                    _say_moved(moved, file)
            if file is not None and (not file.exists() or is_half_made(file)):
                self._make_database(file)
            return self._new_client(self.uri)

    def _make_database(self, file: Path) -> None:
        """Make the database beside its place and move it there: MLflow cannot go on with one that is half made."""
        part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
        try:
            self._new_client(build_sqlite_uri(part))
            os.replace(part, file)
        finally:
            for left in (part, part.with_name(f"{part.name}-journal")):
                left.unlink(missing_ok=True)

    @translate_errors("read the locations of artifacts")
    def find_moved(self) -> MovedStore | None:
        """Return which locations lead to another workspace, as opening would rewrite them; None where none does."""
        file = sqlite_file(self.uri)
        if file is None or not file.is_relative_to(self.root):
            return None
        return find_moved(file, self.root, self._artifacts_within())

    def _artifacts_within(self) -> str:
        """Return the folder of artifacts within the workspace; "" where they are kept elsewhere."""
        location = self.settings.artifacts or ARTIFACTS
        return "" if "://" in location or Path(location).is_absolute() else location

    def _new_client(self, uri: str) -> Any:
        from mlflow import MlflowClient

        # MLflow writes the location of its experiment "Default" into SQL as it is, which a colon or quotes would break.
        before = os.environ.get(ARTIFACT_ROOT)
        os.environ[ARTIFACT_ROOT] = (self.root / ARTIFACTS).as_uri()
        try:
            return MlflowClient(tracking_uri=uri, registry_uri=self.registry_uri if uri == self.uri else uri)
        finally:
            if before is None:
                del os.environ[ARTIFACT_ROOT]
            else:
                os.environ[ARTIFACT_ROOT] = before

    @property
    @translate_errors("open the experiment")
    def experiment_id(self) -> str:
        """The experiment's id; the experiment is made where there is none."""
        with self.lock:
            if self._experiment is None:
                self._experiment = self._find_experiment() or self._make_experiment()
                self._tag_experiment(self._experiment)
            return self._experiment

    def _tag_experiment(self, experiment: str) -> None:
        """Note whose store this is, for when the workspace is copied or moved."""
        file = sqlite_file(self.uri)
        if self.follow and file is not None and file.is_relative_to(self.root):
            if self.client.get_experiment(experiment).tags.get(WORKSPACE) is None:
                self.client.set_experiment_tag(experiment, WORKSPACE, str(self.root))

    def _find_experiment(self) -> str | None:
        name = self.settings.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return None
        if found.lifecycle_stage != "active":
            raise FlorenceError(
                f"MLflow at {redact_text(self.uri)}: experiment {name!r} has been deleted; "
                f"`mlflow experiments restore -x {found.experiment_id}`, or name another one in tracking.experiment"
            )
        return found.experiment_id

    @translate_errors("look for the experiment")
    def describe_experiment(self) -> tuple[str, str] | None:
        """Return what is wrong with the experiment, and what to do; None where it is there, or would be made."""
        try:
            self._find_experiment()
        except FlorenceError as error:
            fault, _, remedy = str(error).partition("; ")
            return fault, remedy
        return None

    def _make_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.create_experiment(self.settings.experiment, artifact_location=self._artifact_location())
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS" and (found := self._find_experiment()):
                return found
            raise

    def _artifact_location(self) -> str | None:
        """Return where a new experiment keeps its artifacts; None leaves it to a server, which knows better."""
        location = self.settings.artifacts
        if location is None:
            return (self.root / ARTIFACTS).as_uri() if is_database(self.uri) else None
        return location if "://" in location else (self.root / location).as_uri()


def store_uri(uri: str, root: Path) -> str:
    """Return ``uri`` as MLflow takes it; a relative SQLite path counts from ``root``.

    Raises SettingsError for a folder, which MLflow refuses, and for no URI.
    """
    scheme, mark, rest = uri.partition("://")
    if scheme.startswith("sqlite"):
        return _sqlite_uri(uri, root)
    if (not mark and uri != "databricks") or scheme == "file":
        raise SettingsError(
            f"tracking.uri: {redact_text(uri)!r} is a folder, and MLflow keeps no more runs in folders; "
            "use sqlite:///build/mlflow.db"
        )
    return uri


def _sqlite_uri(uri: str, root: Path) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError) as error:
        raise SettingsError(f"tracking.uri: {redact_text(uri)!r} is no URI: {error}") from None
    path = url.database or ""
    is_uri = path.startswith("file:")
    if path in ("", ":memory:", "file::memory:") or url.query.get("mode") == "memory":
        raise SettingsError("tracking.uri: a store in memory forgets everything; use sqlite:///build/mlflow.db")
    if url.host:
        raise SettingsError(f"tracking.uri: {redact_text(uri)!r}: a path has three slashes: sqlite:///build/mlflow.db")
    return build_sqlite_uri(
        root / (url2pathname(urlsplit(path).path) if is_uri else path), url.drivername, dict(url.query)
    )


def is_database(uri: str) -> bool:
    """Return whether MLflow opens ``uri`` itself, rather than ask a server."""
    return not uri.startswith(("http://", "https://", "databricks"))


def _say_moved(moved: MovedStore, file: Path) -> None:
    olds = ", ".join(map(str, moved.from_))
    print(
        redact_text(f"this workspace was copied or moved from {olds}: {moved.rows} locations in {file} lead here now"),
        file=sys.stderr,
        flush=True,
    )


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs, once whoever holds it has released it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ping(uri: str) -> None:
    """Raise FlorenceError soon where an http(s) server does not answer; MLflow would go on trying for minutes."""
    try:
        requests.get(uri.rstrip("/") + "/health", timeout=10, allow_redirects=False)
    except requests.exceptions.SSLError:
        return  # it answers; MLflow has settings of its own for the certificates that are trusted
    except requests.RequestException as error:
        raise FlorenceError(
            f"MLflow at {redact_text(uri)} does not answer: {first_line(error)}; "
            "is the server running, and tracking.uri right?"
        ) from None


@contextmanager
def use_tracking_uri(uri: str) -> Iterator[None]:
    """Make ``uri`` the process's own tracking URI while the block runs.

    MLflow's registry looks a new version's model up there, whatever its client was told.
    """
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
