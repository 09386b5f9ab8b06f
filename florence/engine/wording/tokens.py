"""Texts as tokens, and how many words they share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
import pyarrow as pa

FUNCTION_WORDS = frozenset(
    "a about above across after against all along also among and another any are around as at away be been before behind being below beneath beside "
    "between both but by can could did do does down during each either every few for from had has have having he her here hers him his how i if in inside "
    "into is it its itself just many me more most much my near next no nor not of off on one onto or other our out outside over overall own past she should "
    "so some such than that the their them themselves then there these they this those through to toward towards two three four "
    "five six under until up upon us very via was we were what when where which while who whom whose why will with within without would you your".split()
)
"""Words that name nothing: English determiners, pronouns, prepositions, conjunctions, auxiliaries."""
_TOKEN, _IN_WORD = re.compile(r"[\w'’-]+|[^\w\s]"), re.compile(r"[\w'’-]")
REMEMBERED = 1 << 17
"""Texts of which it is remembered what was found of them."""
_CLOSING = frozenset(".,;:!?)]}%")


_CODES: dict[str, int] = {}
_KEYS: list[str] = []
_FIXED: list[bool] = []
_NEW = Lock()


def code_of(key: str) -> int:
    """A number for ``key``, the same all through the process: codes are compared and never ordered or written."""
    if key not in _CODES:
        with _NEW:
            if key not in _CODES:
                _FIXED.append(not key.isalnum() or key in FUNCTION_WORDS)
                _KEYS.append(key)
                _CODES[key] = len(_CODES)
    return _CODES[key]


def spelled(codes: np.ndarray) -> tuple[str, ...]:
    """The keys of some codes."""
    return tuple([_KEYS[code] for code in codes.tolist()])


ARTICLE = code_of("a")
LEADING = frozenset((ARTICLE, code_of("the")))


def names(code: int) -> bool:
    """Whether a key is a word that may name something: no function word, no sign."""
    return not _FIXED[code]


def fixed() -> np.ndarray:
    """Of each code whether it is a function word or a sign; two more for -1 and -2, which stand for nothing."""
    return np.asarray([*_FIXED, False, False])


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


_WORDS: dict[str, int] = {}


def _key(word: str) -> int:
    if word not in _WORDS:
        key = word.casefold()
        _WORDS[word] = ARTICLE if key == "an" else code_of(key)
    return _WORDS[word]


def remembered(texts: Sequence[str], known: dict[str, bool], judge: Callable[[list[str]], np.ndarray]) -> np.ndarray:
    """(n,) what ``judge`` says of each text, which it looks at once, as long as there are not too many to keep in mind."""
    if len(known) > REMEMBERED:
        known.clear()
    before = {text: known.get(text) for text in texts}
    new = [text for text, says in before.items() if says is None]
    found = dict(zip(new, judge(new).tolist(), strict=True))
    known.update(found)
    return np.asarray([found.get(text, before[text]) for text in texts], bool)


@dataclass(frozen=True)
class Sequences:
    """n sequences of codes, one after the other. ``keys``: (t,); ``first``: (n + 1,), where each begins in them, and the end."""

    keys: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(n,)"""
        return np.diff(self.first)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Where in ``keys`` the items of some of the sequences are, one sequence after the other."""
        return spread(self.first[rows], self.lengths[rows])

    def chosen(self, rows: np.ndarray) -> Sequences:
        """Some of the sequences, in this order."""
        return Sequences(self.keys[self.at(rows)], starts(self.lengths[rows]))

    def parts(self, rows: np.ndarray, span: np.ndarray) -> Sequences:
        """Of some of the sequences the items from the first up to the second of ``span`` (n, 2)."""
        length = span[:, 1] - span[:, 0]
        return Sequences(self.keys[spread(self.first[rows] + span[:, 0], length)], starts(length))


def spread(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """start, start + 1, … of ``length`` (n,) numbers each, one after the other."""
    return np.repeat(start - starts(length)[:-1], length) + np.arange(int(length.sum()))


def starts(length: np.ndarray) -> np.ndarray:
    """(n + 1,) where things of such lengths begin, one after the other, and the end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(length, dtype=np.int64)])


