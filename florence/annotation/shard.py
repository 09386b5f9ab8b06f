"""One shard, annotated by all who miss something in it: each image is decoded once, what fails costs its own claims alone, what is done stays done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from florence.annotation.annotators import AnnotatorVersion, looks_at, share_of
from florence.annotation.chunks import chunks
from florence.annotation.claims import Rows, by_image
from florence.annotation.sampling import diverse
from florence.annotation.turn import Turn
from florence.config import Settings
from florence.records import IMAGES, RECORD_COLUMNS, ImageRecord, table_images
from florence.store import Store

EVERY = 30.0
"""Seconds after which what has been said is written, also in the middle of a shard."""
AT_ONCE = 256
"""Images that are in memory together at most, unless an annotator is given more at once; `florence.annotation.chunks.PIXELS` bounds them too."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one annotator in a shard. ``images``: annotated now; ``left``: still to be done, and why (``error``, empty where none is).

    ``again``: it failed in a way that may pass, so that trying again at once may help.
    """

    annotator: str
    images: int
    left: int = 0
    error: str = ""
    again: bool = False


def annotate_shard(
    settings: Settings,
    store: Store,
    who: Sequence[AnnotatorVersion],
    shard: str,
    round: int = 0,
    *,
    patient: bool = False,
) -> tuple[Outcome, ...]:
    """Have every annotator of ``who``, in that order, annotate what it has not annotated yet of one shard; returns what became of those that had something to do.

    An image on which an annotator fails is covered with the error, and costs that image's claims alone. One that is answered with UnavailableError stays to be done,
    as does every image of an annotator that cannot be loaded, has no memory for one image, raises UnavailableError, or fails on all: the others go on. Those who read
    its claims go on without them, which is noted, and are asked again when it has answered; they wait where it is required, and where ``patient`` also for
    one that is about to be tried again. Raises StoreError where the store cannot be read or written.
    """
    return _Work(settings, store, who, shard, round, patient).done()


class _Work:
    """A shard while it is worked on."""

    def __init__(
        self, settings: Settings, store: Store, who: Sequence[AnnotatorVersion], shard: str, round: int, patient: bool
    ) -> None:
        self.settings, self.store, self.shard = settings, store, shard
        table = store.read_table(f"images/{shard}.parquet", RECORD_COLUMNS, schema=IMAGES)
        self.records = tuple(record for record, _ in table_images(table))
        order = {record.image_id: place for place, record in enumerate(self.records)}
        self.turns: list[Turn] = []
        for annotator in who:
            if looks_at(settings, annotator, shard):
                reads = [turn for turn in self.turns if turn.annotator.name in annotator.reads]
                self.turns.append(Turn(settings, store, annotator, shard, order, reads, round, patient))
                if (share := share_of(settings, annotator)) < 1:
                    self.turns[-1].leave(set(order) - diverse(self.records, share))
        self.truth: dict[str, Rows] = {}
        if any("truth" in turn.needs and self._planned(turn.may) for turn in self.turns) and store.exists(
            f"truth/{shard}.parquet"
        ):
            self.truth = by_image(store.read_table(f"truth/{shard}.parquet"), order)
        self.flushed = time.monotonic()

    def done(self) -> tuple[Outcome, ...]:
        """Do all that can be done."""
        try:
            # What readers put off until others were decided, or said before those had spoken, is for a second pass.
            going = self._pass(lambda turn: turn.may)
            while going:
                going = self._pass(lambda turn: turn.wants)
        finally:
            self._flush()
        left = {
            turn.annotator.name: sum(record.image_id not in turn.claims.covered for record in self.records)
            for turn in self.turns
        }
        return tuple(
            Outcome(t.annotator.name, t.made, n, t.why() if n else "", t.again)
            for t in self.turns
            if (n := left[t.annotator.name]) or t.made
        )

    def _planned(self, asks: Callable[[str], bool]) -> list[ImageRecord]:
        return [record for record in self.records if asks(record.image_id)]

    def _pass(self, plan: Callable[[Turn], Callable[[str], bool]]) -> bool:
        """Once over the images that somebody may be asked about; returns whether anything came of it, be it that somebody need not be waited for any more."""
        planned = {
            turn.annotator.name: {record.image_id for record in self._planned(plan(turn))} for turn in self.turns
        }
        busy = [turn for turn in self.turns if planned[turn.annotator.name]]
        if not busy:
            return False
        before = [(turn.made, turn.failed) for turn in self.turns]
        for turn in busy:
            for one in (turn, *turn.reads):  # here, where a table that cannot be read is nobody's failure
                one.claims.tidy()
        seen = set().union(*(planned[turn.annotator.name] for turn in busy if "pixels" in turn.needs))
        records = self._planned(set().union(*planned.values()).__contains__)
        for chunk in chunks(
            self.settings, self.store, self.shard, records, seen, _together([turn.size for turn in busy])
        ):
            for turn in busy:
                for _ in turn.work(chunk, self.truth):
                    if time.monotonic() - self.flushed >= EVERY:
                        self._flush()
        for turn in busy:
            turn.settle()
        return [(turn.made, turn.failed) for turn in self.turns] != before

    def _flush(self) -> None:
        for turn in self.turns:
            turn.claims.flush()
        self.flushed = time.monotonic()


def _together(batches: Sequence[int]) -> int:
    """How many images are taken at once, so that everybody's batches are full: a common multiple of their sizes, or where that is much the largest."""
    common = math.lcm(*batches)
    return common if common <= AT_ONCE else max(batches)
