"""Training as a Prefect flow: DVC runs the line validate → train → evaluate → compare on the published snapshot."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.lock import lock_environment
from flows.models import read_decision
from flows.terminal import say
from flows.tracked import open_workspace

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
    workspace = open_workspace(root)
    workspace.snapshots.repro({"MLFLOW_RUN_ID": run_id, **lock_environment(workspace.root)}, _print_line)


def _print_line(line: str) -> None:
    if line.strip() and not line.strip().startswith(HINTS):
        say(line)


@flow(name="train", persist_result=False)
def train(root: str, run_id: str) -> dict:
    """Train and score a model on the snapshot in data/, tracked in MLflow; return the decision about it."""
    reproduce(root, run_id)
    return read_decision(open_workspace(root))
