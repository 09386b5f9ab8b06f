"""Read and list image shards, image records, rounds and rejected files in a working store or snapshot."""

from __future__ import annotations

import pyarrow as pa

from florence.records import IMAGES, RECORD_COLUMNS
from florence.store import Store

REJECTED_FILES = pa.schema([(name, pa.string()) for name in ("source", "name", "reason", "detail")])


def list_shards(store: Store) -> list[str]:
    """Return the names of the image shards, sorted."""
    return store.stems("images")


def list_rounds(store: Store) -> list[int]:
    """Return the rounds that have labels, in order."""
    return sorted({int(name.split("round=")[1].split("/")[0]) for name in store.names("labels", ".parquet")})


def next_round(*stores: Store) -> int:
    """Return the number after the last round that any of the stores has labels of; 0 where none has."""
    return max([-1, *(number for store in stores for number in list_rounds(store))]) + 1


def read_images(store: Store) -> pa.Table:
    """Return every image's record (columns `RECORD_COLUMNS`), without bytes."""
    return store.read_tables("images", IMAGES, RECORD_COLUMNS, older=True)


def read_rejected_files(store: Store) -> pa.Table:
    """Return the files that were rejected (schema `REJECTED_FILES`); an empty table where there are none."""
    name = "rejected_files.parquet"
    return store.read_table(name) if store.exists(name) else REJECTED_FILES.empty_table()
