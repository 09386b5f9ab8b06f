"""Captions of several annotators made into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence.config import Engine
from florence.engine import filters
from florence.engine.alignment import Tokens, overlap, tokens
from florence.engine.columns import NO_SPAN, Claims, Labels, no_polygons
from florence.engine.consensus import STUDENT, information
from florence.engine.enhance import Composed, Version, bare, compose
from florence.engine.places import CHOICES, is_human
from florence.records import KINDS

COPIES = 0.25
"""Share of what two authors do not have in common by chance from which one is taken to repeat the other."""
ENOUGH = 30
"""Captions of two authors about the same images under which they are taken to be independent."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One claimed caption. ``tokens``: of what is left of ``text`` without boilerplate, from character ``start``; ``reason``: why it has no vote,
    empty where it has.
    """

    author: int
    text: str
    tokens: Tokens
    start: int
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Caption:
    """What became of the captions of one kind of an image. ``to``: where the tokens of each candidate stand in the final text; ``reason``: empty
    where it is kept.
    """

    image: int
    kind: int
    tokens: Tokens
    candidates: tuple[Candidate, ...]
    to: tuple[np.ndarray, ...]
    score: float
    agreement: float
    reason: str


@dataclass(frozen=True)
class Trust:
    """(A,) ``weight``: of each author's captions of one kind; ``speaks``: the share of the images it looked at that it has one for; ``estimated``: whether
    there was enough to tell by; ``group``: a number that authors have in common who repeat each other.
    """

    weight: np.ndarray
    speaks: np.ndarray
    estimated: np.ndarray
    group: np.ndarray


def candidates(claims: Claims, kind: int, settings: Engine) -> dict[int, list[Candidate]]:
    """The captions of one kind by image, one an author: of several the first that has a vote."""
    rows = np.flatnonzero(claims.kind == kind)
    whole = [claims.texts[k] for k in claims.text[rows].tolist()]
    human = is_human(claims)[claims.author[rows]]
    spans = [(0, len(text)) if person else bare(text) for text, person in zip(whole, human.tolist(), strict=True)]
    inner = [text[a:b] for text, (a, b) in zip(whole, spans, strict=True)]
    found = [("empty_text", filters.empty(inner)), ("low_score", filters.low_score(claims.score[rows], KINDS[kind], settings)),
             ("repetition", filters.repetition(inner, settings))]  # fmt: skip
    reason = filters.first_reason(len(rows), [(name, applies & ~human) for name, applies in found])
    best: dict[tuple[int, int], Candidate] = {}
    for k, key in enumerate(zip(claims.image[rows].tolist(), claims.author[rows].tolist(), strict=True)):
        if key not in best or (best[key].reason and not reason[k]):
            best[key] = Candidate(key[1], whole[k], tokens(inner[k]), spans[k][0], float(claims.score[rows[k]]), reason[k])
    result: dict[int, list[Candidate]] = {}
    for (image, _), candidate in best.items():
        result.setdefault(image, []).append(candidate)
    return result


# ---------------------------------------------------------------- reliability


def caption_trust(claims: Claims, kind: int, found: dict[int, list[Candidate]]) -> Trust:
    """How near each author's captions are to what is right, by how near they are to each other.

    The likeness of two authors is taken for the product of two figures, one of each, that are fitted to all pairs; it takes three authors to tell them apart. Pairs that
    are much more alike than that repeat each other (see `repeating`).
    """
    count = len(claims.authors)
    total, times = np.zeros((count, count)), np.zeros((count, count))
    for several in found.values():
        heard = [c for c in several if not c.reason]
        for k, one in enumerate(heard):
            for other in heard[:k]:
                total[one.author, other.author] += overlap(one.tokens.text, other.tokens.text)
                times[one.author, other.author] += 1
    total, times = total + total.T, times + times.T
    judged = ~is_human(claims) & ((times > 0).sum(axis=1) >= 2)
    near, group = repeating(total, times)
    weight = np.where(judged, information(near, CHOICES), 1.0)
    said = np.bincount([c.author for several in found.values() for c in several], minlength=count)
    return Trust(weight, np.minimum((said + 1) / (claims.able(kind).sum(axis=0) + 1), 1.0), judged, group)


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
    """(A,) `factors`, and (A,) the group of each author: pairs are of one that are alike in more than `COPIES` of what two independent ones would not share.

    It takes four authors: with three, any likeness of pairs can be explained by the factors.
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


