"""Where a SQLite store says that runs and models keep their files: in the workspace, wherever that now is.

MLflow keeps absolute locations. In a workspace that was copied they lead to the original, whose files would be read
and written; in one that was moved they lead nowhere. So each experiment is tagged with the workspace's folder, and
where a store is opened in another folder, every location beneath the old one is rewritten, in one transaction.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

WORKSPACE = "florence.workspace"
"""The tag of an experiment: the folder of the workspace whose store it is in."""
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
"""Columns that hold locations; MLflow knows artifacts by no others."""
WAIT = 20.0
"""Seconds for which another process may hold the database."""


@dataclass(frozen=True, slots=True)
class MovedStore:
    """A store whose locations lead to another workspace. ``from_``: the folders of that; ``rows``: how many do."""

    from_: tuple[Path, ...]
    rows: int


def find_moved(file: Path, root: Path, artifacts: str) -> MovedStore | None:
    """Return which locations in the store ``file`` of the workspace ``root`` lead to another; None where none does.

    ``artifacts``: the folder for artifacts within a workspace, by which stores are understood that have no tag yet; ""
    where they are kept elsewhere.
    """
    if not file.is_file():
        return None
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=WAIT)) as database:
        olds = tuple(_old_roots(database, root, artifacts))
        return MovedStore(olds, sum(1 for _ in _changes(database, olds, root))) if olds else None


def follow_workspace(file: Path, root: Path, artifacts: str) -> MovedStore | None:
    """Rewrite what `find_moved` finds, all or nothing, and return it; None where nothing was to be rewritten."""
    if find_moved(file, root, artifacts) is None:
        return None
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=WAIT, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")  # whoever came first has done it: it is found again
        olds = tuple(_old_roots(database, root, artifacts))
        changes = list(_changes(database, olds, root))
        for table, column, old, new in changes:
            database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
        database.execute("UPDATE experiment_tags SET value = ? WHERE key = ?", (str(root), WORKSPACE))
        database.execute("COMMIT")
    return MovedStore(olds, len(changes)) if olds else None


def is_half_made(file: Path) -> bool:
    """Return whether MLflow was stopped while it made a store: nothing is in it yet, and it cannot go on with it."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=WAIT)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not tables & {"experiments", "alembic_version"}:
            return False  # somebody else's
        filled = [table for table in ("experiments", "runs") if table in tables]
        if any(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in filled):
            return False
        return (
            not {"experiments", "alembic_version"} <= tables
            or not database.execute("SELECT count(*) FROM alembic_version").fetchone()[0]
        )


def _old_roots(database: sqlite3.Connection, root: Path, artifacts: str) -> Iterator[Path]:
    """Yield the folders, other than ``root``, of workspaces that the store has belonged to, the innermost first."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"experiments", "experiment_tags"} <= tables:
        return
    tagged = database.execute("SELECT DISTINCT value FROM experiment_tags WHERE key = ?", (WORKSPACE,))
    found = {Path(value) for (value,) in tagged}
    untagged = database.execute(
        "SELECT DISTINCT artifact_location FROM experiments WHERE experiment_id NOT IN "
        "(SELECT experiment_id FROM experiment_tags WHERE key = ?)",
        (WORKSPACE,),
    )
    tail = Path(artifacts).parts
    for path in filter(None, (local_path(value) for (value,) in untagged)):
        for folder in (path, path.parent):  # MLflow's own experiment "Default" is a folder below
            if tail and folder.parts[-len(tail) :] == tail:
                found.add(Path(*folder.parts[: -len(tail)]))
    yield from sorted((old for old in found if not _is_same(old, root)), key=lambda path: (-len(path.parts), path))


def _changes(database: sqlite3.Connection, olds: tuple[Path, ...], root: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield table, column, location as it is and as it should be."""
    for table, column in COLUMNS:
        columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        if column not in columns:  # of another version of MLflow
            continue
        where = " WHERE key = 'mlflow.artifactLocation'" if table == "trace_tags" else ""
        for (value,) in database.execute(f"SELECT DISTINCT {column} FROM {table}{where}").fetchall():
            if (new := _moved_location(value, olds, root)) is not None:
                yield table, column, value, new


def _moved_location(value: str | None, olds: tuple[Path, ...], root: Path) -> str | None:
    """Return a location beneath one of ``olds`` as one beneath ``root``; None for any other."""
    if (path := local_path(value)) is None or value is None:
        return None
    for old in olds:
        within = path.is_relative_to(root) and root.is_relative_to(old)  # the copy lies inside the original
        if path.is_relative_to(old) and not within:
            new = root / path.relative_to(old)
            return new.as_uri() if value.startswith("file:") else str(new)
    return None


def local_path(value: str | None) -> Path | None:
    """Return the absolute path of a location, a path or a file URI; None for any other."""
    if not value:
        return None
    if value.startswith("file:"):
        place = urlsplit(value)
        path = Path(url2pathname(place.path)) if place.netloc in ("", "localhost") else Path()
    else:
        path = Path(value)
    return path if path.is_absolute() else None


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two paths are one folder: also through links and mounts."""
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False
