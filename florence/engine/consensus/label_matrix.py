"""Claims of several annotators about the same things, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

LEVELS = 8
"""Levels of an annotator's score that are told apart, where there are claims enough."""
PER_LEVEL = 40
"""Claims that a level needs."""

Edges = tuple[np.ndarray, ...]
"""Of each annotator, the scores at which its levels begin, rising: one fewer than there are levels."""
Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(k,) codes of what things are, and of what is said of them → (k,) 0…1, how right that is."""


@dataclass(frozen=True)
class Turned:
    """What ballots hold with the things last: ``spoke``, ``heard``, ``first``: (A, c) bool; ``label``, ``level``: (A, c); ``same``: (A, A, c); ``able``: (A, A, c), whether the second annotator
    has the name that the first one says, None: all have.
    """

    spoke: np.ndarray
    heard: np.ndarray
    first: np.ndarray
    label: np.ndarray
    level: np.ndarray
    same: np.ndarray
    able: np.ndarray | None


@dataclass(frozen=True)
class Ballots:
    """c things that A annotators could speak of.

    ``claim``: (c, A), the claim that each makes about it, -1 for none; ``heard``: (c, A), whose word and silence count: those who looked, people left out;
    ``same``: (c, A, A), 0…1, how right the second is if the first is, 0 where one says nothing; ``label``: (c, A), what is said, as a number below ``names``; 0 where nothing is;
    ``level``: (c, A), of the annotator's score, and ``edges``: of each annotator, the scores at which a level begins; ``able``: (A, V), which names an annotator has, None: all;
    ``human``: the annotator that is a person; ``void``: the label by which a person says that there is nothing, -1 for none.
    """

    claim: np.ndarray
    heard: np.ndarray
    same: np.ndarray
    label: np.ndarray
    level: np.ndarray
    names: int
    edges: Edges
    able: np.ndarray | None = None
    human: int | None = None
    void: int = -1

    @cached_property
    def spoke(self) -> np.ndarray:
        """(c, A): who says something."""
        return self.claim >= 0

    @cached_property
    def turned(self) -> Turned:
        """The same with the things last."""
        spoke, heard, first, label, level = (
            np.ascontiguousarray(values.T) for values in (self.spoke, self.heard, self.first, self.label, self.level)
        )
        able = None if self.able is None else np.ascontiguousarray(self.able[:, label].swapaxes(0, 1))
        return Turned(spoke, heard, first, label, level, np.ascontiguousarray(self.same.transpose(1, 2, 0)), able)

    @cached_property
    def first(self) -> np.ndarray:
        """(c, A): whether an annotator is the first of those who say what it says."""
        first = self.spoke.copy()
        for a in range(1, first.shape[1]):
            first[:, a] &= ~((self.label[:, :a] == self.label[:, [a]]) & self.spoke[:, :a]).any(axis=1)
        return first

    @cached_property
    def testable(self) -> np.ndarray:
        """(c, A): whether somebody else could have said what an annotator says."""
        if self.able is None:
            return np.sum(self.heard, axis=1, keepdims=True) - self.heard > 0
        others = np.zeros(self.claim.shape, bool)
        for a in range(len(self.able)):
            could = self.heard & self.able[:, self.label[:, a]].T
            could[:, a] = False
            others[:, a] = could.any(axis=1)
        return others

    def agree(self, a: int, b: int) -> np.ndarray:
        """(c,) how far two annotators say the same, silence of both included."""
        return self.same[:, a, b] + (~self.spoke[:, a] & ~self.spoke[:, b])

    @cached_property
    def few(self) -> tuple[Ballots, np.ndarray]:
        """One thing of those of which the same is said, and (c,) which of them each is like; all things where hardly any are alike."""
        rows, number = self.distinct()
        return (self.take(rows), number) if 2 * len(rows) <= len(number) else (self, np.arange(len(number)))

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The first of the things of which the same annotators say the same, in order, and (c,) the number of each thing's."""
        number = np.zeros(len(self.claim), np.int64)
        for a in range(self.claim.shape[1]):
            said = (
                np.where(self.spoke[:, a], self.label[:, a] + 1, 0) * (LEVELS + 1) + self.level[:, a]
            ) * 2 + self.heard[:, a]
            if len(said) and (said != said[0]).any():
                number = numbered(number * (int(said.max()) + 1) + said)
        first = np.zeros(int(number.max(initial=-1)) + 1, np.int64)
        # the last one that is written stays
        first[number[::-1]] = np.arange(len(number))[::-1]
        return first, number

    def take(self, rows: np.ndarray) -> Ballots:
        """Some of the things."""
        return replace(
            self,
            claim=self.claim[rows],
            heard=self.heard[rows],
            same=self.same[rows],
            label=self.label[rows],
            level=self.level[rows],
        )


def numbered(values: np.ndarray) -> np.ndarray:
    """Whole numbers as 0, 1, …, the same for the same, in the order in which they first come."""
    return pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)


def ballots(
    thing: np.ndarray,
    annotator: np.ndarray,
    looked: np.ndarray,
    code: np.ndarray,
    score: np.ndarray,
    similarity: Similarity | None = None,
    able: np.ndarray | None = None,
    human: int | None = None,
    void: int = -1,
    edges: Edges | None = None,
) -> Ballots:
    """Ballots of m claims about ``thing`` (m,), numbered from 0, each annotator with one claim a thing at most.

    ``looked``: (things, A). ``code``: (m,), the same for claims that say exactly the same; ``similarity``: of different codes, 0 where None; ``score``: (m,), NaN where
    none; ``able``, ``human``, ``void``, ``edges``: see `Ballots`, by code. Without ``edges`` the levels of an annotator hold about as many of these claims each.
    """
    claim = np.full(looked.shape, -1, np.int64)
    claim[thing, annotator] = np.arange(len(thing))
    spoke = claim >= 0
    label = np.where(spoke, np.append(code, 0)[claim], 0)
    by, says = np.ascontiguousarray(spoke.T), np.ascontiguousarray(label.T)
    same = np.zeros((looked.shape[1], *by.shape))
    for a in range(len(by)):
        same[a, a] = by[a]
        for b in range(a):
            both = by[a] & by[b]
            same[a, b] = same[b, a] = both & (says[a] == says[b])
            rest = np.flatnonzero(both & (says[a] != says[b]))
            if similarity is not None and len(rest):
                same[a, b, rest] = similarity(says[a, rest], says[b, rest])
                same[b, a, rest] = similarity(says[b, rest], says[a, rest])
    same = np.ascontiguousarray(same.transpose(2, 0, 1))
    heard = looked | spoke
    if human is not None:
        heard[:, human] = False
    edges = edges or tuple(_edges(score[claim[spoke[:, a], a]]) for a in range(looked.shape[1]))
    level = np.zeros(looked.shape, np.int64)
    for a in range(looked.shape[1]):
        mine = score[claim[spoke[:, a], a]]
        level[spoke[:, a], a] = np.where(np.isnan(mine), LEVELS, np.searchsorted(edges[a], mine, side="right"))
    return Ballots(claim, heard, same, label, level, int(code.max(initial=0)) + 1, edges, able, human, void)


def _edges(score: np.ndarray) -> np.ndarray:
    """Where the levels of an annotator's scores begin, each holding about as many; those without a score are of a level of their own."""
    score = score[~np.isnan(score)]
    count = int(min(LEVELS, max(1, len(score) // PER_LEVEL)))
    return np.quantile(score, np.arange(1, count) / count) if count > 1 else np.zeros(0)
