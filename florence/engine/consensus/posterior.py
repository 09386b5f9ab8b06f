"""The posterior of each item, given the claims and the annotator models: the E step, and the consensus itself.

Symbols as in `florence.engine.consensus.annotator_models`. An item is of a class c with a label v that somebody claims
of it, or of a class c with another label (*), or nothing at all (z = 0).

    (1) prior          P(z = 0) ∝ M                      P(z = c, v) ∝ N_c π_v          P(z = c, *) ∝ N_c
    (2) nothing        P(y = u | 0) = φ_a ω_u            P(∅ | 0) = 1              φ_a = min(f_a / M, 1/2)
    (3) a label        P(y = u | c, v) = r_av(c) [ s(v, u) q_avl + (1 − s(v, u)) (1 − q_avl) χ(u, v) ]      l = l_ia
                       P(∅ | c, v) = 1 − r_av(c);  1 where annotator a has no label v: its silence is no evidence
    (4) another label  P(y = u | c, *) = r_ac (1 − q̄_al) ω_u         P(∅ | c, *) = 1 − r_ac
                       q̄_al = logistic(logit(Σ_v π_v q_av) + t_al)
    (5) dependence     P(y | z) ← δ g + (1 − δ) P(y | z)     δ = δ_a k_ib,  b = b(a)
                       g = s(y_ib, y_ia) where both claim, 1 where both are silent, else 0
    (6) score          of a claim, times  λ_acl ^ (1 − δ) under class c;  λ_a0l ^ (1 − δ) under 0
                       δ of (5) where b claims something too, else 0
    (7) likelihood     log L_ia(z) = k_ia log P(y_ia, l_ia | z):  0 where a was not asked
    (8) cap of the student t   log L_it(z) ← min(1, c / (1 − c) · Σ_{a ≠ t} w_ia / w_it) · log L_it(z)
                       w_ia = max_z log L_ia(z) − min_z log L_ia(z), c: the setting engine.student.cap
    (9) posterior      P(z | y_i) ∝ P(z) Π_a L_ia(z)
    (10) people        P(z | y_i) = 0 for every z but what a person claims of the item; where a person has claimed all
                       there is and not the item, it is nothing
    (11) claims        c_ia = P(a's claim is right | y_i) = Σ_{c there} Σ_v P(z = c, v | y_i) s(v, y_ia)
    (11a) in a level   P(there | y_i) / P(nothing | y_i), times exp Σ_a (1 − δ) β_a (logit s_ia − logit s_al)
                       s_ia: the score of a's claim; s_al: the mean score of its level; δ as in (6)

An annotator whose claims copy boxes of others says nothing about whether an item is there: of (2) to (4) it has the
factors of labels alone, and its silence is no evidence.

M is ``places``: the f_a claims of annotator a about nothing are assumed uniform over so many places, some in each
image (`PLACES_PER_IMAGE`). Places that tempt several are hard negatives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from florence.engine.consensus.annotator_models import (
    HARD_NEGATIVE,
    NOTHING,
    REAL,
    AnnotatorModels,
    logit,
    shift_share,
)
from florence.engine.consensus.label_matrix import LabelMatrix, TransposedLabelMatrix

COINCIDENCE_RATE = 0.02
"""ε: how likely two false claims in one image have one box."""
MAX_PRODUCT = 20
"""Annotators whose likelihoods are multiplied."""
ITEMS_AT_ONCE = 10_000
"""Items whose likelihoods are in memory at once."""
LEAST_LIKELIHOOD = 1e-12
"""Least likelihood of what one annotator claims: no hypothesis is ruled out, and products stay above zero."""


@dataclass(frozen=True)
class Posterior:
    """The posterior of n items.

    ``nothing``: (n,), P(not there). ``label``: (n, A), P(there, with label v) of the label v that an annotator is the
    first to claim, 0 for the others. ``correct``: (n, A), how likely each claim is right, 0 where there is none.
    ``classes``: (n, 6), P(class), the last one of nothing at all. ``hypotheses``: (5, A + 1, n), P(z = c, v) for the
    label that each annotator is the first to claim, and for another label.
    """

    nothing: np.ndarray
    label: np.ndarray
    correct: np.ndarray
    classes: np.ndarray
    hypotheses: np.ndarray


def infer_posterior(
    matrix: LabelMatrix, models: AnnotatorModels, student: int | None = None, cap: float = 1.0
) -> Posterior:
    """Infer the posterior of any number of items: once for equal ones, and only so many at once as memory is meant for.

    ``student``: the annotator whose evidence is at most the share ``cap`` of all there is about an item.
    """
    distinct, row_of = matrix.distinct
    if len(distinct) == 1:  # NumPy adds in another order where there is one item, and blocks must not show
        distinct = distinct.take(np.zeros(2, np.int64))
    cuts = np.array_split(np.arange(len(distinct)), max(1, -(-len(distinct) // ITEMS_AT_ONCE)))
    parts = [
        compute_posterior(distinct if len(cuts) == 1 else distinct.take(rows), models, student, cap) for rows in cuts
    ]
    return Posterior(
        nothing=np.concatenate([part.nothing for part in parts])[row_of],
        label=np.concatenate([part.label for part in parts])[row_of],
        correct=np.concatenate([part.correct for part in parts])[row_of],
        classes=np.concatenate([part.classes for part in parts])[row_of],
        hypotheses=np.concatenate([part.hypotheses for part in parts], axis=2)[:, :, row_of],
    )


def compute_posterior(
    matrix: LabelMatrix, models: AnnotatorModels, student: int | None = None, cap: float = 1.0
) -> Posterior:
    """Compute the posterior of all items at once (equations 1 to 11)."""
    items = matrix.transposed
    nothing, others = likelihood(matrix, models)
    possible = np.concatenate([items.first, np.ones((1, len(matrix)), bool)])
    if student is not None and cap < 1:
        scale = _student_scale(nothing, others, possible, student, cap)
        nothing[student] **= scale
        others[:, :, student] **= scale
    # equation 9
    prior_of_nothing, prior = log_prior(matrix, models)
    total = _log_product(others, 2) + prior
    total[:, ~possible] = -np.inf
    nothing_total = _log_product(nothing, 0) + prior_of_nothing
    _apply_people(matrix, total, nothing_total)
    largest = np.maximum(total.max(axis=(0, 1)), nothing_total)
    hypotheses, nothing_at_all = np.exp(total - largest), np.exp(nothing_total - largest)
    whole = hypotheses.sum(axis=(0, 1)) + nothing_at_all
    hypotheses /= whole
    nothing_at_all /= whole
    label = hypotheses[list(REAL), :-1].sum(axis=0)
    # equation 11
    correct = np.einsum("jc,jac->ac", label, items.similarity) * items.present
    classes = np.concatenate([hypotheses.sum(axis=1), nothing_at_all[None]])
    return Posterior(
        nothing_at_all + classes[HARD_NEGATIVE],
        np.ascontiguousarray(label.T),
        np.ascontiguousarray(correct.T),
        np.ascontiguousarray(classes.T),
        hypotheses,
    )


def infer_by_scores(
    matrix: LabelMatrix, models: AnnotatorModels, student: int | None = None, cap: float = 1.0
) -> Posterior:
    """Infer the posterior that labels follow from: `infer_posterior`, and what scores say beyond their levels."""
    return refine_by_scores(matrix, models, infer_posterior(matrix, models, student, cap), student)


def refine_by_scores(
    matrix: LabelMatrix, models: AnnotatorModels, posterior: Posterior, student: int | None = None
) -> Posterior:
    """Return the posterior after what scores say beyond their levels (equation 11a); the student's say no more.

    ``classes`` and ``hypotheses`` stay as they were.
    """
    level_score = models.level_score[np.arange(matrix.claim.shape[1]), matrix.level]
    known = matrix.present & ~np.isnan(level_score) & ~np.isnan(matrix.score) & ~matrix.traits.names_only
    if student is not None:
        known[:, student] = False
    if matrix.human is not None:
        known[:, matrix.human] = False
    weight = models.level_slope * known
    for a in np.flatnonzero(models.copied_from >= 0).tolist():
        weight[:, a] *= 1 - models.dependence[a] * matrix.present[:, models.copied_from[a]]
    beyond = logit(np.clip(matrix.score, 0.005, 0.995)) - logit(np.clip(level_score, 0.005, 0.995))
    odds = np.exp(np.where(known, weight * beyond, 0.0).sum(axis=1))
    there = 1 - posterior.nothing
    scale = odds / np.maximum(there * odds + posterior.nothing, 1e-300)
    return replace(
        posterior,
        nothing=np.clip(1 - there * scale, 0, 1),
        label=posterior.label * scale[:, None],
        correct=posterior.correct * scale[:, None],
    )


# In the following the items stand last. Hypotheses stand first: classes, then for each j the label that j claims, and
# another label.


def log_prior(matrix: LabelMatrix, models: AnnotatorModels) -> tuple[float, np.ndarray]:
    """Log of the prior of nothing, and (5, 1 + A, n) of the other hypotheses, not normalised (equation 1)."""
    label = models.label_index[matrix.transposed.label]
    names = np.concatenate([np.log(models.label_prior)[label], np.zeros((1, len(matrix)))])
    return (
        float(np.log(models.places)),
        np.log(models.item_counts)[:, None, None] + names,
    )


def likelihood(matrix: LabelMatrix, models: AnnotatorModels) -> tuple[np.ndarray, np.ndarray]:
    """How likely each annotator claims what it claims, or is silent, at least `LEAST_LIKELIHOOD` (7).

    Returns (A, n) under nothing, and (5, 1 + A, A, n) under the other hypotheses.
    """
    items = matrix.transposed
    nothing, others = independent_likelihood(matrix, models)
    copies = _add_dependence(matrix, models, nothing, others)
    # equation 6
    annotator = np.arange(len(nothing))[:, None]
    level = models.level_share[:, annotator, items.level]
    if models.dependence.any():
        level **= 1 - copies
    level[:, ~items.present] = 1
    nothing *= level[NOTHING]
    others *= level[:NOTHING, None]
    silent = ~items.was_asked
    nothing[silent], others[:, :, silent] = 1, 1
    return np.maximum(nothing, LEAST_LIKELIHOOD), np.maximum(others, LEAST_LIKELIHOOD, out=others)


def independent_likelihood(matrix: LabelMatrix, models: AnnotatorModels) -> tuple[np.ndarray, np.ndarray]:
    """Likelihood of each annotator's claim or silence, whatever the others claim and without scores (equations 2 to 4).

    Returns (A, n) under nothing, and (5, 1 + A, A, n) under the label that annotator j claims (j first) and another
    label.
    """
    items = matrix.transposed
    present, label = items.present, models.label_index[items.label]
    wrong_prior = models.wrong_label_prior[label]
    # equation 2
    rate = np.minimum(models.false_positives / models.places, 0.5)[:, None]
    named, mislabelled = label_likelihood(items, models, label, wrong_prior)
    # equations 3 and 4: (class, label that j claims, annotator, item)
    odds = (models.class_recall / (1 - models.class_recall)).T
    recall = odds[:, None, :, None] * np.exp(models.label_shift[:, label]).swapaxes(0, 1)
    recall /= 1 + recall
    silence = 1 - recall if items.can_label is None else np.where(items.can_label, 1 - recall, 1.0)
    some = np.where(present, recall * named, silence)
    mean = np.broadcast_to(models.class_recall.T[:, :, None], (len(odds), *present.shape))
    other = np.where(present, mean * mislabelled, 1 - mean)
    others = np.concatenate([some, other[:, None]], axis=1)
    nothing = np.where(present, rate * wrong_prior, 1.0)
    for a in np.flatnonzero(matrix.traits.names_only).tolist():
        nothing[a] = np.where(present[a], wrong_prior[a], 1.0)
        others[:, :-1, a] = np.where(present[a], named[:, a], 1.0)
        others[:, -1, a] = np.where(present[a], mislabelled[a], 1.0)
    return nothing, others


def label_likelihood(
    items: TransposedLabelMatrix, models: AnnotatorModels, label: np.ndarray, wrong_prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return P(label | a claim) of each annotator, the brackets of equations 3 and 4.

    (A, A, n) under the label that annotator j claims, j first; and (A, n) under another label.
    """
    similarity = items.similarity
    shift = models.level_shift[np.arange(len(label))[:, None], items.level]
    accuracy = shift_share(models.label_accuracy[:, label].swapaxes(0, 1), shift)
    confused = np.zeros_like(similarity)
    differ = items.present & items.present[:, None] & (similarity < 1)
    true, claimed, item = np.nonzero(differ)
    confused[differ] = models.confusions.look_up(label[true, item], label[claimed, item], models.wrong_label_prior)
    named = similarity * accuracy + (1 - similarity) * (1 - accuracy) * confused
    mean = shift_share((models.label_accuracy @ models.label_prior)[:, None], shift)
    return named, (1 - mean) * wrong_prior


