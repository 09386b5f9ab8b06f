"""The stages one by one, by hand; and DVC's line, which gives the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from flow_workspaces import environment, florence, write_params

from flows.init import create_workspace
from flows.tracked import open_workspace

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]


def run_florence(folder: Path, *arguments: str) -> str:
    done = florence(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for name in ("model", "metrics", "scores", "plots")
        for p in (folder / name).rglob("*")
        if p.is_file()
    }


def test_every_stage_is_a_command(tmp_path: Path):
    folder = tmp_path / "w"
    assert "is a workspace" in florence(tmp_path, "init", "w").stdout
    again = florence(tmp_path, "init", "w")
    assert again.returncode == 1 and "already" in again.stderr
    write_params(folder)

    assert "24 new images" in run_florence(folder, "collect")
    assert "72 images annotated (counted for every annotator) in 4 shards" in run_florence(folder, "annotate")
    assert "0 images annotated (counted for every annotator) in 0 shards; 4 shards were done already" in run_florence(
        folder, "annotate"
    )
    assert "of round 0" in run_florence(folder, "publish") and (folder / "data.dvc").exists()
    for arguments in (["validate"], ["validate", "--staging"]):
        assert "expectations met" in run_florence(folder, *arguments)
    assert "trained 3 steps on" in run_florence(folder, "train")
    assert "<OD> map50" in run_florence(folder, "evaluate")
    assert "accepted" in run_florence(folder, "compare")
    by_hand = outputs(folder)

    run_florence(folder, "register")
    assert "version 1" in run_florence(folder, "promote")
    assert (folder / "build/report/index.html").as_posix() in run_florence(folder, "report").replace("round-0/", "")
    photo = folder / "photo.png"
    photo.write_bytes(pq.read_table(folder / "data/images/scenes-00000.parquet", partitioning=None)["bytes"][0].as_py())
    assert json.loads(run_florence(folder, "predict", "photo.png", "--json"))["task"] == "<OD>"
    nothing = florence(folder, "rollback")
    assert nothing.returncode == 1 and "nothing to roll back to" in nothing.stderr
    unknown = florence(folder, "predict", "photo.png", "--model", "best")
    assert unknown.returncode == 1 and "registered: 1 (@" in unknown.stderr

    repro = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env=with_florence(),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert repro.returncode == 0, repro.stdout + repro.stderr
    assert outputs(folder) == by_hand
    assert run_florence(folder, "register").startswith("version ")
    assert len(open_workspace(folder).registry.versions()) <= 2


def with_florence() -> dict[str, str]:
    """Return the environment in which DVC finds the `florence` of this interpreter."""
    env = environment()
    return {**env, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}


def test_a_loop_of_two_rounds_has_a_student(tmp_path: Path):
    folder = tmp_path / "w"
    create_workspace(folder)
    write_params(folder)
    assert "rounds to do: 0, 1" in run_florence(folder, "loop", "--dry-run")
    text = run_florence(folder, "loop")
    assert "round 1 (2 of 2), with the champion as one more annotator" in text and "label quality" in text
    facts = json.loads((folder / "build/loop.json").read_text())
    assert [round["round"] for round in facts["rounds"]] == [0, 1]
    assert "student" in {annotator["name"] for annotator in facts["rounds"][1]["annotators"]}
    opened = open_workspace(folder)
    snapshot = opened.data.read_json("snapshot.json")
    if facts["rounds"][1]["decision"] == "rejected":
        assert snapshot["round"] == 0 and "in place again" in text
        assert florence(folder, "loop", "--rounds", "3").stdout.startswith("nothing new")
    else:
        assert snapshot["round"] == 1 and opened.data.read_table("baseline/scores.parquet").num_rows > 0
    dvc = subprocess.run(
        [sys.executable, "-m", "dvc", "status"],
        cwd=folder,
        env=with_florence(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "up to date" in dvc.stdout, dvc.stdout + dvc.stderr


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=with_florence(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_clone_with_the_data_alone_trains_the_same(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    create_workspace(first)
    write_params(first)
    run_florence(first, "loop", "--rounds", "1")
    assert "up to date" in dvc(first, "repro")

    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["add", "-A"], ["commit", "-q", "-m", "a round"]):
        subprocess.run([*git, *command], cwd=first, check=True, capture_output=True)
    subprocess.run(["git", "clone", "-q", str(first), str(second)], check=True, capture_output=True)
    assert not (second / "data").exists() and not (second / ".dvc/cache").exists()
    shutil.copytree(first / "data", second / "data")
    (second / "dvc.lock").unlink()
    log = dvc(second, "repro")
    assert "trained 3 steps on" in log, log
    assert (second / "dvc.lock").read_text() == (first / "dvc.lock").read_text()
    assert "up to date" in dvc(second, "repro")

    params = yaml.safe_load((second / "params.yaml").read_text())
    params["train"]["lr"] = 0.0003
    (second / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    log = dvc(second, "repro")
    ran = re.findall(r"Running stage '(\w+)'", log)
    assert ran[:2] == ["train", "evaluate"] and set(ran[2:]) <= {"compare"}, log  # so poor a model may score the same
    assert "metrics/train.json" in dvc(second, "metrics", "diff", "--md")
    page = re.search(r"file://(\S+index\.html)", dvc(second, "plots", "diff"))
    assert page is not None and all(word in Path(page[1]).read_text() for word in ("train_csv", "HEAD", "workspace"))
