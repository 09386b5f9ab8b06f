"""build/loop.json: the facts of the last loop."""

from __future__ import annotations

from florence.report.facts import LoopFacts
from flows.tracked import TrackedWorkspace


def read_facts(workspace: TrackedWorkspace) -> LoopFacts | None:
    """Return the facts of the last loop, None where there are none."""
    if not workspace.build.exists("loop.json"):
        return None
    return LoopFacts.from_json(workspace.build.read_bytes("loop.json"), str(workspace.root / "build" / "loop.json"))


def write_facts(workspace: TrackedWorkspace, facts: LoopFacts) -> None:
    """Write the facts, whole."""
    workspace.build.write_bytes("loop.json", facts.to_json().encode())
