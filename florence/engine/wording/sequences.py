"""Many sequences of integer codes in one array, stored like Arrow lists: all values, and where each begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CodeSequences:
    """n sequences of codes. ``keys``: (t,) all codes, one sequence after the other; ``offsets``: (n + 1,)."""

    keys: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(n,) codes of each sequence."""
        return np.diff(self.offsets)

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Return the indices into ``keys`` of the sequences ``rows``, one sequence after the other."""
        return expand_ranges(self.offsets[rows], self.lengths[rows])

    def select(self, rows: np.ndarray) -> CodeSequences:
        """Return the sequences ``rows``, in that order."""
        return CodeSequences(self.keys[self.positions(rows)], compute_offsets(self.lengths[rows]))

    def slice(self, rows: np.ndarray, span: np.ndarray) -> CodeSequences:
        """Return the part of each sequence of ``rows`` from ``span[:, 0]`` up to ``span[:, 1]`` (n, 2)."""
        length = span[:, 1] - span[:, 0]
        return CodeSequences(self.keys[expand_ranges(self.offsets[rows] + span[:, 0], length)], compute_offsets(length))


def expand_ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return start, start + 1, … of ``length`` (n,) numbers for each ``start`` (n,), one range after the other."""
    return np.repeat(start - compute_offsets(length)[:-1], length) + np.arange(int(length.sum()))


def compute_offsets(length: np.ndarray) -> np.ndarray:
    """Return (n + 1,) where rows of ``length`` (n,) items begin when they follow each other, and the end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(length, dtype=np.int64)])
