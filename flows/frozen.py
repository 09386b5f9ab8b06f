"""The settings of a run, frozen when it begins: .florence/run/params.yaml.

All processes of a loop read them there. So an edit of params.yaml meanwhile changes nothing of the run, and waits for
the next one. A loop that was killed goes on with them; one that ended with an error lets go of them, so that a setting
can be corrected.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from florence.config import Settings, read_settings
from florence.store import Store

SETTINGS = "FLORENCE_SETTINGS"
"""Environment variable with the path of the frozen settings; only processes of a loop have it."""
FOLDER = ".florence/run"
NAME = "params.yaml"


def params_file(root: Path) -> Path:
    """Return the file with the settings in force: the frozen one inside a run of this workspace, else params.yaml."""
    frozen = _frozen_file(root)
    return frozen if os.environ.get(SETTINGS) == str(frozen) and frozen.is_file() else root / NAME


def find_frozen(root: Path) -> Path | None:
    """Return the frozen settings of the run that this process belongs to; None outside of one."""
    found = params_file(root)
    return None if found == root / NAME else found


def read_run_settings(root: Path) -> Settings:
    """Return the settings in force in the workspace. Raises SettingsError where they are missing or wrong."""
    return read_settings(params_file(root))


@contextmanager
def freeze_settings(root: Path, is_resumed: bool, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Freeze params.yaml while the block runs; yield a function that says in one line where it was edited since.

    ``is_resumed``: go on with what a killed run has frozen, where it has. Raises SettingsError where the settings are
    wrong.
    """
    root = root.resolve()
    frozen, before = _frozen_file(root), os.environ.get(SETTINGS)
    if not (is_resumed and frozen.is_file()):
        read_settings(root / NAME)
        Store(str(frozen.parent)).write_bytes(NAME, (root / NAME).read_bytes())
        frozen.chmod(0o600)
    announced = {frozen.read_bytes()}

    def tell() -> None:
        now = (root / NAME).read_bytes() if (root / NAME).is_file() else b""
        if now not in announced:
            announced.add(now)
            say("params.yaml was edited: this loop keeps the settings that it began with, the next one takes the edit")

    os.environ[SETTINGS] = str(frozen)
    try:
        tell()
        yield tell
        tell()
    except Exception:
        release_settings(root)
        raise
    finally:
        os.environ.pop(SETTINGS, None)
        if before is not None:
            os.environ[SETTINGS] = before


def release_settings(root: Path) -> None:
    """Let go of frozen settings: the next run reads params.yaml."""
    _frozen_file(root).unlink(missing_ok=True)


def _frozen_file(root: Path) -> Path:
    return root.resolve() / FOLDER / NAME
