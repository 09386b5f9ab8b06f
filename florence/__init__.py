"""Florence: from pictures to a Florence-2-style data set and a promoted vision model, again and again.

`load` gives a model that answers questions about images; nothing but this file is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {"load": "florence.predict.model", "Model": "florence.predict.model"}
"""What can be imported from here → its module; `__init__.pyi` has the types."""

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
