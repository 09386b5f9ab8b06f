"""Better texts out of several: versions of one text made into one, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.word_network import Network, in_order, likely, network
from florence.engine.wording.alignment import align_sequences
from florence.engine.wording.overlap import word_overlaps
from florence.engine.wording.sequences import CodeSequences, compute_offsets
from florence.engine.wording.tokens import ARTICLE, TokenizedTexts, encode_key, join_tokens, tokenize_texts
from florence.english import choose_article

_STOPS = frozenset(".!?")


# ---------------------------------------------------------------- versions of one text


@dataclass(frozen=True)
class Versions:
    """m versions of k texts. ``item``: (m,) the text that each is a version of, 0…k − 1 in order, none left out; ``annotator``: (m,); ``line``: (m,), row of
    ``lines``; ``weight``: (m,), of its annotator's word.
    """

    lines: TokenizedTexts
    item: np.ndarray
    annotator: np.ndarray
    line: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    @property
    def first(self) -> np.ndarray:
        """(k + 1,) where the versions of each text begin."""
        return compute_offsets(np.bincount(self.item))


@dataclass(frozen=True)
class Composed:
    """k texts made of m versions. ``line``: (k,), row of ``lines``; ``to``: where the tokens of each version stand in its text, -1 for nowhere, one version
    after the other; ``similarity``: (m,), how alike they are; ``trust``: how far each annotator's words are to be trusted, None where it was of no account.
    """

    lines: TokenizedTexts
    line: np.ndarray
    to: np.ndarray
    similarity: np.ndarray
    trust: AnnotatorModels | None


@dataclass(frozen=True)
class Likeness:
    """The `overlap` of every two versions of one text: (p,) version ``a``, ``b`` and ``value``, by a and then b; each with itself too."""

    a: np.ndarray
    b: np.ndarray
    value: np.ndarray


def likeness(versions: Versions) -> Likeness:
    """How alike the versions of each text are."""
    first, size = versions.first, np.bincount(versions.item)[versions.item]
    a = np.repeat(np.arange(len(versions)), size)
    b = np.arange(len(a)) - np.repeat(compute_offsets(size)[:-1] - first[versions.item], size)
    return Likeness(a, b, word_overlaps(versions.lines, versions.line[a], versions.line[b]))


def compose(
    versions: Versions,
    alike: float,
    near: Likeness | None = None,
    capped: int | None = None,
    cap: float = 1.0,
    annotators: int | None = None,
    known: AnnotatorModels | None = None,
) -> Composed:
    """One text of the versions of each. A version without weight has no vote, and is placed all the same. ``near``: where it is known already; ``capped``, ``cap``: an
    annotator whose word counts for so much of all evidence at most; ``annotators``: how many there are, as many as have a version where None; ``known``: what other texts told of them.

    Versions that share less than ``alike`` of their words with the most typical one (see `overlap`) are no versions of it and have no
    vote. With fewer than three left the most typical text stands as it is.
    """
    near = near or likeness(versions)
    turns = _turns(versions, _typical(versions, near), near, alike)
    texts, line, trust = versions.lines, versions.line[turns[:, 0]], known
    several = np.flatnonzero(turns[:, 2] >= 0) if turns.shape[1] > 2 else np.zeros(0, np.int64)
    if len(several):
        annotators = int(versions.annotator.max()) + 1 if annotators is None else annotators
        found, written, trust = _written(versions, turns[several], capped, cap, annotators, known)
        made = found < 0
        found[made] = len(texts) + np.arange(len(written))
        line[several], texts = found, texts + tokenize_texts(written)
    a, b = texts.select(versions.line), texts.select(line[versions.item])
    to, similarity = align_sequences(a, b)
    return Composed(texts, line, placed(a, b, to, similarity, alike), similarity, trust)


def _typical(versions: Versions, near: Likeness) -> np.ndarray:
    """(k,) the version whose words the others share most, by weight; of equals the heaviest, then the longest, then the first."""
    weight = versions.weight
    heard = np.where(weight > 0, weight, 0.0)
    shared = np.bincount(near.a, heard[near.b] * near.value, minlength=len(versions))
    ranks = (
        -versions.lines.lengths[versions.line],
        -np.round(weight, 9),
        -np.round(shared, 9),
        weight <= 0,
        versions.item,
    )
    return np.lexsort(ranks)[versions.first[:-1]]


def _turns(versions: Versions, typical: np.ndarray, near: Likeness, alike: float) -> np.ndarray:
    """(k, n) the typical version of each text, then those that are like it in their order, then -1."""
    leads = np.zeros(len(versions), bool)
    leads[typical] = True
    other = leads[near.a] & ~leads[near.b] & (versions.weight[near.b] > 0) & (near.value >= alike)
    item, version = versions.item[near.a[other]], near.b[other]
    count = np.bincount(item, minlength=len(typical))
    result = np.full((len(typical), 1 + int(count.max(initial=0))), -1, np.int64)
    result[:, 0] = typical
    result[item, 1 + np.arange(len(item)) - compute_offsets(count)[item]] = version
    return result


def placed(a: CodeSequences, b: CodeSequences, to: np.ndarray, similarity: np.ndarray, alike: float) -> np.ndarray:
    """The alignment ``to`` of each of ``a`` with its partner in ``b``, in which words stand for other words only where the texts are ``alike``."""
    owner = np.repeat(np.arange(len(a)), a.lengths)
    at = np.flatnonzero((to >= 0) & (similarity < alike)[owner])
    result = to.copy()
    result[at[a.keys[at] != b.keys[b.offsets[owner[at]] + to[at]]]] = -1
    return result


# ---------------------------------------------------------------- word by word


def _written(
    versions: Versions,
    turns: np.ndarray,
    capped: int | None,
    cap: float,
    annotators: int,
    known: AnnotatorModels | None,
) -> tuple[np.ndarray, list[str], AnnotatorModels | None]:
    """(n,) row of the line that each text of ``turns`` (n, k) versions comes to, -1 where it is a new one; the new ones in order; how far the annotators are trusted."""
    texts = versions.lines
    line = np.where(turns >= 0, versions.line[turns], -1)
    differ = ((turns >= 0) & (_spelling(texts)[line] != _spelling(texts)[line[:, :1]])).any(axis=1)
    result = line[:, 0].copy()
    if not differ.any():
        return result, [], known
    places = network(texts, line[differ])
    weight = np.where(turns >= 0, versions.weight[turns], 0.0)
    annotator = np.where(turns >= 0, versions.annotator[turns], -1)
    belief, trust = likely(places, texts, line, differ, annotator, capped, cap, annotators, known)
    keep, weight = belief.max(axis=1) >= 0.5, weight[differ]
    places = Network(places.item[keep], places.token[keep], places.keys[keep])
    chosen = places.keys[np.arange(len(places.keys)), belief[keep].argmax(axis=1)]
    final = CodeSequences(chosen, compute_offsets(np.bincount(places.item, minlength=len(weight))))
    result[differ] = _as_said(final, texts, line[differ], weight)
    # of those who say the word, the last one's token
    said = places.there & (places.keys == chosen[:, None])
    turn = said.shape[1] - 1 - said[:, ::-1].argmax(axis=1)
    source = line[differ][places.item, turn]
    token = places.token[np.arange(len(turn)), turn]
    made = np.flatnonzero(result[differ] < 0)
    upper = np.asarray([text[:1].isupper() for text in texts.text])[line[differ][made]]
    capital = 2 * in_order(weight[made] * upper) > in_order(weight[made])
    source, token = source.tolist(), token.tolist()
    new = [
        _sentence(texts, source[a:b], token[a:b], large)
        for a, b, large in zip(
            final.offsets[made].tolist(), final.offsets[made + 1].tolist(), capital.tolist(), strict=True
        )
    ]
    return result, new, trust


def _spelling(texts: TokenizedTexts) -> np.ndarray:
    """(n,) a number for the keys of each text, the same for the same keys; and one more for none."""
    known: dict[bytes, int] = {}
    whole, first = texts.keys.tobytes(), (texts.offsets * texts.keys.itemsize).tolist()
    return np.asarray(
        [*(known.setdefault(whole[a:b], len(known)) for a, b in zip(first[:-1], first[1:], strict=True)), -1], np.int64
    )


def _as_said(final: CodeSequences, texts: TokenizedTexts, line: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n,) the heaviest of the lines (n, k) whose keys are those of ``final``; of equals the first; -1 where there is none."""
    equal = np.zeros(line.shape, bool)
    for turn in range(line.shape[1]):
        rows = np.flatnonzero((line[:, turn] >= 0) & (texts.lengths[line[:, turn]] == final.lengths))
        differ = texts.keys[texts.positions(line[rows, turn])] != final.keys[final.positions(rows)]
        equal[rows, turn] = (
            np.bincount(np.repeat(np.arange(len(rows)), final.lengths[rows]), differ, minlength=len(rows)) == 0
        )
    best = np.where(equal, weight, -1.0).argmax(axis=1)
    return np.where(equal.any(axis=1), line[np.arange(len(line)), best], -1)


