"""What a snapshot is described by: the figures of Tables 2 and 3 of the Florence-2 paper, over the kept labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.records import CAPTIONS, KINDS, digest

PARSED = 2000
"""Texts of a kind that are parsed at most, chosen by the hash of their row: means over a sample of this size are certain enough."""
TEXTS = (*CAPTIONS, "<CAPTION_TO_PHRASE_GROUNDING>")


def statistics(labels: pa.Table, images: pa.Table) -> dict[str, Any]:
    """``kinds``: of each kind images, texts, tokens_per_text, regions, regions_per_image, tokens_per_region (None where it has none); ``texts``: of each
    caption means a text of objects, attributes, actions, proper_nouns, object_complexity, action_complexity, and ``parsed``, how many were.

    A token is a word between white spaces. Rows of images that are not in ``images`` do not count.
    """
    kept = labels.filter(labels["kept"])
    kept = kept.filter(pc.is_in(kept["image_id"], value_set=images["image_id"].combine_chunks()))
    kinds, texts = {}, {}
    for task in KINDS:
        rows = kept.filter(pc.equal(kept["task"], task))
        if len(rows):
            kinds[task] = _kind(task, rows)
            if task in CAPTIONS:
                texts[task] = _texts(rows)
    return {"kinds": kinds, "texts": texts}


def _kind(task: str, rows: pa.Table) -> dict[str, Any]:
    pictures = pc.count_distinct(rows["image_id"]).as_py()
    regions = pc.list_flatten(rows["regions"])
    has_text, has_place = task in TEXTS, len(regions) > 0
    # the phrases of one caption share its text
    said = rows.select(["image_id", "text"]).group_by(["image_id", "text"]).aggregate([]) if has_text else rows
    return {
        "images": pictures,
        "texts": len(said),
        "tokens_per_text": _mean_words(said["text"]) if has_text else None,
        "regions": len(regions) if has_place else None,
        "regions_per_image": round(len(regions) / pictures, 4) if has_place else None,
        "tokens_per_region": _mean_words(pc.struct_field(regions, "label")) if has_place else None,
    }


def _mean_words(texts: pa.ChunkedArray) -> float:
    words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts)))
    return round(float(pc.mean(words).as_py()), 4)


def _texts(rows: pa.Table) -> dict[str, Any]:
    from florence.engine.parse import parse

    ids = np.asarray([digest(value.encode()) for value in rows["annotation_id"].to_pylist()])
    chosen = np.sort(np.argsort(ids, kind="stable")[:PARSED])
    parsed = parse([rows["text"][int(i)].as_py() for i in chosen])

    def mean(values: Sequence[float]) -> float:
        return round(float(np.mean(values)), 4) if len(values) else 0.0

    return {
        "objects": mean([len(p.objects) for p in parsed]),
        "attributes": mean([len(p.attributes) for p in parsed]),
        "actions": mean([len(p.actions) for p in parsed]),
        "proper_nouns": mean([len(p.proper_nouns) for p in parsed]),
        "object_complexity": mean([node.degree for p in parsed for node in p.objects]),
        "action_complexity": mean([node.degree for p in parsed for node in p.actions]),
        "parsed": len(parsed),
    }
