"""Claims of several annotators about the same things, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

LEVELS = 8
"""Levels of an author's score that are told apart, where there are claims enough."""
PER_LEVEL = 40
"""Claims that a level needs."""

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(k,) codes of what things are, and of what is said of them → (k,) 0…1, how right that is."""


@dataclass(frozen=True)
class Ballots:
    """c things that A authors could speak of.

    ``claim``: (c, A), the claim that each makes about it, -1 for none; ``heard``: (c, A), whose word and silence count: those who looked, people left out;
    ``same``: (c, A, A), 0…1, how right the second is if the first is, 0 where one says nothing; ``label``: (c, A), what is said, as a number below ``names``; 0 where nothing is;
    ``level``: (c, A), of the author's score; ``able``: (A, V), which names an author has, None: all; ``human``: the author that is a person;
    ``void``: the label by which a person says that there is nothing, -1 for none; ``of``: how many times as many things there are as these.
    """

    claim: np.ndarray
    heard: np.ndarray
    same: np.ndarray
    label: np.ndarray
    level: np.ndarray
    names: int
    able: np.ndarray | None = None
    human: int | None = None
    void: int = -1
    of: float = 1.0

    @cached_property
    def spoke(self) -> np.ndarray:
        """(c, A): who says something."""
        return self.claim >= 0

    @cached_property
    def first(self) -> np.ndarray:
        """(c, A): whether an author is the first of those who say what it says."""
        first = self.spoke.copy()
        for a in range(1, first.shape[1]):
            first[:, a] &= ~((self.label[:, :a] == self.label[:, [a]]) & self.spoke[:, :a]).any(axis=1)
        return first

    @cached_property
    def testable(self) -> np.ndarray:
        """(c, A): whether somebody else could have said what an author says."""
        if self.able is None:
            return np.sum(self.heard, axis=1, keepdims=True) - self.heard > 0
        others = np.zeros(self.claim.shape, bool)
        for a in range(len(self.able)):
            could = self.heard & self.able[:, self.label[:, a]].T
            could[:, a] = False
            others[:, a] = could.any(axis=1)
        return others

    def agree(self, a: int, b: int) -> np.ndarray:
        """(c,) how far two authors say the same, silence of both included."""
        return self.same[:, a, b] + (~self.spoke[:, a] & ~self.spoke[:, b])

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The first of the things of which the same authors say the same, in order, and (c,) the number of each thing's."""
        number = np.zeros(len(self.claim), np.int64)
        for a in range(self.claim.shape[1]):
            said = (np.where(self.spoke[:, a], self.label[:, a] + 1, 0) * (LEVELS + 1) + self.level[:, a]) * 2 + self.heard[:, a]
            if len(said) and (said != said[0]).any():
                number = numbered(number * (int(said.max()) + 1) + said)
        first = np.zeros(int(number.max(initial=-1)) + 1, np.int64)
        # the last one that is written stays
        first[number[::-1]] = np.arange(len(number))[::-1]
        return first, number

    def take(self, rows: np.ndarray) -> Ballots:
        """Some of the things."""
        return replace(
            self, claim=self.claim[rows], heard=self.heard[rows], same=self.same[rows], label=self.label[rows], level=self.level[rows],
            of=self.of * len(self.claim) / max(len(rows), 1),
        )  # fmt: skip


def numbered(values: np.ndarray) -> np.ndarray:
    """Whole numbers as 0, 1, …, the same for the same, in the order in which they first come."""
    return pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)


def ballots(
    thing: np.ndarray, author: np.ndarray, looked: np.ndarray, code: np.ndarray, score: np.ndarray, similarity: Similarity | None = None,
    able: np.ndarray | None = None, human: int | None = None, void: int = -1,
) -> Ballots:  # fmt: skip
    """Ballots of m claims about ``thing`` (m,), numbered from 0, each author with one claim a thing at most.

    ``looked``: (things, A). ``code``: (m,), the same for claims that say exactly the same; ``similarity``: of different codes, 0 where None; ``score``: (m,), NaN where
    none; ``able``, ``human``, ``void``: see `Ballots`, by code.
    """
    claim = np.full(looked.shape, -1, np.int64)
    claim[thing, author] = np.arange(len(thing))
    spoke = claim >= 0
    label = np.where(spoke, np.append(code, 0)[claim], 0)
    same = np.zeros((*looked.shape, looked.shape[1]))
    for a in range(looked.shape[1]):
        same[spoke[:, a], a, a] = 1
        for b in range(a):
            both = np.flatnonzero(spoke[:, a] & spoke[:, b])
            same[both, a, b] = same[both, b, a] = label[both, a] == label[both, b]
            rest = both[label[both, a] != label[both, b]]
            if similarity is not None and len(rest):
                same[rest, a, b] = similarity(label[rest, a], label[rest, b])
                same[rest, b, a] = similarity(label[rest, b], label[rest, a])
    heard = looked | spoke
    if human is not None:
        heard[:, human] = False
    level = np.zeros(looked.shape, np.int64)
    for a in range(looked.shape[1]):
        level[spoke[:, a], a] = _levels(score[claim[spoke[:, a], a]])
    return Ballots(claim, heard, same, label, level, int(code.max(initial=0)) + 1, able, human, void)


def _levels(score: np.ndarray) -> np.ndarray:
    """The level of each score among its author's, levels holding about as many claims; those without a score are of one level."""
    there = ~np.isnan(score)
    count = int(min(LEVELS, max(1, there.sum() // PER_LEVEL)))
    edges = np.quantile(score[there], np.arange(1, count) / count) if count > 1 else np.zeros(0)
    return np.where(there, np.searchsorted(edges, score, side="right"), LEVELS)
