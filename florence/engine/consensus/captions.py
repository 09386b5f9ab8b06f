"""Captions of several annotators fused into one for each image.

Weights. The overlap of two annotators' captions of an image is explained by one factor f_a of each
(`florence.engine.consensus.similarity_factors`); the weight of a's captions is the log odds of f_a among 20 possible
texts,

    w_a = log(f_a / (1 − f_a) · (20 − 1)), scaled to 0 … 1 (`log_odds_weight`),

times, where rankers scored all captions of an image, the score of the caption over the best one's. The student's weight
is at most c / (1 − c) of the others' together. Of dependent annotators, such as those of one family, the one of most
weight votes, and the silence of the others does not count; where all are silent, the silence of one does.

Text and confidence. The captions are composed word by word (`florence.engine.consensus.word_consensus`). With m_a the
similarity of a's caption and the composed one, and ρ_a the share of its images that a has a caption for,

    confidence = Σ_{a has one} w_a m_a / (Σ_{a has one} w_a + Σ_{a silent} w_a ρ_a)

A person's caption stands as it is, with confidence 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from florence.config import EngineSettings
from florence.engine.claims import NO_SPAN, Claims
from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.similarity_factors import count_families, group_dependent_annotators
from florence.engine.consensus.vote import log_odds_weight
from florence.engine.consensus.word_consensus import TextVersions, VersionOverlaps, compose_texts, measure_overlaps
from florence.engine.consensus.word_network import WordVoters
from florence.engine.filters.alt_text import find_description
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.filters.scores import flag_low_confidence, flag_low_scores
from florence.engine.filters.texts import apply_caption_filters, apply_parse_filters, flag_blank_texts
from florence.engine.labels import Labels
from florence.engine.polygon_lists import empty_polygons
from florence.engine.wording.tokens import TokenizedTexts, tokenize_texts
from florence.records import BASE_TYPES

POSSIBLE_TEXTS = 20.0
"""Number of equally likely wrong captions that the log-odds weights assume.

With more, the weights differ too little for the silence of the others to count.
"""


@dataclass(frozen=True)
class CaptionClaims:
    """The c claimed captions of one annotation type, one for each annotator and image, in order of image and annotator.

    ``image``, ``annotator``, ``text``: (c,), as in `Claims`; ``score``: (c,); ``reason``: (c,), why a caption has no
    vote, empty where it has one; ``row``: (c,), row of ``texts``, the text without boilerplate; ``start``: (c,), the
    character that it begins at.
    """

    image: np.ndarray
    annotator: np.ndarray
    text: np.ndarray
    score: np.ndarray
    reason: np.ndarray
    row: np.ndarray
    start: np.ndarray
    texts: TokenizedTexts

    def __len__(self) -> int:
        return len(self.image)

    @property
    def item(self) -> np.ndarray:
        """(c,) the number of each one's image among the n images that have a caption."""
        return np.cumsum(np.r_[False, np.diff(self.image) != 0][: len(self)])

    @property
    def first(self) -> np.ndarray:
        """(n,) the first claim of each image."""
        return np.flatnonzero(np.r_[True, np.diff(self.image) != 0][: len(self)])

    def versions(self, weight: np.ndarray) -> TextVersions:
        """Return the claims as versions of one text for each image, of ``weight`` (c,)."""
        return TextVersions(self.texts, self.item, self.annotator, self.row, weight)


@dataclass(frozen=True)
class CaptionWeights:
    """The weights of A annotators. ``weight``: (A,), w; ``claim_rate``: (A,), ρ; ``estimated``: (A,), False where there
    were too few captions to estimate it; ``group``: (A,), the same number for dependent annotators.
    """

    weight: np.ndarray
    claim_rate: np.ndarray
    estimated: np.ndarray
    group: np.ndarray


@dataclass(frozen=True)
class CaptionModels:
    """What is estimated of the annotators of one type of captions. ``words``: the annotator models of words, None where
    no caption was composed word by word.
    """

    weights: CaptionWeights
    words: AnnotatorModels | None


