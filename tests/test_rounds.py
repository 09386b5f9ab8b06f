"""Names of the labels' tables: today's, and those of the form before."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from florence.rounds import delete_older_names, find_labels, list_labels, list_rounds, name_labels, next_round
from florence.store import Store


def table(text: str) -> pa.Table:
    return pa.table({"text": [text]})


def test_labels_of_the_form_before_are_found_until_they_are_written_anew(tmp_path: Path):
    store = Store(str(tmp_path))
    assert list_rounds(store) == [] and next_round(store) == 0 and find_labels(store, 0) == name_labels(0)
    for number in (0, 2, 10):
        store.write_table(f"labels/round={number}/labels.parquet", table(f"old {number}"))
    store.write_table(name_labels(2), table("new 2"))
    store.write_table("labels/notes.parquet", table("none of ours"))
    assert list_rounds(store) == [0, 2, 10] and next_round(store) == 11
    read = {number: store.read_table(find_labels(store, number))["text"][0].as_py() for number in list_rounds(store)}
    assert read == {0: "old 0", 2: "new 2", 10: "old 10"}
    assert list(list_labels(store).values()) == [find_labels(store, number) for number in (0, 2, 10)]

    delete_older_names(store)
    assert not (tmp_path / "labels/round=2").exists() and store.exists(name_labels(2))
    assert store.exists("labels/notes.parquet"), "what is none of ours stays"
    assert list_rounds(store) == [0, 2, 10], "what exists under the older name alone stays"
