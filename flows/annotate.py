"""Annotation as a Prefect flow: one task a shard, for all annotators that miss something in it; tried again where it fails, skipped where it is done."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import task_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from florence import annotation
from florence.annotation import AnnotatorVersion, Outcome
from florence.config import Settings, read_settings
from florence.errors import FlorenceError, SettingsError
from florence.store import Store
from flows.parts import working_store
from flows.terminal import Shown, say

RETRY_DELAY = 2.0
"""Seconds before a failed shard is tried again."""
LOOK = 15.0
"""Seconds between two looks at how many images of the shards under way are done."""
SUBMITTED = 256
"""Shards that Prefect is given at once: its futures are held in memory."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What an annotator has not annotated. ``images`` of ``shards`` shards; ``shard``, ``error``: the first of them, and why."""

    annotator: str
    images: int
    shards: int
    shard: str
    error: str


@dataclass(frozen=True, slots=True)
class Annotated:
    """What an annotation did. ``shards``: worked on; ``skipped``: with nothing to do; ``images``: annotated now, counted for every annotator."""

    shards: int
    skipped: int
    images: int
    missing: tuple[Missing, ...] = ()


class TryAgain(FlorenceError):
    """An annotator failed in a shard in a way that may pass."""


@task(name="annotate shard", task_run_name="{shard}", persist_result=False, cache_policy=NO_CACHE)
def annotate_shard(
    settings: str, store: str, who: list[dict[str, Any]], shard: str, round: int, retries: int
) -> tuple[Outcome, ...]:
    """What became of each annotator of ``who`` in a shard. Plain values, so that it runs in any process of any machine.

    Raises TryAgain where an annotator failed in a way that may pass and the task has tries left: only what is missing is then done again.
    """
    more = (task_run.run_count or 1) <= retries
    chosen = Settings.model_validate_json(settings)
    outcomes = annotation.annotate_shard(
        chosen, Store(store), [AnnotatorVersion(**a) for a in who], shard, round, patient=more
    )
    if more and (failed := [o for o in outcomes if o.again]):
        raise TryAgain("; ".join(f"{o.annotator}: {o.error}" for o in failed))
    return outcomes


@flow(name="annotate", persist_result=False, retries=0)
def annotate(root: str = ".", round: int = 0, student: str | None = None) -> Annotated:
    """Have every annotator annotate the images that it has not annotated yet.

    ``student``: the folder of the model that annotates as well. An annotator that fails costs its own claims about that shard; raises FlorenceError at the end,
    when the others have finished, where it is a required one. What is missing is left for the next run.
    """
    folder = Path(root).resolve()
    settings = read_settings(folder / "params.yaml")
    store = working_store(settings, folder)
    who = annotation.annotators(settings, student)
    before = annotation.pending(settings, store, who)
    _tell_done(settings, store, who, before)
    work = sorted({shard for left in before.values() for shard in left})
    count = _Count(before)
    with Shown() as progress:

        def shown() -> None:
            progress("annotate", count.shards, len(work))
            progress.note(f"{count.images} images")

        def look(running: list[str]) -> None:
            count.look(annotation.pending(settings, store, who, running), running)
            shown()

        for shard, result in _worked(settings, store, who, work, round, look):
            count.add(shard, result if isinstance(result, tuple) else _broken(settings, store, who, shard, result))
            shown()
    missing = count.missing()
    if missing or store.exists(annotation.MISSING):
        keys = {annotator.name: annotator.key for annotator in who}
        store.write_json(annotation.MISSING, {keys[m.annotator]: m.error for m in missing})
    _refuse_required(settings, missing)
    for m in missing:
        say(
            f"{m.annotator} has {m.images} images left in {m.shards} shards and is not required: going on without; the next run asks again. {m.shard}: {m.error}"
        )
    return Annotated(len(work), len(store.stems("images")) - len(work), count.images, missing)


def runner(settings: Settings) -> TaskRunner[Any]:
    """The task runner that ``flow.runner`` names. Raises SettingsError where its package is missing."""
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


class _Count:
    """What has been done so far of what was missing ``before``: annotator → shard → images."""

    def __init__(self, before: dict[str, dict[str, int]]) -> None:
        self._before = before
        self._done, self.shards = 0, 0
        self._running: dict[str, int] = {}
        self._missing: dict[str, Missing] = {}

    @property
    def images(self) -> int:
        """Images annotated, counted for every annotator."""
        return self._done + sum(self._running.values())

    def look(self, now: dict[str, dict[str, int]], running: Iterable[str]) -> None:
        """What is missing ``now`` in the shards under way."""
        self._running = {
            shard: sum(max(0, left.get(shard, 0) - now[name].get(shard, 0)) for name, left in self._before.items())
            for shard in running
        }

    def add(self, shard: str, outcomes: tuple[Outcome, ...]) -> None:
        """A shard that is finished with."""
        self.shards += 1
        self._running.pop(shard, None)
        left = {o.annotator: o for o in outcomes if o.left}
        for name, missed in self._before.items():
            self._done += max(0, missed.get(shard, 0) - (left[name].left if name in left else 0))
        for name, o in left.items():
            known = self._missing.get(name, Missing(name, 0, 0, shard, o.error))
            first = min((known.shard, known.error), (shard, o.error))
            self._missing[name] = Missing(name, known.images + o.left, known.shards + 1, *first)

    def missing(self) -> tuple[Missing, ...]:
        """What is left, in the order of work."""
        return tuple(self._missing[name] for name in self._before if name in self._missing)


def _worked(
    settings: Settings,
    store: Store,
    who: list[AnnotatorVersion],
    shards: list[str],
    round: int,
    look: Callable[[list[str]], None],
) -> Iterator[tuple[str, Any]]:
    """Each shard, as it is finished, with its outcomes or the error that ended it; calls ``look`` with the shards under way now and then."""
    retries = settings.flow.retries
    chosen = annotate_shard.with_options(retries=retries, retry_delay_seconds=RETRY_DELAY)
    given = settings.model_dump_json(), store.uri, [asdict(annotator) for annotator in who]
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


def _broken(
    settings: Settings, store: Store, who: list[AnnotatorVersion], shard: str, error: BaseException
) -> tuple[Outcome, ...]:
    """A shard that could not be worked on to its end, as failures of all who miss something in it."""
    text = str(error) if isinstance(error, FlorenceError) else f"{type(error).__name__}: {error}"
    left = annotation.pending(settings, store, who, [shard])
    return tuple(Outcome(name, 0, missed[shard], text) for name, missed in left.items() if shard in missed)


def _tell_done(
    settings: Settings, store: Store, who: list[AnnotatorVersion], before: dict[str, dict[str, int]]
) -> None:
    logger = get_run_logger()
    shards = store.stems("images")
    for annotator in who:
        looked = [shard for shard in shards if annotation.looks_at(settings, annotator, shard)]
        if done := sum(shard not in before[annotator.name] for shard in looked):
            logger.info("%s: %d of %d shards already annotated", annotator.name, done, len(looked))


def _refuse_required(settings: Settings, missing: tuple[Missing, ...]) -> None:
    fatal = [m for m in missing if annotation.required(settings, m.annotator)]
    if fatal:
        listed = "\n  ".join(
            f"{m.annotator}, shard {m.shard}: {m.error} ({m.images} images in {m.shards} shards)" for m in fatal
        )
        raise FlorenceError(
            f"{len(fatal)} annotators could not finish:\n  {listed}\nWhat is done is kept; the same command asks them for the rest. "
            "`required: false` lets a run go on without an annotator."
        )
