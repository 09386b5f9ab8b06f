"""Types of callbacks for progress and logged figures, and a progress callback that shows nothing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called as (what, done, total); total is None where it is not known."""
Log = Callable[[int, dict[str, float]], None]
"""Called as (step, figures by name) while something runs."""


def show_nothing(what: str, done: int, total: int | None) -> None:
    """A progress that shows nothing."""


def log_nothing(step: int, figures: dict[str, float]) -> None:
    """A log that keeps nothing."""