def _add_dependence(
    matrix: LabelMatrix, models: AnnotatorModels, nothing: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Mix the chance that an annotator copies another one into its likelihood, in place (equation 5).

    Returns (A, n) that chance, δ, where both claim something.
    """
    result = np.zeros(nothing.shape)
    items = matrix.transposed
    for a in np.flatnonzero(models.copied_from >= 0).tolist():
        b = int(models.copied_from[a])
        copies = models.dependence[a] * items.was_asked[b]
        agree = matrix.pair_similarity(b, a)
        nothing[a] = copies * agree + (1 - copies) * nothing[a]
        others[:, :, a] = copies * agree + (1 - copies) * others[:, :, a]
        result[a] = copies * (items.present[a] & items.present[b])
    return result


def _log_product(likelihood: np.ndarray, axis: int) -> np.ndarray:
    """The log of the product over annotators; the sum of logs where so many could make it zero."""
    few = likelihood.shape[axis] <= MAX_PRODUCT
    return np.asarray(np.log(likelihood.prod(axis=axis)) if few else np.log(likelihood).sum(axis=axis))


def _student_scale(
    nothing: np.ndarray, others: np.ndarray, possible: np.ndarray, student: int, cap: float
) -> np.ndarray:
    """(n,) what to scale the student's log likelihood by (equation 8)."""
    shown = possible[None, :, None]
    nothing, others = np.log(nothing), np.log(others)
    largest = np.maximum(np.where(shown, others, -np.inf).max(axis=(0, 1)), nothing)
    least = np.minimum(np.where(shown, others, np.inf).min(axis=(0, 1)), nothing)
    span = largest - least
    rest = span.sum(axis=0) - span[student]
    return np.minimum(1.0, rest * cap / (1 - cap) / np.maximum(span[student], 1e-12))


def _apply_people(matrix: LabelMatrix, total: np.ndarray, nothing: np.ndarray) -> None:
    """Rule out all that people do not claim, in place (equation 10). ``total``: (5, 1 + A, n); ``nothing``: (n,)."""
    claimed = np.zeros(len(matrix), bool)
    if matrix.human is not None:
        claimed = matrix.present[:, matrix.human]
        rejected = claimed & (matrix.label[:, matrix.human] == matrix.nothing_label)
        total[list(REAL)] = np.where(rejected, -np.inf, total[list(REAL)])
        items = np.flatnonzero(claimed & ~rejected)
        # the first to claim the label stands for all who do
        first = (matrix.present[items] & (matrix.label[items] == matrix.label[items, matrix.human][:, None])).argmax(
            axis=1
        )
        kept = total[:, first, items]
        total[:, :, items] = -np.inf
        for c in REAL:
            total[c, first, items] = kept[c]
        nothing[items] = -np.inf
    # what nobody has claimed of a whole image is not there
    total[list(REAL)] = np.where(matrix.complete & ~claimed, -np.inf, total[list(REAL)])
