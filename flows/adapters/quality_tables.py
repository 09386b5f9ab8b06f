"""What the expectations look at: a round's tables as flat data frames, one row a thing and one column a question.

Places are flattened with Arrow and NumPy, so that a million labels take seconds; image bytes are never read.
docs/expectations.md says what every column means.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from florence.config import Settings
from florence.records import ANNOTATIONS, BASE_TYPES, FINE_TUNED, RECORD_COLUMNS, SPLITS
from florence.store import Store
from florence.workspace.collect import choose_split
from florence.workspace.layout import read_images

if TYPE_CHECKING:
    import pandas as pd

TABLES: dict[str, str] = {
    "schema": "column",
    "images": "image_id",
    "labels": "annotation_id",
    "regions": "annotation_id",
    "annotation_types": "task",
    "training": "annotation_id",
}
"""The tables, each with the column that names a row in a message."""
_REPEATED = ["image_id", "task", "annotator", "version", "reason"]
"""Columns of few different texts: as categories they are filtered an order of magnitude faster."""
OLDER = {"images": ("phash: string",)}
"""Columns that files of earlier versions lack, and that are read as null there."""


def schema_table(store: Store, round: int) -> pd.DataFrame:
    """One row for each column (nested ones too) with its type; ``everywhere``: whether all files of its table have it so, or are read as if they had."""
    import pandas as pd

    rows = []
    for table, names in (
        ("images", store.names("images", ".parquet")),
        ("labels", [f"labels/round={round}/labels.parquet"]),
    ):
        found: Counter[str] = Counter()
        for name in names:
            found.update(list(dict.fromkeys((*_columns(store, name), *OLDER.get(table, ())))))
        rows += [
            {"column": f"{table}.{column}", "files": count, "everywhere": count == len(names)}
            for column, count in found.items()
        ]
    return pd.DataFrame(rows, columns=["column", "files", "everywhere"])


def _columns(store: Store, name: str) -> list[str]:
    try:
        schema = pq.read_schema(store.path(name), filesystem=None if store.local else store.fs)
    except Exception:
        store.read_table(name)  # says in plain words what is wrong with the file
        raise
    return [line for field in schema for line in _leaves(field.name, field.type)]


def _leaves(path: str, kind: pa.DataType) -> list[str]:
    """``path: type``, with [] for each list and a line for every field of a struct."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _leaves(f"{path}[]", kind.value_type)
    if pa.types.is_struct(kind):
        return [
            line
            for index in range(kind.num_fields)
            for line in _leaves(f"{path}.{kind.field(index).name}", kind.field(index).type)
        ]
    return [f"{path}: {kind}"]


def tables(settings: Settings, store: Store, round: int) -> dict[str, pd.DataFrame]:
    """Every table but ``schema``, for the labels of ``round`` and the images in ``store``; the round before is the one compared with."""
    images = read_images(store)
    labels = store.read_table(f"labels/round={round}/labels.parquet", ANNOTATIONS.names)
    before = f"labels/round={round - 1}/labels.parquet"
    parent = store.read_table(before, ["image_id", "task", "kept"]) if store.exists(before) else None
    return {
        "images": images.select(RECORD_COLUMNS).to_pandas(),
        "labels": _labels(labels, images),
        "regions": _regions(labels.filter(labels["kept"]), images),
        "annotation_types": _kinds(labels, parent, images),
        "training": _training(labels, images, settings),
    }


def _labels(labels: pa.Table, images: pa.Table) -> pd.DataFrame:
    flat = labels.drop_columns(["regions"])
    flat = flat.append_column("regions", pc.fill_null(pc.list_value_length(labels["regions"]), 0))
    flat = flat.append_column("known_image", pc.is_in(labels["image_id"], images["image_id"]))
    return flat.to_pandas(categories=_REPEATED)


# ---------------------------------------------------------------- places


