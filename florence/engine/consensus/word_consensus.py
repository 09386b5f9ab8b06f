"""Word consensus: several versions of a text composed into one, word by word; and OCR texts, character by character.

1. The typical version t of a text shares most words with the others, by weight: argmax_i Σ_j w_j overlap(i, j).
2. Versions whose overlap with t is below `engine.min_caption_overlap` are other texts and do not vote.
3. With three versions or more, the rest and t are aligned into a network of slots (`word_network`). A slot is a
word of
   the text if P(right) ≥ 1/2 for any of its tokens; the most likely token is taken.
4. If a version consists of just these tokens, the heaviest such version is taken as it is; else a text is written
of
   the tokens, with articles and capitals that fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.word_network import (
    VersionTable,
    WordNetwork,
    WordVoters,
    build_word_network,
    infer_words,
    sum_in_order,
)
from florence.engine.wording.alignment import align_sequences
from florence.engine.wording.overlap import word_overlaps
from florence.engine.wording.sequences import CodeSequences, compute_offsets
from florence.engine.wording.tokens import ARTICLE, TokenizedTexts, encode_key, join_tokens, tokenize_texts
from florence.english import choose_article

_SENTENCE_ENDS = frozenset(".!?")


# ---------------------------------------------------------------- versions of one text


@dataclass(frozen=True)
class TextVersions:
    """m versions of n texts. ``item``: (m,), the text that each is a version of, 0…n − 1 in order, each at least once;
    ``annotator``, ``weight``: (m,); ``row``: (m,), row of ``texts``.
    """

    texts: TokenizedTexts
    item: np.ndarray
    annotator: np.ndarray
    row: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    @property
    def offsets(self) -> np.ndarray:
        """(n + 1,) where the versions of each text begin."""
        return compute_offsets(np.bincount(self.item))


@dataclass(frozen=True)
class ComposedTexts:
    """n texts composed of m versions. ``row``: (n,), row of ``texts``; ``position``: for each token of each version,
    one version after the other, its index in the composed text, -1 for none; ``similarity``: (m,), of version and
    composed text; ``models``: the annotator models of words, None where no text was composed word by word.
    """

    texts: TokenizedTexts
    row: np.ndarray
    position: np.ndarray
    similarity: np.ndarray
    models: AnnotatorModels | None


@dataclass(frozen=True)
class VersionOverlaps:
    """The word overlap ``value`` (p,) of every two versions ``a``, ``b`` (p,) of one text, in order; a = b included."""

    a: np.ndarray
    b: np.ndarray
    value: np.ndarray


def measure_overlaps(versions: TextVersions) -> VersionOverlaps:
    """Return the word overlap of every two versions of each text."""
    offsets, size = versions.offsets, np.bincount(versions.item)[versions.item]
    a = np.repeat(np.arange(len(versions)), size)
    b = np.arange(len(a)) - np.repeat(compute_offsets(size)[:-1] - offsets[versions.item], size)
    return VersionOverlaps(a, b, word_overlaps(versions.texts, versions.row[a], versions.row[b]))


def compose_texts(
    versions: TextVersions,
    min_overlap: float,
    overlaps: VersionOverlaps | None = None,
    voters: WordVoters | None = None,
) -> ComposedTexts:
    """Compose one text of the versions of each item.

    A version without weight does not vote, and is aligned all the same. With fewer than three versions that overlap by
    ``min_overlap`` the typical one is taken as it is. ``overlaps``: where they are known already.
    """
    overlaps = overlaps or measure_overlaps(versions)
    voters = voters or WordVoters(int(versions.annotator.max(initial=-1)) + 1)
    columns = _order_versions(versions, _choose_typical(versions, overlaps), overlaps, min_overlap)
    texts, row, models = versions.texts, versions.row[columns[:, 0]], voters.models
    several = np.flatnonzero(columns[:, 2] >= 0) if columns.shape[1] > 2 else np.zeros(0, np.int64)
    if len(several):
        found, written, models = _compose_by_words(_tabulate(versions, columns[several]), voters)
        new = found < 0
        found[new] = len(texts) + np.arange(len(written))
        row[several], texts = found, texts + tokenize_texts(written)
    a, b = texts.select(versions.row), texts.select(row[versions.item])
    target, similarity = align_sequences(a, b)
    position = restrict_alignment(a, b, target, similarity, min_overlap)
    return ComposedTexts(texts, row, position, similarity, models)


def _choose_typical(versions: TextVersions, overlaps: VersionOverlaps) -> np.ndarray:
    """Return (n,) the version with the largest weighted overlap; of equals the heaviest, then longest, then first."""
    weight = versions.weight
    voting = np.where(weight > 0, weight, 0.0)
    shared = np.bincount(overlaps.a, voting[overlaps.b] * overlaps.value, minlength=len(versions))
    ranks = (
        -versions.texts.lengths[versions.row],
        -np.round(weight, 9),
        -np.round(shared, 9),
        weight <= 0,
        versions.item,
    )
    return np.lexsort(ranks)[versions.offsets[:-1]]


def _order_versions(
    versions: TextVersions, typical: np.ndarray, overlaps: VersionOverlaps, min_overlap: float
) -> np.ndarray:
    """Return (n, k) the typical version of each text, then those that overlap it, in their order, then -1."""
    leads = np.zeros(len(versions), bool)
    leads[typical] = True
    other = leads[overlaps.a] & ~leads[overlaps.b] & (versions.weight[overlaps.b] > 0) & (overlaps.value >= min_overlap)
    item, version = versions.item[overlaps.a[other]], overlaps.b[other]
    count = np.bincount(item, minlength=len(typical))
    result = np.full((len(typical), 1 + int(count.max(initial=0))), -1, np.int64)
    result[:, 0] = typical
    result[item, 1 + np.arange(len(item)) - compute_offsets(count)[item]] = version
    return result


def _tabulate(versions: TextVersions, columns: np.ndarray) -> VersionTable:
    """Return the versions ``columns`` (n, k) as a table."""
    present = columns >= 0
    return VersionTable(
        versions.texts,
        np.where(present, versions.row[columns], -1),
        np.where(present, versions.annotator[columns], -1),
        np.where(present, versions.weight[columns], 0.0),
    )


def restrict_alignment(
    a: CodeSequences, b: CodeSequences, target: np.ndarray, similarity: np.ndarray, min_similarity: float
) -> np.ndarray:
    """Return the alignment ``target`` of ``a`` with ``b``, without substitutions in pairs below ``min_similarity``."""
    owner = np.repeat(np.arange(len(a)), a.lengths)
    at = np.flatnonzero((target >= 0) & (similarity < min_similarity)[owner])
    result = target.copy()
    result[at[a.keys[at] != b.keys[b.offsets[owner[at]] + target[at]]]] = -1
    return result


# ---------------------------------------------------------------- word by word


def _compose_by_words(
    versions: VersionTable, voters: WordVoters
) -> tuple[np.ndarray, list[str], AnnotatorModels | None]:
    """Return (n,) the row of each composed text, -1 for a new one; the new ones in order; the annotator models."""
    texts, row = versions.texts, versions.row
    number = _number_texts(texts)
    differ = ((row >= 0) & (number[row] != number[row[:, :1]])).any(axis=1)
    result = row[:, 0].copy()
    if not differ.any():
        return result, [], voters.models
    network = build_word_network(texts, row[differ])
    probability, models = infer_words(network, versions, differ, voters)
    keep, row, weight = probability.max(axis=1) >= 0.5, row[differ], versions.weight[differ]
    network = WordNetwork(network.text[keep], network.token[keep], network.keys[keep])
    chosen = network.keys[np.arange(len(network.keys)), probability[keep].argmax(axis=1)]
    final = CodeSequences(chosen, compute_offsets(np.bincount(network.text, minlength=len(weight))))
    result[differ] = _find_verbatim(final, texts, row, weight)
    # of the versions with the chosen word, the last one's spelling
    same = network.present & (network.keys == chosen[:, None])
    column = same.shape[1] - 1 - same[:, ::-1].argmax(axis=1)
    source = row[network.text, column].tolist()
    token = network.token[np.arange(len(column)), column].tolist()
    new = np.flatnonzero(result[differ] < 0)
    upper = np.asarray([text[:1].isupper() for text in texts.text])[row[new]]
    capital = 2 * sum_in_order(weight[new] * upper) > sum_in_order(weight[new])
    begin, end = final.offsets[new].tolist(), final.offsets[new + 1].tolist()
    written = [
        _write_text(texts, source[a:b], token[a:b], is_capital)
        for a, b, is_capital in zip(begin, end, capital.tolist(), strict=True)
    ]
    return result, written, models


def _number_texts(texts: TokenizedTexts) -> np.ndarray:
    """Return (n + 1,) a number for each text, the same for equal keys; the last, -1, is for no text."""
    known: dict[bytes, int] = {}
    whole, first = texts.keys.tobytes(), (texts.offsets * texts.keys.itemsize).tolist()
    return np.asarray(
        [*(known.setdefault(whole[a:b], len(known)) for a, b in zip(first[:-1], first[1:], strict=True)), -1], np.int64
    )


def _find_verbatim(final: CodeSequences, texts: TokenizedTexts, row: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return (n,) the heaviest of the rows (n, k) with the keys of ``final``, of equals the first; -1 for none."""
    equal = np.zeros(row.shape, bool)
    for k in range(row.shape[1]):
        some = np.flatnonzero((row[:, k] >= 0) & (texts.lengths[row[:, k]] == final.lengths))
        differ = texts.keys[texts.positions(row[some, k])] != final.keys[final.positions(some)]
        count = np.bincount(np.repeat(np.arange(len(some)), final.lengths[some]), differ, minlength=len(some))
        equal[some, k] = count == 0
    best = np.where(equal, weight, -1.0).argmax(axis=1)
    return np.where(equal.any(axis=1), row[np.arange(len(row)), best], -1)


