"""Phrases bound to the captions that were kept: the phrase of the final text that each claimed phrase stands for.

A phrase is claimed with the text it was found in, its source: a version of a caption, or a text that nobody claims as a
caption. The tokens of the source are aligned with the kept caption. A phrase is bound where at least half of its tokens
have a counterpart, a content word included; a phrase without content words only whole. Its span in the caption reaches
from the first counterpart to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from florence.config import EngineSettings
from florence.engine.claims import NO_SPAN, Claims
from florence.engine.consensus.captions import FusedCaptions
from florence.engine.consensus.word_consensus import restrict_alignment
from florence.engine.filters.alt_text import find_description
from florence.engine.wording.alignment import align_sequences
from florence.engine.wording.sequences import compute_offsets
from florence.engine.wording.tokens import ARTICLES, TokenizedTexts, function_word_mask, tokenize_texts
from florence.records import BASE_TYPES

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
PHRASE_TYPE = BASE_TYPES.index(GROUNDING)
MIN_SOURCE_SIMILARITY = 0.3
"""Similarity from which a text that nobody claims as a caption is a version of a kept one."""
NO_PHRASE, NO_CAPTION = -1, -2
TEXT_STRIDE = 1 << 32
"""More than a text has characters or tokens: text · TEXT_STRIDE + position orders positions in many texts."""


@dataclass(frozen=True)
class PhraseSources:
    """v texts that phrases are found in. ``image``, ``text``: (v,), as in `Claims`; ``caption``: (v,), the kept caption
    of each; ``row``: (v,), row of the tokenized texts, without boilerplate, which begins at character ``start`` (v,);
    ``position``: for each token, one text after the other, its index in the caption, -1 for none.
    """

    image: np.ndarray
    text: np.ndarray
    caption: np.ndarray
    row: np.ndarray
    start: np.ndarray
    position: np.ndarray

    def __add__(self, other: PhraseSources) -> PhraseSources:
        return PhraseSources(
            *(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__dataclass_fields__)
        )


@dataclass(frozen=True)
class KeptCaptions:
    """The k kept captions of all types. ``image``, ``annotation_type``: (k,); ``row``: (k,), row of ``texts``, the
    final text.

    ``annotator``, ``caption``: (v,), of each claimed version of one; ``sources``: those versions, then other texts of
    phrases.
    """

    image: np.ndarray
    annotation_type: np.ndarray
    row: np.ndarray
    texts: TokenizedTexts
    annotator: np.ndarray
    caption: np.ndarray
    sources: PhraseSources

    def final_texts(self, captions: np.ndarray) -> list[str]:
        """Return the texts of ``captions``."""
        return [self.texts.text[k] for k in self.row[captions].tolist()]


def select_kept_captions(parts: Sequence[FusedCaptions]) -> KeptCaptions:
    """Return the kept captions, part by part."""
    texts = reduce(add, (part.texts for part in parts))
    shift = compute_offsets(np.asarray([len(part.texts) for part in parts]))
    image, annotation_type, row, annotator, sources, count = [], [], [], [], [], 0
    for part, base in zip(parts, shift.tolist(), strict=False):
        kept = part.reason == ""
        number = np.cumsum(kept) - 1 + count
        claims = part.claims
        item = claims.item
        mine = kept[item]
        tokens = np.repeat(mine, claims.texts.lengths[claims.row])
        image.append(part.image[kept])
        annotation_type.append(np.full(int(kept.sum()), part.annotation_type))
        row.append(part.row[kept] + base)
        annotator.append(claims.annotator[mine])
        sources.append(
            PhraseSources(
                claims.image[mine],
                claims.text[mine],
                number[item[mine]],
                claims.row[mine] + base,
                claims.start[mine],
                part.position[tokens],
            )
        )
        count += int(kept.sum())
    source = reduce(add, sources)
    return KeptCaptions(
        np.concatenate(image),
        np.concatenate(annotation_type),
        np.concatenate(row),
        texts,
        np.concatenate(annotator),
        source.caption,
        source,
    )


@dataclass(frozen=True)
class BoundPhrases:
    """n claims about phrases, bound to s phrases of kept captions.

    ``rows``: (n,), rows of `Claims`; ``phrase``: (n,), number of each claim's phrase, `NO_PHRASE` where the caption
    does not have it, `NO_CAPTION` where there is no caption. In order of image, type and position, ``caption``: (s,),
    index of the kept caption; ``tokens``: (s, 2), the first token that is no article, one past the last; ``span``: (s,
    2), characters.
    """

    rows: np.ndarray
    phrase: np.ndarray
    caption: np.ndarray
    tokens: np.ndarray
    span: np.ndarray


def bind_phrases(claims: Claims, captions: KeptCaptions, settings: EngineSettings) -> BoundPhrases:
    """Bind each claimed phrase to the kept caption of its source."""
    rows = np.flatnonzero(claims.annotation_type == PHRASE_TYPE)
    spans = find_claimed_spans(claims, rows)
    captions = _add_unclaimed_sources(claims, rows, captions, settings.min_caption_overlap)
    source = _find_sources(claims, rows, captions)
    phrase = np.where(source < 0, NO_CAPTION, NO_PHRASE)
    bound = np.flatnonzero(source >= 0)
    found, low, high = _transfer_spans(captions, source[bound], spans[bound])
    bound = bound[found]
    caption = captions.sources.caption[source[bound]]
    at = captions.texts.offsets[captions.row[caption]]
    span = np.stack([captions.texts.spans[at + low, 0], captions.texts.spans[at + high - 1, 1]], axis=1)
    lead = np.minimum(_find_next(~np.isin(captions.texts.keys, list(ARTICLES)))[at + low] - at, high - 1)
    columns = (captions.image[caption], captions.annotation_type[caption], lead, high)
    order = np.lexsort(columns[::-1])
    new = np.r_[True, np.any([np.diff(column[order]) != 0 for column in columns], axis=0)][: len(order)]
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new) - 1
    phrase[bound] = number
    first = order[new]
    tokens = np.stack([lead, high], axis=1)[first]
    return BoundPhrases(rows, phrase, caption[first], tokens, _choose_spans(number, span))


def _choose_spans(number: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Return (s, 2) the most frequent span of each phrase; of equals the longest, then the first."""
    order = np.lexsort((span[:, 1], span[:, 0], number))
    new = np.r_[True, (np.diff(number[order]) != 0) | (np.diff(span[order], axis=0) != 0).any(axis=1)][: len(order)]
    distinct = order[new]
    count = np.diff(np.r_[np.flatnonzero(new), len(order)])
    start, end = span[distinct, 0], span[distinct, 1]
    best = np.lexsort((end, start, start - end, -count, number[distinct]))
    return span[distinct[best[np.r_[True, np.diff(number[distinct[best]]) != 0][: len(best)]]]]


