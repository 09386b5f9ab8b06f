"""Captions of several annotators made into one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from florence.config import EngineSettings
from florence.engine.claims import NO_SPAN, Claims
from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.vote import log_odds_weight
from florence.engine.consensus.word_consensus import Likeness, Versions, compose, likeness
from florence.engine.filters.alt_text import find_description
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.filters.scores import flag_low_confidence, flag_low_scores
from florence.engine.filters.texts import apply_caption_filters, apply_parse_filters, flag_empty_texts
from florence.engine.labels import Labels
from florence.engine.polygon_lists import empty_polygons
from florence.engine.wording.tokens import TokenizedTexts, tokenize_texts
from florence.records import BASE_TYPES

CHOICES = 20.0
"""Texts that could as well be written: with more, weights differ too little for the silence of the others to count for enough."""
COPIES = 0.25
"""Share of what two annotators do not have in common by chance from which one is taken to repeat the other."""
ENOUGH = 30
"""Captions of two annotators about the same images under which they are taken to be independent."""


@dataclass(frozen=True)
class Candidates:
    """The captions of one kind that are claimed, one an annotator and image, in order of both. ``image``, ``annotator``, ``text``: (c,), as in `Claims`; ``line``: (c,),
    row of ``lines``, what is left of the text without boilerplate; ``start``: (c,), the character that it begins at; ``reason``: (c,), why it has no vote.
    """

    image: np.ndarray
    annotator: np.ndarray
    text: np.ndarray
    score: np.ndarray
    reason: np.ndarray
    line: np.ndarray
    start: np.ndarray
    lines: TokenizedTexts

    def __len__(self) -> int:
        return len(self.image)

    @property
    def item(self) -> np.ndarray:
        """(c,) the number of each one's image among those that have a caption."""
        return np.cumsum(np.r_[False, np.diff(self.image) != 0][: len(self)])

    @property
    def first(self) -> np.ndarray:
        """(k,) the first candidate of each image."""
        return np.flatnonzero(np.r_[True, np.diff(self.image) != 0][: len(self)])


@dataclass(frozen=True)
class Captions:
    """What became of the captions of one kind, image by image. ``image``: (k,); ``line``: (k,), row of ``lines``, the final text; ``item``: (c,), the caption that each
    candidate is of; ``to``: where the tokens of each candidate stand in it, one candidate after the other; ``reason``: (k,), empty where it is kept.
    """

    kind: int
    image: np.ndarray
    lines: TokenizedTexts
    line: np.ndarray
    candidates: Candidates
    item: np.ndarray
    to: np.ndarray
    score: np.ndarray
    confidence: np.ndarray
    reason: np.ndarray
    judged: Judged

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Judged:
    """What is known of those who write captions of one kind; ``words``: how far the words of each are to be trusted, None where it was of no account."""

    trust: Trust
    words: AnnotatorModels | None


@dataclass(frozen=True)
class Trust:
    """(A,) ``weight``: of each annotator's captions of one kind; ``speaks``: the share of the images it looked at that it has one for; ``estimated``: whether
    there was enough to tell by; ``group``: a number that annotators have in common who repeat each other.
    """

    weight: np.ndarray
    speaks: np.ndarray
    estimated: np.ndarray
    group: np.ndarray


