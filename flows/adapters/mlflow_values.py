"""Settings, tags and metrics as MLflow takes them."""

from __future__ import annotations

import json
import numbers
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flows.adapters.environment import redact_text

LONGEST_PARAM, LONGEST_TAG, LONGEST_KEY = 6000, 5000, 250


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their keys a.b.c; an empty mapping is a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def legal_key(key: str) -> str:
    """Return the name of a param, tag or metric as MLflow allows it: "loss/<OD>" is "loss/OD"."""
    key = re.sub(r"[^\w.\- :/]", "_", re.sub(r"[<>]", "", key))
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))[:LONGEST_KEY] or "_"


def as_text(value: Any) -> str:
    """Return a value as a param or tag holds it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def shorten(text: str, length: int) -> str:
    """Return ``text`` in at most ``length`` characters, the last one "…" where something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def as_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return tags as redacted texts, without those that are None."""
    texts = {legal_key(key): redact_text(as_text(value)) for key, value in tags.items() if value is not None}
    return {key: shorten(text, LONGEST_TAG) for key, text in texts.items()}


def is_number(value: Any) -> bool:
    """Return whether a value can be logged as a metric."""
    return isinstance(value, numbers.Real)
