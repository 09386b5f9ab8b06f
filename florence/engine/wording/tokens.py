"""Texts as tokens: words and punctuation marks, each with an integer code by which tokens are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
import pyarrow as pa

from florence.engine.wording.sequences import CodeSequences, compute_offsets

FUNCTION_WORDS = frozenset(
    (
        "a about above across after against all along also among and another any are around as at away be been before "
        "behind being below beneath beside between both but by can could did do does down during each either every few "
        "for from had has have having he her here hers him his how i if in inside into is it its itself just many me "
        "more most much my near next no nor not of off on one onto or other our out outside over overall own past she "
        "should so some such than that the their them themselves then there these they this those through to toward "
        "towards two three four five six under until up upon us very via was we were what when where which while who "
        "whom whose why will with within without would you your"
    ).split()
)
"""Words that name nothing: English determiners, pronouns, prepositions, conjunctions, auxiliaries."""
CACHE_SIZE = 1 << 17
"""Texts of which a result is kept in memory."""
_TOKEN, _IN_WORD = re.compile(r"[\w'’-]+|[^\w\s]"), re.compile(r"[\w'’-]")
_CLOSING = frozenset(".,;:!?)]}%")

# ---------------------------------------------------------------- codes of tokens

_CODES: dict[str, int] = {}
_KEYS: list[str] = []
_IS_FUNCTION_WORD: list[bool] = []
_LOCK = Lock()


def encode_key(key: str) -> int:
    """Return the code of ``key``, the same all through the process: codes are compared, never ordered or written."""
    if key not in _CODES:
        with _LOCK:
            if key not in _CODES:
                _IS_FUNCTION_WORD.append(not key.isalnum() or key in FUNCTION_WORDS)
                _KEYS.append(key)
                _CODES[key] = len(_CODES)
    return _CODES[key]


def decode_keys(codes: np.ndarray) -> tuple[str, ...]:
    """Return the keys of ``codes`` (n,)."""
    return tuple([_KEYS[code] for code in codes.tolist()])


ARTICLE = encode_key("a")
ARTICLES = frozenset((ARTICLE, encode_key("the")))


def is_content_word(code: int) -> bool:
    """Return whether a token may name something: it is no function word and no punctuation mark."""
    return not _IS_FUNCTION_WORD[code]


def function_word_mask() -> np.ndarray:
    """Return (codes + 2,) whether each code is a function word or mark; the last two are for the fillers -2 and -1."""
    return np.asarray([*_IS_FUNCTION_WORD, False, False])


# ---------------------------------------------------------------- one text


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text. ``keys``: codes of their case-folded form, "an" as "a"; ``spans``: their characters."""

    text: str
    words: tuple[str, ...]
    keys: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.words)


@lru_cache(maxsize=1 << 17)
def tokenize(text: str) -> Tokens:
    """Return ``text`` in tokens."""
    spans = tuple([found.span() for found in _TOKEN.finditer(text)])
    words = tuple([text[a:b] for a, b in spans])
    return Tokens(text, words, tuple([_encode_word(word) for word in words]), spans)


_WORDS: dict[str, int] = {}


def _encode_word(word: str) -> int:
    if word not in _WORDS:
        key = word.casefold()
        _WORDS[word] = ARTICLE if key == "an" else encode_key(key)
    return _WORDS[word]


def join_tokens(words: Sequence[str]) -> str:
    """Return tokens as a text, with the spaces of English punctuation."""
    text, quoted = "", False
    for word in words:
        quoted ^= word == '"'
        close = word in _CLOSING or (word == '"' and not quoted)
        text += (
            word if not text or close or text.endswith(("(", "[")) or (quoted and text.endswith('"')) else f" {word}"
        )
    return text


