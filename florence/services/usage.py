"""What an annotator uses that costs something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Usage:
    """Calls, tokens and their cost, in the currency of the annotator's prices."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.calls + other.calls, self.tokens + other.tokens, self.cost + other.cost)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.calls - other.calls, self.tokens - other.tokens, self.cost - other.cost)


class MeteredAnnotator(Protocol):
    """What calls to a service know of the annotator that makes them: its name, and the usage that they are added to."""

    name: str
    usage: Usage
