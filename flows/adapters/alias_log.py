"""The log of which version was champion: who moved the alias, when and why.

Each entry is a tag of the registered model with a name of its own, so that two writers never overwrite one another's,
and none is ever changed. An entry is written before the alias moves; one whose move never took place is passed over.
"""

from __future__ import annotations

import getpass
import json
import platform
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Action = Literal["promote", "rollback", "approve", "refuse"]
PREFIX = "florence.alias."
LONGEST_REASON = 2000
"""Characters; MLflow takes tags of 5,000."""


@dataclass(frozen=True, slots=True)
class AliasMove:
    """A move of the alias champion, or a person's refusal of a model that waited: then it stays.

    ``time``: UTC, ISO 8601; ``who``: user and machine; ``before``: the champion until then, None where there was none;
    ``after``: the version that became it; ``forced``: although its model was rejected.
    """

    time: str
    who: str
    action: Action
    before: str | None
    after: str
    reason: str = ""
    forced: bool = False

    @classmethod
    def now(
        cls,
        action: Action,
        before: str | None,
        after: str,
        reason: str = "",
        forced: bool = False,
        who: str = "",
    ) -> AliasMove:
        """Return a move that is made now, by this user where ``who`` names nobody else."""
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        return cls(time, who or _find_user(), action, before, after, reason[:LONGEST_REASON], forced)

    def to_tag(self) -> tuple[str, str]:
        """Return name and value of the tag; names sort by time."""
        stamp = self.time.replace(":", "").replace("+", "_")
        return f"{PREFIX}{stamp}-{secrets.token_hex(4)}", json.dumps(asdict(self), ensure_ascii=False)


def _find_user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        user = "unknown"
    return f"{user}@{platform.node()}"


def read_moves(tags: Mapping[str, Any]) -> list[AliasMove]:
    """Return the moves among a registered model's tags, the first one first."""
    names = sorted(name for name in tags if name.startswith(PREFIX))
    return [AliasMove(**json.loads(tags[name])) for name in names]


def list_champions(moves: Iterable[AliasMove], champion: str | None, there: Iterable[str]) -> list[str]:
    """Return the versions that a rollback would go through, the champion of now last.

    ``champion``: what the alias names now; ``there``: the versions that are registered. A promotion adds a version, a
    rollback goes back to one. A champion that the log does not know was named by someone else, and is added.
    """
    champions: list[str] = []
    for move in moves:
        if move.action == "refuse":
            continue
        if move.before is not None and not champions:
            champions.append(move.before)
        if move.action == "rollback" and move.after in champions:
            del champions[_last(champions, move.after) + 1 :]
        elif not champions or champions[-1] != move.after:
            champions.append(move.after)
    if champion is not None and champion in champions:
        del champions[_last(champions, champion) + 1 :]
    elif champion is not None:
        champions.append(champion)
    known = set(there)
    result: list[str] = []
    for version in champions:
        if version in known and (not result or result[-1] != version):
            result.append(version)
    return result


def _last(champions: list[str], version: str) -> int:
    return len(champions) - 1 - champions[::-1].index(version)
