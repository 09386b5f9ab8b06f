"""Annotation as a Prefect flow: one task for each author and shard, tried again where it fails, skipped where it is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from florence import stages
from florence.config import Settings, read_settings
from florence.errors import FlorenceError, SettingsError
from florence.stages import Author
from florence.store import Store
from flows.parts import working_store
from flows.terminal import Shown, say

RETRY_DELAY = 2.0
"""Seconds before a failed shard is tried again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A shard that an author could not annotate, after all retries."""

    author: str
    shard: str
    error: str


@dataclass(frozen=True, slots=True)
class Annotated:
    """What an annotation did. ``shards``: annotated now; ``skipped``: done before; ``claims``: made now."""

    shards: int
    skipped: int
    claims: int
    failures: tuple[Failure, ...] = ()


@task(name="annotate shard", task_run_name="{author[name]} {shard}", persist_result=False, cache_policy=NO_CACHE)
def annotate_shard(settings: str, store: str, author: dict[str, Any], before: list[dict[str, Any]], shard: str, round: int) -> int:
    """The claims of one author about one shard; returns their number. Plain values, so that it runs in any process of any machine."""
    chosen = Settings.model_validate_json(settings)
    return stages.annotate_shard(chosen, Store(store), Author(**author), shard, [Author(**a) for a in before], round)


@flow(name="annotate", persist_result=False, retries=0)
def annotate(root: str = ".", round: int = 0, student: str | None = None) -> Annotated:
    """Have every author annotate the shards that it has not annotated yet.

    ``student``: the folder of the model that annotates as well. Those who read claims come after those they read. An author that is
    not required and fails for good costs its claims about that shard; raises FlorenceError for one that is, when the others have finished.
    """
    folder = Path(root).resolve()
    settings = read_settings(folder / "params.yaml")
    store = working_store(settings, folder)
    who = stages.authors(settings, student)
    missing = {author.name: stages.pending(settings, store, author) for author in who}
    skipped = _tell_skipped(settings, store, who, missing)
    total = sum(map(len, missing.values()))
    finished, claims = 0, 0
    failures: list[Failure] = []
    with Shown() as progress:
        for wave in waves(settings, who):
            # Shard by shard, not author by author: an author works on one shard at a time, and the workers shall not wait for it.
            work = sorted(((shard, author) for author in wave for shard in missing[author.name]), key=lambda pair: pair[0])
            futures = {_submit(settings, store, who, author, shard, round): (author, shard) for shard, author in work}
            for future in as_completed(list(futures)):
                author, shard = futures[future]
                result = future.result(raise_on_failure=False)
                finished += 1
                progress("annotate", finished, total)
                if isinstance(result, BaseException):
                    failures.append(Failure(author.name, shard, _plain(result)))
                else:
                    claims += result
            _refuse_required(settings, failures)
    failures.sort(key=lambda failure: (failure.author, failure.shard))
    for failure in failures:
        say(f"{failure.author} failed on shard {failure.shard} and is not required: going on without; the next run tries again. {failure.error}")
    return Annotated(total - len(failures), skipped, claims, tuple(failures))


def waves(settings: Settings, who: list[Author]) -> list[list[Author]]:
    """The authors in the order of work: all who read no claims at once, then each of the others, which may read those before it."""
    reading = [a for a in who if a.folder is None and "claims" in stages.specialist(settings, a.name)[0].needs]
    return [[a for a in who if a not in reading], *([a] for a in reading)]


def runner(settings: Settings) -> TaskRunner[Any]:
    """The task runner that ``flow.runner`` names. Raises SettingsError where its package is missing."""
    if settings.flow.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=settings.flow.workers)
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise SettingsError("flow.runner: dask needs prefect-dask: pip install 'florence[dask]' -c constraints.txt") from None
    if settings.flow.dask is not None:
        return DaskTaskRunner(address=settings.flow.dask)
    return DaskTaskRunner(cluster_kwargs={"n_workers": settings.flow.workers, "threads_per_worker": 1, "dashboard_address": None})


def _submit(settings: Settings, store: Store, who: list[Author], author: Author, shard: str, round: int) -> PrefectFuture[int]:
    chosen = annotate_shard.with_options(retries=settings.flow.retries, retry_delay_seconds=RETRY_DELAY)
    before = [asdict(a) for a in who[: who.index(author)]]
    return chosen.submit(settings.model_dump_json(), store.uri, asdict(author), before, shard, round)


def _tell_skipped(settings: Settings, store: Store, who: list[Author], missing: dict[str, list[str]]) -> int:
    logger = get_run_logger()
    skipped = 0
    for shard in stages.shards(store):
        for author in who:
            if stages.looks_at(settings, author, shard) and shard not in missing[author.name]:
                logger.info("shard %s already annotated by %s", shard, author.name)
                skipped += 1
    return skipped


def _refuse_required(settings: Settings, failures: list[Failure]) -> None:
    fatal = [f for f in failures if f.author == stages.STUDENT or settings.specialists[f.author].required]
    if fatal:
        listed = "\n  ".join(f"{f.author}, shard {f.shard}: {f.error}" for f in sorted(fatal, key=lambda f: (f.author, f.shard)))
        raise FlorenceError(
            f"{len(fatal)} shards were not annotated:\n  {listed}\nFinished shards are kept; the same command tries these again. "
            "`required: false` lets a run go on without an annotator."
        )


def _plain(error: BaseException) -> str:
    return str(error) if isinstance(error, FlorenceError) else f"{type(error).__name__}: {error}"