@dataclass(frozen=True)
class FusedCaptions:
    """The fused captions of one annotation type, one for each of n images.

    ``row``: (n,), row of ``texts``, the fused text; ``claims``: what they are fused of; ``position``: see
    `ComposedTexts`; ``score``, ``confidence``, ``agreement``: (n,), NaN where there is none; ``reason``: (n,), empty
    where a caption is kept.
    """

    annotation_type: int
    image: np.ndarray
    texts: TokenizedTexts
    row: np.ndarray
    claims: CaptionClaims
    position: np.ndarray
    score: np.ndarray
    confidence: np.ndarray
    agreement: np.ndarray
    reason: np.ndarray
    models: CaptionModels

    def __len__(self) -> int:
        return len(self.image)


def collect_caption_claims(claims: Claims, annotation_type: int, settings: EngineSettings) -> CaptionClaims:
    """Return the captions of one type: of several by one annotator about one image the first that has a vote."""
    rows = np.flatnonzero(claims.annotation_type == annotation_type)
    image, annotator, human = claims.image[rows], claims.annotator[rows], claims.is_human[claims.annotator[rows]]
    # a person's text stands as it is
    known, row = np.unique(claims.text[rows] * 2 + human, return_inverse=True)
    whole = [claims.texts[k] for k in (known // 2).tolist()]
    spans = [
        (0, len(text)) if by_person else find_description(text)
        for text, by_person in zip(whole, (known % 2).tolist(), strict=True)
    ]
    texts = tokenize_texts([text[a:b] for text, (a, b) in zip(whole, spans, strict=True)])
    task = BASE_TYPES[annotation_type]
    masks = [("low_score", flag_low_scores(claims.score[rows], annotator, task, claims.annotators, settings))]
    masks += [(reason, applies[row]) for reason, applies in apply_caption_filters(texts, task, settings)]
    reason = choose_first_reason(len(rows), [(reason, applies & ~human) for reason, applies in masks])
    order = np.lexsort((reason != "", annotator, image))
    new = np.r_[True, (np.diff(image[order]) != 0) | (np.diff(annotator[order]) != 0)][: len(order)]
    first = order[new]
    start = np.asarray([a for a, _ in spans], np.int64)
    return CaptionClaims(
        image[first],
        annotator[first],
        claims.text[rows[first]],
        claims.score[rows[first]],
        reason[first],
        row[first],
        start[row[first]],
        texts,
    )


# ---------------------------------------------------------------- weights of annotators


def estimate_caption_weights(
    claims: Claims, annotation_type: int, captions: CaptionClaims, overlaps: VersionOverlaps | None = None
) -> CaptionWeights:
    """Return the weights of annotators, by how much their captions overlap. ``overlaps``: where they are known."""
    count = len(claims.annotators)
    overlaps = overlaps or measure_overlaps(captions.versions(np.zeros(len(captions))))
    votes = (captions.reason[overlaps.a] == "") & (captions.reason[overlaps.b] == "") & (overlaps.a != overlaps.b)
    pair = captions.annotator[overlaps.a[votes]] * count + captions.annotator[overlaps.b[votes]]
    total = np.bincount(pair, overlaps.value[votes], minlength=count * count).reshape(count, count).astype(float)
    shared = np.bincount(pair, minlength=count * count).reshape(count, count).astype(float)
    apart = claims.families[:, None] != claims.families
    estimated = ~claims.is_human & (count_families(shared * apart, claims.families) >= 2)
    factors, group = group_dependent_annotators(total, shared, claims.families)
    weight = np.where(estimated, log_odds_weight(factors, POSSIBLE_TEXTS), 1.0)
    claimed = np.bincount(captions.annotator, minlength=count)
    claim_rate = np.minimum((claimed + 1) / (claims.compute_coverage(annotation_type).sum(axis=0) + 1), 1.0)
    return CaptionWeights(weight, claim_rate, estimated, group)


# ---------------------------------------------------------------- fusing


def fuse_captions(
    claims: Claims, annotation_type: int, settings: EngineSettings, known: CaptionModels | None = None
) -> FusedCaptions:
    """Return one caption for each image that has a claimed one, kept or not. ``known``: models of other images."""
    captions = collect_caption_claims(claims, annotation_type, settings)
    overlaps = measure_overlaps(captions.versions(np.zeros(len(captions))))
    weights = known.weights if known else estimate_caption_weights(claims, annotation_type, captions, overlaps)
    weight = _weigh_claims(claims, annotation_type, captions, weights, settings) * _rank_claims(claims, captions)
    words = known.words if known else None
    voters = WordVoters(len(claims.annotators), claims.student_index, settings.student.cap, words, claims.families)
    composed = compose_texts(captions.versions(weight), settings.min_caption_overlap, overlaps, voters)
    confidence = _measure_confidence(claims, annotation_type, captions, weights, weight, composed.similarity)
    agreement = _measure_agreement(claims, annotation_type, captions, composed.similarity, settings.min_caption_overlap)
    by_person = _by_person(captions, claims.is_human)
    reason, confidence = _choose_reasons(captions, confidence, by_person, settings)
    fused = FusedCaptions(
        annotation_type,
        captions.image[captions.first],
        composed.texts,
        composed.row,
        captions,
        composed.position,
        _average_score(captions, weight),
        confidence,
        agreement,
        reason,
        CaptionModels(weights, composed.models),
    )
    return _filter_captions(fused, by_person, settings)


def _by_person(captions: CaptionClaims, is_human: np.ndarray) -> np.ndarray:
    """Return (n,) whether a person has a caption for the image."""
    return np.bincount(captions.item, is_human[captions.annotator], minlength=len(captions.first)) > 0


def _rank_claims(claims: Claims, captions: CaptionClaims) -> np.ndarray:
    """Return (c,) the rankers' score of each caption over that of the image's best one; 1 where there are none."""
    if not claims.ranks.captions:
        return np.ones(len(captions))
    ends = np.append(captions.first, len(captions))
    texts = [claims.texts[k] for k in captions.text.tolist()]
    return np.asarray(
        [
            value
            for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
            for value in claims.ranks.relative_scores(int(captions.image[a]), texts[a:b])
        ]
    )


def _weigh_claims(
    claims: Claims, annotation_type: int, captions: CaptionClaims, weights: CaptionWeights, settings: EngineSettings
) -> np.ndarray:
    """Return (c,) the weight of each caption.

    It is 0 without a vote, beside a person's caption, and beside a heavier one of a dependent annotator.
    """
    is_human, cap = claims.is_human, settings.student.cap
    by_person = _by_person(captions, is_human)[captions.item]
    weight = np.where(captions.reason == "", weights.weight[captions.annotator], 0.0)
    student = claims.student_index
    if student is not None and cap < 1:
        others = claims.compute_coverage(annotation_type) & ~is_human & (np.arange(len(is_human)) != student)
        mine = captions.annotator == student
        limit = _sum_by_group(others * weights.weight, weights.group) * cap / (1 - cap)
        if BASE_TYPES[annotation_type] in settings.student.alone:
            limit[~others.any(axis=1)] = np.inf
        weight[mine] = np.minimum(weight[mine], limit[captions.image[mine]])
    group = weights.group[captions.annotator]
    order = np.lexsort((np.arange(len(captions)), -weight, group, captions.item))
    again = (np.diff(captions.item[order]) == 0) & (np.diff(group[order]) == 0)
    weight[order[1:][again]] = 0.0
    return np.where(by_person, is_human[captions.annotator].astype(float), weight)


def _sum_by_group(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return (n,) the sum over groups of annotators of the largest of ``values`` (n, A) in each."""
    largest = [values[:, group == one].max(axis=1) for one in np.unique(group)]
    return np.asarray(np.sum(largest, axis=0)) if largest else np.zeros(len(values))


def _measure_confidence(
    claims: Claims,
    annotation_type: int,
    captions: CaptionClaims,
    weights: CaptionWeights,
    weight: np.ndarray,
    similarity: np.ndarray,
) -> np.ndarray:
    """Return (n,) the confidence of each caption by the equation above, 0 where nobody has weight."""
    count = len(captions.first)
    silent = claims.compute_coverage(annotation_type)[captions.image[captions.first]] & ~claims.is_human
    # of dependent annotators one alone counts, and a voice before silence
    voiced = np.zeros(silent.shape, bool)
    voiced[captions.item, captions.annotator] = weight > 0
    silent &= ~(voiced.astype(np.int64) @ (weights.group[:, None] == weights.group) > 0)
    silent[captions.item, captions.annotator] = False
    silence = _sum_by_group(silent * (weights.weight * weights.claim_rate), weights.group)
    whole = np.bincount(captions.item, weight, minlength=count) + np.where(
        _by_person(captions, claims.is_human), 0.0, silence
    )
    confidence = np.bincount(captions.item, weight * similarity, minlength=count)
    return np.where(whole > 0, confidence / np.where(whole > 0, whole, 1.0), 0.0)


def _measure_agreement(
    claims: Claims, annotation_type: int, captions: CaptionClaims, similarity: np.ndarray, min_similarity: float
) -> np.ndarray:
    """Return (n,) the share of the annotators asked about each image whose caption is a version of the composed one.

    A version is a caption with a vote and a ``similarity`` (c,) of ``min_similarity`` at least. NaN where fewer than
    two annotators were asked, or no caption has a vote.
    """
    asked = claims.compute_coverage(annotation_type)[captions.image[captions.first]].sum(axis=1)
    votes = captions.reason == ""
    same = np.bincount(captions.item, votes & (similarity >= min_similarity), minlength=len(asked))
    any_vote = np.bincount(captions.item, votes, minlength=len(asked)) > 0
    return np.where((asked > 1) & any_vote, same / np.maximum(asked, 1), np.nan)


def _choose_reasons(
    captions: CaptionClaims, confidence: np.ndarray, by_person: np.ndarray, settings: EngineSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) the drop reason of each caption, and (n,) its confidence, NaN where no claim has a vote."""
    low = flag_low_confidence(confidence, settings.min_caption_confidence)
    reason = np.where(low, "low_confidence", "").astype(object)
    without_vote = np.bincount(captions.item, captions.reason == "", minlength=len(captions.first)) == 0
    reason[without_vote], confidence[without_vote] = captions.reason[captions.first][without_vote], np.nan
    reason[by_person], confidence[by_person] = "", 1.0
    return reason, np.minimum(confidence, 1.0)


def _average_score(captions: CaptionClaims, weight: np.ndarray) -> np.ndarray:
    """Return (n,) the weighted mean of the scores that are there, NaN without any."""
    item, score, count = captions.item, captions.score, len(captions.first)
    scored = np.where(np.isnan(score), 0.0, weight)
    total = np.bincount(item, scored, minlength=count)
    return np.where(
        total > 0,
        np.bincount(item, scored * np.nan_to_num(score), minlength=count) / np.where(total > 0, total, 1.0),
        np.nan,
    )


def _filter_captions(captions: FusedCaptions, by_person: np.ndarray, settings: EngineSettings) -> FusedCaptions:
    """Apply the filters of fused texts; of captions by people, only empty ones are dropped."""
    reason = captions.reason.copy()
    people = np.flatnonzero(by_person)
    is_empty = flag_blank_texts([captions.texts.text[k] for k in captions.row[people].tolist()])
    reason[people[is_empty]] = "rejected"
    rest = np.flatnonzero((reason == "") & ~by_person)
    known, text = np.unique(captions.row[rest], return_inverse=True)
    masks = apply_parse_filters(captions.texts.select_texts(known), settings)
    reason[rest] = choose_first_reason(len(known), masks)[text]
    return replace(captions, reason=reason)


def make_caption_labels(claims: Claims, captions: FusedCaptions) -> Labels:
    """Return the captions as labels. One of which no word is left has the text that its first annotator wrote."""
    none = np.zeros(0)
    text = [captions.texts.text[k] for k in captions.row.tolist()]
    for k in np.flatnonzero(captions.texts.lengths[captions.row] == 0).tolist():
        text[k] = claims.texts[captions.claims.text[captions.claims.first[k]]]
    return Labels(
        annotation_type=captions.annotation_type,
        image=captions.image,
        text=text,
        score=captions.score,
        confidence=captions.confidence,
        reason=captions.reason.tolist(),
        count=np.zeros(len(captions), np.int64),
        label=[],
        box=none.reshape(0, 4),
        quad=none.reshape(0, 8),
        polygons=empty_polygons(0),
        region_score=none,
        span=np.full((0, 2), NO_SPAN),
        order=np.zeros((len(captions), 1)),
        agreement=captions.agreement,
    )
