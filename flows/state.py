"""The state of a loop (.florence/loop.json), and the lock that keeps a second one out."""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.errors import FlorenceError
from florence.store import Store

FOLDER = ".florence"
NAME = "loop.json"


class WorkspaceLockedError(FlorenceError):
    """Another run is at work in this workspace."""


@dataclass(frozen=True, slots=True)
class LoopState:
    """The state of the last loop, written whole after every stage: a killed loop continues with what is missing.

    ``first_round``: number of its first round; ``wanted``, ``done``: how many rounds it is to have and has.
    ``accepted``: the last round that was accepted, of this or an earlier loop. ``student``, ``scores``, ``champion``:
    folder, scores and version of the model that annotates in the next round and that it is compared with. ``images``:
    hash of the ids of all images, ``settings``: section → hash, ``reviews``: version of people's claims, as they were
    in its last round. ``rejected``: why its last round was not accepted, empty if it was. ``seconds``: stage →
    seconds, of the round under way.
    """

    loop_id: str
    first_round: int
    wanted: int
    done: int = 0
    accepted: int | None = None
    student: str | None = None
    scores: str | None = None
    champion: str | None = None
    images: str = ""
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    reviews: str = ""
    rejected: str = ""
    finished: bool = False
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def round(self) -> int:
        """The number of the round to do next."""
        return self.first_round + self.done

    def add_seconds(self, stage: str, seconds: float) -> LoopState:
        """Return the same state with ``seconds`` more for ``stage``."""
        return dataclasses.replace(
            self, seconds={**self.seconds, stage: round(self.seconds.get(stage, 0.0) + seconds, 2)}
        )


def read_state(root: Path) -> LoopState | None:
    """Return the state in this workspace, None where no loop has run. Raises FlorenceError for any other file."""
    store = Store(str(root / FOLDER))
    if not store.exists(NAME):
        return None
    values: Any = store.read_json(NAME)
    try:
        return LoopState(**values)
    except TypeError as error:
        raise FlorenceError(
            f"{root / FOLDER / NAME} is not the state of a loop ({error}); delete it and a new loop is started"
        ) from None


def write_state(root: Path, state: LoopState) -> None:
    """Write the state, whole."""
    Store(str(root / FOLDER)).write_json(NAME, dataclasses.asdict(state))


@contextmanager
def lock_workspace(root: Path) -> Iterator[None]:
    """Keep every other run out of this workspace.

    Raises WorkspaceLockedError where one is at work; the kernel frees a dead run's lock.
    """
    path = root / FOLDER / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise WorkspaceLockedError(
                f"another run (process {file.read().strip() or 'unknown'}) is at work in {root}; "
                "wait for it, or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
