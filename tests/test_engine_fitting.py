"""Annotator models fitted to label matrices of annotators of known reliability, and the posterior that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import NamedTuple

import numpy as np
import pytest

from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.dependence import MIN_DECLARED_DEPENDENCE
from florence.engine.consensus.fitting import fit_annotator_models
from florence.engine.consensus.label_matrix import (
    NOT_ASKED,
    AnnotatorTraits,
    ItemClaims,
    LabelMatrix,
    build_label_matrix,
)
from florence.engine.consensus.posterior import compute_posterior, infer_posterior
from florence.engine.consensus.vote import vote_on_items

OBJECTS, LABELS, OBJECTS_PER_IMAGE = 1500, 20, 8
MIN_CONFIDENCE = 0.4


class Skill(NamedTuple):
    """P(claims something | an object), P(the label is right | it does), false positives for each object."""

    recall: float
    accuracy: float = 0.85
    false: float = 0.2


@dataclass(frozen=True)
class Simulation:
    """Claims of known worth. ``right``: (n, A); ``there``: (n,), items that are objects; ``label``: (n,), theirs."""

    matrix: LabelMatrix
    right: np.ndarray
    there: np.ndarray
    label: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """(A,): share of each annotator's claims that are right."""
        return self.right.sum(axis=0) / self.matrix.present.sum(axis=0)

    @property
    def correct_recall(self) -> np.ndarray:
        """(A,): share of all objects, claimed or not, that an annotator claims with the right label."""
        return self.right.sum(axis=0) / OBJECTS

    def f1(self, annotator: np.ndarray, kept: np.ndarray) -> float:
        """F1 of the claims (n,) of these annotators, of the items that are kept."""
        right = (self.right[np.arange(len(annotator)), annotator] & kept).sum()
        return 2 * right / (kept.sum() + OBJECTS)

    def consensus_f1(self, models: AnnotatorModels) -> float:
        """F1 of the consensus."""
        votes = vote_on_items(self.matrix, models, None, 1.0)
        return self.f1(votes.annotator, votes.confidence >= MIN_CONFIDENCE)


