"""The places of a caption's phrases: what annotators found for their own versions of it, brought to the one that was kept."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from florence.config import Engine
from florence.engine import filters
from florence.engine.alignment import LEADING, Tokens, align, names, tokens
from florence.engine.columns import NO_SPAN, Claims, Labels, no_polygons
from florence.engine.enhance import bare, placed
from florence.engine.places import Fused, Poll, Units, ask, fuse, is_human, outlines
from florence.engine.texts import Caption
from florence.records import KINDS

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
KIND = KINDS.index(GROUNDING)
RELATED = 0.3
"""Likeness from which the caption that a phrase was found in is taken for a version of one that was kept."""

Slot = tuple[int, int, int, int]
"""A phrase of a kept caption: image, kind of the caption, its first token that is no article, one past its last."""


@dataclass(frozen=True)
class Bound:
    """Where claims about phrases belong. ``slot``: number of the phrase of each claim (n,), -1 where the kept captions do not have it, -2 where there is no
    caption; ``slots``: in order; ``span``: (slots, 2), its characters in its caption; ``caption``: (slots,), index into the captions.
    """

    rows: np.ndarray
    slot: np.ndarray
    slots: tuple[Slot, ...]
    span: np.ndarray
    caption: np.ndarray


def bind(claims: Claims, captions: Sequence[Caption], settings: Engine) -> Bound:
    """Find each claimed phrase in the caption that was kept of the one it was found in."""
    rows = np.flatnonzero(claims.kind == KIND)
    spans = _claimed_spans(claims, rows)
    kept = _Kept(captions, settings.alike)
    texts = [claims.texts[k] for k in claims.text[rows].tolist()]
    kept.relate([(image, text) for image, text in zip(claims.image[rows].tolist(), texts, strict=True)])
    found: list[tuple[Slot, tuple[int, int], int] | int] = []
    for image, text, span in zip(claims.image[rows].tolist(), texts, spans.tolist(), strict=True):
        found.append(kept.slot(image, text, span))
    wanted: dict[Slot, Counter[tuple[int, int]]] = {}
    where: dict[Slot, int] = {}
    for one in found:
        if not isinstance(one, int):
            wanted.setdefault(one[0], Counter())[one[1]] += 1
            where[one[0]] = one[2]
    slots = tuple(sorted(wanted))
    number = {slot: k for k, slot in enumerate(slots)}
    # of the ways that a phrase is cut, the most frequent; of equals the longest
    cut = [max(sorted(wanted[slot]), key=lambda span: (wanted[slot][span], span[1] - span[0])) for slot in slots]
    return Bound(
        rows, np.asarray([one if isinstance(one, int) else number[one[0]] for one in found], np.int64), slots,
        np.asarray(cut, np.int64).reshape(-1, 2), np.asarray([where[slot] for slot in slots], np.int64),
    )  # fmt: skip


def _claimed_spans(claims: Claims, rows: np.ndarray) -> np.ndarray:
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


class _Kept:
    """The kept captions, and the way from a claimed text's tokens to theirs."""

    def __init__(self, captions: Sequence[Caption], alike: float) -> None:
        self.captions, self.alike = captions, alike
        self.by_image: dict[int, list[int]] = {}
        self.source: dict[tuple[int, str], tuple[int, Tokens, int, np.ndarray]] = {}
        for k, caption in enumerate(captions):
            if caption.reason:
                continue
            self.by_image.setdefault(caption.image, []).append(k)
            for candidate, to in zip(caption.candidates, caption.to, strict=True):
                self.source.setdefault((caption.image, candidate.text), (k, candidate.tokens, candidate.start, to))

    def relate(self, asked: Sequence[tuple[int, str]]) -> None:
        """Find for texts that nobody claimed as a caption the kept caption that they are most like."""
        new = [(image, text) for image, text in dict.fromkeys(asked) if (image, text) not in self.source and image in self.by_image]
        pairs = [(key, tokens(key[1][slice(*bare(key[1]))]), k) for key in new for k in self.by_image[key[0]]]
        best: dict[tuple[int, str], float] = {}
        for (key, said, k), side in zip(pairs, align([(said.keys, self.captions[k].tokens.keys) for _, said, k in pairs]), strict=True):
            if side.similarity >= RELATED and side.similarity > best.get(key, 0.0):
                best[key] = side.similarity
                to = placed(said.keys, self.captions[k].tokens.keys, side, self.alike).to
                self.source[key] = (k, said, bare(key[1])[0], to)

    def slot(self, image: int, text: str, span: Sequence[int]) -> tuple[Slot, tuple[int, int], int] | int:
        """The phrase of a kept caption that characters ``span`` of ``text`` came to, its characters, and which caption.

        -1 where it has no such phrase, -2 where there is no caption.
        """
        if (image, text) not in self.source:
            return -2
        k, said, start, to = self.source[image, text]
        final = self.captions[k].tokens
        a, b = _tokens_within(said, span[0] - start, span[1] - start)
        at = [(key, j) for key, j in zip(said.keys[a:b], to[a:b].tolist(), strict=True) if j >= 0]
        # a phrase is there where half of it is, a word that names something included; one that has no such word, whole
        naming = any(names(key) for key in said.keys[a:b])
        if not at or (not any(names(key) for key, _ in at) or 2 * len(at) < b - a if naming else len(at) < b - a):
            return -1
        low, high = at[0][1], at[-1][1] + 1
        lead = low
        while lead < high - 1 and final.keys[lead] in LEADING:
            lead += 1
        return (image, self.captions[k].kind, lead, high), (final.spans[low][0], final.spans[high - 1][1]), k


