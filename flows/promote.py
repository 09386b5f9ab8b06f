"""A trained model's way into use: registered with its lineage as challenger, and champion if it was accepted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from florence.errors import FlorenceError
from florence.store import Store
from flows.adapters.tracking import Version
from flows.parts import Parts, open_parts
from flows.terminal import say

CALIBRATION = "scores/calibration.json"
SCORES = "scores/scores.parquet"
"""Of a workspace, and of the run of a registered model: the next model is compared with these."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A champion as the next round needs it. ``model``: the folder of its model; ``scores``: its scores on held-out images, where known."""

    version: str
    model: Path
    scores: Path | None


@flow(name="promote", persist_result=False)
def promote(root: str, run_id: str, tags: dict[str, Any], accepted: bool) -> str:
    """Register the model in model/ as made by ``run_id`` and promote it if it was accepted; returns its version."""
    parts = open_parts(root)
    version = register(parts, run_id, tags)
    if accepted:
        parts.tracker.promote(version)
        say(f"model version {version} is the champion")
    else:
        say(f"model version {version} is registered; the champion stays")
    return version


def register(parts: Parts, run_id: str, tags: dict[str, Any]) -> str:
    """Register model/ as challenger, with its calibration; its scores are kept with its run. A run that has registered a model already registers no second one."""
    calibration = parts.root / CALIBRATION
    version = parts.tracker.register(run_id, parts.root / "model", tags, [calibration] if calibration.exists() else ())
    if (parts.root / SCORES).exists():
        parts.tracker.client.log_artifact(run_id, str(parts.root / SCORES), "scores")
    return version


def lineage(parts: Parts, decision: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A version's tags: all that it came of."""
    snapshot = parts.data.read_json("snapshot.json")
    judged = (
        {"decision": "accepted" if decision["accepted"] else "rejected", "reason": decision["reason"]}
        if decision
        else {}
    )
    return {
        "florence.round": snapshot["round"],
        "snapshot": snapshot["id"],
        "dvc_hash": parts.snapshots.data_hash(),
        "git_commit": parts.snapshots.git_commit(),
        "annotators": snapshot["annotators"],
        "engine": snapshot["engine"],
        "model.init": parts.settings.model.init,
        "train": parts.settings.train.digest(),
        **judged,
        **more,
    }


def champion(parts: Parts) -> Standing | None:
    """The champion, its model and scores fetched into .florence/models/; None where there is none."""
    version = parts.tracker.champion()
    if version is None:
        return None
    return Standing(version.version, parts.tracker.fetch(version.version), _scores(parts, version))


def _scores(parts: Parts, version: Version) -> Path | None:
    """The scores kept with the version's run."""
    kept = Store(str(parts.root / ".florence" / "models"))
    name = f"scores-{version.version}-{version.run_id}.parquet"
    if not kept.exists(name):
        from mlflow.artifacts import download_artifacts

        if version.run_id is None or SCORES not in {
            f.path for f in parts.tracker.client.list_artifacts(version.run_id, "scores")
        }:
            return None
        found = download_artifacts(run_id=version.run_id, artifact_path=SCORES, tracking_uri=parts.tracker.uri)
        kept.write_bytes(name, Path(found).read_bytes())
    return Path(kept.path(name))


def model_folder(ref: str) -> Path | None:
    """``ref`` as the folder of a model; None where it is no folder. Raises FlorenceError for a folder without one."""
    folder = Path(ref)
    if not folder.is_dir():
        return None
    if not (folder / "config.json").is_file():
        raise FlorenceError(
            f"{folder} holds no model: config.json is missing; a model's folder, an alias or a version number is expected"
        )
    return folder


def chosen_model(parts: Parts, ref: str) -> Path:
    """The folder of a model: ``ref`` itself where it is one, else an alias or version of the registry. Raises FlorenceError with what is known."""
    return model_folder(ref) or parts.tracker.fetch(ref)
