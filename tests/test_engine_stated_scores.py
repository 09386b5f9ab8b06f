"""What scores state of claims, against values worked out by hand and scikit-learn's isotonic regression."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from florence.engine.consensus.annotator_models import (
    DEFAULT_EASE,
    DIFFICULTY,
    HARD_NEGATIVE,
    NOTHING,
    SPREAD,
    TEMPTATION,
)
from florence.engine.consensus.fitting import fit_annotator_models
from florence.engine.consensus.label_matrix import (
    NOT_ASKED,
    SCORE_LEVELS,
    AnnotatorTraits,
    ItemClaims,
    LabelMatrix,
    build_label_matrix,
)
from florence.engine.consensus.stated_scores import (
    ALTERNATIVES_LOG_ODDS,
    CLARITY_OF_RANK,
    DEFAULT_PRECISION,
    EASE_OF_RANK,
    HARD_NEGATIVE_SHARE,
    LEAST_FOUND,
    MOST_FOUND,
    STATED_LOG_ODDS,
    StatedClasses,
    state_classes,
)

SCORES, CLAIMS, CONFIRMED = (0.2, 0.5, 0.8, 0.95), (40, 60, 60, 40), (14, 12, 50, 38)
"""Levels of one annotator, and how many claims of each another one confirms: of the second fewer than of the first."""


def make_matrix(
    scores=SCORES, claims=CLAIMS, confirmed=CONFIRMED, *, others: int = 1, traits: AnnotatorTraits | None = None
) -> LabelMatrix:
    """Return claims of annotator 0 at so many levels, some of which annotator 1 confirms, without scores."""
    score = np.repeat(scores, claims)
    by_other = np.concatenate([np.arange(count) < sure for count, sure in zip(claims, confirmed, strict=True)])
    item = np.concatenate([np.arange(len(score)), np.flatnonzero(by_other)])
    annotator = np.repeat([0, 1], [len(score), by_other.sum()])
    edges = (np.asarray(scores[1:]) - 0.01, *[np.zeros(0)] * others)
    return build_label_matrix(
        ItemClaims(item, annotator, np.zeros(len(item), np.int64), np.append(score, np.full(by_other.sum(), np.nan))),
        np.ones((len(score), 1 + others), bool),
        traits=traits,
        level_edges=edges,
    )


def share_right(stated: StatedClasses) -> np.ndarray:
    """Return (A, levels) p of h."""
    return stated.classes[:HARD_NEGATIVE].sum(axis=0) / stated.classes.sum(axis=0)


def log_odds(share):
    """Return logit."""
    return np.log(share) - np.log1p(-np.asarray(share))


def logistic(odds):
    """Return the share of log odds."""
    return 1 / (1 + np.exp(-np.asarray(odds)))


def test_the_log_odds_of_scores_are_raised_a_little_and_no_score_is_the_default():
    right = share_right(state_classes(make_matrix(confirmed=(0, 0, 0, 0))))
    for level, odds in enumerate((0.25, 1.0, 4.0, 19.0)):
        raised = odds * math.exp(STATED_LOG_ODDS)
        assert right[0, level] == pytest.approx(raised / (1 + raised), rel=1e-9)
    assert DEFAULT_PRECISION == 0.8 and right[0, SCORE_LEVELS] == pytest.approx(0.8)
    assert np.allclose(right[1], 0.8)
    assert np.allclose(share_right(state_classes(make_matrix(), 0.6))[1], 0.6)


def test_scores_of_an_annotator_that_states_alternatives_are_lowered():
    traits = replace(AnnotatorTraits.of(2), states_alternatives=np.asarray([True, False]))
    right = share_right(state_classes(make_matrix(confirmed=(0, 0, 0, 0), traits=traits)))
    expected = logistic(log_odds(np.asarray(SCORES)) + ALTERNATIVES_LOG_ODDS)
    assert ALTERNATIVES_LOG_ODDS < 0 and right[0, :4].tolist() == pytest.approx(expected.tolist())


def test_certain_scores_leave_a_doubt():
    right = share_right(state_classes(make_matrix((0.0, 1.0), (5, 5), (0, 0))))[0, :2]
    assert right.tolist() == pytest.approx(logistic(log_odds(np.asarray([0.005, 0.995])) + STATED_LOG_ODDS).tolist())


def test_one_score_for_all_claims_is_none():
    assert np.allclose(share_right(state_classes(make_matrix((0.97,), (70,), (0,))))[0], 0.8)


def test_claims_are_divided_by_class_as_their_rank_says():
    result = state_classes(make_matrix(confirmed=(0, 0, 0, 0)))
    stated, right = result.classes, share_right(result)
    assert np.allclose(stated.sum(axis=(0, 2)), 1)
    for level, (share, rank) in enumerate(zip((0.2, 0.3, 0.3, 0.2), (0.1, 0.35, 0.65, 0.9), strict=True)):
        p = right[0, level]
        kappa = [
            math.exp(-((SPREAD * g + CLARITY_OF_RANK * (rank - 0.5)) ** 2) / 2) * logistic(DEFAULT_EASE - SPREAD * g)
            for g in DIFFICULTY
        ]
        expected = [share * p * k / sum(kappa) for k in kappa]
        expected += [share * (1 - p) * HARD_NEGATIVE_SHARE, share * (1 - p) * (1 - HARD_NEGATIVE_SHARE)]
        assert stated[:, 0, level].tolist() == pytest.approx(expected, rel=3e-3)
    surest, least_sure = stated[:HARD_NEGATIVE, 0, 3], stated[:HARD_NEGATIVE, 0, 0]
    assert surest[0] / surest.sum() > 3 * least_sure[0] / least_sure.sum(), "the surest claims are of the easiest items"


def test_claims_without_scores_are_of_items_of_all_difficulties():
    stated = state_classes(make_matrix()).classes[:, 1, SCORE_LEVELS]
    found = logistic(DEFAULT_EASE - SPREAD * DIFFICULTY)
    assert stated[:HARD_NEGATIVE] / stated[:HARD_NEGATIVE].sum() == pytest.approx(found / found.sum())
    assert stated[NOTHING] / stated[HARD_NEGATIVE] == pytest.approx((1 - HARD_NEGATIVE_SHARE) / HARD_NEGATIVE_SHARE)


def expect_confirmed(stated: np.ndarray, claims: np.ndarray, confirmed: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (levels,) p after (S2) and (S3), and w."""
    level = np.arange(len(claims))
    rate = IsotonicRegression().fit(level, (confirmed + 0.5) / (claims + 1), claims).predict(level)
    top = min(max((rate[-2] + rate[-1]) / 2 / stated[-1], 0.05), 0.99)
    rank = (np.cumsum(claims) - claims / 2) / claims.sum()
    found = logistic(log_odds(top) - EASE_OF_RANK * (1 - rank))
    weight = min(max((top - LEAST_FOUND) / (MOST_FOUND - LEAST_FOUND), 0), 1)
    both = weight * log_odds(np.clip(rate / found, 0.01, 0.99)) + (1 - weight) * log_odds(stated)
    return logistic(np.minimum(both, log_odds(stated))), weight


