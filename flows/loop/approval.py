"""A model that waits for a person's approval: asked for on Prefect's page, and what follows from the decision."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import Field

from florence.errors import FlorenceError
from florence.report import build_report
from florence.report.approval import ModelApproval
from florence.report.facts import LoopFacts
from florence.store import Store
from florence.workspace.compare import compare_labels
from flows.adapters.model_registry import APPROVAL, ModelVersion
from flows.events import send_event
from flows.facts import read_facts, write_facts
from flows.loop.messages import escape_markdown
from flows.loop.students import ACCEPTED, remove_other_students, save_student
from flows.models import SCORES
from flows.plan import hash_images, hash_settings
from flows.state import LoopState, read_state, write_state
from flows.terminal import say
from flows.tracked import TrackedWorkspace


def describe_waiting(state: LoopState) -> str:
    """Return that a version waits, since when, and what to do."""
    return (
        f"version {state.waiting} waits for approval since {state.since[:19]} UTC: "
        "`florence approve` makes it champion, `florence refuse --reason TEXT` does not; "
        "nothing else is started, and new images wait"
    )


def keep_round(workspace: TrackedWorkspace, number: int) -> dict[str, Any]:
    """Keep snapshot, model and scores of a round; return the fields of the state that say where the model is."""
    workspace.snapshots.keep(workspace.root / ACCEPTED / f"round={number}")
    student = save_student(workspace.root, number)
    scores = student.parent / f"scores-round={number}.parquet"
    Store(str(student.parent)).write_bytes(scores.name, (workspace.root / SCORES).read_bytes())
    return {"student": str(student), "scores": str(scores)}


def start_waiting(workspace: TrackedWorkspace, state: LoopState, version: str, reviews: str) -> LoopState:
    """Return the state, written, of a loop whose round is done but for a person's decision about its model.

    ``reviews``: version of people's claims in this round.
    """
    keep_round(workspace, state.round)
    state = dataclasses.replace(
        state,
        images=hash_images(workspace),
        settings=hash_settings(workspace),
        reviews=reviews,
        waiting=version,
        since=find_since(workspace, version),
        flow_run=_find_deployed_run(),
    )
    write_state(workspace.root, state)
    return state


def find_since(workspace: TrackedWorkspace, version: str) -> str:
    """Return since when a version waits, UTC, as its tag says."""
    return workspace.registry.find(version).tags.get(f"{APPROVAL}.since", "")


def tags_of_waiting() -> dict[str, str]:
    """Return the tags of a version that is registered to wait."""
    return {APPROVAL: "waiting", f"{APPROVAL}.since": datetime.now(UTC).isoformat(timespec="seconds")}


def settle_decision(workspace: TrackedWorkspace) -> LoopState | None:
    """Finish the round whose model waited, as was decided; return the state after it.

    None where nothing waits here, or nobody has decided yet. Interrupted, it is done again with the same result.
    """
    state = read_state(workspace.root)
    if state is None or not state.waiting:
        return None
    version = workspace.registry.find(state.waiting)
    if version.tags.get(APPROVAL) not in ("approved", "refused"):
        return None
    return (
        _approve(workspace, state, version)
        if version.tags[APPROVAL] == "approved"
        else _refuse(workspace, state, version)
    )


def _approve(workspace: TrackedWorkspace, state: LoopState, version: ModelVersion) -> LoopState:
    number = state.round
    _write_decision(workspace, state, version)
    say(f"version {version.version} was approved and is the champion")
    students = workspace.root / ".florence/students"
    done = state.done + 1
    known: dict[str, Any] = {
        "student": str(students / f"round={number}"),
        "scores": str(students / f"scores-round={number}.parquet"),
    }
    _tell(workspace, state, version, "approved", "promoted")
    return _end_round(
        workspace,
        state,
        **known,
        accepted=number,
        champion=version.version,
        attempt=1,
        finished=done >= state.wanted,
    )


def _refuse(workspace: TrackedWorkspace, state: LoopState, version: ModelVersion) -> LoopState:
    """End the loop as after a rejected model: its labels are judged by themselves."""
    number, reason = state.round, version.tags.get("reason", "")
    labels = compare_labels(workspace, number, state.accepted)
    reason += f"; {labels.reason}"
    known: dict[str, Any] = {"labels_kept": labels.kept, "labels_reason": labels.reason}
    _write_decision(workspace, state, version, decision="rejected", **known)
    say(f"version {version.version} was refused; the champion stays")
    say(f"the labels of round {number} are {'kept' if labels.kept else 'set back'}: {labels.reason}")
    accepted = number if labels.kept else state.accepted
    if not labels.kept and accepted is not None:
        kept = workspace.root / ACCEPTED / f"round={accepted}"
        if workspace.snapshots.has_kept(kept):
            workspace.snapshots.restore(kept)
            say(f"the snapshot and model of round {accepted} are in place again")
        else:
            reason += f"; round {accepted} was not kept, so data/ still holds the refused round {number}"
    _tell(workspace, state, version, "refused")
    return _end_round(workspace, state, accepted=accepted, rejected=reason, finished=True, attempt=state.attempt + 1)


def _end_round(workspace: TrackedWorkspace, state: LoopState, **known: Any) -> LoopState:
    state = dataclasses.replace(state, done=state.done + 1, seconds={}, waiting="", since="", flow_run="", **known)
    write_state(workspace.root, state)
    remove_other_students(workspace.root, state.student)
    return state


def read_approval(version: ModelVersion) -> ModelApproval:
    """Return what the tags of a version say about its approval."""
    tags = {name: version.tags.get(f"{APPROVAL}.{name}", "") for name in ("since", "time", "who", "reason")}
    return ModelApproval(version.tags[APPROVAL], **tags)  # type: ignore[arg-type]


def _write_decision(workspace: TrackedWorkspace, state: LoopState, version: ModelVersion, **known: Any) -> None:
    """Write the decision to the facts of the round and its report; ``known``: other fields of the facts."""
    facts = read_facts(workspace)
    if facts is None or facts.loop_id != state.loop_id:
        return
    found = next((one for one in facts.rounds if one.round == state.round), None)
    if found is None:
        return
    if known.get("decision") == "rejected":
        known["reason"] = version.tags.get("reason", "")
    facts = facts.with_round(dataclasses.replace(found, approval=read_approval(version), **known))
    write_facts(workspace, facts)
    build_report(facts, workspace.data, workspace.report)
    if version.run_id is not None:
        workspace.tracker.log_report(version.run_id, workspace.report)


def _tell(workspace: TrackedWorkspace, state: LoopState, version: ModelVersion, *kinds: Any) -> None:
    facts: LoopFacts | None = read_facts(workspace)
    found = next((one for one in facts.rounds if one.round == state.round), None) if facts else None
    for kind in kinds:
        reason = version.tags.get(f"{APPROVAL}.reason") or version.tags.get("reason", "")
        send_event(workspace, kind, state.loop_id, version.version, reason, found)


# ---------------------------------------------------------------- Prefect


def _find_deployed_run() -> str:
    """Return the id of the Prefect run under way, if it is one of a deployment: Prefect suspends no other."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return str(run.id) if run is not None and run.deployment_id is not None else ""