def apply_cached(
    texts: Sequence[str], cache: dict[str, bool], predicate: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """Return (n,) the ``predicate`` of each text, which is called once a text while ``cache`` is not too large."""
    if len(cache) > CACHE_SIZE:
        cache.clear()
    before = {text: cache.get(text) for text in texts}
    new = [text for text, value in before.items() if value is None]
    found = dict(zip(new, predicate(new).tolist(), strict=True))
    cache.update(found)
    return np.asarray([found.get(text, before[text]) for text in texts], bool)


# ---------------------------------------------------------------- many texts


@dataclass(frozen=True)
class TokenizedTexts(CodeSequences):
    """n texts in tokens. ``text``: n strings; ``keys``: codes as in `Tokens`; ``spans``: (t, 2) characters."""

    text: tuple[str, ...]
    spans: np.ndarray

    @property
    def word_count(self) -> np.ndarray:
        """(n,) words between spaces."""
        begins = np.concatenate([self.spans[:1, 0] >= 0, self.spans[1:, 0] != self.spans[:-1, 1]])
        begins[self.offsets[:-1][self.lengths > 0]] = True
        return np.bincount(np.repeat(np.arange(len(self)), self.lengths), begins, minlength=len(self)).astype(np.int64)

    def __add__(self, other: TokenizedTexts) -> TokenizedTexts:
        offsets = np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return TokenizedTexts(
            np.concatenate([self.keys, other.keys]),
            offsets,
            self.text + other.text,
            np.concatenate([self.spans, other.spans]),
        )

    def select_texts(self, rows: np.ndarray) -> TokenizedTexts:
        """Return the texts ``rows``, in that order."""
        at = self.positions(rows)
        text = tuple([self.text[k] for k in rows.tolist()])
        return TokenizedTexts(self.keys[at], compute_offsets(self.lengths[rows]), text, self.spans[at])


def tokenize_texts(texts: Sequence[str]) -> TokenizedTexts:
    """Return texts in tokens, all at once; each has the tokens that `tokenize` finds.

    The texts become one row of characters, out of which runs of word characters and single marks are cut. A line break
    separates texts: no token contains one.
    """
    points = np.frombuffer("\n".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    kind = _classify_characters(points)
    word, mark = np.concatenate([[False], kind == _WORD, [False]]), kind == _MARK
    begins, ends = mark | (word[1:-1] & ~word[:-2]), mark | (word[1:-1] & ~word[2:])
    spans = np.stack([np.flatnonzero(begins), np.flatnonzero(ends) + 1], axis=1)
    visible = points[kind != _SPACE]
    bytes_before = compute_offsets(1 + (visible > 0x7F) + (visible > 0x7FF) + (visible > 0xFFFF).astype(np.int64))
    byte_ends = bytes_before[compute_offsets(spans[:, 1] - spans[:, 0])].astype(np.int32)
    data = visible.tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogatepass")
    found = pa.Array.from_buffers(
        pa.binary(), len(spans), [None, pa.py_buffer(byte_ends), pa.py_buffer(data)]
    ).dictionary_encode()
    words = [one.decode("utf-8", "surrogatepass") for one in found.dictionary.to_pylist()]
    codes = np.asarray([_encode_word(word) for word in words], np.int64)
    text_start = compute_offsets(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    owner = np.searchsorted(text_start, spans[:, 0], side="right") - 1
    return TokenizedTexts(
        codes[found.indices.to_numpy()],
        compute_offsets(np.bincount(owner, minlength=len(texts))),
        tuple(texts),
        spans - text_start[owner, None],
    )


_SPACE, _WORD, _MARK = 0, 1, 2


def _classify_characters(points: np.ndarray) -> np.ndarray:
    """Return (c,) `_WORD`, `_MARK` or `_SPACE` for each code point (c,), by what of `_TOKEN` it is part of."""
    result = _ASCII_CLASSES[np.minimum(points, 127)]
    other = np.flatnonzero(points > 127)
    known, row = np.unique(points[other], return_inverse=True)
    result[other] = np.asarray([_classify(chr(point)) for point in known.tolist()], np.int8)[row]
    return result


def _classify(character: str) -> int:
    return _SPACE if _TOKEN.match(character) is None else _WORD if _IN_WORD.match(character) else _MARK


_ASCII_CLASSES = np.asarray([_classify(chr(point)) for point in range(128)], np.int8)
