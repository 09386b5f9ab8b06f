"""The form of snapshots and working stores, and the refusal of what an older version of Florence made.

Form 2 (`FORMAT`) is what this version writes: `annotator` and `confidence` are columns of claims and labels,
declarations are in ``annotators/``, rejected files in ``rejected_files.parquet``. Form 1 had no number.
"""

from __future__ import annotations

from florence.errors import OldFormatError
from florence.store import Store

FORMAT = 2
"""The key ``format`` of snapshot.json."""
OLD_FILES = ("authors", "set_aside.parquet")
"""Folder and file that only form 1 has."""
OLD_COLUMN = "author"
"""A column of claims that only form 1 has."""


def check_snapshot(data: Store) -> None:
    """Raise OldFormatError where the snapshot was not made in form `FORMAT`.

    A folder without snapshot.json is checked as a store is.
    """
    if not data.exists("snapshot.json"):
        check_store(data)
    elif (found := data.read_json("snapshot.json").get("format", 1)) != FORMAT:
        raise OldFormatError(f"{data.uri}/snapshot.json", f"its format is {found}, and {FORMAT} is read")


def check_store(store: Store) -> None:
    """Raise OldFormatError where a working store holds what only form 1 has; an empty one passes."""
    for name in OLD_FILES:
        if store.exists(name):
            raise OldFormatError(f"{store.uri}/{name}", "this version writes no such thing")
    for name in store.names("claims", ".parquet")[:1]:
        if OLD_COLUMN in store.footer(name).schema.names:
            raise OldFormatError(f"{store.uri}/{name}", f"column {OLD_COLUMN!r}")
