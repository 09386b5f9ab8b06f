"""Pairs of things: found within groups, joined into clusters, and the lesser ones suppressed, all images at once."""

from __future__ import annotations

import numpy as np


def joined(a: np.ndarray, b: np.ndarray, annotator: np.ndarray) -> np.ndarray:
    """(m,) the first of the claims that each of m claims is joined with.

    Pairs (``a``, ``b``) are taken in their order. Each joins its two claims, and all that are joined with them, unless an ``annotator`` (m,) would then be there twice.

    A pair that is the first of all at both of its ends depends on no other: such pairs are decided together, round after round.
    """
    root = np.arange(len(annotator))
    count = int(annotator.max(initial=-1)) + 1
    spoken = np.zeros((len(annotator), count), bool)
    spoken[root, annotator] = True
    first = np.empty(len(annotator), np.int64)
    while len(a):
        rank = np.arange(len(a))
        # of values written to one place the last stays: the least
        first[np.stack([a, b], axis=1).reshape(-1)[::-1]] = np.repeat(rank[::-1], 2)
        ready = (first[a] == rank) & (first[b] == rank)
        one, other = a[ready], b[ready]
        free = ~(spoken[one] & spoken[other]).any(axis=1)
        low, high = np.minimum(one, other)[free], np.maximum(one, other)[free]
        root[high] = low
        spoken[low] |= spoken[high]
        a, b = root[a[~ready]], root[b[~ready]]
        a, b = a[a != b], b[a != b]
    while (root[root] != root).any():
        root = root[root]
    return root


def neighbours(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i < j) of the same ``group`` (n,), whose members stand together."""
    firsts, seconds, distance = [], [], 1
    here = np.flatnonzero(group[1:] == group[:-1]) if len(group) else np.zeros(0, np.int64)
    while len(here):
        firsts.append(here)
        seconds.append(here + distance)
        distance += 1
        here = here[here + distance < len(group)]
        here = here[group[here] == group[here + distance]]
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *firsts]), np.concatenate([empty, *seconds])


def suppressed(better: np.ndarray, worse: np.ndarray, count: int) -> np.ndarray:
    """(count,) which things give way, one after the other from the best down: those that are the ``worse`` of a pair whose ``better`` one has not given way itself.

    The pairs must follow one ranking of all.
    """
    found = np.zeros(count, bool)
    while len(worse):
        beaten = np.zeros(count, bool)
        beaten[worse] = True
        found[worse[~beaten[better]]] = True
        open_ = ~found[better] & ~found[worse]
        better, worse = better[open_], worse[open_]
    return found
