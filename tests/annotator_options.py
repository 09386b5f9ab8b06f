"""The options of each annotator in tests of all annotators; required settings are given here."""

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
    """Return the test options of an annotator: those of tests/options_<name>.py, made once a process, or none."""
    return dict(_options(name))


def make_annotator(name: str, **more: Any) -> Annotator:
    """Return an annotator with its test options, and ``more`` over them."""
    return ANNOTATORS.get(name)(name="someone", **{**options(name), **more})
