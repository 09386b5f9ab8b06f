"""The state of a loop: there and back, of other versions, damaged, and in a workspace that has been moved."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from florence.config import settings_from
from florence.errors import DataError, NewerFormatError, StoreError
from florence.image_files import ImageFiles
from florence.report.facts import VERSION, LoopFacts
from florence.store import Store
from florence.workspace.annotate.annotators import AnnotatorVersion, read_profiles
from florence.workspace.annotate.usage import read_usage
from florence.workspace.collected import read_collected
from florence.workspace.form import FORMAT, MARK, check_snapshot, check_store, mark_store
from flows.state import LoopState, read_state, write_state
from flows.tracked import StageSeconds, write_code_json

STATE = LoopState("loop", 1, 3, 1, accepted=1, images="i", settings={"train": "t"}, seconds={"fuse": 1.5})


def written(root: Path, **values: object) -> dict[str, object]:
    """Return the keys of `STATE` as this version writes them, with ``values`` over them, after writing them."""
    write_state(root, STATE)
    store = Store(str(root / ".florence"))
    keys = {**store.read_json("loop.json"), **values}
    store.write_json("loop.json", keys)
    return keys


def test_there_and_back(tmp_path: Path):
    assert read_state(tmp_path) is None
    write_state(tmp_path, STATE)
    assert read_state(tmp_path) == STATE
    before = dataclasses.asdict(STATE)  # as versions before the key `format` wrote it
    Store(str(tmp_path / ".florence")).write_json("loop.json", before)
    assert read_state(tmp_path) == STATE


@pytest.mark.parametrize(
    "newer", [{"format": 2}, {"format": 9, "loop_id": 7}, {"judges": ["a"]}, {"champion_id": None}]
)
def test_a_newer_state_is_named_and_kept(tmp_path: Path, newer: dict):
    written(tmp_path, **newer)
    before = (tmp_path / ".florence/loop.json").read_bytes()
    with pytest.raises(NewerFormatError, match="loop.json was made by a newer Florence") as error:
        read_state(tmp_path)
    assert "delete it" not in str(error.value) and "new loop" not in str(error.value)
    assert (tmp_path / ".florence/loop.json").read_bytes() == before


@pytest.mark.parametrize(
    "found", [{"loop": 1}, [], 3, {"loop_id": "l", "first_round": "0", "wanted": 1}, {"format": 1}]
)
def test_what_is_no_state_is_refused(tmp_path: Path, found: object):
    Store(str(tmp_path / ".florence")).write_json("loop.json", found)
    with pytest.raises(DataError, match="is not the state of a loop") as error:
        read_state(tmp_path)
    assert "newer" not in str(error.value) and "move it away" in str(error.value)


VERSION_1 = AnnotatorVersion("a", "1")
CHECKS: dict[str, Callable[[Store], object]] = {
    "snapshot.json": lambda store: check_snapshot(store),
    MARK: lambda store: check_store(store),
    "collected.json": lambda store: read_collected(store),
    "first_readings/x.json": lambda store: ImageFiles(store).first_read("x"),
    "annotators/a@1.json": lambda store: read_profiles(
        settings_from({"sources": {}, "annotators": {}}), store, [VERSION_1]
    ),
    "usage/a@1/s.json": lambda store: read_usage(store, VERSION_1),
    "seconds.json": lambda store: StageSeconds(Path(store.root).parent).read(),
}
"""Readers of small files, by name."""
BROKEN = [b"", b"[1]", b"null", b'"x"', b"5", b"{", b"\xff\xfe\x00", b"[" * 99999, b'{"a": ' * 99999]


@pytest.mark.parametrize("name", CHECKS)
def test_a_small_file_that_is_broken_is_named_with_the_remedy_and_kept(name: str, tmp_path: Path):
    store = Store(str(tmp_path / "build"))
    keys = () if name in (MARK, "seconds.json") else (b'{"future": 1}',)
    for data in (*BROKEN, *keys):
        store.write_bytes(name, data if name != "snapshot.json" else data.replace(b"{", b'{"format": 3, ', 1))
        with pytest.raises(StoreError, match=f"{name} is not (JSON|what).*move it away") as error:
            CHECKS[name](store)
        assert "delete" not in str(error.value) and store.exists(name)


def test_a_note_of_the_code_that_is_broken_is_written_again(tmp_path: Path):
    (tmp_path / "code.json").write_bytes(b"\xff\xfe\x00")
    write_code_json(tmp_path)
    assert len(Store(str(tmp_path)).read_object("code.json", "code")["code"]) > 8


@pytest.mark.parametrize("form", ["relative", "of the old place"])
def test_a_workspace_that_was_moved_has_its_own_student(tmp_path: Path, form: str):
    first, second = tmp_path / "first", tmp_path / "second"
    (first / ".florence/students/round=1").mkdir(parents=True)
    scores = first / ".florence/students/scores-round=1.parquet"
    scores.touch()
    student = str(first / ".florence/students/round=1")
    write_state(first, dataclasses.replace(STATE, student=student, scores=str(scores)))
    if form == "of the old place":  # as earlier versions wrote it
        written(first, student=student, scores=str(scores))
    found = read_state(first)
    assert found is not None and found.student == student and found.scores == str(scores)
    shutil.copytree(first, second)
    moved = read_state(second)
    assert moved is not None and moved.student == student.replace("first", "second")
    assert moved.scores == str(scores).replace("first", "second")
    elsewhere = dataclasses.replace(STATE, student="/models/one")
    write_state(second, elsewhere)
    assert read_state(second) == elsewhere


def test_other_files_of_a_newer_version_are_named_and_kept(tmp_path: Path):
    store = Store(str(tmp_path))
    store.write_json("snapshot.json", {"format": FORMAT + 1})
    store.write_json(MARK, {"format": FORMAT + 1})
    facts = LoopFacts("l").to_json().replace(f'"version": {VERSION}', f'"version": {VERSION + 1}')
    checks = {
        "snapshot.json": lambda: check_snapshot(store),
        MARK: lambda: check_store(store),
        "build/loop.json": lambda: LoopFacts.from_json(facts, "build/loop.json"),
    }
    for name, check in checks.items():
        with pytest.raises(NewerFormatError, match=f"{name} was made by a newer Florence") as error:
            check()
        assert "delete it" not in str(error.value) and "away" not in str(error.value)
    mark_store(store)
    check_store(store)
