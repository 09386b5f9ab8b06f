"""Work of the loop as Prefect tasks and flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from florence.workspace import Workspace
from flows.annotate import AnnotateResult, annotate, task_runner
from flows.terminal import say

T = TypeVar("T")


def run_step(name: str, work: Callable[[], T]) -> T:
    """Do ``work`` as a Prefect task called ``name``, so that the run's page shows it with its time."""
    return task(name=name, persist_result=False, cache_policy=NO_CACHE)(lambda: work())()  # type: ignore[return-value]


def run_annotation(workspace: Workspace, round: int, student: str | None) -> AnnotateResult:
    """Run the flow `annotate` on the task runner of the settings, and say what it did."""
    flow = annotate.with_options(task_runner=task_runner(workspace.settings))
    result = flow(str(workspace.root), round, student)
    if result.shards:
        skipped = f"; {result.skipped} were done already" if result.skipped else ""
        say(f"annotated {result.images} images, counted for every annotator, in {result.shards} shards{skipped}")
    return result