def find_claimed_spans(claims: Claims, rows: np.ndarray) -> np.ndarray:
    """Return (n, 2) the characters of each claimed phrase in its text; without any, where its label is, or -1."""
    spans = np.full((len(rows), 2), NO_SPAN, np.int64)
    first = claims.regions.claim.searchsorted(rows)
    has_region = np.append(claims.regions.claim, -1)[first] == rows
    spans[has_region] = claims.regions.span[first[has_region]]
    for k in np.flatnonzero(has_region & (spans[:, 0] < 0)).tolist():
        label, text = claims.regions.label[int(first[k])].as_py() or "", claims.texts[int(claims.text[rows[k]])]
        start = text.find(label)
        if label and start >= 0:
            spans[k] = start, start + len(label)
    return spans


# ---------------------------------------------------------------- sources of phrases


def _find_sources(claims: Claims, rows: np.ndarray, captions: KeptCaptions) -> np.ndarray:
    """Return (n,) the first source with the image and text of each claim, -1 for none."""
    code, wanted = (
        image * len(claims.texts) + text
        for image, text in ((captions.sources.image, captions.sources.text), (claims.image[rows], claims.text[rows]))
    )
    known, first = np.unique(code, return_index=True)
    at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    return np.where(known[at] == wanted, first[at], -1) if len(known) else np.full(len(rows), -1)


