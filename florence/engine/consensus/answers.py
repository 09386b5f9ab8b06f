"""What annotators answer about a whole image, made into one answer: to each question that was asked, and which category it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence.config import EngineSettings
from florence.engine.claims import NO_SPAN, Claims
from florence.engine.consensus.captions import factors
from florence.engine.consensus.vote import log_odds_weight
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.filters.scores import flag_low_confidence, flag_low_scores
from florence.engine.filters.texts import flag_empty_texts
from florence.engine.labels import Labels
from florence.engine.polygon_lists import empty_polygons
from florence.metrics import same
from florence.records import ANNOTATION_TYPES

QUESTION = ANNOTATION_TYPES.index("<VQA>")
LEAST = 10
"""Answers to compare with others' from which an annotator is judged."""


@dataclass(frozen=True, slots=True)
class _Said:
    """One claim. ``answers``: as they were given, one but where people were asked; ``reason``: why it has no vote, empty where it has."""

    annotator: int
    question: str
    answers: tuple[str, ...]
    score: float
    reason: str

    @property
    def key(self) -> str:
        return same(self.answers[0]) if self.answers else ""


def fuse_answers(
    claims: Claims, kind: int, size: np.ndarray, settings: EngineSettings, known: np.ndarray | None = None
) -> tuple[Labels, np.ndarray]:
    """One label for each image and question (kind <VQA>), or for each image (<CLASSIFICATION>), kept or not; and (A,) the weight of each annotator's answers.

    The answer with the most weight is taken, its agreement its share of the weight of all who answered: who was silent was not asked. An annotator's
    weight follows from how often its answers are those of the others, unless it is ``known``. ``size``: (images, 2). A person's word outranks all.
    """
    asked = _asked(claims, kind, settings)
    people = claims.is_human
    weight = _weight(list(asked.values()), people) if known is None else known
    questions = {question: rank for rank, question in enumerate(sorted({question for _, question in asked}))}
    found = [_answer(several, weight, people, settings) for several in asked.values()]
    image = np.asarray([image for image, _ in asked], np.int64)
    count = np.asarray([len(labels) for _, labels, *_ in found], np.int64)
    whole = np.concatenate([np.zeros((len(image), 2)), size[image]], axis=1) if len(image) else np.zeros((0, 4))
    m = int(count.sum())
    labels = Labels(
        annotation_type=kind,
        image=image,
        text=[text for text, *_ in found],
        score=np.asarray([score for _, _, score, _, _ in found], float),
        confidence=np.asarray([confidence for _, _, _, confidence, _ in found], float),
        reason=[reason for *_, reason in found],
        count=count,
        label=[label for _, labels, *_ in found for label in labels],
        box=np.repeat(whole, count, axis=0),
        quad=np.full((m, 8), np.nan),
        polygons=empty_polygons(m),
        region_score=np.full(m, np.nan),
        span=np.full((m, 2), NO_SPAN),
        order=np.asarray([[questions[question]] for _, question in asked], float).reshape(-1, 1),
    )
    return labels, weight


def _asked(claims: Claims, kind: int, settings: EngineSettings) -> dict[tuple[int, str], list[_Said]]:
    """The claims of a kind by image and question; of several that one annotator makes about one the first, of a person's all answers."""
    rows = np.flatnonzero(claims.annotation_type == kind)
    first, after = (np.searchsorted(claims.regions.claim, rows, side=side) for side in ("left", "right"))
    texts = [claims.texts[k] for k in claims.text[rows].tolist()]
    answers = [
        tuple(claims.regions.label[a:b].to_pylist()) if kind == QUESTION else (text,)
        for a, b, text in zip(first.tolist(), after.tolist(), texts, strict=True)
    ]
    people = claims.is_human
    human = people[claims.annotator[rows]]
    found = [
        ("no_place", first == after),
        ("empty_text", flag_empty_texts([" ".join(given[:1]) for given in answers])),
        (
            "low_score",
            flag_low_scores(
                claims.score[rows], claims.annotator[rows], ANNOTATION_TYPES[kind], claims.annotators, settings
            )
            & ~human,
        ),
    ]
    reasons = choose_first_reason(len(rows), found).tolist()
    result: dict[tuple[int, str], list[_Said]] = {}
    for row, text, given, reason in zip(rows.tolist(), texts, answers, reasons, strict=True):
        several = result.setdefault((int(claims.image[row]), same(text) if kind == QUESTION else ""), [])
        annotator, score = int(claims.annotator[row]), float(claims.score[row])
        mine = next((k for k, one in enumerate(several) if one.annotator == annotator), None)
        if mine is None:
            several.append(_Said(annotator, text, given, score, reason))
        elif people[annotator] and kind == QUESTION and not reason:
            several[mine] = _Said(annotator, text, (*several[mine].answers, *given), score, several[mine].reason)
    return result


def _weight(asked: Sequence[Sequence[_Said]], people: np.ndarray) -> np.ndarray:
    """(A,) the weight of each annotator's answers; 1 of people, and where fewer than two others or `LEAST` of their answers are there to judge by."""
    total, times = np.zeros((len(people), len(people))), np.zeros((len(people), len(people)))
    for several in asked:
        heard = [one for one in several if not one.reason]
        for k, one in enumerate(heard):
            for other in heard[:k]:
                total[one.annotator, other.annotator] += one.key == other.key
                times[one.annotator, other.annotator] += 1
    total, times = total + total.T, times + times.T
    choices = max(len({one.key for several in asked for one in several if not one.reason}), 2)
    judged = ~people & ((times > 0).sum(axis=1) >= 2) & (times.sum(axis=1) >= LEAST)
    return np.where(judged, log_odds_weight(factors(total, times), choices), 1.0)


def _answer(
    several: Sequence[_Said], weight: np.ndarray, people: np.ndarray, settings: EngineSettings
) -> tuple[str, tuple[str, ...], float, float, str]:
    """Text, answers, score, agreement and reason of one label."""
    ruled = [one for one in several if people[one.annotator]]
    heard = [one for one in ruled or several if not one.reason]
    if not heard:
        one = several[0]
        return one.question, one.answers, one.score, np.nan, one.reason
    mass: dict[str, float] = {}
    for one in heard:
        mass[one.key] = mass.get(one.key, 0.0) + float(weight[one.annotator])
    best = min(mass, key=lambda key: (-mass[key], key))
    chosen = [one for one in heard if one.key == best]
    scores = [one.score for one in chosen if not np.isnan(one.score)]
    whole = sum(mass.values())
    confidence = mass[best] / whole if whole > 0 else 0.0
    reason = (
        ""
        if ruled or not flag_low_confidence(np.asarray([confidence]), settings.min_confidence)[0]
        else "low_confidence"
    )
    return chosen[0].question, chosen[0].answers, float(np.mean(scores)) if scores else np.nan, confidence, reason
