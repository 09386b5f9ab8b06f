"""A table of claims in blocks of images: from one it is learnt whom to trust how far, then each of the others is fused by itself, several at a time.

What a block comes to follows from its own claims and from what the first one tells, whoever fuses it: neither how many are at work nor which is done first shows in the labels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import reduce
from hashlib import blake2b
from itertools import chain
from operator import or_
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.config import EngineSettings
from florence.engine import CONSENSUS
from florence.engine.claims import Labels, Roll, codes, kinds, labels_table, read_claims, sizes
from florence.engine.consensus import answers, phrases
from florence.engine.consensus import boxes as places
from florence.engine.consensus import captions as texts
from florence.engine.consensus.phrase_binding import kept
from florence.engine.consensus.vote import HUMAN, STUDENT
from florence.engine.enhance.polygons import outlined
from florence.engine.filters.duplicates import drop_near_duplicates, find_near_duplicates
from florence.engine.ranks import read_ranks
from florence.records import ANNOTATION_TYPES, BASE_TYPES, CAPTIONS, FINE_TUNED, AnnotatorProfile

WHOLE = 200_000
"""Claims up to which all are one block."""
BLOCK = 120_000
"""About how many claims of the other blocks one has at most, where there are more."""
WRITTEN = (*CAPTIONS, phrases.GROUNDING)
APART = (WRITTEN, tuple(task for task in ANNOTATION_TYPES if task not in WRITTEN))
"""Kinds that can be fused apart from each other: captions with the phrases in them, and all others."""
IMAGE = "image"
"""The column that tells the number of a claim's image."""
LEARN = 1_000
"""Images by which each annotator is judged about each kind: of things that the models are fitted to (`florence.engine.consensus.annotator_models.SAMPLE`) these have enough."""


Done = Callable[[int, int], object]
"""Takes how many blocks are done, and of how many."""


@dataclass(frozen=True)
class Estimates:
    """What is known of the annotators, by kind (index into `ANNOTATION_TYPES`): of those who speak of places, write captions, and answer questions."""

    places: dict[int, places.Judged] = field(default_factory=dict)
    captions: dict[int, texts.Judged] = field(default_factory=dict)
    answers: dict[int, np.ndarray] = field(default_factory=dict)

    def __or__(self, other: Estimates) -> Estimates:
        return Estimates(self.places | other.places, self.captions | other.captions, self.answers | other.answers)


@dataclass(frozen=True)
class Block:
    """Some images and all that is claimed of them."""

    claims: pa.Table
    images: pa.Table
    coverage: pa.Table


@dataclass(frozen=True)
class Common:
    """What all blocks have in common."""

    settings: EngineSettings
    round: int
    profiles: tuple[AnnotatorProfile, ...]
    roll: Roll | None


def heard(
    claims: pa.Table, coverage: pa.Table, settings: EngineSettings, profiles: Sequence[AnnotatorProfile] = ()
) -> tuple[pa.Table, pa.Table]:
    """Claims and coverage of all who have a vote: without rankers, a student whose vote is off, and what it says without being sure enough.

    People, whatever their names, are one annotator, "human".
    """
    left_out = [speaker.name for speaker in profiles if speaker.role == "ranker"] + (
        [STUDENT] if settings.student.cap == 0 else []
    )
    people = pa.array([speaker.name for speaker in profiles if speaker.role == "human"], pa.string())

    def voting(table: pa.Table) -> pa.Table:
        if not left_out and not len(people):
            return table
        table = table.filter(pc.invert(pc.is_in(table["annotator"], pa.array(left_out, pa.string()))))
        annotator = pc.if_else(pc.is_in(table["annotator"], people), HUMAN, table["annotator"])
        return table.set_column(table.schema.get_field_index("annotator"), "annotator", annotator)

    claims, coverage = voting(claims), voting(coverage)
    if STUDENT not in pc.unique(claims["annotator"]).to_pylist():
        return claims, coverage
    sure = pc.fill_null(pc.greater_equal(claims["score"], settings.student.min_score), True)
    return claims.filter(pc.or_(pc.not_equal(claims["annotator"], STUDENT), sure)), coverage


# ---------------------------------------------------------------- one block


