"""One annotator at work on a shard: which images it may be asked about now, and what happens when it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from florence.annotators import ImageBatch
from florence.errors import FlorenceError, NotListedError, StoreError, UnavailableError
from florence.records import Annotation, ImageRecord, PartialClaims, annotate, annotations_table
from florence.workspace.annotate.annotators import (
    AnnotatorVersion,
    acquire_annotator,
    bind_files,
    bind_labels,
    is_required,
    write_declarations,
)
from florence.workspace.annotate.chunks import ImageChunk
from florence.workspace.annotate.claims import RowRange, ShardClaims, list_annotations
from florence.workspace.annotate.usage import ShardUsage, read_usage
from florence.workspace.base import Workspace

_Batches = deque[tuple[ImageRecord, ...]]


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What the annotators of a shard share.

    ``order``: image id → position in the shard; ``will_retry``: whether failures that may pass are tried again soon.
    """

    workspace: Workspace
    shard: str
    order: Mapping[str, int]
    round: int
    will_retry: bool


class AnnotatorRun:
    """An annotator with its claims about a shard.

    ``answered``: images that it has finished now; ``retryable``: it failed in a way that may pass.
    """

    def __init__(self, task: ShardTask, annotator: AnnotatorVersion, dependencies: Sequence[AnnotatorRun]) -> None:
        settings, store = task.workspace.settings, task.workspace.store
        if annotator.name in settings.annotators:
            bind_files(settings, annotator.name, store)
        self.annotator, self.dependencies = annotator, tuple(dependencies)
        self._workspace, self._round, self._will_retry = task.workspace, task.round, task.will_retry
        self._instance, self._lock, self.batch_size = acquire_annotator(settings, annotator)
        self.needs: frozenset[str] = self._instance.needs
        self.claims = ShardClaims(store, annotator, task.shard, task.order)
        self._usage = ShardUsage(store, annotator, task.shard)
        self._is_required = is_required(settings, annotator.name)
        self._is_loaded, self._failure, self.retryable, self.answered = False, "", False, 0
        # Texts, not the exceptions: those would keep the pixels they met in memory.
        self._raised: dict[str, str] = {}
        self._unavailable: dict[str, str] = {}

    @property
    def has_failed(self) -> bool:
        """Whether it is asked nothing more in this shard."""
        return bool(self._failure)

    def skip_images(self, image_ids: Iterable[str], reason: str) -> None:
        """Cover images that it is not asked about with an error: that it claims nothing there means nothing."""
        error = NotListedError(reason)
        for image_id in image_ids:
            if image_id not in self.claims.covered:
                self.claims.cover(image_id, None, _describe(error))

    # ------------------------------------------------------------ what it may be asked

    def can_ask(self, image_id: str) -> bool:
        """Return whether it may be asked about an image in this pass, as far as can be known before."""
        if self._failure or image_id in self._raised or image_id in self._unavailable:
            return False
        return image_id not in self.claims.covered or bool(self.claims.unread(image_id))

    def should_ask(self, image_id: str) -> bool:
        """Return whether to ask about an image now.

        No dependency is awaited, and the image is new, or a dependency has answered since.
        """
        if not self.can_ask(image_id) or any(other.is_awaited(image_id) for other in self.dependencies):
            return False
        return image_id not in self.claims.covered or not self.claims.unread(image_id) <= self._missing(image_id)

    def is_awaited(self, image_id: str) -> bool:
        """Return whether the annotators that depend on it wait for its claims about an image."""
        if image_id in self.claims.covered:
            return False
        if self._is_required or image_id in self._raised or (self._will_retry and self.retryable):
            return True
        is_over = self._failure or image_id in self._unavailable
        return not is_over and any(other.is_awaited(image_id) for other in self.dependencies)

    def _missing(self, image_id: str) -> frozenset[str]:
        """Return the names of annotators, direct dependencies or not, whose claims about an image are missing now."""
        names = [
            {other.annotator.name} if image_id not in other.claims.covered else other.claims.unread(image_id)
            for other in self.dependencies
        ]
        return frozenset().union(*names)

    def explain_missing(self) -> str:
        """Return why images are missing; empty where nothing was tried."""
        if error := self._failure or next(iter(self._unavailable.values()), ""):
            return error
        awaited = [other.annotator.name for other in self.dependencies if other.explain_missing()]
        return f"waits for {', '.join(awaited)}" if awaited else ""

    # ------------------------------------------------------------ asking

    def annotate_chunk(self, chunk: ImageChunk, truth: Mapping[str, RowRange]) -> Iterator[None]:
        """Ask about the images of a chunk that are to be asked about; yield after each batch."""
        wanted = [record for record in chunk.records if self.should_ask(record.image_id)]
        if "pixels" in self.needs:
            for record in wanted:
                if record.image_id in chunk.errors:
                    self._raised[record.image_id] = _describe(chunk.errors[record.image_id])
            wanted = [record for record in wanted if record.image_id in chunk.pixels]
        if not wanted or not self._load():
            return
        batches = _split(wanted, self.batch_size)
        while batches and not self._failure:
            batch = batches.popleft()
            with self._lock:
                before = self._instance.usage
                try:
                    batches = self._ask_batch(batch, batches, chunk, truth)
                finally:
                    self._usage.add(self._instance.usage - before)
            yield

    def _load(self) -> bool:
        """Load the annotator once; on failure give up this shard and return False."""
        if not self._is_loaded:
            try:
                with self._lock:
                    bind_labels(self._workspace.settings, self.annotator)
                    write_declarations(self._workspace, [self.annotator])
                    self._instance.usage = read_usage(self._workspace.store, self.annotator)
                    self._instance.load()
                    if self.annotator.folder is None:
                        self._instance.note_reading()
                self._is_loaded = True
            except Exception as error:
                self._give_up(error)
        return self._is_loaded

    def _ask_batch(
        self, batch: Sequence[ImageRecord], rest: _Batches, chunk: ImageChunk, truth: Mapping[str, RowRange]
    ) -> _Batches:
        """Ask about one batch; return the batches that are left, which are smaller ones if it failed."""
        try:
            answers = self._answer(batch, chunk, truth)
        except UnavailableError as error:
            self._give_up(error)
        except Exception as error:
            if not _is_out_of_memory(error):
                if len(batch) > 1:
                    rest.extendleft((record,) for record in reversed(batch))
                else:
                    self._raised[batch[0].image_id] = _describe(error)
            elif len(batch) > 1:
                self.batch_size = len(batch) // 2
                return _split([*batch, *(record for later in rest for record in later)], self.batch_size)
            else:
                self._give_up(error)
        else:
            for record, (answer, looked_at) in zip(batch, answers, strict=True):
                self._record_answer(record.image_id, answer, looked_at)
        return rest

    def _answer(
        self, records: Sequence[ImageRecord], chunk: ImageChunk, truth: Mapping[str, RowRange]
    ) -> list[tuple[RowRange | FlorenceError, tuple[str, ...] | None]]:
        """Return its claims about each image as rows of a table, or the error that it answers with.

        Beside it the annotation types that it looked for, None for all that it claims.
        """
        ids = [record.image_id for record in records]
        read = [other.claims.annotations(ids) for other in self.dependencies]
        known = list_annotations(truth, ids) if "truth" in self.needs else {}
        batch = ImageBatch(
            records=tuple(records),
            pixels=tuple(chunk.pixels[image_id] for image_id in ids) if "pixels" in self.needs else (),
            claims=tuple(tuple(row for claims in read for row in claims.get(image_id, ())) for image_id in ids),
            truth=tuple(tuple(known.get(image_id, ())) for image_id in ids),
        )
        answers = list(self._instance.annotate(batch))
        if len(answers) != len(records):
            raise ValueError(f"{len(answers)} answers about {len(records)} images")
        # All rows of a batch as one table, which is then cut: Arrow is slow at many small ones.
        rows: list[Annotation] = []
        ends = []
        name, version = self.annotator.name, self.annotator.version
        for image_id, answer in zip(ids, answers, strict=True):
            if not isinstance(answer, FlorenceError):
                rows += annotate(image_id, answer, name, version, self._round)
            ends.append(len(rows))
        table = annotations_table(rows)
        return [
            (
                answer if isinstance(answer, FlorenceError) else (table, start, end),
                answer.looked_at if isinstance(answer, PartialClaims) else None,
            )
            for answer, start, end in zip(answers, [0, *ends], ends, strict=False)
        ]

    def _record_answer(
        self, image_id: str, answer: RowRange | FlorenceError, looked_at: tuple[str, ...] | None
    ) -> None:
        if isinstance(answer, UnavailableError):
            self._unavailable[image_id] = _describe(answer)
            return
        if isinstance(answer, FlorenceError):
            self.claims.cover(image_id, None, _describe(answer), self._missing(image_id))
        else:
            self.claims.cover(image_id, answer, "", self._missing(image_id), looked_at)
        self.answered += 1

    # ------------------------------------------------------------ failing

    def _give_up(self, error: Exception) -> None:
        """Ask nothing more in this shard.

        A FlorenceError would be raised again at once, unless it is the store's: only other errors may pass.
        """
        is_ours = isinstance(error, FlorenceError)
        self._failure = (is_ours and str(error)) or _describe(error)
        self.retryable = isinstance(error, StoreError) or not is_ours

    def settle_errors(self) -> None:
        """At the end of a pass, cover the images on which it raised with the error.

        If it has finished no image of the shard, it has failed instead.
        """
        raised, self._raised = self._raised, {}
        if self.claims.covered:
            for image_id, error in raised.items():
                self.claims.cover(image_id, None, error, self._missing(image_id))
                self.answered += 1
        elif raised and not self._failure:
            first = next(iter(raised.values()))
            self._failure = (
                f"{self.annotator.name} failed on every image that it was asked about; the first error: {first}"
            )
            self.retryable = True


def _split(records: Sequence[ImageRecord], size: int) -> _Batches:
    return deque(tuple(records[start : start + size]) for start in range(0, len(records), size))


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether it is Python's own error, or one of a library with an own error (torch, on a GPU or not)."""
    is_named = any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__)
    return isinstance(error, MemoryError) or is_named or "DefaultCPUAllocator: can't allocate memory" in str(error)
