"""URLs of SQLite databases, for whatever a folder is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

DRIVER_OPTIONS = {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"}
"""Options of a SQLite URL that Python's driver takes; all others are SQLite's own, as mode."""


def build_sqlite_uri(file: Path, driver: str = "sqlite", query: Mapping[str, Any] | None = None) -> str:
    """Return the URL of a SQLite database. A path with ? in it is given as a file URI, in which that is quoted.

    The driver of such a URL is named: of sqlite:///file: MLflow would make a folder called "file:".
    """
    from sqlalchemy.engine import URL

    query = {name: value for name, value in (query or {}).items() if name != "uri"}
    others = set(query) - DRIVER_OPTIONS
    database = str(file)
    if "?" in database or others:
        database, query = file.as_uri(), {**query, "uri": "true"}
        driver = "sqlite+pysqlite" if driver == "sqlite" else driver
    return URL.create(driver, database=database, query=query).render_as_string(hide_password=False)


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for any other."""
    if not uri.startswith("sqlite"):
        return None
    database = uri.partition(":///")[2].partition("?")[0]
    return Path(url2pathname(urlsplit(database).path)) if database.startswith("file:") else Path(database)
