"""The benchmarks' commands on little: that they run, and what they print apart from times."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from flow_workspaces import ROOT, environment


def run_benchmark(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_claims_are_counted_side_by_side(tmp_path: Path):
    printed = run_benchmark("engine_claims", "--claims", "6000", "--repeats", "1", "--json", str(tmp_path / "f.json"))
    sides = json.loads((tmp_path / "f.json").read_text())["sides"]
    assert set(sides) == {"ours", "loop", "objects", "boxes"}
    assert (
        abs(sides["ours"]["claims"] - 6000) < 600
        and sides["loop"]["claims"] < sides["objects"]["claims"] < sides["ours"]["claims"]
    )
    assert all(side["memory"] > 0.05 for side in sides.values()) and "weighted boxes fusion" in printed


@pytest.mark.accept
def test_the_flow_claims_what_the_annotators_claim_by_themselves(tmp_path: Path):
    run_benchmark(
        "engine",
        "flow",
        "memory",
        "--images",
        "2",
        "--repeats",
        "1",
        "--scenes",
        "30",
        "60",
        "--json",
        str(tmp_path / "f.json"),
    )
    found = json.loads((tmp_path / "f.json").read_text())["models"]
    # it exits where the two sides differ
    assert found["flow"]["images"] == 2 and found["flow"]["claims"] > 2
    assert {int(count): one["images"] for count, one in found["memory"]["scenes"].items()} == {30: 90, 60: 180}


@pytest.fixture
def tables(monkeypatch):
    """Return a function that runs benchmarks/tables.py in this process."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def run(folder: str) -> None:
        monkeypatch.setattr(sys, "argv", ["tables.py", folder])
        runpy.run_path(str(ROOT / "benchmarks/tables.py"), run_name="__main__")

    return run


def test_tables_of_a_snapshot_stand_beside_the_papers(small_snapshot, tables, capsys):
    tables(small_snapshot.uri)
    printed = capsys.readouterr().out
    for source in ("photos", "scenes"):
        assert (
            f"{source}: annotations (the paper's Table 2 in brackets)" in printed
            and f"{source}: means per text (the paper's Table 3 in brackets)" in printed
        )


def test_a_folder_without_a_snapshot_is_an_error(tables, tmp_path: Path):
    with pytest.raises(SystemExit, match="has no labels"):
        tables(str(tmp_path))
