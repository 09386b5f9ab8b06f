"""Workspaces of stores that a test has already."""

from __future__ import annotations

from pathlib import Path

from florence.config import Settings, settings_from
from florence.store import Store
from florence.workspace import Workspace


def workspace_of(
    settings: Settings | None = None,
    store: Store | None = None,
    data: Store | None = None,
    root: Path = Path("no-such-folder"),
) -> Workspace:
    """Return a workspace of these stores; what is left out is never read."""
    return Workspace(
        root,
        settings or settings_from({"sources": {}, "annotators": {}}),
        store or Store(str(root / ".florence" / "store")),
        data or Store(str(root / "data")),
    )
