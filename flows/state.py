"""The state of a loop: .florence/loop.json."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from florence.errors import DataError, NewerFormatError
from florence.store import Store

FOLDER = ".florence"
NAME = "loop.json"
FORMAT = 1
"""The key ``format`` of the state. A state without it is of form 1."""
REQUIRED = {"loop_id", "first_round", "wanted"}
"""Keys that every version writes."""


@dataclass(frozen=True, slots=True)
class LoopState:
    """The state of the last loop, written whole after every stage: a killed loop continues with what is missing.

    ``first_round``: number of its first round; ``wanted``, ``done``: how many rounds it is to have and has.
    ``accepted``: the last round whose labels were kept, of this or an earlier loop. ``student``, ``scores``,
    ``champion``: folder, scores and version of the model that annotates in the next round and that it is compared with;
    ``attempt``: how many models were compared with it, the next one included. ``images``: hash of the ids of all
    images, ``settings``: section → hash, ``reviews``: version of people's claims, as they were in its last round.
    ``rejected``: why the model of its last round was not accepted, empty if it was. ``seconds``: stage → seconds, of
    the round under way. ``waiting``: the version of that round's model that waits for a person's approval, empty if
    none does; ``since``: UTC, ISO 8601; ``flow_run``: id of the Prefect run that is suspended for it, empty if none is.
    """

    loop_id: str
    first_round: int
    wanted: int
    done: int = 0
    accepted: int | None = None
    student: str | None = None
    scores: str | None = None
    champion: str | None = None
    attempt: int = 1
    images: str = ""
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    reviews: str = ""
    rejected: str = ""
    finished: bool = False
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    waiting: str = ""
    since: str = ""
    flow_run: str = ""

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
    """Return the state in this workspace, None where no loop has run.

    Raises NewerFormatError where a newer version of Florence wrote it, DataError for any other file.
    """
    store, where = Store(str(root / FOLDER)), root / FOLDER / NAME
    if not store.exists(NAME):
        return None
    values: Any = store.read_json(NAME)
    if isinstance(values, dict):
        known = {field.name for field in dataclasses.fields(LoopState)} | {"format"}
        found = values.get("format", 1)
        if isinstance(found, int) and found > FORMAT:
            raise NewerFormatError(str(where), f"its format is {found}, and {FORMAT} is read")
        if (unknown := sorted(set(values) - known)) and REQUIRED <= set(values):
            raise NewerFormatError(str(where), f"it has {', '.join(unknown)}, which this version does not know")
        values = {name: value for name, value in values.items() if name != "format"}
    try:
        state = TypeAdapter(LoopState).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top'}: {e['msg']}" for e in error.errors())
        raise DataError(
            f"{where} is not the state of a loop ({faults}); put the file back as it was, or move it away: the next "
            "loop then goes on from the snapshot in data/"
        ) from None
    return dataclasses.replace(
        state, student=_find_in_workspace(root, state.student), scores=_find_in_workspace(root, state.scores)
    )


def write_state(root: Path, state: LoopState) -> None:
    """Write the state, whole; paths in the workspace are written as relative to it."""
    kept = {name: _name_in_workspace(root, getattr(state, name)) for name in ("student", "scores")}
    Store(str(root / FOLDER)).write_json(NAME, {"format": FORMAT, **dataclasses.asdict(state), **kept})


def _name_in_workspace(root: Path, path: str | None) -> str | None:
    """Return ``path`` relative to ``root`` where it is inside: the workspace may be moved or copied."""
    return str(Path(path).relative_to(root)) if path is not None and Path(path).is_relative_to(root) else path


def _find_in_workspace(root: Path, path: str | None) -> str | None:
    """Return the full path of what `_name_in_workspace` has named.

    A full path of a workspace that was moved or copied since leads to the same file of this one, where it has it.
    """
    if path is None:
        return None
    if not Path(path).is_absolute():
        return str(root / path)
    _, mark, name = path.rpartition(f"/{FOLDER}/")
    here = root / FOLDER / name
    return str(here) if mark and here.exists() else path