def find_objects(recall: float, difficulty: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return which objects of so much difficulty an annotator of this recall finds."""
    low, high = -10.0, 10.0
    for _ in range(40):
        ease = (low + high) / 2
        chance = 1 / (1 + np.exp(difficulty - ease))
        low, high = (ease, high) if chance.mean() < recall else (low, ease)
    return rng.random(len(difficulty)) < chance


def simulate_claims(
    skills: Sequence[Skill],
    rng: np.random.Generator,
    copies: Mapping[int, tuple[int, float]],
    spread: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (n, A) of claims, -1 for none, objects first, and those of objects (n,), -1 for places."""
    label = rng.integers(LABELS, size=OBJECTS)
    difficulty = rng.normal(0, 1, OBJECTS) * spread
    claims, places = np.full((OBJECTS, len(skills)), -1), []
    for a, skill in enumerate(skills):
        named = np.where(
            rng.random(OBJECTS) < skill.accuracy, label, (label + rng.integers(1, LABELS, OBJECTS)) % LABELS
        )
        claims[:, a] = np.where(find_objects(skill.recall, difficulty, rng), named, -1)
        b, share = copies.get(a, (a, 0.0))
        claims[:, a] = np.where(rng.random(OBJECTS) < share, claims[:, b], claims[:, a])
        for place in places:
            if place[b] >= 0 and a != b and rng.random() < share:
                place[a] = place[b]
        for u in rng.integers(LABELS, size=rng.poisson(OBJECTS * skill.false * (1 - share))).tolist():
            places.append(np.full(len(skills), -1))
            places[-1][a] = u
    return np.concatenate([claims, np.asarray(places).reshape(-1, len(skills))]), np.concatenate(
        [label, np.full(len(places), -1)]
    )


def simulate_label_matrix(
    skills: Sequence[Skill],
    *,
    copies: Mapping[int, tuple[int, float]] = {},
    scored: Sequence[bool] | bool = False,
    spread: float = 1.0,
    families: Sequence[int] | None = None,
    images_of_people: int = 0,
    seed: int = 3,
) -> Simulation:
    """Simulate annotators of known skill that look at the same images.

    ``copies``: annotator → whom it copies, silence and mistakes included, and how often. ``scored``: whose claims have
    scores, which are how likely they are right. ``spread``: how much objects differ in difficulty, log odds. People,
    the last annotator, label all objects of so many images.
    """
    rng = np.random.default_rng(seed)
    claims, label = simulate_claims(skills, rng, copies, spread)
    by_people = (rng.permutation(len(label)) // OBJECTS_PER_IMAGE) < images_of_people
    coverage = np.ones(claims.shape, bool)
    if images_of_people:
        claims = np.concatenate([claims, np.where(by_people, label, -1)[:, None]], axis=1)
        coverage = np.concatenate([coverage, by_people[:, None]], axis=1)
    shown = (claims >= 0).any(axis=1)
    claims, coverage, label, by_people = claims[shown], coverage[shown], label[shown], by_people[shown]
    right = (claims == label[:, None]) & (claims >= 0)
    present = claims >= 0
    chance = np.where(right, np.sqrt(rng.random(claims.shape)), 1 - np.sqrt(rng.random(claims.shape)))
    precision = (right.sum(axis=0) / present.sum(axis=0)).clip(0.01, 0.99)
    odds = chance / (1 - chance) * precision / (1 - precision)
    has_score = np.zeros(claims.shape[1], bool)
    has_score[: len(skills)] = scored
    score = np.where(has_score, odds / (1 + odds), np.nan)
    item, annotator = np.nonzero(present)
    traits = replace(
        AnnotatorTraits.of(claims.shape[1]),
        families=np.arange(claims.shape[1]) if families is None else np.asarray(families),
        human=len(skills) if images_of_people else None,
    )
    matrix = build_label_matrix(
        ItemClaims(item, annotator, claims[item, annotator], score[item, annotator]),
        coverage,
        traits=traits,
        complete=by_people if images_of_people else None,
    )
    return Simulation(matrix, right, label >= 0, label)


@pytest.fixture(params=[3, 4])
def seed(request) -> int:
    """Return a seed."""
    return request.param


THREE = (Skill(0.7, 0.9, 0.15), Skill(0.6, 0.85, 0.3), Skill(0.5, 0.75, 0.5))
FIVE = (*THREE, Skill(0.6, 0.7, 0.4), Skill(0.6, 0.7, 0.4))
WEAK = Skill(0.4, 0.5, 1.0)


def change(simulation: Simulation, score: float | None = None, **traits: object) -> Simulation:
    """Return a simulation with one score for all claims, or none, and other traits."""
    matrix = simulation.matrix
    item, annotator = np.nonzero(matrix.present)
    claims = ItemClaims(item, annotator, matrix.label[item, annotator], np.full(len(item), score or np.nan))
    return replace(
        simulation,
        matrix=build_label_matrix(
            claims, matrix.claim != NOT_ASKED, traits=replace(matrix.traits, **traits), complete=matrix.complete
        ),
    )


def add_names(simulation: Simulation, accuracy: Sequence[float], same: float, family: Sequence[int]) -> Simulation:
    """Add annotators that name most items of the others; they claim the same with probability ``same``."""
    rng = np.random.default_rng(1)
    matrix, n = simulation.matrix, len(simulation.label)
    columns: list[np.ndarray] = []
    for share in accuracy:
        named = np.where(simulation.there & (rng.random(n) < share), simulation.label, rng.integers(LABELS, size=n))
        named = np.where(rng.random(n) < 0.9, named, -1)
        columns.append(np.where(rng.random(n) < same, columns[0], named) if columns else named)
    claims = np.concatenate([np.where(matrix.present, matrix.label, -1), np.stack(columns, axis=1)], axis=1)
    item, annotator = np.nonzero(claims >= 0)
    traits = AnnotatorTraits(
        np.concatenate([matrix.families, family]), np.arange(claims.shape[1]) >= matrix.claim.shape[1]
    )
    return Simulation(
        build_label_matrix(
            ItemClaims(item, annotator, claims[item, annotator], np.full(len(item), np.nan)),
            np.ones(claims.shape, bool),
            traits=traits,
        ),
        (claims == simulation.label[:, None]) & (claims >= 0),
        simulation.there,
        simulation.label,
    )


def numbers_of(models: AnnotatorModels) -> list[np.ndarray]:
    """Return all numbers of the models."""
    values = [*astuple(replace(models, confusions=None, level_score=None)), *astuple(models.confusions)]
    return [np.asarray(value) for value in values if value is not None and not isinstance(value, tuple)]


def test_recall_and_precision_are_recovered_without_truth(seed: int):
    found = simulate_label_matrix(THREE, seed=seed, spread=1.3)
    models = fit_annotator_models(found.matrix)
    assert models.estimated.all()
    assert np.allclose(models.correct_recall, found.correct_recall, atol=0.05)
    assert np.allclose(models.precision, found.precision, atol=0.05)
    assert models.item_counts[:4].sum() == pytest.approx(OBJECTS, rel=0.08), "unclaimed objects are counted"
    assert (models.copied_from == -1).all(), "nobody copies another"


def test_the_consensus_is_better_than_the_best_annotator(seed: int):
    for skills, gain in ((THREE, 0.02), (FIVE, 0.1)):
        found = simulate_label_matrix(skills, seed=seed)
        alone = found.f1(np.zeros(len(found.matrix), int), found.matrix.present[:, 0])
        assert found.consensus_f1(fit_annotator_models(found.matrix)) > alone + gain


def test_the_posterior_is_how_often_claims_are_right(seed: int):
    found = simulate_label_matrix(FIVE, seed=seed)
    present = found.matrix.present
    posterior = compute_posterior(found.matrix, fit_annotator_models(found.matrix)).correct[present]
    right = found.right[present]
    for low in np.arange(0, 1, 0.2):
        inside = (posterior >= low) & (posterior < low + 0.2 + 1e-9)
        if inside.sum() > 200:
            assert posterior[inside].mean() == pytest.approx(right[inside].mean(), abs=0.1)


def test_an_annotator_that_copies_another_is_found_among_four_families(seed: int):
    found = simulate_label_matrix(FIVE, copies={4: (3, 0.8)}, seed=seed)
    models = fit_annotator_models(found.matrix)
    assert models.copied_from.tolist() == [-1, -1, -1, -1, 3]
    assert models.dependence[4] == pytest.approx(0.8, abs=0.08)
    assert np.allclose(models.correct_recall, found.correct_recall, atol=0.05)
    both = found.matrix.present[:, 3:].all(axis=1) & ~found.matrix.present[:, :3].any(axis=1)
    both &= found.matrix.label[:, 3] == found.matrix.label[:, 4]
    posterior = compute_posterior(found.matrix, models).correct[both, 3]
    assert posterior.mean() == pytest.approx(found.right[both, 3].mean(), abs=0.1)
    assert found.right[both, 3].mean() < 0.5, "what only the two claim is mostly wrong"
    free = simulate_label_matrix(FIVE, seed=seed)
    assert (fit_annotator_models(free.matrix).copied_from == -1).all()


def test_annotators_of_one_declared_family_are_dependent_in_any_case(seed: int):
    for skills in (THREE, THREE[:2]):
        families = [0, 1, 1][-len(skills) :]
        found = simulate_label_matrix(skills, families=families, seed=seed)
        models = fit_annotator_models(found.matrix)
        assert models.copied_from.tolist() == [-1, -1, 1] if len(skills) == 3 else [-1, 0]
        assert MIN_DECLARED_DEPENDENCE <= models.dependence[-1] <= 0.95
        few = fit_annotator_models(found.matrix.take(np.arange(40)))
        assert few.copied_from.tolist() == models.copied_from.tolist(), "of few items too"


def test_two_relatives_never_outvote_a_good_annotator_with_scores(seed: int):
    good = Skill(0.75, 0.9, 0.15)
    found = simulate_label_matrix((good, WEAK, WEAK), families=[0, 1, 1], copies={2: (1, 0.9)}, scored=True, seed=seed)
    matrix, models = found.matrix, fit_annotator_models(found.matrix)
    votes = vote_on_items(matrix, models, None, 1.0)
    label, mistaken = matrix.label, matrix.present.all(axis=1)
    mistaken = mistaken & (label[:, 1] == label[:, 2]) & (label[:, 0] != label[:, 1])
    assert mistaken.sum() > 100 and (votes.annotator[mistaken] == 0).mean() > 0.95
    first = np.zeros(len(matrix), int)
    best = max(found.f1(first, matrix.present[:, 0] & (matrix.level[:, 0] >= level)) for level in range(8))
    assert found.consensus_f1(models) > best - 0.045
    places = ~matrix.present[:, 0] & matrix.present[:, 1:].all(axis=1)
    assert (votes.confidence[places] < MIN_CONFIDENCE).mean() > 0.9, "what only the two claim is not kept"


def test_of_one_annotator_alone_nothing_is_fitted_and_confidence_follows_its_scores(seed: int):
    found = simulate_label_matrix([Skill(0.7, 0.85, 0.4)], scored=True, seed=seed)
    matrix, models = found.matrix, fit_annotator_models(found.matrix)
    assert not models.estimated.any()
    default = fit_annotator_models(matrix.take(np.arange(5)))
    assert np.array_equal(models.class_recall, default.class_recall), "rates of which nothing is known"
    confidence = vote_on_items(matrix, models, None, 1.0).confidence
    by_level = [confidence[matrix.level[:, 0] == level].mean() for level in range(8)]
    assert (np.diff(by_level) > 0.02).all()
    assert np.abs(np.asarray(by_level) - matrix.level_score[0, :8]).max() < 0.13
    kept = confidence >= MIN_CONFIDENCE
    best = max(found.f1(np.zeros(len(matrix), int), matrix.level[:, 0] >= level) for level in range(8))
    assert found.f1(np.zeros(len(matrix), int), kept) > best - 0.02


def test_what_people_label_tells_how_good_two_annotators_are(seed: int):
    two = (Skill(0.75, 0.9, 0.15), Skill(0.5, 0.7, 0.7))
    found = simulate_label_matrix(two, images_of_people=40, seed=seed)
    models = fit_annotator_models(found.matrix)
    assert models.estimated[:2].all() and (models.anchored[:2] > 100).all()
    # 150 judged claims of an annotator leave a standard error of 0.035
    assert np.allclose(models.precision[:2], found.precision[:2], atol=0.09)
    assert np.allclose(models.correct_recall[:2], found.correct_recall[:2], atol=0.09)
    without = simulate_label_matrix(two, seed=seed)
    blind = fit_annotator_models(without.matrix)
    assert not blind.estimated.any() and np.abs(blind.precision - without.precision).max() > 0.2
    alone = found.f1(np.zeros(len(found.matrix), int), found.matrix.present[:, 0])
    assert found.consensus_f1(models) > alone


def test_what_people_claim_holds_and_what_they_leave_out_of_a_whole_image_is_nothing(seed: int):
    found = simulate_label_matrix(THREE, images_of_people=20, seed=seed)
    matrix = found.matrix
    posterior = infer_posterior(matrix, fit_annotator_models(matrix))
    by_person = matrix.present[:, 3]
    left_out = matrix.complete & ~by_person
    assert by_person.sum() > 30 and left_out.sum() > 30
    assert np.allclose(posterior.nothing[left_out], 1) and (posterior.correct[left_out] == 0).all()
    assert np.allclose(posterior.nothing[by_person], 0)
    assert np.allclose(posterior.correct[by_person], found.right[by_person]), "claims are right that say the same"
    partly = replace(matrix, complete=np.zeros(len(matrix), bool))
    assert (infer_posterior(partly, fit_annotator_models(partly)).nothing[left_out] < 0.9).any()


def test_names_of_others_boxes_prove_nothing_about_objects(seed: int):
    plain = simulate_label_matrix(THREE, seed=seed)
    found = add_names(plain, [0.8], 0.0, [3])
    matrix, models = found.matrix, fit_annotator_models(found.matrix)
    assert all(np.isfinite(numbers).all() for numbers in numbers_of(models))
    assert np.allclose(models.families[:3], 2), "and no claims are confirmed by it"
    posterior = infer_posterior(matrix, models)
    assert np.isfinite(posterior.hypotheses).all()
    before = fit_annotator_models(plain.matrix)
    assert found.consensus_f1(models) > plain.consensus_f1(before) + 0.03, "names help"
    assert models.item_counts[:4].sum() == pytest.approx(OBJECTS, rel=0.12)
    silent = ~matrix.present[:, 3]
    claim = matrix.claim.copy()
    claim[silent, 3] = NOT_ASKED
    unasked = infer_posterior(replace(matrix, claim=claim), models)
    assert np.allclose(unasked.classes, posterior.classes), "its silence is no evidence"
    claim = matrix.claim.copy()
    claim[:, :3] = np.where(claim[:, :3] >= 0, -1, claim[:, :3])
    lonely = replace(matrix, claim=claim, similarity=matrix.similarity * 0 + np.diag([0, 0, 0, 1])).take(
        np.flatnonzero(~silent)
    )
    assert (infer_posterior(lonely, models).nothing > 0.9).all(), "its claim alone makes no item"


@pytest.mark.parametrize("skills", [THREE, THREE[:1]])
def test_relatives_that_name_boxes_of_others_count_for_little_more_than_one(skills, seed: int):
    plain = simulate_label_matrix(skills, seed=seed)
    count = len(skills)
    found = add_names(plain, [0.4, 0.4], 0.95, [count, count])
    models = fit_annotator_models(found.matrix)
    assert models.copied_from.tolist() == [-1] * (count + 1) + [count]
    assert found.consensus_f1(models) > plain.consensus_f1(fit_annotator_models(plain.matrix)) - 0.01


def test_no_annotator_that_finds_objects_copies_one_that_names_boxes(seed: int):
    found = add_names(simulate_label_matrix(THREE, seed=seed), [0.8], 0.0, [0])
    order = [3, 0, 1, 2]
    matrix = found.matrix
    item, annotator = np.nonzero(matrix.present[:, order])
    claims = ItemClaims(item, annotator, matrix.label[:, order][item, annotator], np.full(len(item), np.nan))
    traits = AnnotatorTraits(np.asarray([0, 0, 1, 2]), np.asarray([True, False, False, False]))
    turned = build_label_matrix(claims, np.ones(matrix.claim.shape, bool), traits=traits)
    for some in (turned, turned.take(np.arange(5))):
        assert fit_annotator_models(some).copied_from.tolist() == [1, -1, -1, -1]


def test_one_score_for_all_claims_is_as_none(seed: int):
    found = simulate_label_matrix(THREE, seed=seed)
    for skills in (THREE, THREE[:1]):
        found = simulate_label_matrix(skills, seed=seed)
        none, one = (compute_posterior(m, fit_annotator_models(m)) for m in (found.matrix, change(found, 0.97).matrix))
        assert np.allclose(none.hypotheses, one.hypotheses, atol=1e-9)


def test_a_score_that_tells_right_from_wrong_is_used(seed: int):
    scored = simulate_label_matrix(THREE, scored=True, seed=seed)
    plain = change(scored)
    gaps = []
    for found in (scored, plain):
        posterior = compute_posterior(found.matrix, fit_annotator_models(found.matrix)).correct
        wrong = found.matrix.present & ~found.right
        gaps.append([posterior[found.right[:, a], a].mean() - posterior[wrong[:, a], a].mean() for a in range(3)])
    assert (np.subtract(*gaps) > 0.03).all()
    assert scored.consensus_f1(fit_annotator_models(scored.matrix)) > plain.consensus_f1(
        fit_annotator_models(plain.matrix)
    )


def test_an_annotator_that_guesses_changes_nothing(seed: int):
    found = simulate_label_matrix((*THREE, Skill(0.02, 0.05, 0.8)), seed=seed)
    models = fit_annotator_models(found.matrix)
    assert models.precision[3] < 0.15 and models.precision[:2].min() > 0.5
    posterior = compute_posterior(found.matrix, models).correct
    assert posterior[found.matrix.present[:, 3], 3].mean() < 0.15


def test_equal_inputs_give_equal_bytes(seed: int):
    one, other = (simulate_label_matrix(THREE, scored=True, images_of_people=10, seed=seed) for _ in range(2))
    first, second = (fit_annotator_models(found.matrix) for found in (one, other))
    assert [n.tobytes() for n in numbers_of(first)] == [n.tobytes() for n in numbers_of(second)]
    for name in ("nothing", "hypotheses"):
        one_, other_ = (getattr(infer_posterior(f.matrix, m), name) for f, m in ((one, first), (other, second)))
        assert one_.tobytes() == other_.tobytes()


@pytest.mark.parametrize("scored", [False, True])
def test_equal_items_get_one_posterior(scored: bool):
    matrix = simulate_label_matrix(THREE, scored=scored).matrix
    claim = matrix.claim.copy()
    claim[::7, 1] = np.where(claim[::7, 1] < 0, NOT_ASKED, claim[::7, 1])
    matrix = replace(matrix, claim=claim)
    rows, number = matrix.find_distinct()
    assert (2 * len(rows) < len(number)) != scored, "few items are equal where scores tell them apart"
    for name in ("label", "level", "was_asked", "present"):
        assert (getattr(matrix, name)[rows][number] == getattr(matrix, name)).all(), name
    models = fit_annotator_models(matrix)
    one, all_ = infer_posterior(matrix, models, 2, 0.4), compute_posterior(matrix, models, 2, 0.4)
    for name in ("nothing", "label", "correct"):
        assert np.allclose(getattr(one, name), getattr(all_, name), atol=1e-12), name


@pytest.mark.parametrize("cap", [0.1, 0.25, 0.5, 0.9])
def test_the_evidence_of_a_student_is_capped(cap: float):
    found = simulate_label_matrix((Skill(0.6, 0.85, 0.3), Skill(0.5, 0.8, 0.3), Skill(0.9, 0.95, 0.1)))
    matrix, models = found.matrix, fit_annotator_models(found.matrix)
    free, held, without = (
        compute_posterior(matrix, models, annotator, c).correct for annotator, c in ((None, 1.0), (2, cap), (2, 1e-9))
    )
    assert np.abs(held - without).sum() <= np.abs(free - without).sum() + 1e-6
    votes = vote_on_items(matrix, models, 2, cap)
    assert np.allclose(votes.weight, held)
    # alone against two silent annotators it cannot make an item where its cap is small
    alone = matrix.present[:, 2] & ~matrix.present[:, :2].any(axis=1)
    if cap <= 0.1:
        assert (votes.confidence[alone] < 0.5).all()
        assert (vote_on_items(matrix, models, None, cap).confidence[alone] > 0.5).any()


def many_labels(rng: np.random.Generator, count: int = 900, labels: int = 250) -> LabelMatrix:
    """Claims without scores of which 80% are right, of many labels; a person has labelled half of the images.

    The person gives labels that the other one never gives, too.
    """
    right, judged = rng.random(count) < 0.8, np.arange(count) < count // 2
    label = np.minimum(rng.geometric(0.06, count), labels) - 1
    by_person = np.flatnonzero(right & judged)
    missed = np.arange(count, count + 400)  # objects that the other one does not claim
    item = np.concatenate([np.arange(count), by_person, missed])
    annotator = np.repeat([0, 1], [count, len(by_person) + len(missed)])
    own = np.concatenate([label, label[by_person], labels + rng.integers(0, 160, len(missed))])
    asked = np.ones((count + 400, 2), bool)
    asked[:count, 1] = judged
    traits = AnnotatorTraits(np.arange(2), np.zeros(2, bool), human=1)
    claims = ItemClaims(item, annotator, own.astype(np.int64), np.full(len(item), np.nan))
    return build_label_matrix(claims, asked, traits=traits, complete=asked[:, 1] | (np.arange(count + 400) >= count))


def test_labels_that_people_give_do_not_make_those_of_others_unlikely():
    right = []
    for seed in range(3):
        matrix = many_labels(np.random.default_rng(seed))
        posterior = infer_posterior(matrix, fit_annotator_models(matrix))
        right.append(posterior.correct[matrix.present[:, 0] & ~matrix.was_asked[:, 1], 0].mean())
    assert np.mean(right) == pytest.approx(0.8, abs=0.02)


def test_an_annotator_that_copies_boxes_and_names_them_badly_takes_no_box_away():
    rng = np.random.default_rng(1)
    count, labels = 200, 6
    score = rng.uniform(0.3, 1, count)
    right = rng.random(count) < score
    label = rng.integers(0, labels, count)
    named = np.flatnonzero(rng.random(count) < 0.7)
    # what it cannot name, the last two labels, it names otherwise
    other = np.where(label[named] >= labels - 2, rng.integers(0, labels - 2, len(named)), label[named])
    other = np.where(right[named], other, rng.integers(0, labels - 2, len(named)))
    item = np.concatenate([np.arange(count), named])
    claims = ItemClaims(
        item,
        np.repeat([0, 1], [count, len(named)]),
        np.concatenate([label, other]),
        np.concatenate([score, np.full(len(named), 0.8)]),
    )
    traits = AnnotatorTraits(np.arange(2), np.asarray([False, True]))
    matrix = build_label_matrix(claims, np.ones((count, 2), bool), traits=traits)
    models = fit_annotator_models(matrix)
    posterior = infer_posterior(matrix, models)
    sure = (score > 0.8) & (label >= labels - 2)
    assert models.label_prior == pytest.approx(models.wrong_label_prior), "one finder tells nothing of labels"
    assert (1 - posterior.nothing[sure]).mean() > 0.6
    assert models.label_accuracy[1].mean() < models.label_accuracy[0].mean() - 0.03
