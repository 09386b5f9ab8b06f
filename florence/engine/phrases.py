"""The places of a caption's phrases: what annotators found for their own versions of it, brought to the one that was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import pyarrow as pa

from florence.config import Engine
from florence.engine import filters
from florence.engine.alignment import LEADING, Lines, aligned, fixed, lines, starts
from florence.engine.alt_text import bare
from florence.engine.columns import NO_SPAN, Claims, Labels, no_polygons
from florence.engine.enhance import placed
from florence.engine.places import Fused, Poll, Units, ask, fuse, is_human, outlines
from florence.engine.texts import Captions
from florence.records import KINDS

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
KIND = KINDS.index(GROUNDING)
RELATED = 0.3
"""Likeness from which the caption that a phrase was found in is taken for a version of one that was kept."""
NO_PHRASE, NO_CAPTION = -1, -2
_LONG = 1 << 32
"""More than a text has characters or tokens."""


@dataclass(frozen=True)
class Kept:
    """The captions of all kinds that were kept. ``image``, ``kind``: (k,); ``line``: (k,), row of ``lines``, the final text. ``author``, ``caption``: (v,), of each version
    that somebody gave of one; ``source``: the texts that phrases may be found in.
    """

    image: np.ndarray
    kind: np.ndarray
    line: np.ndarray
    lines: Lines
    author: np.ndarray
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
        return Sources(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__dataclass_fields__))


def kept(parts: Sequence[Captions]) -> Kept:
    """The captions that were kept, kind by kind."""
    texts = reduce(add, (part.lines for part in parts))
    shift = starts(np.asarray([len(part.lines) for part in parts]))
    image, kind, line, author, sources, count = [], [], [], [], [], 0
    for part, base in zip(parts, shift.tolist(), strict=False):
        good = part.reason == ""
        number = np.cumsum(good) - 1 + count
        found, mine = part.candidates, good[part.item]
        tokens = np.repeat(mine, found.lines.lengths[found.line])
        image.append(part.image[good])
        kind.append(np.full(int(good.sum()), part.kind))
        line.append(part.line[good] + base)
        author.append(found.author[mine])
        sources.append(Sources(found.image[mine], found.text[mine], number[part.item[mine]], found.line[mine] + base, found.start[mine], part.to[tokens]))
        count += int(good.sum())
    source = reduce(add, sources)
    return Kept(np.concatenate(image), np.concatenate(kind), np.concatenate(line), texts, np.concatenate(author), source.caption, source)


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


def bind(claims: Claims, captions: Kept, settings: Engine) -> Bound:
    """Find each claimed phrase in the caption that was kept of the one it was found in."""
    rows = np.flatnonzero(claims.kind == KIND)
    spans = claimed_spans(claims, rows)
    captions = _related(claims, rows, captions, settings.alike)
    source = _sources(claims, rows, captions)
    slot = np.where(source < 0, NO_CAPTION, NO_PHRASE)
    asked = np.flatnonzero(source >= 0)
    found, low, high = _brought(captions, source[asked], spans[asked])
    asked = asked[found]
    caption = captions.source.caption[source[asked]]
    final = captions.line[caption]
    at = captions.lines.first[final]
    fit = np.stack([captions.lines.spans[at + low, 0], captions.lines.spans[at + high - 1, 1]], axis=1)
    lead = np.minimum(_next(~np.isin(captions.lines.keys, list(LEADING)))[at + low] - at, high - 1)
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
    code, wanted = (image * len(claims.texts) + text for image, text in ((captions.source.image, captions.source.text), (claims.image[rows], claims.text[rows])))
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
    spans = [bare(t) for t in whole]
    texts = captions.lines + lines([t[a:b] for t, (a, b) in zip(whole, spans, strict=True)])
    line += len(captions.lines)
    # every pair of such a text and a kept caption of its image, in order
    order = np.argsort(captions.image, kind="stable")
    begin, end = (np.searchsorted(captions.image[order], image, side=side) for side in ("left", "right"))
    pair = np.repeat(np.arange(len(code)), end - begin)
    caption = order[np.arange(len(pair)) - np.repeat(starts(end - begin)[:-1] - begin, end - begin)]
    _, similarity = aligned(texts.chosen(line[pair]), texts.chosen(captions.line[caption]))
    best = np.lexsort((caption, -similarity, pair))
    best = best[np.r_[True, np.diff(pair[best]) != 0]]
    best = best[similarity[best] >= RELATED]
    who, caption = pair[best], caption[best]
    a, b = texts.chosen(line[who]), texts.chosen(captions.line[caption])
    to = placed(a, b, *aligned(a, b), alike)
    start = np.asarray([a for a, _ in spans], np.int64)[np.searchsorted(known, text[who])]
    more = Sources(image[who], text[who], caption, line[who], start, to)
    return replace(captions, lines=texts, source=captions.source + more)


def _brought(captions: Kept, source: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of n phrases, characters ``spans`` of their sources, the final captions have, and for those the first and one past the last of their tokens there.

    A phrase is there where half of it is, a word that names something included; one that has no such word, whole.
    """
    sources, texts = captions.source, captions.lines
    line = sources.line[source]
    owner = np.repeat(np.arange(len(texts)), texts.lengths) * _LONG
    inner = np.clip(spans - sources.start[source][:, None], 0, _LONG - 1) + line[:, None] * _LONG
    a = np.searchsorted(texts.spans[:, 1] + owner, inner[:, 0], side="right")
    b = np.maximum(np.searchsorted(texts.spans[:, 0] + owner, inner[:, 1], side="left"), a)
    # from the tokens of the line to those of the source
    shift = starts(texts.lengths[sources.line])[source] - texts.first[line]
    to, keys = sources.to, texts.keys[texts.at(sources.line)]
    there, naming = to >= 0, ~fixed()[keys]
    length, present = b - a, _between(there, a + shift, b + shift)
    named = _between(there & naming, a + shift, b + shift) > 0
    short = np.where(_between(naming, a + shift, b + shift) > 0, ~named | (2 * present < length), present < length)
    found = np.flatnonzero((present > 0) & ~short)
    at, end = (a + shift)[found], (b + shift)[found]
    return found, to[_next(there)[at]], to[len(to) - 1 - _next(there[::-1])[len(to) - end]] + 1


