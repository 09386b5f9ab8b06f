"""Sequences laid side by side: many pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from florence.engine.wording.tokens import Sequences, fixed, spread, starts

GAP, SWAP = 2, 3
"""Cost of a token that the other text lacks, and of one that is another there: less than two gaps, as words are mistaken for each other. Function
words and signs are not: theirs is that of two gaps."""
CELLS = 4_000_000
"""Cells of alignment tables in memory at once."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Two sequences side by side. ``to``: for each item of the first the index of its counterpart in the second, -1 where it has none."""

    to: np.ndarray
    similarity: float


def align(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Alignment]:
    """`aligned`, of pairs of sequences of codes."""
    a, b = (_sequences([pair[side] for pair in pairs]) for side in (0, 1))
    to, similarity = aligned(a, b)
    return [
        Alignment(to[start:end], value)
        for start, end, value in zip(a.first[:-1].tolist(), a.first[1:].tolist(), similarity.tolist(), strict=True)
    ]


def _sequences(rows: Sequence[Sequence[int]]) -> Sequences:
    return Sequences(
        np.fromiter(chain.from_iterable(rows), np.int64), starts(np.asarray([len(row) for row in rows], np.int64))
    )


def aligned(a: Sequences, b: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest alignment of each of n pairs: for each item of ``a`` the index of its counterpart in its partner in ``b``, -1 where it has none;
    and (n,) the similarity, 1 − cost / cost of having nothing in common, 0…1; 1 for two empty ones.

    What both have at their ends is taken off first, and at their beginnings: that changes nothing as long as the rest costs less than
    skipping to where a word of the beginning comes again.
    """
    long, wide = a.lengths, b.lengths
    tail = _common(a, b, np.minimum(long, wide), ends=True)
    head = _common(a, b, np.minimum(long, wide) - tail, ends=False)
    to = np.full(len(a.keys), -1, np.int64)
    cost = np.zeros(len(a), np.int64)
    rows = np.arange(len(a))
    for _ in range(2):
        cost[rows] = _filled(a, b, rows, head[rows], tail[rows], to)
        rows = rows[(head[rows] > 0) & (cost[rows] > 0)]
        again = np.minimum(_again(a.chosen(rows), head[rows]), _again(b.chosen(rows), head[rows]))
        rows = rows[cost[rows] >= GAP * again]
        head[rows] = 0
    return to, 1 - cost / np.maximum(GAP * (long + wide), 1)


def _common(a: Sequences, b: Sequences, most: np.ndarray, ends: bool) -> np.ndarray:
    """(n,) how many items two sequences share at their beginnings or ends, ``most`` (n,) at most."""
    count = np.zeros(len(a), np.int64)
    rows = np.flatnonzero(most > 0)
    while len(rows):
        k = count[rows]
        one, other = (
            (a.first[rows + 1] - 1 - k, b.first[rows + 1] - 1 - k) if ends else (a.first[rows] + k, b.first[rows] + k)
        )
        rows = rows[a.keys[one] == b.keys[other]]
        count[rows] += 1
        rows = rows[count[rows] < most[rows]]
    return count


def _again(rows: Sequences, head: np.ndarray) -> np.ndarray:
    """(n,) the least distance from one of the first ``head`` (n,) items of each sequence to where it comes again; very large where it does not."""
    far = 1 << 30
    owner = np.repeat(np.arange(len(rows)), rows.lengths)
    order = np.lexsort((rows.keys, owner))
    same = (rows.keys[order[1:]] == rows.keys[order[:-1]]) & (owner[order[1:]] == owner[order[:-1]])
    following = np.full(len(order), far, np.int64)
    following[order[:-1][same]] = (order[1:] - order[:-1])[same]
    following[np.arange(len(order)) - rows.first[owner] >= head[owner]] = far
    result = np.full(len(rows), far, np.int64)
    filled = np.flatnonzero(rows.lengths)
    if len(filled):
        result[filled] = np.minimum.reduceat(following, rows.first[filled])
    return result


def _filled(
    a: Sequences, b: Sequences, rows: np.ndarray, head: np.ndarray, tail: np.ndarray, to: np.ndarray
) -> np.ndarray:
    """(n,) the cost of some of the pairs; their counterparts are written into ``to``. Tables of pairs of about one length are filled together."""
    long, wide = a.lengths[rows] - head - tail, b.lengths[rows] - head - tail
    for start, length, shift in ((np.zeros(len(rows), np.int64), head, 0), (head + long, tail, wide - long)):
        at = spread(a.first[rows] + start, length)
        to[at] = at - np.repeat(a.first[rows], length) + np.repeat(np.zeros(len(rows), np.int64) + shift, length)
    rigid = fixed()
    cost = GAP * (long + wide)
    order = np.lexsort((wide, long))
    order = order[(long[order] > 0) & (wide[order] > 0)]
    begin = 0
    while begin < len(order):
        size = (
            np.arange(1, len(order) - begin + 1)
            * (long[order[begin:]] + 1)
            * (np.maximum.accumulate(wide[order[begin:]]) + 1)
        )
        some = order[begin : begin + max(int(np.searchsorted(size, CELLS, side="right")), 1)]
        begin += len(some)
        first, second = (
            _padded(s, s.first[rows[some]] + head[some], n[some], fill) for s, n, fill in ((a, long, -1), (b, wide, -2))
        )
        table = _table(first, second, rigid)
        cost[some] = table[np.arange(len(some)), long[some], wide[some]]
        back = _back(table, first, second, rigid, long[some], wide[some])
        inside = np.arange(first.shape[1]) < long[some][:, None]
        to[spread(a.first[rows[some]] + head[some], long[some])] = np.where(back >= 0, back + head[some][:, None], -1)[
            inside
        ]
    return cost


def _padded(rows: Sequences, start: np.ndarray, length: np.ndarray, fill: int) -> np.ndarray:
    """(n, longest) ``length`` (n,) keys from ``start`` (n,) on, then ``fill``."""
    result = np.full((len(start), int(length.max())), fill, np.int64)
    result[np.arange(result.shape[1]) < length[:, None]] = rows.keys[spread(start, length)]
    return result


def _table(first: np.ndarray, second: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """(n, items of the first + 1, of the second + 1) costs of beginnings, row by row."""
    swap = np.where(fixed[second], 2 * GAP, SWAP).astype(np.int32)
    steps = GAP * np.arange(second.shape[1] + 1, dtype=np.int32)
    table = np.empty((len(first), first.shape[1] + 1, second.shape[1] + 1), np.int32)
    table[:, 0] = steps
    for i in range(first.shape[1]):
        row, following = table[:, i], table[:, i + 1]
        following[:, 0] = GAP * (i + 1)
        differ = np.where(fixed[first[:, i : i + 1]], 2 * GAP, swap) * (first[:, i : i + 1] != second)
        np.minimum(row[:, :-1] + differ, row[:, 1:] + GAP, out=following[:, 1:])
        # tokens that only the second has: each cell may be reached from any to its left
        following -= steps
        np.minimum.accumulate(following, axis=1, out=following)
        following += steps
    return table


def _back(
    table: np.ndarray, first: np.ndarray, second: np.ndarray, fixed: np.ndarray, long: np.ndarray, wide: np.ndarray
) -> np.ndarray:
    """The way back through each table: (batch, items of the first) indices into the second, -1 for none."""
    to = np.full(first.shape, -1, np.int64)
    rows, i, j = np.arange(len(long)), long.copy(), wide.copy()
    while len(rows := rows[(i[rows] > 0) & (j[rows] > 0)]):
        a, b = i[rows], j[rows]
        here, one, other = table[rows, a, b], first[rows, a - 1], second[rows, b - 1]
        equal = one == other
        swapped = ~equal & ~(fixed[one] | fixed[other]) & (here == table[rows, a - 1, b - 1] + SWAP)
        pair = swapped | (equal & (here == table[rows, a - 1, b - 1]))
        up = ~pair & (here == table[rows, a - 1, b] + GAP)
        to[rows[pair], a[pair] - 1] = b[pair] - 1
        i[rows] = a - (pair | up)
        j[rows] = b - ~up
    return to
