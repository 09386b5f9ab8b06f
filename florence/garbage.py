"""How often Python looks for objects that refer to each other and are reached from nowhere else."""

from __future__ import annotations

import gc

THRESHOLD = 50_000
"""New containers after which Python looks for unreachable cycles; its own threshold is 700."""


def relax_garbage_collection() -> None:
    """Look for unreachable cycles less often: looking is up to a fifth of the time that libraries take to import."""
    gc.set_threshold(THRESHOLD)
