"""Annotator models fitted to label matrices of annotators of known reliability, and the posterior that follows."""

from __future__ import annotations

import numpy as np
import pytest

from florence.engine.consensus.fitting import fit_annotator_models
from florence.engine.consensus.label_matrix import ABSENT, NOT_ASKED, ItemClaims, build_label_matrix
from florence.engine.consensus.posterior import compute_posterior, infer_posterior
from florence.engine.consensus.vote import vote_on_items


def simulate_label_matrix(
    right: list[float],
    recall: list[float],
    items: int = 4000,
    labels: int = 30,
    *,
    scored: bool = False,
    copies: float = 0.0,
    alone: int = 0,
):
    """Return a label matrix of annotators of known recall and precision, which claims are right, and their annotators.

    Half of the wrong claims are false positives. ``copies``: share of items of which the last annotator claims what
    the one before it claims, false positives included. ``alone``: number of labels that only wrong claims have.
    """
    rng = np.random.default_rng(3)
    claims = {(a, t): None for a in range(len(right)) for t in range(items)}
    invented: list[list[int]] = [[] for _ in right]
    for a, (r, s) in enumerate(zip(right, recall, strict=True)):
        for t in range(items):
            if rng.random() < s / r and rng.random() < (1 + r) / 2:
                wrong = rng.random() >= 2 * r / (1 + r)
                claims[a, t] = (
                    (int(rng.integers(1, labels + alone)) + t) % labels
                    if wrong and not alone
                    else labels + int(rng.integers(alone))
                    if wrong
                    else t % labels
                )
        invented[a] = [int(rng.integers(labels + alone)) for _ in range(int(rng.poisson(items * s / r * (1 - r) / 2)))]
    last = len(right) - 1
    if copies:
        for t in range(items):
            if rng.random() < copies:
                claims[last, t] = claims[last - 1, t]
    rows = [(t, a, label, label == t % labels) for (a, t), label in claims.items() if label is not None]
    extra = items
    for a, names in enumerate(invented):
        for label in names:
            copied = copies and a >= last - 1 and rng.random() < copies
            rows += [(extra, claimant, label, False) for claimant in ((last - 1, last) if copied else (a,))]
            extra += 1
    rows.sort()
    item = np.unique([row[0] for row in rows], return_inverse=True)[1]
    annotator, code, truth = (np.asarray([row[k] for row in rows]) for k in (1, 2, 3))
    score = truth * 0.4 + rng.random(len(truth)) * 0.6 if scored else np.full(len(truth), np.nan)
    coverage = np.ones((int(item.max()) + 1, len(right)), bool)
    return build_label_matrix(ItemClaims(item, annotator, code, score), coverage), truth, annotator


def by_claim(matrix, values: np.ndarray) -> np.ndarray:
    """Return the values (c, A) of present claims as (claims,)."""
    result = np.zeros(int(matrix.present.sum()))
    result[matrix.claim[matrix.present]] = values[matrix.present]
    return result


def test_recall_and_precision_are_recovered_without_truth():
    right, recall = [0.9, 0.75, 0.55], [0.7, 0.55, 0.4]
    matrix, truth, annotator = simulate_label_matrix(right, recall)
    models = fit_annotator_models(matrix)
    assert models.estimated.all()
    assert np.allclose(models.correct_recall, recall, atol=0.06)
    assert np.allclose(models.precision, [truth[annotator == a].mean() for a in range(3)], atol=0.05)
    assert models.item_count == pytest.approx(4000, rel=0.07), "unclaimed items are counted too"
    assert (models.copied_from == -1).all(), "nobody copies another"


@pytest.mark.parametrize("scored", [False, True])
def test_equal_items_get_one_posterior(scored: bool):
    matrix, _, _ = simulate_label_matrix([0.9, 0.75, 0.55], [0.7, 0.55, 0.4], scored=scored)
    matrix.claim[::7, 1][matrix.claim[::7, 1] == ABSENT] = NOT_ASKED
    rows, number = matrix.find_distinct()
    assert (2 * len(rows) < len(number)) != scored, "few items are equal where scores tell them apart"
    for name in ("label", "level", "was_asked", "present"):
        assert (getattr(matrix, name)[rows][number] == getattr(matrix, name)).all(), name
    models = fit_annotator_models(matrix)
    one, all_ = infer_posterior(matrix, models, 2, 0.4), compute_posterior(matrix, models, 2, 0.4)
    for name in ("nothing", "label", "correct"):
        assert np.allclose(getattr(one, name), getattr(all_, name), atol=1e-12), name


