"""Settings of tracking, snapshots and the flow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from florence.config.base import Section


class TrackingSettings(Section):
    """MLflow."""

    uri: str = Field("sqlite:///build/mlflow.db", description="tracking and registry URI")
    artifacts: str | None = Field(
        None, description="artifact root of a new experiment, a folder or s3://; default build/mlartifacts"
    )
    experiment: str = Field("florence", description="name of the experiment; by default `workspace`, where it is set")
    model: str = Field("florence", description="name of the registered model; by default `workspace`, where it is set")
    shared: bool = Field(
        False,
        description=(
            "whether a champion that another workspace has registered under `tracking.model` may be student and "
            "opponent"
        ),
    )


class SnapshotSettings(Section):
    """DVC and git."""

    push: str | None = Field(
        None, description="DVC remote that each snapshot is pushed to; none: the default remote, if one is set"
    )
    record: bool = Field(
        True,
        description=(
            "record each registered version in git: a commit on refs/florence/rounds and a tag; your branch, index and "
            "files stay as they are. Without a git repository the files are kept with the MLflow run"
        ),
    )
    git_remote: str | None = Field(
        None, description="git remote that the tag of each registered version is pushed to; none: nothing is pushed"
    )


class FlowSettings(Section):
    """Prefect."""

    runner: Literal["threads", "dask"] = Field("threads", description="task runner")
    workers: int = Field(2, ge=1, description="shards annotated, and blocks of claims fused, at the same time")
    dask: str | None = Field(None, description="address of a running Dask scheduler; none: start a local cluster")
    retries: int = Field(2, ge=0, description="how often a failed shard is tried again")
    cron: str = Field("0 3 * * *", description="when `florence schedule` runs the loop")
    rounds: int = Field(2, ge=1, description="rounds of one loop")
