"""Records of rounds in git, beside the user's branch, index and files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from florence.errors import FlorenceError
from flows.adapters.git_records import REF, GitRecords


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch) -> Path:
    """A workspace in a folder of a repository that knows nobody who commits, with an edit and a staged file."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    top = tmp_path / "top"
    folder = top / "a b"
    folder.mkdir(parents=True)
    git(top, "init", "-q")
    for name in ("code.py", "gone.py", "params.yaml"):
        (folder / name).write_text(f"{name}: 1\n")
    (top / "else.txt").write_text("1")
    git(top, "add", ".")
    git(top, "-c", "user.name=N", "-c", "user.email=n@example.org", "commit", "-qm", "first")
    (folder / "code.py").write_text("edited")
    (folder / "gone.py").unlink()
    (folder / "new é.py").write_text("staged")
    git(folder, "add", "new é.py")
    (folder / "untracked.py").write_text("x")
    (folder / "data.dvc").write_text("outs: []\n")
    (folder / ".gitignore").write_text("data.dvc\n")
    (top / "else.txt").write_text("2")
    return folder


def state(folder: Path) -> tuple[str, ...]:
    return git(folder, "status", "--porcelain"), git(folder, "rev-parse", "HEAD"), git(folder, "branch", "-a")


def test_a_record_holds_what_was_used_and_touches_nothing(workspace: Path):
    records, before = GitRecords(workspace), state(workspace)
    found = records.record("Round 0", {"params.yaml": b"frozen: 1\n"})
    assert state(workspace) == before
    assert set(found.dirty) == {"code.py", "gone.py", "new é.py"}
    names = git(workspace, "ls-tree", "-rz", "--name-only", found.commit).rstrip("\0").split("\0")
    assert set(names) == {"code.py", "data.dvc", "new é.py", "params.yaml"}
    assert records.read(found.commit, "params.yaml") == b"frozen: 1\n"
    assert records.read(found.commit, "code.py") == b"edited" and records.read(found.commit, "gone.py") is None
    assert git(workspace, "show", f"{found.commit}:else.txt") == "1", "files beside the workspace are HEAD's"
    assert git(workspace, "show", "-s", "--format=%an", found.commit).strip() == "Florence"
    assert records.record("Round 0", {"params.yaml": b"frozen: 1\n"}).commit == found.commit, (
        "done again, it is the same"
    )
    later = records.record("Round 1", {"params.yaml": b"frozen: 2\n"})
    assert git(workspace, "rev-parse", f"{later.commit}^1", REF).split() == [found.commit, later.commit]


def test_a_tag_is_never_moved_and_is_pushed_only_where_asked(workspace: Path, tmp_path: Path):
    records = GitRecords(workspace)
    first = records.record("Round 0", {}).commit
    second = records.record("Round 1", {"params.yaml": b"b: 1\n"}).commit
    assert records.tag("photos: 3", "1", first) == records.tag("photos: 3", "1", first) == "photos-3/v1"
    assert records.tag("photos: 3", "1", second) == "photos-3/v1-2"
    assert records.find("refs/tags/photos-3/v1") == first
    git(tmp_path, "init", "-q", "--bare", "remote")
    git(workspace, "remote", "add", "origin", str(tmp_path / "remote"))
    records.push("origin", "photos-3/v1")
    assert git(tmp_path / "remote", "tag", "--list").split() == ["photos-3/v1"]
    with pytest.raises(FlorenceError, match="git push failed"):
        records.push("nowhere", "photos-3/v1")


def test_outside_of_a_repository(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    records = GitRecords(tmp_path)
    assert not records.is_usable() and records.head() is None and records.find_first() is None
