"""Artifacts on a real S3 server, whose credentials are in the environment alone."""

from __future__ import annotations

import pytest
from mlflow_stores import registry
from test_adapters_model_registry import files, real_model, register_rounds, used_elsewhere

from florence.errors import FlorenceError
from flows.adapters.tracking import Tracker

pytestmark = pytest.mark.accept


@pytest.fixture
def env(s3, monkeypatch):
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL", raising=False)
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    # MLflow keeps its connection for five minutes, and boto3 its credentials for good.
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

    _cached_get_s3_client.cache_clear()
    return s3.env


def test_a_model_goes_to_s3_and_comes_back(tmp_path, s3, env):
    found = registry(tmp_path, artifacts=f"s3://{s3.bucket}/art ifacts")
    folder = real_model(tmp_path / "model")
    run = Tracker(found.store).loop_run("l", {})
    report = tmp_path / "report"
    report.mkdir()
    (report / "index.html").write_text("<p>report</p>", encoding="utf-8")
    Tracker(found.store).log_report(run, report)
    found.register(run, folder, {"snapshot": "s0"})
    found.promote()
    names = [item["Key"] for item in s3.client().list_objects_v2(Bucket=s3.bucket)["Contents"]]
    assert f"art ifacts/{run}/artifacts/report/index.html" in names
    assert len([name for name in names if name.endswith("/artifacts/model/model.safetensors")]) == 1
    assert files(registry(tmp_path, artifacts="elsewhere").fetch("champion")) == files(folder)
    assert not (tmp_path / "build/mlartifacts").exists()
    message = used_elsewhere(tmp_path, found.uri, {**env, "MLFLOW_S3_ENDPOINT_URL": s3.endpoint})
    assert message["table"][0] == message["table"][1] and not message["library"].startswith(str(tmp_path / "build"))


def test_wrong_credentials_are_explained_and_redacted(tmp_path, s3, env, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ng-secret")
    with pytest.raises(FlorenceError, match="cannot register the model.*AWS_SECRET_ACCESS_KEY") as caught:
        register_rounds(tmp_path, artifacts=f"s3://{s3.bucket}/x")
    assert "wr0ng-secret" not in str(caught.value) and s3.env["AWS_ACCESS_KEY_ID"] not in str(caught.value)
    assert registry(tmp_path).versions() == ()


def test_a_missing_bucket_is_explained(tmp_path, s3, env):
    with pytest.raises(FlorenceError, match="cannot register the model.*make the bucket"):
        register_rounds(tmp_path, artifacts="s3://no-such-bucket/x")
