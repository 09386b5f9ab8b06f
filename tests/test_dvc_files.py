"""DVC's files of a workspace and of the package's weights, read by DVC itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml

from flows import init, params

ROOT = Path(__file__).parents[1]
SETTINGS = [ROOT / "params.yaml", init.TEMPLATE / "params.yaml"]


def changed_lines(before: str, after: str) -> list[str]:
    """Return the lines of ``after`` that differ from those of ``before`` at the same place; both have as many."""
    assert len(before.splitlines()) == len(after.splitlines())
    return [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]


@pytest.mark.parametrize("source", SETTINGS, ids=["demo", "template"])
@pytest.mark.parametrize("change", [{"train": {"steps": 7}}, {"promotion": {"primary_task": "<OCR>"}}, {}])
def test_dvc_changes_the_line_of_a_setting_and_no_other(source: Path, change: dict, tmp_path: Path):
    file = tmp_path / "params.yaml"
    shutil.copy(source, file)
    before = file.read_text()
    with modify_yaml(str(file)) as values:  # what `dvc exp run -S` does
        for section, settings in change.items():
            values[section].update(settings)
    found = changed_lines(before, file.read_text())
    assert len(found) == len(change), found
    after = yaml.safe_load(before)
    for section, settings in change.items():
        after[section].update(settings)
    assert yaml.safe_load(file.read_text()) == after


def test_what_florence_writes_into_the_settings_stays_under_dvc(tmp_path: Path):
    shutil.copy(init.TEMPLATE / "params.yaml", tmp_path / "params.yaml")
    assert params.write_overlay(tmp_path, params.read_overlay("s3://bucket/some/photos", None))
    before = (tmp_path / "params.yaml").read_text()
    with modify_yaml(str(tmp_path / "params.yaml")) as values:
        values["train"]["lr"] = 0.5
    assert len(changed_lines(before, (tmp_path / "params.yaml").read_text())) == 1


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A DVC repository without git."""
    Repo.init(str(tmp_path), no_scm=True).close()
    return tmp_path


def test_dvc_shows_one_number_a_task(repository: Path):
    shutil.copy(ROOT / "dvc.yaml", repository)
    (repository / "metrics").mkdir()
    for name in ("validation", "train", "scores", "labels", "decision"):
        (repository / f"metrics/{name}.json").write_text(json.dumps({"<OD>": {"truth": {"error": 1, "value": 2}}}))
    (repository / "metrics/summary.json").write_text(json.dumps({"OD": 0.5, "CAPTION": 1.5}))
    with Repo(str(repository)) as repo:
        found = repo.metrics.show()
    assert found == {"": {"data": {"metrics/summary.json": {"data": {"OD": 0.5, "CAPTION": 1.5}}}}}


def test_every_file_that_a_stage_writes_is_an_output():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    named = {
        out if isinstance(out, str) else next(iter(out))
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    }
    figures = {f"metrics/{name}.json" for name in ("validation", "train", "scores", "labels", "summary", "decision")}
    assert named == figures | {"model", "scores", "plots/train.csv", "plots/scores.csv"}


def test_the_weights_of_the_package_are_what_the_recipe_made_and_need_no_cache(repository: Path):
    shutil.copytree(ROOT / "pretrain", repository / "pretrain", ignore=shutil.ignore_patterns("work", "nano"))
    shutil.copytree(ROOT / "florence/model/nano", repository / "florence/model/nano")
    (repository / "empty").mkdir()
    with Repo(str(repository)) as repo:
        with repo.config.edit("local") as config:
            config["remote"]["store"] = {"url": str(repository / "empty")}
            config["core"]["remote"] = "store"
    command = [sys.executable, "-m", "dvc", "pull", "--quiet"]
    pulled = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert pulled.returncode == 0, pulled.stderr
    with Repo(str(repository)) as repo:
        assert repo.status() == {}, "the weights are those of dvc.lock"


def test_the_hash_in_the_lock_is_the_weights(tmp_path: Path):
    lock = yaml.safe_load((ROOT / "pretrain/dvc.lock").read_text())["stages"]["pretrain"]["outs"][0]
    files = sorted((ROOT / "pretrain" / lock["path"]).resolve().iterdir())
    listed = [{"md5": hashlib.md5(file.read_bytes()).hexdigest(), "relpath": file.name} for file in files]
    assert lock["md5"] == hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"
