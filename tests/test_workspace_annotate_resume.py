"""Annotation that was interrupted and resumed: the store ends with the same bytes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import fake_annotators
import pyarrow as pa
import pytest
from annotation_runs import (
    annotate_all,
    copy_store,
    count_left,
    fail_images,
    list_names,
    make_settings,
    raise_at,
    read_written,
)
from fake_annotators import BEFORE, CALLS, annotator_section, list_asked_images
from workspaces import workspace_of

from florence.errors import UnavailableError
from florence.services.usage import Usage
from florence.store import Store
from florence.workspace.annotate import list_annotators, read_usage, shard
from florence.workspace.fuse import fuse_round
from florence.workspace.publish import publish_snapshot, restore_store

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("fake_annotator")


# ---------------------------------------------------------------- broken off and resumed


KILLED = """
import os, signal, sys
import fake_annotators
from florence.config import settings_from
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators, shard
from workspaces import workspace_of

uri, values, name = eval(sys.argv[1])
shard.EVERY = 0
def before(self, batch):
    if name in [record.name for record in batch.records]:
        os.kill(os.getpid(), signal.SIGKILL)
with fake_annotators.fake_annotator_registered():
    fake_annotators.BEFORE["b"] = before
    chosen = settings_from(values)
    annotate_shard(workspace_of(chosen, Store(uri)), list_annotators(chosen), "scenes-00000")