@pytest.mark.parametrize("top", [40, 36, 30, 10])
def test_what_others_would_have_found_and_do_not_claim_is_likely_wrong(top: int):
    confirmed = (*CONFIRMED[:3], top)
    stated = logistic(log_odds(np.asarray(SCORES)) + STATED_LOG_ODDS)
    expected, weight = expect_confirmed(stated, np.asarray(CLAIMS), np.asarray(confirmed))
    right = share_right(state_classes(make_matrix(confirmed=confirmed)))[0, :4]
    assert right == pytest.approx(expected, rel=1e-3)
    assert (right <= stated + 1e-9).all(), "that others claim it too proves nothing"
    assert (right[1] < stated[1] - 0.02) == (weight > 0), "only where the others find nearly all that it is sure of"


def test_only_other_families_that_find_objects_and_were_asked_confirm():
    stated = logistic(log_odds(np.asarray(SCORES)) + STATED_LOG_ODDS)
    # annotator 2, which claims nothing, could confirm
    families, finds = np.arange(3), np.zeros(3, bool)
    relative = AnnotatorTraits(np.asarray([0, 0, 1]), finds)
    names = AnnotatorTraits(families, np.asarray([False, True, False]))
    person = AnnotatorTraits(families, finds, human=1)
    for traits in (relative, names, person):
        found = share_right(state_classes(make_matrix(others=2, traits=traits)))[0, :4]
        assert found == pytest.approx(stated)
    independent = share_right(state_classes(make_matrix(others=2)))[0, :4]
    assert independent[1] < stated[1] - 0.1
    matrix = make_matrix()
    claim = matrix.claim.copy()
    claim[:, 1] = np.where(claim[:, 1] < 0, NOT_ASKED, claim[:, 1])
    asked = np.asarray(CONFIRMED)
    expected, weight = expect_confirmed(stated, asked, asked)
    found = share_right(state_classes(replace(matrix, claim=claim)))[0, :4]
    assert weight == 1 and (found > share_right(state_classes(matrix))[0, :4] - 1e-9).all()
    assert found[1] > share_right(state_classes(matrix))[0, 1] + 0.1, "who was not asked is not silent"


