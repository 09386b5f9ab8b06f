"""Answers about whole images fused into one: to each question (<VQA>), and the category of an image (<CLASSIFICATION>).

A weighted plurality vote with one vote for each family. With a's weight w_a, normalised answer y_ia and score s_ia, and
m_ia annotators of a's family that answer,

    answer_i = argmax_v Σ_{a: y_ia = v} w_a / m_ia
    confidence_i = p_i Σ_{a: y_ia = answer_i} w_a / m_ia / Σ_{a answered} w_a / m_ia
    p_i = 1 − Π_f (1 − s̄_if)        1 where three families answer on any images, or nobody states a score

s̄_if is the mean of s_ia over those of family f that answer so and state a score; f runs over the families with one. So
a family alone is as sure as its scores, two that agree are surer, and of three or more the agreement says enough. The
confidence is no posterior (objects, regions, phrases, OCR), nor the weighted word overlap of captions.
Silence is no evidence: an annotator that is silent counts as not asked. w_a is the log odds of the factor f_a
(`florence.engine.consensus.similarity_factors`, with the similarity 1 of equal answers and 0 of others) among the
answers that were given. A person's answer stands, with confidence 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence.config import EngineSettings
from florence.engine.claims import NO_SPAN, Claims
from florence.engine.consensus.similarity_factors import count_families, fit_similarity_factors
from florence.engine.consensus.vote import log_odds_weight
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.filters.scores import flag_low_confidence, flag_low_scores
from florence.engine.filters.texts import flag_blank_texts, flag_empty_texts
from florence.engine.labels import Labels
from florence.engine.polygon_lists import empty_polygons
from florence.records import ANNOTATION_TYPES, fold_label

QUESTION_TYPE = ANNOTATION_TYPES.index("<VQA>")
MIN_SHARED_ANSWERS = 10
"""Least number of shared items for an estimate: answers of an annotator to questions that others answered too."""
MIN_FAMILIES = 3
"""Families that answer, from which their agreement says how likely an answer is right; of fewer the scores do."""


@dataclass(frozen=True, slots=True)
class AnswerClaim:
    """One claim. ``answers``: as given, several only by people; ``reason``: why it has no vote, empty where it has."""

    annotator: int
    question: str
    answers: tuple[str, ...]
    score: float
    reason: str

    @property
    def key(self) -> str:
        """What answers are compared by."""
        return fold_label(self.answers[0]) if self.answers else ""


@dataclass(frozen=True, slots=True)
class FusedAnswer:
    """The label of one image and question. ``confidence``, ``agreement``: NaN where there is none."""

    question: str
    answers: tuple[str, ...]
    score: float
    confidence: float
    agreement: float
    reason: str


def fuse_answers(
    claims: Claims,
    annotation_type: int,
    size: np.ndarray,
    settings: EngineSettings,
    known: np.ndarray | None = None,
) -> tuple[Labels, np.ndarray]:
    """Return one label for each image and question, kept or not, and (A,) the weights of the annotators.

    ``size``: (images, 2) width and height; ``known``: (A,) weights estimated on other images.
    """
    items = _collect_answers(claims, annotation_type, settings)
    is_human = claims.is_human
    weight = _estimate_weights(list(items.values()), is_human, claims.families) if known is None else known
    rank = {question: k for k, question in enumerate(sorted({question for _, question in items}))}
    answering = claims.families[claims.claims_type[:, annotation_type] & ~is_human]
    scores_decide = len(np.unique(answering)) < MIN_FAMILIES
    fused = [_vote(item, weight, claims, settings, scores_decide) for item in items.values()]
    image = np.asarray([image for image, _ in items], np.int64)
    count = np.asarray([len(one.answers) for one in fused], np.int64)
    whole = np.concatenate([np.zeros((len(image), 2)), size[image]], axis=1) if len(image) else np.zeros((0, 4))
    m = int(count.sum())
    labels = Labels(
        annotation_type=annotation_type,
        image=image,
        text=[one.question for one in fused],
        score=np.asarray([one.score for one in fused], float),
        confidence=np.asarray([one.confidence for one in fused], float),
        reason=[one.reason for one in fused],
        count=count,
        label=[answer for one in fused for answer in one.answers],
        box=np.repeat(whole, count, axis=0),
        quad=np.full((m, 8), np.nan),
        polygons=empty_polygons(m),
        region_score=np.full(m, np.nan),
        span=np.full((m, 2), NO_SPAN),
        order=np.asarray([[rank[question]] for _, question in items], float).reshape(-1, 1),
        agreement=np.asarray([one.agreement for one in fused], float),
    )
    return labels, weight


def _collect_answers(
    claims: Claims, annotation_type: int, settings: EngineSettings
) -> dict[tuple[int, str], list[AnswerClaim]]:
    """Return the claims by image and question: the first of each annotator's, and all answers of people."""
    rows = np.flatnonzero(claims.annotation_type == annotation_type)
    is_question = annotation_type == QUESTION_TYPE
    first, after = (np.searchsorted(claims.regions.claim, rows, side=side) for side in ("left", "right"))
    texts = [claims.texts[k] for k in claims.text[rows].tolist()]
    answers = [
        tuple(claims.regions.label[a:b].to_pylist()) if is_question else (text,)
        for a, b, text in zip(first.tolist(), after.tolist(), texts, strict=True)
    ]
    annotators, task = claims.annotator[rows], ANNOTATION_TYPES[annotation_type]
    low_score = flag_low_scores(claims.score[rows], annotators, task, claims.annotators, settings)
    first_answers = [" ".join(given[:1]) for given in answers]
    # a category, and an answer by a person, may be a sign
    by_sign = claims.is_human[annotators] if is_question else np.ones(len(rows), bool)
    masks = [
        ("no_place", first == after),
        ("empty_text", np.where(by_sign, flag_blank_texts(first_answers), flag_empty_texts(first_answers))),
        ("low_score", low_score & ~claims.is_human[annotators]),
    ]
    reasons = choose_first_reason(len(rows), masks).tolist()
    items: dict[tuple[int, str], list[AnswerClaim]] = {}
    for row, text, given, reason in zip(rows.tolist(), texts, answers, reasons, strict=True):
        item = items.setdefault((int(claims.image[row]), fold_label(text) if is_question else ""), [])
        annotator, score = int(claims.annotator[row]), float(claims.score[row])
        own = next((k for k, one in enumerate(item) if one.annotator == annotator), None)
        if own is None:
            item.append(AnswerClaim(annotator, text, given, score, reason))
        elif claims.is_human[annotator] and is_question and not reason:
            item[own] = AnswerClaim(annotator, text, (*item[own].answers, *given), score, item[own].reason)
    return items


