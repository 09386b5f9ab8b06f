"""Snapshots on real DVC and git: versions there and back, stages run once, killed and named when they fail."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from s3_server import S3

from florence.config import SnapshotSettings
from florence.errors import FlorenceError
from florence.store import Store
from flows.adapters import snapshots
from flows.adapters.snapshots import Snapshots, find_other_params

ROOT = Path(__file__).parents[1]
STAGES = """
stages:
  train:
    cmd: python train.py
    deps: [data/images, train.py]
    params: [train]
    outs: [model]
    metrics:
      - metrics/train.json: {cache: false}
  compare:
    cmd: echo "compared by $WHO with $(command -v florence)"; test ! -e broken
    deps: [model]
"""
TRAIN = """
import json, pathlib, sys
for name in ("model", "metrics", "plots"):
    pathlib.Path(name).mkdir(exist_ok=True)
text = pathlib.Path("data/images/a").read_text()
print("training on", text, flush=True)
pathlib.Path("model/weights").write_text(text * 3)
pathlib.Path("metrics/train.json").write_text(json.dumps({"length": len(text)}))
pathlib.Path("plots/train.csv").write_text("step,loss\\n")
"""


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def dvc(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(autouse=True)
def _own_git(monkeypatch):
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)


@pytest.fixture(scope="module")
def _blank(tmp_path_factory) -> Path:
    """Return a workspace with DVC and git, to be copied: starting one takes seconds."""
    folder = tmp_path_factory.mktemp("blank") / "w"
    folder.mkdir()
    git(folder, "init", "-q")
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"}
    )
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    return folder


@pytest.fixture()
def root(_blank: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "wörk räum"
    shutil.copytree(_blank, folder)
    publish(folder, "one")
    return folder


@pytest.fixture(scope="module")
def _added(_blank: Path, tmp_path_factory) -> Path:
    """Return a workspace with stages and a snapshot, to be copied."""
    folder = tmp_path_factory.mktemp("added") / "w"
    shutil.copytree(_blank, folder)
    publish(folder, "one")
    staged(folder)
    Snapshots(folder, SnapshotSettings()).add()
    return folder


@pytest.fixture()
def added(_added: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_added, tmp_path / "wörk räum"))


def publish(folder: Path, text: str) -> None:
    Store(str(folder / "data")).write_bytes("images/a", text.encode())


def staged(folder: Path) -> None:
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "train.py").write_text(TRAIN)
    (folder / "params.yaml").write_text("train: {steps: 1}\n")


def test_a_round_is_kept_and_comes_back_and_stages_run_once(root: Path, tmp_path: Path):
    staged(root)
    ours = Snapshots(root, SnapshotSettings())
    assert ours.data_hash() is None
    first = ours.add()
    assert first.endswith(".dir") and first == ours.data_hash()
    lines: list[str] = []
    ours.repro({"WHO": "us"}, lines.append)
    assert "training on one" in lines and any("compared by us" in line for line in lines)
    assert any(str(Path(sys.executable).parent) in line for line in lines), (
        "stages find the commands of this environment"
    )
    lock = (root / "dvc.lock").read_bytes()
    ours.keep(tmp_path / "kept" / "round=0")

    publish(root, "two two")
    second = ours.add()
    assert second != first
    ours.repro({"WHO": "us"}, lines.append)
    assert json.loads((root / "metrics/train.json").read_text()) == {"length": 7}
    (root / "metrics/scores.json").write_text("{}")

    ours.restore(tmp_path / "kept" / "round=0")
    assert ours.data_hash() == first and (root / "dvc.lock").read_bytes() == lock
    assert (root / "data/images/a").read_text() == "one" and (root / "model/weights").read_text() == "oneoneone"
    assert json.loads((root / "metrics/train.json").read_text()) == {"length": 3}
    assert not (root / "metrics/scores.json").exists()
    again: list[str] = []
    ours.repro(None, again.append)
    assert not any("training" in line or "Running stage" in line for line in again), again
    publish(root, "two two")
    assert ours.add() == second, "the same content has the same hash"


def test_a_stage_that_fails_is_named_with_its_last_lines(added: Path):
    (added / "broken").write_text("")
    ours = Snapshots(added, SnapshotSettings())
    with pytest.raises(
        FlorenceError, match=r"stage compare failed \(failed to run: .*exited with 1\):\n  compared by "
    ) as caught:
        ours.repro({}, lambda line: None)
    assert "training" not in str(caught.value), "the lines of the other stage are left out"
    (added / "params.yaml").write_text("model: {}\n")
    with pytest.raises(FlorenceError, match="stage train: .*'train' are missing from 'params.yaml'.*have to be there"):
        ours.repro({}, lambda line: None)


def test_without_data_it_says_how_to_get_it(added: Path):
    ours = Snapshots(added, SnapshotSettings())
    (added / "data/images/a").unlink()
    (added / "data/images").rmdir()
    (added / "data").rmdir()
    with pytest.raises(FlorenceError, match="missing data 'source': data.*`dvc pull`.*`florence loop`"):
        ours.repro({}, lambda line: None)
    with pytest.raises(FlorenceError, match="nothing has been published"):
        ours.add()


def test_outside_of_a_repository(tmp_path: Path):
    (tmp_path / "data").mkdir()
    ours = Snapshots(tmp_path, SnapshotSettings())
    with pytest.raises(FlorenceError, match="no DVC repository: `florence init"):
        ours.add()
    assert not ours.push()
    with pytest.raises(FlorenceError, match="holds no round"):
        ours.restore(tmp_path / "kept")


def test_half_written_files_of_a_killed_process_are_written_again(added: Path):
    ours = Snapshots(added, SnapshotSettings())
    found = ours.data_hash()
    ours.repro({}, lambda line: None)
    lock = (added / "dvc.lock").read_text()
    (added / "data.dvc").write_text("outs:\n- ")
    assert ours.add() == found
    (added / "dvc.lock").write_text(lock[:10])
    lines: list[str] = []
    ours.repro({}, lines.append)
    assert (added / "dvc.lock").read_text() == lock and "training on one" not in lines, (
        "DVC's run cache knows the stage"
    )


def test_another_dvc_process_is_waited_for(root: Path, monkeypatch):
    monkeypatch.setattr(snapshots, "RETRY_DELAYS", (0.1,) * 60)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, zc.lockfile as z; l = z.LockFile(sys.argv[1]); print('held', flush=True); sys.stdin.read()",
            str(root / ".dvc/tmp/lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline().strip() == b"held"
    tries: list[float] = []

    def sleep(seconds: float) -> None:
        tries.append(seconds)
        holder.stdin.close()
        holder.wait()

    monkeypatch.setattr(snapshots.time, "sleep", sleep)
    assert Snapshots(root, SnapshotSettings()).add().endswith(".dir")
    assert len(tries) == 1
    monkeypatch.setattr(snapshots, "RETRY_DELAYS", ())
    monkeypatch.setattr(
        Snapshots,
        "_run",
        lambda *_: (255, ["ERROR: Unable to acquire lock. Most likely another DVC process is running"]),
    )
    with pytest.raises(FlorenceError, match="another DVC process holds the lock"):
        Snapshots(root, SnapshotSettings()).add()


def test_stages_end_with_the_process_that_runs_them(added: Path):
    (added / "train.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(100)")
    ours = Snapshots(added, SnapshotSettings())
    code = (
        "from pathlib import Path; from florence.config import SnapshotSettings as S; "
        f"from flows.adapters.snapshots import Snapshots; Snapshots(Path({str(added)!r}), S()).repro()"
    )
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    pid = _until(lambda: (added / "pid").exists() and (added / "pid").read_text())
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    _until(lambda: not _alive(int(pid)))
    staged(added)
    lines: list[str] = []
    ours.repro({}, lines.append)
    assert "training on one" in lines


def _until(true, seconds: float = 60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_publishing_over_hard_links_leaves_the_cache_whole(root: Path, tmp_path: Path):
    """With links instead of copies a file in data/ is the cache's own: it must be replaced, never overwritten."""
    (root / ".dvc/config").write_text("[cache]\n    type = hardlink,symlink\n")
    ours, data = Snapshots(root, SnapshotSettings()), Store(str(root / "data"))
    data.write_table("labels/round-00000.parquet", pa.table({"a": [1, 2, 3]}))
    first = ours.add()
    dvc(root, "checkout", "--relink")
    assert (root / "data/labels/round-00000.parquet").stat().st_nlink == 2 or (
        root / "data/labels/round-00000.parquet"
    ).is_symlink()
    ours.keep(tmp_path / "kept")
    data.write_table("labels/round-00000.parquet", pa.table({"a": [4, 5, 6]}))
    data.write_bytes("images/a", b"other")
    assert ours.add() != first
    for path in (root / ".dvc/cache/files/md5").rglob("*"):
        if path.is_file():
            assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name.removesuffix(".dir")
    ours.restore(tmp_path / "kept")
    assert data.read_table("labels/round-00000.parquet")["a"].to_pylist() == [1, 2, 3]


