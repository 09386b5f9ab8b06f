"""A failed expectation stops all later stages and leaves the earlier state unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flow_workspaces import florence, write_params

from flows.init import create_workspace
from flows.tracked import open_workspace

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1200)]


def test_a_failed_expectation_stops_the_loop(tmp_path: Path):
    folder = tmp_path / "w"
    create_workspace(folder)
    write_params(folder)
    first = florence(folder, "loop", "--rounds", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    opened = open_workspace(folder)
    kept = {
        p: p.read_bytes()
        for name in ("data", "model", "metrics", "scores")
        for p in (folder / name).rglob("*")
        if p.is_file()
    }
    pointer, champion = (folder / "data.dvc").read_bytes(), opened.registry.champion()

    suite = folder / "expectations/labels.json"
    document = json.loads(suite.read_text())
    impossible = {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "annotator", "value_set": ["nobody"]},
    }
    suite.write_text(json.dumps({**document, "expectations": [*document["expectations"], impossible]}))
    write_params(folder, sources={"scenes": {"count": 30}})
    second = florence(folder, "loop", "--rounds", "1")

    assert second.returncode == 1 and "Traceback" not in second.stderr
    assert "expect_column_values_to_be_in_set" in second.stderr and "Nothing was published or trained" in second.stderr
    now = {
        p: p.read_bytes()
        for name in ("data", "model", "metrics", "scores")
        for p in (folder / name).rglob("*")
        if p.is_file()
    }
    assert now == kept and (folder / "data.dvc").read_bytes() == pointer
    assert opened.registry.champion() == champion and len(opened.registry.versions()) == 1
    runs = opened.tracker.store.client.search_runs(
        [opened.tracker.store.experiment_id], "", order_by=["attributes.start_time DESC"], max_results=2
    )
    assert {run.info.status for run in runs} == {"FAILED"}
    assert (folder / "build/data_docs/index.html").exists()

    suite.write_text(json.dumps(document))
    third = florence(folder, "loop", "--rounds", "1")
    assert third.returncode == 0 and "going on with loop" in third.stdout, third.stdout + third.stderr
