"""What a registered version was made from: settings frozen while they are edited, a record in git, hashes verified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from flow_workspaces import environment, florence, params, write_params

from flows.init import create_workspace
from flows.tracked import open_workspace

METRICS = ("metrics/scores.json", "metrics/train.json", "metrics/decision.json", "metrics/summary.json")


def run(folder: Path, *command: str, check: bool = True) -> str:
    """Run git or DVC in ``folder`` as by hand; return what it wrote."""
    if command[0] == "dvc":
        command = (sys.executable, "-m", *command)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, cwd=folder, env=environment(PATH=path), capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def edit_during(folder: Path, sign: Path, text: str, edited: threading.Event, stop: threading.Event) -> None:
    """Write ``text`` to params.yaml as soon as ``sign`` exists."""
    while not stop.wait(0.01):
        if sign.exists():
            (folder / "params.yaml").write_text(text, encoding="utf-8")
            edited.set()
            return


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Iterator[Path]:
    """A workspace after one round, whose params.yaml was edited twice: before it published, and while it trained."""
    top = tmp_path_factory.mktemp("lineage")
    folder = top / "w"
    create_workspace(folder)
    write_params(folder, workspace="tiny-1", flow={"rounds": 1})
    run(folder, "dvc", "remote", "add", "-d", "storage", str(top / "storage"))
    run(folder, "git", "config", "user.useConfigOnly", "true")
    (folder / "mine.txt").write_text("mine")
    run(folder, "git", "add", "mine.txt")
    before = run(folder, "git", "rev-parse", "HEAD"), run(folder, "git", "diff", "--cached", "--name-only")
    texts = [
        yaml.safe_dump(params(workspace="tiny-2", train={"steps": steps}, engine={"min_confidence": 0.9}))
        for steps in (4, 5)
    ]
    stop, edits = threading.Event(), [threading.Event(), threading.Event()]
    signs = [folder / ".florence/store/claims", folder / "metrics/validation.json"]
    for sign, text, edited in zip(signs, texts, edits, strict=True):
        threading.Thread(target=edit_during, args=(folder, sign, text, edited, stop), daemon=True).start()
    done = florence(folder, "loop")
    stop.set()
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(edited.is_set() for edited in edits)
    assert done.stdout.count("params.yaml was edited") == 1
    assert (folder / "params.yaml").read_text(encoding="utf-8") == texts[1]
    assert before == (run(folder, "git", "rev-parse", "HEAD"), run(folder, "git", "diff", "--cached", "--name-only"))
    (folder / "edited.yaml").write_text(texts[1])
    write_params(folder, workspace="tiny-1", flow={"rounds": 1})
    yield folder


def test_a_run_keeps_the_settings_that_it_began_with(workspace: Path):
    opened = open_workspace(workspace)
    champion = opened.registry.champion()
    assert champion is not None and champion.tags["florence.workspace"] == "tiny-1"
    assert champion.tags["train"] == opened.settings.train.digest()
    assert opened.data.read_json("snapshot.json")["engine"] == opened.settings.engine.digest()
    lock = yaml.safe_load((workspace / "dvc.lock").read_text())
    assert lock["stages"]["train"]["params"]["params.yaml"]["train"]["steps"] == 3
    assert json.loads((workspace / "metrics/train.json").read_text())["steps"] == 3
    run_of = opened.tracker.store.client.get_run(champion.run_id)
    parent = opened.tracker.store.client.get_run(run_of.data.tags["mlflow.parentRunId"])
    assert parent.data.params["train.steps"] == "3"
    recorded = yaml.safe_load(run(workspace, "git", "show", f"{champion.tags['git_tag']}:params.yaml"))
    assert recorded["train"]["steps"] == 3 and recorded["workspace"] == "tiny-1"
    assert not (workspace / ".florence/run/params.yaml").exists()


def test_the_edit_is_taken_by_the_next_loop(workspace: Path):
    text = (workspace / "params.yaml").read_text()
    try:
        shutil.copy(workspace / "edited.yaml", workspace / "params.yaml")
        planned = florence(workspace, "loop", "--dry-run")
        assert "train" in planned.stdout and "engine" in planned.stdout, planned.stdout + planned.stderr
    finally:
        (workspace / "params.yaml").write_text(text)


def test_the_tag_brings_the_same_metrics_back_in_a_clone(workspace: Path, tmp_path: Path):
    champion = open_workspace(workspace).registry.champion()
    assert champion is not None
    run(tmp_path, "git", "clone", "-q", str(workspace), "clone")
    clone = tmp_path / "clone"
    run(clone, "git", "checkout", "-q", champion.tags["git_tag"])
    run(clone, "dvc", "pull")
    run(clone, "dvc", "repro", "--force", "--no-run-cache")
    for name in METRICS:
        assert (clone / name).read_bytes() == (workspace / name).read_bytes(), name
    status = run(clone, "git", "status", "--porcelain", "-uno")
    assert not status, status


def links(folder: Path, code: int = 0) -> dict[str, str]:
    done = florence(folder, "lineage", "champion", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return {link["name"]: link["status"] for link in json.loads(done.stdout)["links"]}


def test_each_broken_link_is_told(workspace: Path, tmp_path: Path):
    assert set(links(workspace).values()) == {"ok"}
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy, symlinks=True)
    opened = open_workspace(copy)
    champion = opened.registry.champion()
    assert champion is not None
    weights = next((copy / "build/mlartifacts").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    run(copy, "git", "tag", "-d", champion.tags["git_tag"])
    md5 = champion.tags["dvc_hash"]
    listing = copy / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    labels = next(one["md5"] for one in json.loads(listing.read_text()) if one["relpath"].startswith("labels/"))
    file = copy / ".dvc/cache/files/md5" / labels[:2] / labels[2:]
    file.chmod(0o600)
    file.write_bytes(b"other")
    found = links(copy, 1)
    assert {name for name, status in found.items() if status == "broken"} == {"weights", "git tag", "snapshot"}
    shutil.rmtree(copy / ".dvc/cache")
    run(copy, "dvc", "remote", "remove", "storage")
    assert links(copy, 1)["snapshot"] == "not checked"


def test_a_champion_of_another_workspace_is_refused(workspace: Path):
    from florence.errors import FlorenceError
    from flows.models import fetch_champion

    tracking = {"model": "tiny-1", "experiment": "tiny-1"}
    foreign = open_workspace(workspace, {"workspace": "other", "tracking": tracking})
    # The same git repository would make it known: this is the workspace's own id of before.
    assert foreign.registry.champion() is not None
    with pytest.raises(FlorenceError, match="registered by the workspace 'tiny-1'.*tracking.shared: true"):
        fetch_champion(foreign)
    shared = open_workspace(workspace, {"workspace": "other", "tracking": {**tracking, "shared": True}})
    assert fetch_champion(shared) is not None
    renamed = open_workspace(workspace, {"workspace": "other"})
    assert renamed.registry.name == "other" and fetch_champion(renamed) is None
