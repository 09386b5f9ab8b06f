"""The posterior against its equations, written out for one item after the other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.label_matrix import ABSENT, NOT_ASKED, ItemClaims, LabelMatrix, build_label_matrix
from florence.engine.consensus.posterior import COINCIDENCE_RATE, compute_posterior

ITEMS, ANNOTATORS, LABELS = 60, 4, 5


@pytest.fixture(params=["plain", "similar", "vocabulary", "person"])
def matrix(request) -> LabelMatrix:
    """Return random claims with scores; in the last case annotator 3 is a person, asked about a third of the items."""
    rng = np.random.default_rng(7)
    coverage = rng.random((ITEMS, ANNOTATORS)) < 0.8
    present = coverage & (rng.random(coverage.shape) < 0.6)
    present[:, 3] &= np.arange(ITEMS) % 3 == 0
    rows = np.flatnonzero(present.any(axis=1))
    coverage, present = coverage[rows], present[rows]
    item, annotator = np.nonzero(present)
    score = np.where(annotator == 1, np.nan, rng.random(len(item)))
    claims = ItemClaims(item, annotator, rng.integers(LABELS, size=len(item)), score)
    similarity = {"similar": lambda a, b: np.abs(np.sin(1.0 + a * 3 + b * 5))}.get(request.param)
    can_label = rng.random((ANNOTATORS, LABELS)) < 0.6 if request.param == "vocabulary" else None
    edges = tuple(np.asarray([0.3, 0.6]) for _ in range(ANNOTATORS))
    person = {"human": 3, "nothing_label": 0} if request.param == "person" else {}
    return build_label_matrix(claims, coverage, similarity, can_label, level_edges=edges, **person)


@pytest.fixture
def models(matrix) -> AnnotatorModels:
    """Return random models; annotator 2 copies annotator 0."""
    rng = np.random.default_rng(8)
    prior, wrong = rng.dirichlet(np.ones(LABELS + 1), 2)
    return AnnotatorModels(
        precision=np.full(ANNOTATORS, 0.8),
        recall=rng.uniform(0.2, 0.9, (ANNOTATORS, LABELS + 1)),
        label_accuracy=rng.uniform(0.4, 0.95, (ANNOTATORS, LABELS + 1)),
        false_positives=rng.uniform(1, 2000, ANNOTATORS),
        item_count=77.0,
        claimed_item_count=len(matrix),
        label_prior=prior,
        wrong_label_prior=wrong,
        right_level=rng.dirichlet(np.ones(9), ANNOTATORS),
        wrong_level=rng.dirichlet(np.ones(9), ANNOTATORS),
        copied_from=np.asarray([-1, -1, 0, -1]),
        dependence=np.asarray([0, 0, 0.4, 0]),
        estimated=np.ones(ANNOTATORS, bool),
        level_edges=matrix.level_edges,
        label_names=(),
        label_index=np.arange(LABELS + 1),
    )


def likelihood(matrix: LabelMatrix, models: AnnotatorModels, i: int, a: int, z: int | str, by: int) -> float:
    """Return the likelihood (equations 2 to 6); ``by``: the annotator that claims the label z."""
    y = int(matrix.label[i, a]) if matrix.claim[i, a] >= 0 else None
    omega = models.wrong_label_prior
    mean = sum(models.label_prior * models.recall[a])
    s = matrix.similarity[i, by, a] if isinstance(z, int) else 0.0
    if z == "nothing":
        rate = min(models.false_positives[a] * COINCIDENCE_RATE / len(matrix), 0.5)
        p = 1.0 if y is None else rate * omega[y]
    elif z == "another":
        right = sum(models.label_prior * models.recall[a] * models.label_accuracy[a]) / mean
        p = 1 - mean if y is None else mean * (1 - right) * omega[y]
    elif y is None:
        p = 1 - models.recall[a, z] if matrix.can_label is None or matrix.can_label[a, z] else 1.0
    else:
        q = models.label_accuracy[a, z]
        p = models.recall[a, z] * (s * q + (1 - s) * (1 - q) * omega[y])
    if (b := int(models.copied_from[a])) >= 0:
        delta = models.dependence[a] * (matrix.claim[i, b] != NOT_ASKED)
        both_silent = matrix.claim[i, a] < 0 and matrix.claim[i, b] < 0
        p = delta * (matrix.similarity[i, b, a] + both_silent) + (1 - delta) * p
    if y is not None:
        level = matrix.level[i, a]
        p *= s * models.right_level[a, level] + (1 - s) * models.wrong_level[a, level]
    return p


def posterior_of(matrix: LabelMatrix, models: AnnotatorModels, i: int, student: int | None, cap: float):
    """Return P(z = 0), P(z = v) by label, and the probability that each claim is right (equations 1 and 7 to 11)."""
    claimed = {int(matrix.label[i, a]): a for a in reversed(range(ANNOTATORS)) if matrix.claim[i, a] >= 0}
    hypotheses: list[tuple[int | str, int]] = [("nothing", -1), *claimed.items(), ("another", -1)]
    annotators = [a for a in range(ANNOTATORS) if matrix.claim[i, a] != NOT_ASKED and a != matrix.human]
    log = {a: [math.log(likelihood(matrix, models, i, a, z, by)) for z, by in hypotheses] for a in annotators}
    if student in log:
        spans = {a: max(values) - min(values) for a, values in log.items()}
        others = sum(spans.values()) - spans[student]
        scale = min(1.0, cap / (1 - cap) * others / max(spans[student], 1e-12))
        log[student] = [scale * value for value in log[student]]
    weights = []
    for k, (z, _) in enumerate(hypotheses):
        n = models.item_count
        prior = len(matrix) / COINCIDENCE_RATE if z == "nothing" else n if z == "another" else n * models.label_prior[z]
        weights.append(prior * math.exp(sum(values[k] for values in log.values())))
    probability = {z: weight / sum(weights) for (z, _), weight in zip(hypotheses, weights, strict=True)}
    if matrix.human is not None and matrix.claim[i, matrix.human] >= 0:
        label = int(matrix.label[i, matrix.human])
        holds = "nothing" if label == matrix.nothing_label else label
        probability = {z: float(z == holds) for z in probability}
    right = [
        sum(probability[v] * matrix.similarity[i, by, a] for v, by in claimed.items())
        if matrix.claim[i, a] >= 0
        else 0.0
        for a in range(ANNOTATORS)
    ]
    return probability["nothing"], {v: probability[v] for v in claimed}, right


@pytest.mark.parametrize(("student", "cap"), [(None, 1.0), (1, 0.3)])
def test_the_posterior_is_that_of_the_equations(matrix, models, student, cap):
    found = compute_posterior(matrix, models, student, cap)
    for i in range(len(matrix)):
        nothing, labels, right = posterior_of(matrix, models, i, student, cap)
        assert found.nothing[i] == pytest.approx(nothing, rel=1e-9, abs=1e-12)
        first = {int(matrix.label[i, a]): found.label[i, a] for a in range(ANNOTATORS) if matrix.first[i, a]}
        assert first == pytest.approx(labels, rel=1e-9, abs=1e-12)
        assert found.correct[i].tolist() == pytest.approx(right, rel=1e-9, abs=1e-12)


def test_cells_tell_silence_from_not_being_asked():
    claims = ItemClaims(np.asarray([0, 1]), np.asarray([0, 2]), np.asarray([3, 1]), np.full(2, np.nan))
    coverage = np.asarray([[True, True, False], [False, True, True]])
    matrix = build_label_matrix(claims, coverage, human=2)
    assert matrix.claim.tolist() == [[0, ABSENT, NOT_ASKED], [NOT_ASKED, ABSENT, 1]]
    assert matrix.present.tolist() == [[True, False, False], [False, False, True]]
    assert matrix.was_asked.tolist() == [[True, True, False], [False, True, False]], (
        "a person's claim is no evidence: it holds"
    )
    assert replace(matrix, human=None).was_asked.tolist() == coverage.tolist()