def _regions(labels: pa.Table, images: pa.Table) -> pd.DataFrame:
    """One row for each region of ``labels``: whose it is, where it lies, and whether it is well formed."""
    lists = _whole(labels["regions"])
    region = pc.list_flatten(lists)
    part = {
        name: _whole(pc.struct_field(region, [name])) for name in ("label", "box", "quad", "polygons", "score", "span")
    }
    rows = labels.select(["annotation_id", "image_id", "task", "text"]).take(pc.list_parent_indices(lists))
    at = pc.index_in(rows["image_id"], images["image_id"])
    frame = rows.drop_columns(["text"]).to_pandas(categories=["image_id", "task"])
    frame["label"], frame["score"] = part["label"].to_pandas(), part["score"].to_numpy(zero_copy_only=False)
    for name in ("width", "height"):
        frame[name] = images[name].take(at).to_numpy().astype(float)
    for name, column in _places(part, frame["width"].to_numpy(), frame["height"].to_numpy()).items():
        frame[name] = column
    frame["span_fits"] = _span_fits(part["span"], rows["text"])
    return frame


def _places(part: dict[str, Any], width: np.ndarray, height: np.ndarray) -> dict[str, np.ndarray]:
    """Bounds of each region, its shorter side, and how far any of its coordinates is outside the image; NaN where there is no place."""
    (box, box_ok), (quad, quad_ok), (outlines, outlines_ok) = (
        _extent(part["box"], 4),
        _extent(part["quad"], 8),
        _outlines(part["polygons"]),
    )
    has = {f"has_{name}": _lengths(part[name]) > 0 for name in ("box", "quad", "polygons")}
    beyond = [
        np.max([-e[:, 0], -e[:, 1], e[:, 2] - width, e[:, 3] - height, np.zeros(len(e))], axis=0)
        for e in (box, quad, outlines)
    ]
    # a place that a region does not have is nowhere outside; a coordinate that is no number stays one, to be seen
    outside = np.max([np.where(owned, b, 0.0) for owned, b in zip(has.values(), beyond, strict=True)], axis=0)
    bounds = np.where(
        has["has_box"][:, None], _in_order(part["box"], box), np.where(has["has_quad"][:, None], quad, outlines)
    )
    x0, y0, x1, y1 = bounds.T
    return {
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "side": np.minimum(x1 - x0, y1 - y0),
        "outside": np.where(np.any(list(has.values()), axis=0), outside, np.nan),
        "well_formed": box_ok & quad_ok & outlines_ok,
        **has,
    }


