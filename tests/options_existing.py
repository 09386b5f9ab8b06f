"""`existing`: labels of the images that all annotators are tested on."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path


def options() -> dict:
    """Return the options of a JSON Lines file: an object, a caption and an OCR line of the first image alone."""
    path = Path(tempfile.mkdtemp(prefix="florence-existing-")) / "labels.jsonl"
    rows = [
        {"task": "<OD>", "text": "cat", "regions": [{"box": [5, 0, 280, 198]}], "score": 0.9},
        {"task": "<CAPTION>", "text": "a cat near a tree"},
        {"task": "<OCR_WITH_REGION>", "text": "CAT", "regions": [{"quad": [5, 5, 50, 5, 50, 20, 5, 20]}]},
    ]
    lines = [{"image": {"name": f"{k}.png"}, "annotations": [] if k else rows} for k in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"format": "jsonl", "uri": str(path)}