def _sentence(texts: TokenizedTexts, source: Sequence[int], token: Sequence[int], capital: bool) -> str:
    """A text of tokens, each of its line ``source``; ``capital``: whether it starts with one."""
    words: list[str] = []
    for number, (row, at) in enumerate(zip(source, token, strict=True)):
        begins = not words or words[-1] in _STOPS
        word = _word(texts, row, at, (source[number + 1], token[number + 1]) if number + 1 < len(source) else None)
        words.append(word[:1].upper() + word[1:] if begins and capital else word)
    return join_tokens(words)


def _word(texts: TokenizedTexts, row: int, at: int, following: tuple[int, int] | None) -> str:
    """A token as its text writes it. An article fits the word that follows now; a capital that stands for the start of a sentence only is left out."""
    word, keys = _said(texts, row, at), texts.keys
    last = at + 1 == texts.offsets[row + 1]
    if keys[at] == ARTICLE and following is not None and (last or keys[following[1]] != keys[at + 1]):
        fitting = choose_article(_said(texts, *following))
        word = fitting.capitalize() if word[0].isupper() else fitting
    first = at == texts.offsets[row] or _said(texts, row, at - 1) in _STOPS
    return word[:1].lower() + word[1:] if first and (word[1:].islower() or len(word) == 1) else word


