"""The tables that expectations check: a round's labels, regions and images as flat data frames.

Boxes, quads and polygons are flattened with Arrow and NumPy, so that a million labels take seconds; image bytes are
never read. docs/expectations.md explains every column.
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
from florence.rounds import find_labels
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
"""Table → the column that names a row in a message."""
_REPEATED = ["image_id", "task", "annotator", "version", "reason"]
"""Columns of few different texts: as categories they are filtered ten times as fast."""
OLDER = {"images": ("phash: string",)}
"""Columns that files of earlier versions lack; they are read as null there."""


def schema_table(store: Store, round: int) -> pd.DataFrame:
    """Return one row for each column (nested ones too) with its type.

    ``everywhere``: whether all files of its table have it with that type, or are read as if they had.
    """
    import pandas as pd

    rows = []
    for table, names in (
        ("images", store.names("images", ".parquet")),
        ("labels", [find_labels(store, round)]),
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
        store.read_table(name)  # raises an error that says what is wrong with the file
        raise
    return [line for field in schema for line in _leaves(field.name, field.type)]


def _leaves(path: str, column_type: pa.DataType) -> list[str]:
    """Return ``path: type``, with [] for each list and a line for every field of a struct."""
    if pa.types.is_list(column_type) or pa.types.is_large_list(column_type):
        return _leaves(f"{path}[]", column_type.value_type)
    if pa.types.is_struct(column_type):
        return [
            line
            for index in range(column_type.num_fields)
            for line in _leaves(f"{path}.{column_type.field(index).name}", column_type.field(index).type)
        ]
    return [f"{path}: {column_type}"]


def make_tables(settings: Settings, store: Store, round: int) -> dict[str, pd.DataFrame]:
    """Return every table but ``schema``, for the labels of ``round`` and the images in ``store``.

    They are compared with the labels of the round before.
    """
    images = read_images(store)
    labels = store.read_table(find_labels(store, round), ANNOTATIONS.names)
    before = find_labels(store, round - 1)
    parent = store.read_table(before, ["image_id", "task", "kept"]) if store.exists(before) else None
    return {
        "images": images.select(RECORD_COLUMNS).to_pandas(),
        "labels": _labels(labels, images),
        "regions": _regions(labels.filter(labels["kept"]), images),
        "annotation_types": _annotation_types(labels, parent, images),
        "training": _training(labels, images, settings),
    }


def _labels(labels: pa.Table, images: pa.Table) -> pd.DataFrame:
    flat = labels.drop_columns(["regions"])
    flat = flat.append_column("regions", pc.fill_null(pc.list_value_length(labels["regions"]), 0))
    flat = flat.append_column("known_image", pc.is_in(labels["image_id"], images["image_id"]))
    return flat.to_pandas(categories=_REPEATED)


# ---------------------------------------------------------------- regions


def _regions(labels: pa.Table, images: pa.Table) -> pd.DataFrame:
    """Return one row for each region of ``labels``: its label, its coordinates, and whether it is well formed."""
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
    for name, column in _coordinates(part, frame["width"].to_numpy(), frame["height"].to_numpy()).items():
        frame[name] = column
    frame["span_fits"] = _span_fits(part["span"], rows["text"])
    return frame


def _coordinates(part: dict[str, Any], width: np.ndarray, height: np.ndarray) -> dict[str, np.ndarray]:
    """Return bounds and shorter side of each region, and how far any coordinate is outside the image, in pixels.

    ``width``, ``height``: of each region's image, in pixels. NaN where a region has neither box, quad nor polygon.
    """
    (box, box_ok), (quad, quad_ok), (polygons, polygons_ok) = (
        _extent(part["box"], 4),
        _extent(part["quad"], 8),
        _polygon_extent(part["polygons"]),
    )
    has = {f"has_{name}": _lengths(part[name]) > 0 for name in ("box", "quad", "polygons")}
    beyond = [
        np.max([-e[:, 0], -e[:, 1], e[:, 2] - width, e[:, 3] - height, np.zeros(len(e))], axis=0)
        for e in (box, quad, polygons)
    ]
    # what a region does not have is not outside; a coordinate that is NaN stays NaN, so that an expectation finds it
    outside = np.max([np.where(owned, b, 0.0) for owned, b in zip(has.values(), beyond, strict=True)], axis=0)
    bounds = np.where(
        has["has_box"][:, None], _in_order(part["box"], box), np.where(has["has_quad"][:, None], quad, polygons)
    )
    x0, y0, x1, y1 = bounds.T
    return {
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "side": np.minimum(x1 - x0, y1 - y0),
        "outside": np.where(np.any(list(has.values()), axis=0), outside, np.nan),
        "well_formed": box_ok & quad_ok & polygons_ok,
        **has,
    }


def _whole(column: Any) -> Any:
    """Return the chunks of a column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _lengths(lists: pa.ListArray) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)


def _extent(lists: pa.ListArray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest x and y of each list x, y, x, y, … as (n, 4), and which lists are well formed (n,).

    The extent of an empty list is NaN. ``size``: number of values that a list must have, 0 for any even number from 6
    on.
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


def _polygon_extent(polygons: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for lists of polygons."""
    count = _lengths(polygons)
    result, ok = np.full((len(polygons), 4), np.nan), np.ones(len(polygons), bool)
    has = count > 0
    if has.any():
        polygon = _whole(pc.list_flatten(polygons))
        extent, whole = _extent(polygon, 0)
        starts = np.concatenate([[0], np.cumsum(count[has])[:-1]])
        result[has] = np.hstack(
            [np.minimum.reduceat(extent[:, :2], starts), np.maximum.reduceat(extent[:, 2:], starts)]
        )
        ok[has] = np.logical_and.reduceat(whole & (_lengths(polygon) > 0), starts)
    return result, ok


def _in_order(boxes: pa.ListArray, extent: np.ndarray) -> np.ndarray:
    """Return boxes as they are, so that inverted ones are found; the extent where a box has not four values."""
    four = _lengths(boxes) == 4
    result = extent.copy()
    if four.any():
        result[four] = pc.list_flatten(boxes.filter(pa.array(four))).to_numpy(zero_copy_only=False).reshape(-1, 4)
    return result


def _span_fits(spans: pa.ListArray, texts: pa.ChunkedArray) -> np.ndarray:
    """Return whether each span lies in its text and is not empty; true where there is no span."""
    length = _lengths(spans)
    result = length == 0
    two = length == 2
    if two.any():
        ends = pc.list_flatten(spans.filter(pa.array(two))).to_numpy(zero_copy_only=False).reshape(-1, 2)
        characters = pc.fill_null(pc.utf8_length(texts), 0).to_numpy()[two]
        result[two] = (ends[:, 0] >= 0) & (ends[:, 0] < ends[:, 1]) & (ends[:, 1] <= characters)
    return result


# ---------------------------------------------------------------- annotation types and training


def _annotation_types(labels: pa.Table, parent: pa.Table | None, images: pa.Table) -> pd.DataFrame:
    """Return one row for each annotation type: labels, drop rate, and the shift of kept labels per image.

    Fine-tuned types have a row where there are labels of them. The shift is relative to the round before; only
    sources that the round before had are compared, so that new ones shift nothing.
    """
    import pandas as pd

    there = set(pc.unique(labels["task"]).to_pylist())
    frame = pd.DataFrame({"task": [*BASE_TYPES, *(name for name in FINE_TUNED if name in there)]}).set_index("task")
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
    """Return the rows that training reads: kept labels of images in the split train.

    ``split``: the recorded split, of several the one least fit for training; ``split_by_hash``: the split by its
    hash.
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
