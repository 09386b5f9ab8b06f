"""Ignore files that would leave out what git or DVC are to hold: `florence init` writes against them, others tell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flow_workspaces import write_params

from florence.errors import FlorenceError
from flows.adapters.ignored import VERSIONED, find_dvc_ignored, find_git_ignored, lines_against, refuse_ignored
from flows.doctor import folder as folder_checks
from flows.init import create_workspace


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path: Path):
    """Run git without the machine's settings, and without a repository above the test's folder."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


@pytest.fixture(scope="module")
def new_workspace(tmp_path_factory) -> Path:
    """A new workspace, to be copied: DVC takes seconds to make one."""
    return create_workspace(tmp_path_factory.mktemp("made") / "w").folder


@pytest.fixture
def root(new_workspace: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(new_workspace, tmp_path / "w", symlinks=True))


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("lines", "hidden"),
    [
        ("*.dvc", ["data.dvc", ".dvc/config"]),
        ("data.*", ["data.dvc"]),
        ("*.lock\n!poetry.lock", ["dvc.lock"]),
        ("metrics\n*.csv", ["metrics/scores.json", "plots/train.csv"]),
        ("*.json", ["code.json", "expectations/labels.json", "metrics/scores.json"]),
        ("w/*", list(VERSIONED)),
        (".*", [".gitignore", ".dvcignore", ".dvc/config"]),
    ],
)
def test_what_a_rule_further_above_hides_is_found(lines: str, hidden: list, tmp_path: Path):
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text(f"# rules\n{lines}\n")
    (tmp_path / "w").mkdir()
    found = find_git_ignored(tmp_path / "w")
    assert sorted(one.name for one in found) == sorted(hidden)
    assert all(one.rule.startswith(f"{tmp_path / '.gitignore'}:") for one in found)
    (tmp_path / "w/.gitignore").write_text("\n".join(lines_against(found)))
    assert find_git_ignored(tmp_path / "w") == ()


def test_a_new_workspace_has_lines_against_them(tmp_path: Path):
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("# rules\n*.dvc\n*.lock\nmetrics\n*.yaml\n")
    created = create_workspace(tmp_path / "w")
    assert not created.git and "data.dvc" in created.unhidden and ".gitignore:2 (*.dvc)" in created.unhidden
    git(tmp_path, "add", "-A")
    held = set(git(tmp_path / "w", "ls-files").splitlines())
    assert {"params.yaml", "dvc.yaml", "code.json", ".dvc/config", ".gitignore"} <= held
    (tmp_path / "w/data").mkdir()
    (tmp_path / "w/data/a.txt").write_text("x")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], cwd=tmp_path / "w", check=True)
    assert git(tmp_path / "w", "status", "--short", "--untracked-files=all", "data*") == "?? data.dvc\n"


def test_rules_of_other_places_are_found_too(root: Path):
    assert find_git_ignored(root) == () and find_dvc_ignored(root) == ()
    (root / ".git/info/exclude").write_text("*.dvc\n")
    assert [one.name for one in find_git_ignored(root)] == ["data.dvc"], ".dvc/config is committed or added"
    with pytest.raises(
        FlorenceError, match=r"git ignores data.dvc by .*exclude:1 .*write !/data.dvc into .*/.gitignore"
    ):
        refuse_ignored(root)
    (check,) = [check for check in folder_checks.check_folder(root) if check.name == "git"]
    assert check.status == "fail" and "data.dvc" in check.found and "!/data.dvc" in check.remedy
    with (root / ".gitignore").open("a") as file:
        file.write("!/data.dvc\n/metrics\n")
    refuse_ignored(root)
    (check,) = [check for check in folder_checks.check_folder(root) if check.name == "git"]
    assert check.status == "warn" and "metrics/scores.json" in check.found


@pytest.mark.parametrize(
    ("line", "name"), [("data", "data"), ("*.json", "data/snapshot.json"), ("scores/*", "scores/scores.parquet")]
)
def test_a_dvcignore_that_leaves_files_out_of_snapshots_is_refused(line: str, name: str, root: Path):
    with (root / ".dvcignore").open("a") as file:
        file.write(f"{line}\n")
    assert name in [one.name for one in find_dvc_ignored(root)]
    with pytest.raises(FlorenceError, match=r"DVC ignores .*\.dvcignore:\d+ .*remove these lines"):
        refuse_ignored(root)
    assert [check.status for check in folder_checks.check_folder(root) if check.name == "DVC"] == ["fail"]


def test_a_loop_is_refused_before_anything_runs(root: Path, prefect):
    from flows.refine import refine

    write_params(root)
    (root / ".gitignore").write_text("*.dvc\n")
    with pytest.raises(FlorenceError, match="git ignores data.dvc"):
        refine(str(root), 1)
    assert not (root / ".florence/store").exists()


def test_a_bare_repository_is_no_repository_for_a_workspace(tmp_path: Path):
    git(tmp_path, "init", "-q", "--bare")
    created = create_workspace(tmp_path / "w")
    assert created.git and created.dvc and (tmp_path / "w/.git").is_dir()


def test_a_workspace_inside_another_dvc_repository_has_its_own(tmp_path: Path):
    git(tmp_path, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    inner = create_workspace(tmp_path / "inner")
    assert inner.dvc and not inner.git and (inner.folder / ".dvc/config").exists()
    assert find_git_ignored(inner.folder) == ()
    refuse_ignored(inner.folder)


def test_a_repository_that_git_does_not_trust_is_named(tmp_path: Path, monkeypatch):
    git(tmp_path, "init", "-q")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(FlorenceError, match="git does not work in .*dubious ownership.*safe.directory"):
        create_workspace(tmp_path / "w")


def test_without_git_nothing_is_found(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert find_git_ignored(tmp_path) == ()
