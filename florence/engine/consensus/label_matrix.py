"""The label matrix: items × annotators, and what each annotator claims about each item.

A cell holds the row of a claim, `ABSENT` ("was asked and claims nothing") or `NOT_ASKED`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

ABSENT, NOT_ASKED = -1, -2
"""Cells of a label matrix without a claim: the annotator was asked and claims nothing; it was not asked."""
SCORE_LEVELS = 8
"""Levels that an annotator's scores are divided into, where it has claims enough."""
CLAIMS_PER_LEVEL = 20
"""Claims that a level needs."""

DEFAULT_ITEMS_PER_IMAGE = 6.0
"""Items of one image where the number of images is not known."""

LevelEdges = tuple[np.ndarray, ...]
"""For each annotator, the scores at which its levels begin, rising: one fewer than it has levels."""
LabelSimilarity = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(k,) labels that are right and (k,) labels that are claimed → (k,) 0…1, how right the claims are."""


@dataclass(frozen=True)
class ItemClaims:
    """m claims about items. An annotator makes at most one claim about an item.

    ``item``: (m,), numbered from 0; ``annotator``: (m,); ``label``: (m,), the same number for claims of the same label;
    ``score``: (m,), NaN where there is none.
    """

    item: np.ndarray
    annotator: np.ndarray
    label: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class AnnotatorTraits:
    """What is known of A annotators before models are fitted; all but ``states_alternatives`` is declared.

    ``families``: (A,), the same number for annotators that share mistakes. ``names_only``: (A,), whose claims copy
    boxes of others, so that they say what an item is called and nothing about whether it is there. ``can_label``:
    (A, V), the labels that an annotator has; None: all have all. ``human``: the annotator that stands for people;
    ``nothing_label``: the label by which a person claims that there is nothing, -1 for none.
    ``states_alternatives``: (A,), who claims several things of one place; None: nobody.
    """

    families: np.ndarray
    names_only: np.ndarray
    can_label: np.ndarray | None = None
    human: int | None = None
    nothing_label: int = -1
    states_alternatives: np.ndarray | None = None

    @classmethod
    def of(cls, count: int) -> AnnotatorTraits:
        """Annotators that nothing is declared of."""
        return cls(np.arange(count), np.zeros(count, bool))


@dataclass(frozen=True)
class TransposedLabelMatrix:
    """The arrays of a label matrix with the items last, because NumPy is slow where inner loops are short.

    ``present``, ``was_asked``, ``first``: (A, n) bool; ``label``, ``level``: (A, n); ``similarity``: (A, A, n);
    ``can_label``: (A, A, n), whether the second annotator has the label that the first one claims; None: all have.
    """

    present: np.ndarray
    was_asked: np.ndarray
    first: np.ndarray
    label: np.ndarray
    level: np.ndarray
    similarity: np.ndarray
    can_label: np.ndarray | None


@dataclass(frozen=True)
class LabelMatrix:
    """n items and the claims of A annotators about them.

    ``claim``: (n, A), row of the claim, `ABSENT` or `NOT_ASKED`. ``similarity``: (n, A, A), 0…1, how right the second
    annotator's claim is if the first one's is, 0 where either is absent. ``label``: (n, A), what is claimed, below
    ``label_count``; 0 where nothing is. ``level``: (n, A), level of the annotator's score; ``level_edges``: where
    levels begin; ``level_score``: (A, levels), mean score of each, NaN where there is none. ``score``: (n, A), NaN
    where there is none. ``complete``: (n,), items of images of which a person has claimed all there is. ``traits``:
    of the annotators. ``items_per_image``: on the mean.
    """

    claim: np.ndarray
    similarity: np.ndarray
    label: np.ndarray
    level: np.ndarray
    score: np.ndarray
    label_count: int
    level_edges: LevelEdges
    level_score: np.ndarray
    complete: np.ndarray
    traits: AnnotatorTraits
    items_per_image: float

    def __len__(self) -> int:
        return len(self.claim)

    @property
    def families(self) -> np.ndarray:
        """(A,): see `AnnotatorTraits`."""
        return self.traits.families

    @property
    def can_label(self) -> np.ndarray | None:
        """(A, V): see `AnnotatorTraits`."""
        return self.traits.can_label

    @property
    def states_alternatives(self) -> np.ndarray:
        """(A,): see `AnnotatorTraits`."""
        stated = self.traits.states_alternatives
        return np.zeros(self.claim.shape[1], bool) if stated is None else stated

    @property
    def human(self) -> int | None:
        """The annotator that stands for people."""
        return self.traits.human

    @property
    def nothing_label(self) -> int:
        """The label by which a person claims that there is nothing."""
        return self.traits.nothing_label

    @property
    def anchored(self) -> np.ndarray:
        """(n,): items that people have judged: they claim it, or have claimed all there is."""
        return self.complete if self.human is None else self.complete | self.present[:, self.human]

    @cached_property
    def present(self) -> np.ndarray:
        """(n, A): whether an annotator claims something about an item."""
        return self.claim >= 0

    @cached_property
    def was_asked(self) -> np.ndarray:
        """(n, A): whether an annotator's claim, or its silence, is evidence. People's is not: what they claim holds."""
        asked = self.claim != NOT_ASKED
        if self.human is not None:
            asked[:, self.human] = False
        return asked

    @cached_property
    def transposed(self) -> TransposedLabelMatrix:
        """The same arrays with the items last."""
        arrays = (self.present, self.was_asked, self.first, self.label, self.level)
        present, was_asked, first, label, level = (np.ascontiguousarray(values.T) for values in arrays)
        similarity = np.ascontiguousarray(self.similarity.transpose(1, 2, 0))
        can_label = None
        if self.can_label is not None:
            can_label = np.ascontiguousarray(self.can_label[:, label].swapaxes(0, 1))
        return TransposedLabelMatrix(present, was_asked, first, label, level, similarity, can_label)

    @cached_property
    def first(self) -> np.ndarray:
        """(n, A): whether an annotator is the first to claim its label of an item."""
        first = self.present.copy()
        for a in range(1, first.shape[1]):
            first[:, a] &= ~((self.label[:, :a] == self.label[:, [a]]) & self.present[:, :a]).any(axis=1)
        return first

    @cached_property
    def confirming(self) -> np.ndarray:
        """(n, A): how many other families could have claimed what an annotator claims; people count for none."""
        families = np.unique(self.families)
        result = np.zeros(self.claim.shape, np.int64)
        asked = self.was_asked & ~self.traits.names_only
        for a in range(self.claim.shape[1]):
            able = asked if self.can_label is None else asked & self.can_label[:, self.label[:, a]].T
            for family in families[families != self.families[a]]:
                result[:, a] += able[:, self.families == family].any(axis=1)
        return result

    def pair_similarity(self, a: int, b: int) -> np.ndarray:
        """(n,) how similar the claims of two annotators are; 1 where both claim nothing."""
        return self.similarity[:, a, b] + (~self.present[:, a] & ~self.present[:, b])

    @cached_property
    def distinct(self) -> tuple[LabelMatrix, np.ndarray]:
        """One item of each set of equal ones, and (n,) the row of each item in it; all items where few are equal."""
        rows, row_of = self.find_distinct()
        return (self.take(rows), row_of) if 2 * len(rows) <= len(row_of) else (self, np.arange(len(row_of)))

    def find_distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the first item of each set of items with equal cells, in order, and (n,) the set of each item."""
        number = self.complete.astype(np.int64)
        for a in range(self.claim.shape[1]):
            cell = (
                np.where(self.present[:, a], self.label[:, a] + 1, 0) * (SCORE_LEVELS + 1) + self.level[:, a]
            ) * 2 + self.was_asked[:, a]
            if len(cell) and (cell != cell[0]).any():
                number = renumber(number * (int(cell.max()) + 1) + cell)
        first = np.zeros(int(number.max(initial=-1)) + 1, np.int64)
        # of several values written to one place the last stays
        first[number[::-1]] = np.arange(len(number))[::-1]
        return first, number

    def take(self, rows: np.ndarray) -> LabelMatrix:
        """Some of the items."""
        return replace(
            self,
            claim=self.claim[rows],
            similarity=self.similarity[rows],
            label=self.label[rows],
            level=self.level[rows],
            score=self.score[rows],
            complete=self.complete[rows],
        )


