"""Registered models as a workspace uses them: made from its outputs with their lineage, found, and fetched."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.config import TrackingSettings
from florence.errors import FlorenceError, ModelError
from florence.store import Store
from flows.adapters.mlflow_store import MlflowStore
from flows.adapters.model_registry import ModelRegistry, ModelVersion
from flows.tracked import TrackedWorkspace, open_workspace

CALIBRATION = "scores/calibration.json"
SCORES = "scores/scores.parquet"
"""Of a workspace, and of the run of a registered model: the next model is compared with these."""
MODEL_URI = re.compile(r"models:/{1,3}([^/@]+)(?:@|/)([^/@]+)")
FETCHED = ".cache/florence/models"
"""Below the home folder: where models of a tracking server are kept that no workspace uses."""


@dataclass(frozen=True, slots=True)
class ChampionModel:
    """The champion, fetched.

    ``model``: the folder of its model; ``scores``: the file of its scores on held-out images, None where unknown.
    """

    version: str
    model: Path
    scores: Path | None


def read_decision(workspace: TrackedWorkspace) -> dict:
    """Return what compare has decided: {"accepted": bool, "reason": str, …}. Raises FlorenceError where it has not."""
    path = workspace.root / "metrics" / "decision.json"
    if not path.exists():
        raise FlorenceError(f"{path} does not exist: nothing has been compared yet; `dvc repro` does it")
    found = workspace.files.read_json("metrics/decision.json")
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("accepted"), bool)
        or not isinstance(found.get("reason"), str)
    ):
        raise FlorenceError(f"{path} is not a decision; `dvc repro --force compare` makes it anew")
    return found


def register_model(workspace: TrackedWorkspace, run_id: str, tags: dict[str, Any]) -> str:
    """Register model/ as challenger with its calibration, log its scores to its run, and return its version.

    A run that has registered a model already registers no second one.
    """
    calibration = workspace.root / CALIBRATION
    version = workspace.registry.register(
        run_id, workspace.root / "model", tags, [calibration] if calibration.exists() else ()
    )
    if (workspace.root / SCORES).exists():
        workspace.tracker.log_files(run_id, [workspace.root / SCORES], "scores")
    return version


def lineage_tags(workspace: TrackedWorkspace, decision: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a version's tags: what the model was made from, and the decision about it."""
    snapshot = workspace.data.read_object("snapshot.json")
    verdict = {}
    if decision:
        verdict = {"decision": "accepted" if decision["accepted"] else "rejected", "reason": decision["reason"]}
    return {
        "florence.round": snapshot["round"],
        "snapshot": snapshot["id"],
        "dvc_hash": workspace.snapshots.data_hash(),
        "code": workspace.files.read_object("code.json").get("code"),
        "weights": hash_weights(workspace.root / "model"),
        "florence.workspace": own_ids(workspace)[0] if own_ids(workspace) else None,
        "annotators": snapshot["annotators"],
        "engine": snapshot["engine"],
        "model.init": workspace.settings.model.init,
        "train": workspace.settings.train.digest(),
        **verdict,
        **more,
    }


def hash_weights(folder: Path) -> str | None:
    """Return the SHA-256 of the weights in a model's folder; of several files that of their hashes. None for none."""
    hashes = []
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            hashes.append(hashlib.file_digest(opened, "sha256").hexdigest())
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def own_ids(workspace: TrackedWorkspace) -> tuple[str, ...]:
    """Return the ids of the workspace, the one that its versions are tagged with first.

    The key ``workspace``; and what git knows it by, under which versions were registered before there was a key.
    """
    found = (workspace.settings.workspace, workspace.records.find_first())
    return tuple(one for one in found if one is not None)


def refuse_foreign(workspace: TrackedWorkspace, version: ModelVersion) -> None:
    """Raise FlorenceError where another workspace has registered the version, unless ``tracking.shared`` is set."""
    owner = version.tags.get("florence.workspace")
    if owner is None or owner in own_ids(workspace) or workspace.settings.tracking.shared:
        return
    own = workspace.settings.workspace
    raise FlorenceError(
        f"version {version.version} of {workspace.registry.name!r} was registered by the workspace {owner!r}, and this "
        f"one is {own!r}: its model knows other images. Name another model in tracking.model, or set "
        "tracking.shared: true to go on from models of other workspaces"
    )


def fetch_champion(workspace: TrackedWorkspace) -> ChampionModel | None:
    """Fetch the champion's model and scores into .florence/models/; return None where there is no champion."""
    version = workspace.registry.champion()
    if version is None:
        return None
    refuse_foreign(workspace, version)
    model = workspace.registry.fetch(version.version)
    return ChampionModel(version.version, model, _fetch_scores(workspace, version))


def _fetch_scores(workspace: TrackedWorkspace, version: ModelVersion) -> Path | None:
    """Return the file of the scores that were logged to the version's run, None where it has none."""
    kept = Store(str(workspace.root / ".florence" / "models"))
    name = f"scores-{version.version}-{version.run_id}.parquet"
    if not kept.exists(name):
        scores = workspace.tracker.read_file(version.run_id, SCORES) if version.run_id is not None else None
        if scores is None:
            return None
        kept.write_bytes(name, scores)
    return Path(kept.path(name))


def resolve_model_folder(ref: str) -> Path | None:
    """Return ``ref`` as the folder of a model, None where it is no folder.

    Raises FlorenceError for a folder without a model.
    """
    folder = Path(ref)
    if not folder.is_dir():
        return None
    if not (folder / "config.json").is_file():
        raise FlorenceError(
            f"{folder} holds no model: config.json is missing; "
            "a model's folder, an alias or a version number is expected"
        )
    return folder


def find_model(workspace: TrackedWorkspace, ref: str) -> Path:
    """Return the folder of a model: ``ref`` itself where it is one, else that of an alias or version in the registry.

    Raises FlorenceError for an unknown one.
    """
    return resolve_model_folder(ref) or workspace.registry.fetch(ref)


def fetch_model_uri(uri: str) -> Path:
    """Return the folder of models:/NAME@ALIAS or models:/NAME/VERSION, downloaded once; `florence.load` calls this.

    From the store of MLFLOW_TRACKING_URI, else that of the workspace in the current folder. Raises ModelError for
    another address, or where there is neither, FlorenceError where the store has no such version.
    """
    if (found := MODEL_URI.fullmatch(uri)) is None:
        raise ModelError(f"model {uri!r}: models:/NAME@ALIAS or models:/NAME/VERSION is expected")
    name, ref = found.groups()
    tracking = os.environ.get("MLFLOW_TRACKING_URI")
    if tracking:
        root = Path.home() / FETCHED / hashlib.sha256(tracking.encode()).hexdigest()[:16]
        settings = TrackingSettings(uri=tracking, model=name)
        return ModelRegistry(MlflowStore(settings, root, follow=False)).fetch(ref, root / name)
    if not Path("params.yaml").is_file():
        raise ModelError(
            f"model {uri!r}: set MLFLOW_TRACKING_URI, or call this in a workspace (the folder with its params.yaml)"
        )
    workspace = open_workspace()
    if name == workspace.registry.name:
        return workspace.registry.fetch(ref)
    settings = workspace.settings.tracking.model_copy(update={"model": name})
    return ModelRegistry(MlflowStore(settings, workspace.root)).fetch(ref, workspace.root / ".florence/models" / name)
