"""Files of an older Florence are refused with a message that says what to do; this test writes the old form."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from flow_workspaces import write_params
from workspaces import workspace_of

from florence.config import settings_from
from florence.errors import DataError, NewerFormatError, OldFormatError
from florence.report.facts import LoopFacts
from florence.store import Store
from florence.workspace.collect import collect_images
from florence.workspace.form import check_snapshot, check_store
from florence.workspace.fuse import fuse_round
from florence.workspace.publish import restore_store
from flows.tracked import open_workspace

WHAT_TO_DO = "made by an older Florence .*move data/.* and run `florence loop`, or check out the git revision"
OLD_CLAIMS = pa.table({"annotation_id": ["a"], "image_id": ["i"], "author": ["careful"], "agreement": [0.5]})


def make_old(store: Store, what: str) -> None:
    if what == "authors":
        store.write_json("authors/careful@1.json", {"name": "careful"})
    elif what == "set_aside":
        store.write_table("set_aside.parquet", pa.table({"source": ["photos"]}))
    elif what == "claims":
        store.write_table("claims/careful@1/scenes-00000.parquet", OLD_CLAIMS)
    else:
        store.write_json("snapshot.json", {"id": "1", "round": 0, "authors": {"careful": "1"}})


@pytest.mark.parametrize("what", ["authors", "set_aside", "claims"])
def test_an_old_working_store_is_refused_before_anything_is_written(what: str, tmp_path: Path):
    store = Store(str(tmp_path / "store"))
    make_old(store, what)
    before = store.names("")
    with pytest.raises(OldFormatError, match=WHAT_TO_DO):
        check_store(store)
    scenes = settings_from({"sources": {"scenes": {"use": "scenes", "count": 2}}, "annotators": {}})
    workspace = workspace_of(scenes, store, Store(str(tmp_path / "data")))
    for verb in (collect_images, restore_store, lambda opened: fuse_round(opened, [], 0)):
        with pytest.raises(OldFormatError, match=what.removesuffix("s")):
            verb(workspace)
    assert store.names("") == before


@pytest.mark.parametrize("what", ["authors", "set_aside", "claims", "snapshot"])
def test_an_old_snapshot_is_refused_when_the_workspace_is_opened(what: str, tmp_path: Path):
    write_params(tmp_path)
    make_old(Store(str(tmp_path / "data")), what)
    with pytest.raises(OldFormatError, match=WHAT_TO_DO):
        open_workspace(tmp_path)


def test_a_snapshot_of_this_form_passes_and_of_the_one_before_and_none_else(tmp_path: Path):
    data = Store(str(tmp_path / "data"))
    check_snapshot(data)
    for found in (2, 3):
        data.write_json("snapshot.json", {"id": "1", "round": 0, "format": found})
        check_snapshot(data)
    data.write_json("snapshot.json", {"id": "1", "round": 0, "format": None})
    with pytest.raises(OldFormatError, match="format is None, and 2 to 3 are read"):
        check_snapshot(data)
    data.write_json("snapshot.json", {"id": "1", "round": 0, "format": 4})
    with pytest.raises(DataError, match="made by a newer Florence .its format is 4"):
        check_snapshot(data)


def test_old_facts_of_a_loop_are_refused():
    with pytest.raises(OldFormatError, match=WHAT_TO_DO):
        LoopFacts.from_json('{"loop_id": "l", "rounds": [], "version": 1}', "build/loop.json")
    with pytest.raises(DataError, match="made by an older Florence .*version is 2, and 5 is read.*: move it away"):
        LoopFacts.from_json('{"loop_id": "l", "rounds": [], "version": 2}', "build/loop.json")
    with pytest.raises(NewerFormatError, match="version is 6, and 5 is read"):
        LoopFacts.from_json('{"loop_id": "l", "rounds": [], "version": 6}', "build/loop.json")
    for wrong in ('{"loop_id": "l", "rounds": {}, "version": 5}', "[1]", "no JSON"):
        with pytest.raises(DataError, match="is not the facts of a loop"):
            LoopFacts.from_json(wrong, "build/loop.json")
