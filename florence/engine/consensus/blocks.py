"""Fuse a table of claims in blocks of images.

Annotator models are fitted to one block, then the other blocks are fused by themselves, several at a time.
The labels of a block follow from its own claims and the fitted models. Neither the number of workers nor the order in
which blocks are finished changes them.
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
from florence.engine.claims import COMPLETE, AnnotatorRoster, find_codes, find_type_codes, image_sizes, read_claims
from florence.engine.consensus import answers, captions, phrases
from florence.engine.consensus.boxes import BoxModels
from florence.engine.consensus.phrase_binding import GROUNDING, PHRASE_TYPE, select_kept_captions
from florence.engine.consensus.regions import REGION_TYPES, cluster_regions, make_region_labels
from florence.engine.enhance.polygons import enhance_polygons
from florence.engine.filters.duplicates import drop_near_duplicates, find_near_duplicates
from florence.engine.labels import Labels, build_labels_table
from florence.engine.ranks import read_ranker_scores
from florence.records import (
    ANNOTATION_TYPES,
    BASE_TYPES,
    CAPTIONS,
    CONSENSUS,
    FINE_TUNED,
    HUMAN,
    STUDENT,
    AnnotatorProfile,
)

MAX_CLAIMS_WHOLE = 200_000
"""Claims up to which all images are one block."""
CLAIMS_PER_BLOCK = 120_000
"""About how many claims a block has at most, where there are more."""
CAPTION_TYPES = (*CAPTIONS, GROUNDING)
SEPARATE_TYPES = (CAPTION_TYPES, tuple(task for task in ANNOTATION_TYPES if task not in CAPTION_TYPES))
"""Annotation types that can be fused apart from each other: captions with the phrases in them, and all others."""
IMAGE = "image"
"""The column with the number of a claim's image."""
FIT_IMAGES = 1_000
"""Images with claims of each annotator and annotation type that models are fitted to: they have items enough for
`florence.engine.consensus.fitting.MAX_FIT_ITEMS`."""

Done = Callable[[int, int], object]
"""Is called with how many blocks are finished, and of how many."""


@dataclass(frozen=True)
class FittedModels:
    """What is estimated of the annotators, by annotation type (index into `ANNOTATION_TYPES`)."""

    boxes: dict[int, BoxModels] = field(default_factory=dict)
    captions: dict[int, captions.CaptionModels] = field(default_factory=dict)
    answers: dict[int, np.ndarray] = field(default_factory=dict)

    def __or__(self, other: FittedModels) -> FittedModels:
        return FittedModels(self.boxes | other.boxes, self.captions | other.captions, self.answers | other.answers)


@dataclass(frozen=True)
class Block:
    """Some images, and all claims about them."""

    claims: pa.Table
    images: pa.Table
    coverage: pa.Table


@dataclass(frozen=True)
class BlockContext:
    """What all blocks have in common. ``roster``: None where the one block has all claims."""

    settings: EngineSettings
    round: int
    profiles: tuple[AnnotatorProfile, ...]
    roster: AnnotatorRoster | None


def select_voting_claims(
    claims: pa.Table, coverage: pa.Table, settings: EngineSettings, profiles: Sequence[AnnotatorProfile] = ()
) -> tuple[pa.Table, pa.Table]:
    """Return claims and coverage of the annotators with a vote.

    Left out are rankers, a student with cap 0, and claims of the student with a low score. All people, whatever their
    names, become the one annotator `HUMAN`; the coverage says in the column `COMPLETE` whose labels are complete.
    """
    left_out = [profile.name for profile in profiles if profile.role == "ranker"] + (
        [STUDENT] if settings.student.cap == 0 else []
    )
    people = pa.array([profile.name for profile in profiles if profile.role == "human"], pa.string())

    def select(table: pa.Table) -> pa.Table:
        if not left_out and not len(people):
            return table
        table = table.filter(pc.invert(pc.is_in(table["annotator"], pa.array(left_out, pa.string()))))
        annotator = pc.if_else(pc.is_in(table["annotator"], people), HUMAN, table["annotator"])
        return table.set_column(table.schema.get_field_index("annotator"), "annotator", annotator)

    complete = pa.array([p.name for p in profiles if p.role == "human" and p.complete], pa.string())
    coverage = coverage.append_column(COMPLETE, pc.is_in(coverage["annotator"], complete))
    claims, coverage = select(claims), select(coverage)
    if STUDENT not in pc.unique(claims["annotator"]).to_pylist():
        return claims, coverage
    sure = pc.fill_null(pc.greater_equal(claims["score"], settings.student.min_score), True)
    return claims.filter(pc.or_(pc.not_equal(claims["annotator"], STUDENT), sure)), coverage