def _whole(column: Any) -> Any:
    """One array of a column's chunks."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _lengths(lists: pa.ListArray) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)


def _extent(lists: pa.ListArray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest x and y of each list of x, y, x, y, … as (n, 4), NaN where there is none; and which lists are well formed.

    ``size``: the number of values that a list must have, 0 for any even number from 6 on.
    """
    length = _lengths(lists)
    ok = (length == size) if size else (length >= 6) & (length % 2 == 0)
    result = np.full((len(lists), 4), np.nan)
    usable = (length > 0) & (length % 2 == 0)
    if usable.any():
        values = (
            pc.list_flatten(lists.filter(pa.array(usable))).to_numpy(zero_copy_only=False).astype(float).reshape(-1, 2)
        )
        starts = np.concatenate([[0], np.cumsum(length[usable] // 2)[:-1]])
        result[usable] = np.hstack([np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)])
    return result, ok | (length == 0)


def _outlines(polygons: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """The same for lists of outlines."""
    count = _lengths(polygons)
    result, ok = np.full((len(polygons), 4), np.nan), np.ones(len(polygons), bool)
    has = count > 0
    if has.any():
        outline = _whole(pc.list_flatten(polygons))
        extent, whole = _extent(outline, 0)
        starts = np.concatenate([[0], np.cumsum(count[has])[:-1]])
        result[has] = np.hstack(
            [np.minimum.reduceat(extent[:, :2], starts), np.maximum.reduceat(extent[:, 2:], starts)]
        )
        ok[has] = np.logical_and.reduceat(whole & (_lengths(outline) > 0), starts)
    return result, ok


def _in_order(boxes: pa.ListArray, extent: np.ndarray) -> np.ndarray:
    """Boxes with their corners as they stand, so that an inverted one is seen; the extent where a box has not four values."""
    four = _lengths(boxes) == 4
    result = extent.copy()
    if four.any():
        result[four] = pc.list_flatten(boxes.filter(pa.array(four))).to_numpy(zero_copy_only=False).reshape(-1, 4)
    return result


def _span_fits(spans: pa.ListArray, texts: pa.ChunkedArray) -> np.ndarray:
    """Whether each span lies in its text and is not empty; true where there is no span."""
    length = _lengths(spans)
    result = length == 0
    two = length == 2
    if two.any():
        ends = pc.list_flatten(spans.filter(pa.array(two))).to_numpy(zero_copy_only=False).reshape(-1, 2)
        characters = pc.fill_null(pc.utf8_length(texts), 0).to_numpy()[two]
        result[two] = (ends[:, 0] >= 0) & (ends[:, 0] < ends[:, 1]) & (ends[:, 1] <= characters)
    return result


# ---------------------------------------------------------------- kinds and training


def _kinds(labels: pa.Table, parent: pa.Table | None, images: pa.Table) -> pd.DataFrame:
    """One row a kind (of those that are fine-tuned, where there are labels): labels, how many are dropped, kept labels per image, and how far that is from the round before.

    Only sources that the round before had are compared, so that new ones shift nothing.
    """
    import pandas as pd

    there = set(pc.unique(labels["task"]).to_pylist())
    frame = pd.DataFrame({"task": [*BASE_TYPES, *(kind for kind in FINE_TUNED if kind in there)]}).set_index("task")
    frame["labels"] = _counted(labels)
    frame["kept"] = _counted(labels.filter(labels["kept"]))
    frame["drop_rate"] = (1 - frame["kept"] / frame["labels"]).where(frame["labels"] > 0)
    if parent is None:
        frame["kept_before"], frame["shift"] = 0, np.nan
        return frame.reset_index()
    sources = pc.unique(_source(parent, images))
    same = labels.filter(pc.is_in(_source(labels, images), sources))
    kept = parent.filter(parent["kept"])
    frame["kept_before"] = _counted(kept)
    now = _counted(same.filter(same["kept"])) / max(pc.count_distinct(same["image_id"]).as_py(), 1)
    then = _counted(kept) / max(pc.count_distinct(parent["image_id"]).as_py(), 1)
    frame["shift"] = ((now - then).abs() / then).where(then > 0)
    return frame.reset_index()


def _counted(labels: pa.Table) -> pd.Series:
    return labels["task"].to_pandas().value_counts().reindex([*BASE_TYPES, *FINE_TUNED], fill_value=0)


def _source(labels: pa.Table, images: pa.Table) -> pa.ChunkedArray:
    return images["source"].take(pc.index_in(labels["image_id"], images["image_id"]))


def _training(labels: pa.Table, images: pa.Table, settings: Settings) -> pd.DataFrame:
    """The rows that training reads: kept labels of images in the split train.

    ``split``: where else the image is named, the split least fit for training; ``split_by_hash``: what its hash says.
    """
    recorded: dict[str, str] = {}
    for image_id, split in zip(images["image_id"].to_pylist(), images["split"].to_pylist(), strict=True):
        recorded[image_id] = max(
            recorded.get(image_id, "train"), split, key=lambda s: SPLITS.index(s) if s in SPLITS else len(SPLITS)
        )
    training = images.filter(pc.equal(images["split"], "train"))["image_id"]
    rows = labels.select(["annotation_id", "image_id", "task"]).filter(
        pc.and_(labels["kept"], pc.is_in(labels["image_id"], training))
    )
    frame = rows.to_pandas(categories=["image_id", "task"])
    hashed = {image_id: choose_split(image_id, settings) for image_id in pc.unique(rows["image_id"]).to_pylist()}
    frame["split"], frame["split_by_hash"] = frame["image_id"].map(recorded), frame["image_id"].map(hashed)
    return frame
