"""The lock of a workspace: one command at a time writes into it, whichever it is.

The kernel frees the lock of a process that is dead, so a lock is never left behind. Stages that a loop starts through
DVC are processes of their own; they are told by their environment that their loop holds the lock for them.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from florence.errors import FlorenceError

LOCK = ".florence/lock"
"""The file that is locked. It says who holds the lock."""
HELD = "FLORENCE_LOCK"
"""Environment variable of processes that work on behalf of the lock's holder: the holder's token."""

_held: dict[Path, tuple[str, IO[str]]] = {}
"""Locks of this process: file → (token, open file)."""


class WorkspaceLockedError(FlorenceError):
    """Another command is at work in this workspace."""


@contextmanager
def lock_workspace(root: Path, command: str) -> Iterator[None]:
    """Keep every other command that writes out of the workspace ``root`` while the block runs.

    ``command``: what the others are told is at work. A process that the holder has started for its own work passes.
    Raises WorkspaceLockedError, naming the command at work, its process and since when; FlorenceError where the
    workspace cannot be written to.
    """
    path = (root / LOCK).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise FlorenceError(f"{root} cannot be written to ({error.strerror}): {command} needs to") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(file)
            if HELD not in os.environ or holder.get("token") != os.environ[HELD]:
                raise WorkspaceLockedError(_describe_holder(root, holder)) from None
            yield
            return
        token = secrets.token_hex(8)
        _held[path] = token, file
        try:
            _write_holder(file, {"command": command, "token": token})
            yield
        finally:
            if _held.pop(path, None) is not None:  # a forked process has dropped it
                file.truncate(0)


@contextmanager
def lock_for_flow(root: Path, command: str) -> Iterator[None]:
    """Do what `lock_workspace` does, for a command whose flow locks again in this process: the flow passes.

    So nobody takes the lock while the flow's server starts.
    """
    with lock_workspace(root, command):
        before = os.environ.get(HELD)
        os.environ.update(lock_environment(root))
        try:
            yield
        finally:
            os.environ.pop(HELD, None)
            if before is not None:
                os.environ[HELD] = before


def lock_environment(root: Path) -> dict[str, str]:
    """Return what a process needs in its environment to work under the lock that this process holds on ``root``."""
    held = _held.get((root / LOCK).resolve())
    return {HELD: held[0]} if held is not None else {}


def _write_holder(file: IO[str], values: dict[str, str]) -> None:
    file.truncate(0)
    own = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
    try:
        file.write(json.dumps({**values, **own}))
        file.flush()
    except OSError as error:
        raise FlorenceError(f"{file.name} cannot be written: {error.strerror}") from None


def _read_holder(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _describe_holder(root: Path, holder: dict[str, Any]) -> str:
    """Return who is at work, and what to do."""
    if not {"command", "pid", "since", "host"} <= set(holder):
        return f"another command is at work in {root}; wait for it, or stop it"
    elsewhere = f" on {holder['host']}" if holder["host"] != socket.gethostname() else ""
    return (
        f"`{holder['command']}` is at work in {root} (process {holder['pid']}{elsewhere}, since {holder['since']}); "
        "wait for it, or stop it"
    )


def _drop_locks() -> None:
    """Close the locks that a forked process got a copy of: they would outlive the process that took them."""
    for _, file in _held.values():
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_drop_locks)
