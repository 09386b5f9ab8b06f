"""Pairs of rows, of all images at once: listed within groups, joined into clusters, suppressed."""

from __future__ import annotations

import numpy as np


def join_pairs(a: np.ndarray, b: np.ndarray, annotator: np.ndarray) -> np.ndarray:
    """Join m claims into clusters and return (m,) the first claim of each one's cluster.

    A cluster has at most one claim of each ``annotator`` (m,). Pairs (``a``, ``b``) are taken in their order. Each
    joins the clusters of its two claims, unless an annotator would then be in the cluster twice. A pair that is the
    first of all pairs at both of its ends depends on no other: such pairs are decided together, pass after pass.
    """
    root = np.arange(len(annotator))
    count = int(annotator.max(initial=-1)) + 1
    members = np.zeros((len(annotator), count), bool)
    members[root, annotator] = True
    first = np.empty(len(annotator), np.int64)
    while len(a):
        rank = np.arange(len(a))
        # of several values written to one place the last stays: here the least
        first[np.stack([a, b], axis=1).reshape(-1)[::-1]] = np.repeat(rank[::-1], 2)
        ready = (first[a] == rank) & (first[b] == rank)
        one, other = a[ready], b[ready]
        free = ~(members[one] & members[other]).any(axis=1)
        low, high = np.minimum(one, other)[free], np.maximum(one, other)[free]
        root[high] = low
        members[low] |= members[high]
        a, b = root[a[~ready]], root[b[~ready]]
        a, b = a[a != b], b[a != b]
    while (root[root] != root).any():
        root = root[root]
    return root


def list_pairs(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs (i < j) of rows of the same ``group`` (n,); the rows of a group stand together."""
    firsts, seconds, distance = [], [], 1
    start = np.flatnonzero(group[1:] == group[:-1]) if len(group) else np.zeros(0, np.int64)
    while len(start):
        firsts.append(start)
        seconds.append(start + distance)
        distance += 1
        start = start[start + distance < len(group)]
        start = start[group[start] == group[start + distance]]
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *firsts]), np.concatenate([empty, *seconds])


def list_ranked_pairs(rank: np.ndarray, *groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs (better, worse) of rows that are the same in all ``groups`` (n,), by ``rank`` (n,)."""
    order = np.lexsort((-rank, *groups))
    changes = np.any([np.diff(group[order]) != 0 for group in groups], axis=0)
    better, worse = list_pairs(np.cumsum(np.r_[False, changes][: len(order)]))
    return order[better], order[worse]


def find_suppressed(better: np.ndarray, worse: np.ndarray, count: int) -> np.ndarray:
    """Return (count,) which rows are suppressed: the ``worse`` of each pair whose ``better`` row is not.

    The pairs must follow one ranking of all rows.
    """
    suppressed = np.zeros(count, bool)
    while len(worse):
        beaten = np.zeros(count, bool)
        beaten[worse] = True
        suppressed[worse[~beaten[better]]] = True
        open_ = ~suppressed[better] & ~suppressed[worse]
        better, worse = better[open_], worse[open_]
    return suppressed
