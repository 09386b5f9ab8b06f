"""Errors of the machine, explained: a full disk, a folder that cannot be written, too many open files.

They reach us as OSError, and in the words of whatever package met them: safetensors, SQLite, pyarrow, MLflow, DVC.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LEAST_FREE = 256 * 1024
"""Bytes below which a disk counts as full: many a package tells of it in words that do not say so."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a machine refuses. ``codes``: of OSError; ``pattern``: how packages say it; ``words``, ``remedy``: ours."""

    codes: frozenset[int]
    pattern: str
    words: str
    remedy: str


FULL = Fault(
    frozenset({errno.ENOSPC, errno.EDQUOT}),
    r"No space left|os error 28\b|os error 122\b|disk is full|quota exceeded|StorageFull",
    "the disk is full",
    "free some space and run the same command again: it goes on from what is finished",
)
FAULTS = (
    FULL,
    Fault(
        frozenset({errno.EROFS}),
        r"Read-only file system|os error 30\b|readonly database|ReadOnlyFilesystem",
        "the file system is read-only",
        "mount it writable, or work in a copy elsewhere",
    ),
    Fault(
        frozenset({errno.EACCES, errno.EPERM}),
        r"Permission ?denied|os error 13\b|Operation not permitted|unable to open database file",
        "not permitted",
        "check whose the files are and what this user may do there (`ls -l`, `id`)",
    ),
    Fault(
        frozenset({errno.EMFILE, errno.ENFILE}),
        r"Too many open files|os error 24\b",
        "too many files are open",
        "raise the limit (`ulimit -n 4096`) or lower flow.workers",
    ),
    Fault(
        frozenset({errno.EFBIG}),
        r"File too large|os error 27\b",
        "a file would be larger than this user's or file system's limit",
        "raise the limit (`ulimit -f unlimited`) or use another file system",
    ),
    Fault(
        frozenset({errno.EIO, errno.ESTALE}),
        r"Input/output error|disk I/O error|Stale file handle|os error 5\b",
        "the disk or network drive fails",
        "see what the system's log says (`dmesg`), and run the same command again when it works",
    ),
)


def explain_system_error(error: BaseException) -> str | None:
    """Return a sentence about what the machine refused, with the remedy; None for an error of another kind.

    Looks at the errors that led to this one too.
    """
    found = [(one, fault) for one in _chain(error) if (fault := _find_fault(one)) is not None]
    full = find_full_disks()
    if not found:
        return f"{_describe_full(full)} ({type(error).__name__}: {_first_line(error)})" if full else None
    one, fault = next((pair for pair in found if isinstance(pair[0], OSError)), found[0])
    place = _describe_place(one)
    if full:
        return _describe_full(full) + (f" ({place})" if place else "")
    return fault.words + (f": {place}" if place else "") + f"; {fault.remedy}"


def explain_log(text: str, needed: int) -> str:
    """Return what the machine refused to a process, by its log ``text``; "" where that cannot be told.

    A log may have lost what it was to say to the same full disk. ``needed``: bytes that the process would have used.
    """
    if full := find_full_disks(needed):
        return _describe_full(full)
    fault = next((fault for fault in FAULTS if re.search(fault.pattern, text, re.IGNORECASE)), None)
    return f"{fault.words}; {fault.remedy}" if fault is not None else ""


def explain_full_disk(text: str) -> str:
    """Return a sentence for the end of an error message, where a disk is full and it does not say so; else ""."""
    full = find_full_disks()
    return _describe_full(full) if full and not re.search(r"disk is full", text) else ""


def find_full_disks(least: int = LEAST_FREE) -> dict[Path, int]:
    """Return folder → free bytes, of the current and the temporary one where less than ``least`` bytes are free."""
    found = {}
    for folder in dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir()))):
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            continue
        if free < least:
            found[folder] = free
    return found


def _describe_full(folders: dict[Path, int]) -> str:
    places = " and ".join(f"{folder} has {free // 1024} KB left" for folder, free in folders.items())
    return f"{FULL.words}: {places}; {FULL.remedy}"


def _describe_place(error: BaseException) -> str:
    """Return which file an error is about; what a package says where it names none."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _find_fault(error: BaseException) -> Fault | None:
    if isinstance(error, OSError) and error.errno is not None:
        return next((fault for fault in FAULTS if error.errno in fault.codes), None)
    text = str(error)
    return next((fault for fault in FAULTS if re.search(fault.pattern, text, re.IGNORECASE)), None)


def _chain(error: BaseException, seen: frozenset[int] = frozenset()) -> Iterator[BaseException]:
    """Yield an error and all that led to it."""
    if id(error) in seen:
        return
    yield error
    seen = seen | {id(error)}
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for one in (error.__cause__, error.__context__, *inner):
        if one is not None:
            yield from _chain(one, seen)
