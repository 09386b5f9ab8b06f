"""Statistics of a snapshot, in the terms of Tables 2 and 3 of the Florence-2 paper (Xiao et al. 2023).

Table 2 counts images, texts and regions of each annotation type; Table 3 describes the texts by their dependency parse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.engine.claims import image_sizes
from florence.engine.parse import ParsedText, parse_texts
from florence.engine.wording.tokens import tokenize
from florence.records import ANNOTATION_TYPES, CAPTIONS, digest

SAMPLE = 1000
"""Texts of an annotation type that are parsed at most."""
BINS = 10
MAX_ASPECT_RATIO = 4.0
"""Bins of aspect ratios reach from 1 / MAX_ASPECT_RATIO to MAX_ASPECT_RATIO; the first and last hold what is beyond."""
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"


def compute_statistics(labels: pa.Table, images: pa.Table) -> dict[str, Any]:
    """Return figures of the kept labels of ``images``, for each annotation type that has labels.

    ``annotation_types`` (Table 2): images that have labels, texts, regions, tokens (words). ``triplets``: the grounded
    phrases by the annotation type of the text that they are in, the briefest where it is of several. ``texts`` (Table
    3): means per text; the complexity of a text is that of its most complex object or action. Of more than `SAMPLE`
    distinct texts of a type so many are parsed, drawn by their hash; ``parsed`` says how many. ``ungrounded``: texts
    none of whose phrases is grounded. ``boxes``: shares of the boxes of objects in `BINS` bins by area, aspect ratio
    and centre.
    """
    kept = labels.filter(pc.and_(labels["kept"], pc.is_in(labels["image_id"], images["image_id"].combine_chunks())))
    by_task = {task: kept.filter(pc.equal(kept["task"], task)) for task in ANNOTATION_TYPES}
    return {
        "annotation_types": {task: _describe_type(task, rows) for task, rows in by_task.items() if len(rows)},
        "triplets": {
            task: _describe_type(GROUNDING, rows) for task, rows in _split_by_text(by_task).items() if len(rows)
        },
        "texts": {task: _describe_texts(by_task[task], by_task[GROUNDING]) for task in CAPTIONS if len(by_task[task])},
        "boxes": _describe_boxes(by_task["<OD>"], images),
    }


def _describe_boxes(rows: pa.Table, images: pa.Table) -> dict[str, dict[str, list[float]]]:
    """Return for each measure the ``edges`` of its bins and the ``shares`` of the boxes in them; empty without boxes.

    ``area``: share of the image, in bins that are equal in its square root. ``aspect_ratio``: width / height, equal in
    its logarithm. ``centre_x``, ``centre_y``: shares of the sides of the image.
    """
    regions = rows["regions"].combine_chunks()
    owner = np.repeat(
        np.arange(len(rows)), pc.fill_null(pc.list_value_length(regions), 0).to_numpy(zero_copy_only=False)
    )
    boxes = regions.flatten().field("box")
    there = boxes.is_valid().to_numpy(zero_copy_only=False)
    if not there.any():
        return {}
    box = boxes.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
    image = pc.index_in(rows["image_id"], value_set=images["image_id"].combine_chunks()).to_numpy()[owner[there]]
    size = image_sizes(images)[image]
    side = np.maximum(box[:, 2:] - box[:, :2], 1e-9)
    centre = (box[:, :2] + box[:, 2:]) / 2 / size
    even = np.linspace(0, 1, BINS + 1)
    measures = {
        "area": (np.prod(side / size, axis=1), even**2),
        "aspect_ratio": (side[:, 0] / side[:, 1], MAX_ASPECT_RATIO ** (2 * even - 1)),
        "centre_x": (centre[:, 0], even),
        "centre_y": (centre[:, 1], even),
    }
    return {name: _count_bins(values, edges) for name, (values, edges) in measures.items()}


def _count_bins(values: np.ndarray, edges: np.ndarray) -> dict[str, list[float]]:
    bins = np.searchsorted(edges[1:-1], values, side="right")
    return {
        "edges": np.round(edges, 4).tolist(),
        "shares": np.round(np.bincount(bins, minlength=BINS) / len(values), 4).tolist(),
    }


def _describe_type(task: str, rows: pa.Table) -> dict[str, float | int | None]:
    images = len(rows["image_id"].unique())
    texts = rows["text"].to_pylist()
    if task == GROUNDING:
        texts = [text for _, text in sorted(set(zip(rows["image_id"].to_pylist(), texts, strict=True)))]
    has_texts = task in CAPTIONS or task == GROUNDING
    result: dict[str, float | int | None] = {
        "images": images,
        "texts": len(texts),
        "tokens_per_text": _count_words(texts) if has_texts else None,
        "regions": None,
        "regions_per_image": None,
        "tokens_per_region": None,
    }
    if task not in CAPTIONS:
        regions = rows["regions"].combine_chunks().flatten()
        result["regions"] = len(regions)
        result["regions_per_image"] = round(len(regions) / images, 4)
        result["tokens_per_region"] = _count_words(regions.field("label").to_pylist()) if len(regions) else None
    return result


def _split_by_text(by_task: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return for each type of caption the phrases of such a caption: of the same image and the same text."""

    def key(rows: pa.Table) -> pa.ChunkedArray:
        return pc.binary_join_element_wise(rows["image_id"], rows["text"], "\n")

    result, rest = {}, by_task[GROUNDING]
    for task in CAPTIONS:
        mine = pc.is_in(key(rest), value_set=key(by_task[task]).combine_chunks())
        result[task], rest = rest.filter(mine), rest.filter(pc.invert(mine))
    return result


def _count_words(texts: Sequence[str]) -> float:
    """Return the mean number of words of a text."""
    counts = {text: sum(any(c.isalnum() for c in word) for word in tokenize(text).words) for text in set(texts)}
    return round(sum(counts[text] for text in texts) / len(texts), 4)


def _describe_texts(rows: pa.Table, phrases: pa.Table) -> dict[str, float | int]:
    texts = rows["text"].to_pylist()
    grounded = set(zip(phrases["image_id"].to_pylist(), phrases["text"].to_pylist(), strict=True))
    without = sum(pair not in grounded for pair in zip(rows["image_id"].to_pylist(), texts, strict=True))
    chosen = sorted(set(texts), key=lambda text: (digest(text.encode()), text))[:SAMPLE]
    found = parse_texts(chosen)
    return {
        name: round(float(np.mean([_describe_parse(parsed)[name] for parsed in found])), 4)
        for name in _describe_parse(found[0])
    } | {"parsed": len(found), "ungrounded": without}


def _describe_parse(parsed: ParsedText) -> dict[str, int]:
    return {
        "objects": len(parsed.objects),
        "attributes": len(parsed.attributes),
        "actions": len(parsed.actions),
        "proper_nouns": len(parsed.proper_nouns),
        "object_complexity": parsed.object_complexity,
        "action_complexity": parsed.action_complexity,
    }