def test_the_posterior_is_how_often_claims_are_right():
    matrix, truth, _ = simulate_label_matrix([0.85, 0.7, 0.55, 0.5], [0.7, 0.5, 0.4, 0.3])
    posterior = by_claim(matrix, compute_posterior(matrix, fit_annotator_models(matrix)).correct)
    for low in np.arange(0, 1, 0.2):
        there = (posterior >= low) & (posterior < low + 0.2 + 1e-9)
        if there.sum() > 200:
            assert posterior[there].mean() == pytest.approx(truth[there].mean(), abs=0.08)


def test_an_annotator_that_copies_another_adds_little():
    right, recall = [0.8, 0.75, 0.7, 0.6, 0.6], [0.6, 0.6, 0.5, 0.5, 0.5]
    matrix, truth, annotator = simulate_label_matrix(right, recall, copies=0.8)
    models = fit_annotator_models(matrix)
    assert models.copied_from.tolist() == [-1, -1, -1, -1, 3] and models.dependence[4] == pytest.approx(0.8, abs=0.08)
    assert np.allclose(models.correct_recall, recall, atol=0.05)
    posterior = by_claim(matrix, compute_posterior(matrix, models).correct)
    both = matrix.present[:, 3] & matrix.present[:, 4] & ~matrix.present[:, :3].any(axis=1)
    mistakes = matrix.claim[both & (matrix.similarity[:, 3, 4] == 1), 3]
    assert (
        posterior[mistakes].mean() == pytest.approx(truth[mistakes].mean(), abs=0.12) and truth[mistakes].mean() < 0.5
    )
    free, _, _ = simulate_label_matrix(right, recall)
    assert (fit_annotator_models(free).copied_from == -1).all()


def test_labels_that_only_wrong_claims_have_are_found():
    matrix, truth, _ = simulate_label_matrix([0.8, 0.7, 0.6], [0.6, 0.6, 0.5], alone=30)
    models = fit_annotator_models(matrix)
    assert models.label_prior[30:].sum() < 0.08 < 0.8 < models.wrong_label_prior[30:].sum()


def test_a_score_that_tells_right_from_wrong_is_used():
    matrix, truth, annotator = simulate_label_matrix([0.8, 0.7, 0.6], [0.6, 0.6, 0.5], scored=True)
    posterior = by_claim(matrix, compute_posterior(matrix, fit_annotator_models(matrix)).correct)
    plain, _, _ = simulate_label_matrix([0.8, 0.7, 0.6], [0.6, 0.6, 0.5])
    for a in range(3):
        gap = posterior[(annotator == a) & truth].mean() - posterior[(annotator == a) & ~truth].mean()
        without = by_claim(plain, compute_posterior(plain, fit_annotator_models(plain)).correct)
        assert gap > without[(annotator == a) & truth].mean() - without[(annotator == a) & ~truth].mean() + 0.05


def test_an_annotator_that_guesses_changes_nothing():
    matrix, truth, annotator = simulate_label_matrix([0.85, 0.8, 0.75, 1 / 30], [0.7, 0.6, 0.6, 0.02])
    models = fit_annotator_models(matrix)
    assert models.precision[3] < 0.15 and models.precision[:3].min() > 0.65
    posterior = by_claim(matrix, compute_posterior(matrix, models).correct)
    assert posterior[annotator == 3].mean() < 0.15


@pytest.mark.parametrize("cap", [0.1, 0.25, 0.5, 0.9])
def test_the_evidence_of_a_student_is_capped(cap: float):
    matrix, _, _ = simulate_label_matrix([0.7, 0.6, 0.95], [0.5, 0.5, 0.9], items=800)
    models = fit_annotator_models(matrix)
    free, held, without = (
        compute_posterior(matrix, models, annotator, c).correct for annotator, c in ((None, 1.0), (2, cap), (2, 1e-9))
    )
    assert np.abs(held - without).sum() <= np.abs(free - without).sum() + 1e-6
    outcome = vote_on_items(matrix, models, 2, cap)
    assert np.allclose(outcome.weight, held)
    # alone against two silent annotators it cannot make an item where its cap is small
    alone = matrix.present[:, 2] & ~matrix.present[:, :2].any(axis=1)
    if cap <= 0.1:
        assert (outcome.confidence[alone] < 0.5).all() and (
            vote_on_items(matrix, models, None, cap).confidence[alone] > 0.5
        ).any()
