"""The doctor finds each fault, says what to do about it, and prints no secret."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from flow_workspaces import ROOT, params, write_params
from PIL import Image

from florence.config import read_settings
from florence.workspace import bind_workspace
from florence.workspace.collect import collect_images
from flows.doctor import Check, check_workspace, folder, format_checks, installation
from flows.init import create_workspace


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "w"
    create_workspace(folder)
    return folder


@pytest.fixture
def workspace(whole: Path) -> Path:
    write_params(whole)
    return whole


def looked_at(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in check_workspace(folder)}


def test_a_new_workspace_has_no_fault(workspace: Path):
    found = check_workspace(workspace)
    assert [check for check in found if check.status == "fail"] == []
    text = format_checks(found)
    assert "0 failed" in text and "`florence loop` makes one" in text


def test_no_workspace_is_a_fault_with_a_remedy(tmp_path: Path):
    found = looked_at(tmp_path)
    assert found["workspace"].status == "fail" and "florence init" in found["workspace"].remedy
    assert found["settings"].status == "fail"


@pytest.mark.parametrize(
    ("overlay", "name", "status", "message"),
    [
        ({"train": {"steps": -1}}, "settings", "fail", "train.steps"),
        (
            {"annotators": {"careful": {"use": "nobody"}}},
            "plug-ins",
            "fail",
            "annotators.careful: unknown annotator 'nobody'",
        ),
        ({"sources": {"scenes": {"count": "many"}}}, "plug-ins", "fail", "sources.scenes"),
        ({"annotators": {"careful": {"sources": ["photos"]}}}, "annotators", "warn", "careful annotates no source"),
        ({"model": {"init": "nano-with-a-typo!"}}, "model.init", "fail", "neither a preset"),
        ({"model": {"init": "some/where"}}, "model.init", "warn", "not in the hub's cache"),
        ({"tracking": {"uri": "http://127.0.0.1:1"}}, "MLflow", "fail", "does not answer"),
        ({"train": None}, "dvc.yaml", "fail", "lacks train"),
    ],
)
def test_each_fault_is_found(workspace: Path, overlay: dict, name: str, status: str, message: str):
    from florence.config import merged

    (workspace / "params.yaml").write_text(yaml.safe_dump(merged(params(), overlay)))
    check = looked_at(workspace)[name]
    assert (check.status, message in check.found) == (status, True), check


def test_what_label_sets_match_is_told_as_in_a_run(workspace: Path):
    photos = workspace / "photos/train"
    photos.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate("abc"):
        Image.new("RGB", (40, 30), (number * 50, 9, 9)).save(photos / f"{name}.png")
    (workspace / "texts.jsonl").write_text("".join(json.dumps({"name": f"{n}.png", "text": n}) + "\n" for n in "abc"))
    labels = {"use": "existing", "format": "alttext", "uri": str(workspace / "texts.jsonl"), "sources": ["photos"]}
    write_params(
        workspace,
        sources={"scenes": None, "photos": {"use": "folder", "uri": str(photos.parent)}},
        annotators={
            "wrong": labels,
            "right": {**labels, "strip": "train/"},
            "gone": {**labels, "uri": "nowhere.csv", "required": False},
        },
    )
    found = looked_at(workspace)
    assert found["labels"].status == "warn" and "no image is collected" in found["labels"].found
    opened = bind_workspace(workspace, read_settings(workspace / "params.yaml"))
    collect_images(opened)
    found = looked_at(workspace)
    assert found["labels of wrong"].status == "fail" and "knows 0 of 3 images" in found["labels of wrong"].found
    assert "strip: train/" in found["labels of wrong"].remedy
    assert found["labels of right"].status == "ok" and "knows 3 of 3 images" in found["labels of right"].found
    assert found["annotators.gone"].status == "warn" and "nowhere.csv" in found["annotators.gone"].found
    assert found["plug-ins"].status == "ok"
    shutil.rmtree(workspace / ".florence/store")


def test_secrets_are_not_read_out(workspace: Path, monkeypatch):
    write_params(workspace, tracking={"uri": "http://user:geheim@127.0.0.1:1"})
    monkeypatch.setenv("PREFECT_API_URL", "http://user:geheim@127.0.0.1:1/api")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    text = format_checks(check_workspace(workspace))
    assert "127.0.0.1:1" in text and "geheim" not in text


def test_a_fresh_clone_hears_how_to_get_data(workspace: Path):
    (workspace / "data.dvc").write_text("outs:\n- md5: 0.dir\n  path: data\n")
    try:
        check = looked_at(workspace)["data"]
    finally:
        (workspace / "data.dvc").unlink()
    assert (
        check.status == "warn"
        and "dvc pull" in check.remedy
        and "florence loop" in check.remedy
        and "make demo" in check.remedy
    )


def test_packages_that_do_not_go_together_are_found(monkeypatch):
    versions = {"fastapi": "0.151.0", "sqlalchemy": "2.1.9", "torchvision": "0.1"}
    monkeypatch.setattr(installation, "_version", lambda name: versions.get(name, "1.0"))
    monkeypatch.setattr(
        installation, "_import_error", lambda name: "RuntimeError: operator torchvision::nms does not exist"
    )
    found = {check.name: check for check in installation.check_packages()}
    assert found["fastapi"].status == "fail" and "fastapi<0.151" in found["fastapi"].remedy
    assert found["sqlalchemy"].status == "fail" and "sqlalchemy<2.1" in found["sqlalchemy"].remedy
    assert found["torchvision"].status == "fail" and "uninstall" in found["torchvision"].remedy


def test_the_repository_is_a_workspace():
    found = {check.name: check for check in folder.check_folder(ROOT)}
    assert found["workspace"].status == "ok"
