"""Training as a Prefect flow: DVC runs the line validate → train → evaluate → compare on the published snapshot."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from florence.errors import FlorenceError
from flows.terminal import say
from flows.tracked import TrackedWorkspace, open_workspace

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
"""Beginnings of lines in which DVC advises somebody at the keyboard, or repeats an error that is shown anyway."""


@task(name="dvc repro", persist_result=False, cache_policy=NO_CACHE)
def reproduce(root: str, run_id: str) -> None:
    """Bring the workspace's outputs up to its snapshot, settings and code; stages that are up to date do not run."""
    open_workspace(root).snapshots.repro({"MLFLOW_RUN_ID": run_id}, _print_line)


def _print_line(line: str) -> None:
    if line.strip() and not line.strip().startswith(HINTS):
        say(line)


@flow(name="train", persist_result=False)
def train(root: str, run_id: str) -> dict:
    """Train and score a model on the snapshot in data/, tracked in MLflow; return the decision about it."""
    reproduce(root, run_id)
    return read_decision(open_workspace(root))


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
