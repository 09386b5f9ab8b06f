"""Read and list image shards, image records and rejected files in a working store or snapshot."""

from __future__ import annotations

import pyarrow as pa

from florence.records import IMAGES, RECORD_COLUMNS
from florence.store import Store

ANCHOR = "anchor/scores.parquet"
"""Of a working store: scores of its first champion. Of a snapshot: the same, no rows where that is the champion."""
REJECTED_FILES = pa.schema([(name, pa.string()) for name in ("source", "name", "reason", "detail")])


def list_shards(store: Store) -> list[str]:
    """Return the names of the image shards, sorted."""
    return store.stems("images")


def read_images(store: Store) -> pa.Table:
    """Return every image's record (columns `RECORD_COLUMNS`), without bytes."""
    return store.read_tables("images", IMAGES, RECORD_COLUMNS, older=True)


def read_rejected_files(store: Store) -> pa.Table:
    """Return the files that were rejected (schema `REJECTED_FILES`); an empty table where there are none."""
    name = "rejected_files.parquet"
    return store.read_table(name) if store.exists(name) else REJECTED_FILES.empty_table()
