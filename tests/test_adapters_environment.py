"""Secrets of the environment do not reach what is shown, logged or published."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from mlflow_stores import tracker

from florence.redact import MASK
from flows.adapters.environment import MLFLOW_SETTINGS, prepare_mlflow, redact_text, redact_values

KEY = "sk-0123456789"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


def test_texts_and_settings_are_redacted():
    assert redact_text(f"refused: {KEY}, core.autostage=false") == f"refused: {MASK}, core.autostage=false"
    assert redact_values({"command": ["run", KEY], "flag": False}) == {"command": ["run", MASK], "flag": False}


def test_a_secret_reaches_neither_params_nor_tags_of_a_run(tmp_path: Path):
    runs = tracker(tmp_path)
    run_id = runs.loop_run("l", {"annotators": {"a": {"command": ["run", f"--x={KEY}"], "api_key": "another-secret"}}})
    runs.set_tags(run_id, {"reason": f"401 for {KEY}"})
    with sqlite3.connect(tmp_path / "build/mlflow.db") as database:
        params = dict(database.execute("SELECT key, value FROM params"))
        (reason,) = database.execute("SELECT value FROM tags WHERE key = 'reason'").fetchone()
    assert params == {"annotators.a.command": f'["run", "--x={MASK}"]', "annotators.a.api_key": MASK}
    assert reason == f"401 for {MASK}"


def test_settings_of_mlflow_that_the_user_has_made_stay(monkeypatch: pytest.MonkeyPatch):
    for name in MLFLOW_SETTINGS:
        monkeypatch.setenv(name, "mine")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://other")
    prepare_mlflow()
    assert {os.environ[name] for name in MLFLOW_SETTINGS} == {"mine"}
    assert os.environ["MLFLOW_S3_ENDPOINT_URL"] == "http://mine"