def _write_text(texts: TokenizedTexts, source: Sequence[int], token: Sequence[int], is_capital: bool) -> str:
    """Return a text of tokens, each of its row ``source``; ``is_capital``: whether sentences begin with a capital."""
    words: list[str] = []
    for number, (row, at) in enumerate(zip(source, token, strict=True)):
        begins = not words or words[-1] in _SENTENCE_ENDS
        following = (source[number + 1], token[number + 1]) if number + 1 < len(source) else None
        word = _write_word(texts, row, at, following)
        words.append(word[:1].upper() + word[1:] if begins and is_capital else word)
    return join_tokens(words)


def _write_word(texts: TokenizedTexts, row: int, at: int, following: tuple[int, int] | None) -> str:
    """Return a token as its text spells it, with the fitting article and without the capital of a sentence's start."""
    word, keys = _token_text(texts, row, at), texts.keys
    last = at + 1 == texts.offsets[row + 1]
    if keys[at] == ARTICLE and following is not None and (last or keys[following[1]] != keys[at + 1]):
        fitting = choose_article(_token_text(texts, *following))
        word = fitting.capitalize() if word[0].isupper() else fitting
    first = at == texts.offsets[row] or _token_text(texts, row, at - 1) in _SENTENCE_ENDS
    return word[:1].lower() + word[1:] if first and (word[1:].islower() or len(word) == 1) else word


