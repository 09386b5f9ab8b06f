"""The result of one check of a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. ``found``: what was found; ``remedy``: what to do where the status is not ok."""

    name: str
    status: Status
    found: str
    remedy: str = ""
