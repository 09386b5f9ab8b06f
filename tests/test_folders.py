"""Folders that are replaced as a whole, killed at every step: afterwards there is the old one or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from florence.config import SnapshotSettings
from florence.folders import settle_folder, swap_folder, temporary_folder
from flows.adapters.snapshots import KEPT, Snapshots
from flows.loop.students import save_student

STEPS = [(os, "rename"), (os, "replace"), (shutil, "rmtree"), (shutil, "copy"), (shutil, "copy2"), (os, "unlink")]


class Kill(BaseException):
    """The process is dead: nothing that it does afterwards has any effect."""


def kill_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise Kill in place of the step ``number``, and of all that follow."""
    count = [0]

    def counted(step: Callable) -> Callable:
        def run(*arguments: object, **named: object) -> object:
            count[0] += 1
            if count[0] > number:
                raise Kill
            return step(*arguments, **named)

        return run

    for module, name in STEPS:
        monkeypatch.setattr(module, name, counted(getattr(module, name)))


def run_and_kill(work: Callable[[], object], check: Callable[[], None]) -> int:
    """Do ``work`` again and again, killed one step later each time, with ``check`` after each; return the steps."""
    for number in range(200):
        with pytest.MonkeyPatch.context() as patch:
            kill_at(number, patch)
            try:
                work()
            except Kill:
                pass
            else:
                return number
        check()
    raise AssertionError("it never ended")


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(root: Path, text: str) -> None:
    for name in ("data.dvc", "dvc.lock"):
        (root / name).write_text(text)
    for name in (
        "metrics/scores.json",
        "metrics/more.json",
        "plots/train.csv",
        "model/weights",
        "scores/calibration.json",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)


def kept(root: Path) -> dict[str, str]:
    return {name: text for name, text in contents(root).items() if name.split("/")[0] in KEPT}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_folder_is_the_old_one_or_the_new_one(tmp_path: Path, is_first: bool):
    folder, seen = tmp_path / "deep" / "folder", set()
    if not is_first:
        folder.mkdir(parents=True)
        (folder / "a").write_text("old")

    def work() -> None:
        with swap_folder(folder) as new:
            (new / "a").write_text("new")

    def check() -> None:
        settle_folder(folder)
        found = contents(folder) if folder.exists() else None
        seen.add(str(found))
        assert found in ([None, {"a": "new"}] if is_first else [{"a": "old"}, {"a": "new"}])

    assert run_and_kill(work, check) > 2
    assert contents(tmp_path) == {"deep/folder/a": "new"} and len(seen) == 2, "nothing is left beside it"


def test_a_block_that_fails_changes_nothing(tmp_path: Path):
    (tmp_path / "f").mkdir()
    with pytest.raises(ValueError), swap_folder(tmp_path / "f") as new:
        (new / "a").write_text("half")
        raise ValueError
    assert contents(tmp_path) == {}


def test_a_round_that_is_kept_again_is_never_lost(tmp_path: Path, monkeypatch):
    fill(tmp_path, "accepted")
    ours, folder = Snapshots(tmp_path, SnapshotSettings()), tmp_path / ".florence/accepted/round=0"
    monkeypatch.setattr(ours, "_dvc", lambda *arguments, **named: None)
    ours.keep(folder)
    fill(tmp_path, "again")

    def check() -> None:
        assert ours.has_kept(folder)
        assert set(contents(folder).values()) in ({"accepted"}, {"again"}) and len(contents(folder)) == 5

    run_and_kill(lambda: ours.keep(folder), check)
    assert set(contents(folder).values()) == {"again"}


def test_a_round_comes_back_however_often_it_is_interrupted(tmp_path: Path, monkeypatch):
    fill(tmp_path, "accepted")
    ours, folder = Snapshots(tmp_path, SnapshotSettings()), tmp_path / ".florence/accepted/round=0"
    monkeypatch.setattr(ours, "_dvc", lambda *arguments, **named: None)
    ours.keep(folder)
    before = kept(tmp_path)
    fill(tmp_path, "rejected")
    (tmp_path / "metrics/labels.json").write_text("of the rejected round")

    def check() -> None:
        assert contents(folder) == before
        assert (tmp_path / "data.dvc").read_text() in ("rejected", "accepted")
        assert (tmp_path / "data.dvc").read_text() == "rejected" or kept(tmp_path) == before, "data.dvc comes last"

    run_and_kill(lambda: ours.restore(folder), check)
    assert kept(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.name.endswith((".part", ".new", ".old"))]


def test_a_student_is_never_lost(tmp_path: Path):
    fill(tmp_path, "first")
    folder = save_student(tmp_path, 0)
    fill(tmp_path, "second")

    def check() -> None:
        settle_folder(folder)
        assert contents(folder) in [
            {name: text for name in ("weights", "calibration.json")} for text in ("first", "second")
        ]

    run_and_kill(lambda: save_student(tmp_path, 0), check)
    assert set(contents(folder).values()) == {"second"}


def test_temporary_folders_of_killed_processes_are_removed_and_those_in_use_stay(tmp_path: Path):
    parent = tmp_path / "tmp"
    with temporary_folder(parent) as used:
        (used / "a").write_text("in use")
        if (child := os.fork()) == 0:
            with temporary_folder(parent) as left:
                (left / "b").write_text("half a download")
                os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert sorted(text for text in contents(parent).values() if text) == ["half a download", "in use"]
        with temporary_folder(parent) as new:
            assert new.is_dir() and not list(new.iterdir())
            assert [text for text in contents(parent).values() if text] == ["in use"]
        with pytest.raises(ValueError), temporary_folder(parent) as failed:
            (failed / "c").write_text("half")
            raise ValueError
        assert [text for text in contents(parent).values() if text] == ["in use"]
    assert [p.name for p in parent.iterdir()] == [".lock"]