def renumber(values: np.ndarray) -> np.ndarray:
    """Return whole numbers as 0, 1, …, the same for the same, in the order in which they first come."""
    return pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)


def build_label_matrix(
    claims: ItemClaims,
    coverage: np.ndarray,
    similarity: LabelSimilarity | None = None,
    traits: AnnotatorTraits | None = None,
    *,
    complete: np.ndarray | None = None,
    level_edges: LevelEdges | None = None,
    images: int | None = None,
) -> LabelMatrix:
    """Build the label matrix of claims about items. ``coverage``: (items, A) bool, who was asked about which item.

    ``similarity``: of different labels, 0 where None. ``traits``, ``complete``, ``level_edges``: see `LabelMatrix`;
    without ``level_edges`` the levels of an annotator hold about as many of these claims each. ``images``: how many the
    items lie in.
    """
    count = coverage.shape[1]
    claim = np.full(coverage.shape, NOT_ASKED, np.int64)
    claim[coverage] = ABSENT
    claim[claims.item, claims.annotator] = np.arange(len(claims.item))
    present = claim >= 0
    label = np.where(present, np.append(claims.label, 0)[np.maximum(claim, -1)], 0)
    level_edges = level_edges or tuple(_level_edges(claims.score[claim[present[:, a], a]]) for a in range(count))
    level, level_score = np.zeros(coverage.shape, np.int64), np.full((count, SCORE_LEVELS + 1), np.nan)
    for a in range(count):
        score = claims.score[claim[present[:, a], a]]
        found = np.where(np.isnan(score), SCORE_LEVELS, np.searchsorted(level_edges[a], score, side="right"))
        level[present[:, a], a] = found
        claimed = np.bincount(found, minlength=SCORE_LEVELS + 1)[:-1]
        total = np.bincount(found, np.nan_to_num(score), minlength=SCORE_LEVELS + 1)[:-1]
        # an annotator that states one score for all states none
        if len(np.unique(score)) > 1 or len(score) == 1:
            level_score[a, :-1] = np.where(claimed > 0, total / np.maximum(claimed, 1), np.nan)
    return LabelMatrix(
        claim=claim,
        similarity=_claim_similarity(present, label, similarity),
        label=label,
        level=level,
        score=np.where(present, np.append(claims.score, np.nan)[np.maximum(claim, -1)], np.nan),
        label_count=int(claims.label.max(initial=0)) + 1,
        level_edges=level_edges,
        level_score=level_score,
        complete=np.zeros(len(claim), bool) if complete is None else complete,
        traits=traits or AnnotatorTraits.of(count),
        items_per_image=len(claim) / max(images, 1) if images is not None else DEFAULT_ITEMS_PER_IMAGE,
    )


def _claim_similarity(present: np.ndarray, label: np.ndarray, similarity: LabelSimilarity | None) -> np.ndarray:
    """(n, A, A): see `LabelMatrix.similarity`."""
    present, label = np.ascontiguousarray(present.T), np.ascontiguousarray(label.T)
    result = np.zeros((len(present), *present.shape))
    for a in range(len(present)):
        result[a, a] = present[a]
        for b in range(a):
            both = present[a] & present[b]
            result[a, b] = result[b, a] = both & (label[a] == label[b])
            rest = np.flatnonzero(both & (label[a] != label[b]))
            if similarity is not None and len(rest):
                result[a, b, rest] = similarity(label[a, rest], label[b, rest])
                result[b, a, rest] = similarity(label[b, rest], label[a, rest])
    return np.ascontiguousarray(result.transpose(2, 0, 1))


def _level_edges(score: np.ndarray) -> np.ndarray:
    """Return where levels of about as many scores each begin; claims without a score have a level of their own."""
    score = score[~np.isnan(score)]
    count = int(min(SCORE_LEVELS, max(1, len(score) // CLAIMS_PER_LEVEL)))
    return np.unique(np.quantile(score, np.arange(1, count) / count)) if count > 1 else np.zeros(0)
