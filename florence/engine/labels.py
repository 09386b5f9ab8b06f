"""Labels as columns, and back to a table of annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.engine.claims import NO_SPAN
from florence.engine.polygon_lists import POLYGONS
from florence.records import ANNOTATION_TYPES, ANNOTATIONS, REGION, annotation_ids

_BODY = pa.schema(
    [ANNOTATIONS.field(name) for name in ("text", "regions", "score", "confidence", "agreement", "kept", "reason")]
)
"""The columns that do not follow from the order of the rows."""


@dataclass(frozen=True)
class Labels:
    """n labels of one annotation type, and their m regions: those of a row come after those of the row before.

    ``image``: (n,) index; ``text``: n strings; ``score``, ``confidence``: (n,), NaN where none; ``reason``: n strings,
    empty where the row is kept; ``count``: (n,) regions of each row; ``order``: (n, k), what the rows of one image are
    ordered by. ``label``: m strings; ``box``: (m, 4), ``quad``: (m, 8), NaN where none; ``polygons``: Arrow;
    ``region_score``: (m,); ``span``: (m, 2), -1 where none; ``keep_polygons``: (m,) regions whose polygons must stay as
    they are, None for none. ``agreement``: (n,), see `florence.records.Annotation`, NaN where none; None for none at
    all.
    """

    annotation_type: int
    image: np.ndarray
    text: Sequence[str]
    score: np.ndarray
    confidence: np.ndarray
    reason: Sequence[str]
    count: np.ndarray
    label: Sequence[str]
    box: np.ndarray
    quad: np.ndarray
    polygons: pa.ListArray
    region_score: np.ndarray
    span: np.ndarray
    order: np.ndarray
    keep_polygons: np.ndarray | None = None
    agreement: np.ndarray | None = None


def build_labels_table(
    parts: Sequence[Labels], images: Sequence[str], annotator: str, version: str, round: int
) -> pa.Table:
    """Return a table of schema `ANNOTATIONS`, ordered by image, type and `Labels.order`; ids follow from the order."""
    image = np.concatenate([np.zeros(0, np.int64), *(part.image for part in parts)])
    code = np.repeat([part.annotation_type for part in parts], [len(part.image) for part in parts]).astype(np.int64)
    wide = max([part.order.shape[1] for part in parts], default=0)
    keys = [
        np.concatenate([part.order[:, k] if k < part.order.shape[1] else np.zeros(len(part.image)) for part in parts])
        for k in reversed(range(wide))
    ]
    order = np.lexsort((*keys, code, image))
    body = pa.concat_tables([_BODY.empty_table(), *(_body(part) for part in parts)]).take(order)
    image, code = image[order], code[order]
    columns = {
        "annotation_id": pa.array(_ids(image, code, images, annotator, version), pa.string()),
        "image_id": pa.array(images, pa.string()).take(pa.array(image)),
        "task": pa.array(ANNOTATION_TYPES, pa.string()).take(pa.array(code)),
        "annotator": pa.array([annotator] * len(image), pa.string()),
        "version": pa.array([version] * len(image), pa.string()),
        "round": pa.array(np.full(len(image), round, np.int32)),
        **{name: body[name] for name in body.column_names},
    }
    return pa.table({name: columns[name] for name in ANNOTATIONS.names}, schema=ANNOTATIONS).combine_chunks()


def _ids(image: np.ndarray, code: np.ndarray, images: Sequence[str], annotator: str, version: str) -> list[str]:
    """Ids by the order within each image and annotation type; the rows are ordered by both."""
    new = np.r_[True, (image[1:] != image[:-1]) | (code[1:] != code[:-1])][: len(image)]
    first = np.maximum.accumulate(np.where(new, np.arange(len(image)), 0)) if len(image) else new
    index = np.arange(len(image)) - first
    return annotation_ids(
        map(images.__getitem__, image.tolist()),
        map(ANNOTATION_TYPES.__getitem__, code.tolist()),
        annotator,
        version,
        index.tolist(),
    )


def _body(part: Labels) -> pa.Table:
    """The columns of `_BODY`."""
    regions = pa.StructArray.from_arrays(
        [
            pa.array(part.label, pa.string()),
            _lists(part.box),
            _lists(part.quad),
            part.polygons.cast(POLYGONS),
            _nullable(part.region_score),
            _lists(np.where(part.span == NO_SPAN, np.nan, part.span)).cast(pa.list_(pa.int32())),
        ],
        fields=list(REGION),
    )
    offsets = np.r_[0, np.cumsum(part.count)].astype(np.int32)
    reasons = pa.array(part.reason, pa.string())
    return pa.table(
        {
            "text": pa.array(part.text, pa.string()),
            "regions": pa.ListArray.from_arrays(pa.array(offsets), regions),
            "score": _nullable(part.score),
            "confidence": _nullable(part.confidence),
            "agreement": _nullable(np.full(len(part.image), np.nan) if part.agreement is None else part.agreement),
            "kept": pc.equal(reasons, ""),
            "reason": reasons,
        },
        schema=_BODY,
    )


def _nullable(values: np.ndarray) -> pa.Array:
    """Numbers, null where NaN."""
    return pa.array(values.astype(float), pa.float64(), mask=np.isnan(values))


def _lists(values: np.ndarray) -> pa.Array:
    """Rows of (m, k) as lists, null where a row is NaN."""
    present = ~np.isnan(values).any(axis=1)
    offsets = np.r_[0, np.cumsum(present * values.shape[1])].astype(np.int32)
    # Arrow marks a null list by a null offset; the list before it ends where the next one starts
    marks = pa.array(offsets, pa.int32(), mask=np.r_[~present, False])
    return pa.ListArray.from_arrays(marks, pa.array(values[present].reshape(-1).astype(float), pa.float64()))