def _between(flags: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) how many flags are set from a (n,) up to b (n,)."""
    count = starts(flags)
    return count[b] - count[a]


def _next(flags: np.ndarray) -> np.ndarray:
    """(t,) the first place, from each on, where the flag is set; t where it is set nowhere after."""
    place = np.where(flags, np.arange(len(flags)), len(flags))
    return np.minimum.accumulate(place[::-1])[::-1]


# ---------------------------------------------------------------- fusing


def phrase_units(claims: Claims, bound: Bound, captions: Kept, size: np.ndarray | None, settings: Engine) -> Units:
    """Every region of every phrase that has its place in a kept caption, in the order of the phrases."""
    slot_of = np.full(len(claims), -1, np.int64)
    slot_of[bound.rows] = bound.slot
    region = np.flatnonzero(slot_of[claims.regions.claim] >= 0)
    region = region[np.argsort(slot_of[claims.regions.claim[region]], kind="stable")]
    claim = claims.regions.claim[region]
    slot = slot_of[claim]
    text = [whole[a:b] for whole, (a, b) in zip(captions.texts(bound.caption), bound.span.tolist(), strict=True)]
    phrase = tuple(text[k] for k in slot.tolist())
    bounds, score, human = claims.regions.bounds[region], claims.regions.score[region], is_human(claims)[claims.author[claim]]
    found = [
        ("blacklisted", filters.blacklisted(text, settings)[slot]), ("low_score", filters.low_score(score, claims.author[claim], GROUNDING, claims.authors, settings)),
        ("low_phrase_score", filters.low_phrase_score(claims.score[claim], claims.author[claim], claims.authors, settings)),
        ("degenerate", filters.degenerate(bounds, settings)),
    ]  # fmt: skip
    if size is not None:
        found.append(("near_full", filters.near_full(bounds, size[claims.image[claim]], settings)))
    ruled = np.zeros(len(text), bool)
    ruled[slot[human]] = True
    found = [("no_place", np.isnan(bounds).any(axis=1)), *((name, applies & ~human) for name, applies in found), ("rejected", ruled[slot] & ~human)]
    return Units(
        claim, region, slot, claims.image[claim], claims.author[claim], bounds, phrase, slot, score, filters.first_reason(len(claim), found), human
    )


def could_say(claims: Claims, bound: Bound, captions: Kept) -> np.ndarray:
    """(slots, A) who looks for phrases in the image, without those whose own version of the caption has nothing of the phrase."""
    able = claims.able(KIND)[captions.image[bound.caption]]
    # every pair of a phrase and a version of its caption
    count = np.bincount(captions.caption, minlength=len(captions.image))
    size = count[bound.caption]
    row = np.repeat(np.arange(len(size)), size)
    version = np.argsort(captions.caption, kind="stable")[np.arange(len(row)) - np.repeat(starts(size)[:-1] - starts(count)[bound.caption], size)]
    length = captions.lines.lengths[captions.source.line[: len(captions.author)]]
    to = captions.source.to[: int(length.sum())]
    there = np.flatnonzero(to >= 0)
    at = to[there] + np.repeat(np.arange(len(length)), length)[there] * _LONG
    low, high = (np.searchsorted(at, version * _LONG + bound.tokens[row, side]) for side in (0, 1))
    able[row, captions.author[version]] &= low < high
    return able


def ask_phrases(claims: Claims, captions: Kept, size: np.ndarray | None, settings: Engine) -> tuple[Bound, Poll]:
    """The poll on all places of the phrases of kept captions. ``size``: of the images; None filters nothing by it."""
    bound = bind(claims, captions, settings)
    units = phrase_units(claims, bound, captions, size, settings)
    return bound, ask(claims, units, could_say(claims, bound, captions), settings, None)


def fuse_phrases(claims: Claims, parts: Sequence[Captions], size: np.ndarray, settings: Engine) -> list[Labels]:
    """One row for each phrase of a kept caption with all its places; then the claims about phrases that no kept caption has. ``parts``: captions by kind."""
    captions = kept(parts)
    bound, asked = ask_phrases(claims, captions, size, settings)
    fused = fuse(claims, asked, settings)
    return [_rows(claims, bound, captions, asked, fused, settings), _unbound(claims, bound)]


def _rows(claims: Claims, bound: Bound, captions: Kept, asked: Poll, fused: Fused, settings: Engine) -> Labels:
    units = asked.units
    slot = units.group[fused.speaker]
    heard = asked.thing >= 0
    reason = np.where(heard, "", units.reason[fused.speaker]).astype(object)
    reason[(reason == "") & filters.no_quorum(fused.agreement, settings.quorum)] = "no_quorum"
    rank = np.nan_to_num(fused.agreement, nan=-1.0)
    good = reason == ""
    reason[np.flatnonzero(good)[filters.duplicate(slot[good], np.zeros(int(good.sum()), np.int64), fused.box[good], rank[good], settings)]] = "duplicate"
    good = np.flatnonzero(reason == "")
    words = captions.lines.parts(captions.line[bound.caption], bound.tokens)
    reason[good[filters.overlapping_phrase(bound.caption[slot[good]], slot[good], fused.box[good], rank[good], words, bound.tokens, settings)]] = "overlapping_phrase"
    # the best place of each phrase speaks for it; a phrase that is kept has all its kept places, one that is dropped the best
    order = np.lexsort((np.arange(len(slot)), -rank, reason != "", slot))
    first = np.flatnonzero(np.r_[True, np.diff(slot[order]) != 0]) if len(order) else np.zeros(0, np.int64)
    best = order[first]
    shown = order[(reason[order] == "") | np.isin(np.arange(len(order)), first)]
    shown = shown[np.lexsort((fused.box[shown, 0], fused.box[shown, 1], slot[shown]))]
    shown = shown[~np.isnan(fused.box[shown]).any(axis=1)]
    count = np.bincount(slot[shown], minlength=len(bound.caption))[slot[best]]
    caption = bound.caption[slot[best]]
    span = bound.span[slot]
    means = np.bincount(slot[shown], np.nan_to_num(fused.score[shown], nan=0), minlength=len(bound.caption))[slot[best]] / np.maximum(count, 1)
    return Labels(
        kind=KIND, image=units.image[fused.speaker][best], text=captions.texts(caption),
        score=np.where(np.isnan(fused.score[best]), np.nan, means), agreement=fused.agreement[best], reason=reason[best].tolist(), count=count,
        label=[units.text[k] for k in fused.speaker[shown].tolist()], box=fused.box[shown], quad=np.full((len(shown), 8), np.nan),
        polygons=outlines(claims.regions, asked, fused, shown), region_score=fused.score[shown], span=span[shown],
        order=np.stack([captions.kind[caption], span[best, 0], span[best, 1], np.zeros(len(best))], axis=1),
    )  # fmt: skip


def _unbound(claims: Claims, bound: Bound) -> Labels:
    """Claims about phrases that have no place in a kept caption, as they were made."""
    lost = bound.slot < 0
    rows = bound.rows[lost]
    regions = claims.regions
    mine = np.isin(regions.claim, rows) & ~np.isnan(regions.bounds).any(axis=1)
    index = np.flatnonzero(mine)
    count = np.bincount(np.searchsorted(rows, regions.claim[index]), minlength=len(rows))
    spans = claimed_spans(claims, rows)
    return Labels(
        kind=KIND, image=claims.image[rows], text=[claims.texts[k] for k in claims.text[rows].tolist()], score=claims.score[rows],
        agreement=np.full(len(rows), np.nan), reason=["no_caption" if slot == NO_CAPTION else "not_in_caption" for slot in bound.slot[lost].tolist()],
        count=count, label=regions.label.take(pa.array(index)).to_pylist(), box=regions.bounds[index], quad=np.full((len(index), 8), np.nan),
        polygons=no_polygons(len(index)), region_score=regions.score[index], span=regions.span[index],
        order=np.stack([np.full(len(rows), 99), spans[:, 0], spans[:, 1], claims.author[rows]], axis=1).astype(float).reshape(-1, 4),
    )  # fmt: skip
