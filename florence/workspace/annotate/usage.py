"""What annotators have used that costs something, summed over all runs."""

from __future__ import annotations

from dataclasses import asdict

from florence.errors import StoreError
from florence.services.usage import Usage
from florence.store import REMEDY, Store
from florence.workspace.annotate.annotators import AnnotatorVersion


def read_usage(store: Store, annotator: AnnotatorVersion) -> Usage:
    """Return what ``annotator`` has used in all runs: the sum of ``usage/<name@version>/<shard>.json``."""
    files = [name for name in store.names(f"usage/{annotator.key}", ".json")]
    return sum((_read(store, name) for name in files), Usage())


def _read(store: Store, name: str) -> Usage:
    try:
        return Usage(**store.read_object(name))
    except TypeError as error:
        raise StoreError(f"{store.uri}/{name} is not what Florence writes ({error}); {REMEDY}") from None


class ShardUsage:
    """What an annotator has used for one shard.

    A shard has one worker at a time, so those of a cluster do not write over each other's files.
    """

    def __init__(self, store: Store, annotator: AnnotatorVersion, shard: str) -> None:
        self._store, self._name = store, f"usage/{annotator.key}/{shard}.json"
        self._used = _read(store, self._name) if store.exists(self._name) else Usage()

    def add(self, more: Usage) -> None:
        """Add ``more`` and write the sum, unless ``more`` is nothing."""
        if more != Usage():
            self._used += more
            self._store.write_json(self._name, asdict(self._used))
