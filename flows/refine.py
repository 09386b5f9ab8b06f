"""The loop: annotate, fuse, validate, publish, train, score, promote; and again with the student as one more annotator.

Every step can be repeated with the same result; .florence/loop.json says which rounds are done. So a loop that was
killed at any point is started again by the same command, and ends with the same snapshot as one that was not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prefect import flow

from florence.errors import FlorenceError, SettingsError
from flows.adapters.ignored import refuse_ignored
from flows.events import send_event
from flows.facts import read_facts
from flows.frozen import freeze_settings, params_file, release_settings
from flows.label_sets import check_label_sets
from flows.lock import WorkspaceLockedError, lock_workspace
from flows.loop.approval import ask_for_approval, describe_waiting, settle_decision
from flows.loop.messages import describe_loop, track_loop
from flows.loop.round import LoopRound
from flows.loop.start import choose_state, collect_new_images, remove_partial_files, resume_state
from flows.params import missing_sections
from flows.plan import describe_idle
from flows.state import read_state, write_state
from flows.terminal import say
from flows.tracked import PARENT, TrackedWorkspace, end_with_parent, open_workspace


@flow(name="refine", persist_result=False)
def refine(root: str = ".", rounds: int | None = None) -> str:
    """Bring the workspace in ``root`` up to date: ``rounds`` rounds (by default flow.rounds) over what is new.

    Does nothing if nothing is new.

    Returns a sentence about the outcome. Raises WorkspaceLockedError where another run is at work,
    ValidationFailedError where expectations failed.
    """
    end_with_parent(os.environ)
    folder = Path(root).resolve()
    os.chdir(folder)  # relative paths in params.yaml are the workspace's
    try:
        while True:
            ask_for_approval(open_workspace(folder))
            with lock_workspace(folder, "florence loop"):
                outcome = _run_frozen(folder, rounds)
            if not ask_for_approval(open_workspace(folder)):
                return outcome
    except WorkspaceLockedError:
        raise
    except Exception as error:
        _tell_failure(folder, error)
        raise


def _tell_failure(folder: Path, error: Exception) -> None:
    state = None
    with suppress(FlorenceError):
        state = read_state(folder)
        workspace = open_workspace(folder)
        send_event(workspace, "failed", state.loop_id if state else "", None, f"{type(error).__name__}: {error}")
    if isinstance(error, FlorenceError) and PARENT in os.environ:  # there is no command line to show it
        say(f"error: {error}")


def _run_frozen(folder: Path, rounds: int | None) -> str:
    """Run the loop by the settings of now; one that goes on, also one that waits for approval, by its own."""
    last = read_state(folder)
    with freeze_settings(folder, last is not None and not last.finished, say) as tell_edits:
        outcome = _run_loop(open_workspace(folder), rounds, tell_edits)
    now = read_state(folder)
    if now is None or now.finished:
        release_settings(folder)
    return outcome


def _run_loop(workspace: TrackedWorkspace, rounds: int | None, tell_edits: Callable[[], None]) -> str:
    if missing := missing_sections(workspace.root, params_file(workspace.root)):
        raise SettingsError(
            f"params.yaml lacks {', '.join(missing)}: stages of dvc.yaml depend on it; "
            "write the section, with its defaults if nothing else"
        )
    refuse_ignored(workspace.root)
    read_facts(workspace)  # refuses what this version cannot continue, before hours of work
    remove_partial_files(workspace)
    before = resume_state(workspace)
    if before is not None and before.waiting:
        if (settled := settle_decision(workspace)) is None:
            return describe_waiting(before)
        before = settled
    start = time.monotonic()
    collect_new_images(workspace)
    collecting = time.monotonic() - start
    check_label_sets(workspace)  # before anything expensive
    state, why = choose_state(workspace, before, rounds)
    if state is None:
        say(describe_idle(workspace))
        return "nothing new"
    say(why)
    state = state.add_seconds("collect", collecting)
    write_state(workspace.root, state)
    with track_loop(workspace, state) as parent:
        while not state.finished and not state.waiting:
            tell_edits()
            state = LoopRound(workspace, state, parent).run()
    return describe_loop(workspace, state)
