"""Folders that a kill leaves whole, and temporary ones that it does not leave behind for long.

A folder is replaced as a whole: whoever looks, also after a kill, finds the old one or the new one.
There is no portable way to replace a folder in one step. So the new one is made beside it, complete, before the old
one is moved away. `settle_folder` finishes what a kill has interrupted; whoever reads such a folder calls it first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
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


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder below ``parent`` that is removed with its content when the block ends.

    So are the folders of processes that were killed. What is still in use is known by its lock, which the kernel frees.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / uuid.uuid4().hex
    with (parent / f"{folder.name}.lock").open("w") as own:
        with (parent / ".lock").open("a") as everybody:
            fcntl.flock(everybody, fcntl.LOCK_EX)
            fcntl.flock(own, fcntl.LOCK_EX)
            _remove_abandoned(parent)
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(own.name).unlink(missing_ok=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders whose process has ended."""
    for lock in parent.glob("*.lock"):
        if lock.name == ".lock":
            continue
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def _beside(folder: Path, ending: str) -> Path:
    """Return the hidden folder with this ending beside ``folder``."""
    return folder.with_name(f".{folder.name}.{ending}")
