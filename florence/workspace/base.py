"""The workspace as one object: its folder, settings, working store and published snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from florence.config import Settings
from florence.store import Store


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder with settings. ``store``: the working store; ``data``: the published snapshot."""

    root: Path
    settings: Settings
    store: Store
    data: Store

    @property
    def files(self) -> Store:
        """The folder itself, for the outputs that dvc.yaml names (model/, metrics/, scores/, plots/)."""
        return Store(str(self.root))


def bind_workspace(root: Path, settings: Settings) -> Workspace:
    """Return the workspace in the folder ``root`` with these settings; nothing is read, written or connected to."""
    return Workspace(root, settings, working_store(settings, root), Store(str(root / "data")))


def working_store(settings: Settings, root: Path) -> Store:
    """Return the working store; a relative path in the settings is relative to the folder ``root``."""
    return Store(settings.store if "://" in settings.store else str(root / settings.store))
