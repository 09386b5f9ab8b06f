"""Global alignment of two sequences, for many pairs at once.

Needleman and Wunsch (1970), with costs instead of scores. D[i, j] is the least cost of aligning the first i items of a
with the first j of b:

    D[i, 0] = i · g,   D[0, j] = j · g
    D[i, j] = min(D[i−1, j−1] + s(a_i, b_j),  D[i−1, j] + g,  D[i, j−1] + g)
    s(x, x) = 0;   s(x, y) = 3 for two content words;   s(x, y) = 2g otherwise;   g = 2

    similarity = 1 − D[|a|, |b|] / (g · (|a| + |b|)),    0 … 1

A row of D is filled at once: with E[j] = min(D[i−1, j−1] + s, D[i−1, j] + g), the gaps of b are the running minimum
D[i, j] = min_{k ≤ j} (E[k] − k · g) + j · g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from florence.engine.wording.sequences import CodeSequences, compute_offsets, expand_ranges
from florence.engine.wording.tokens import function_word_mask

GAP_COST, SUBSTITUTION_COST = 2, 3
"""Cost of a token that the other text lacks, and of a word in place of another: less than two gaps, as annotators
mistake words for each other. Function words and marks are not mistaken: a substitution of one costs two gaps."""
CELLS = 4_000_000
"""Cells of alignment tables in memory at once."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """An alignment. ``target``: (items of the first,) the aligned index in the second sequence, -1 for a gap."""

    target: np.ndarray
    similarity: float


def align_pairs(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Alignment]:
    """Return the alignment of each pair of sequences of codes."""
    a, b = (_to_sequences([pair[side] for pair in pairs]) for side in (0, 1))
    target, similarity = align_sequences(a, b)
    return [
        Alignment(target[start:end], value)
        for start, end, value in zip(a.offsets[:-1].tolist(), a.offsets[1:].tolist(), similarity.tolist(), strict=True)
    ]


def _to_sequences(rows: Sequence[Sequence[int]]) -> CodeSequences:
    lengths = np.asarray([len(row) for row in rows], np.int64)
    return CodeSequences(np.fromiter(chain.from_iterable(rows), np.int64), compute_offsets(lengths))


def align_sequences(a: CodeSequences, b: CodeSequences) -> tuple[np.ndarray, np.ndarray]:
    """Return the cheapest alignment of each of n pairs and (n,) its similarity; two empty sequences have similarity 1.

    The alignment: for each item of ``a`` the index of its counterpart in its partner in ``b``, -1 where it has none.
    Common ends are taken off first, and common beginnings: that changes nothing as long as the rest costs less than
    skipping to where a word of the beginning comes again.
    """
    length_a, length_b = a.lengths, b.lengths
    tail = _count_common(a, b, np.minimum(length_a, length_b), ends=True)
    head = _count_common(a, b, np.minimum(length_a, length_b) - tail, ends=False)
    target = np.full(len(a.keys), -1, np.int64)
    cost = np.zeros(len(a), np.int64)
    rows = np.arange(len(a))
    for _ in range(2):
        cost[rows] = _align_rows(a, b, rows, head[rows], tail[rows], target)
        rows = rows[(head[rows] > 0) & (cost[rows] > 0)]
        again = np.minimum(
            _distance_to_repetition(a.select(rows), head[rows]), _distance_to_repetition(b.select(rows), head[rows])
        )
        rows = rows[cost[rows] >= GAP_COST * again]
        head[rows] = 0
    return target, 1 - cost / np.maximum(GAP_COST * (length_a + length_b), 1)


def _count_common(a: CodeSequences, b: CodeSequences, most: np.ndarray, ends: bool) -> np.ndarray:
    """Return (n,) how many items two sequences share at their beginnings or ``ends``, ``most`` (n,) at most."""
    count = np.zeros(len(a), np.int64)
    rows = np.flatnonzero(most > 0)
    while len(rows):
        k = count[rows]
        one, other = (
            (a.offsets[rows + 1] - 1 - k, b.offsets[rows + 1] - 1 - k)
            if ends
            else (a.offsets[rows] + k, b.offsets[rows] + k)
        )
        rows = rows[a.keys[one] == b.keys[other]]
        count[rows] += 1
        rows = rows[count[rows] < most[rows]]
    return count


def _distance_to_repetition(sequences: CodeSequences, head: np.ndarray) -> np.ndarray:
    """Return (n,) the least distance of one of the first ``head`` (n,) items to its next occurrence, 2^30 for none."""
    far = 1 << 30
    owner = np.repeat(np.arange(len(sequences)), sequences.lengths)
    order = np.lexsort((sequences.keys, owner))
    same = (sequences.keys[order[1:]] == sequences.keys[order[:-1]]) & (owner[order[1:]] == owner[order[:-1]])
    distance = np.full(len(order), far, np.int64)
    distance[order[:-1][same]] = (order[1:] - order[:-1])[same]
    distance[np.arange(len(order)) - sequences.offsets[owner] >= head[owner]] = far
    result = np.full(len(sequences), far, np.int64)
    filled = np.flatnonzero(sequences.lengths)
    if len(filled):
        result[filled] = np.minimum.reduceat(distance, sequences.offsets[filled])
    return result


def _align_rows(
    a: CodeSequences, b: CodeSequences, rows: np.ndarray, head: np.ndarray, tail: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Return (n,) the cost of the pairs ``rows`` and write their alignment into ``target``.

    Tables of pairs of about one size are filled together.
    """
    long, wide = a.lengths[rows] - head - tail, b.lengths[rows] - head - tail
    for start, length, shift in ((np.zeros(len(rows), np.int64), head, 0), (head + long, tail, wide - long)):
        at = expand_ranges(a.offsets[rows] + start, length)
        target[at] = at - np.repeat(a.offsets[rows], length) + np.repeat(np.zeros(len(rows), np.int64) + shift, length)
    rigid = function_word_mask()
    cost = GAP_COST * (long + wide)
    order = np.lexsort((wide, long))
    order = order[(long[order] > 0) & (wide[order] > 0)]
    begin = 0
    while begin < len(order):
        some = order[begin : begin + _count_fitting(long[order[begin:]], wide[order[begin:]])]
        begin += len(some)
        first, second = (
            _pad(s, s.offsets[rows[some]] + head[some], n[some], fill) for s, n, fill in ((a, long, -1), (b, wide, -2))
        )
        table = _fill_tables(first, second, rigid)
        cost[some] = table[np.arange(len(some)), long[some], wide[some]]
        back = _trace_back(table, first, second, rigid, long[some], wide[some])
        inside = np.arange(first.shape[1]) < long[some][:, None]
        found = np.where(back >= 0, back + head[some][:, None], -1)
        target[expand_ranges(a.offsets[rows[some]] + head[some], long[some])] = found[inside]
    return cost


