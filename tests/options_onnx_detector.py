"""The options that `onnx_detector` is tested with where all annotators are."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from onnx_models import red_finder


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="onnx-")


def options() -> dict[str, Any]:
    """Return the options with a file that finds red areas."""
    return {
        "model": red_finder(Path(_folder().name) / "red.onnx", (96, 128)),
        "layout": "yolo",
        "labels": ["green thing", "red thing", "blue thing"],
    }
