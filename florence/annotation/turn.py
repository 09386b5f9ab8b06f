"""One annotator at work on a shard: what it may be asked now, how it is asked, and what its failures cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from florence.annotation.annotators import AnnotatorVersion, acquire_annotator, declare, required
from florence.annotation.chunks import Chunk
from florence.annotation.claims import Rows, ShardClaims, annotations_of
from florence.annotation.usage import ShardUsage, usage_of
from florence.annotators import ImageBatch
from florence.config import Settings
from florence.errors import FlorenceError, NotListedError, StoreError, UnavailableError
from florence.records import Annotation, ImageRecord, annotate, annotations_table
from florence.store import Store


class Turn:
    """An annotator and its claims of a shard. ``made``: images it has answered; ``again``: it failed in a way that may pass."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        annotator: AnnotatorVersion,
        shard: str,
        order: Mapping[str, int],
        reads: Sequence[Turn],
        round: int,
        patient: bool,
    ) -> None:
        self.annotator, self.reads, self.round, self.patient = annotator, tuple(reads), round, patient
        self._settings, self._store = settings, store
        self._annotator, self._lock, self.size = acquire_annotator(settings, annotator)
        self.needs: frozenset[str] = self._annotator.needs
        self.claims = ShardClaims(store, annotator, shard, order)
        self._usage = ShardUsage(store, annotator, shard)
        self._required = required(settings, annotator.name)
        self._ready, self._failure, self.again, self.made = False, "", False, 0
        # Texts, not the exceptions: those would keep the pixels they met in memory.
        self._raised: dict[str, str] = {}
        self._later: dict[str, str] = {}

    @property
    def failed(self) -> bool:
        """Whether it is asked nothing more in this shard."""
        return bool(self._failure)

    def leave(self, image_ids: Iterable[str]) -> None:
        """Cover images that it is not asked about: its silence about them tells nothing."""
        for image_id in image_ids:
            if image_id not in self.claims.covered:
                self.claims.add(
                    image_id,
                    None,
                    _told(NotListedError("not one of the images that it is asked about (annotators.<name>.images)")),
                )

    # ------------------------------------------------------------ what it may be asked

    def may(self, image_id: str) -> bool:
        """Whether it may come to be asked about an image in this pass, as far as can be told before."""
        if self._failure or image_id in self._raised or image_id in self._later:
            return False
        return image_id not in self.claims.covered or bool(self.claims.unread(image_id))

    def wants(self, image_id: str) -> bool:
        """Whether it is to be asked about an image now: it has not been, or one that it reads has answered since; and nobody is waited for."""
        if not self.may(image_id) or any(other.waited_for(image_id) for other in self.reads):
            return False
        return image_id not in self.claims.covered or not self.claims.unread(image_id) <= self._missed(image_id)

    def waited_for(self, image_id: str) -> bool:
        """Whether those who read its claims wait for them."""
        if image_id in self.claims.covered:
            return False
        if self._required or image_id in self._raised or (self.patient and self.again):
            return True
        over = self._failure or image_id in self._later
        return not over and any(other.waited_for(image_id) for other in self.reads)

    def _missed(self, image_id: str) -> frozenset[str]:
        """Names of those whose claims about an image it is not given now, be it by way of another."""
        names = [
            {other.annotator.name} if image_id not in other.claims.covered else other.claims.unread(image_id)
            for other in self.reads
        ]
        return frozenset().union(*names)

    def why(self) -> str:
        """Why something is left; empty where nothing was tried."""
        waits = [other.annotator.name for other in self.reads if other.why()]
        return (
            self._failure or next(iter(self._later.values()), "") or (f"waits for {', '.join(waits)}" if waits else "")
        )

    # ------------------------------------------------------------ asking

    def work(self, chunk: Chunk, truth: Mapping[str, Rows]) -> Iterator[None]:
        """Ask it about those images of a chunk that it wants; yields after each batch."""
        wanted = [record for record in chunk.records if self.wants(record.image_id)]
        if "pixels" in self.needs:
            self._raised |= {
                record.image_id: _told(chunk.broken[record.image_id])
                for record in wanted
                if record.image_id in chunk.broken
            }
            wanted = [record for record in wanted if record.image_id in chunk.pixels]
        if not wanted or not self._loaded():
            return
        batches = _split(wanted, self.size)
        while batches and not self._failure:
            part = batches.popleft()
            with self._lock:
                before = self._annotator.usage
                try:
                    batches = self._asked(part, batches, chunk, truth)
                finally:
                    self._usage.add(self._annotator.usage - before)
            yield

    def _loaded(self) -> bool:
        """Load it, unless it is. A failure costs it the shard."""
        if not self._ready:
            try:
                with self._lock:
                    declare(self._settings, self._store, [self.annotator])
                    self._annotator.usage = usage_of(self._store, self.annotator)
                    self._annotator.load()
                self._ready = True
            except Exception as error:
                self._fail(error)
        return self._ready

    def _asked(self, part: Sequence[ImageRecord], rest: deque, chunk: Chunk, truth: Mapping[str, Rows]) -> deque:
        """Ask about one batch; returns the batches that are left to ask about, which are smaller ones where it failed."""
        try:
            answers = self._answers(part, chunk, truth)
        except UnavailableError as error:
            self._fail(error)
        except Exception as error:
            if not _out_of_memory(error):
                if len(part) > 1:
                    rest.extendleft((record,) for record in reversed(part))
                else:
                    self._raised[part[0].image_id] = _told(error)
            elif len(part) > 1:
                self.size = len(part) // 2
                return _split([*part, *(record for batch in rest for record in batch)], self.size)
            else:
                self._fail(error)
        else:
            for record, answer in zip(part, answers, strict=True):
                self._cover(record.image_id, answer)
        return rest

    def _answers(
        self, part: Sequence[ImageRecord], chunk: Chunk, truth: Mapping[str, Rows]
    ) -> list[Rows | FlorenceError]:
        """Its claims about each image as rows of a table, or the error that it answers with."""
        ids = [record.image_id for record in part]
        heard = [other.claims.annotations(ids) for other in self.reads]
        known = annotations_of(truth, ids) if "truth" in self.needs else {}
        batch = ImageBatch(
            records=tuple(part),
            pixels=tuple(chunk.pixels[image_id] for image_id in ids) if "pixels" in self.needs else (),
            claims=tuple(tuple(row for said in heard for row in said.get(image_id, ())) for image_id in ids),
            truth=tuple(tuple(known.get(image_id, ())) for image_id in ids),
        )
        said = list(self._annotator.annotate(batch))
        if len(said) != len(part):
            raise ValueError(f"{len(said)} answers about {len(part)} images")
        # All rows of a batch as one table, which is then cut: Arrow is slow at many small ones.
        rows: list[Annotation] = []
        ends = []
        for image_id, answer in zip(ids, said, strict=True):
            rows += (
                ()
                if isinstance(answer, FlorenceError)
                else annotate(image_id, answer, self.annotator.name, self.annotator.version, self.round)
            )
            ends.append(len(rows))
        table = annotations_table(rows)
        return [
            answer if isinstance(answer, FlorenceError) else (table, start, end)
            for answer, start, end in zip(said, [0, *ends], ends, strict=False)
        ]

    def _cover(self, image_id: str, answer: Rows | FlorenceError) -> None:
        if isinstance(answer, UnavailableError):
            self._later[image_id] = _told(answer)
            return
        if isinstance(answer, FlorenceError):
            self.claims.add(image_id, None, _told(answer), self._missed(image_id))
        else:
            self.claims.add(image_id, answer, "", self._missed(image_id))
        self.made += 1

    def _fail(self, error: Exception) -> None:
        """Nothing more is asked of it in this shard. What was raised on purpose would be raised again at once, unless it is the store's."""
        purpose = isinstance(error, FlorenceError)
        self._failure = (purpose and str(error)) or _told(error)
        self.again = isinstance(error, StoreError) or not purpose

    def settle(self) -> None:
        """At the end of a pass: images on which it raised are covered with the error if it has answered any other of the shard, else it has failed."""
        raised, self._raised = self._raised, {}
        if self.claims.covered:
            for image_id, error in raised.items():
                self.claims.add(image_id, None, error, self._missed(image_id))
                self.made += 1
        elif raised and not self._failure:
            self._failure = f"{self.annotator.name} failed on every image that it was asked about; the first error: {next(iter(raised.values()))}"
            self.again = True


def _split(records: Sequence[ImageRecord], size: int) -> deque:
    return deque(tuple(records[start : start + size]) for start in range(0, len(records), size))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _out_of_memory(error: Exception) -> bool:
    """Python's own error, or that of a library that has one of its own (torch, on a GPU or not)."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or named or "DefaultCPUAllocator: can't allocate memory" in str(error)