def fuse_block(
    block: Block, common: Common, known: Estimates | None = None, tasks: Sequence[str] = ANNOTATION_TYPES
) -> tuple[list[Labels], Estimates]:
    """The labels of a block, those of the kinds ``tasks``, and what is known of the annotators: what is ``known`` already, else what this block tells.

    Captions and the phrases in them go together. Raises DataError where a claim's place is none.
    """
    settings, known = common.settings, known or Estimates()
    ids = block.images["image_id"].to_pylist()
    said = read_claims(
        *heard(block.claims, block.coverage, settings, common.profiles), block.images, common.profiles, common.roll
    )
    said = replace(said, ranks=read_ranks(block.claims, ids, common.profiles))
    if not len(said):
        return [], known
    size, found, parts = sizes(block.images), Estimates(), list[Labels]()
    there = [kind for kind, task in enumerate(ANNOTATION_TYPES) if task in tasks and (said.kind == kind).any()]
    for kind in there:
        if ANNOTATION_TYPES[kind] in places.PLACES:
            asked = places.ask_places(said, kind, size, settings, known.places.get(kind))
            parts += places.place_labels(said, kind, asked, settings)
            found.places[kind] = asked.judged
        elif ANNOTATION_TYPES[kind] in FINE_TUNED:
            labels, found.answers[kind] = answers.fuse_answers(said, kind, size, settings, known.answers.get(kind))
            parts.append(labels)
    if set(tasks).issuperset(WRITTEN):
        written = [
            texts.fuse_captions(said, kind, settings, known.captions.get(kind))
            for kind in map(BASE_TYPES.index, CAPTIONS)
        ]
        found.captions.update({part.kind: part.judged for part in written if part.kind in there})
        parts += [texts.caption_labels(said, part) for part in written]
        captions = kept(written)
        bound, asked = phrases.ask_phrases(said, captions, size, settings, known.places.get(phrases.KIND))
        found.places.update({phrases.KIND: asked.judged} if phrases.KIND in there else {})
        parts += phrases.phrase_labels(said, captions, bound, asked, settings)
    return parts, found | known


def finished(parts: Sequence[Labels], block: Block, copy: np.ndarray, common: Common) -> pa.Table:
    """Labels of a block as a table of schema `ANNOTATIONS`. ``copy``: (images,), which images are nearly the same as others."""
    parts = outlined(drop_near_duplicates(parts, copy), common.settings)
    return labels_table(parts, block.images["image_id"].to_pylist(), CONSENSUS, common.settings.digest(), common.round)


def _fused(block: Block, copy: np.ndarray, common: Common, known: Estimates) -> pa.Table:
    return finished(fuse_block(block, common, known)[0], block, copy, common)


# ---------------------------------------------------------------- all blocks


def fuse_blocks(
    claims: pa.Table,
    images: pa.Table,
    coverage: pa.Table,
    settings: EngineSettings,
    round: int,
    profiles: Sequence[AnnotatorProfile],
    workers: int,
    done: Done,
) -> pa.Table:
    """The labels of all images, in their order, ``workers`` blocks at a time; ``done`` is told of each block."""
    whole = Block(claims, images, coverage)
    if len(claims) <= WHOLE:
        common = Common(settings, round, tuple(profiles), None)
        return finished(
            fuse_block(whole, common)[0], whole, find_near_duplicates(images, settings.near_duplicate), common
        )
    ids = images["image_id"].combine_chunks()
    image = codes(claims["image_id"], ids)
    said, looked = heard(
        claims.select(["task", "annotator", "score"]).append_column(IMAGE, pa.array(image)),
        coverage,
        settings,
        profiles,
    )
    said = said.filter(pc.greater_equal(said[IMAGE], 0))
    common = Common(settings, round, tuple(profiles), Roll.of(said, looked))
    cut = _Cut(claims, images, coverage, image, _numbers(image, learnt_from(said, ids)))
    del said, looked, image
    with ThreadPoolExecutor(workers, "florence-fuse") as pool:
        first = cut.block(0)
        begin = [(fuse_block, first, common, None, tasks) for tasks in APART] + [
            (find_near_duplicates, images, settings.near_duplicate)
        ]
        *halves, copy = _side_by_side(pool, begin, len(begin))
        known = reduce(or_, (learnt for _, learnt in halves))
        jobs = chain(
            [(finished, [part for parts, _ in halves for part in parts], first, copy[cut.number == 0], common)],
            ((_fused, cut.block(k), copy[cut.number == k], common, known) for k in range(1, cut.count)),
        )
        del begin, halves, first
        results = _side_by_side(pool, jobs, workers)
        tables = []
        for table in cut.in_order(next(results), results):
            tables.append(table)
            done(len(tables), max(cut.count - 1, 1))
        return pa.concat_tables(tables)


