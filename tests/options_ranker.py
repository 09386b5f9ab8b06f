"""The options that `ranker` is tested with where all annotators are: a small CLIP."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from language_models import clip


def options() -> dict[str, Any]:
    """Return the options with a checkpoint in a temporary folder."""
    return {"model": str(clip(Path(tempfile.mkdtemp()) / "clip")), "rows": 3}
