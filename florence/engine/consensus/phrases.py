"""The places of a caption's phrases: what annotators found for their own versions of it, brought to the one that was kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.claims import Claims
from florence.engine.consensus.boxes import (
    BoxClaims,
    BoxClusters,
    BoxModels,
    BoxVoteRules,
    FusedBoxes,
    cluster_boxes,
    fuse_boxes,
    pick_polygons,
)
from florence.engine.consensus.phrase_binding import GROUNDING, KIND, LONG, NO_CAPTION, Bound, Kept, bind, claimed_spans
from florence.engine.filters.phrases import flag_blacklisted_phrases, flag_overlapping_phrases, flag_repeated_boxes
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.filters.regions import flag_degenerate_boxes, flag_duplicates, flag_near_full_boxes
from florence.engine.filters.scores import flag_low_confidence, flag_low_phrase_scores, flag_low_scores
from florence.engine.labels import Labels
from florence.engine.polygon_lists import empty_polygons
from florence.engine.wording.sequences import compute_offsets


def phrase_units(
    claims: Claims, bound: Bound, captions: Kept, size: np.ndarray | None, settings: EngineSettings
) -> BoxClaims:
    """Every region of every phrase that has its place in a kept caption, in the order of the phrases."""
    slot_of = np.full(len(claims), -1, np.int64)
    slot_of[bound.rows] = bound.slot
    region = np.flatnonzero(slot_of[claims.regions.claim] >= 0)
    region = region[np.argsort(slot_of[claims.regions.claim[region]], kind="stable")]
    claim = claims.regions.claim[region]
    slot = slot_of[claim]
    text = [whole[a:b] for whole, (a, b) in zip(captions.texts(bound.caption), bound.span.tolist(), strict=True)]
    phrase = tuple(text[k] for k in slot.tolist())
    bounds, score, human = (
        claims.regions.bounds[region],
        claims.regions.score[region],
        claims.is_human[claims.annotator[claim]],
    )
    found = [
        ("blacklisted", flag_blacklisted_phrases(text, settings)[slot]),
        ("low_score", flag_low_scores(score, claims.annotator[claim], GROUNDING, claims.annotators, settings)),
        (
            "low_phrase_score",
            flag_low_phrase_scores(claims.score[claim], claims.annotator[claim], claims.annotators, settings),
        ),
        ("degenerate", flag_degenerate_boxes(bounds, settings)),
    ]
    if size is not None:
        found.append(("near_full", flag_near_full_boxes(bounds, size[claims.image[claim]], settings)))
    ruled = np.zeros(len(text), bool)
    ruled[slot[human]] = True
    found = [
        ("no_place", np.isnan(bounds).any(axis=1)),
        *((name, applies & ~human) for name, applies in found),
        ("rejected", ruled[slot] & ~human),
    ]
    found.append(("repeated", flag_repeated_boxes(claims, region, slot) & ~human))
    # all that is said of a phrase is that it is here: to the vote all phrases are of one name
    return BoxClaims(
        claim,
        region,
        slot,
        claims.image[claim],
        claims.annotator[claim],
        bounds,
        phrase,
        np.zeros(len(slot), np.int64),
        score,
        choose_first_reason(len(claim), found),
        human,
        ("",),
    )


def could_say(claims: Claims, bound: Bound, captions: Kept) -> np.ndarray:
    """(slots, A) who looks for phrases in the image, without those whose own version of the caption has nothing of the phrase."""
    able = claims.asked(KIND)[captions.image[bound.caption]]
    # every pair of a phrase and a version of its caption
    count = np.bincount(captions.caption, minlength=len(captions.image))
    size = count[bound.caption]
    row = np.repeat(np.arange(len(size)), size)
    version = np.argsort(captions.caption, kind="stable")[
        np.arange(len(row)) - np.repeat(compute_offsets(size)[:-1] - compute_offsets(count)[bound.caption], size)
    ]
    length = captions.lines.lengths[captions.source.line[: len(captions.annotator)]]
    to = captions.source.to[: int(length.sum())]
    there = np.flatnonzero(to >= 0)
    at = to[there] + np.repeat(np.arange(len(length)), length)[there] * LONG
    low, high = (np.searchsorted(at, version * LONG + bound.tokens[row, side]) for side in (0, 1))
    able[row, captions.annotator[version]] &= low < high
    return able


def ask_phrases(
    claims: Claims, captions: Kept, size: np.ndarray | None, settings: EngineSettings, known: BoxModels | None = None
) -> tuple[Bound, BoxClusters]:
    """The poll on all places of the phrases of kept captions. ``size``: of the images; None filters nothing by it. ``known``: what was found of other images."""
    bound = bind(claims, captions, settings)
    units = phrase_units(claims, bound, captions, size, settings)
    able = could_say(claims, bound, captions)
    draws = known.masks_only if known else None
    if draws is None:
        count = len(claims.annotators)
        drawing = np.bincount(units.annotator, units.reason == "repeated", minlength=count)
        draws = (drawing > 0) & (drawing == np.bincount(units.annotator, minlength=count))
    # who does nothing but draw outlines in others' boxes is not silent where it drew none
    able[:, draws] = False
    clusters = cluster_boxes(claims, units, able, settings, BoxVoteRules(), known)
    return bound, replace(clusters, models=replace(clusters.models, masks_only=draws))


def phrase_labels(
    claims: Claims, captions: Kept, bound: Bound, asked: BoxClusters, settings: EngineSettings
) -> list[Labels]:
    """One row for each phrase of a kept caption with all its places; then the claims about phrases that no kept caption has."""
    fused = fuse_boxes(claims, asked, settings)
    return [_rows(claims, bound, captions, asked, fused, settings), _unbound(claims, bound)]


def _rows(
    claims: Claims, bound: Bound, captions: Kept, asked: BoxClusters, fused: FusedBoxes, settings: EngineSettings
) -> Labels:
    units = asked.claims
    slot = units.scope[fused.source]
    heard = asked.item >= 0
    reason = np.where(heard, "", units.reason[fused.source]).astype(object)
    reason[(reason == "") & flag_low_confidence(fused.confidence, settings.min_confidence)] = "low_confidence"
    rank = np.nan_to_num(fused.confidence, nan=-1.0)
    good = reason == ""
    reason[
        np.flatnonzero(good)[
            flag_duplicates(slot[good], np.zeros(int(good.sum()), np.int64), fused.box[good], rank[good], settings)
        ]
    ] = "duplicate"
    good = np.flatnonzero(reason == "")
    words = captions.lines.slice(captions.line[bound.caption], bound.tokens)
    reason[
        good[
            flag_overlapping_phrases(
                bound.caption[slot[good]], slot[good], fused.box[good], rank[good], words, bound.tokens, settings
            )
        ]
    ] = "overlapping_phrase"
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
    means = np.bincount(slot[shown], np.nan_to_num(fused.score[shown], nan=0), minlength=len(bound.caption))[
        slot[best]
    ] / np.maximum(count, 1)
    return Labels(
        annotation_type=KIND,
        image=units.image[fused.source][best],
        text=captions.texts(caption),
        score=np.where(np.isnan(fused.score[best]), np.nan, means),
        confidence=fused.confidence[best],
        reason=reason[best].tolist(),
        count=count,
        label=[units.text[k] for k in fused.source[shown].tolist()],
        box=fused.box[shown],
        quad=np.full((len(shown), 8), np.nan),
        polygons=pick_polygons(claims.regions, asked, fused, shown),
        region_score=fused.score[shown],
        span=span[shown],
        order=np.stack([captions.kind[caption], span[best, 0], span[best, 1], np.zeros(len(best))], axis=1),
        keep_polygons=units.is_human[fused.source[shown]],
    )


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
        annotation_type=KIND,
        image=claims.image[rows],
        text=[claims.texts[k] for k in claims.text[rows].tolist()],
        score=claims.score[rows],
        confidence=np.full(len(rows), np.nan),
        reason=["no_caption" if slot == NO_CAPTION else "not_in_caption" for slot in bound.slot[lost].tolist()],
        count=count,
        label=regions.label.take(pa.array(index)).to_pylist(),
        box=regions.bounds[index],
        quad=np.full((len(index), 8), np.nan),
        polygons=empty_polygons(len(index)),
        region_score=regions.score[index],
        span=regions.span[index],
        order=np.stack([np.full(len(rows), 99), spans[:, 0], spans[:, 1], claims.annotator[rows]], axis=1)
        .astype(float)
        .reshape(-1, 4),
    )
