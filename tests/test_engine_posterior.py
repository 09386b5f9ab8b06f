"""The posterior against its equations, written out for one item after the other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from florence.engine.consensus.annotator_models import AnnotatorModels, Confusions
from florence.engine.consensus.label_matrix import (
    ABSENT,
    NOT_ASKED,
    AnnotatorTraits,
    ItemClaims,
    LabelMatrix,
    build_label_matrix,
)
from florence.engine.consensus.posterior import compute_posterior, infer_posterior, refine_by_scores

ITEMS, ANNOTATORS, LABELS, CLASSES = 80, 4, 5, 5
CASES = ["plain", "similar", "vocabulary", "person", "complete", "names only"]


def how_similar(right, claimed):
    """Return how right other labels are; not the same both ways."""
    return np.abs(np.sin(1.0 + right * 3 + claimed * 5))


def make_matrix(case: str) -> LabelMatrix:
    """Return random claims with scores. A person is annotator 3, which is asked about a third of the items."""
    rng = np.random.default_rng(7)
    coverage = rng.random((ITEMS, ANNOTATORS)) < 0.8
    present = coverage & (rng.random(coverage.shape) < 0.6)
    present[:, 3] &= np.arange(ITEMS) % 3 == 0
    rows = np.flatnonzero(present.any(axis=1))
    coverage, present = coverage[rows], present[rows]
    item, annotator = np.nonzero(present)
    score = np.where(annotator == 1, np.nan, rng.random(len(item)))
    human = 3 if case in ("person", "complete") else None
    traits = AnnotatorTraits(
        families=np.arange(ANNOTATORS),
        names_only=np.asarray([False, case == "names only", False, False]),
        can_label=rng.random((ANNOTATORS, LABELS)) < 0.6 if case == "vocabulary" else None,
        human=human,
        nothing_label=-1 if human is None else 0,
    )
    return build_label_matrix(
        ItemClaims(item, annotator, rng.integers(LABELS, size=len(item)), score),
        coverage,
        how_similar if case == "similar" else None,
        traits,
        complete=np.arange(len(rows)) % 2 == 0 if case == "complete" else None,
        level_edges=tuple(np.asarray([0.3, 0.6]) for _ in range(ANNOTATORS)),
    )


def make_models(matrix: LabelMatrix) -> AnnotatorModels:
    """Return random models. Annotator 2 copies annotator 0; labels of the matrix have other numbers in the models."""
    rng = np.random.default_rng(8)
    prior, wrong, rest = rng.dirichlet(np.ones(LABELS + 1), 3)
    key = np.asarray([2, 9, 17, 20, 31])
    return AnnotatorModels(
        precision=np.full(ANNOTATORS, 0.8),
        item_counts=rng.uniform(200, 2000, CLASSES),
        places=50.0 * len(matrix),
        class_recall=rng.uniform(0.2, 0.9, (ANNOTATORS, CLASSES)),
        label_shift=rng.normal(0, 0.5, (ANNOTATORS, LABELS + 1)),
        label_accuracy=rng.uniform(0.4, 0.95, (ANNOTATORS, LABELS + 1)),
        level_shift=rng.normal(0, 0.5, (ANNOTATORS, 9)),
        confusions=Confusions(key, rng.uniform(0.1, 0.5, len(key)), rest),
        false_positives=rng.uniform(1, 4000, ANNOTATORS),
        label_prior=prior,
        wrong_label_prior=wrong,
        level_share=rng.dirichlet(np.ones(9), (CLASSES + 1, ANNOTATORS)),
        level_score=np.where(np.arange(9) < 8, rng.uniform(0.2, 0.8, (ANNOTATORS, 9)), np.nan),
        level_slope=rng.uniform(0.5, 2, ANNOTATORS),
        copied_from=np.asarray([-1, -1, 0, -1]),
        dependence=np.asarray([0, 0, 0.4, 0]),
        estimated=np.ones(ANNOTATORS, bool),
        families=np.full(ANNOTATORS, 3.0),
        anchored=np.zeros(ANNOTATORS),
        level_edges=matrix.level_edges,
        label_names=(),
        label_index=np.asarray([3, 0, 4, 1, 5, 5]),
    )


def shifted(share: float, by: float) -> float:
    """Return logistic(logit(share) + by)."""
    return 1 / (1 + math.exp(-math.log(share / (1 - share)) - by))


class OneItem:
    """One item of a matrix, and the equations for it."""

    def __init__(self, matrix: LabelMatrix, models: AnnotatorModels, i: int, similar: bool):
        self.models, self.similar, self.traits = models, similar, matrix.traits
        self.items = len(matrix)
        asked = [matrix.claim[i, a] != NOT_ASKED for a in range(ANNOTATORS)]
        self.claimed = {a: int(matrix.label[i, a]) for a in range(ANNOTATORS) if matrix.claim[i, a] >= 0}
        self.level = {a: int(matrix.level[i, a]) for a in self.claimed}
        self.asked = [a for a in range(ANNOTATORS) if asked[a] and a != self.traits.human]
        self.complete = bool(matrix.complete[i])

    def similarity(self, right: int, claimed: int) -> float:
        """Return s."""
        return 1.0 if right == claimed else float(how_similar(right, claimed)) if self.similar else 0.0

    def confused(self, right: int, claimed: int) -> float:
        """Return χ(claimed, right) of labels as the models number them."""
        of = self.models.confusions
        pairs = dict(zip(of.key.tolist(), of.share.tolist(), strict=True))
        rest = of.rest[right] * self.models.wrong_label_prior[claimed]
        return rest + pairs.get(right * (LABELS + 1) + claimed, 0.0)

    def independent(self, a: int, c: int | None, z: int | None) -> float:
        """Return equations 2 to 4 of class c, None: nothing at all; z: label, None: another one."""
        m, names_only, y = self.models, bool(self.traits.names_only[a]), self.claimed.get(a)
        if y is None and (c is None or names_only):
            return 1.0
        u = None if y is None else int(m.label_index[y])
        if c is None:
            rate = min(m.false_positives[a] / m.places, 0.5)
            return (1.0 if names_only else rate) * m.wrong_label_prior[u]
        if z is None:
            found = m.class_recall[a, c]
            if u is None:
                return 1 - found
            mean = sum(p * q for p, q in zip(m.label_prior, m.label_accuracy[a], strict=True))
            named = (1 - shifted(mean, m.level_shift[a, self.level[a]])) * m.wrong_label_prior[u]
        else:
            v = int(m.label_index[z])
            found = shifted(m.class_recall[a, c], m.label_shift[a, v])
            if u is None:
                return 1 - found if self.traits.can_label is None or self.traits.can_label[a, z] else 1.0
            q, s = shifted(m.label_accuracy[a, v], m.level_shift[a, self.level[a]]), self.similarity(z, y)
            named = s * q + (1 - s) * (1 - q) * self.confused(v, u)
        return named if names_only else found * named

    def log_likelihood(self, a: int, c: int | None, z: int | None) -> float:
        """Return equations 5 to 7 of an annotator that was asked."""
        m, b = self.models, int(self.models.copied_from[a])
        p, delta = self.independent(a, c, z), m.dependence[a] if b in self.asked else 0.0
        if delta:
            one, other = self.claimed.get(b), self.claimed.get(a)
            same = self.similarity(one, other) if None not in (one, other) else float(one is None and other is None)
            p = delta * same + (1 - delta) * p
        if a in self.claimed:
            share = m.level_share[CLASSES if c is None else c, a, self.level[a]]
            p *= share ** (1 - delta) if b in self.claimed else share
        return math.log(p)

    def posterior(self, student: int | None, cap: float) -> dict[tuple[int | None, int | None], float]:
        """Return P(class, label): equations 1 and 8 to 10."""
        m = self.models
        labels = [*dict.fromkeys(self.claimed.values()), None]
        hypotheses = [(None, None), *((c, z) for c in range(CLASSES) for z in labels)]
        log = {a: [self.log_likelihood(a, c, z) for c, z in hypotheses] for a in self.asked}
        if student in log:
            spans = {a: max(values) - min(values) for a, values in log.items()}
            others = sum(spans.values()) - spans[student]
            scale = min(1.0, cap / (1 - cap) * others / max(spans[student], 1e-12))
            log[student] = [scale * value for value in log[student]]
        weight = {}
        for k, (c, z) in enumerate(hypotheses):
            prior = m.places if c is None else m.item_counts[c]
            if z is not None:
                prior *= m.label_prior[m.label_index[z]]
            weight[c, z] = prior * math.exp(sum(values[k] for values in log.values())) * self.possible(c, z)
        return {hypothesis: value / sum(weight.values()) for hypothesis, value in weight.items()}

    def possible(self, c: int | None, z: int | None) -> bool:
        """Return whether people leave a hypothesis open (equation 10)."""
        there, person = c is not None and c < CLASSES - 1, self.claimed.get(self.traits.human)
        if person is None:
            return not (self.complete and there)
        return not there if person == self.traits.nothing_label else there and z == person


@pytest.mark.parametrize(("student", "cap"), [(None, 1.0), (0, 0.3)])
@pytest.mark.parametrize("case", CASES)
def test_the_posterior_is_that_of_the_equations(case: str, student: int | None, cap: float):
    matrix = make_matrix(case)
    models = make_models(matrix)
    found = compute_posterior(matrix, models, student, cap)
    for i in range(len(matrix)):
        item = OneItem(matrix, models, i, case == "similar")
        posterior = item.posterior(student, cap)
        there = {v: sum(posterior[c, v] for c in range(CLASSES - 1)) for v in item.claimed.values()}
        classes = [sum(p for (of, _), p in posterior.items() if of == c) for c in (*range(CLASSES), None)]
        right = [
            sum(p * item.similarity(v, item.claimed[a]) for v, p in there.items()) if a in item.claimed else 0.0
            for a in range(ANNOTATORS)
        ]
        first = {int(matrix.label[i, a]): found.label[i, a] for a in range(ANNOTATORS) if matrix.first[i, a]}
        assert first == pytest.approx(there, rel=1e-9, abs=1e-12)
        assert found.classes[i].tolist() == pytest.approx(classes, rel=1e-9, abs=1e-12)
        assert found.nothing[i] == pytest.approx(classes[-1] + classes[-2], rel=1e-9, abs=1e-12)
        assert found.correct[i].tolist() == pytest.approx(right, rel=1e-9, abs=1e-12)
        for a in np.flatnonzero(matrix.first[i]).tolist():
            by_class = [posterior[c, item.claimed[a]] for c in range(CLASSES)]
            assert found.hypotheses[:, a, i].tolist() == pytest.approx(by_class, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_scores_beyond_their_levels_change_the_odds_that_there_is_an_item(case: str):
    matrix = make_matrix(case)
    models = make_models(matrix)
    before = compute_posterior(matrix, models)
    after = refine_by_scores(matrix, models, before, student=1)
    for i in range(len(matrix)):
        beyond = 0.0
        for a in np.flatnonzero(matrix.present[i]).tolist():
            score, mean = matrix.score[i, a], models.level_score[a, matrix.level[i, a]]
            if a in (1, matrix.human) or matrix.traits.names_only[a] or np.isnan(score) or np.isnan(mean):
                continue
            share = models.dependence[a] if matrix.present[i, models.copied_from[a]] else 0.0
            beyond += (1 - share) * models.level_slope[a] * (logit(score) - logit(mean))
        odds = (1 - before.nothing[i]) / max(before.nothing[i], 1e-300) * math.exp(beyond)
        assert 1 - after.nothing[i] == pytest.approx(odds / (1 + odds), rel=1e-6, abs=1e-9)
        # which label it is stays as likely
        ratio = (1 - after.nothing[i]) / max(1 - before.nothing[i], 1e-300)
        assert after.correct[i] == pytest.approx(before.correct[i] * ratio, rel=1e-6, abs=1e-9)


def logit(share: float) -> float:
    """Return the log odds of a score, which is taken between 0.005 and 0.995."""
    share = min(max(share, 0.005), 0.995)
    return math.log(share / (1 - share))


def test_cells_tell_silence_from_not_being_asked():
    claims = ItemClaims(np.asarray([0, 1]), np.asarray([0, 2]), np.asarray([3, 1]), np.full(2, np.nan))
    coverage = np.asarray([[True, True, False], [False, True, True]])
    traits = AnnotatorTraits(np.arange(3), np.zeros(3, bool), human=2)
    matrix = build_label_matrix(claims, coverage, traits=traits)
    assert matrix.claim.tolist() == [[0, ABSENT, NOT_ASKED], [NOT_ASKED, ABSENT, 1]]
    assert matrix.present.tolist() == [[True, False, False], [False, False, True]]
    assert matrix.was_asked.tolist() == [[True, True, False], [False, True, False]], (
        "a person's claim is no evidence: it holds"
    )
    assert replace(matrix, traits=AnnotatorTraits.of(3)).was_asked.tolist() == coverage.tolist()


def test_more_annotators_than_are_multiplied_at_once_have_the_same_posterior(monkeypatch):
    matrix = make_matrix("plain")
    models = make_models(matrix)
    whole = compute_posterior(matrix, models)
    monkeypatch.setattr("florence.engine.consensus.posterior.MAX_PRODUCT", 2)
    assert np.allclose(compute_posterior(matrix, models).hypotheses, whole.hypotheses, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_equal_items_get_one_posterior_and_memory_for_some_at_once_is_enough(case: str, monkeypatch):
    matrix = make_matrix(case)
    matrix = matrix.take(np.tile(np.arange(len(matrix)), 3))
    models = make_models(matrix)
    assert len(matrix.distinct[0]) <= len(matrix) // 3
    whole = compute_posterior(matrix, models, 0, 0.3)
    monkeypatch.setattr("florence.engine.consensus.posterior.ITEMS_AT_ONCE", 7)
    parts = infer_posterior(matrix, models, 0, 0.3)
    for name in ("nothing", "label", "correct", "classes", "hypotheses"):
        assert np.allclose(getattr(parts, name), getattr(whole, name), atol=1e-12), name
