"""A trained model's way into use as a Prefect flow: registered as challenger, and champion if it was accepted."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.models import register_model
from flows.terminal import say
from flows.tracked import open_workspace


@flow(name="promote", persist_result=False)
def promote(root: str, run_id: str, tags: dict[str, Any], accepted: bool) -> str:
    """Register the model in model/ as made by ``run_id``, promote it if it was accepted, and return its version."""
    workspace = open_workspace(root)
    version = register_model(workspace, run_id, tags)
    if accepted:
        workspace.registry.promote(version, str(tags.get("reason", "")))
        say(f"model version {version} is the champion")
    else:
        say(f"model version {version} is registered; the champion is as before")
    return version
