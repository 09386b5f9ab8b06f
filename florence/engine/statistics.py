"""A snapshot in the terms of the Florence-2 paper's Tables 2 and 3: how much of each kind there is, and what texts are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.engine.claims import sizes
from florence.engine.parse import Parsed, parse
from florence.engine.wording.tokens import tokenize
from florence.records import ANNOTATION_TYPES, CAPTIONS, digest

SAMPLE = 1000
"""Texts of a kind that are parsed at most."""
BINS = 10
RATIO = 4.0
"""Aspect ratios are told from 1 / RATIO to RATIO; the first and last bin have what is beyond."""
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"


def statistics(labels: pa.Table, images: pa.Table) -> dict[str, Any]:
    """Figures of the kept labels of ``images``: ``kinds`` and ``triplets`` (Table 2) and ``texts`` (Table 3), kind by kind; kinds without labels are left out.

    Table 2: images that have labels, texts, regions; tokens are words. Table 3: means per text; a text's complexity is that of its most complex
    object or action. ``triplets``: the phrases with a place by the kind of the text that they are in, the briefest where it is of several. Of more than `SAMPLE` distinct texts of a kind so many are parsed, drawn by their hash; ``parsed`` says how many. ``ungrounded``: texts of which
    no phrase has a place. ``boxes``: the shares of the objects' boxes in `BINS` bins by area, aspect ratio and centre.
    """
    kept = labels.filter(pc.and_(labels["kept"], pc.is_in(labels["image_id"], images["image_id"].combine_chunks())))
    by_task = {task: kept.filter(pc.equal(kept["task"], task)) for task in ANNOTATION_TYPES}
    return {
        "kinds": {task: _kind(task, rows) for task, rows in by_task.items() if len(rows)},
        "triplets": {task: _kind(GROUNDING, rows) for task, rows in _by_text(by_task).items() if len(rows)},
        "texts": {task: _texts(by_task[task], by_task[GROUNDING]) for task in CAPTIONS if len(by_task[task])},
        "boxes": _boxes(by_task["<OD>"], images),
    }


def _boxes(rows: pa.Table, images: pa.Table) -> dict[str, dict[str, list[float]]]:
    """For each measure the ``edges`` of its bins and the ``shares`` of the boxes in them; nothing without boxes.

    ``area`` in shares of the image, in bins that are even by its square root; ``aspect_ratio``, width over height, even by its logarithm; ``centre_x`` and ``centre_y`` in
    shares of the image's sides.
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
    size = sizes(images)[image]
    side = np.maximum(box[:, 2:] - box[:, :2], 1e-9)
    centre = (box[:, :2] + box[:, 2:]) / 2 / size
    even = np.linspace(0, 1, BINS + 1)
    measures = {
        "area": (np.prod(side / size, axis=1), even**2),
        "aspect_ratio": (side[:, 0] / side[:, 1], RATIO ** (2 * even - 1)),
        "centre_x": (centre[:, 0], even),
        "centre_y": (centre[:, 1], even),
    }
    return {name: _histogram(values, edges) for name, (values, edges) in measures.items()}


def _histogram(values: np.ndarray, edges: np.ndarray) -> dict[str, list[float]]:
    bins = np.searchsorted(edges[1:-1], values, side="right")
    return {
        "edges": np.round(edges, 4).tolist(),
        "shares": np.round(np.bincount(bins, minlength=BINS) / len(values), 4).tolist(),
    }


def _kind(task: str, rows: pa.Table) -> dict[str, float | int | None]:
    images = len(rows["image_id"].unique())
    texts = rows["text"].to_pylist()
    if task == GROUNDING:
        texts = [text for _, text in sorted(set(zip(rows["image_id"].to_pylist(), texts, strict=True)))]
    told = task in CAPTIONS or task == GROUNDING
    result: dict[str, float | int | None] = {
        "images": images,
        "texts": len(texts),
        "tokens_per_text": _mean(texts) if told else None,
        "regions": None,
        "regions_per_image": None,
        "tokens_per_region": None,
    }
    if task not in CAPTIONS:
        regions = rows["regions"].combine_chunks().flatten()
        result["regions"] = len(regions)
        result["regions_per_image"] = round(len(regions) / images, 4)
        result["tokens_per_region"] = _mean(regions.field("label").to_pylist()) if len(regions) else None
    return result


def _by_text(by_task: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Of each kind of text the phrases that are in one, which has the same image and words."""

    def key(rows: pa.Table) -> pa.ChunkedArray:
        return pc.binary_join_element_wise(rows["image_id"], rows["text"], "\n")

    result, rest = {}, by_task[GROUNDING]
    for task in CAPTIONS:
        mine = pc.is_in(key(rest), value_set=key(by_task[task]).combine_chunks())
        result[task], rest = rest.filter(mine), rest.filter(pc.invert(mine))
    return result


def _mean(texts: Sequence[str]) -> float:
    """Words of a text, on average."""
    counts = {text: sum(any(c.isalnum() for c in word) for word in tokenize(text).words) for text in set(texts)}
    return round(sum(counts[text] for text in texts) / len(texts), 4)


def _texts(rows: pa.Table, phrases: pa.Table) -> dict[str, float | int]:
    texts = rows["text"].to_pylist()
    grounded = set(zip(phrases["image_id"].to_pylist(), phrases["text"].to_pylist(), strict=True))
    without = sum(pair not in grounded for pair in zip(rows["image_id"].to_pylist(), texts, strict=True))
    chosen = sorted(set(texts), key=lambda text: (digest(text.encode()), text))[:SAMPLE]
    found = parse(chosen)
    return {
        name: round(float(np.mean([_figures(parsed)[name] for parsed in found])), 4) for name in _figures(found[0])
    } | {"parsed": len(found), "ungrounded": without}


def _figures(parsed: Parsed) -> dict[str, int]:
    return {
        "objects": len(parsed.objects),
        "attributes": len(parsed.attributes),
        "actions": len(parsed.actions),
        "proper_nouns": len(parsed.proper_nouns),
        "object_complexity": parsed.object_complexity,
        "action_complexity": parsed.action_complexity,
    }