@dataclass(frozen=True)
class Lines(Sequences):
    """n texts in tokens, as sequences of keys. ``text``: as they are written; ``spans``: (t, 2), the characters of each token."""

    text: tuple[str, ...]
    spans: np.ndarray

    @property
    def words(self) -> np.ndarray:
        """(n,) how many there are between spaces."""
        begins = np.concatenate([self.spans[:1, 0] >= 0, self.spans[1:, 0] != self.spans[:-1, 1]])
        begins[self.first[:-1][self.lengths > 0]] = True
        return np.bincount(np.repeat(np.arange(len(self)), self.lengths), begins, minlength=len(self)).astype(np.int64)

    def __add__(self, other: Lines) -> Lines:
        first = np.concatenate([self.first, other.first[1:] + self.first[-1]])
        return Lines(
            np.concatenate([self.keys, other.keys]),
            first,
            self.text + other.text,
            np.concatenate([self.spans, other.spans]),
        )

    def some(self, rows: np.ndarray) -> Lines:
        """Some of the texts."""
        at = self.at(rows)
        return Lines(
            self.keys[at], starts(self.lengths[rows]), tuple([self.text[k] for k in rows.tolist()]), self.spans[at]
        )


def lines(texts: Sequence[str]) -> Lines:
    """Texts in tokens, all at once: as one row of characters, of which runs that make a word, and signs, are cut out. No token has a line's end in it."""
    points = np.frombuffer("\n".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    sort = _sorts(points)
    word, sign = np.concatenate([[False], sort == _WORD, [False]]), sort == _SIGN
    spans = np.stack(
        [np.flatnonzero(sign | (word[1:-1] & ~word[:-2])), np.flatnonzero(sign | (word[1:-1] & ~word[2:])) + 1], axis=1
    )
    said = points[sort != _SPACE]
    bytes_before = starts(1 + (said > 0x7F) + (said > 0x7FF) + (said > 0xFFFF).astype(np.int64))
    ends = bytes_before[starts(spans[:, 1] - spans[:, 0])].astype(np.int32)
    data = said.tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogatepass")
    found = pa.Array.from_buffers(
        pa.binary(), len(spans), [None, pa.py_buffer(ends), pa.py_buffer(data)]
    ).dictionary_encode()
    known = np.asarray([_key(one.decode("utf-8", "surrogatepass")) for one in found.dictionary.to_pylist()], np.int64)
    begin = starts(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    owner = np.searchsorted(begin, spans[:, 0], side="right") - 1
    return Lines(
        known[found.indices.to_numpy()],
        starts(np.bincount(owner, minlength=len(texts))),
        tuple(texts),
        spans - begin[owner, None],
    )


_SPACE, _WORD, _SIGN = 0, 1, 2


def _sorts(points: np.ndarray) -> np.ndarray:
    """What each character is part of, `_WORD` or `_SIGN`, by `_TOKEN`; `_SPACE` for neither."""
    plain = _PLAIN[np.minimum(points, 127)]
    strange = np.flatnonzero(points > 127)
    known, place = np.unique(points[strange], return_inverse=True)
    plain[strange] = np.asarray([_sort(chr(point)) for point in known.tolist()], np.int8)[place]
    return plain


def _sort(character: str) -> int:
    return _SPACE if _TOKEN.match(character) is None else _WORD if _IN_WORD.match(character) else _SIGN


_PLAIN = np.asarray([_sort(chr(point)) for point in range(128)], np.int8)


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


def overlaps(texts: Lines, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The `overlap` (n,) of pairs of texts, rows ``a`` (n,) and ``b`` (n,)."""
    from scipy.sparse import csr_array

    if not len(a):
        return np.zeros(0)
    code, place = np.unique(np.minimum(a, b) * len(texts) + np.maximum(a, b), return_inverse=True)
    pairs = np.stack([code // len(texts), code % len(texts)])
    known, column = np.unique(texts.keys, return_inverse=True)
    counts = csr_array((np.ones(len(column), np.int64), column, texts.first), shape=(len(texts), len(known)), copy=True)
    counts.sum_duplicates()
    shared = np.asarray(counts[pairs[0]].minimum(counts[pairs[1]]).sum(axis=1)).reshape(-1)
    whole = texts.lengths[pairs].sum(axis=0)
    return np.where(whole > 0, 2 * shared / np.maximum(whole, 1), 1.0)[place]


def joined(words: Sequence[str]) -> str:
    """Tokens as a text."""
    text, quoted = "", False
    for word in words:
        quoted ^= word == '"'
        close = word in _CLOSING or (word == '"' and not quoted)
        text += (
            word if not text or close or text.endswith(("(", "[")) or (quoted and text.endswith('"')) else f" {word}"
        )
    return text
