"""Checks of MLflow: the store, the experiment, and that what is registered is still there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from florence.config import Settings
from florence.errors import FlorenceError
from flows.adapters.environment import redact_text
from flows.adapters.mlflow_store import MlflowStore
from flows.adapters.model_registry import APPROVAL, ModelRegistry, ModelVersion
from flows.doctor.check import Check

LISTED = 5
"""Versions that are named one by one."""


def check_mlflow(settings: Settings, root: Path) -> Iterator[Check]:
    """Check that the store opens, holds the experiment, and that registered models are whole; nothing is rewritten."""
    store = MlflowStore(settings.tracking, root, follow=False)
    registry = ModelRegistry(store)
    try:
        moved = store.find_moved()
        leader, versions = registry.champion(), registry.versions()
        experiment = store.describe_experiment()
    except FlorenceError as error:
        yield Check("MLflow", "fail", redact_text(str(error)), "correct tracking.uri, or start its server")
        return
    yield Check("MLflow", "ok", redact_text(settings.tracking.uri))
    if moved is not None:
        yield Check(
            "artifacts",
            "warn",
            f"{moved.rows} locations in {settings.tracking.uri} lead to {', '.join(map(str, moved.from_))}, from where "
            "this workspace was copied or moved",
            "nothing to do: the next command that uses MLflow makes them lead here, and says so",
        )
    if settings.workspace is None:
        yield Check(
            "workspace id",
            "warn",
            "params.yaml has no key `workspace`: other workspaces on this MLflow server may have the same names",
            f"write `workspace: NAME-{secrets.token_hex(3)}`; with tracking.experiment and tracking.model set to the "
            "names of now (florence, unless they are set) its models stay where they are",
        )
    if experiment:
        yield Check("experiment", "fail", experiment[0], experiment[1])
    yield from _check_champion(registry, leader, versions)
    for version in versions:
        if version.tags.get(APPROVAL) == "waiting":
            found = f"version {version.version} waits since {version.tags.get(APPROVAL + '.since')} UTC"
            yield Check("approval", "warn", found, "`florence approve`, or `florence refuse --reason TEXT`")
    if moved is None:
        yield from _check_versions(registry, leader, versions)


def _check_champion(
    registry: ModelRegistry, leader: ModelVersion | None, versions: tuple[ModelVersion, ...]
) -> Iterator[Check]:
    remedy = "`florence loop` makes one; `florence promote VERSION` names one"
    if leader is not None:
        yield Check("champion", "ok", f"version {leader.version}")
    elif lost := registry.lost_aliases():
        found = ", ".join(f"{alias} is version {version}" for alias, version in lost.items())
        known = ", ".join(version.version for version in versions) or "none"
        yield Check("champion", "fail", f"{found}, which is not registered; registered: {known}", remedy)
    else:
        yield Check("champion", "warn", "none", remedy)


def _check_versions(
    registry: ModelRegistry, leader: ModelVersion | None, versions: tuple[ModelVersion, ...]
) -> Iterator[Check]:
    """Check that the versions' files and runs are there: of each where they are local, else of the champion."""
    broken = {version.version: fault for version in versions if (fault := registry.find_fault(version.version))}
    if leader is not None and leader.version in broken:
        yield Check(
            "champion's files",
            "fail",
            f"version {leader.version}: {broken[leader.version]}",
            "`florence rollback` or `florence promote VERSION` names one that is whole; `florence loop` makes one",
        )
    others = [version for version in broken if leader is None or version != leader.version]
    if others:
        listed = "; ".join(f"version {version}: {broken[version]}" for version in others[:LISTED])
        more = f"; and {len(others) - LISTED} more" if len(others) > LISTED else ""
        yield Check(
            "registered models",
            "warn",
            listed + more,
            "they cannot be promoted or served; put the files back, or delete these versions in MLflow",
        )
