"""A folder that is replaced as a whole: whoever looks, also after a kill, finds the old one or the new one.

There is no portable way to replace a folder in one step. So the new one is made beside it, complete, before the old
one is moved away. `settle_folder` finishes what a kill has interrupted; whoever reads such a folder calls it first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def swap_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of ``folder`` once the block has ended without an error."""
    settle_folder(folder)
    part, new, old = (_beside(folder, ending) for ending in ("part", "new", "old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    os.rename(part, new)  # from here on the new one is what counts
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def settle_folder(folder: Path) -> None:
    """Finish a replacement of ``folder`` that was interrupted; nothing happens where none was."""
    part, new, old = (_beside(folder, ending) for ending in ("part", "new", "old"))
    shutil.rmtree(part, ignore_errors=True)
    if new.exists():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(folder, old)
        os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, ending: str) -> Path:
    """Return the hidden folder with this ending beside ``folder``."""
    return folder.with_name(f".{folder.name}.{ending}")
