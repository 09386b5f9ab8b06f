"""A disk that is full at each stage: a plain sentence, nothing half-written; the same command goes on afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_workspaces import florence, write_params

from flows.init import create_workspace

pytestmark = pytest.mark.accept
STAGES = ("collect", "annotate", "publish", "validate", "train", "evaluate", "compare", "register", "report")
LEFT = (0, 48 * 1024, 400 * 1024)
"""Bytes that are free when a stage begins."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Path]:
    """Yield a small file system of its own."""
    folder = tmp_path_factory.mktemp("disk") / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Ballast:
    """A file that fills a disk up to some bytes, while the block runs."""

    def __init__(self, disk: Path, left: int) -> None:
        self.file, self.left = disk / "ballast", left

    def __enter__(self) -> None:
        free = shutil.disk_usage(self.file.parent).free
        if (size := free - self.left) > 0:
            with self.file.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)

    def __exit__(self, *_: object) -> None:
        self.file.unlink(missing_ok=True)


def half_written(root: Path) -> list[str]:
    return sorted(
        str(p.relative_to(root)) for p in root.rglob("*.part") if "mlruns" not in p.parts and ".dvc" not in p.parts
    )


def test_each_stage_says_so_and_goes_on_when_there_is_room(disk: Path):
    root = disk / "w"
    create_workspace(root)
    write_params(root, flow={"rounds": 1})
    temporary = disk / "tmp"
    temporary.mkdir()
    told: dict[tuple[str, int], str] = {}
    for stage in STAGES:
        for left in LEFT:
            with Ballast(disk, left):
                done = florence(root, stage, timeout=600, TMPDIR=str(temporary))
            told[stage, left] = done.stderr[-3000:]
            assert "Traceback" not in done.stderr and "Traceback" not in done.stdout, (stage, left, done.stderr)
            if done.returncode:
                assert "the disk is full" in done.stderr, (stage, left, done.stderr)
                assert half_written(root) == [], (stage, left)
        done = florence(root, stage, timeout=600, TMPDIR=str(temporary))
        assert done.returncode == 0, (stage, done.stderr, told)
    assert (root / "build/report/index.html").stat().st_size > 1000
    again = florence(root, "doctor")
    assert [line.split()[1] for line in again.stdout.splitlines() if line.startswith("fail")] == ["disk"], again.stdout


def test_a_loop_that_met_a_full_disk_goes_on(disk: Path):
    root = disk / "loop"
    create_workspace(root)
    write_params(root, flow={"rounds": 1})
    for left in (0, 300 * 1024, 3_000_000, 12_000_000):
        with Ballast(disk, left):
            done = florence(root, "loop", timeout=900)
        assert "Traceback" not in done.stderr and "Traceback" not in done.stdout, (left, done.stderr)
        if done.returncode:
            assert "the disk is full" in done.stderr, (left, done.stderr)
    done = florence(root, "loop", timeout=900)
    assert done.returncode == 0, done.stderr
    assert "champion version 1" in done.stdout or "nothing new" in done.stdout
