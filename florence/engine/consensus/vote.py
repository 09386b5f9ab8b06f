"""What several annotators say of one image, made into one: who speaks of the same place, and what is to be believed of it.

Whom to trust how far is estimated from the claims alone (`florence.engine.consensus.annotator_models`). What is likeliest, all words and silences taken together, stands;
its agreement is how likely it is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.claims import Claims
from florence.engine.consensus.annotator_models import Trust, believed
from florence.engine.consensus.label_matrix import Ballots
from florence.engine.pairs import joined, neighbours
from florence.records import AnnotatorProfile

if TYPE_CHECKING:
    from florence.engine.consensus.boxes import Poll

HUMAN, STUDENT = "human", "student"
ENOUGH = 5
"""Things that two annotators have both boxed under which the distance of their boxes tells nothing."""
SURE = 0.99
"""The most that a text is ever believed."""
CHURN_IOU = 0.5
"""Places that overlap this much are the same one in both of two rounds."""


# ---------------------------------------------------------------- who speaks of one place


def gather(
    group: np.ndarray,
    annotator: np.ndarray,
    bounds: np.ndarray,
    code: np.ndarray,
    iou: float,
    same_iou: float,
    first: np.ndarray | None = None,
) -> np.ndarray:
    """The place (m,) that each of m claims is about, numbered 0, 1, … in the order of their first claims.

    Claims of one ``group`` and different annotators are about one place where their ``bounds`` (m, 4) overlap by ``iou``, or by ``same_iou`` if they
    say the same (``code``); each annotator has one claim a place at most. Pairs that say the same join first, then those that overlap most; pairs of
    claims that are ``first`` (m,) before all others. The groups must be in order.
    """
    a, b = neighbours(group)
    keep = annotator[a] != annotator[b]
    a, b = a[keep], b[keep]
    overlap, same = paired_iou(bounds[a], bounds[b]), code[a] == code[b]
    keep = overlap >= np.where(same, same_iou, iou)
    a, b, overlap, same = a[keep], b[keep], overlap[keep], same[keep]
    early = np.zeros(len(a), bool) if first is None else first[a] & first[b]
    order = np.lexsort((b, a, -np.round(overlap, 9), ~same, ~early))
    return np.unique(joined(a[order], b[order], annotator), return_inverse=True)[1]


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (n,) of boxes (n, 4) one by one; 0 where the union is empty or one is no box."""
    a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    side = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = side[0] * side[1]
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return np.nan_to_num(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def information(right: np.ndarray, choices: float) -> np.ndarray:
    """The weight 0…1 of a word that is right so often, among so many things that could be said: log-odds against chance, 1 for one that is `SURE`."""
    right = np.clip(right, 0.001, SURE)
    odds = np.log(right / (1 - right) * (choices - 1))
    return np.clip(odds / np.log(SURE / (1 - SURE) * (choices - 1)), 0, 1)


def sharpness(bounds: np.ndarray, votes: Ballots, trust: Trust) -> np.ndarray:
    """(A,) the weight of each annotator's boxes (claims, 4): one over their variance, on the whole 1; less for one that repeats another.

    The distance between two annotators' boxes of one thing, in shares of its sides, has the sum of both variances.
    """
    count = votes.claim.shape[1]
    rows, distances, shares = [], [], []
    for a in range(count):
        for b in range(a):
            if a == trust.repeats[b] or b == trust.repeats[a]:
                continue
            both = votes.claim[votes.spoke[:, a] & votes.spoke[:, b]][:, [a, b]]
            if len(both) >= ENOUGH:
                one, other = bounds[both[:, 0]], bounds[both[:, 1]]
                sides = np.tile((one[:, 2:] - one[:, :2] + other[:, 2:] - other[:, :2]) / 2, 2)
                rows.append([who in (a, b) for who in range(count)])
                distances.append(np.mean(((one - other) / np.maximum(sides, 1e-9)) ** 2))
                shares.append(np.sqrt(len(both)))
    if len(rows) < 3 or max(distances) < 1e-9:
        return 1 - trust.repeated
    system, right = np.asarray(rows, float) * np.asarray(shares)[:, None], np.asarray(distances) * shares
    variance = np.linalg.lstsq(system, right, rcond=None)[0]
    known = system.any(axis=0)
    variance = np.where(known, np.clip(variance, 0.2 * np.mean(distances) / 2, None), np.mean(distances) / 2)
    return variance.mean() / variance * (1 - trust.repeated)


# ---------------------------------------------------------------- the vote


@dataclass(frozen=True)
class Outcome:
    """What a vote comes to. ``winner``: (c,), the annotator whose word stands, the likeliest; ``agreement``: (c,), how likely that is right; ``weight``: (c, A), how likely is
    right what each says.
    """

    winner: np.ndarray
    confidence: np.ndarray
    weight: np.ndarray


def vote(votes: Ballots, trust: Trust, annotators: Sequence[str], cap: float, *, by_name: bool = False) -> Outcome:
    """What each thing comes to. A student's evidence is ``cap`` of all there is at most; where a person speaks, that is what holds.

    ``by_name``: of a name and a kind that it is of the likelier one stands, although the kind is right in both cases; else what is likeliest right.
    """
    student = annotators.index(STUDENT) if STUDENT in annotators else None
    belief = believed(votes, trust, student, cap)
    weight = belief.claims
    standing = (
        np.where(votes.first, np.round(belief.names, 9), -1)
        if by_name
        else np.where(votes.spoke, np.round(weight, 9), -1)
    )
    winner = standing.argmax(axis=1)
    confidence = weight[np.arange(len(winner)), winner]
    if votes.human is not None:
        ruled = votes.spoke[:, votes.human]
        winner, confidence = np.where(ruled, votes.human, winner), np.where(ruled, 1.0, confidence)
        weight[ruled] = 0
        weight[ruled, votes.human] = 1
    return Outcome(winner, np.clip(confidence, 0, 1), weight)


# ---------------------------------------------------------------- for the report


@dataclass(frozen=True)
class Reliable:
    """How far an annotator is to be believed about a kind, 0…1. ``value``: of places F1 (`Trust.reliability`), of captions what one weighs; ``by_name``: of objects, the
    share of the things of each name that it sees and names right, the most frequent names first, of names that somebody has said about images that it looked at.
    """

    value: float
    by_name: Mapping[str, float]


def reliabilities(
    claims: pa.Table, coverage: pa.Table, settings: EngineSettings, profiles: Sequence[AnnotatorProfile] = ()
) -> dict[tuple[str, str], Reliable]:
    """How reliable each annotator was found to be, by annotator and kind, on the images that `florence.engine.fuse` learns from; no truth is looked at.

    Where too few others looked at the same images nothing is estimated, and the pair is missing.
    """
    from florence.engine.claims import read_claims
    from florence.engine.consensus.blocks import heard, learnt
    from florence.engine.consensus.boxes import OBJECTS, PLACES, ask_places
    from florence.engine.consensus.captions import candidates, caption_trust, fuse_captions
    from florence.engine.consensus.phrase_binding import GROUNDING, kept
    from florence.engine.consensus.phrases import ask_phrases
    from florence.records import BASE_TYPES, CAPTIONS

    said = read_claims(*learnt(*heard(claims, coverage, settings, profiles)), None, profiles)
    captions = kept([fuse_captions(said, BASE_TYPES.index(task), settings) for task in CAPTIONS])
    asked = {task: ask_places(said, BASE_TYPES.index(task), None, settings) for task in PLACES}
    trusts: dict[str, Any] = {task: poll.judged.trust for task, poll in asked.items()}
    trusts[GROUNDING] = ask_phrases(said, captions, None, settings)[1].judged.trust
    found = {task: (trust.reliability, trust.estimated) for task, trust in trusts.items()}
    for task in CAPTIONS:
        trust = caption_trust(said, BASE_TYPES.index(task), candidates(said, BASE_TYPES.index(task), settings))
        found[task] = trust.weight, trust.estimated
    by_name = _by_name(asked[OBJECTS], said.looked, settings)
    return {
        (annotator, task): Reliable(round(float(value[who]), 6), by_name[who] if task == OBJECTS else {})
        for task, (value, estimated) in sorted(found.items())
        for who, annotator in enumerate(said.annotators)
        if estimated[who] and (said.annotator[said.kind == BASE_TYPES.index(task)] == who).any()
    }


def _by_name(asked: Poll, looked: np.ndarray, settings: EngineSettings) -> list[dict[str, float]]:
    """Each annotator's `Reliable.by_name`. ``looked``: (images, A)."""
    from florence.engine.enhance.names import build_name_table

    units, trust = asked.units, asked.judged.trust
    example = dict(zip(units.code.tolist(), units.text, strict=True))
    codes = [code for code in np.argsort(-trust.called, kind="stable").tolist() if code in example]
    labels = {code: build_name_table(settings).label(example[code]) for code in codes}
    result = []
    for who, recall in enumerate(trust.seen * trust.named):
        met = set(units.code[looked[units.image, who]].tolist())
        result.append({labels[code]: round(float(recall[code]), 6) for code in codes if code in met})
    return result


@dataclass(frozen=True)
class Change:
    """What became of the kept labels of a kind from one round to the next. ``same``: the same text in the same place of the image (a caption: the same
    text; a question: with the same answer); ``renamed``: another text in the same place; ``moved``: the same text in another place; ``added``, ``removed``: all others.
    """

    same: int
    renamed: int
    moved: int
    added: int
    removed: int

    @property
    def share(self) -> float:
        """1 − 2 · unchanged / labels of both rounds."""
        of = 2 * (self.same + self.renamed + self.moved) + self.added + self.removed
        return round(1 - 2 * self.same / of, 6) if of else 0.0


def churn(before: pa.Table, after: pa.Table) -> dict[str, Change]:
    """What became of the kept labels of each kind between two rounds."""
    from florence.engine.claims import read_claims
    from florence.metrics import same
    from florence.records import ANNOTATION_TYPES

    both = []
    for name, table in (("a", before), ("b", after)):
        kept = table.filter(table["kept"])
        both.append(
            kept.set_column(
                kept.schema.get_field_index("annotator"), "annotator", pa.array([name] * len(kept), pa.string())
            )
        )
    none = pa.table({name: pa.array([], pa.string()) for name in ("image_id", "annotator", "error")})
    rows = read_claims(pa.concat_tables(both), none, None)
    codes: dict[str, int] = {}
    code = np.asarray([codes.setdefault(same(text), len(codes)) for text in rows.texts], np.int64)[rows.text]
    about = code.copy()
    told = np.flatnonzero(
        np.isin(rows.kind, [ANNOTATION_TYPES.index("<VQA>"), ANNOTATION_TYPES.index("<CAPTION_TO_PHRASE_GROUNDING>")])
    )
    told = told[np.isin(told, rows.regions.claim)]
    # of questions the answer is what is said, of captions' phrases the phrase
    said = rows.regions.label.take(np.searchsorted(rows.regions.claim, told)).to_pylist()
    asked = np.where(rows.kind[told] == ANNOTATION_TYPES.index("<VQA>"), code[told], -1)
    code[told] = [
        codes.setdefault(f"{question}\0{same(text)}", len(codes))
        for question, text in zip(asked.tolist(), said, strict=True)
    ]
    about[rows.kind != ANNOTATION_TYPES.index("<VQA>")] = -1
    return {
        ANNOTATION_TYPES[kind]: _changed(rows, np.flatnonzero(rows.kind == kind), code, about)
        for kind in np.unique(rows.kind).tolist()
    }


def _changed(rows: Claims, left: np.ndarray, code: np.ndarray, about: np.ndarray) -> Change:
    """Pair the labels ``left`` of both rounds: those of one text and place, then those of one place, then those of one text. ``code``: (n,), of what is said; ``about``: of what
    it is said of, besides the image."""
    pairs = []
    for text, place in ((True, True), (False, True), (True, False)):
        keys = [rows.image[left], code[left] if text else about[left]]
        left = left[np.lexsort((rows.annotator[left], *reversed(keys)))]
        group = np.unique(np.stack([rows.image[left], (code if text else about)[left]]), axis=1, return_inverse=True)[
            1
        ].reshape(-1)
        bounds = _first_bounds(rows, left) if place else np.tile([0.0, 0.0, 1.0, 1.0], (len(left), 1))
        at = gather(group, rows.annotator[left], bounds, code[left], CHURN_IOU, CHURN_IOU)
        paired = np.bincount(at)[at] > 1
        pairs.append(int(paired.sum()) // 2)
        left = left[~paired]
    removed = int((rows.annotator[left] == 0).sum())
    unchanged, renamed, moved = pairs
    return Change(unchanged, renamed, moved, len(left) - removed, removed)


def _first_bounds(rows: Claims, chosen: np.ndarray) -> np.ndarray:
    """(n, 4) where the first region of each row is; one and the same place for rows without."""
    first = rows.regions.claim.searchsorted(chosen)
    there = np.append(rows.regions.claim, -1)[first] == chosen
    bounds = np.append(rows.regions.bounds, np.zeros((1, 4)), axis=0)[np.where(there, first, -1)]
    return np.where(
        there[:, None] & ~np.isnan(bounds).any(axis=1, keepdims=True), bounds, np.asarray([0.0, 0.0, 1.0, 1.0])
    )