def _add_unclaimed_sources(
    claims: Claims, rows: np.ndarray, captions: KeptCaptions, min_similarity: float
) -> KeptCaptions:
    """Return the captions with more sources: texts of phrases that nobody claims as a caption.

    Each becomes a version of the kept caption of its image that it is most similar to.
    """
    lost = rows[_find_sources(claims, rows, captions) < 0]
    lost = lost[np.isin(claims.image[lost], captions.image)]
    code, first = np.unique(claims.image[lost] * len(claims.texts) + claims.text[lost], return_index=True)
    if not len(code):
        return captions
    image, text = claims.image[lost[first]], claims.text[lost[first]]
    known, row = np.unique(text, return_inverse=True)
    whole = [claims.texts[k] for k in known.tolist()]
    spans = [find_description(t) for t in whole]
    texts = captions.texts + tokenize_texts([t[a:b] for t, (a, b) in zip(whole, spans, strict=True)])
    row += len(captions.texts)
    # every pair of such a text and a kept caption of its image, in order
    order = np.argsort(captions.image, kind="stable")
    begin, end = (np.searchsorted(captions.image[order], image, side=side) for side in ("left", "right"))
    pair = np.repeat(np.arange(len(code)), end - begin)
    caption = order[np.arange(len(pair)) - np.repeat(compute_offsets(end - begin)[:-1] - begin, end - begin)]
    _, similarity = align_sequences(texts.select(row[pair]), texts.select(captions.row[caption]))
    best = np.lexsort((caption, -similarity, pair))
    best = best[np.r_[True, np.diff(pair[best]) != 0]]
    best = best[similarity[best] >= MIN_SOURCE_SIMILARITY]
    chosen, caption = pair[best], caption[best]
    a, b = texts.select(row[chosen]), texts.select(captions.row[caption])
    position = restrict_alignment(a, b, *align_sequences(a, b), min_similarity)
    start = np.asarray([a for a, _ in spans], np.int64)[np.searchsorted(known, text[chosen])]
    more = PhraseSources(image[chosen], text[chosen], caption, row[chosen], start, position)
    return replace(captions, texts=texts, sources=captions.sources + more)


def _transfer_spans(
    captions: KeptCaptions, source: np.ndarray, spans: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which of n phrases the kept captions have, and their first token there and one past their last.

    ``source``: (n,), the source of each phrase; ``spans``: (n, 2), its characters there.
    """
    sources, texts = captions.sources, captions.texts
    row = sources.row[source]
    owner = np.repeat(np.arange(len(texts)), texts.lengths) * TEXT_STRIDE
    inner = np.clip(spans - sources.start[source][:, None], 0, TEXT_STRIDE - 1) + row[:, None] * TEXT_STRIDE
    a = np.searchsorted(texts.spans[:, 1] + owner, inner[:, 0], side="right")
    b = np.maximum(np.searchsorted(texts.spans[:, 0] + owner, inner[:, 1], side="left"), a)
    # from tokens of the texts to tokens of the sources
    shift = compute_offsets(texts.lengths[sources.row])[source] - texts.offsets[row]
    position, keys = sources.position, texts.keys[texts.positions(sources.row)]
    aligned, content = position >= 0, ~function_word_mask()[keys]
    length, present = b - a, _count_between(aligned, a + shift, b + shift)
    has_content = _count_between(aligned & content, a + shift, b + shift) > 0
    needs_content = _count_between(content, a + shift, b + shift) > 0
    short = np.where(needs_content, ~has_content | (2 * present < length), present < length)
    found = np.flatnonzero((present > 0) & ~short)
    at, end = (a + shift)[found], (b + shift)[found]
    last = len(position) - 1 - _find_next(aligned[::-1])[len(position) - end]
    return found, position[_find_next(aligned)[at]], position[last] + 1


def _count_between(flags: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (n,) how many flags are set from a (n,) up to b (n,)."""
    count = compute_offsets(flags)
    return count[b] - count[a]


def _find_next(flags: np.ndarray) -> np.ndarray:
    """Return (t,) the first index, from each on, where the flag is set; t for none."""
    index = np.where(flags, np.arange(len(flags)), len(flags))
    return np.minimum.accumulate(index[::-1])[::-1]
