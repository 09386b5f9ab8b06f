"""Phrases of the kept captions: the boxes that annotators claim for each, clustered, voted on and fused."""

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
    measure_agreement,
    pick_polygons,
)
from florence.engine.consensus.phrase_binding import (
    GROUNDING,
    NO_CAPTION,
    PHRASE_TYPE,
    TEXT_STRIDE,
    BoundPhrases,
    KeptCaptions,
    bind_phrases,
    find_claimed_spans,
)
from florence.engine.filters.phrases import flag_blacklisted_phrases, flag_overlapping_phrases, flag_repeated_boxes
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.filters.regions import flag_degenerate_boxes, flag_duplicates, flag_near_full_boxes
from florence.engine.filters.scores import flag_low_confidence, flag_low_phrase_scores, flag_low_scores
from florence.engine.labels import Labels
from florence.engine.polygon_lists import empty_polygons
from florence.engine.wording.sequences import compute_offsets

LAST = 99
"""Order of claims about phrases that no kept caption has: after the phrases of captions of every type."""

PHRASE_PRECISION = 0.9
"""Share right of the boxes of phrases, before anything is known: scores rate a match, not a box."""


def collect_phrase_boxes(
    claims: Claims, bound: BoundPhrases, captions: KeptCaptions, size: np.ndarray | None, settings: EngineSettings
) -> BoxClaims:
    """Return every region of every bound phrase, in the order of the phrases, with the reasons against each.

    ``size``: (images, 2) width and height; None: boxes are not compared with their image.
    """
    phrase_of = np.full(len(claims), -1, np.int64)
    phrase_of[bound.rows] = bound.phrase
    region = np.flatnonzero(phrase_of[claims.regions.claim] >= 0)
    region = region[np.argsort(phrase_of[claims.regions.claim[region]], kind="stable")]
    claim = claims.regions.claim[region]
    phrase = phrase_of[claim]
    final = captions.final_texts(bound.caption)
    text = [whole[a:b] for whole, (a, b) in zip(final, bound.span.tolist(), strict=True)]
    bounds, score, annotator = claims.regions.bounds[region], claims.regions.score[region], claims.annotator[claim]
    is_human = claims.is_human[annotator]
    masks = [
        ("blacklisted", flag_blacklisted_phrases(text, settings)[phrase]),
        ("low_score", flag_low_scores(score, annotator, GROUNDING, claims.annotators, settings)),
        ("low_phrase_score", flag_low_phrase_scores(claims.score[claim], annotator, claims.annotators, settings)),
        ("degenerate", flag_degenerate_boxes(bounds, settings)),
    ]
    if size is not None:
        masks.append(("near_full", flag_near_full_boxes(bounds, size[claims.image[claim]], settings)))
    by_person = np.zeros(len(text), bool)
    by_person[phrase[is_human]] = True
    masks = [
        ("no_place", np.isnan(bounds).any(axis=1)),
        *((reason, applies & ~is_human) for reason, applies in masks),
        ("rejected", by_person[phrase] & ~is_human),
        ("repeated", flag_repeated_boxes(claims, region, phrase) & ~is_human),
    ]
    # an annotator claims of a phrase only that it is here: in the vote all phrases have one label
    return BoxClaims(
        claim=claim,
        region=region,
        scope=phrase,
        image=claims.image[claim],
        annotator=annotator,
        bounds=bounds,
        text=tuple(text[k] for k in phrase.tolist()),
        label=np.zeros(len(phrase), np.int64),
        score=score,
        reason=choose_first_reason(len(claim), masks),
        is_human=is_human,
        label_names=("",),
    )


def find_phrase_coverage(claims: Claims, bound: BoundPhrases, captions: KeptCaptions) -> np.ndarray:
    """Return (phrases, A) who was asked about each phrase: all who ground phrases in the image.

    An annotator whose own version of the caption has no token of the phrase was not.
    """
    coverage = claims.compute_coverage(PHRASE_TYPE)[captions.image[bound.caption]]
    # every pair of a phrase and a version of its caption
    count = np.bincount(captions.caption, minlength=len(captions.image))
    size = count[bound.caption]
    row = np.repeat(np.arange(len(size)), size)
    shift = compute_offsets(size)[:-1] - compute_offsets(count)[bound.caption]
    version = np.argsort(captions.caption, kind="stable")[np.arange(len(row)) - np.repeat(shift, size)]
    length = captions.texts.lengths[captions.sources.row[: len(captions.annotator)]]
    position = captions.sources.position[: int(length.sum())]
    aligned = np.flatnonzero(position >= 0)
    at = position[aligned] + np.repeat(np.arange(len(length)), length)[aligned] * TEXT_STRIDE
    low, high = (np.searchsorted(at, version * TEXT_STRIDE + bound.tokens[row, side]) for side in (0, 1))
    coverage[row, captions.annotator[version]] &= low < high
    return coverage


def cluster_phrases(
    claims: Claims,
    captions: KeptCaptions,
    size: np.ndarray | None,
    settings: EngineSettings,
    known: BoxModels | None = None,
) -> tuple[BoundPhrases, BoxClusters]:
    """Bind the claimed phrases to kept captions, and cluster the boxes of each.

    ``size``: see `collect_phrase_boxes`; ``known``: models estimated on other images.
    """
    bound = bind_phrases(claims, captions, settings)
    boxes = collect_phrase_boxes(claims, bound, captions, size, settings)
    coverage = find_phrase_coverage(claims, bound, captions)
    masks_only = known.masks_only if known else None
    if masks_only is None:
        count = len(claims.annotators)
        repeated = np.bincount(boxes.annotator, boxes.reason == "repeated", minlength=count)
        masks_only = (repeated > 0) & (repeated == np.bincount(boxes.annotator, minlength=count))
    # an annotator that only draws masks in the boxes of others claims nothing by its silence
    coverage[:, masks_only] = False
    clusters = cluster_boxes(
        claims, boxes, coverage, settings, BoxVoteRules(scores_state=False, precision=PHRASE_PRECISION), known
    )
    return bound, replace(clusters, models=replace(clusters.models, masks_only=masks_only))