def _numbers(image: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(images,) the block of each image: 0 of those that are learnt from (``first``), of the others 1, 2, … in their order. ``image``: of each claim, -1 for none."""
    rest = np.flatnonzero(~first)
    count = np.bincount(image[image >= 0], minlength=len(first))[rest]
    before, total = np.cumsum(count) - count, max(int(count.sum()), 1)
    # blocks of about one size, so that nobody is at work on the last one alone; an image of many claims may have left some without any
    size = total / -(-total // BLOCK)
    result = np.zeros(len(first), np.int64)
    result[rest] = 1 + np.unique(np.minimum(before, total - 1) // size, return_inverse=True)[1]
    return result


def learnt_from(said: pa.Table, ids: pa.Array) -> np.ndarray:
    """(images,) from which images it is learnt whom to trust: `LEARN` of those that an annotator claims a kind of, for each annotator and kind.

    They are taken in the order of a hash of their ids, so that they are the same ones for all as far as may be. What people reviewed is no fair sample, and not sought.
    ``said``: claims, with the number of their images in ``ids``.
    """
    order = np.argsort([blake2b(name.encode(), digest_size=8).hexdigest() for name in ids.to_pylist()], kind="stable")
    rank = np.argsort(order)[said[IMAGE].to_numpy()]
    names = pc.unique(said["annotator"]).filter(pc.not_equal(pc.unique(said["annotator"]), HUMAN))
    annotator, kind = codes(said["annotator"], names), kinds(said["task"])
    result = np.zeros(len(ids), bool)
    for who in range(len(names)):
        there = np.zeros((len(ANNOTATION_TYPES), len(ids)), bool)
        there[kind[annotator == who], rank[annotator == who]] = True
        result[order[(there & (np.cumsum(there, axis=1) <= LEARN)).any(axis=0)]] = True
    return result


def learnt(claims: pa.Table, coverage: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Those about images that it is learnt from whom to trust."""
    if len(claims) <= WHOLE:
        return claims, coverage
    ids = pc.unique(claims["image_id"])
    said = claims.select(["annotator", "task"]).append_column(IMAGE, pa.array(codes(claims["image_id"], ids)))
    known = ids.filter(pa.array(learnt_from(said, ids)))
    return claims.filter(pc.is_in(claims["image_id"], known)), coverage.filter(pc.is_in(coverage["image_id"], known))


class _Cut:
    """Tables cut into blocks, image by image. ``image``: (claims,) the image of each, -1 for none; ``number``: (images,) the block of each."""

    def __init__(
        self, claims: pa.Table, images: pa.Table, coverage: pa.Table, image: np.ndarray, number: np.ndarray
    ) -> None:
        self._ids = images["image_id"].combine_chunks()
        self.number, self.count = number, int(number.max(initial=0)) + 1
        # what is said of images that are not there is in none
        of = np.append(number, -1)
        self._tables = [
            _Parts(claims, of[image]),
            _Parts(images, number),
            _Parts(coverage, of[codes(coverage["image_id"], self._ids)]),
        ]

    def block(self, k: int) -> Block:
        """One block."""
        return Block(*(table.part(k) for table in self._tables))

    def in_order(self, begun: pa.Table, results: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The labels of the blocks after the first one, with those of the first one (``begun``) in between, in the order of the images."""
        if self.count == 1:
            yield begun
        place, done = codes(begun["image_id"], self._ids), 0
        for k, labels in enumerate(results, 1):
            last = np.flatnonzero(self.number == k)[-1] if k + 1 < self.count else len(self.number)
            end = int(np.searchsorted(place, last, side="right"))
            both = pa.concat_tables([begun.slice(done, end - done), labels])
            yield both.take(
                np.argsort(np.concatenate([place[done:end], codes(labels["image_id"], self._ids)]), kind="stable")
            )
            done = end


class _Parts:
    """The rows of a table by the number (n,) of their part, -1 for none."""

    def __init__(self, table: pa.Table, number: np.ndarray) -> None:
        self._batches = table.to_batches()
        self._first = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)]
        )
        self._rows = np.argsort(number, kind="stable")
        self._ends = np.searchsorted(number[self._rows], np.arange(int(number.max(initial=-1)) + 2))
        self._schema = table.schema

    def part(self, k: int) -> pa.Table:
        """The rows of part ``k``, in their order."""
        rows = self._rows[self._ends[k] : self._ends[k + 1]] if k + 1 < len(self._ends) else self._rows[:0]
        ends = np.searchsorted(rows, self._first)
        # batch by batch: of a table Arrow would put all together first
        found = [
            batch.take(pa.array(rows[a:b] - first))
            for batch, first, a, b in zip(self._batches, self._first, ends, ends[1:], strict=False)
            if b > a
        ]
        return pa.Table.from_batches(found, self._schema).combine_chunks()


def _side_by_side(pool: Executor, jobs: Iterable[tuple[Any, ...]], ahead: int) -> Iterator[Any]:
    """What each job, a function and what it is called with, returns, in order; so many are begun before the first is waited for."""
    begun: deque[Future[Any]] = deque()
    for job in jobs:
        begun.append(pool.submit(*job))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
