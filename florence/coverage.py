"""What was looked for in each image: it tells an image in which nothing is from one that nobody has looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from florence.records import ANNOTATION_TYPES, HUMAN
from florence.store import Store

COVERAGE = pa.schema(
    [
        ("image_id", pa.string()),
        ("annotator", pa.string()),
        ("version", pa.string()),
        ("claims", pa.int32()),
        ("error", pa.string()),
        ("unread", pa.string()),
        ("looked_at", pa.string()),
    ]
)
"""``unread``: names, with commas between them, of the annotators it depends on that had not finished the image by then.

Null: all had. ``looked_at``: annotation types, with commas between them, that the image was looked at for. Null: all
that the annotator claims; older tables have no such column.
"""
OBJECTS = "<OD>"
NOTHING: frozenset[str] = frozenset()


def find_looked_at(data: Store, round: int, labels: str) -> dict[str, frozenset[str]]:
    """Return the annotation types that each image of a snapshot was looked at for, by image id.

    ``labels``: the table of labels of the round. An image was looked at for a type by an annotator that claims the
    type, finished the image without an error, and does not say that it looked for other types alone; not to be asked,
    or to have no labels of it, is such an error. A label of the round, kept or not, shows the same. The coverage is
    that of the snapshot's own round; of an earlier round, the labels alone tell.
    """
    found: dict[str, frozenset[str]] = {}
    joined: dict[tuple[frozenset[str], frozenset[str]], frozenset[str]] = {}
    for image_id, types in _list_looks(data, round, labels):
        pair = found.get(image_id, NOTHING), types
        found[image_id] = joined.setdefault(pair, pair[0] | pair[1])
    return found


def find_looks(row: Mapping[str, Any], types: frozenset[str]) -> frozenset[str]:
    """Return the annotation types that a row of coverage says its image was looked at for.

    ``types``: all that its annotator claims. An image that was finished with an error was looked at for none.
    """
    if row["error"]:
        return frozenset()
    return types if row["looked_at"] is None else types.intersection(row["looked_at"].split(","))


def read_looks(data: Store, key: str) -> dict[str, frozenset[str]]:
    """Return the images (ids) that an annotator of a snapshot, ``name@version``, looked at, by annotation type."""
    looked: dict[str, set[str]] = {}
    table = data.read_tables(f"coverage/{key}", COVERAGE, ["image_id", "error", "looked_at"], older=True)
    types = _read_types(data, key)
    for row in table.to_pylist():
        for one in find_looks(row, types):
            looked.setdefault(one, set()).add(row["image_id"])
    return {one: frozenset(images) for one, images in looked.items()}


def _list_looks(data: Store, round: int, labels: str) -> Iterator[tuple[str, frozenset[str]]]:
    pairs = data.read_table(labels, ["image_id", "task"]).group_by(["image_id", "task"]).aggregate([])
    single = {name: frozenset([name]) for name in ANNOTATION_TYPES}
    for image_id, task in zip(pairs["image_id"].to_pylist(), pairs["task"].to_pylist(), strict=True):
        yield image_id, single.get(task, NOTHING)
    for key in _list_annotators(data, round):
        if types := _read_types(data, key):
            table = data.read_tables(f"coverage/{key}", COVERAGE, ["image_id", "error", "looked_at"], older=True)
            for row in table.to_pylist():
                if looks := find_looks(row, types):
                    yield row["image_id"], looks


def _list_annotators(data: Store, round: int) -> list[str]:
    """Return ``name@version`` of the annotators of the snapshot's round; of all that are there, if it does not say."""
    snapshot: Mapping[str, object] = data.read_object("snapshot.json") if data.exists("snapshot.json") else {}
    if snapshot.get("round", round) != round:
        return []
    named = snapshot.get("annotators")
    if isinstance(named, dict):
        return [f"{name}@{version}" for name, version in named.items()]
    return sorted({name.split("/")[1] for name in data.names("coverage", ".parquet")})


def _read_types(data: Store, key: str) -> frozenset[str]:
    """Return the annotation types that an annotator looks for; none for a ranker, which scores others' texts.

    One that knows no name of an object, as a data set of captions, looks for no objects. People are shown objects, and
    of the rest only what there is.
    """
    if key.rpartition("@")[0] == HUMAN:
        return frozenset([OBJECTS])
    if not data.exists(name := f"annotators/{key}.json"):
        return frozenset(ANNOTATION_TYPES)
    declared = data.read_object(name, "role", "tasks", "vocabulary")
    types = NOTHING if declared["role"] == "ranker" else frozenset(declared["tasks"])
    return types - {OBJECTS} if declared["vocabulary"] == [] else types