# ---------------------------------------------------------------- one block


def fuse_block(
    block: Block, context: BlockContext, known: FittedModels | None = None, tasks: Sequence[str] = ANNOTATION_TYPES
) -> tuple[list[Labels], FittedModels]:
    """Return the labels of a block of the annotation types ``tasks``, and the models that were used.

    These are the ``known`` ones, else they are fitted to this block. Captions and the phrases in them go together.
    Raises DataError for a claim whose region is none.
    """
    settings, known = context.settings, known or FittedModels()
    ids = block.images["image_id"].to_pylist()
    voting = select_voting_claims(block.claims, block.coverage, settings, context.profiles)
    claims = read_claims(*voting, block.images, context.profiles, context.roster)
    claims = replace(claims, ranks=read_ranker_scores(block.claims, ids, context.profiles))
    if not len(claims):
        return [], known
    size, fitted, parts = image_sizes(block.images), FittedModels(), list[Labels]()
    claimed = [
        code for code, task in enumerate(ANNOTATION_TYPES) if task in tasks and (claims.annotation_type == code).any()
    ]
    for code in claimed:
        if ANNOTATION_TYPES[code] in REGION_TYPES:
            clusters = cluster_regions(claims, code, size, settings, known.boxes.get(code))
            parts += make_region_labels(claims, code, clusters, settings)
            fitted.boxes[code] = clusters.models
        elif ANNOTATION_TYPES[code] in FINE_TUNED:
            labels, fitted.answers[code] = answers.fuse_answers(claims, code, size, settings, known.answers.get(code))
            parts.append(labels)
    if set(tasks).issuperset(CAPTION_TYPES):
        written = [
            captions.fuse_captions(claims, code, settings, known.captions.get(code))
            for code in map(BASE_TYPES.index, CAPTIONS)
        ]
        fitted.captions.update(
            {part.annotation_type: part.models for part in written if part.annotation_type in claimed}
        )
        parts += [captions.make_caption_labels(claims, part) for part in written]
        kept_captions = select_kept_captions(written)
        bound, clusters = phrases.cluster_phrases(claims, kept_captions, size, settings, known.boxes.get(PHRASE_TYPE))
        fitted.boxes.update({PHRASE_TYPE: clusters.models} if PHRASE_TYPE in claimed else {})
        parts += phrases.make_phrase_labels(claims, kept_captions, bound, clusters, settings)
    return parts, fitted | known


def finish_block(parts: Sequence[Labels], block: Block, near_duplicate: np.ndarray, context: BlockContext) -> pa.Table:
    """Return the labels of a block as a table of schema `ANNOTATIONS`. ``near_duplicate``: (images,)."""
    parts = enhance_polygons(drop_near_duplicates(parts, near_duplicate), context.settings)
    ids = block.images["image_id"].to_pylist()
    return build_labels_table(parts, ids, CONSENSUS, context.settings.digest(), context.round)


def _fuse_and_finish(block: Block, near_duplicate: np.ndarray, context: BlockContext, known: FittedModels) -> pa.Table:
    """Fuse a block with known models."""
    return finish_block(fuse_block(block, context, known)[0], block, near_duplicate, context)


# ---------------------------------------------------------------- all blocks


