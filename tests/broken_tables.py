"""Tables of a snapshot, and a way to break them for every expectation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from florence.config import settings_from
from florence.records import ANNOTATIONS, IMAGES
from florence.store import Store
from florence.workspace.collect import choose_split

SETTINGS = settings_from({"sources": {}, "annotators": {}})
ROUND = "labels/round-00001.parquet"
BEFORE = "labels/round-00000.parquet"


@dataclass
class Tables:
    """The rows of a snapshot's tables as plain dictionaries, to be broken."""

    images: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    before: list[dict[str, Any]]

    def of(self, task: str, kept: bool = True) -> list[dict[str, Any]]:
        return [row for row in self.labels if row["task"] == task and row["kept"] is kept]

    def write(self, folder: Path) -> Store:
        store = Store(str(folder))
        store.write_table("images/all-00000.parquet", pa.Table.from_pylist(self.images, schema=IMAGES))
        store.write_table(ROUND, pa.Table.from_pylist(self.labels, schema=ANNOTATIONS))
        store.write_table(BEFORE, pa.Table.from_pylist(self.before, schema=ANNOTATIONS))
        return store


def put(
    column: str, value: Any, table: str = "labels", kept: bool | None = None, task: str | None = None
) -> Callable[[Tables], None]:
    """Set ``column`` in the second row that is so (the first one's image is often not in the training split)."""

    def break_it(tables: Tables) -> None:
        rows = [
            r
            for r in getattr(tables, table)
            if (kept is None or r["kept"] is kept) and (task is None or r["task"] == task)
        ]
        rows[min(1, len(rows) - 1)][column] = value

    return break_it


def change_region(task: str, **values: Any) -> Callable[[Tables], None]:
    """Change a region of a kept label of ``task``."""

    def break_it(tables: Tables) -> None:
        tables.of(task)[-1]["regions"][0].update(values)

    return break_it


def twice(table: str) -> Callable[[Tables], None]:
    return lambda tables: getattr(tables, table).append(dict(getattr(tables, table)[1]))


def none_left(*tables: str) -> Callable[[Tables], None]:
    return lambda found: [getattr(found, table).clear() for table in tables] and None


def leak(tables: Tables) -> None:
    """Add a gold image that another shard has in the training split, as if two stores had collected the same file."""
    labelled = next(
        row["image_id"] for row in tables.labels if row["kept"] and choose_split(row["image_id"], SETTINGS) == "train"
    )
    image = next(row for row in tables.images if row["image_id"] == labelled)
    tables.images.append({**image, "split": "gold"})


def tampered(tables: Tables) -> None:
    for row in tables.images:
        row["split"] = "train"
    tables.images[0]["image_id"] = tables.labels[1]["image_id"] = next(
        f"{i:064x}" for i in range(999) if choose_split(f"{i:064x}", SETTINGS) == "held_out"
    )


def drop_all(task: str) -> Callable[[Tables], None]:
    return lambda tables: (
        [row.update(kept=False, reason="low_confidence") for row in tables.labels if row["task"] == task] and None
    )


def nothing_to_learn(tables: Tables) -> None:
    for row in tables.images:
        row["split"] = "gold"


BROKEN: dict[str, Callable[[Tables], None]] = {
    "images table_row_count_to_be_between": none_left("images"),
    **{
        f"images column_values_to_not_be_null {c}": put(c, None, "images")
        for c in ("image_id", "width", "height", "source", "name", "licence", "split")
    },
    "images column_values_to_be_unique image_id": twice("images"),
    "images column_values_to_match_regex image_id": put("image_id", "A" * 64, "images"),
    "images column_values_to_match_regex phash": put("phash", "f" * 16, "images"),
    "images column_values_to_be_between width": put("width", 0, "images"),
    "images column_values_to_be_between height": put("height", -3, "images"),
    "images column_value_lengths_to_be_between name": put("name", "", "images"),
    "images column_values_to_be_in_set split": put("split", "test", "images"),
    "labels table_row_count_to_be_between": none_left("labels"),
    **{
        f"labels column_values_to_not_be_null {c}": put(c, None)
        for c in ("annotation_id", "image_id", "task", "annotator", "version", "round", "text", "kept", "reason")
    },
    "labels column_values_to_be_unique annotation_id": twice("labels"),
    "labels column_values_to_be_in_set known_image": put("image_id", "f" * 64),
    "labels column_values_to_be_in_set task": put("task", "<REGION_PROPOSAL>"),
    "labels column_values_to_be_in_set annotator": put("annotator", "student"),
    "labels column_values_to_be_between round": put("round", 2),
    "labels column_values_to_match_regex text": put("text", " \n", kept=True),
    "labels column_values_to_be_between score": put("score", 1.7),
    "labels column_values_to_be_between confidence": put("confidence", -0.1),
    "labels column_values_to_be_between agreement": put("agreement", 1.5),
    "labels column_value_lengths_to_be_between reason": put("reason", "low_confidence", kept=True),
    "labels column_values_to_match_regex reason": put("reason", "", kept=False),
    "labels column_values_to_be_between regions": put(
        "regions", [{"label": "a", "box": [1.0, 1.0, 2.0, 2.0]}], kept=True, task="<CAPTION>"
    ),
    "labels column_values_to_be_between regions 2": put("regions", [], kept=True, task="<OD>"),
    "regions column_values_to_not_be_null outside": change_region("<OD>", box=None, polygons=[]),
    "regions column_values_to_be_between outside": change_region("<OD>", box=[4.0, 4.0, 9.0, 5000.0]),
    "regions column_values_to_be_between side": change_region("<OD>", box=[30.0, 30.0, 20.0, 40.0]),
    "regions column_values_to_be_in_set well_formed": change_region("<OD>", polygons=[[1.0, 1.0, 2.0, 2.0, 3.0]]),
    "regions column_values_to_be_in_set has_box": change_region(
        "<OD>", box=None, quad=[1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]
    ),
    "regions column_values_to_be_in_set has_quad": change_region(
        "<OCR_WITH_REGION>", quad=None, box=[1.0, 1.0, 9.0, 9.0]
    ),
    "regions column_values_to_be_in_set has_polygons": change_region(
        "<REFERRING_EXPRESSION_SEGMENTATION>", polygons=[], box=[1.0, 1.0, 9.0, 9.0]
    ),
    "regions column_values_to_be_in_set span_fits": change_region("<CAPTION_TO_PHRASE_GROUNDING>", span=[3, 999]),
    "regions column_values_to_match_regex label": change_region("<OD>", label=" "),
    "regions column_values_to_be_between score": change_region("<OD>", score=-1.0),
    "annotation_types column_values_to_be_between drop_rate": drop_all("<OD>"),
    "annotation_types column_values_to_be_between shift": drop_all("<OD>"),
    "training table_row_count_to_be_between": nothing_to_learn,
    "training column_values_to_be_in_set split": leak,
    "training column_values_to_be_in_set split_by_hash": tampered,
}
