"""Registered models: what is packed, who is champion, and a model loaded where there is no florence but its own."""

from __future__ import annotations

import ast
import atexit
import base64
import io
import json
import os
import pickletools
import re
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest
import yaml
from mlflow_stores import registry

import florence
from florence.errors import FlorenceError, ModelError
from flows.adapters.alias_log import AliasMove, list_champions
from flows.adapters.mlflow_locations import follow_workspace
from flows.adapters.mlflow_store import ARTIFACTS
from flows.adapters.model_package import REQUIREMENTS
from flows.adapters.model_registry import ModelVersion
from flows.adapters.tracking import Tracker

LIBRARY = Path(florence.__file__).parent


def model_folder(path: Path, weights: bytes = b"weights") -> Path:
    """Write a folder that looks like a model, for tests that do not load it."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}", encoding="utf-8")
    (path / "model.safetensors").write_bytes(weights)
    return path


def register_rounds(root: Path, rounds: int = 1, **settings: str):
    """Return a registry with a version for each round."""
    found = registry(root, **settings)
    loop = Tracker(found.store).loop_run("l", {})
    for number in range(rounds):
        folder = model_folder(root / f"models/{number}", f"weights of round {number}".encode())
        found.register(
            Tracker(found.store).round_run(loop, number),
            folder,
            {"round": number, "snapshot": f"s{number}", "nothing": None},
        )
    return found


@lru_cache
def template(rounds: int) -> Path:
    """Return a workspace whose registry has a version for each round, to be copied: registering one takes long."""
    folder = Path(tempfile.mkdtemp(prefix="rounds-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    register_rounds(folder, rounds)
    return folder


def copy_rounds(root: Path, rounds: int = 1):
    """Return the registry of a copy of `template`."""
    shutil.copytree(template(rounds), root, dirs_exist_ok=True)
    follow_workspace(root / "build/mlflow.db", root.resolve(), ARTIFACTS)
    return registry(root)


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }


def packed_folder(root: Path) -> Path:
    """Return the folder that MLflow keeps of the only model."""
    (file,) = (root / "build/mlartifacts").rglob("MLmodel")
    return file.parent


def is_pickle(data: bytes) -> bool:
    try:
        names = [op.name for op, _, _ in pickletools.genops(data)]
    except Exception:
        return b"data.pkl" in data
    return len(names) > 1


# ---------------------------------------------------------------- registering


def test_a_model_is_registered_once_with_its_lineage(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "w"
    found = register_rounds(root)
    run = Tracker(found.store).round_run(Tracker(found.store).loop_run("l", {}), 0)
    only = ModelVersion("1", run, {"round": "0", "snapshot": "s0"}, ("challenger",))
    assert found.versions() == (only,) and found.challenger() == only and found.champion() is None
    again = registry(root)
    assert again.register(run, root / "models/0", {"other": 1}) == "1"
    assert again.versions() == (only,)
    assert not list(elsewhere.iterdir()) and "MLFLOW_TRACKING_URI" not in os.environ
    assert {p.name for p in root.iterdir()} == {"build", "models"}


def test_what_is_packed(tmp_path):
    register_rounds(tmp_path)
    folder = packed_folder(tmp_path)
    found = files(folder)
    assert not [name for name, data in found.items() if is_pickle(data) or name.endswith((".pkl", ".pickle", ".pyc"))]
    assert {n.removeprefix("artifacts/model/"): d for n, d in found.items() if n.startswith("artifacts/")} == files(
        tmp_path / "models/0"
    )
    code = {name.removeprefix("code/florence/"): data for name, data in found.items() if name.startswith("code/")}
    assert {n: d for n, d in code.items() if n.endswith(".py")} == {
        n: d for n, d in files(LIBRARY).items() if n.endswith(".py")
    }
    assert "model/vocabulary.json" in code and not [n for n in code if n.endswith(".safetensors") or "__pycache__" in n]
    pyfunc = yaml.safe_load(found["MLmodel"])["flavors"]["python_function"]
    assert (
        Path(pyfunc["model_code_path"]).name == "served.py"
        and not Path(pyfunc["model_code_path"]).exists()
        and "python_model" not in pyfunc
    )
    assert str(LIBRARY.parent) not in found["MLmodel"].decode()
    pinned = found["requirements.txt"].decode().split()
    assert [line.partition("==")[0] for line in pinned] == list(REQUIREMENTS) and not [
        line for line in pinned if "+" in line
    ]


def test_links_that_dvc_made_are_followed(tmp_path):
    found = registry(tmp_path)
    real = model_folder(tmp_path / "cache")
    folder = tmp_path / "model"
    folder.mkdir()
    for file in real.iterdir():
        (folder / file.name).symlink_to(file)
    found.register(Tracker(found.store).loop_run("l", {}), folder, {})
    assert files(packed_folder(tmp_path) / "artifacts/model") == files(real)


@pytest.mark.parametrize(
    ("extra", "missing", "message"),
    [
        ("pytorch_model.bin", None, "pytorch_model.bin, which may be a pickle"),
        ("sub/optimizer.pt", None, "optimizer.pt, which may be a pickle"),
        (None, "model.safetensors", "florence train"),
        (None, "config.json", "florence train"),
    ],
)
def test_an_incomplete_model_or_a_possible_pickle_is_refused(tmp_path, extra, missing, message):
    found, folder = registry(tmp_path), model_folder(tmp_path / "model")
    if extra:
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"x")
    if missing:
        (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        found.register(Tracker(found.store).loop_run("l", {}), folder, {})
    assert found.versions() == ()


@pytest.mark.parametrize("step", ["log_model_artifacts", "create_model_version", "set_registered_model_alias"])
def test_registering_that_was_cut_short_is_done_again(tmp_path, monkeypatch, step):
    found, folder = registry(tmp_path), model_folder(tmp_path / "model")
    run = Tracker(found.store).loop_run("l", {})

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(found.store.client, step, cut)
        found.register(run, folder, {})
    again = registry(tmp_path)
    assert again.register(run, folder, {}) == "1"
    assert [(v.version, v.aliases) for v in again.versions()] == [("1", ("challenger",))]
    assert files(again.fetch("challenger")) == files(folder)


# ---------------------------------------------------------------- champion


def test_promoting_and_going_back_again_and_again(tmp_path):
    found = copy_rounds(tmp_path, rounds=4)
    assert [found.promote(v).version for v in (1, "2")] == ["1", "2"]
    assert found.promote(2).aliases == ("champion",)  # again: nothing to remember
    assert found.promote() == found.champion() == found.challenger() and found.champion().version == "4"
    found = registry(tmp_path)
    assert [found.rollback(), found.rollback()] == [("4", "2"), ("2", "1")]
    with pytest.raises(FlorenceError, match="nothing to roll back to: version 1 is the first champion"):
        found.rollback()
    assert found.champion().version == "1"
    found.promote("3")
    assert found.rollback() == ("3", "1")
    assert [v.version for v in found.versions()] == ["4", "3", "2", "1"]


def test_going_back_skips_what_was_deleted_and_what_was_cut_short(tmp_path, monkeypatch):
    found = copy_rounds(tmp_path, rounds=3)
    for version in (1, 2, 3):
        found.promote(version)
    found.store.client.delete_model_version("florence", "2")
    assert found.rollback() == ("3", "1")

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(found.store.client, "set_registered_model_alias", cut)
        found.promote(3)
    with pytest.raises(FlorenceError, match="first champion"):
        registry(tmp_path).rollback()
    found.promote(3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(found.store.client, "set_registered_model_alias", cut)
        found.rollback()
    found = registry(tmp_path)
    assert found.champion().version == "3"
    assert found.rollback() == ("3", "1") and found.champion().version == "1"
    with pytest.raises(FlorenceError, match="first champion"):
        found.rollback()


def test_a_rejected_version_is_promoted_only_by_force_and_the_log_says_so(tmp_path):
    found = copy_rounds(tmp_path, rounds=2)
    found.promote(1, "the first one")
    found.store.client.set_model_version_tag("florence", "2", "decision", "rejected")
    found.store.client.set_model_version_tag("florence", "2", "reason", "<OD> fell")
    for version in (2, None, "challenger"):
        with pytest.raises(FlorenceError, match="version 2 of 'florence' was rejected: <OD> fell; `florence promote 2"):
            found.promote(version)
    assert found.champion().version == "1"
    assert found.promote(2, "captions alone matter", force=True).version == "2"
    found.rollback("it was a mistake")
    moves = registry(tmp_path).moves()
    assert [(m.action, m.before, m.after, m.reason, m.forced) for m in moves] == [
        ("promote", None, "1", "the first one", False),
        ("promote", "1", "2", "captions alone matter", True),
        ("rollback", "2", "1", "it was a mistake", False),
    ]
    assert all("@" in move.who and move.time.endswith("+00:00") for move in moves)
    assert [move.time for move in moves] == sorted(move.time for move in moves)


def test_two_writers_lose_no_entry_of_the_log(tmp_path):
    copy_rounds(tmp_path, rounds=3)
    mine, theirs = registry(tmp_path), registry(tmp_path)
    code = (
        "import sys; sys.path.insert(0, {tests!r}); from pathlib import Path; from mlflow_stores import registry\n"
        "found = registry(Path({root!r}))\n"
        "for n in range(8): found.promote(n % 3 + 1, f'{who} {{n}}')\n"
    )
    tests = str(Path(__file__).parent)
    writers = [
        subprocess.Popen([sys.executable, "-c", code.format(tests=tests, root=str(tmp_path), who=who)])
        for who in ("one", "two")
    ]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    moves = mine.moves()
    assert moves == theirs.moves() and {move.reason.split()[0] for move in moves} == {"one", "two"}
    # a version that is champion already is no move
    assert 8 <= len(moves) <= 16 and mine.champion() is not None
    assert all(move.before != move.after for move in moves)


def test_champions_of_a_log_are_gone_through_backwards():
    def move(action: str, before: str | None, after: str) -> AliasMove:
        return AliasMove("t", "w", action, before, after)  # type: ignore[arg-type]

    there = ["1", "2", "3", "4"]
    up = [move("promote", None, "1"), move("promote", "1", "2"), move("promote", "2", "3")]
    assert list_champions([], None, there) == [] and list_champions([], "2", there) == ["2"]
    assert list_champions(up, "3", there) == ["1", "2", "3"]
    assert list_champions(up, "2", there) == ["1", "2"], "the last move never took place"
    assert list_champions([*up, move("rollback", "3", "2")], "2", there) == ["1", "2"]
    assert list_champions([*up, move("rollback", "3", "2")], "3", there) == ["1", "2", "3"], "nor did the rollback"
    assert list_champions(up, "4", there) == ["1", "2", "3", "4"], "somebody else named it"
    assert list_champions([*up, move("promote", "3", "1")], "1", there) == ["1", "2", "3", "1"]
    assert list_champions(up, "3", ["1", "3"]) == ["1", "3"], "a version was deleted"
    assert list_champions([move("promote", "7", "3")], "3", there) == ["3"]


def test_where_there_is_nothing(tmp_path):
    found = registry(tmp_path)
    assert (found.champion(), found.challenger(), found.versions()) == (None, None, ())
    with pytest.raises(FlorenceError, match="no challenger of 'florence'.*florence register"):
        found.promote()
    with pytest.raises(FlorenceError, match="nothing to roll back to: there is no champion"):
        found.rollback()
    with pytest.raises(FlorenceError, match="no version or alias 'champion'; registered: none"):
        found.fetch("champion")


def test_an_unknown_version_is_refused_and_the_known_ones_listed(tmp_path):
    found = copy_rounds(tmp_path, rounds=2)
    found.promote(1)
    for attempt in (found.promote, found.fetch):
        with pytest.raises(
            FlorenceError, match=re.escape("has no version or alias '7'; registered: 2 (@challenger), 1 (@champion)")
        ):
            attempt(7)
    assert found.champion().version == "1"


# ---------------------------------------------------------------- fetching


def test_a_model_is_fetched_once(tmp_path):
    found = copy_rounds(tmp_path, rounds=2)
    found.promote(1)
    folder = found.fetch("champion")
    assert folder == tmp_path / ".florence/models/1" and files(folder) == files(tmp_path / "models/0")
    before = {p: p.stat().st_ino for p in folder.iterdir()}
    assert found.fetch("1") == found.fetch("@champion") == registry(tmp_path).fetch(1) == folder
    assert {p: p.stat().st_ino for p in folder.iterdir()} == before
    assert files(found.fetch("challenger", tmp_path / "there")) == files(tmp_path / "models/1")
    assert sorted(p.name for p in (tmp_path / ".florence/models").iterdir()) == [".lock", ".tmp", "1"]
    # What was fetched can be registered in turn.
    run = Tracker(found.store).round_run(Tracker(found.store).loop_run("l", {}), 9)
    assert files(found.fetch(found.register(run, folder, {}))) == files(folder)


def test_another_store_s_model_of_the_same_number_is_fetched_anew(tmp_path):
    cache = copy_rounds(tmp_path / "a").fetch("1").parent
    found = registry(tmp_path / "b")
    found.register(Tracker(found.store).loop_run("l", {}), model_folder(tmp_path / "b/model", b"other weights"), {})
    assert (found.fetch("1", cache) / "model.safetensors").read_bytes() == b"other weights"
    assert files(registry(tmp_path / "a").fetch("1")) == files(tmp_path / "a/models/0")


def test_a_model_that_cannot_be_fetched_leaves_nothing(tmp_path):
    found = copy_rounds(tmp_path)
    shutil.rmtree(packed_folder(tmp_path) / "artifacts")
    with pytest.raises(FlorenceError, match="cannot fetch the model"):
        found.fetch("1")
    assert [p.name for p in (tmp_path / ".florence/models").rglob("*") if p.name not in (".lock", ".tmp")] == []


def test_what_a_killed_download_has_left_is_removed_by_the_next_one(tmp_path):
    found = copy_rounds(tmp_path)
    if (child := os.fork()) == 0:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", lambda *paths: os._exit(9))
            found.fetch("1")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = tmp_path / ".florence/models/.tmp"
    assert list(left.rglob("model.safetensors"))
    assert (found.fetch("1") / "model.safetensors").is_file() and [p.name for p in left.rglob("*")] == [".lock"]


# ---------------------------------------------------------------- used elsewhere

ELSEWHERE = """
import json, sys
from importlib.machinery import PathFinder

