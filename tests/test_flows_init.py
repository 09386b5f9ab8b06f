"""`florence init` in all sorts of folders: files that it writes and files that it leaves alone; git and DVC work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from florence.config import read_settings
from florence.errors import FlorenceError
from florence.workspace.annotate import list_annotators
from flows import init, params

ROOT = Path(__file__).parents[1]
FILES = {
    "code.json",
    "dvc.yaml",
    "params.yaml",
    ".gitignore",
    ".dvcignore",
    *(f"expectations/{p.name}" for p in (ROOT / "expectations").glob("*.json")),
}


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path: Path):
    """Run Git without the machine's settings: no identity, and no repository above the test's folder."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)


def test_a_new_workspace_is_whole_and_nothing_is_committed(tmp_path: Path):
    created = init.create_workspace(tmp_path / "new" / "wörk räum $x")
    assert created.git and created.dvc and set(created.files) == FILES
    folder = created.folder
    assert (folder / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    for suite in (ROOT / "expectations").glob("*.json"):
        assert (folder / "expectations" / suite.name).read_bytes() == suite.read_bytes()
    settings = read_settings(folder / "params.yaml")
    assert not settings.sources and settings.annotators and list_annotators(settings)
    assert git(folder, "rev-parse", "--verify", "HEAD").returncode != 0, "nothing is committed"
    ignored = ["data", "model", "scores", "build/report", ".florence/store"]
    assert git(folder, "check-ignore", *ignored).stdout.split() == ignored
    assert git(folder, "check-ignore", "metrics", "plots", "data.dvc", "dvc.lock", "code.json").stdout == ""
    with Repo(str(folder)) as repo:
        assert {stage.name for stage in repo.index.stages} == {"validate", "train", "evaluate", "compare"}
        assert repo.config["core"]["analytics"] is False


def test_a_new_repository_has_the_workspace_as_its_first_commit_and_an_experiment_begins(tmp_path: Path, monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "ada@example.org")
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"mine")
    created = init.create_workspace(folder)
    assert created.git and created.uncommitted == ""
    committed = set(git(folder, "ls-files").stdout.split())
    assert committed == {*FILES, ".dvc/config", ".dvc/.gitignore"}
    assert git(folder, "status", "--porcelain").stdout.split() == ["??", "photo.jpg"]
    command = [sys.executable, "-m", "dvc", "exp", "run", "-S", "train.steps=7"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert "Empty" not in done.stderr and f"{folder}/data'" in done.stderr, "all that it lacks is a snapshot"


def test_a_repository_without_a_commit_is_told(tmp_path: Path):
    created = init.create_workspace(tmp_path / "nobody")
    assert "git does not know who commits" in created.uncommitted
    git(tmp_path, "init", "-q")
    assert init.create_workspace(tmp_path / "inside").uncommitted == "the git repository has no commit yet"
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    assert git(tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "first").returncode == 0
    assert init.create_workspace(tmp_path / "later").uncommitted == ""


def test_in_a_git_repository_that_is_used_and_dvc_stays_in_the_folder(tmp_path: Path):
    git(tmp_path, "init", "-q")
    created = init.create_workspace(tmp_path / "deep" / "er")
    assert not created.git and created.dvc and not (created.folder / ".git").exists()
    assert (created.folder / ".dvc/config").exists() and not (tmp_path / ".dvc").exists()
    with Repo(str(created.folder)) as repo:
        assert repo.root_dir == str(created.folder) and repo.scm.root_dir == str(tmp_path)


def test_in_a_folder_that_git_ignores_it_has_a_repository_of_its_own(tmp_path: Path):
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("/build/\n")
    created = init.create_workspace(tmp_path / "build" / "w")
    assert created.git and (created.folder / ".git").is_dir() and (created.folder / ".dvc").is_dir()


def test_other_files_stay_and_ignore_files_are_added_to(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".gitignore").write_bytes(b"*.tmp\n/data")
    init.create_workspace(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / ".gitignore").read_text().splitlines() == [
        "*.tmp",
        "/data",
        "/model",
        "/scores",
        "/build/",
        "/.florence/",
        "/dvc_plots/",
    ]


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "expectations/", "data/", "data.dvc"])
def test_a_workspace_is_not_written_over(name: str, tmp_path: Path):
    (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("mine")
    with pytest.raises(FlorenceError, match=f"{name.rstrip('/')} exists"):
        init.create_workspace(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name.rstrip("/")]


def test_a_second_time_and_a_file_are_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FlorenceError, match="is a file"):
        init.create_workspace(tmp_path / "file")
    with pytest.raises(FlorenceError, match="cannot be made a workspace"):
        init.create_workspace(tmp_path / "file" / "below")


def test_without_git_it_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FlorenceError, match="git is not found"):
        init.create_workspace(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_source_written_into_the_settings_leaves_their_comments(tmp_path: Path):
    text = (init.TEMPLATE / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert params.write_overlay(tmp_path, params.read_overlay("/some/photos é", None))
    after = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    assert read_settings(tmp_path / "params.yaml").sources["images"].options == {"uri": "/some/photos é"}
    lost = [line for line in text.splitlines() if "#" in line and line.split("#", 1)[1] not in after]
    assert not lost


@pytest.mark.parametrize("file", [ROOT / "params.yaml", init.TEMPLATE / "params.yaml"], ids=["demo", "template"])
def test_settings_name_plugins_that_exist_and_all_that_dvc_depends_on(file: Path):
    settings = read_settings(file)
    assert list_annotators(settings)
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values():
        for name in stage["params"]:
            inner = values
            for key in name.split("."):
                assert key in inner, f"{name} is missing in {file}"
                inner = inner[key]


def test_the_demo_is_noisy_enough():
    simulated = [s.options for s in read_settings(ROOT / "params.yaml").annotators.values() if s.use == "simulated"]
    assert len(simulated) == 3 and len({tuple(sorted(o.items())) for o in simulated}) == 3
    for options in simulated:
        assert (
            options["missed"] >= 0.2
            and options["mislabelled"] >= 0.15
            and options["invented"] >= 0.1
            and options["shifted"] >= 0.1
        )
