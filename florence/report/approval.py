"""What a person decided about a model that waited for approval, as build/loop.json and the report have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""How facts are read from JSON."""


@dataclass(frozen=True, slots=True)
class ModelApproval:
    """What a person decided about an accepted model. ``since``, ``time``: UTC, ISO 8601; ``who``: user and machine."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    status: Literal["waiting", "approved", "refused"]
    since: str
    time: str = ""
    who: str = ""
    reason: str = ""

    def describe(self) -> str:
        """Return it in words."""
        if self.status == "waiting":
            return f"the model waits for approval since {self.since[:19]} UTC: `florence approve` or `florence refuse`"
        reason = f": {self.reason}" if self.reason else ""
        return f"the model was {self.status} by {self.who} at {self.time[:19]} UTC{reason}"