def test_push_goes_to_the_remote_that_is_set(root: Path, tmp_path: Path):
    ours = Snapshots(root, SnapshotSettings())
    ours.add()
    config = root / ".dvc/config"
    config.write_text(f"['remote \"named\"']\n    url = {tmp_path / 'remote one'}\n")
    assert Snapshots(root, SnapshotSettings()).remotes() == {"named": str(tmp_path / "remote one")}
    assert not ours.push(), "a remote, but no default one, and none is named"
    assert Snapshots(root, SnapshotSettings(push="named")).push()
    pushed = {p.name for p in (tmp_path / "remote one").rglob("*") if p.is_file()}
    assert any(name.endswith(".dir") for name in pushed) and len(pushed) == 2
    (tmp_path / "file").write_text("")
    config.write_text(f"[core]\n    remote = bad\n['remote \"bad\"']\n    url = {tmp_path / 'file'}\n")
    with pytest.raises(
        FlorenceError, match="cannot be pushed to the DVC remote 'bad': .*Not a directory.*\n`dvc remote list`"
    ):
        ours.push()


def test_credentials_are_redacted_where_people_read_them_and_not_where_output_is_parsed(root: Path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret/value")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    ours = Snapshots(root, SnapshotSettings())
    with (root / ".dvc/config").open("a") as config:
        config.write("['remote \"web\"']\n    url = https://user:pass@host/a-secret/value\n")
    (root / ".dvc/config.local").write_text("[core]\n    remote = web\n")
    assert ours.remotes() == {"web": "https://user:pass@host/a-secret/value"}
    listed = dvc(root, "config", "--list").splitlines()
    assert ours._read_config() == dict(line.split("=", 1) for line in listed) and "core.remote=web" in listed
    message: list[str] = []
    ours._run(["config", "--list"], None, message.append)
    assert "remote.web.url=https://•••@host/•••" in message and "core.analytics=false" in message


@pytest.mark.accept
def test_a_snapshot_goes_to_s3_and_comes_back_in_another_clone(root: Path, tmp_path: Path, s3: S3, monkeypatch):
    """Endpoint and credentials come from the environment alone."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    dvc(root, "remote", "add", "-d", "storage", f"s3://{s3.bucket}/dvc")
    ours = Snapshots(root, SnapshotSettings())
    found = ours.add()
    assert ours.push()
    clone = tmp_path / "clone"
    (clone / ".dvc").mkdir(parents=True)
    git(clone, "init", "-q")
    for name in ("data.dvc", ".dvc/config"):
        (clone / name).write_bytes((root / name).read_bytes())
    dvc(clone, "pull", "-q")
    assert (clone / "data/images/a").read_text() == "one" and Snapshots(clone, SnapshotSettings()).data_hash() == found
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-key")
    publish(root, "more")
    ours.add()
    with pytest.raises(FlorenceError, match="DVC remote 'storage'.*Forbidden") as caught:
        ours.push()
    assert "florence doctor" in str(caught.value) and "not-the-secret-key" not in str(caught.value)
    assert not any(
        s3.env["AWS_SECRET_ACCESS_KEY"].encode() in p.read_bytes() for p in (root / ".dvc").rglob("*") if p.is_file()
    )


def test_other_settings_in_a_lock_are_found_as_dvc_reads_them():
    lock = b"stages: {train: {params: {params.yaml: {train: {lr: 1e-05, steps: 3}}}}}\n"
    assert not list(find_other_params(lock, b"train: {lr: 1e-5, steps: 3}\n"))
    assert list(find_other_params(lock, b"train: {lr: 1e-5, steps: 4}\n")) == [("train", "train")]
    assert list(find_other_params(lock, b"model: {}\n")) == [("train", "train")]
