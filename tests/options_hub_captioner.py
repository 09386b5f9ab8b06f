"""The options that `hub_captioner` is tested with where all annotators are: a small LLaVA."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from language_models import llava


def options() -> dict[str, Any]:
    """Return the options with a checkpoint in a temporary folder."""
    return {
        "model": str(llava(Path(tempfile.mkdtemp()) / "llava")),
        "beams": 2,
        "max_tokens": 8,
        "rows": 3,
        "min_alone": 0.5,
    }
