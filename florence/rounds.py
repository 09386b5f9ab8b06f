"""The labels of each round in a working store or snapshot: one table a round, ``labels/round-00003.parquet``.

Form 2 had ``labels/round=3/labels.parquet``. Programs that read the whole folder took the folder's name for a second
column `round` and failed, so that is read, and no longer written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from florence.store import Store

FOLDER = "labels"
_NAME = re.compile(rf"{FOLDER}/round(?:-(\d+)|=(\d+)/labels)\.parquet")


def name_labels(round: int) -> str:
    """Return the name that the labels of a round are written under."""
    return f"{FOLDER}/round-{round:05d}.parquet"


def index_labels(names: Iterable[str]) -> dict[int, str]:
    """Return the tables of labels among ``names`` by their round, in order."""
    found: dict[int, str] = {}
    for name in sorted(names, reverse=True):  # "=" sorts above "-": a table of today's name counts
        if match := _NAME.fullmatch(name):
            found[int(match.group(1) or match.group(2))] = name
    return dict(sorted(found.items()))


def list_labels(store: Store) -> Mapping[int, str]:
    """Return the names of all tables of labels by their round, in order."""
    return index_labels(store.names(FOLDER, ".parquet"))


def find_labels(store: Store, round: int) -> str:
    """Return the name of a round's labels, the one they would have where there are none."""
    if store.exists(name := name_labels(round)):
        return name
    return list_labels(store).get(round, name)


def list_rounds(store: Store) -> list[int]:
    """Return the rounds that have labels, in order."""
    return list(list_labels(store))


def next_round(*stores: Store) -> int:
    """Return the number after the last round that any of the stores has labels of; 0 where none has."""
    return max([-1, *(number for store in stores for number in list_rounds(store))]) + 1


def delete_older_names(store: Store) -> None:
    """Remove the labels that are there under the name of form 2 as well as under today's."""
    for number, name in list_labels(store).items():
        if name == name_labels(number):
            store.delete(f"{FOLDER}/round={number}")
