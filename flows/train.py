"""Training as a Prefect flow: DVC runs the line validate → train → evaluate → compare on the published snapshot."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from florence.errors import FlorenceError
from florence.store import Store
from flows.parts import Parts, open_parts
from flows.terminal import say

HINTS = (
    "To track the changes with git",
    "git add",
    "To enable auto staging",
    "dvc config",
    "Use `dvc push`",
    "Updating lock file",
    "Generating lock file",
    "ERROR: ",
    "'data.dvc' didn't change",
)
"""How lines begin by which DVC advises somebody at the keyboard, or repeats an error that is told anyway."""


@task(name="dvc repro", persist_result=False, cache_policy=NO_CACHE)
def reproduce(root: str, run_id: str) -> None:
    """Bring the workspace's outputs up to its snapshot, settings and code; stages that are up to date do not run."""
    open_parts(root).snapshots.repro({"MLFLOW_RUN_ID": run_id}, _passed_on)


def _passed_on(line: str) -> None:
    if line.strip() and not line.strip().startswith(HINTS):
        say(line)


@flow(name="train", persist_result=False)
def train(root: str, run_id: str) -> dict:
    """Train and score a model on the snapshot in data/, tracked in the MLflow run ``run_id``; returns the decision about it."""
    reproduce(root, run_id)
    return decision(open_parts(root))


def decision(parts: Parts) -> dict:
    """What compare has decided: {"accepted": bool, "reason": str, …}. Raises FlorenceError where it has not."""
    path = parts.root / "metrics" / "decision.json"
    if not path.exists():
        raise FlorenceError(f"{path} does not exist: nothing has been compared yet; `dvc repro` does it")
    found = Store(str(parts.root)).read_json("metrics/decision.json")
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("accepted"), bool)
        or not isinstance(found.get("reason"), str)
    ):
        raise FlorenceError(f"{path} is not a decision; `dvc repro --force compare` makes it anew")
    return found
