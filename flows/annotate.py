"""Annotation as a Prefect flow: a task for each shard, for all annotators that miss something in it.

Tried again where it fails, skipped where it is done.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import task_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from florence.config import Settings
from florence.errors import FlorenceError, SettingsError
from florence.workspace import Workspace, bind_workspace
from florence.workspace import annotate as annotation
from florence.workspace.annotate import (
    MISSING,
    AnnotatorVersion,
    ShardOutcome,
    count_missing,
    is_assigned,
    is_required,
    list_annotators,
    refuse_unmatched_label_sets,
    report_label_sets,
)
from florence.workspace.form import check_store
from flows.frozen import read_run_settings
from flows.terminal import ProgressBars, say

RETRY_DELAY = 2.0
"""Seconds before a failed shard is tried again."""
LOOK = 15.0
"""Seconds between two counts of how many images of the shards under way are done."""
SUBMITTED = 256
"""Shards that Prefect is given at once: its futures are held in memory."""


@dataclass(frozen=True, slots=True)
class MissingImages:
    """What an annotator has not annotated.

    ``images`` of ``shards`` shards; ``shard``, ``error``: the first of them, and why.
    """

    annotator: str
    images: int
    shards: int
    shard: str
    error: str


@dataclass(frozen=True, slots=True)
class AnnotateResult:
    """What an annotation did.

    ``shards``: worked on; ``skipped``: with nothing to do; ``images``: annotated now, counted for every annotator.
    """

    shards: int
    skipped: int
    images: int
    missing: tuple[MissingImages, ...] = ()


class ShardRetryError(FlorenceError):
    """An annotator failed in a shard in a way that may pass."""


@task(name="annotate shard", task_run_name="{shard}", persist_result=False, cache_policy=NO_CACHE)
def annotate_shard(
    root: str, settings: str, annotators: list[dict[str, Any]], shard: str, round: int, retries: int
) -> tuple[ShardOutcome, ...]:
    """Return what became of each annotator in a shard.

    Its arguments are plain values, so that it runs in any process of any machine.

    Raises ShardRetryError where an annotator failed in a way that may pass and the task has tries left: only what is
    missing is then done again.
    """
    will_retry = (task_run.run_count or 1) <= retries
    workspace = bind_workspace(Path(root), Settings.model_validate_json(settings))
    chosen = [AnnotatorVersion(**values) for values in annotators]
    outcomes = annotation.annotate_shard(workspace, chosen, shard, round, will_retry=will_retry)
    if will_retry and (failed := [outcome for outcome in outcomes if outcome.retryable]):
        raise ShardRetryError("; ".join(f"{outcome.annotator}: {outcome.error}" for outcome in failed))
    return outcomes


@flow(name="annotate", persist_result=False, retries=0)
def annotate(root: str = ".", round: int = 0, student: str | None = None) -> AnnotateResult:
    """Have every annotator annotate the images that it has not annotated yet.

    ``student``: the folder of the model that annotates as well.

    What happens when an annotator fails: its claims about that shard stay missing, the others finish, and the next run
    asks it again. Raises FlorenceError at the end if the annotator is a required one, and before anything is annotated
    if the labels of a required one are of none of its images.
    """
    folder = Path(root).resolve()
    workspace = bind_workspace(folder, read_run_settings(folder))
    check_store(workspace.store)
    annotators = list_annotators(workspace.settings, student, files=workspace.store)
    refuse_unmatched_label_sets(workspace.settings, report_label_sets(workspace, annotators))
    before = count_missing(workspace, annotators)
    _log_finished(workspace, annotators, before)
    shards = sorted({shard for left in before.values() for shard in left})
    count = _AnnotationCount(before)
    with ProgressBars() as progress:

        def show() -> None:
            progress("annotate", count.shards, len(shards))
            progress.note(f"{count.images} images")

        def look(running: list[str]) -> None:
            count.look(count_missing(workspace, annotators, running), running)
            show()

        for shard, result in _run_shards(workspace, annotators, shards, round, look):
            is_whole = isinstance(result, tuple)
            count.add(shard, result if is_whole else _failed_outcomes(workspace, annotators, shard, result))
            show()
    missing = count.missing()
    _write_missing(workspace, annotators, missing)
    _refuse_required(workspace.settings, missing)
    for one in missing:
        say(
            f"{one.annotator} has {one.images} images left in {one.shards} shards and is not required: "
            f"going on without; the next run asks again. {one.shard}: {one.error}"
        )
    return AnnotateResult(len(shards), len(workspace.store.stems("images")) - len(shards), count.images, missing)


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """Return the task runner that ``flow.runner`` names. Raises SettingsError where its package is missing."""
    if settings.flow.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=settings.flow.workers)
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise SettingsError(
            "flow.runner: dask needs prefect-dask: pip install 'florence[dask]' -c constraints.txt"
        ) from None
    if settings.flow.dask is not None:
        return DaskTaskRunner(address=settings.flow.dask)
    return DaskTaskRunner(
        cluster_kwargs={"n_workers": settings.flow.workers, "threads_per_worker": 1, "dashboard_address": None}
    )


class _AnnotationCount:
    """How much is done of what was missing ``before``: annotator → shard → images."""

    def __init__(self, before: dict[str, dict[str, int]]) -> None:
        self._before = before
        self._done, self.shards = 0, 0
        self._running: dict[str, int] = {}
        self._missing: dict[str, MissingImages] = {}

    @property
    def images(self) -> int:
        """Images annotated, counted for every annotator."""
        return self._done + sum(self._running.values())

    def look(self, now: dict[str, dict[str, int]], running: Iterable[str]) -> None:
        """Take in what is missing ``now`` in the shards under way."""
        self._running = {
            shard: sum(max(0, left.get(shard, 0) - now[name].get(shard, 0)) for name, left in self._before.items())
            for shard in running
        }

    def add(self, shard: str, outcomes: tuple[ShardOutcome, ...]) -> None:
        """Add a shard that is finished with."""
        self.shards += 1
        self._running.pop(shard, None)
        left = {outcome.annotator: outcome for outcome in outcomes if outcome.left}
        for name, missed in self._before.items():
            self._done += max(0, missed.get(shard, 0) - (left[name].left if name in left else 0))
        for name, outcome in left.items():
            known = self._missing.get(name, MissingImages(name, 0, 0, shard, outcome.error))
            first = min((known.shard, known.error), (shard, outcome.error))
            self._missing[name] = MissingImages(name, known.images + outcome.left, known.shards + 1, *first)

    def missing(self) -> tuple[MissingImages, ...]:
        """Return what is left, in the order of work."""
        return tuple(self._missing[name] for name in self._before if name in self._missing)


def _run_shards(
    workspace: Workspace,
    annotators: Sequence[AnnotatorVersion],
    shards: Sequence[str],
    round: int,
    look: Callable[[list[str]], None],
) -> Iterator[tuple[str, Any]]:
    """Yield each shard, as it is finished, with its outcomes or the error that ended it.

    Call ``look`` with the shards under way now and then.
    """
    retries = workspace.settings.flow.retries
    chosen = annotate_shard.with_options(retries=retries, retry_delay_seconds=RETRY_DELAY)
    values = [asdict(annotator) for annotator in annotators]
    given = str(workspace.root), workspace.settings.model_dump_json(), values
    coming, running = iter(shards), dict[PrefectFuture[Any], str]()
    finished: queue.SimpleQueue[PrefectFuture[Any]] = queue.SimpleQueue()
    while True:
        for shard in islice(coming, SUBMITTED - len(running)):
            future = chosen.submit(*given, shard, round, retries)
            running[future] = shard
            future.add_done_callback(finished.put)
        if not running:
            return
        try:
            future = finished.get(timeout=LOOK)
        except queue.Empty:
            look(list(running.values()))
        else:
            yield running.pop(future), future.result(raise_on_failure=False)


def _failed_outcomes(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], shard: str, error: BaseException
) -> tuple[ShardOutcome, ...]:
    """Return a shard whose task ended with an error as failures of all annotators that miss something in it."""
    text = str(error) if isinstance(error, FlorenceError) else f"{type(error).__name__}: {error}"
    left = count_missing(workspace, annotators, [shard])
    return tuple(ShardOutcome(name, 0, missed[shard], text) for name, missed in left.items() if shard in missed)


def _log_finished(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], before: dict[str, dict[str, int]]
) -> None:
    logger = get_run_logger()
    shards = workspace.store.stems("images")
    for annotator in annotators:
        assigned = [shard for shard in shards if is_assigned(workspace.settings, annotator, shard)]
        if done := sum(shard not in before[annotator.name] for shard in assigned):
            logger.info("%s: %d of %d shards already annotated", annotator.name, done, len(assigned))


def _write_missing(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], missing: tuple[MissingImages, ...]
) -> None:
    """Write why images are missing, for the report; an earlier run's reasons are replaced."""
    if missing or workspace.store.exists(MISSING):
        keys = {annotator.name: annotator.key for annotator in annotators}
        workspace.store.write_json(MISSING, {keys[one.annotator]: one.error for one in missing})


def _refuse_required(settings: Settings, missing: tuple[MissingImages, ...]) -> None:
    fatal = [one for one in missing if is_required(settings, one.annotator)]
    if fatal:
        listed = "\n  ".join(
            f"{one.annotator}, shard {one.shard}: {one.error} ({one.images} images in {one.shards} shards)"
            for one in fatal
        )
        raise FlorenceError(
            f"{len(fatal)} annotators could not finish:\n  {listed}\n"
            "What is done is kept; the same command asks them for the rest. "
            "`required: false` lets a run go on without an annotator."
        )
