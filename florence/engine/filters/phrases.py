"""Filters of the phrases of captions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from florence.config import PRONOUNS, EngineSettings
from florence.engine.claims import Claims
from florence.engine.pairs import find_suppressed, list_pairs
from florence.engine.wording.sequences import CodeSequences, compute_offsets
from florence.engine.wording.tokens import FUNCTION_WORDS, function_word_mask
from florence.geometry import paired_iou

_DETERMINERS = frozenset(
    (
        "my your his her its our their this that these those another other each both either neither all any some few "
        "many most several much more less which what whose one"
    ).split()
)
"""Pronouns that may also stand before a noun."""
_PHRASE_ENDS = frozenset(
    (
        "of in on at with by to from for behind above below under over near next beside between around who which that "
        "whose where when while and or but is are was were has have it them us him her they he she we you i himself "
        "herself itself themselves"
    ).split()
)
"""Words before which a noun phrase has ended, or another one begins."""
_ARTICLE = re.compile(r"^(?:a|an|the|this|that|these|those|some|its|their|his|her)\s+", re.IGNORECASE)


def flag_blacklisted_phrases(phrases: Sequence[str], settings: EngineSettings) -> np.ndarray:
    """Return (n,) whether each phrase names nothing to point at.

    It is on the blacklist, with or without an article, or its head is a pronoun ("each of them"). An empty list drops
    none.
    """
    names = frozenset(name.casefold() for name in settings.blacklist)
    known = {
        phrase: (text := phrase.strip().casefold()) in names or _ARTICLE.sub("", text) in names
        for phrase in set(phrases)
    }
    if names:
        known = {phrase: found or _has_pronoun_head(phrase) for phrase, found in known.items()}
    return np.asarray([known[phrase] for phrase in phrases], bool)


def _has_pronoun_head(phrase: str) -> bool:
    """Return whether a pronoun begins the phrase and no noun follows in it that the pronoun could be the determiner of.

    These words are a closed class, so no parser is used: it would take longer than all other filters, and it errs on
    phrases without their sentence.
    """
    first, *rest = phrase.casefold().split() or [""]
    if first not in PRONOUNS or first not in _DETERMINERS:
        return first in PRONOUNS
    following = next((word for word in rest if word in _PHRASE_ENDS or word not in FUNCTION_WORDS), None)
    return following is None or following in _PHRASE_ENDS


def flag_overlapping_phrases(
    caption: np.ndarray,
    phrase: np.ndarray,
    box: np.ndarray,
    rank: np.ndarray,
    words: CodeSequences,
    spans: np.ndarray,
    settings: EngineSettings,
) -> np.ndarray:
    """Return (n,) whether each box (n, 4) of a phrase gives way to the box of another phrase of its ``caption`` (n,).

    Boxes whose IoU exceeds ``phrase_nms_iou`` compete. ``phrase``: (n,) row of ``words``, the tokens of each phrase,
    and of ``spans`` (phrases, 2), its first token in the caption and one past its last. Of phrases one inside the other
    the longer stays, of others the one of higher ``rank`` (n,). Where all content words of one are in the other,
    elsewhere in the caption, the same object is mentioned again, and both stay.
    """
    order = np.lexsort((phrase, caption))
    a, b = list_pairs(caption[order])
    a, b = order[a], order[b]
    near = (phrase[a] != phrase[b]) & (paired_iou(box[a], box[b]) > settings.phrase_nms_iou)
    a, b = a[near], b[near]
    inside = (spans[phrase[a], 0] < spans[phrase[b], 1]) & (spans[phrase[b], 0] < spans[phrase[a], 1])
    again = ~inside & _share_content_words(words, phrase[a], phrase[b])
    length = np.diff(spans, axis=1)[phrase, 0]
    found = np.zeros(len(caption), bool)
    for rows, value in ((inside, length), (~inside & ~again, rank)):
        x, y = a[rows], b[rows]
        first = (value[x] > value[y]) | (
            (value[x] == value[y]) & ((length[x] > length[y]) | ((length[x] == length[y]) & (phrase[x] < phrase[y])))
        )
        better, worse = np.where(first, x, y), np.where(first, y, x)
        good = ~found[better] & ~found[worse]
        found |= find_suppressed(better[good], worse[good], len(caption))
    return found


def _share_content_words(words: CodeSequences, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (pairs,) whether all content words of one phrase are in the other; ``a``, ``b``: rows of ``words``."""
    owner = np.repeat(np.arange(len(words)), words.lengths)
    content = ~function_word_mask()[words.keys]
    code = np.unique(owner[content] * (int(words.keys.max(initial=0)) + 1) + words.keys[content])
    owner, keys = code // (int(words.keys.max(initial=0)) + 1), code % (int(words.keys.max(initial=0)) + 1)
    distinct = CodeSequences(keys, compute_offsets(np.bincount(owner, minlength=len(words))))
    count = distinct.lengths
    fewer = np.where(count[a] <= count[b], a, b)
    more = np.where(count[a] <= count[b], b, a)
    pair = np.repeat(np.arange(len(a)), count[fewer])
    present = np.isin(
        more[pair] * (int(words.keys.max(initial=0)) + 1) + distinct.keys[distinct.positions(fewer)], code
    )
    return np.bincount(pair, present, minlength=len(a)) == count[fewer]


def flag_repeated_boxes(claims: Claims, region: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Return (n,) whether each region repeats another annotator's box of the same phrase exactly, adding a polygon.

    An annotator that draws masks in the boxes of others has no evidence of its own about phrases. ``region``: (n,) rows
    of ``claims.regions``; ``slot``: (n,) their phrases.
    """
    has_polygon = np.diff(claims.regions.polygons.offsets.to_numpy())[region] > 0
    # regions of other phrases cannot be repetitions
    some = np.isin(slot, slot[has_polygon])
    result = np.zeros(len(slot), bool)
    if some.any():
        phrase_box = np.column_stack([slot, np.nan_to_num(claims.regions.bounds[region])])[some]
        group = np.unique(phrase_box, axis=0, return_inverse=True)[1].reshape(-1)
        plain = np.bincount(group, ~has_polygon[some], minlength=int(group.max(initial=-1)) + 1)
        result[some] = has_polygon[some] & (plain[group] > 0)
    return result