def _said(texts: TokenizedTexts, row: int, at: int) -> str:
    start, end = texts.spans[at]
    return texts.text[row][start:end]


# ---------------------------------------------------------------- character by character


def spell(items: Sequence[Sequence[tuple[str, float]]]) -> list[str]:
    """One string of the readings (with weights, the best first) of each item: character by character what most of the weight reads.

    With fewer than three readings the first stands.
    """
    result = [item[0][0] for item in items]
    asked = [k for k, item in enumerate(items) if len(item) > 2 and any(text != item[0][0] for text, _ in item)]
    if not asked:
        return result
    readings = [text for k in asked for text, _ in items[k]]
    count = np.asarray([len(items[k]) for k in asked])
    there = np.arange(count.max()) < count[:, None]
    turns, weight = np.full(there.shape, -1, np.int64), np.zeros(there.shape)
    turns[there], weight[there] = np.arange(len(readings)), [mass for k in asked for _, mass in items[k]]
    characters = "".join(readings)
    places = network(
        CodeSequences(
            np.asarray([encode_key(c) for c in characters], np.int64),
            compute_offsets(np.asarray([len(text) for text in readings])),
        ),
        turns,
    )
    mass = weight[places.item]
    keep = 2 * in_order(mass * places.there) > in_order(mass)
    token = places.token[np.arange(len(places.token)), places.heaviest(mass)]
    read: dict[int, list[str]] = {k: [] for k in asked}
    for row, at in zip(places.item[keep].tolist(), token[keep].tolist(), strict=True):
        read[asked[row]].append(characters[at])
    for k, found in read.items():
        result[k] = "".join(found)
    return result
