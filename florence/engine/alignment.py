"""Texts as tokens, and sequences laid side by side: many pairs at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

GAP, SWAP = 2, 3
"""Cost of a token that the other text lacks, and of one that is another there: less than two gaps, as words are mistaken for each other. Function
words and signs are not: theirs is that of two gaps."""
FUNCTION_WORDS = frozenset(
    "a about above across after against all along also among and another any are around as at away be been before behind being below beneath beside "
    "between both but by can could did do does down during each either every few for from had has have having he her here hers him his how i if in inside "
    "into is it its itself just many me more most much my near next no nor not of off on one onto or other our out outside over overall own past she should "
    "so some such than that the their them themselves then there these they this those through to toward towards two three four "
    "five six under until up upon us very via was we were what when where which while who whom whose why will with within without would you your".split()
)
"""Words that name nothing: English determiners, pronouns, prepositions, conjunctions, auxiliaries."""
CELLS = 4_000_000
"""Cells of alignment tables in memory at once."""
_TOKEN = re.compile(r"[\w'’-]+|[^\w\s]")
_CLOSING = frozenset(".,;:!?)]}%")


_CODES: dict[str, int] = {}
_FIXED: list[bool] = []


def code_of(key: str) -> int:
    """A number for ``key``, the same all through the process: codes are compared and never ordered or written."""
    if key not in _CODES:
        _FIXED.append(not key.isalnum() or key in FUNCTION_WORDS)
        _CODES[key] = len(_CODES)
    return _CODES[key]


ARTICLE = code_of("a")
LEADING = frozenset((ARTICLE, code_of("the")))


def names(code: int) -> bool:
    """Whether a key is a word that may name something: no function word, no sign."""
    return not _FIXED[code]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The words and signs of a text. ``keys``: codes of what they are compared by, without case, "an" as "a"; ``spans``: their characters."""

    text: str
    words: tuple[str, ...]
    keys: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.words)


@lru_cache(maxsize=1 << 17)
def tokens(text: str) -> Tokens:
    """``text`` in tokens."""
    spans = tuple([found.span() for found in _TOKEN.finditer(text)])
    words = tuple([text[a:b] for a, b in spans])
    return Tokens(text, words, tuple([_key(word) for word in words]), spans)


@lru_cache(maxsize=1 << 16)
def _key(word: str) -> int:
    key = word.casefold()
    return ARTICLE if key == "an" else code_of(key)


@lru_cache(maxsize=1 << 17)
def bag(text: str) -> Counter[int]:
    """How often ``text`` has each key."""
    return Counter(tokens(text).keys)


def overlap(a: str, b: str) -> float:
    """2 · shared words / words of both texts, 0…1; 1 for two without words."""
    return 1.0 if a == b else _overlap(a, b) if a < b else _overlap(b, a)


@lru_cache(maxsize=1 << 18)
def _overlap(a: str, b: str) -> float:
    one, other = bag(a), bag(b)
    whole = len(tokens(a)) + len(tokens(b))
    return 2 * sum([min(count, other[key]) for key, count in one.items() if key in other]) / whole if whole else 1.0


def joined(words: Sequence[str]) -> str:
    """Tokens as a text."""
    text, quoted = "", False
    for word in words:
        quoted ^= word == '"'
        close = word in _CLOSING or (word == '"' and not quoted)
        text += word if not text or close or text.endswith(("(", "[")) or (quoted and text.endswith('"')) else f" {word}"
    return text


@dataclass(frozen=True, slots=True)
class Alignment:
    """Two sequences side by side. ``to``: for each item of the first the index of its counterpart in the second, -1 where it has none."""

    to: np.ndarray
    similarity: float


def align(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Alignment]:
    """The cheapest alignment of each pair of sequences of codes. ``similarity``: 1 − cost / cost of having nothing in common, 0…1; 1 for two empty ones.

    The tables of pairs of about one length are filled row by row together.
    """
    sides = [(np.asarray(a, np.int64), np.asarray(b, np.int64)) for a, b in pairs]
    fixed = np.asarray([*_FIXED, False, False])
    order = sorted(range(len(pairs)), key=lambda k: (len(sides[k][0]), len(sides[k][1])))
    result: list[Alignment] = [Alignment(np.zeros(0, np.int64), 1.0)] * len(pairs)
    start = 0
    while start < len(order):
        end, wide = start, 0
        while end < len(order):
            a, b = sides[order[end]]
            wide = max(wide, len(b) + 1)
            if end > start and (end + 1 - start) * (len(a) + 1) * wide > CELLS:
                break
            end += 1
        for index, found in zip(order[start:end], _align([sides[k] for k in order[start:end]], fixed), strict=True):
            result[index] = found
        start = end
    return result


def _align(batch: Sequence[tuple[np.ndarray, np.ndarray]], fixed: np.ndarray) -> list[Alignment]:
    long, wide = (np.asarray([len(pair[side]) for pair in batch]) for side in (0, 1))
    first, second = _padded([pair[0] for pair in batch], -1), _padded([pair[1] for pair in batch], -2)
    swap = np.where(fixed[second], 2 * GAP, SWAP).astype(np.int32)
    steps = GAP * np.arange(second.shape[1] + 1, dtype=np.int32)
    table = np.empty((len(batch), first.shape[1] + 1, second.shape[1] + 1), np.int32)
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
    to = _back(table, first, second, fixed, long, wide)
    cost = table[np.arange(len(batch)), long, wide]
    whole = np.maximum(GAP * (long + wide), 1)
    return [Alignment(to[k, : long[k]], float(1 - cost[k] / whole[k])) for k in range(len(batch))]


def _padded(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    result = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for k, row in enumerate(rows):
        result[k, : len(row)] = row
    return result


def _back(table: np.ndarray, first: np.ndarray, second: np.ndarray, fixed: np.ndarray, long: np.ndarray, wide: np.ndarray) -> np.ndarray:
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
