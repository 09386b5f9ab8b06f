"""The options that `segmenter` is tested with where all annotators are."""

from __future__ import annotations

from typing import Any

from hub_models import checkpoint


def options() -> dict[str, Any]:
    """Return the options with a small checkpoint."""
    return {"model": checkpoint("sam")}
