"""Which language texts are in, all at once. The model is that of py3langid, whose own code reads one text after the other."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from florence.engine.wording.tokens import apply_cached
from florence.errors import SettingsError

MIN_BYTES = 20
"""Bytes (UTF-8) of a text under which its language cannot be told."""
MAX_BYTES = 120
"""Bytes of a text that are looked at."""
UNLIKELY, LIKELY = 0.01, 0.5
"""A text is in another language where the wanted one is less likely than the first, and another more likely than the second."""

_SEEN: dict[str, dict[str, bool]] = {}


@dataclass(frozen=True)
class _Model:
    """An automaton that reads bytes: ``following``: next state by ``row`` of the state and byte; ``feature``: of each state, -1 for none. ``table``: (features, classes) and
    ``prior`` (classes,): log-probabilities; ``names``: of the classes, some twice.
    """

    following: np.ndarray
    row: np.ndarray
    feature: np.ndarray
    table: np.ndarray
    prior: np.ndarray
    names: tuple[str, ...]


@lru_cache(maxsize=1)
def _model() -> _Model:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    row = np.asarray(found.tk_row, np.int64) << 8
    return _Model(
        np.asarray(found.tk_nextmove),
        row,
        np.asarray(found.tk_output),
        found.nb_ptc,
        np.asarray(found.nb_pc, float),
        tuple(found.nb_classes),
    )


def list_languages() -> tuple[str, ...]:
    """The ISO 639 codes of all languages that are told apart, sorted."""
    return tuple(sorted(set(_model().names)))


def flag_other_languages(texts: Sequence[str], wanted: str) -> np.ndarray:
    """(n,) whether each text is in another language than the ``wanted`` one, an ISO 639 code; what is too short or in doubt is not.

    Raises SettingsError for a language that is not told.
    """
    return apply_cached(texts, _SEEN.setdefault(wanted, {}), lambda new: _flag_other_languages(new, wanted))


def _flag_other_languages(texts: Sequence[str], wanted: str) -> np.ndarray:
    long = [
        k for k, text in enumerate(texts) if len(text) >= MIN_BYTES or len(text.encode(errors="replace")) >= MIN_BYTES
    ]
    result = np.zeros(len(texts), bool)
    if long:
        if wanted not in list_languages():
            raise SettingsError(
                f"engine.language: {wanted!r} is not told; known: {', '.join(list_languages())}; null tells none"
            )
        share = estimate_languages([texts[k] for k in long])
        result[long] = (share[:, list_languages().index(wanted)] < UNLIKELY) & (share.max(axis=1) >= LIKELY)
    return result


def estimate_languages(texts: Sequence[str]) -> np.ndarray:
    """(n, languages) how likely each text is in each of `list_languages`, by its first `MAX_BYTES` bytes."""
    from scipy.sparse import csr_array

    model = _model()
    encoded = [
        unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode(errors="replace")[:MAX_BYTES]
        for text in texts
    ]
    owner, feature = _features(encoded, model)
    code, count = np.unique(owner * len(model.table) + feature, return_counts=True)
    known, column = np.unique(code % len(model.table), return_inverse=True)
    seen = csr_array((np.log1p(count), (code // len(model.table), column)), shape=(len(texts), len(known)))
    # what is told by more is told more firmly, but not in proportion
    score = (seen @ model.table[known].astype(float) + model.prior) / np.sqrt(
        np.maximum([len(text) for text in encoded], 1)
    )[:, None]
    score[np.bincount(owner, minlength=len(texts)) == 0] = 0
    share = np.exp(score - score.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    place = {name: k for k, name in enumerate(list_languages())}
    result = np.zeros((len(texts), len(place)))
    for name, column in zip(model.names, share.T, strict=True):
        result[:, place[name]] += column
    return result


def _features(encoded: Sequence[bytes], model: _Model) -> tuple[np.ndarray, np.ndarray]:
    """(f,) which text, and (f,) which feature, for each that the automaton finds; one byte of all texts after the other."""
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