class NoCheckout:
    "Hides every florence and flows but one that was put on the path by MLflow, editable installs too."
    def find_spec(self, name, path=None, target=None):
        if name in ("florence", "flows"):
            found = PathFinder.find_spec(name, sys.path)
            if found is None or found.origin.startswith(sys.argv[1]):
                raise ModuleNotFoundError(f"{name} is not installed here", name=name)
            return found

sys.meta_path.insert(0, NoCheckout())
for name in ("florence", "flows"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} was found")

import mlflow
import pandas as pd
mlflow.set_tracking_uri(sys.argv[2])
model = mlflow.pyfunc.load_model("models:/florence@champion")
import florence
requests = json.loads(sys.stdin.read())
requests[1]["image"] = open("photo.png", "rb").read()
table = model.predict(pd.DataFrame(requests), params={"max_tokens": 12})
listed = model.predict([row for row in requests if isinstance(row["image"], str)], params={"max_tokens": 12})
print(json.dumps({
    "library": florence.__file__,
    "table": table.to_dict("records"), "listed": listed.to_dict("records"),
    "modules": sorted(m.__file__ for n, m in list(sys.modules.items()) if n.split(".")[0] == "florence"),
}, allow_nan=False))
"""


def used_elsewhere(root: Path, uri: str, env: dict[str, str]) -> dict:
    """Return the champion's answers from a process in another folder that sees no checkout; the photo is made here."""
    import numpy as np
    from PIL import Image

    folder = root / "far away"
    folder.mkdir()
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(sink, "PNG")
    (folder / "photo.png").write_bytes(sink.getvalue())
    text = base64.b64encode(sink.getvalue()).decode()
    requests = [
        {"image": f"data:image/png;base64,{text}", "task": "<OD>"},
        {"image": None, "task": "<OD>"},
        {"image": text, "task": "<OD>"},
        {"image": text, "task": "<REGION_TO_CATEGORY>", "input": "<loc_1><loc_2><loc_500><loc_600>"},
        {"image": "photo.png", "task": "<OD>"},
        {"image": text, "task": "<NOPE>"},
    ]
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(LIBRARY.parent), uri],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**quiet, **env},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def real_model(path: Path) -> Path:
    from florence.model import checkpoint

    checkpoint.build("nano", image_size=64).save(path)
    return path


