"""What each annotator is made with where all of them are tested: those that can do nothing without a setting have it here."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

from florence.annotators import ANNOTATORS, Annotator


@cache
def _options(name: str) -> dict[str, Any]:
    if importlib.util.find_spec(f"options_{name}") is None:
        return {}
    return importlib.import_module(f"options_{name}").options()


def options(name: str) -> dict[str, Any]:
    """The options that an annotator is tested with: those of tests/options_<name>.py, made once a process with whatever files they name; none without that file."""
    return dict(_options(name))


def made(name: str, **more: Any) -> Annotator:
    """An annotator with the options that it is tested with, and ``more`` over them."""
    return ANNOTATORS.get(name)(name="someone", **{**options(name), **more})
