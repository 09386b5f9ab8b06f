"""Where a loop starts: what the last one left behind, what is new since, and the state that follows from both."""

from __future__ import annotations

import dataclasses
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from florence.errors import DataError
from florence.workspace.collect import CollectResult, collect_images
from florence.workspace.collected import describe_collected
from florence.workspace.publish import restore_store
from flows.loop.steps import run_annotation, run_step
from flows.loop.students import ACCEPTED, save_student
from flows.models import SCORES, fetch_champion, read_decision
from flows.plan import (
    SNAPSHOT_MISSING,
    count_unannotated,
    find_changed_sections,
    find_last_state,
    hash_images,
    human_version,
    lacks_snapshot,
)
from flows.state import LoopState
from flows.terminal import ProgressBars, say
from flows.tracked import TrackedWorkspace

LISTED = 20
"""Rejected files that are listed one by one."""


def resume_state(workspace: TrackedWorkspace) -> LoopState | None:
    """Return the state of the last loop.

    Where there is a snapshot but no loop has run (after `dvc pull`), as if one had ended with it.
    """
    data = workspace.data
    if data.exists("snapshot.json"):
        if copied := restore_store(workspace):
            say(f"the working store was empty: {copied} files were copied from data/")
    elif lacks_snapshot(workspace):
        say(SNAPSHOT_MISSING)
    return find_last_state(workspace)


def remove_partial_files(workspace: TrackedWorkspace) -> None:
    """Remove files that killed runs left half written: in data/ they would be part of the snapshot."""
    for store in (workspace.store, workspace.data):
        for part in Path(store.root).rglob(".*.part") if store.local else ():
            part.unlink(missing_ok=True)


def collect_new_images(workspace: TrackedWorkspace) -> CollectResult:
    """Collect new images and say what was found. Raises DataError where there is no image at all."""
    with ProgressBars() as progress:
        collected = run_step("collect", lambda: collect_images(workspace, progress))
    lines = describe_collected(collected.files)
    if collected.total == 0:
        rejected = "".join(f"\n  {name}: {reason}" for _, name, reason, _ in collected.rejected_files[:5])
        rejected += "".join(f"\n  {line}" for line in lines)
        names = ", ".join(workspace.settings.sources) or "there are none"
        raise DataError(
            f"the sources of params.yaml ({names}) have no image that can be used; "
            f"`florence loop --images DIR` names a folder{rejected}"
        )
    if collected.new:
        say(f"{collected.new} new images, {collected.total} in all; {len(collected.rejected_files)} files rejected")
        for source, name, reason, detail in collected.rejected_files[:LISTED]:
            say(f"  {source}/{name}: {reason}" + (f" ({detail})" if detail else ""))
        if (more := len(collected.rejected_files) - LISTED) > 0:
            say(f"  and {more} more; `florence collect` lists all")
    for line in lines:
        say(line)
    return collected


def choose_state(
    workspace: TrackedWorkspace, state: LoopState | None, rounds: int | None
) -> tuple[LoopState | None, str]:
    """Return the state to continue from, and why; None where there is nothing to do.

    A loop that was interrupted continues. A finished one gets more rounds where ``rounds`` asks for more than it has,
    unless its last round was rejected: another run would give the same result. A new loop begins where there are new
    images or reviews, where annotators or their versions are new, or where settings of `flows.plan.SECTIONS` have
    changed.
    """
    if state is None:
        return _new_state(workspace, None, rounds), "a new loop"
    if not state.finished:
        wanted = max(rounds or state.wanted, state.done + 1)
        why = f"going on with loop {state.loop_id}: {state.done} of {wanted} rounds are done"
        return dataclasses.replace(state, wanted=wanted), why
    if reasons := find_changes(workspace, state):
        return _new_state(workspace, state, rounds), f"a new loop: {'; '.join(reasons)}"
    if rounds is not None and rounds > state.done and state.loop_id and not state.rejected:
        why = f"going on with loop {state.loop_id}: {state.done} rounds are done, {rounds} asked for"
        return dataclasses.replace(state, wanted=rounds, finished=False), why
    return None, ""


def find_changes(workspace: TrackedWorkspace, state: LoopState) -> list[str]:
    """Return what has changed since a loop ended, in words; annotators that have images left are asked about them."""
    reasons = []
    if hash_images(workspace) != state.images:
        reasons.append("new images")
    elif left := count_unannotated(workspace):
        # An annotator that failed before and fails again has nothing new to say.
        if run_annotation(workspace, state.round, None).images:
            reasons.append("new claims of " + ", ".join(left))
    if human_version(workspace.store) != state.reviews:
        reasons.append("new reviews")
    if changed := find_changed_sections(workspace, state):
        reasons.append(f"changed settings ({', '.join(changed)})")
    return reasons


def _new_state(workspace: TrackedWorkspace, last: LoopState | None, rounds: int | None) -> LoopState:
    """Return a new loop: its rounds are numbered on from the last one's; the champion, if any, is its student."""
    loop_id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    state = LoopState(loop_id, 0, rounds or workspace.settings.flow.rounds)
    if last is None:
        return state
    state = dataclasses.replace(state, first_round=last.round, accepted=last.accepted, images=last.images)
    if last.loop_id == "" and workspace.snapshots.data_hash() is not None:
        # what a rejected round goes back to
        workspace.snapshots.keep(workspace.root / ACCEPTED / f"round={last.accepted}")
    if (champion := fetch_champion(workspace)) is not None:
        scores = str(champion.scores) if champion.scores else None
        attempt = last.attempt if champion.version == last.champion else 1
        known: dict[str, Any] = {"scores": scores, "champion": champion.version, "attempt": attempt}
        return dataclasses.replace(state, student=str(champion.model), **known)
    if last.loop_id != "" or last.accepted is None:
        return state
    return _take_model_of_snapshot(workspace, state, last.accepted)


def _take_model_of_snapshot(workspace: TrackedWorkspace, state: LoopState, round: int) -> LoopState:
    """Return the state of a clone whose registry has no champion: the model in model/ takes its place, if accepted."""
    model, scores = workspace.root / "model", workspace.root / SCORES
    if not (model / "config.json").exists() or not scores.exists():
        return state
    if workspace.settings.promotion.approval == "manual":
        return state  # the rule's decision does not say whether a person approved
    decided = (workspace.root / "metrics" / "decision.json").exists()
    if decided and not read_decision(workspace)["accepted"]:
        baseline = "baseline/scores.parquet"
        if not len(workspace.data.read_table(baseline)):
            return state
        say(
            "the registry has no champion, and the model in model/ was rejected: the next one is compared with the "
            "scores of the champion that the snapshot names"
        )
        return dataclasses.replace(state, scores=str(Path(workspace.data.path(baseline))))
    say("the registry has no champion; the model in model/, which belongs to this snapshot, takes its place")
    student = save_student(workspace.root, round)
    return dataclasses.replace(state, student=str(student), scores=str(scores))
