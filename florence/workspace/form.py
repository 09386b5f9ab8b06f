"""The form of snapshots and working stores, and the refusal of what another version of Florence made.

Form 3 (`FORMAT`) is what this version writes. Form 2 differs in the names of the labels' tables alone
(`florence.rounds`) and is read. Form 1 had no number: since form 2, `annotator` and `confidence` are columns of claims
and labels, declarations are in ``annotators/``, rejected files in ``rejected_files.parquet``.
"""

from __future__ import annotations

from florence.errors import NewerFormatError, OldFormatError
from florence.store import Store

FORMAT = 3
"""The key ``format`` of snapshot.json."""
OLDEST = 2
"""The oldest form that is read."""
MARK = "form.json"
"""The file that says which form a working store has."""
OLD_FILES = ("authors", "set_aside.parquet")
"""Folder and file that only form 1 has."""
OLD_COLUMN = "author"
"""A column of claims that only form 1 has."""


def check_snapshot(data: Store) -> None:
    """Raise OldFormatError where the snapshot's form is older than `OLDEST`, NewerFormatError where it is newer.

    A folder without snapshot.json is checked as a store is. Raises StoreError for one that Florence has not written.
    """
    if not data.exists("snapshot.json"):
        check_store(data)
        return
    where, snapshot = f"{data.uri}/snapshot.json", data.read_object("snapshot.json")
    found = snapshot.get("format", 1)
    if not isinstance(found, int) or found < OLDEST:
        raise OldFormatError(where, f"its format is {found}, and {OLDEST} to {FORMAT} are read")
    if found > FORMAT:
        raise NewerFormatError(where, f"its format is {found}, and {OLDEST} to {FORMAT} are read")
    data.read_object("snapshot.json", "id", "round")


def mark_store(store: Store) -> None:
    """Write into a working store which form it has, for later versions of Florence and for earlier ones."""
    if not store.exists(MARK) or store.read_json(MARK) != {"format": FORMAT}:
        store.write_json(MARK, {"format": FORMAT})


def check_store(store: Store) -> None:
    """Raise OldFormatError where a working store holds what only form 1 has, NewerFormatError by its mark.

    An empty one passes.
    """
    if store.exists(MARK):
        found = store.read_object(MARK).get("format", FORMAT)
        if isinstance(found, int) and found > FORMAT:
            raise NewerFormatError(f"{store.uri}/{MARK}", f"its format is {found}, and {FORMAT} is read")
    for name in OLD_FILES:
        if store.exists(name):
            raise OldFormatError(f"{store.uri}/{name}", "this version writes no such thing")
    for name in store.names("claims", ".parquet")[:1]:
        if OLD_COLUMN in store.footer(name).schema.names:
            raise OldFormatError(f"{store.uri}/{name}", f"column {OLD_COLUMN!r}")
