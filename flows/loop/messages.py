"""What a loop shows: its run in MLflow, artifacts on the page of its Prefect run, its last words."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from florence.annotators import DETECTOR_EXAMPLE
from florence.engine.weighing import join_sentences
from florence.report.facts import LoopFacts
from florence.report.summary import summarize_rounds
from florence.workspace.annotate import AnnotatorVersion, describe_missing_detectors
from florence.workspace.base import Workspace
from florence.workspace.evidence import weigh_round
from flows.facts import read_facts
from flows.state import LoopState, read_state
from flows.terminal import say
from flows.tracked import TrackedWorkspace, report_end


@contextmanager
def track_loop(workspace: TrackedWorkspace, state: LoopState) -> Iterator[str]:
    """Yield the id of the loop's MLflow run; it and the round under way end as the block does."""
    parent = workspace.tracker.loop_run(state.loop_id, workspace.settings.model_dump(mode="json"))

    def finish(status: str) -> None:
        if status != "FINISHED" and (now := read_state(workspace.root)) is not None and not now.finished:
            workspace.tracker.finish(workspace.tracker.round_run(parent, now.round), status)
        workspace.tracker.finish(parent, status)

    with report_end(finish):
        yield parent


def escape_markdown(text: str) -> str:
    """Return ``text`` as Markdown that shows it as it stands: a task such as <OD> is no HTML tag."""
    return html.escape(re.sub(r"([\\`*_\[\]#~|])", r"\\\1", text), quote=False)


def create_artifacts(workspace: TrackedWorkspace, facts: LoopFacts, page: Path) -> None:
    """Put a table of the last round, and links to ``page`` and its MLflow run, on the page of the Prefect run."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    last = facts.rounds[-1]
    head = f"# Round {last.round}: {last.decision}\n\n{escape_markdown(last.reason)}"
    text = f"{head}\n\n```\n{summarize_rounds(facts)}\n```\n"
    create_markdown_artifact(text, key="florence-round", description=f"loop {facts.loop_id}")
    create_link_artifact(page.as_uri(), link_text=f"report of round {last.round}", key="florence-report")
    if last.run_id is not None and (run_page := workspace.tracker.run_page(last.run_id)) is not None:
        create_link_artifact(run_page, link_text="MLflow run", key="florence-mlflow")


def say_weighing(workspace: Workspace, annotators: Sequence[AnnotatorVersion]) -> None:
    """Say how the evidence of a round was weighed, a line for each annotation type or several that are alike."""
    lines = join_sentences((one.task, one.sentence) for one in weigh_round(workspace, annotators))
    if lines:
        say("\n  ".join(["how the evidence was weighed:", *lines]))
    for line in describe_missing_detectors(workspace.settings):
        say("\n  ".join([f"{line}; params.yaml names one so:", *DETECTOR_EXAMPLE.splitlines()]))


def describe_loop(workspace: TrackedWorkspace, state: LoopState) -> str:
    """Show the loop's table and where its report is; return one sentence about it."""
    if (facts := read_facts(workspace)) is not None:
        say(summarize_rounds(facts))
    say(f"Look at   {workspace.report / 'index.html'}\nFacts     {workspace.root / 'build' / 'loop.json'}")
    if state.waiting:
        return f"version {state.waiting} waits for approval: florence approve"
    champion = f"champion version {state.champion}" if state.champion else "no champion"
    stopped = ", stopped by a round whose model was rejected" if state.rejected else ""
    return f"loop {state.loop_id}: {state.done} rounds, {champion}{stopped}"