def _estimate_weights(items: Sequence[Sequence[AnswerClaim]], is_human: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Return (A,) the weights; 1 for people, and where there are fewer than two other families or `MIN_SHARED_ANSWERS`.

    Annotators of one family are not compared with each other.
    """
    total, shared = np.zeros((len(is_human), len(is_human))), np.zeros((len(is_human), len(is_human)))
    for item in items:
        votes = [one for one in item if not one.reason]
        for k, one in enumerate(votes):
            for other in votes[:k]:
                total[one.annotator, other.annotator] += one.key == other.key
                shared[one.annotator, other.annotator] += 1
    apart = families[:, None] != families
    total, shared = (total + total.T) * apart, (shared + shared.T) * apart
    choices = max(len({one.key for item in items for one in item if not one.reason}), 2)
    estimated = (
        ~is_human & (count_families(shared, families) >= MIN_FAMILIES - 1) & (shared.sum(axis=1) >= MIN_SHARED_ANSWERS)
    )
    return np.where(estimated, log_odds_weight(fit_similarity_factors(total, shared), choices), 1.0)


def _vote(
    item: Sequence[AnswerClaim], weight: np.ndarray, claims: Claims, settings: EngineSettings, scores_decide: bool
) -> FusedAnswer:
    """Return the label of one image and question. ``scores_decide``: there are fewer than `MIN_FAMILIES`."""
    by_people = [one for one in item if claims.is_human[one.annotator]]
    votes = [one for one in by_people or item if not one.reason]
    if not votes:
        one = item[0]
        return FusedAnswer(one.question, one.answers, one.score, np.nan, np.nan, one.reason)
    relatives = Counter(int(claims.families[one.annotator]) for one in votes)
    mass: dict[str, float] = {}
    for one in votes:
        share = float(weight[one.annotator]) / relatives[int(claims.families[one.annotator])]
        mass[one.key] = mass.get(one.key, 0.0) + share
    best = min(mass, key=lambda key: (-mass[key], key))
    chosen = [one for one in votes if one.key == best]
    scores = [one.score for one in chosen if not np.isnan(one.score)]
    whole = sum(mass.values())
    confidence = mass[best] / whole if whole > 0 else 0.0
    if not by_people and scores_decide:
        confidence *= _state_right(chosen, claims.families)
    is_low = not by_people and bool(flag_low_confidence(np.asarray([confidence]), settings.min_confidence)[0])
    score = float(np.mean(scores)) if scores else np.nan
    reason = "low_confidence" if is_low else ""
    return FusedAnswer(chosen[0].question, chosen[0].answers, score, confidence, _measure_agreement(item, best), reason)


def _state_right(chosen: Sequence[AnswerClaim], families: np.ndarray) -> float:
    """Return how likely one answer is right by the scores of the claims that give it, 1 where none has a score."""
    stated: dict[int, list[float]] = {}
    for one in chosen:
        if not np.isnan(one.score):
            stated.setdefault(int(families[one.annotator]), []).append(one.score)
    wrong = [1 - float(np.mean(scores)) for scores in stated.values()]
    return 1 - math.prod(wrong) if wrong else 1.0


def _measure_agreement(item: Sequence[AnswerClaim], key: str) -> float:
    """Return the share of the annotators that answered, people included, that answered ``key``; NaN below two."""
    same = [one.key == key for one in item if not one.reason]
    return sum(same) / len(same) if len(same) > 1 else np.nan
