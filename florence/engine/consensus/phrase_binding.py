"""Claimed phrases brought to the caption that was kept: which phrase of it each one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from florence.config import EngineSettings
from florence.engine.claims import NO_SPAN, Claims
from florence.engine.consensus.captions import Captions
from florence.engine.consensus.word_consensus import placed
from florence.engine.filters.alt_text import find_description
from florence.engine.wording.alignment import align_sequences
from florence.engine.wording.sequences import compute_offsets
from florence.engine.wording.tokens import ARTICLES, TokenizedTexts, function_word_mask, tokenize_texts
from florence.records import BASE_TYPES

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
KIND = BASE_TYPES.index(GROUNDING)
RELATED = 0.3
"""Likeness from which the caption that a phrase was found in is taken for a version of one that was kept."""
NO_PHRASE, NO_CAPTION = -1, -2
LONG = 1 << 32
"""More than a text has characters or tokens."""


@dataclass(frozen=True)
class Kept:
    """The captions of all kinds that were kept. ``image``, ``kind``: (k,); ``line``: (k,), row of ``lines``, the final text. ``annotator``, ``caption``: (v,), of each version
    that somebody gave of one; ``source``: the texts that phrases may be found in.
    """

    image: np.ndarray
    kind: np.ndarray
    line: np.ndarray
    lines: TokenizedTexts
    annotator: np.ndarray
    caption: np.ndarray
    source: Sources

    def texts(self, rows: np.ndarray) -> list[str]:
        """The final texts of some."""
        return [self.lines.text[k] for k in self.line[rows].tolist()]


@dataclass(frozen=True)
class Sources:
    """Texts on the way to a kept caption. ``image``, ``text``: (v,), as in `Claims`; ``line``: (v,), row of the lines, what is left of it without boilerplate, from
    character ``start`` (v,) on; ``to``: where its tokens stand in the caption (v,) ``caption``, one text after the other.
    """

    image: np.ndarray
    text: np.ndarray
    caption: np.ndarray
    line: np.ndarray
    start: np.ndarray
    to: np.ndarray

    def __add__(self, other: Sources) -> Sources:
        return Sources(
            *(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__dataclass_fields__)
        )


def kept(parts: Sequence[Captions]) -> Kept:
    """The captions that were kept, kind by kind."""
    texts = reduce(add, (part.lines for part in parts))
    shift = compute_offsets(np.asarray([len(part.lines) for part in parts]))
    image, kind, line, annotator, sources, count = [], [], [], [], [], 0
    for part, base in zip(parts, shift.tolist(), strict=False):
        good = part.reason == ""
        number = np.cumsum(good) - 1 + count
        found, mine = part.candidates, good[part.item]
        tokens = np.repeat(mine, found.lines.lengths[found.line])
        image.append(part.image[good])
        kind.append(np.full(int(good.sum()), part.kind))
        line.append(part.line[good] + base)
        annotator.append(found.annotator[mine])
        sources.append(
            Sources(
                found.image[mine],
                found.text[mine],
                number[part.item[mine]],
                found.line[mine] + base,
                found.start[mine],
                part.to[tokens],
            )
        )
        count += int(good.sum())
    source = reduce(add, sources)
    return Kept(
        np.concatenate(image),
        np.concatenate(kind),
        np.concatenate(line),
        texts,
        np.concatenate(annotator),
        source.caption,
        source,
    )


@dataclass(frozen=True)
class Bound:
    """Where claims about phrases belong. ``slot``: (n,) number of the phrase of each claim, `NO_PHRASE` where the kept captions do not have it, `NO_CAPTION` where there
    is no caption. Of each phrase, in order: ``caption``: (s,), index into the kept ones; ``tokens``: (s, 2), its first that is no article, one past its last; ``span``:
    (s, 2), its characters.
    """

    rows: np.ndarray
    slot: np.ndarray
    caption: np.ndarray
    tokens: np.ndarray
    span: np.ndarray


def bind(claims: Claims, captions: Kept, settings: EngineSettings) -> Bound:
    """Find each claimed phrase in the caption that was kept of the one it was found in."""
    rows = np.flatnonzero(claims.annotation_type == KIND)
    spans = claimed_spans(claims, rows)
    captions = _related(claims, rows, captions, settings.min_caption_overlap)
    source = _sources(claims, rows, captions)
    slot = np.where(source < 0, NO_CAPTION, NO_PHRASE)
    asked = np.flatnonzero(source >= 0)
    found, low, high = _brought(captions, source[asked], spans[asked])
    asked = asked[found]
    caption = captions.source.caption[source[asked]]
    final = captions.line[caption]
    at = captions.lines.offsets[final]
    fit = np.stack([captions.lines.spans[at + low, 0], captions.lines.spans[at + high - 1, 1]], axis=1)
    lead = np.minimum(_next(~np.isin(captions.lines.keys, list(ARTICLES)))[at + low] - at, high - 1)
    columns = (captions.image[caption], captions.kind[caption], lead, high)
    order = np.lexsort(columns[::-1])
    new = np.r_[True, np.any([np.diff(column[order]) != 0 for column in columns], axis=0)][: len(order)]
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new) - 1
    slot[asked] = number
    first = order[new]
    return Bound(rows, slot, caption[first], np.stack([lead, high], axis=1)[first], _usual(number, fit))


def _usual(number: np.ndarray, span: np.ndarray) -> np.ndarray:
    """(s, 2) of the ways that each phrase is cut, the most frequent; of equals the longest, then the first."""
    order = np.lexsort((span[:, 1], span[:, 0], number))
    new = np.r_[True, (np.diff(number[order]) != 0) | (np.diff(span[order], axis=0) != 0).any(axis=1)][: len(order)]
    way = order[new]
    times = np.diff(np.r_[np.flatnonzero(new), len(order)])
    best = np.lexsort((span[way, 1], span[way, 0], span[way, 0] - span[way, 1], -times, number[way]))
    return span[way[best[np.r_[True, np.diff(number[way[best]]) != 0][: len(best)]]]]


def claimed_spans(claims: Claims, rows: np.ndarray) -> np.ndarray:
    """(n, 2) the characters of each claimed phrase in its text; where none are told, where its label stands, -1 where it does not."""
    spans = np.full((len(rows), 2), NO_SPAN, np.int64)
    first = claims.regions.claim.searchsorted(rows)
    there = np.append(claims.regions.claim, -1)[first] == rows
    spans[there] = claims.regions.span[first[there]]
    for k in np.flatnonzero(there & (spans[:, 0] < 0)).tolist():
        label, text = claims.regions.label[int(first[k])].as_py() or "", claims.texts[int(claims.text[rows[k]])]
        start = text.find(label)
        if label and start >= 0:
            spans[k] = start, start + len(label)
    return spans


def _sources(claims: Claims, rows: np.ndarray, captions: Kept) -> np.ndarray:
    """(n,) the first source that is the text of each claim, -1 where none is."""
    code, wanted = (
        image * len(claims.texts) + text
        for image, text in ((captions.source.image, captions.source.text), (claims.image[rows], claims.text[rows]))
    )
    known, first = np.unique(code, return_index=True)
    at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    return np.where(known[at] == wanted, first[at], -1) if len(known) else np.full(len(rows), -1)


def _related(claims: Claims, rows: np.ndarray, captions: Kept, alike: float) -> Kept:
    """The captions with, as more sources, the texts of phrases that nobody claimed as a caption: versions of the kept caption that they are most like."""
    lost = rows[_sources(claims, rows, captions) < 0]
    lost = lost[np.isin(claims.image[lost], captions.image)]
    code, first = np.unique(claims.image[lost] * len(claims.texts) + claims.text[lost], return_index=True)
    if not len(code):
        return captions
    image, text = claims.image[lost[first]], claims.text[lost[first]]
    known, line = np.unique(text, return_inverse=True)
    whole = [claims.texts[k] for k in known.tolist()]
    spans = [find_description(t) for t in whole]
    texts = captions.lines + tokenize_texts([t[a:b] for t, (a, b) in zip(whole, spans, strict=True)])
    line += len(captions.lines)
    # every pair of such a text and a kept caption of its image, in order
    order = np.argsort(captions.image, kind="stable")
    begin, end = (np.searchsorted(captions.image[order], image, side=side) for side in ("left", "right"))
    pair = np.repeat(np.arange(len(code)), end - begin)
    caption = order[np.arange(len(pair)) - np.repeat(compute_offsets(end - begin)[:-1] - begin, end - begin)]
    _, similarity = align_sequences(texts.select(line[pair]), texts.select(captions.line[caption]))
    best = np.lexsort((caption, -similarity, pair))
    best = best[np.r_[True, np.diff(pair[best]) != 0]]
    best = best[similarity[best] >= RELATED]
    who, caption = pair[best], caption[best]
    a, b = texts.select(line[who]), texts.select(captions.line[caption])
    to = placed(a, b, *align_sequences(a, b), alike)
    start = np.asarray([a for a, _ in spans], np.int64)[np.searchsorted(known, text[who])]
    more = Sources(image[who], text[who], caption, line[who], start, to)
    return replace(captions, lines=texts, source=captions.source + more)


def _brought(captions: Kept, source: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of n phrases, characters ``spans`` of their sources, the final captions have, and for those the first and one past the last of their tokens there.

    A phrase is there where half of it is, a word that names something included; one that has no such word, whole.
    """
    sources, texts = captions.source, captions.lines
    line = sources.line[source]
    owner = np.repeat(np.arange(len(texts)), texts.lengths) * LONG
    inner = np.clip(spans - sources.start[source][:, None], 0, LONG - 1) + line[:, None] * LONG
    a = np.searchsorted(texts.spans[:, 1] + owner, inner[:, 0], side="right")
    b = np.maximum(np.searchsorted(texts.spans[:, 0] + owner, inner[:, 1], side="left"), a)
    # from the tokens of the line to those of the source
    shift = compute_offsets(texts.lengths[sources.line])[source] - texts.offsets[line]
    to, keys = sources.to, texts.keys[texts.positions(sources.line)]
    there, naming = to >= 0, ~function_word_mask()[keys]
    length, present = b - a, _between(there, a + shift, b + shift)
    named = _between(there & naming, a + shift, b + shift) > 0
    short = np.where(_between(naming, a + shift, b + shift) > 0, ~named | (2 * present < length), present < length)
    found = np.flatnonzero((present > 0) & ~short)
    at, end = (a + shift)[found], (b + shift)[found]
    return found, to[_next(there)[at]], to[len(to) - 1 - _next(there[::-1])[len(to) - end]] + 1


def _between(flags: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) how many flags are set from a (n,) up to b (n,)."""
    count = compute_offsets(flags)
    return count[b] - count[a]


def _next(flags: np.ndarray) -> np.ndarray:
    """(t,) the first place, from each on, where the flag is set; t where it is set nowhere after."""
    place = np.where(flags, np.arange(len(flags)), len(flags))
    return np.minimum.accumulate(place[::-1])[::-1]