def ask_for_approval(workspace: TrackedWorkspace) -> bool:
    """Ask on the page of this Prefect run about the version that waits for it; return whether there was an answer.

    The first call suspends the run: its process ends. Resumed, the run starts anew, and the same call gets the answer.
    Called without the workspace's lock. False where nothing waits for this run.
    """
    state = read_state(workspace.root)
    if state is None or not state.waiting or not state.flow_run or state.flow_run != _find_deployed_run():
        return False
    if workspace.registry.find(state.waiting).tags.get(APPROVAL) != "waiting":
        return False
    from prefect.flow_runs import suspend_flow_run
    from prefect.input import RunInput

    class ModelDecision(RunInput):
        """The form on the page of a suspended run."""

        approve: bool = Field(description="make this version the champion")
        reason: str = Field("", description="why; needed for a refusal")
        name: str = Field("", description="who decides")

    form = ModelDecision.with_initial_data(description=_describe_form(workspace, state))
    answer = suspend_flow_run(wait_for_input=form, key=f"approval-{state.waiting}")
    if answer is None:
        return False
    who = f"{answer.name or 'someone'} on Prefect's page"
    try:
        workspace.registry.decide(state.waiting, answer.approve, answer.reason, who)
    except FlorenceError as error:
        say(str(error))  # decided elsewhere meanwhile: that decision counts
    return True


def _describe_form(workspace: TrackedWorkspace, state: LoopState) -> str:
    """Return, as Markdown, why the version was accepted and where its report is: browsers follow no link to a file."""
    reason = workspace.registry.find(state.waiting).tags.get("reason", "")
    known = f"Version {state.waiting} of {workspace.registry.name} was accepted: {reason}"
    return f"{escape_markdown(known)}\n\nReport: `{Path(workspace.report, 'index.html')}`"


def resume_run(flow_run: str, is_approved: bool, reason: str) -> str:
    """Resume the Prefect run that is suspended for a version which is decided about; return a sentence about it.

    Prefect's API is the one of the environment.
    """
    from prefect.flow_runs import resume_flow_run

    answer = {"approve": is_approved, "reason": reason, "name": "florence on the command line"}
    try:
        resume_flow_run(UUID(flow_run), run_input=answer)
    except Exception as error:  # of Prefect's client: deleted, cancelled, resumed by another, out of reach
        return f"the Prefect run {flow_run} was not resumed ({type(error).__name__}); the next run goes on from here"
    return "the suspended Prefect run goes on"
