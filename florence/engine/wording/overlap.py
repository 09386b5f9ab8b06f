"""How many words two texts share.

With c_a(w), c_b(w) the counts of token w in texts a and b, the overlap is the Sørensen–Dice coefficient of the two
bags:

    overlap(a, b) = 2 Σ_w min(c_a(w), c_b(w)) / (|a| + |b|),    0 … 1, and 1 for two texts without tokens.

Dice, L. R. (1945). Measures of the amount of ecologic association between species. Ecology 26(3).
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np

from florence.engine.wording.tokens import TokenizedTexts, tokenize


@lru_cache(maxsize=1 << 17)
def count_keys(text: str) -> Counter[int]:
    """Return how often ``text`` has each token key."""
    return Counter(tokenize(text).keys)


def word_overlap(a: str, b: str) -> float:
    """Return the overlap of two texts, 0 … 1."""
    return 1.0 if a == b else _ordered_overlap(a, b) if a < b else _ordered_overlap(b, a)


@lru_cache(maxsize=1 << 18)
def _ordered_overlap(a: str, b: str) -> float:
    one, other = count_keys(a), count_keys(b)
    whole = len(tokenize(a)) + len(tokenize(b))
    return 2 * sum([min(count, other[key]) for key, count in one.items() if key in other]) / whole if whole else 1.0


def word_overlaps(texts: TokenizedTexts, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (n,) the overlap of each pair of texts: rows ``a`` (n,) and ``b`` (n,) of ``texts``."""
    from scipy.sparse import csr_array

    if not len(a):
        return np.zeros(0)
    code, row = np.unique(np.minimum(a, b) * len(texts) + np.maximum(a, b), return_inverse=True)
    pairs = np.stack([code // len(texts), code % len(texts)])
    known, column = np.unique(texts.keys, return_inverse=True)
    shape = (len(texts), len(known))
    counts = csr_array((np.ones(len(column), np.int64), column, texts.offsets), shape=shape, copy=True)
    counts.sum_duplicates()
    shared = np.asarray(counts[pairs[0]].minimum(counts[pairs[1]]).sum(axis=1)).reshape(-1)
    whole = texts.lengths[pairs].sum(axis=0)
    return np.where(whole > 0, 2 * shared / np.maximum(whole, 1), 1.0)[row]