def _count_fitting(long: np.ndarray, wide: np.ndarray) -> int:
    """Return how many of the tables, in this order, have `CELLS` cells at most when padded to one size; at least 1."""
    size = np.arange(1, len(long) + 1) * (long + 1) * (np.maximum.accumulate(wide) + 1)
    return max(int(np.searchsorted(size, CELLS, side="right")), 1)


def _pad(rows: CodeSequences, start: np.ndarray, length: np.ndarray, fill: int) -> np.ndarray:
    """Return (n, longest) the ``length`` (n,) keys from ``start`` (n,) on, then ``fill``."""
    result = np.full((len(start), int(length.max())), fill, np.int64)
    result[np.arange(result.shape[1]) < length[:, None]] = rows.keys[expand_ranges(start, length)]
    return result


def _fill_tables(first: np.ndarray, second: np.ndarray, rigid: np.ndarray) -> np.ndarray:
    """Return D of each pair, (n, items of the first + 1, items of the second + 1) int32, filled row by row."""
    swap = np.where(rigid[second], 2 * GAP_COST, SUBSTITUTION_COST).astype(np.int32)
    steps = GAP_COST * np.arange(second.shape[1] + 1, dtype=np.int32)
    table = np.empty((len(first), first.shape[1] + 1, second.shape[1] + 1), np.int32)
    table[:, 0] = steps
    for i in range(first.shape[1]):
        row, following = table[:, i], table[:, i + 1]
        following[:, 0] = GAP_COST * (i + 1)
        differ = np.where(rigid[first[:, i : i + 1]], 2 * GAP_COST, swap) * (first[:, i : i + 1] != second)
        np.minimum(row[:, :-1] + differ, row[:, 1:] + GAP_COST, out=following[:, 1:])
        # tokens that only the second has: each cell may be reached from any to its left
        following -= steps
        np.minimum.accumulate(following, axis=1, out=following)
        following += steps
    return table


def _trace_back(
    table: np.ndarray, first: np.ndarray, second: np.ndarray, rigid: np.ndarray, long: np.ndarray, wide: np.ndarray
) -> np.ndarray:
    """Return (n, items of the first) the aligned index in the second, -1 for a gap, along the way back through D."""
    target = np.full(first.shape, -1, np.int64)
    rows, i, j = np.arange(len(long)), long.copy(), wide.copy()
    while len(rows := rows[(i[rows] > 0) & (j[rows] > 0)]):
        a, b = i[rows], j[rows]
        here, one, other = table[rows, a, b], first[rows, a - 1], second[rows, b - 1]
        equal = one == other
        swapped = ~equal & ~(rigid[one] | rigid[other]) & (here == table[rows, a - 1, b - 1] + SUBSTITUTION_COST)
        pair = swapped | (equal & (here == table[rows, a - 1, b - 1]))
        up = ~pair & (here == table[rows, a - 1, b] + GAP_COST)
        target[rows[pair], a[pair] - 1] = b[pair] - 1
        i[rows] = a - (pair | up)
        j[rows] = b - ~up
    return target