def _token_text(texts: TokenizedTexts, row: int, at: int) -> str:
    start, end = texts.spans[at]
    return texts.text[row][start:end]


# ---------------------------------------------------------------- character by character


def compose_by_characters(items: Sequence[Sequence[tuple[str, float]]]) -> list[str]:
    """Return one string for the versions of each item (strings with weights, the best first).

    A character stays if the versions that have one there hold more than half of the weight; the one with most weight is
    taken. With fewer than three versions the first is taken as it is.
    """
    result = [item[0][0] for item in items]
    several = [k for k, item in enumerate(items) if len(item) > 2 and any(text != item[0][0] for text, _ in item)]
    if not several:
        return result
    strings = [text for k in several for text, _ in items[k]]
    count = np.asarray([len(items[k]) for k in several])
    present = np.arange(count.max()) < count[:, None]
    versions, weight = np.full(present.shape, -1, np.int64), np.zeros(present.shape)
    versions[present], weight[present] = np.arange(len(strings)), [w for k in several for _, w in items[k]]
    characters = "".join(strings)
    codes = np.asarray([encode_key(c) for c in characters], np.int64)
    network = build_word_network(
        CodeSequences(codes, compute_offsets(np.asarray([len(text) for text in strings]))), versions
    )
    mass = weight[network.text]
    keep = 2 * sum_in_order(mass * network.present) > sum_in_order(mass)
    token = network.token[np.arange(len(network.token)), network.heaviest_version(mass)]
    composed: dict[int, list[str]] = {k: [] for k in several}
    for item, at in zip(network.text[keep].tolist(), token[keep].tolist(), strict=True):
        composed[several[item]].append(characters[at])
    for k, found in composed.items():
        result[k] = "".join(found)
    return result
