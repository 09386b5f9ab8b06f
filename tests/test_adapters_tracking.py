"""Runs, curves and the snapshot. What was logged is read back from the database, not through the tracker."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import pytest
from mlflow_stores import find_closed_port, read_rows, tracker

from florence.config import TrackingSettings
from florence.errors import FlorenceError
from flows.adapters.curves import Curves
from flows.adapters.mlflow_store import MlflowStore
from flows.adapters.mlflow_values import flatten, legal_key
from flows.adapters.tracking import Tracker


def curve(root: Path, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return sorted(read_rows(root, "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ?", run_id, key))


# ---------------------------------------------------------------- runs


def test_a_loop_and_its_rounds_are_found_again(tmp_path):
    first = tracker(tmp_path)
    loop = first.loop_run(
        "l1",
        {"train": {"lr": 1e-3, "task_weights": {"<OD>": 3.0}}, "note": "x" * 9000, "uri": "postgresql://u:s3cret@h/d"},
    )
    zero, one = first.round_run(loop, 0, {"snapshot": "s0", "nothing": None}), first.round_run(loop, 1)
    first.finish(zero)
    first.finish(loop, "KILLED")
    again = tracker(tmp_path)
    assert again.loop_run("l1", {"train": {"lr": 5.0}, "new": [1, "ä"]}) == loop
    assert [again.round_run(loop, number) for number in (0, 1)] == [zero, one]
    other = again.loop_run("l2", {})
    assert len({loop, zero, one, other, again.round_run(other, 0)}) == 5
    assert read_rows(tmp_path, "SELECT value FROM tags WHERE key = 'mlflow.parentRunId' AND run_uuid = ?", zero) == [
        (loop,)
    ]
    assert read_rows(tmp_path, "SELECT value FROM tags WHERE key = 'snapshot'") == [("s0",)]
    assert {s for (s,) in read_rows(tmp_path, "SELECT status FROM runs")} == {"RUNNING"}
    params = dict(read_rows(tmp_path, "SELECT key, value FROM params WHERE run_uuid = ?", loop))
    assert params.pop("note") == "x" * 5999 + "…"
    assert params == {
        "train.lr": "0.001",
        "train.task_weights.OD": "3.0",
        "uri": "postgresql://•••@h/d",
        "new": '[1, "ä"]',
    }


def test_more_settings_than_one_request_takes(tmp_path):
    found = tracker(tmp_path)
    loop = found.loop_run("l", {"many": {f"k{i}": i for i in range(250)}})
    assert read_rows(tmp_path, "SELECT count(*) FROM params WHERE run_uuid = ?", loop) == [(250,)]


def test_names_that_mlflow_takes():
    assert [legal_key(k) for k in ("loss/<OD>", "a//b/../c", "/x", "é ü:1", "a,b(c)", "")] == [
        "loss/OD",
        "a/b/c",
        "x",
        "é ü:1",
        "a_b_c_",
        "_",
    ]
    assert dict(flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1]})) == {"a.b.c": 1, "a.d": {}, "e": [1]}


def test_metrics_are_logged_flat_and_words_left_out(tmp_path):
    import numpy as np

    found = tracker(tmp_path)
    run = found.loop_run("l", {})
    found.log_metrics(
        run,
        {"scores": {"<OD>": {"map": np.float32(0.5), "n": 30, "reference": "truth", "low": None}}, "accepted": True},
    )
    assert dict(read_rows(tmp_path, "SELECT key, value FROM metrics")) == {
        "scores.OD.map": 0.5,
        "scores.OD.n": 30.0,
        "accepted": 1.0,
    }


# ---------------------------------------------------------------- the run of a plain repro


def test_the_stages_of_one_repro_share_a_run(tmp_path):
    first = tracker(tmp_path).stage_run({}, "k1")
    assert tracker(tmp_path).stage_run({}, "k1") == first
    assert read_rows(tmp_path, "SELECT name, status FROM runs") == [("repro", "RUNNING")]
    second = tracker(tmp_path).stage_run({}, "k2")
    assert dict(read_rows(tmp_path, "SELECT run_uuid, status FROM runs")) == {first: "KILLED", second: "RUNNING"}
    found = tracker(tmp_path)
    found.finish(second)
    assert found.stage_run({}, "k2") == second  # made again by force: the same thing
    third = found.stage_run({}, "k3")
    assert dict(read_rows(tmp_path, "SELECT run_uuid, status FROM runs"))[second] == "KILLED" and third not in (
        first,
        second,
    )


def test_the_run_that_the_flow_names_is_taken(tmp_path):
    found = tracker(tmp_path)
    flow = found.round_run(found.loop_run("l", {}), 0)
    assert tracker(tmp_path).stage_run({"MLFLOW_RUN_ID": flow}, "k") == flow
    assert not (tmp_path / "build/run.json").exists()
    with pytest.raises(FlorenceError, match="has no run 0123456789abcdef0123456789abcdef: MLFLOW_RUN_ID"):
        found.stage_run({"MLFLOW_RUN_ID": "0123456789abcdef0123456789abcdef"})


@pytest.mark.parametrize("damage", ["half", "{}", '{"run_id": "0123456789abcdef0123456789abcdef"', "[1]"])
def test_a_damaged_or_foreign_run_file_is_no_obstacle(tmp_path, damage):
    found = tracker(tmp_path)
    first = found.stage_run({}, "k")
    (tmp_path / "build/run.json").write_text(damage, encoding="utf-8")
    assert found.stage_run({}, "k") != first


def test_a_deleted_run_is_not_used_again(tmp_path):
    found = tracker(tmp_path)
    first = found.stage_run({}, "k")
    found.store.client.delete_run(first)
    assert found.stage_run({}, "k") != first
    file = tmp_path / "build/run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "run_id": "0123456789abcdef0123456789abcdef"}))
    assert len(found.stage_run({}, "k")) == 32


# ---------------------------------------------------------------- curves


def test_curves_arrive_in_batches_and_a_resumed_training_does_not_double_them(tmp_path):
    found = tracker(tmp_path)
    run = found.loop_run("l", {})
    live = found.open_curves(run, period=60)
    for step in range(1500):
        live(step, {"loss": 1 / (step + 1), "loss/<OD>": 2.0, "lr": None})
    assert live.flush()
    assert curve(tmp_path, run) == [(step, 1 / (step + 1)) for step in range(1500)]
    assert len(curve(tmp_path, run, "loss/OD")) == 1500 and not curve(tmp_path, run, "lr")
    assert live.close() is None
    with tracker(tmp_path).open_curves(run) as resumed:
        for step in range(1400, 1600):
            resumed(step, {"loss": 1 / (step + 1) if step != 1450 else 9.0})
    assert curve(tmp_path, run) == sorted([(step, 1 / (step + 1)) for step in range(1600)] + [(1450, 9.0)])


def test_points_are_sent_without_being_asked_for(tmp_path):
    found = tracker(tmp_path)
    run = found.loop_run("l", {})
    live = found.open_curves(run, period=0.05)
    live(1, {"loss": 1.0})
    end = time.monotonic() + 30
    while not curve(tmp_path, run) and time.monotonic() < end:
        time.sleep(0.02)
    assert curve(tmp_path, run) == [(1, 1.0)]
    live.close()


def test_a_server_that_hangs_does_not_hold_training_up(caplog):
    release = threading.Event()

    def client():
        release.wait(60)
        raise ConnectionError("gone")

    live = Curves(client, "r", "http://x", period=0.01)
    start = time.monotonic()
    for step in range(2000):
        live(step, {"loss": 1.0})
    assert time.monotonic() - start < 2
    with caplog.at_level(logging.WARNING):
        message = live.close(timeout=0.2)
    assert "2000 measurements did not reach MLflow at http://x" in message and message in caplog.text
    release.set()


def test_curves_that_do_not_arrive_give_one_warning_and_are_sent_later(tmp_path, caplog):
    found = tracker(tmp_path)
    run = found.loop_run("l", {})
    down = threading.Event()
    down.set()

    def client():
        if down.is_set():
            raise ConnectionError("https://u:s3cret@host is gone")
        return found.store.client

    live = Curves(client, run, "there", period=0.01)
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            live(step, {"loss": float(step)})
            assert not live.flush()
    assert caplog.text.count("are not reaching MLflow at there") == 1 and "s3cret" not in caplog.text
    down.clear()
    assert live.close() is None
    assert curve(tmp_path, run) == [(step, float(step)) for step in range(5)]


def test_more_points_than_are_kept_are_counted(monkeypatch):
    monkeypatch.setattr(Curves, "MAX_PENDING", 10)
    live = Curves(lambda: 1 / 0, "r", "there", period=60)
    for step in range(25):
        live(step, {"loss": 0.0})
    assert live.close().startswith("25 measurements")


def test_training_goes_on_without_a_server(tmp_path, caplog):
    store = MlflowStore(TrackingSettings(uri=f"http://user:s3cret@127.0.0.1:{find_closed_port()}"), tmp_path)
    live = Tracker(store).open_curves("r", period=0.01)
    live(0, {"loss": 1.0})
    assert not live.flush()
    assert "1 measurements" in live.close()
    assert "s3cret" not in caplog.text and "does not answer" in caplog.text


# ---------------------------------------------------------------- the snapshot


@pytest.mark.parametrize(
    ("data", "source_type", "uri"), [("data", "local", "{root}/data"), ("s3://bucket/dvc", "s3", "s3://bucket/dvc")]
)
def test_the_snapshot_is_the_runs_dataset(tmp_path, data, source_type, uri):
    import mlflow.data

    found = tracker(tmp_path)
    run = found.loop_run("l", {})
    for _ in range(2):
        found.log_snapshot(
            run,
            data,
            {"id": "s1", "round": 1, "counts": {"images": 3}, "drops": {}},
            "0123456789abcdef0123456789abcdef.dir",
        )
    (only,) = found.store.client.get_run(run).inputs.dataset_inputs
    assert (only.dataset.name, only.dataset.digest, only.dataset.source_type) == (
        "FLD",
        "0123456789abcdef0123456789abcdef.dir",
        source_type,
    )
    assert json.loads(only.dataset.profile)["counts"] == {"images": 3}
    assert [(t.key, t.value) for t in only.tags] == [("mlflow.data.context", "training")]
    assert mlflow.data.get_source(only.dataset).to_dict()["uri"] == uri.format(root=tmp_path)


def test_a_snapshot_without_dvc_is_known_by_its_id(tmp_path):
    found = tracker(tmp_path)
    found.log_snapshot(found.loop_run("l", {}), "data", {"id": "abc123"}, None)
    assert read_rows(tmp_path, "SELECT digest FROM datasets") == [("abc123",)]


def test_a_missing_report_is_an_error(tmp_path):
    found = tracker(tmp_path)
    with pytest.raises(FlorenceError, match="florence report"):
        found.log_report(found.loop_run("l", {}), tmp_path / "nothing")
