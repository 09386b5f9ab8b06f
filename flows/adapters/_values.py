"""Settings, tags and metrics as MLflow takes them."""

from __future__ import annotations

import json
import numbers
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flows.adapters._mlflow import bare

LONGEST_PARAM, LONGEST_TAG, LONGEST_KEY = 6000, 5000, 250


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with their keys a.b.c; an empty mapping is a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def legal(key: str) -> str:
    """A name as MLflow allows it: "loss/<OD>" is "loss/OD"."""
    key = re.sub(r"[^\w.\- :/]", "_", re.sub(r"[<>]", "", key))
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))[:LONGEST_KEY] or "_"


def text(value: Any) -> str:
    """A value as a param or tag holds it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def cut(text: str, length: int) -> str:
    """``text`` in so many characters at most."""
    return text if len(text) <= length else text[: length - 1] + "…"


def as_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as texts, without those that are None."""
    return {legal(key): cut(bare(text(value)), LONGEST_TAG) for key, value in tags.items() if value is not None}


def is_number(value: Any) -> bool:
    """Whether a metric can be made of it."""
    return isinstance(value, numbers.Real)