def fuse_captions(claims: Claims, kind: int, settings: Engine) -> list[Caption]:
    """One caption of a kind for each image that has one claimed, kept or not."""
    found = candidates(claims, kind, settings)
    trust = caption_trust(claims, kind, found)
    able, people = claims.able(kind), is_human(claims)
    student = claims.authors.index(STUDENT) if STUDENT in claims.authors else None
    images = list(found)
    alone = KINDS[kind] in settings.student.alone
    heard = [_weights(found[i], able[i], trust, people, claims.authors, settings.student.cap, alone=alone) for i in images]
    fits = [claims.ranks.fit(i, [c.text for c in found[i]]) for i in images]
    heard = [[weight * fit for weight, fit in zip(*both, strict=True)] for both in zip(heard, fits, strict=True)]
    items = [[Version(c.author, c.tokens, w) for c, w in zip(found[i], weights, strict=True)] for i, weights in zip(images, heard, strict=True)]
    result = [
        _caption(image, kind, found[image], composed, weights, able[image], trust, people, settings)
        for image, composed, weights in zip(images, compose(items, settings.alike, student, settings.student.cap), heard, strict=True)
    ]
    return _filtered(result, people, settings)


def _weights(
    several: Sequence[Candidate], able: np.ndarray, trust: Trust, people: np.ndarray, authors: Sequence[str], cap: float, *, alone: bool
) -> list[float]:
    """The weight of each candidate: none where it has no vote, or where a person has one. ``alone``: whether a student's counts where nobody else looked."""
    if any(people[c.author] for c in several):
        return [float(people[c.author]) for c in several]
    limit = np.inf
    if STUDENT in authors and cap < 1:
        others = able & ~people
        others[authors.index(STUDENT)] = False
        limit = np.inf if alone and not others.any() else trust.weight[others].sum() * cap / (1 - cap)
    weights = [0.0 if c.reason else float(trust.weight[c.author]) for c in several]
    # of those who repeat each other one has a vote
    best: dict[int, int] = {}
    for k in sorted(range(len(several)), key=lambda k: -weights[k]):
        if best.setdefault(int(trust.group[several[k].author]), k) != k:
            weights[k] = 0.0
    return [min(w, limit) if authors[c.author] == STUDENT else w for c, w in zip(several, weights, strict=True)]


def _caption(
    image: int, kind: int, several: Sequence[Candidate], composed: Composed, weights: Sequence[float], able: np.ndarray, trust: Trust, people: np.ndarray,
    settings: Engine,
) -> Caption:  # fmt: skip
    mass = np.asarray(weights)
    ruled = any(people[c.author] for c in several)
    silent = able & ~people
    silent[[c.author for c in several]] = False
    whole = mass.sum() + (0.0 if ruled else float((trust.weight * trust.speaks)[silent].sum()))
    agreement = float(mass @ np.asarray(composed.similarity)) / whole if whole > 0 else 0.0
    score = np.asarray([c.score for c in several])
    scored = mass * ~np.isnan(score)
    mean = float(scored @ np.nan_to_num(score) / scored.sum()) if scored.sum() > 0 else np.nan
    reason = ""
    if ruled and not filters.empty([composed.tokens.text])[0]:
        agreement = 1.0
    elif ruled:
        reason = "rejected"
    elif all(c.reason for c in several):
        agreement, reason = np.nan, several[0].reason
    elif filters.no_quorum(np.asarray([agreement]), settings.caption_quorum)[0]:
        reason = "no_quorum"
    return Caption(image, kind, composed.tokens, tuple(several), composed.to, mean, min(agreement, 1.0), reason)


def _filtered(captions: list[Caption], people: np.ndarray, settings: Engine) -> list[Caption]:
    """Captions after the filters that look at the final text; those that a person wrote are not filtered."""
    asked = [k for k, c in enumerate(captions) if not c.reason and not any(people[one.author] for one in c.candidates)]
    reasons = filters.first_reason(len(asked), filters.texts([captions[k].tokens.text for k in asked], settings))
    for k, reason in zip(asked, reasons.tolist(), strict=True):
        if reason:
            c = captions[k]
            captions[k] = Caption(c.image, c.kind, c.tokens, c.candidates, c.to, c.score, c.agreement, reason)
    return captions


def caption_labels(kind: int, captions: Sequence[Caption]) -> Labels:
    """Captions as rows. A dropped one stands as its author wrote it, where it was not made of several."""
    none = np.zeros(0)
    return Labels(
        kind=kind, image=np.asarray([c.image for c in captions], np.int64), text=[_told(c) for c in captions],
        score=np.asarray([c.score for c in captions], float), agreement=np.asarray([c.agreement for c in captions], float),
        reason=[c.reason for c in captions], count=np.zeros(len(captions), np.int64), label=[], box=none.reshape(0, 4), quad=none.reshape(0, 8),
        polygons=no_polygons(0), region_score=none, span=np.full((0, 2), NO_SPAN), order=np.zeros((len(captions), 1)),
    )  # fmt: skip


def _told(caption: Caption) -> str:
    return caption.tokens.text if caption.tokens.words or not caption.candidates else caption.candidates[0].text