"""


def test_killed_in_the_middle_it_ends_with_the_same_bytes(store: Store, collected: Path, tmp_path: Path):
    chosen = make_settings(
        {
            "a": annotator_section(batch_size=2, price=7),
            "b": annotator_section(batch_size=2, needs=["truth"]),
            "reader": annotator_section(needs=["claims", "pixels"], batch_size=1),
        }
    )
    values = chosen.model_dump(mode="json")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, repr((store.uri, values, list_names(store)[7]))],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == -9, done.stderr
    assert count_left(chosen, store) == {"a": 2, "b": 4, "reader": 4} and read_usage(
        store, list_annotators(chosen)[0]
    ) == Usage(4, 56, pytest.approx(0.056))
    annotate_all(chosen, store)
    assert (list_asked_images("a"), list_asked_images("b")) == (list_names(store)[8:], list_names(store)[6:])
    assert read_usage(store, list_annotators(chosen)[0]) == Usage(5, 70, pytest.approx(0.07))
    whole = copy_store(collected, tmp_path / "whole")
    annotate_all(chosen, whole)
    assert read_written(whole) == read_written(store)


def test_what_a_killed_write_left_behind_is_dropped(store: Store):
    chosen = make_settings({"a": annotator_section(), "b": annotator_section(needs=[])})
    annotate_all(chosen, store)
    before, annotator = read_written(store), list_annotators(chosen)[0]
    file = store.names("coverage/" + annotator.key)[0]
    store.write_table(file, store.read_table(file).slice(0, 4))
    BEFORE["a"] = raise_at(UnavailableError("down"))
    annotate_all(chosen, store)
    claims = store.read_table(file.replace("coverage/", "claims/"))
    assert (
        set(claims["image_id"].to_pylist()) == set(store.read_table(file)["image_id"].to_pylist()) and len(claims) == 8
    )
    store.delete(file)
    annotate_all(chosen, store)
    assert len(store.read_table(file.replace("coverage/", "claims/"))) == 0
    fake_annotators.forget_calls()
    annotate_all(chosen, store)
    assert read_written(store) == before


def test_claims_are_written_while_a_shard_is_annotated(store: Store, monkeypatch):
    chosen = make_settings({"a": annotator_section(batch_size=2)})
    monkeypatch.setattr(shard, "EVERY", 0.0)
    counts = []
    BEFORE["a"] = lambda self, batch: counts.append(count_left(chosen, store).get("a"))
    annotate_all(chosen, store)
    assert counts == [10, 8, 6, 4, 2]


def test_an_exception_from_outside_keeps_the_claims(store: Store):
    chosen = make_settings({"a": annotator_section(batch_size=2)})
    BEFORE["a"] = raise_at(KeyboardInterrupt(), list_names(store)[6:7])
    with pytest.raises(KeyboardInterrupt):
        annotate_all(chosen, store)
    assert count_left(chosen, store) == {"a": 4}


def test_a_store_that_is_no_folder_holds_the_same(store: Store, tmp_path: Path):
    chosen, remote = (
        make_settings({"a": annotator_section(batch_size=3), "reader": annotator_section(needs=["claims"])}),
        Store(f"memory://{tmp_path.name}"),
    )
    for name in store.names(""):
        remote.write_bytes(name, store.read_bytes(name))
    BEFORE["a"] = fail_images(list_names(store)[:3], UnavailableError("later"))
    annotate_all(chosen, remote)
    assert count_left(chosen, remote) == {"a": 3, "reader": 3}
    fake_annotators.forget_calls()
    annotate_all(chosen, remote)
    annotate_all(chosen, store)
    assert count_left(chosen, remote) == {} and read_written(remote) == read_written(store)


def test_coverage_that_has_grown_is_published_again(store: Store, tmp_path: Path):
    chosen, data = make_settings({"a": annotator_section(), "b": annotator_section()}), Store(str(tmp_path / "data"))
    BEFORE["a"] = fail_images(list_names(store)[5:], UnavailableError("later"))
    annotate_all(chosen, store)
    annotators = list_annotators(chosen)
    fuse_round(workspace_of(chosen, store), annotators, 0)
    publish_snapshot(workspace_of(chosen, store, data), annotators, 0)
    assert len(data.read_tables("coverage/" + annotators[0].key, pa.schema([]))) == 5
    fake_annotators.forget_calls()
    annotate_all(chosen, store)
    fuse_round(workspace_of(chosen, store), annotators, 1)
    publish_snapshot(workspace_of(chosen, store, data), annotators, 1)
    assert read_written(data) == read_written(store) and any(
        name.startswith("annotators/a@") for name in read_written(data)
    )
    again = Store(str(tmp_path / "again"))
    restore_store(workspace_of(store=again, data=data))
    fake_annotators.forget_calls()
    assert annotate_all(chosen, again) == {} and CALLS == [] and read_written(again) == read_written(store)


def test_a_file_of_the_same_size_is_copied_where_it_can_have_changed(tmp_path: Path):
    ours, theirs = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    ours.write_bytes("x", b"old")
    theirs.write_bytes("x", b"new")
    ours.copy_in(theirs, "x")
    assert ours.read_bytes("x") == b"old"
    ours.copy_in(theirs, "x", grows=True)
    assert ours.read_bytes("x") == b"new"


def test_coverage_without_a_newer_column_is_read(store: Store):
    chosen = make_settings({"a": annotator_section(), "b": annotator_section()})
    annotate_all(chosen, store)
    file = store.names("coverage/" + list_annotators(chosen)[0].key)[0]
    store.write_table(file, store.read_table(file).drop_columns(["unread"]))
    assert count_left(chosen, store) == {} and annotate_all(chosen, store) == {}
    assert len(fuse_round(workspace_of(chosen, store), list_annotators(chosen), 0))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_fails_for_a_while_the_end_is_the_same(
    collected: Path, store: Store, tmp_path: Path, monkeypatch, seed: int
):
    rng = random.Random(seed)
    sections = {
        "a": annotator_section(batch_size=rng.randint(1, 4), required=rng.random() < 0.5),
        "b": annotator_section(batch_size=3, needs=["truth"], required=False),
        "reader": annotator_section(
            needs=["claims", "pixels"], batch_size=2, required=False, depends_on=rng.choice([["*"], ["a"]])
        ),
        "second": annotator_section(needs=["claims"], depends_on=["*"] if rng.random() < 0.5 else ["reader"]),
    }
    chosen = make_settings(sections)
    monkeypatch.setattr(shard, "EVERY", rng.choice([0.0, 30.0]))
    for attempt in range(3):
        fake_annotators.forget_calls()
        for name in sections:
            some = rng.sample(list_names(store), rng.randint(1, 9))
            how = rng.choice(
                [
                    None,
                    fail_images(some, UnavailableError("later")),
                    raise_at(UnavailableError("down"), some),
                    raise_at(MemoryError(), some),
                    raise_at(KeyboardInterrupt(), some),
                ]
            )
            if how is not None:
                BEFORE[name] = how
        try:
            annotate_all(chosen, store, will_retry=attempt == 1)
        except KeyboardInterrupt:
            pass
    fake_annotators.forget_calls()
    annotate_all(chosen, store)
    assert count_left(chosen, store) == {}
    fake_annotators.forget_calls()
    assert annotate_all(chosen, store) == {} and CALLS == []
    whole = copy_store(collected, tmp_path / "whole")
    annotate_all(chosen, whole)
    assert read_written(whole) == read_written(store)