def fuse(
    claims: pa.Table,
    images: pa.Table,
    coverage: pa.Table,
    settings: EngineSettings,
    round: int,
    profiles: Sequence[AnnotatorProfile] = (),
    workers: int = 1,
    done: Done = lambda finished, of: None,
) -> pa.Table:
    """Fuse all claims about ``images`` into labels, kept or dropped with a reason, in the order of the images.

    Returns a table of schema `ANNOTATIONS` by annotator "consensus".
    ``coverage``: which annotator finished which image, and its error. ``profiles``: what annotators declare; one
    without a profile has a vote and any vocabulary, or is a person if its name is "human". The same rows give the same
    bytes in any order and for any number of ``workers`` (threads); ``done`` is called after each block. The student is
    one more annotator, named "student"; there is no other state. Raises DataError for a claim of no
    annotation type, or whose region is none.
    """
    whole = Block(claims, images, coverage)
    if len(claims) <= MAX_CLAIMS_WHOLE:
        context = BlockContext(settings, round, tuple(profiles), None)
        near_duplicate = find_near_duplicates(images, settings.near_duplicate)
        return finish_block(fuse_block(whole, context)[0], whole, near_duplicate, context)
    ids = images["image_id"].combine_chunks()
    image = find_codes(claims["image_id"], ids)
    numbered = claims.select(["task", "annotator", "score"]).append_column(IMAGE, pa.array(image))
    voting, voting_coverage = select_voting_claims(numbered, coverage, settings, profiles)
    voting = voting.filter(pc.greater_equal(voting[IMAGE], 0))
    context = BlockContext(settings, round, tuple(profiles), AnnotatorRoster.of(voting, voting_coverage))
    cutter = _BlockCutter(whole, image, _number_blocks(image, find_fit_images(voting, ids)))
    del numbered, voting, voting_coverage, image
    with ThreadPoolExecutor(workers, "florence-fuse") as pool:
        return _fuse_side_by_side(cutter, whole.images, context, pool, workers, done)


def _fuse_side_by_side(
    cutter: _BlockCutter, images: pa.Table, context: BlockContext, pool: Executor, workers: int, done: Done
) -> pa.Table:
    """Fit models to the first block, its `SEPARATE_TYPES` side by side; fuse ``workers`` other blocks at a time."""
    first = cutter.block(0)
    begin = [(fuse_block, first, context, None, tasks) for tasks in SEPARATE_TYPES] + [
        (find_near_duplicates, images, context.settings.near_duplicate)
    ]
    *halves, near_duplicate = _run_ahead(pool, begin, len(begin))
    known = reduce(or_, (fitted for _, fitted in halves))
    finish = (finish_block, [part for parts, _ in halves for part in parts], first)
    jobs = chain(
        [(*finish, near_duplicate[cutter.number == 0], context)],
        (
            (_fuse_and_finish, cutter.block(k), near_duplicate[cutter.number == k], context, known)
            for k in range(1, cutter.count)
        ),
    )
    del begin, halves, first, finish
    results = _run_ahead(pool, jobs, workers)
    tables = []
    for table in cutter.in_order(next(results), results):
        tables.append(table)
        done(len(tables), max(cutter.count - 1, 1))
    return pa.concat_tables(tables)