@pytest.mark.parametrize(
    ("scores", "claims", "confirmed"),
    [((0.5, 0.95), (100, 100), (10, 99)), ((0.2, 0.5, 0.95), (15, 20, 20), (0, 17, 20))],
)
def test_few_claims_or_levels_are_not_compared(scores, claims, confirmed):
    stated = logistic(log_odds(np.asarray(scores)) + STATED_LOG_ODDS)
    found = share_right(state_classes(make_matrix(scores, claims, confirmed)))[0, : len(scores)]
    assert found == pytest.approx(stated)


# ---------------------------------------------------------------- hard negatives


@pytest.mark.parametrize(
    "confirmed, strength, least, most",
    [
        pytest.param((60, 120, 120, 140), 10.0, 0.3, 0.8, id="what is least sure is claimed nearly as often"),
        pytest.param((0, 40, 100, 160), 10.0, 0.15, 0.16, id="what is surest is claimed"),
        pytest.param((60, 120, 120, 140), 0.2, 0.15, 0.15, id="three families tell"),
        pytest.param((0, 0, 0, 0), 10.0, 0.15, 0.15, id="nothing is claimed twice"),
    ],
)
def test_agreement_that_no_score_explains_is_about_hard_negatives(confirmed, strength: float, least, most):
    matrix = make_matrix(SCORES, (200, 200, 200, 200), confirmed)
    found = state_classes(matrix, strength=np.full(2, strength)).hard_negatives
    assert least - 1e-9 <= found[0] <= most + 1e-9
    assert found[1] == pytest.approx(HARD_NEGATIVE_SHARE), "it states no scores"
    assert state_classes(matrix).hard_negatives == pytest.approx(HARD_NEGATIVE_SHARE)


def test_the_share_of_hard_negatives_is_found_that_claims_were_drawn_with():
    rng = np.random.default_rng(2)
    scores, count, true = np.asarray([0.1, 0.3, 0.5, 0.7, 0.9]), 3000, 0.5
    right = logistic(log_odds(scores) + STATED_LOG_ODDS)
    rank = (np.arange(5) + 0.5) / 5
    found = logistic(log_odds(np.asarray(0.8)) - EASE_OF_RANK * (1 - rank))
    confirmed = rng.binomial(count, right * found + (1 - right) * true * TEMPTATION)
    matrix = make_matrix(tuple(scores), (count,) * 5, tuple(confirmed))
    assert state_classes(matrix, strength=np.full(2, 10.0)).hard_negatives[0] == pytest.approx(true, abs=0.05)


def test_annotators_that_share_mistakes_are_both_tempted_by_hard_negatives():
    shared, apart = ((60, 120, 120, 140), (0, 40, 100, 160))
    recall = fit_annotator_models(make_matrix(SCORES, (200,) * 4, shared)).class_recall[:, HARD_NEGATIVE]
    assert (recall > 0.6).all()
    recall = fit_annotator_models(make_matrix(SCORES, (200,) * 4, apart)).class_recall[:, HARD_NEGATIVE]
    assert recall[1] < 0.1, "it claims nothing of what the other one is least sure of"


def test_no_annotator_withstands_hard_negatives_much_better_where_scores_show_many():
    traits = AnnotatorTraits(np.arange(3), np.zeros(3, bool), states_alternatives=np.asarray([True, False, False]))
    floor = 0.25
    for confirmed, least in (((60, 120, 120, 140), floor), ((0, 40, 100, 160), 0.0)):
        matrix = make_matrix(SCORES, (200,) * 4, confirmed, others=2, traits=traits)
        silent = fit_annotator_models(matrix).class_recall[2, HARD_NEGATIVE]
        assert least <= silent < floor + 0.01, "the third one claims nothing"
        assert (silent < 0.1) == (least == 0.0)
