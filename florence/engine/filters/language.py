"""The language of texts, for all texts at once, by the model of py3langid.

langid.py (Lui and Baldwin 2012) is a multinomial naive Bayes classifier of byte n-grams, found by an automaton. With
n_f the count of n-gram f in the first `MAX_BYTES` bytes of a text of m bytes,

    s_l = (log P(l) + Σ_f log(1 + n_f) · log P(f | l)) / √m,    P(l | text) = exp(s_l) / Σ_k exp(s_k).

The counts are damped and the scores divided by √m as py3langid does: longer texts are more certain, but not in
proportion.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from florence.engine.wording.tokens import apply_cached
from florence.errors import SettingsError

MIN_BYTES = 20
"""Bytes (UTF-8) of a text under which it is not classified."""
MAX_BYTES = 120
"""Bytes of a text that are classified."""
MAX_WANTED_PROBABILITY, MIN_OTHER_PROBABILITY = 0.01, 0.5
"""A text is in another language where the wanted one is less likely than the first, and another at least the second."""

_CACHES: dict[str, dict[str, bool]] = {}


@dataclass(frozen=True)
class _LanguageModel:
    """The automaton and the classifier.

    ``following``: the next state by ``row`` of the state plus byte; ``feature``: (states,) n-gram that a state ends, -1
    for none. ``table``: (features, classes) log P(f | l); ``prior``: (classes,) log P(l); ``names``: of the classes,
    some twice.
    """

    following: np.ndarray
    row: np.ndarray
    feature: np.ndarray
    table: np.ndarray
    prior: np.ndarray
    names: tuple[str, ...]


@lru_cache(maxsize=1)
def _load_model() -> _LanguageModel:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    row = np.asarray(found.tk_row, np.int64) << 8
    return _LanguageModel(
        np.asarray(found.tk_nextmove),
        row,
        np.asarray(found.tk_output),
        found.nb_ptc,
        np.asarray(found.nb_pc, float),
        tuple(found.nb_classes),
    )


def list_languages() -> tuple[str, ...]:
    """Return the ISO 639 codes of all languages that the model knows, sorted."""
    return tuple(sorted(set(_load_model().names)))


def flag_other_languages(texts: Sequence[str], wanted: str) -> np.ndarray:
    """Return (n,) whether each text is in another language than ``wanted``, an ISO 639 code.

    A text that is too short or in doubt is not. Raises SettingsError for a language that the model does not know.
    """
    return apply_cached(texts, _CACHES.setdefault(wanted, {}), lambda new: _flag_other_languages(new, wanted))


def _flag_other_languages(texts: Sequence[str], wanted: str) -> np.ndarray:
    long = [
        k for k, text in enumerate(texts) if len(text) >= MIN_BYTES or len(text.encode(errors="replace")) >= MIN_BYTES
    ]
    result = np.zeros(len(texts), bool)
    if long:
        if wanted not in list_languages():
            raise SettingsError(
                f"engine.language: {wanted!r} is not a known language; known: {', '.join(list_languages())}; "
                "null checks none"
            )
        share = estimate_languages([texts[k] for k in long])
        result[long] = (share[:, list_languages().index(wanted)] < MAX_WANTED_PROBABILITY) & (
            share.max(axis=1) >= MIN_OTHER_PROBABILITY
        )
    return result


def estimate_languages(texts: Sequence[str]) -> np.ndarray:
    """Return (n, languages) the probability of each language of `list_languages` for each text; rows sum to 1."""
    from scipy.sparse import csr_array

    model = _load_model()
    # capitals alone are read in lower case
    encoded = [
        unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode(errors="replace")[:MAX_BYTES]
        for text in texts
    ]
    owner, feature = _match_ngrams(encoded, model)
    code, count = np.unique(owner * len(model.table) + feature, return_counts=True)
    known, column = np.unique(code % len(model.table), return_inverse=True)
    counts = csr_array((np.log1p(count), (code // len(model.table), column)), shape=(len(texts), len(known)))
    score = (counts @ model.table[known].astype(float) + model.prior) / np.sqrt(
        np.maximum([len(text) for text in encoded], 1)
    )[:, None]
    score[np.bincount(owner, minlength=len(texts)) == 0] = 0
    share = np.exp(score - score.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    column_of = {name: k for k, name in enumerate(list_languages())}
    result = np.zeros((len(texts), len(column_of)))
    for name, column in zip(model.names, share.T, strict=True):
        result[:, column_of[name]] += column
    return result


def _match_ngrams(encoded: Sequence[bytes], model: _LanguageModel) -> tuple[np.ndarray, np.ndarray]:
    """Return (f,) the text and (f,) the n-gram of each match; the automaton reads byte k of all texts at once."""
    length = np.asarray([len(text) for text in encoded], np.int64)
    order = np.argsort(-length, kind="stable")
    begin = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)[:-1]])[order]
    data, state = np.frombuffer(b"".join(encoded), np.uint8), np.zeros(len(encoded), np.int64)
    owners, features = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for at in range(int(length.max(initial=0))):
        there = int((length > at).sum())
        state = model.following[model.row[state[:there]] + data[begin[:there] + at]].astype(np.int64)
        found = model.feature[state]
        owners.append(order[:there][found >= 0])
        features.append(found[found >= 0])
    return np.concatenate(owners), np.concatenate(features)
