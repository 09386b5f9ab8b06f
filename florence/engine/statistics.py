"""A snapshot in the terms of the Florence-2 paper's Tables 2 and 3: how much of each kind there is, and what texts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from florence.engine.alignment import tokens
from florence.engine.parse import Parsed, parse
from florence.records import ANNOTATED, CAPTIONS, digest

SAMPLE = 1000
"""Texts of a kind that are parsed at most."""
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"


def statistics(labels: pa.Table, images: pa.Table) -> dict[str, Any]:
    """Figures of the kept labels of ``images``: ``kinds`` (Table 2) and ``texts`` (Table 3), kind by kind; kinds without labels are left out.

    Table 2: images that have labels, texts, regions; tokens are words. Table 3: means per text; a text's complexity is that of its most complex
    object or action. Of more than `SAMPLE` distinct texts of a kind so many are parsed, drawn by their hash; ``parsed`` says how many.
    """
    import pyarrow.compute as pc

    kept = labels.filter(pc.and_(labels["kept"], pc.is_in(labels["image_id"], images["image_id"].combine_chunks())))
    by_task = {task: kept.filter(pc.equal(kept["task"], task)) for task in ANNOTATED}
    return {
        "kinds": {task: _kind(task, rows) for task, rows in by_task.items() if len(rows)},
        "texts": {task: _texts(by_task[task]["text"].to_pylist()) for task in CAPTIONS if len(by_task[task])},
    }


def _kind(task: str, rows: pa.Table) -> dict[str, float | int | None]:
    images = len(rows["image_id"].unique())
    texts = rows["text"].to_pylist()
    if task == GROUNDING:
        texts = [text for _, text in sorted(set(zip(rows["image_id"].to_pylist(), texts, strict=True)))]
    told = task in CAPTIONS or task == GROUNDING
    result: dict[str, float | int | None] = {
        "images": images, "texts": len(texts), "tokens_per_text": _mean(texts) if told else None,
        "regions": None, "regions_per_image": None, "tokens_per_region": None,
    }  # fmt: skip
    if task not in CAPTIONS:
        regions = rows["regions"].combine_chunks().flatten()
        result["regions"] = len(regions)
        result["regions_per_image"] = round(len(regions) / images, 4)
        result["tokens_per_region"] = _mean(regions.field("label").to_pylist()) if len(regions) else None
    return result


def _mean(texts: Sequence[str]) -> float:
    """Words of a text, on average."""
    counts = {text: sum(any(c.isalnum() for c in word) for word in tokens(text).words) for text in set(texts)}
    return round(sum(counts[text] for text in texts) / len(texts), 4)


def _texts(texts: Sequence[str]) -> dict[str, float | int]:
    chosen = sorted(set(texts), key=lambda text: (digest(text.encode()), text))[:SAMPLE]
    found = parse(chosen)
    return {name: round(float(np.mean([_figures(parsed)[name] for parsed in found])), 4) for name in _figures(found[0])} | {"parsed": len(found)}


def _figures(parsed: Parsed) -> dict[str, int]:
    return {
        "objects": len(parsed.objects), "attributes": len(parsed.attributes), "actions": len(parsed.actions), "proper_nouns": len(parsed.proper_nouns),
        "object_complexity": parsed.object_complexity, "action_complexity": parsed.action_complexity,
    }  # fmt: skip