def test_the_champion_is_used_where_no_florence_is_installed(tmp_path):
    found = registry(tmp_path)
    folder = real_model(tmp_path / "model")
    found.register(Tracker(found.store).loop_run("l", {}), folder, {})
    found.promote()
    message = used_elsewhere(tmp_path, found.uri, {})
    assert Path(message["library"]) == packed_folder(tmp_path) / "code/florence/__init__.py"
    by_url, by_bytes, by_base64, category, path, unknown = message["table"]
    assert by_url == by_bytes == by_base64
    assert set(by_url) == {"text", "regions", "score", "confidence", "truncated", "error"}
    assert path["text"] == "" and "the image cannot be used" in path["error"] and "photo" not in path["error"]
    assert unknown["text"] == "" and unknown["error"].startswith("unknown task") and "<OD>" in unknown["error"]
    assert [row["text"] for row in message["listed"]] == [by_url["text"], by_url["text"], category["text"], "", ""]
    assert [by_url["text"], category["text"]] == _here(folder, tmp_path / "far away/photo.png")
    # imported by florence.images.perceptual_hash alone, which a served model never calls; read where it is installed
    unused = {"imagehash", "pillow_heif"}
    assert _packages(message["modules"]) <= set(REQUIREMENTS) | unused


def _here(folder: Path, photo: Path) -> list[str]:
    """Return the answers of this process's library to the same questions."""
    from florence.images import decode_image
    from florence.model import checkpoint
    from florence.model.generate import Query, predict

    queries = [Query(0, "<OD>"), Query(0, "<REGION_TO_CATEGORY>", "<loc_1><loc_2><loc_500><loc_600>")]
    return [
        answer.text
        for answer in predict(
            checkpoint.load(str(folder)), [decode_image(photo.read_bytes(), "photo")], queries, max_tokens=12
        )
    ]


def _packages(modules: list[str]) -> set[str]:
    """Return the packages that the loaded florence modules import, by the name to install."""
    names = set()
    for module in modules:
        for node in ast.walk(ast.parse(Path(module).read_text(encoding="utf-8"))):
            names |= {a.name.split(".")[0] for a in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()
    package = {"PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python-headless", "huggingface_hub": "huggingface-hub"}
    return {package.get(name, name) for name in names - sys.stdlib_module_names - {"florence"}}