def _tokens_within(text: Tokens, start: int, end: int) -> tuple[int, int]:
    """First and one past the last token that overlap characters start…end; equal where none does."""
    a = bisect_right(text.spans, start, key=lambda span: span[1])
    b = bisect_left(text.spans, end, key=lambda span: span[0])
    return a, max(a, b)


# ---------------------------------------------------------------- fusing


def phrase_units(claims: Claims, bound: Bound, captions: Sequence[Caption], size: np.ndarray | None, settings: Engine) -> Units:
    """Every region of every phrase that has its place in a kept caption, in the order of the phrases."""
    slot_of = np.full(len(claims), -1, np.int64)
    slot_of[bound.rows] = bound.slot
    region = np.flatnonzero(slot_of[claims.regions.claim] >= 0)
    region = region[np.argsort(slot_of[claims.regions.claim[region]], kind="stable")]
    claim = claims.regions.claim[region]
    slot = slot_of[claim]
    text = [captions[c].tokens.text[a:b] for c, (a, b) in zip(bound.caption.tolist(), bound.span.tolist(), strict=True)]
    phrase = tuple(text[k] for k in slot.tolist())
    bounds, score, human = claims.regions.bounds[region], claims.regions.score[region], is_human(claims)[claims.author[claim]]
    found = [
        ("blacklisted", filters.blacklisted(phrase, settings)), ("low_score", filters.low_score(score, GROUNDING, settings)),
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


def could_say(claims: Claims, bound: Bound, captions: Sequence[Caption]) -> np.ndarray:
    """(slots, A) who looks for phrases in the image, without those whose own version of the caption has nothing of the phrase."""
    able = claims.able(KIND)[[slot[0] for slot in bound.slots]] if bound.slots else np.zeros((0, len(claims.authors)), bool)
    has: dict[int, list[tuple[int, np.ndarray]]] = {}
    for row, (slot, k) in enumerate(zip(bound.slots, bound.caption.tolist(), strict=True)):
        if k not in has:
            has[k] = [(candidate.author, np.unique(to)) for candidate, to in zip(captions[k].candidates, captions[k].to, strict=True)]
        for author, at in has[k]:
            low, high = np.searchsorted(at, slot[2:])
            able[row, author] &= low < high
    return able


def ask_phrases(claims: Claims, captions: Sequence[Caption], size: np.ndarray | None, settings: Engine) -> tuple[Bound, Poll]:
    """The poll on all places of the phrases of kept captions. ``size``: of the images; None filters nothing by it."""
    bound = bind(claims, captions, settings)
    units = phrase_units(claims, bound, captions, size, settings)
    return bound, ask(claims, units, could_say(claims, bound, captions), settings, None)


def fuse_phrases(claims: Claims, captions: Sequence[Caption], size: np.ndarray, settings: Engine) -> list[Labels]:
    """One row for each phrase of a kept caption with all its places; then the claims about phrases that no kept caption has."""
    bound, asked = ask_phrases(claims, captions, size, settings)
    fused = fuse(claims, asked, settings)
    return [_rows(claims, bound, captions, asked, fused, settings), _unbound(claims, bound)]


def _rows(claims: Claims, bound: Bound, captions: Sequence[Caption], asked: Poll, fused: Fused, settings: Engine) -> Labels:
    units = asked.units
    slot = units.group[fused.speaker]
    heard = asked.thing >= 0
    reason = np.where(heard, "", units.reason[fused.speaker]).astype(object)
    reason[(reason == "") & filters.no_quorum(fused.agreement, settings.quorum)] = "no_quorum"
    rank = np.nan_to_num(fused.agreement, nan=-1.0)
    good = reason == ""
    reason[np.flatnonzero(good)[filters.duplicate(slot[good], np.zeros(int(good.sum()), np.int64), fused.box[good], rank[good], settings)]] = "duplicate"
    # the best place of each phrase speaks for it; a phrase that is kept has all its kept places, one that is dropped the best
    order = np.lexsort((np.arange(len(slot)), -rank, reason != "", slot))
    first = np.flatnonzero(np.r_[True, np.diff(slot[order]) != 0]) if len(order) else np.zeros(0, np.int64)
    best = order[first]
    shown = order[(reason[order] == "") | np.isin(np.arange(len(order)), first)]
    shown = shown[np.lexsort((fused.box[shown, 0], fused.box[shown, 1], slot[shown]))]
    shown = shown[~np.isnan(fused.box[shown]).any(axis=1)]
    count = np.bincount(slot[shown], minlength=len(bound.slots))[slot[best]]
    caption = bound.caption[slot[best]]
    span = bound.span[slot]
    means = np.bincount(slot[shown], np.nan_to_num(fused.score[shown], nan=0), minlength=len(bound.slots))[slot[best]] / np.maximum(count, 1)
    kinds = np.asarray([captions[k].kind for k in caption.tolist()], np.int64)
    return Labels(
        kind=KIND, image=units.image[fused.speaker][best], text=[captions[k].tokens.text for k in caption.tolist()],
        score=np.where(np.isnan(fused.score[best]), np.nan, means), agreement=fused.agreement[best], reason=reason[best].tolist(), count=count,
        label=[units.text[k] for k in fused.speaker[shown].tolist()], box=fused.box[shown], quad=np.full((len(shown), 8), np.nan),
        polygons=outlines(claims.regions, asked, fused, shown), region_score=fused.score[shown], span=span[shown],
        order=np.stack([kinds, span[best, 0], span[best, 1], np.zeros(len(best))], axis=1),
    )  # fmt: skip


def _unbound(claims: Claims, bound: Bound) -> Labels:
    """Claims about phrases that have no place in a kept caption, as they were made."""
    lost = bound.slot < 0
    rows = bound.rows[lost]
    regions = claims.regions
    mine = np.isin(regions.claim, rows) & ~np.isnan(regions.bounds).any(axis=1)
    index = np.flatnonzero(mine)
    count = np.bincount(np.searchsorted(rows, regions.claim[index]), minlength=len(rows))
    spans = _claimed_spans(claims, rows)
    return Labels(
        kind=KIND, image=claims.image[rows], text=[claims.texts[k] for k in claims.text[rows].tolist()], score=claims.score[rows],
        agreement=np.full(len(rows), np.nan), reason=["no_caption" if slot == -2 else "not_in_caption" for slot in bound.slot[lost].tolist()],
        count=count, label=regions.label.take(pa.array(index)).to_pylist(), box=regions.bounds[index], quad=np.full((len(index), 8), np.nan),
        polygons=no_polygons(len(index)), region_score=regions.score[index], span=regions.span[index],
        order=np.stack([np.full(len(rows), 99), spans[:, 0], spans[:, 1], claims.author[rows]], axis=1).astype(float).reshape(-1, 4),
    )  # fmt: skip
