"""build/loop.json: the facts of the last loop."""

from __future__ import annotations

from florence.report.facts import LoopFacts
from flows.parts import Parts


def read_facts(parts: Parts) -> LoopFacts | None:
    """The facts of the last loop, None where there are none."""
    if not parts.build.exists("loop.json"):
        return None
    return LoopFacts.from_json(parts.build.read_bytes("loop.json"), str(parts.root / "build" / "loop.json"))


def write_facts(parts: Parts, facts: LoopFacts) -> None:
    """Write the facts, whole."""
    parts.build.write_bytes("loop.json", facts.to_json().encode())
