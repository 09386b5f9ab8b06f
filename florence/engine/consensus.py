"""What several annotators say of one image, made into one: who speaks of the same place, whom to trust how far, what most of the weight says.

A vote is a share of weights. Who says something brings in the weight of its claim, who looked and says nothing the weight of its silence.
Weights are estimated from the claims alone: an annotator is measured by the things that the others confirm, so its own vote does not count
in its favour. From how often it says what others agree on follows how telling its silence is; from how often others confirm what it says,
given how much they see, how likely its claims are right, for every level of its own score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from florence.config import Engine
from florence.engine.clusters import joined, neighbours
from florence.engine.columns import Claims

HUMAN, STUDENT = "human", "student"
LEVELS = 8
"""Levels of an author's score that are told apart, where there are claims enough."""
PER_LEVEL = 40
"""Claims that a level needs."""
PRIOR = 10.0
"""Claims that an author's general reliability counts for, against those of one level."""
ENOUGH = 5.0
"""Claims or things (expected to be confirmed) under which an author's reliability is not estimated."""
SURE = 0.99
"""The most that a claim is ever believed."""
ROUNDS = 3
CHURN_IOU = 0.5
"""Places that overlap this much are the same one in both of two rounds."""

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(k,) codes of what is said on one side and on the other → (k,) 0…1, how far it is the same."""


# ---------------------------------------------------------------- who speaks of one place


def gather(
    group: np.ndarray, author: np.ndarray, bounds: np.ndarray, code: np.ndarray, iou: float, same_iou: float, first: np.ndarray | None = None
) -> np.ndarray:
    """The place (m,) that each of m claims is about, numbered 0, 1, … in the order of their first claims.

    Claims of one ``group`` and different authors are about one place where their ``bounds`` (m, 4) overlap by ``iou``, or by ``same_iou`` if they
    say the same (``code``); each author has one claim a place at most. Pairs that say the same join first, then those that overlap most; pairs of
    claims that are ``first`` (m,) before all others. The groups must be in order.
    """
    a, b = neighbours(group)
    keep = author[a] != author[b]
    a, b = a[keep], b[keep]
    overlap, same = paired_iou(bounds[a], bounds[b]), code[a] == code[b]
    keep = overlap >= np.where(same, same_iou, iou)
    a, b, overlap, same = a[keep], b[keep], overlap[keep], same[keep]
    early = np.zeros(len(a), bool) if first is None else first[a] & first[b]
    order = np.lexsort((b, a, -np.round(overlap, 9), ~same, ~early))
    return np.unique(joined(a[order], b[order], author), return_inverse=True)[1]


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (n,) of boxes (n, 4) one by one; 0 where the union is empty or one is no box."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - shared
    return np.nan_to_num(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


# ---------------------------------------------------------------- ballots


@dataclass(frozen=True)
class Ballots:
    """c things that are voted on by A authors. ``claim``: (c, A), what each says of it, -1 for nothing; ``looked``: (c, A), who could have said something;
    ``same``: (c, A, A), 0…1, how far two say the same, 0 where one says nothing; ``score``: (claims,), NaN where none.
    """

    claim: np.ndarray
    looked: np.ndarray
    same: np.ndarray
    score: np.ndarray

    @property
    def spoke(self) -> np.ndarray:
        """(c, A): who says something."""
        return self.claim >= 0


def ballots(thing: np.ndarray, author: np.ndarray, looked: np.ndarray, code: np.ndarray, score: np.ndarray, similarity: Similarity | None) -> Ballots:
    """Ballots of m claims about ``thing`` (m,), numbered from 0, each author with one claim a thing at most.

    ``looked``: (things, A). ``code``: (m,), the same for claims that say exactly the same; ``similarity``: of different codes, 0 where None.
    """
    claim = np.full(looked.shape, -1, np.int64)
    claim[thing, author] = np.arange(len(thing))
    there = claim >= 0
    said = np.where(there, code[claim] if len(code) else -1, -1)
    same = np.zeros((*looked.shape, looked.shape[1]))
    for a in range(looked.shape[1]):
        same[there[:, a], a, a] = 1
        for b in range(a):
            both = np.flatnonzero(there[:, a] & there[:, b])
            alike = (said[both, a] == said[both, b]).astype(float)
            if similarity is not None and len(rest := np.flatnonzero(alike == 0)):
                alike[rest] = similarity(said[both[rest], a], said[both[rest], b])
            same[both, a, b] = same[both, b, a] = alike
    return Ballots(claim, looked | there, same, score)


# ---------------------------------------------------------------- reliability


@dataclass(frozen=True)
class Reliability:
    """``right``: (claims,), how likely each claim is right; ``seen``: (A,), how much each author says of what there is; ``weight``: (A,), 0…1, of its
    claims on the whole; ``estimated``: (A,), whether there was enough to tell by; what was not estimated has full weight.
    """

    right: np.ndarray
    seen: np.ndarray
    weight: np.ndarray
    estimated: np.ndarray
    choices: float

    def claims(self) -> np.ndarray:
        """(claims,): the weight of each claim."""
        return information(self.right, self.choices)


def information(right: np.ndarray, choices: float) -> np.ndarray:
    """The weight 0…1 of a word that is right so often, among so many things that could be said: log-odds against chance, 1 for one that is `SURE`."""
    right = np.clip(right, 0.001, SURE)
    odds = np.log(right / (1 - right) * (choices - 1))
    return np.clip(odds / np.log(SURE / (1 - SURE) * (choices - 1)), 0, 1)


def reliability(votes: Ballots, judged: np.ndarray, choices: float) -> Reliability:
    """Reliability of each author by what the others say. ``judged``: (A,), who is estimated at all; ``choices``: how many things could be said."""
    right = np.full(len(votes.score), SURE)
    weight = np.ones(votes.claim.shape[1])
    seen, estimated = np.ones(len(weight)), np.zeros(len(weight), bool)
    for _ in range(ROUNDS):
        seen = np.asarray([_seen(votes, who, weight) for who in range(len(weight))])
        for who in np.flatnonzero(judged).tolist():
            right_of, mean = _right(votes, who, seen)
            estimated[who] = mean is not None
            if mean is not None:
                mine = votes.claim[:, who][votes.spoke[:, who]]
                right[mine] = right_of
                weight[who] = information(np.asarray(mean), choices)
    return Reliability(right, seen, weight, estimated, choices)


def _seen(votes: Ballots, who: int, weight: np.ndarray) -> float:
    """How much of what the others agree on an author says too; a half where they agree on nothing.

    Others agree where two of them say the same and no more weight says otherwise; where only one other looked, what it says is taken.
    """
    rest = np.delete(np.arange(len(weight)), who)
    if not len(rest):
        return 0.5
    mine = votes.looked[:, who]
    same = votes.same[mine][:, rest][:, :, rest]
    support = same @ weight[rest]
    best = support.argmax(axis=1)
    rows = np.arange(len(best))
    voices = same[rows, best].sum(axis=1)
    spoken = (votes.spoke[mine][:, rest] * weight[rest]).sum(axis=1)
    agreed = (2 * support[rows, best] >= spoken - 1e-9) & (voices >= np.minimum(1.5, votes.looked[mine][:, rest].sum(axis=1))) & (voices > 0)
    said = votes.same[mine, who][rows, rest[best]]
    return (float(said[agreed].sum()) + 1) / (int(agreed.sum()) + 2)


def _right(votes: Ballots, who: int, seen: np.ndarray) -> tuple[np.ndarray, float | None]:
    """How likely each claim of an author is right, and its mean; None where too little could have been confirmed.

    Others confirm a right claim as often as one of them sees what there is: the share of claims that are confirmed, over that, is the share of right ones.
    """
    mine = votes.spoke[:, who]
    others = votes.looked[mine].copy()
    others[:, who] = False
    chance = 1 - np.prod(np.where(others, 1 - seen, 1.0), axis=1)
    same = votes.same[mine, who].copy()
    same[:, who] = 0
    confirmed = same.max(axis=1, initial=0.0)
    if chance.sum() < ENOUGH:
        return np.full(int(mine.sum()), SURE), None
    mean = min((confirmed.sum() + 0.5) / (chance.sum() + 1), SURE)
    level = _levels(votes.score[votes.claim[:, who][mine]])
    hits, base = np.bincount(level, confirmed), np.bincount(level, chance)
    by_level = np.minimum((hits + PRIOR * mean) / (base + PRIOR), SURE)
    return by_level[level], float(mean)


def _levels(score: np.ndarray) -> np.ndarray:
    """The level of each score among its author's, levels holding about as many claims; those without a score are of one level."""
    there = ~np.isnan(score)
    count = int(min(LEVELS, max(1, there.sum() // PER_LEVEL)))
    edges = np.quantile(score[there], np.arange(1, count) / count) if count > 1 else np.zeros(0)
    return np.where(there, np.searchsorted(edges, score, side="right"), LEVELS)


def sharpness(bounds: np.ndarray, votes: Ballots) -> np.ndarray:
    """(A,) the weight of each author's boxes (claims, 4): one over their variance, on the whole 1.

    The distance between two authors' boxes of one thing, in shares of its sides, has the sum of both variances.
    """
    count = votes.claim.shape[1]
    rows, distances, shares = [], [], []
    for a in range(count):
        for b in range(a):
            both = votes.claim[votes.spoke[:, a] & votes.spoke[:, b]][:, [a, b]]
            if len(both) >= ENOUGH:
                one, other = bounds[both[:, 0]], bounds[both[:, 1]]
                sides = np.tile((one[:, 2:] - one[:, :2] + other[:, 2:] - other[:, :2]) / 2, 2)
                rows.append([who in (a, b) for who in range(count)])
                distances.append(np.mean(((one - other) / np.maximum(sides, 1e-9)) ** 2))
                shares.append(np.sqrt(len(both)))
    if len(rows) < 3 or max(distances) < 1e-9:
        return np.ones(count)
    system, right = np.asarray(rows, float) * np.asarray(shares)[:, None], np.asarray(distances) * shares
    variance = np.linalg.lstsq(system, right, rcond=None)[0]
    known = system.any(axis=0)
    variance = np.where(known, np.clip(variance, 0.2 * np.mean(distances) / 2, None), np.mean(distances) / 2)
    return variance.mean() / variance


# ---------------------------------------------------------------- the vote


@dataclass(frozen=True)
class Outcome:
    """What a vote comes to. ``winner``: (c,), the author whose word stands; ``agreement``: (c,), weighted share of those who looked that say the same;
    ``weight``: (c, A), of what each says.
    """

    winner: np.ndarray
    agreement: np.ndarray
    weight: np.ndarray


def vote(votes: Ballots, trust: Reliability, authors: Sequence[str], cap: float) -> Outcome:
    """What each thing comes to. A student weighs ``cap`` of all who looked at most; where a human speaks, that is what holds."""
    spoke = votes.spoke
    weight = np.where(spoke, np.append(trust.claims(), 0.0)[votes.claim], 0.0)
    silence = np.where(votes.looked & ~spoke, trust.weight * trust.seen, 0.0)
    if HUMAN in authors:
        silence[:, authors.index(HUMAN)] = 0
    if STUDENT in authors:
        student = authors.index(STUDENT)
        limit = _limit(votes.looked, trust.weight, student, cap)
        weight[:, student], silence[:, student] = np.minimum(weight[:, student], limit), np.minimum(silence[:, student], limit)
    support = np.einsum("cab,cb->ca", votes.same, weight)
    support[~spoke] = -1
    winner = _best(support, weight)
    agreement = np.clip(support[np.arange(len(winner)), winner], 0, None) / np.maximum(weight.sum(axis=1) + silence.sum(axis=1), 1e-12)
    if HUMAN in authors:
        human = authors.index(HUMAN)
        ruled = spoke[:, human]
        winner, agreement = np.where(ruled, human, winner), np.where(ruled, 1.0, agreement)
        weight[ruled] = 0
        weight[ruled, human] = 1
    return Outcome(winner, np.clip(agreement, 0, 1), weight)


def _best(support: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The author with most support; of equals (to nine digits) the heaviest, then the first."""
    top = np.round(support, 9)
    top = top == top.max(axis=1, keepdims=True)
    return np.where(top, np.round(weight, 9), -1).argmax(axis=1)


def _limit(looked: np.ndarray, weight: np.ndarray, student: int, cap: float) -> np.ndarray:
    """(c,) the most that a student's word may weigh, so that its share of the weight of all who looked is ``cap``."""
    others = (looked * weight).sum(axis=1) - looked[:, student] * weight[student]
    return np.full(len(looked), np.inf) if cap >= 1 else others * cap / (1 - cap)


# ---------------------------------------------------------------- for the report


def reliabilities(claims: pa.Table, coverage: pa.Table, settings: Engine) -> dict[tuple[str, str], float]:
    """The weight 0…1 that was estimated for each author and kind: what its claims weigh on the whole, before a student's share is capped.

    Where too few others looked at the same images nothing is estimated, and the pair is missing.
    """
    from florence.engine import heard
    from florence.engine.columns import read_claims
    from florence.engine.phrases import GROUNDING, ask_phrases, kept
    from florence.engine.places import PLACES, ask_places
    from florence.engine.texts import candidates, caption_trust, fuse_captions
    from florence.records import CAPTIONS, KINDS

    said = read_claims(*heard(claims, coverage, settings), None)
    found: dict[str, Any] = {task: ask_places(said, KINDS.index(task), None, settings).trust for task in PLACES}
    found |= {task: caption_trust(said, KINDS.index(task), candidates(said, KINDS.index(task), settings)) for task in CAPTIONS}
    captions = kept([fuse_captions(said, KINDS.index(task), settings) for task in CAPTIONS])
    found[GROUNDING] = ask_phrases(said, captions, None, settings)[1].trust
    return {
        (author, task): round(float(trust.weight[who]), 6)
        for task, trust in sorted(found.items())
        for who, author in enumerate(said.authors)
        if trust.estimated[who] and (said.author[said.kind == KINDS.index(task)] == who).any()
    }


def churn(before: pa.Table, after: pa.Table) -> dict[str, float]:
    """The share of kept labels of each kind that changed between two rounds: 1 − 2 · unchanged / labels of both.

    A label is unchanged where the other round has one of the same text in the same place of the image (a caption: of the same text; a question:
    with the same answer).
    """
    from florence.engine.columns import read_claims
    from florence.metrics import same
    from florence.records import ANNOTATED

    both = []
    for name, table in (("a", before), ("b", after)):
        kept = table.filter(table["kept"])
        both.append(kept.set_column(kept.schema.get_field_index("author"), "author", pa.array([name] * len(kept), pa.string())))
    none = pa.table({name: pa.array([], pa.string()) for name in ("image_id", "author", "error")})
    rows = read_claims(pa.concat_tables(both), none, None)
    codes: dict[str, int] = {}
    code = np.asarray([codes.setdefault(same(text), len(codes)) for text in rows.texts], np.int64)[rows.text]
    questions = np.flatnonzero(rows.kind == ANNOTATED.index("<VQA>"))
    answers = rows.regions.label.take(np.searchsorted(rows.regions.claim, questions)).to_pylist()
    code[questions] = [codes.setdefault(f"{asked}\0{same(answer)}", len(codes)) for asked, answer in zip(code[questions].tolist(), answers, strict=True)]
    result = {}
    for kind in np.unique(rows.kind).tolist():
        mine = np.flatnonzero(rows.kind == kind)
        mine = mine[np.lexsort((rows.author[mine], code[mine], rows.image[mine]))]
        group = np.unique(np.stack([rows.image[mine], code[mine]]), axis=1, return_inverse=True)[1].reshape(-1)
        place = gather(group, rows.author[mine], _first_bounds(rows, mine), code[mine], CHURN_IOU, CHURN_IOU)
        result[ANNOTATED[kind]] = round(1 - 2 * (len(mine) - int(place.max()) - 1) / len(mine), 6)
    return result


def _first_bounds(rows: Claims, chosen: np.ndarray) -> np.ndarray:
    """(n, 4) where the first region of each row is; one and the same place for rows without."""
    first = rows.regions.claim.searchsorted(chosen)
    there = np.append(rows.regions.claim, -1)[first] == chosen
    bounds = np.append(rows.regions.bounds, np.zeros((1, 4)), axis=0)[np.where(there, first, -1)]
    return np.where(there[:, None] & ~np.isnan(bounds).any(axis=1, keepdims=True), bounds, np.asarray([0.0, 0.0, 1.0, 1.0]))
