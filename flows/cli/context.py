"""What commands share: options, plain errors, the workspace in the current folder, the run that a stage logs to."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from florence.errors import FlorenceError
from flows.adapters.system_errors import explain_full_disk, explain_system_error
from flows.lock import lock_workspace
from flows.terminal import clean_text

if TYPE_CHECKING:
    from florence.report.facts import LoopFacts
    from flows.tracked import TrackedWorkspace

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log of the run too.")]
Round = Annotated[
    int | None, typer.Option(min=0, help="Number of the round; by default the one that data/ holds, or 0.")
]
Student = Annotated[
    str | None, typer.Option(help="A model that annotates as well: alias, version number, or a model's folder.")
]


class CommandGroup(TyperGroup):
    """Commands whose errors are printed as plain sentences."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        A FlorenceError, and what the machine refuses, becomes a sentence and exit code 1; Ctrl-C and SIGTERM exit code
        130.
        """
        try:
            return super().invoke(ctx)
        except FlorenceError as error:
            text = str(error)
            more = explain_full_disk(text)
            _print_error(f"{text}\n{more}" if more else text)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except Exception as error:
            if (reason := explain_system_error(error)) is None:
                raise
            _print_error(reason)
            raise SystemExit(1) from None


def _print_error(text: str) -> None:
    print(f"error: {clean_text(text)}", file=sys.stderr)


def open_here() -> TrackedWorkspace:
    """Open the workspace in the current folder."""
    from flows.tracked import open_workspace

    return open_workspace(Path.cwd())


@contextmanager
def open_locked(command: str) -> Iterator[TrackedWorkspace]:
    """Open the workspace in the current folder for a command that writes into it; others are kept out meanwhile.

    ``command``: as the others are told. Raises WorkspaceLockedError where another command is at work.
    """
    workspace = open_here()
    with lock_workspace(workspace.root, command):
        yield workspace


def choose_round(workspace: TrackedWorkspace, number: int | None) -> int:
    """Return ``number`` or, where it is None, the round that data/ holds, or 0."""
    if number is not None:
        return number
    return int(workspace.data.read_object("snapshot.json")["round"]) if workspace.data.exists("snapshot.json") else 0


def read_or_make_facts(workspace: TrackedWorkspace) -> LoopFacts:
    """Return the facts of the loop; where no loop has run, those of the snapshot and the outputs in the workspace."""
    from florence.report.facts import LoopFacts
    from florence.workspace.annotate import list_annotators
    from florence.workspace.audit import audit_round
    from flows.facts import read_facts

    if (facts := read_facts(workspace)) is not None:
        return facts
    number = choose_round(workspace, None)
    annotators = list_annotators(workspace.settings, None, workspace.store)
    return LoopFacts("by hand", (audit_round(workspace, annotators, number, None, number),))


@contextmanager
def stage_run(name: str) -> Iterator[tuple[TrackedWorkspace, str]]:
    """Yield the workspace and the id of the MLflow run that one of DVC's stages logs to, and count the stage's seconds.

    The run is the loop's where a loop has started the stage; else it is one of the stage's own, and is ended after
    it. Other commands are kept out of the workspace meanwhile.
    """
    from flows.tracked import StageSeconds, run_key

    with open_locked(f"florence {name}") as workspace:
        run_id = workspace.tracker.stage_run(os.environ, run_key(workspace))
        is_own = "MLFLOW_RUN_ID" not in os.environ
        start, status = time.monotonic(), "FAILED"
        try:
            yield workspace, run_id
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            StageSeconds(workspace.root).add(name, time.monotonic() - start)
            if is_own:
                workspace.tracker.finish(run_id, status)
