"""What is dropped, and why. A filter looks at columns and tells, row by row, whether its reason applies; rows that several apply to have the first."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from florence.config import PRONOUNS, EngineSettings
from florence.engine.consensus.vote import paired_iou
from florence.engine.filters.alt_text import noise
from florence.engine.filters.language import foreign
from florence.engine.pairs import neighbours, suppressed
from florence.engine.wording.tokens import FUNCTION_WORDS, Lines, Sequences, fixed, starts

REASONS: dict[str, str] = {
    "no_place": "it has no region, or a region without a place",
    "empty_text": "it says nothing",
    "low_score": "its annotator's own confidence is below engine.min_score",
    "low_phrase_score": "its annotator's confidence in the phrase is below engine.min_phrase_score",
    "alt_noise": "it describes no picture: an address, the name of a file, a list of search terms and the like",
    "language": "it is in another language than engine.language",
    "too_short": "it has fewer words than engine.min_words",
    "too_long": "it has more words than engine.max_words",
    "repetition": "it says the same words over and over",
    "blacklisted": "it names nothing to point at",
    "degenerate": "its box is thinner than engine.min_side",
    "near_full": "its box is nearly the whole image",
    "low_confidence": "it is too unlikely to be right, by all that was said and not said of it",
    "duplicate": "another label of the same name is in the same place",
    "ranked_lower": "a ranker finds that another text fits the region better",
    "overlapping_phrase": "another phrase of the caption is in the same place",
    "repeated": "it draws an outline in the box that another annotator has found for the phrase, and says nothing of its own",
    "rejected": "a human says that there is nothing",
    "too_many_objects": "the text names more objects than engine.max_objects",
    "simple_objects": "no object of the text is as complex as engine.min_object_complexity",
    "simple_actions": "no action of the text is as complex as engine.min_action_complexity",
    "no_caption": "the caption that it is a phrase of was not kept",
    "not_in_caption": "the caption that was kept does not have the phrase",
    "near_duplicate": "its image is nearly the same as another one",
}
"""Every reason that a label can be dropped for."""
_SAYS = re.compile(r"[^\W_]")
_DETERMINERS = frozenset(
    "my your his her its our their this that these those another other each both either neither all any some few many most several much more less which what whose one".split()
)
"""Pronouns that may also stand before a noun."""
_ENDING = frozenset(
    "of in on at with by to from for behind above below under over near next beside between around who which that whose where when while and or but is are was were has have "
    "it them us him her they he she we you i himself herself itself themselves".split()
)
"""Words before which a noun phrase has ended, or another one begins."""
_LEAD = re.compile(r"^(?:a|an|the|this|that|these|those|some|its|their|his|her)\s+", re.IGNORECASE)


def first_reason(count: int, found: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """(n,) the first reason of those found that applies to each row; empty where none does."""
    result = np.full(count, "", dtype=object)
    for reason, applies in reversed(found):
        result[applies] = reason
    return result


def empty(texts: Sequence[str]) -> np.ndarray:
    """Texts without a letter or a figure."""
    return np.asarray([_SAYS.search(text) is None for text in texts], bool)


def low_score(
    score: np.ndarray, annotator: np.ndarray, kind: str, annotators: Sequence[str], settings: EngineSettings
) -> np.ndarray:
    """Scores (n,) of claims of one kind below the least one of their ``annotator`` (n,), a row of ``annotators``; what has no score passes."""
    bounds = settings.min_score
    keys = [(f"{name} {kind}", name, kind, "*") for name in annotators]
    return score < np.asarray([next((bounds[key] for key in tried if key in bounds), 0.0) for tried in keys])[annotator]


def low_phrase_score(
    score: np.ndarray, annotator: np.ndarray, annotators: Sequence[str], settings: EngineSettings
) -> np.ndarray:
    """Scores (n,) of phrases below the least one of their annotator."""
    bounds = settings.min_phrase_score
    return score < np.asarray([bounds.get(name, bounds.get("*", 0.0)) for name in annotators])[annotator]


def captions(found: Lines, kind: str, settings: EngineSettings) -> list[tuple[str, np.ndarray]]:
    """What is found of the captions of one kind, boilerplate stripped, each by itself."""
    texts, words = found.text, found.words
    return [
        ("empty_text", empty(texts)),
        ("alt_noise", alt_noise(texts, settings)),
        ("too_short", too_short(words, kind, settings)),
        ("too_long", too_long(words, kind, settings)),
        ("repetition", repetition(found, settings)),
        ("language", language(texts, settings)),
    ]


def alt_noise(texts: Sequence[str], settings: EngineSettings) -> np.ndarray:
    """Texts that describe no picture."""
    return noise(texts) if settings.alt_noise else np.zeros(len(texts), bool)


def language(texts: Sequence[str], settings: EngineSettings) -> np.ndarray:
    """Texts in another language than the one that is wanted."""
    return np.zeros(len(texts), bool) if settings.language is None else foreign(texts, settings.language)


def too_short(words: np.ndarray, kind: str, settings: EngineSettings) -> np.ndarray:
    """Captions of fewer words (n,) than their kind has."""
    return words < settings.min_words.get(kind, settings.min_words.get("*", 0))


def too_long(words: np.ndarray, kind: str, settings: EngineSettings) -> np.ndarray:
    """Captions of more words (n,) than their kind has."""
    return words > settings.max_words.get(kind, settings.max_words.get("*", np.inf))


def degenerate(box: np.ndarray, settings: EngineSettings) -> np.ndarray:
    """Boxes (n, 4) that are thinner than allowed."""
    return (box[:, 2:] - box[:, :2]).min(axis=1, initial=np.inf) < settings.min_side


def near_full(box: np.ndarray, size: np.ndarray, settings: EngineSettings) -> np.ndarray:
    """Boxes (n, 4) that cover more of their image (n, 2) than allowed."""
    return np.prod(box[:, 2:] - box[:, :2], axis=1) > settings.max_area * np.prod(size, axis=1)


def low_confidence(confidence: np.ndarray, least: float) -> np.ndarray:
    """Agreement below the least, or none at all; where nobody has a vote (NaN) there is nothing to agree on."""
    return (confidence < least - 1e-9) | (confidence <= 0)


def repetition(found: Lines, settings: EngineSettings) -> np.ndarray:
    """Texts in which the same words stand more than ``max_repeats`` times in a row, as models that are stuck write."""
    most = settings.max_repeats
    owner = np.repeat(np.arange(len(found)), found.lengths)
    result = np.zeros(len(found), bool)
    for length in range(1, int(found.lengths.max(initial=0)) // (most + 1) + 1):
        again = (found.keys[length:] == found.keys[:-length]) & (owner[length:] == owner[:-length])
        # the places that break a row, and how far apart they are
        breaks = np.flatnonzero(np.r_[True, ~again, True])
        rows = np.diff(breaks) > length * most
        result[owner[breaks[:-1][rows]]] = True
    return result


def blacklisted(phrases: Sequence[str], settings: EngineSettings) -> np.ndarray:
    """Phrases that name nothing to point at: that are on the list, with or without an article, or headed by a pronoun ("each of them"). An empty list drops none."""
    names = frozenset(name.casefold() for name in settings.blacklist)
    known = {
        phrase: (said := phrase.strip().casefold()) in names or _LEAD.sub("", said) in names for phrase in set(phrases)
    }
    if names:
        known = {phrase: found or _is_headed(phrase) for phrase, found in known.items()}
    return np.asarray([known[phrase] for phrase in phrases], bool)


def _is_headed(phrase: str) -> bool:
    """Whether a pronoun is the head of a phrase: one begins it, and nothing that it could be the determiner of follows before the noun phrase ends.

    These words are a closed class, so no parser is asked: it would take longer than all other filters, and errs on phrases out of their sentence.
    """
    first, *rest = phrase.casefold().split() or [""]
    if first not in PRONOUNS or first not in _DETERMINERS:
        return first in PRONOUNS
    following = next((word for word in rest if word in _ENDING or word not in FUNCTION_WORDS), None)
    return following is None or following in _ENDING


def duplicate(image: np.ndarray, code: np.ndarray, box: np.ndarray, rank: np.ndarray, settings: EngineSettings) -> np.ndarray:
    """Rows of one image and label whose box overlaps one of a higher ``rank`` by more than ``nms_iou``, that one being no duplicate itself."""
    order = np.lexsort((-rank, code, image))
    group = np.cumsum(np.r_[False, (np.diff(image[order]) != 0) | (np.diff(code[order]) != 0)][: len(order)])
    better, worse = neighbours(group)
    better, worse = order[better], order[worse]
    near = paired_iou(box[better], box[worse]) > settings.nms_iou
    return suppressed(better[near], worse[near], len(image))


def overlapping_phrase(
    caption: np.ndarray,
    phrase: np.ndarray,
    box: np.ndarray,
    rank: np.ndarray,
    words: Sequences,
    spans: np.ndarray,
    settings: EngineSettings,
) -> np.ndarray:
    """Places (n,) of phrases of one caption that overlap the place of another phrase of it by more than ``phrase_nms_iou``, and give way to it.

    ``phrase``: (n,), row of ``words``, the keys of each, and of ``spans`` (phrases, 2), where it begins and ends in the caption. Of phrases one inside the other the longer
    stays, of others that of the higher ``rank``. Where all words that name something in one are in the other, elsewhere in the caption, the same thing is mentioned again,
    and both stay.
    """
    order = np.lexsort((phrase, caption))
    a, b = neighbours(caption[order])
    a, b = order[a], order[b]
    near = (phrase[a] != phrase[b]) & (paired_iou(box[a], box[b]) > settings.phrase_nms_iou)
    a, b = a[near], b[near]
    inside = (spans[phrase[a], 0] < spans[phrase[b], 1]) & (spans[phrase[b], 0] < spans[phrase[a], 1])
    again = ~inside & _mentions(words, phrase[a], phrase[b])
    length = np.diff(spans, axis=1)[phrase, 0]
    found = np.zeros(len(caption), bool)
    for rows, value in ((inside, length), (~inside & ~again, rank)):
        x, y = a[rows], b[rows]
        first = (value[x] > value[y]) | (
            (value[x] == value[y]) & ((length[x] > length[y]) | ((length[x] == length[y]) & (phrase[x] < phrase[y])))
        )
        better, worse = np.where(first, x, y), np.where(first, y, x)
        good = ~found[better] & ~found[worse]
        found |= suppressed(better[good], worse[good], len(caption))
    return found


def _mentions(words: Sequences, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether all words that name something in one phrase are in the other."""
    owner = np.repeat(np.arange(len(words)), words.lengths)
    naming = ~fixed()[words.keys]
    code = np.unique(owner[naming] * (int(words.keys.max(initial=0)) + 1) + words.keys[naming])
    owner, keys = code // (int(words.keys.max(initial=0)) + 1), code % (int(words.keys.max(initial=0)) + 1)
    said = Sequences(keys, starts(np.bincount(owner, minlength=len(words))))
    count = said.lengths
    fewer = np.where(count[a] <= count[b], a, b)
    more = np.where(count[a] <= count[b], b, a)
    pair = np.repeat(np.arange(len(a)), count[fewer])
    there = np.isin(more[pair] * (int(words.keys.max(initial=0)) + 1) + said.keys[said.at(fewer)], code)
    return np.bincount(pair, there, minlength=len(a)) == count[fewer]


def texts(found: Lines, settings: EngineSettings) -> list[tuple[str, np.ndarray]]:
    """What the paper's filter of texts finds: too many objects, or neither object nor action of the complexity asked for. Parses only what it must."""
    asked = bool(settings.min_object_complexity or settings.min_action_complexity)
    must = np.arange(len(found)) if asked else np.flatnonzero(_most(found) > settings.max_objects)
    if not len(must):
        return []
    from florence.engine.parse import parse

    result = {reason: np.zeros(len(found), bool) for reason in ("too_many_objects", "simple_objects", "simple_actions")}
    for k, parsed in zip(must.tolist(), parse([found.text[k] for k in must.tolist()]), strict=True):
        result["too_many_objects"][k] = len(parsed.objects) > settings.max_objects
        result["simple_objects"][k] = parsed.object_complexity < settings.min_object_complexity
        result["simple_actions"][k] = parsed.action_complexity < settings.min_action_complexity
    return list(result.items())


def _most(found: Lines) -> np.ndarray:
    """(n,) how many objects a text could name: no more than it has words that are no function words."""
    return np.bincount(np.repeat(np.arange(len(found)), found.lengths), ~fixed()[found.keys], minlength=len(found))
