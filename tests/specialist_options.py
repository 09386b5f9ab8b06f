"""What each specialist is made with where all of them are tested: those that can do nothing without a setting have it here."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from florence.specialists import SPECIALISTS, Specialist

OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {}
"""Name of a specialist -> a function that makes its options, and whatever files or servers they name, once a process."""


@lru_cache(maxsize=None)
def _made(name: str) -> dict[str, Any]:
    return OPTIONS[name]() if name in OPTIONS else {}


def options(name: str) -> dict[str, Any]:
    """The options that a specialist is tested with."""
    return dict(_made(name))


def made(name: str, **more: Any) -> Specialist:
    """A specialist with the options that it is tested with, and ``more`` over them."""
    return SPECIALISTS.get(name)(name="someone", **{**options(name), **more})