def make_phrase_labels(
    claims: Claims, captions: KeptCaptions, bound: BoundPhrases, clusters: BoxClusters, settings: EngineSettings
) -> list[Labels]:
    """Return one label for each bound phrase with all its boxes; then the claims that no kept caption has."""
    fused = fuse_boxes(claims, clusters, settings)
    reason = _choose_reasons(captions, bound, clusters, fused, settings)
    return [_label_phrases(claims, captions, bound, clusters, fused, reason), _label_unbound_claims(claims, bound)]


def _choose_reasons(
    captions: KeptCaptions, bound: BoundPhrases, clusters: BoxClusters, fused: FusedBoxes, settings: EngineSettings
) -> np.ndarray:
    """Return (k,) the drop reason of each cluster, empty where it is kept."""
    phrase = clusters.claims.scope[fused.source]
    reason = np.where(clusters.item >= 0, "", clusters.claims.reason[fused.source]).astype(object)
    reason[(reason == "") & flag_low_confidence(fused.confidence, settings.min_confidence)] = "low_confidence"
    rank = np.nan_to_num(fused.confidence, nan=-1.0)
    good = np.flatnonzero(reason == "")
    label = np.zeros(len(good), np.int64)
    reason[good[flag_duplicates(phrase[good], label, fused.box[good], rank[good], settings)]] = "duplicate"
    good = np.flatnonzero(reason == "")
    words = captions.texts.slice(captions.row[bound.caption], bound.tokens)
    overlapping = flag_overlapping_phrases(
        bound.caption[phrase[good]], phrase[good], fused.box[good], rank[good], words, bound.tokens, settings
    )
    reason[good[overlapping]] = "overlapping_phrase"
    return reason


def _label_phrases(
    claims: Claims,
    captions: KeptCaptions,
    bound: BoundPhrases,
    clusters: BoxClusters,
    fused: FusedBoxes,
    reason: np.ndarray,
) -> Labels:
    """Return one label for each phrase: kept with all kept boxes, or dropped with the best one."""
    boxes, count_phrases = clusters.claims, len(bound.caption)
    phrase = boxes.scope[fused.source]
    rank = np.nan_to_num(fused.confidence, nan=-1.0)
    order = np.lexsort((np.arange(len(phrase)), -rank, reason != "", phrase))
    first = np.flatnonzero(np.r_[True, np.diff(phrase[order]) != 0]) if len(order) else np.zeros(0, np.int64)
    best = order[first]
    shown = order[(reason[order] == "") | np.isin(np.arange(len(order)), first)]
    shown = shown[np.lexsort((fused.box[shown, 0], fused.box[shown, 1], phrase[shown]))]
    shown = shown[~np.isnan(fused.box[shown]).any(axis=1)]
    count = np.bincount(phrase[shown], minlength=count_phrases)[phrase[best]]
    caption, span = bound.caption[phrase[best]], bound.span[phrase]
    sums = np.bincount(phrase[shown], np.nan_to_num(fused.score[shown], nan=0), minlength=count_phrases)
    means = sums[phrase[best]] / np.maximum(count, 1)
    return Labels(
        annotation_type=PHRASE_TYPE,
        image=boxes.image[fused.source][best],
        text=captions.final_texts(caption),
        score=np.where(np.isnan(fused.score[best]), np.nan, means),
        confidence=fused.confidence[best],
        reason=reason[best].tolist(),
        count=count,
        label=[boxes.text[k] for k in fused.source[shown].tolist()],
        box=fused.box[shown],
        quad=np.full((len(shown), 8), np.nan),
        polygons=pick_polygons(claims.regions, clusters, fused, shown),
        region_score=fused.score[shown],
        span=span[shown],
        order=np.stack([captions.annotation_type[caption], span[best, 0], span[best, 1], np.zeros(len(best))], axis=1),
        keep_polygons=boxes.is_human[fused.source[shown]],
        agreement=measure_agreement(clusters, best, np.zeros(len(best), np.int64)),
    )


def _label_unbound_claims(claims: Claims, bound: BoundPhrases) -> Labels:
    """Return the claims about phrases that no kept caption has, as they were claimed."""
    unbound = bound.phrase < 0
    rows = bound.rows[unbound]
    regions = claims.regions
    index = np.flatnonzero(np.isin(regions.claim, rows) & ~np.isnan(regions.bounds).any(axis=1))
    count = np.bincount(np.searchsorted(rows, regions.claim[index]), minlength=len(rows))
    spans = find_claimed_spans(claims, rows)
    order = np.stack([np.full(len(rows), LAST), spans[:, 0], spans[:, 1], claims.annotator[rows]], axis=1)
    return Labels(
        annotation_type=PHRASE_TYPE,
        image=claims.image[rows],
        text=[claims.texts[k] for k in claims.text[rows].tolist()],
        score=claims.score[rows],
        confidence=np.full(len(rows), np.nan),
        reason=["no_caption" if k == NO_CAPTION else "not_in_caption" for k in bound.phrase[unbound].tolist()],
        count=count,
        label=regions.label.take(pa.array(index)).to_pylist(),
        box=regions.bounds[index],
        quad=np.full((len(index), 8), np.nan),
        polygons=empty_polygons(len(index)),
        region_score=regions.score[index],
        span=regions.span[index],
        order=order.astype(float).reshape(-1, 4),
    )
