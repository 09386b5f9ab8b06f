"""One shard, annotated by every annotator that misses something in it; each image is decoded once.

What happens when an annotator fails (decided in `florence.workspace.annotate.run`):

- It raises, or answers with an error, on an image: the image is covered with the error, and has no claims of it.
- It answers an image with UnavailableError: the image stays missing; the next run asks again.
- It runs out of memory for a batch: its batches are halved.
- It cannot be loaded, raises UnavailableError, has no memory for one image, or raises on every image: it is asked
  nothing more in this shard, and the images stay missing. The other annotators go on.

An annotator that depends on one that failed goes on without its claims. Its coverage notes that (column `unread`), and
it is asked again when the claims exist. It waits instead where the failed annotator is required, or will be tried again
soon.

Annotators outside this process handle failures themselves before that: programs of the user and HTTP services in
`florence.processes.isolation` (which image is the cause), paid services in `florence.services.calls` (retries, budget).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from florence.records import IMAGES, RECORD_COLUMNS, ImageRecord, table_images
from florence.workspace.annotate.annotators import AnnotatorVersion, copies_of, is_assigned, sample_fraction_of
from florence.workspace.annotate.chunks import read_chunks
from florence.workspace.annotate.claims import RowRange, group_by_image
from florence.workspace.annotate.run import AnnotatorRun, ShardTask
from florence.workspace.annotate.sampling import sample_diverse
from florence.workspace.base import Workspace

EVERY = 30.0
"""Seconds after which new claims are written, also in the middle of a shard."""
NOT_IN_SAMPLE = "not one of the images that it is asked about (annotators.<name>.sample_fraction)"
NOT_ITS_SOURCE = "no file of the sources that it annotates (annotators.<name>.sources)"
AT_ONCE = 256
"""Images that are in memory together at most, unless a batch is larger.

`florence.workspace.annotate.chunks.PIXELS` bounds them too.
"""


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What became of one annotator in a shard.

    ``images``: annotated now; ``left``: images still missing, and why (``error``, empty where none is).

    ``retryable``: it failed in a way that may pass, so that trying again at once may help.
    """

    annotator: str
    images: int
    left: int = 0
    error: str = ""
    retryable: bool = False


def annotate_shard(
    workspace: Workspace,
    annotators: Sequence[AnnotatorVersion],
    shard: str,
    round: int = 0,
    *,
    will_retry: bool = False,
) -> tuple[ShardOutcome, ...]:
    """Have every annotator, in that order, annotate the images of a shard that it has not annotated yet.

    Returns the outcomes of the annotators that had something to do. The module's docstring says what happens when an
    annotator fails. ``will_retry``: whether the caller tries again after an outcome that is ``retryable``. Raises
    StoreError where the store cannot be read or written.
    """
    return _ShardRun(workspace, annotators, shard, round, will_retry).run()


class _ShardRun:
    """All annotators at work on a shard."""

    def __init__(
        self, workspace: Workspace, annotators: Sequence[AnnotatorVersion], shard: str, round: int, will_retry: bool
    ) -> None:
        self.workspace, self.shard = workspace, shard
        settings, store = workspace.settings, workspace.store
        table = store.read_table(f"images/{shard}.parquet", RECORD_COLUMNS, schema=IMAGES)
        self.records = tuple(record for record, _ in table_images(table))
        order = {record.image_id: position for position, record in enumerate(self.records)}
        task = ShardTask(workspace, shard, order, round, will_retry)
        self.runs: list[AnnotatorRun] = []
        for annotator in annotators:
            if is_assigned(settings, annotator, shard):
                dependencies = [run for run in self.runs if run.annotator.name in annotator.depends_on]
                self.runs.append(AnnotatorRun(task, annotator, dependencies))
                if (fraction := sample_fraction_of(settings, annotator)) < 1:
                    self.runs[-1].skip_images(set(order) - sample_diverse(self.records, fraction), NOT_IN_SAMPLE)
                if copies := copies_of(settings, annotator, shard.rsplit("-", 1)[0]):
                    self.runs[-1].skip_images(set(order) - copies, NOT_ITS_SOURCE)
        self.truth: dict[str, RowRange] = {}
        name = f"truth/{shard}.parquet"
        if any("truth" in run.needs and self._select(run.can_ask) for run in self.runs) and store.exists(name):
            self.truth = group_by_image(store.read_table(name), order)
        self.written = time.monotonic()

    def run(self) -> tuple[ShardOutcome, ...]:
        """Annotate whatever can be annotated now."""
        try:
            # A later pass asks about images that were put off, or finished without the claims of a dependency.
            has_changed = self._pass(lambda run: run.can_ask)
            while has_changed:
                has_changed = self._pass(lambda run: run.should_ask)
        finally:
            self._write()
        outcomes = []
        for run in self.runs:
            left = sum(record.image_id not in run.claims.covered for record in self.records)
            if left or run.answered:
                error = run.explain_missing() if left else ""
                outcomes.append(ShardOutcome(run.annotator.name, run.answered, left, error, run.retryable))
        return tuple(outcomes)

    def _select(self, is_wanted: Callable[[str], bool]) -> list[ImageRecord]:
        return [record for record in self.records if is_wanted(record.image_id)]

    def _pass(self, plan: Callable[[AnnotatorRun], Callable[[str], bool]]) -> bool:
        """Go over the images once that some annotator may be asked about.

        Return whether any annotator answered or failed.
        """
        planned = {run.annotator.name: {record.image_id for record in self._select(plan(run))} for run in self.runs}
        busy = [run for run in self.runs if planned[run.annotator.name]]
        if not busy:
            return False
        before = [(run.answered, run.has_failed) for run in self.runs]
        for run in busy:
            for one in (run, *run.dependencies):  # here, where a table that cannot be read is no annotator's failure
                one.claims.load()
        decoded = set().union(*(planned[run.annotator.name] for run in busy if "pixels" in run.needs))
        records = self._select(set().union(*planned.values()).__contains__)
        size = _chunk_size([run.batch_size for run in busy])
        for chunk in read_chunks(self.workspace, self.shard, records, decoded, size):
            for run in busy:
                for _ in run.annotate_chunk(chunk, self.truth):
                    if time.monotonic() - self.written >= EVERY:
                        self._write()
        for run in busy:
            run.settle_errors()
        return [(run.answered, run.has_failed) for run in self.runs] != before

    def _write(self) -> None:
        for run in self.runs:
            run.claims.write()
        self.written = time.monotonic()


def _chunk_size(batch_sizes: Sequence[int]) -> int:
    """Return how many images to hold at once so that every annotator's batches are full.

    That is a common multiple of the batch sizes, or the largest of them where that is too many.
    """
    common = math.lcm(*batch_sizes)
    return common if common <= AT_ONCE else max(batch_sizes)