def candidates(claims: Claims, kind: int, settings: EngineSettings) -> Candidates:
    """The captions of one kind: of several by one annotator about one image the first that has a vote."""
    rows = np.flatnonzero(claims.annotation_type == kind)
    image, annotator, human = claims.image[rows], claims.annotator[rows], claims.is_human[claims.annotator[rows]]
    # what a person writes stands as it is
    known, line = np.unique(claims.text[rows] * 2 + human, return_inverse=True)
    whole = [claims.texts[k] for k in (known // 2).tolist()]
    spans = [
        (0, len(text)) if person else find_description(text)
        for text, person in zip(whole, (known % 2).tolist(), strict=True)
    ]
    inner = tokenize_texts([text[a:b] for text, (a, b) in zip(whole, spans, strict=True)])
    found = [
        ("low_score", flag_low_scores(claims.score[rows], annotator, BASE_TYPES[kind], claims.annotators, settings))
    ]
    found += [(name, applies[line]) for name, applies in apply_caption_filters(inner, BASE_TYPES[kind], settings)]
    reason = choose_first_reason(len(rows), [(name, applies & ~human) for name, applies in found])
    order = np.lexsort((reason != "", annotator, image))
    first = (
        order[np.flatnonzero(np.r_[True, (np.diff(image[order]) != 0) | (np.diff(annotator[order]) != 0)])]
        if len(order)
        else order
    )
    start = np.asarray([a for a, _ in spans], np.int64)
    return Candidates(
        image[first],
        annotator[first],
        claims.text[rows[first]],
        claims.score[rows[first]],
        reason[first],
        line[first],
        start[line[first]],
        inner,
    )


# ---------------------------------------------------------------- reliability


def caption_trust(claims: Claims, kind: int, found: Candidates, near: Likeness | None = None) -> Trust:
    """How near each annotator's captions are to what is right, by how near they are to each other. ``near``: where it is known already.

    The likeness of two annotators is taken for the product of two figures, one of each, that are fitted to all pairs; it takes three annotators to tell them apart. Pairs that
    are much more alike than that repeat each other (see `repeating`).
    """
    count = len(claims.annotators)
    near = near or likeness(_versions(found, np.zeros(len(found))))
    heard = (found.reason[near.a] == "") & (found.reason[near.b] == "") & (near.a != near.b)
    pair = found.annotator[near.a[heard]] * count + found.annotator[near.b[heard]]
    total = np.bincount(pair, near.value[heard], minlength=count * count).reshape(count, count).astype(float)
    times = np.bincount(pair, minlength=count * count).reshape(count, count).astype(float)
    judged = ~claims.is_human & ((times > 0).sum(axis=1) >= 2)
    figures, group = repeating(total, times)
    weight = np.where(judged, log_odds_weight(figures, CHOICES), 1.0)
    said = np.bincount(found.annotator, minlength=count)
    return Trust(weight, np.minimum((said + 1) / (claims.asked(kind).sum(axis=0) + 1), 1.0), judged, group)


def factors(total: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(A,) figures whose products fit the mean likeness (total / times) of each pair best, weighted by its number."""
    mean = np.divide(total, times, out=np.zeros_like(total), where=times > 0)
    near = np.full(len(mean), np.sqrt(max(total.sum() / max(times.sum(), 1), 1e-4)))
    for _ in range(50):
        for who in range(len(near)):
            base = (times[who] * near**2).sum()
            if base > 0:
                near[who] = np.clip((times[who] * mean[who] * near).sum() / base, 0.01, 0.99)
    return near


def repeating(total: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A,) `factors`, and (A,) the group of each annotator: pairs are of one that are alike in more than `COPIES` of what two independent ones would not share.

    It takes four annotators: with three, any likeness of pairs can be explained by the factors.
    """
    times, group = times.copy(), np.arange(len(times))
    while True:
        near = factors(total, times)
        if ((times > 0).sum(axis=1) >= 3).sum() < 4:
            return near, group
        expected = np.outer(near, near)
        mean = np.divide(total, times, out=np.zeros_like(total), where=times >= ENOUGH)
        copies = np.where(times >= ENOUGH, (mean - expected) / (1 - expected), 0.0)
        a, b = np.unravel_index(int(copies.argmax()), copies.shape)
        if copies[a, b] < COPIES:
            return near, group
        times[a, b] = times[b, a] = 0
        group[group == group[b]] = group[a]


# ---------------------------------------------------------------- fusing


def fuse_captions(claims: Claims, kind: int, settings: EngineSettings, known: Judged | None = None) -> Captions:
    """One caption of a kind for each image that has one claimed, kept or not. ``known``: what was found of other images."""
    found = candidates(claims, kind, settings)
    near = likeness(_versions(found, np.zeros(len(found))))
    trust = known.trust if known else caption_trust(claims, kind, found, near)
    weight = _weights(claims, kind, found, trust, settings) * _fits(claims, found)
    student = claims.student_index
    words = known.words if known else None
    composed = compose(
        _versions(found, weight),
        settings.min_caption_overlap,
        near,
        student,
        settings.student.cap,
        len(claims.annotators),
        words,
    )
    confidence, reason = _agreed(claims, kind, found, trust, weight, composed.similarity, settings)
    score = _mean(found.score, weight, found.item, len(found.first))
    result = Captions(
        kind,
        found.image[found.first],
        composed.lines,
        composed.line,
        found,
        found.item,
        composed.to,
        score,
        confidence,
        reason,
        Judged(trust, composed.trust),
    )
    return _filtered(result, claims.is_human, settings)


def _versions(found: Candidates, weight: np.ndarray) -> Versions:
    return Versions(found.lines, found.item, found.annotator, found.line, weight)


def _ruled(found: Candidates, people: np.ndarray) -> np.ndarray:
    """(k,) whether a person has a caption for the image."""
    return np.bincount(found.item, people[found.annotator], minlength=len(found.first)) > 0


def _fits(claims: Claims, found: Candidates) -> np.ndarray:
    """(c,) how well each candidate fits its image, as a share of the one that rankers find to fit best."""
    if not claims.ranks.captions:
        return np.ones(len(found))
    ends = np.append(found.first, len(found))
    texts = [claims.texts[k] for k in found.text.tolist()]
    return np.asarray(
        [
            value
            for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
            for value in claims.ranks.fit(int(found.image[a]), texts[a:b])
        ]
    )


def _weights(claims: Claims, kind: int, found: Candidates, trust: Trust, settings: EngineSettings) -> np.ndarray:
    """(c,) the weight of each candidate: none where it has no vote, where a person has one, or where one that it repeats has one."""
    people, cap = claims.is_human, settings.student.cap
    ruled = _ruled(found, people)[found.item]
    weight = np.where(found.reason == "", trust.weight[found.annotator], 0.0)
    student = claims.student_index
    if student is not None and cap < 1:
        others = claims.asked(kind) & ~people & (np.arange(len(people)) != student)
        mine = found.annotator == student
        limit = (others @ trust.weight) * cap / (1 - cap)
        if BASE_TYPES[kind] in settings.student.alone:
            limit[~others.any(axis=1)] = np.inf
        weight[mine] = np.minimum(weight[mine], limit[found.image[mine]])
    # of those who repeat each other the heaviest has a vote
    order = np.lexsort((np.arange(len(found)), -weight, trust.group[found.annotator], found.item))
    again = (np.diff(found.item[order]) == 0) & (np.diff(trust.group[found.annotator[order]]) == 0)
    weight[order[1:][again]] = 0.0
    return np.where(ruled, people[found.annotator].astype(float), weight)


def _agreed(
    claims: Claims,
    kind: int,
    found: Candidates,
    trust: Trust,
    weight: np.ndarray,
    similarity: np.ndarray,
    settings: EngineSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """(k,) agreement on each caption, and why it is dropped."""
    people, count = claims.is_human, len(found.first)
    ruled = _ruled(found, people)
    silent = claims.asked(kind)[found.image[found.first]] & ~people
    silent[found.item, found.annotator] = False
    whole = np.bincount(found.item, weight, minlength=count) + np.where(
        ruled, 0.0, silent @ (trust.weight * trust.speaks)
    )
    confidence = np.bincount(found.item, weight * similarity, minlength=count)
    confidence = np.where(whole > 0, confidence / np.where(whole > 0, whole, 1.0), 0.0)
    reason = np.where(flag_low_confidence(confidence, settings.min_caption_confidence), "low_confidence", "").astype(
        object
    )
    unheard = np.bincount(found.item, found.reason == "", minlength=count) == 0
    reason[unheard], confidence[unheard] = found.reason[found.first][unheard], np.nan
    reason[ruled], confidence[ruled] = "", 1.0
    return np.minimum(confidence, 1.0), reason


def _mean(score: np.ndarray, weight: np.ndarray, item: np.ndarray, count: int) -> np.ndarray:
    """(k,) the weighted mean of the scores (c,) that are there, NaN without any."""
    scored = np.where(np.isnan(score), 0.0, weight)
    total = np.bincount(item, scored, minlength=count)
    return np.where(
        total > 0,
        np.bincount(item, scored * np.nan_to_num(score), minlength=count) / np.where(total > 0, total, 1.0),
        np.nan,
    )


def _filtered(captions: Captions, people: np.ndarray, settings: EngineSettings) -> Captions:
    """Captions after the filters that look at the final text; of those that a person wrote, empty ones alone are dropped."""
    ruled, reason = _ruled(captions.candidates, people), captions.reason.copy()
    written = np.flatnonzero(ruled)
    reason[written[flag_empty_texts([captions.lines.text[k] for k in captions.line[written].tolist()])]] = "rejected"
    asked = np.flatnonzero((reason == "") & ~ruled)
    known, place = np.unique(captions.line[asked], return_inverse=True)
    reason[asked] = choose_first_reason(len(known), apply_parse_filters(captions.lines.select_texts(known), settings))[
        place
    ]
    return replace(captions, reason=reason)


def caption_labels(claims: Claims, captions: Captions) -> Labels:
    """Captions as rows. One of which nothing is left stands as its annotator wrote it."""
    none, found = np.zeros(0), captions.candidates
    text = [captions.lines.text[k] for k in captions.line.tolist()]
    for k in np.flatnonzero(captions.lines.lengths[captions.line] == 0).tolist():
        text[k] = claims.texts[found.text[found.first[k]]]
    return Labels(
        annotation_type=captions.kind,
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
    )