def _number_blocks(image: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(images,) the block of each image: 0 if models are fitted to it (``first``), of the others 1, 2, … in order.

    ``image``: (claims,), -1 for none.
    """
    rest = np.flatnonzero(~first)
    count = np.bincount(image[image >= 0], minlength=len(first))[rest]
    before, total = np.cumsum(count) - count, max(int(count.sum()), 1)
    # blocks of about one size, so that no worker is left with the last one alone; an image of many claims may leave
    # some blocks without any
    size = total / -(-total // CLAIMS_PER_BLOCK)
    result = np.zeros(len(first), np.int64)
    result[rest] = 1 + np.unique(np.minimum(before, total - 1) // size, return_inverse=True)[1]
    return result


def find_fit_images(claims: pa.Table, ids: pa.Array) -> np.ndarray:
    """Return (images,) which images models are fitted to: `FIT_IMAGES` of each annotator and annotation type.

    They are taken in the order of a hash of their ids, so that they are the same for all annotators where possible.
    Human claims do not select images, because reviews are not a random sample. ``claims``: with the column `IMAGE`.
    """
    order = np.argsort([blake2b(name.encode(), digest_size=8).hexdigest() for name in ids.to_pylist()], kind="stable")
    rank = np.argsort(order)[claims[IMAGE].to_numpy()]
    names = pc.unique(claims["annotator"]).filter(pc.not_equal(pc.unique(claims["annotator"]), HUMAN))
    annotator, code = find_codes(claims["annotator"], names), find_type_codes(claims["task"])
    result = np.zeros(len(ids), bool)
    for a in range(len(names)):
        claimed = np.zeros((len(ANNOTATION_TYPES), len(ids)), bool)
        claimed[code[annotator == a], rank[annotator == a]] = True
        result[order[(claimed & (np.cumsum(claimed, axis=1) <= FIT_IMAGES)).any(axis=0)]] = True
    return result


def select_fit_claims(claims: pa.Table, coverage: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the claims about, and the coverage of, the images that `fuse` fits models to."""
    if len(claims) <= MAX_CLAIMS_WHOLE:
        return claims, coverage
    ids = pc.unique(claims["image_id"])
    numbered = claims.select(["annotator", "task"]).append_column(IMAGE, pa.array(find_codes(claims["image_id"], ids)))
    chosen = ids.filter(pa.array(find_fit_images(numbered, ids)))
    return claims.filter(pc.is_in(claims["image_id"], chosen)), coverage.filter(pc.is_in(coverage["image_id"], chosen))


class _BlockCutter:
    """Cuts tables into blocks of images. ``image``: (claims,), -1 for none; ``number``: (images,), block of each."""

    def __init__(self, whole: Block, image: np.ndarray, number: np.ndarray) -> None:
        self._ids = whole.images["image_id"].combine_chunks()
        self.number, self.count = number, int(number.max(initial=0)) + 1
        # claims about images that are not there are in no block
        block_of = np.append(number, -1)
        self._tables = [
            _TableParts(whole.claims, block_of[image]),
            _TableParts(whole.images, number),
            _TableParts(whole.coverage, block_of[find_codes(whole.coverage["image_id"], self._ids)]),
        ]

    def block(self, k: int) -> Block:
        """One block."""
        return Block(*(table.part(k) for table in self._tables))

    def in_order(self, first: pa.Table, results: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Yield the labels of all blocks in the order of the images, those of the ``first`` one between the others."""
        if self.count == 1:
            yield first
        position, done = find_codes(first["image_id"], self._ids), 0
        for k, labels in enumerate(results, 1):
            last = np.flatnonzero(self.number == k)[-1] if k + 1 < self.count else len(self.number)
            end = int(np.searchsorted(position, last, side="right"))
            both = pa.concat_tables([first.slice(done, end - done), labels])
            positions = np.concatenate([position[done:end], find_codes(labels["image_id"], self._ids)])
            yield both.take(np.argsort(positions, kind="stable"))
            done = end


class _TableParts:
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
        # batch by batch: Arrow would combine a whole table first
        found = [
            batch.take(pa.array(rows[a:b] - first))
            for batch, first, a, b in zip(self._batches, self._first, ends, ends[1:], strict=False)
            if b > a
        ]
        return pa.Table.from_batches(found, self._schema).combine_chunks()


def _run_ahead(pool: Executor, jobs: Iterable[tuple[Any, ...]], ahead: int) -> Iterator[Any]:
    """Yield the result of each job, a function and its arguments, in order; ``ahead`` more than it are begun."""
    begun: deque[Future[Any]] = deque()
    for job in jobs:
        begun.append(pool.submit(*job))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
