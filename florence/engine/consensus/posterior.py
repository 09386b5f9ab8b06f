"""The posterior of each item, given the claims and the annotator models: the E step, and the consensus itself.

Symbols as in `florence.engine.consensus.annotator_models`. An item may be nothing (z = 0), may have a label v that
somebody claims of it, or another label (z = *).

    (1) prior          P(z = 0) ∝ max(n, 1) / ε          P(z = v) ∝ N π_v          P(z = *) ∝ N
    (2) nothing        P(y = u | 0) = φ_a ω_u            P(∅ | 0) = 1              φ_a = min(f_a ε / max(n, 1), 1/2)
    (3) a label        P(y = u | v) = r_av [ s(v, u) q_av + (1 − s(v, u)) (1 − q_av) ω_u ]
                       P(∅ | v) = 1 − r_av;  1 where annotator a has no label v: its silence is no evidence
    (4) another label  P(y = u | *) = r̄_a (1 − ρ_a / r̄_a) ω_u          P(∅ | *) = 1 − r̄_a
    (5) dependence     P(y | z) ← δ g + (1 − δ) P(y | z)     δ = d_a k_ib,  b = b(a)
                       g = s(y_ib, y_ia) where both claim, 1 where both are silent, else 0
    (6) score          of a claim, times  λ⁻_a(l) under 0 and *;  s(v, u) λ⁺_a(l) + (1 − s(v, u)) λ⁻_a(l) under v
    (7) likelihood     log L_ia(z) = k_ia log P(y_ia, l_ia | z):  0 where a was not asked
    (8) cap of the student t   log L_it(z) ← min(1, c / (1 − c) · Σ_{a ≠ t} w_ia / w_it) · log L_it(z)
                       w_ia = max_z log L_ia(z) − min_z log L_ia(z), c: the setting engine.student.cap
    (9) posterior      P(z | y_i) ∝ P(z) Π_a L_ia(z)
    (10) people        P(z | y_i) = 1 for what a person claims of the item, nothing or a label
    (11) claims        P(a's claim is right | y_i) = Σ_v P(z = v | y_i) s(v, y_ia)

ε is `COINCIDENCE_RATE`, how likely two false claims in one image have one box: the f_a claims of annotator a about
nothing are assumed uniform over n / ε possible boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.label_matrix import LabelMatrix

COINCIDENCE_RATE = 0.02
"""ε: how likely two false claims in one image have one box."""
ITEMS_AT_ONCE = 20_000
"""Items whose likelihoods are in memory at once."""


@dataclass(frozen=True)
class Posterior:
    """The posterior of n items.

    ``nothing``: (n,), P(z = 0). ``label``: (n, A), P(z = v) of the label v that an annotator is the first to claim, 0
    for the others. ``correct``: (n, A), how likely each claim is right, 0 where there is none.
    """

    nothing: np.ndarray
    label: np.ndarray
    correct: np.ndarray


def infer_posterior(
    matrix: LabelMatrix, models: AnnotatorModels, student: int | None = None, cap: float = 1.0
) -> Posterior:
    """Infer the posterior of any number of items: once for equal ones, and only so many at once as memory is meant for.

    ``student``: the annotator whose evidence is at most the share ``cap`` of all there is about an item.
    """
    distinct, row_of = matrix.distinct
    cuts = np.array_split(np.arange(len(distinct)), max(1, -(-len(distinct) // ITEMS_AT_ONCE)))
    parts = [
        compute_posterior(distinct if len(cuts) == 1 else distinct.take(rows), models, student, cap) for rows in cuts
    ]
    return Posterior(
        *(np.concatenate([getattr(part, name) for part in parts])[row_of] for name in ("nothing", "label", "correct"))
    )


def compute_posterior(
    matrix: LabelMatrix, models: AnnotatorModels, student: int | None = None, cap: float = 1.0
) -> Posterior:
    """Compute the posterior of all items at once (equations 1 to 11)."""
    log, first = log_likelihood(matrix, models), matrix.transposed.first
    possible = np.concatenate([np.ones((1, len(matrix)), bool), first, np.ones((1, len(matrix)), bool)])
    if student is not None and cap < 1:
        log[:, student] *= _student_scale(log, possible, student, cap)
    # equation 9
    total = log.sum(axis=1) + log_prior(matrix, models)
    total[~possible] = -np.inf
    total -= total.max(axis=0)
    probability = np.exp(total)
    probability /= probability.sum(axis=0)
    _apply_people(matrix, probability)
    label = probability[1:-1]
    # equation 11
    correct = np.einsum("jc,jac->ac", label, matrix.transposed.similarity) * matrix.transposed.present
    return Posterior(probability[0], np.ascontiguousarray(label.T), np.ascontiguousarray(correct.T))


# In the following the items stand last. Hypotheses stand first: nothing, for each j the label that j claims, another.


def log_prior(matrix: LabelMatrix, models: AnnotatorModels) -> np.ndarray:
    """(2 + A, n) log of the prior of each hypothesis, not normalised (equation 1)."""
    log = np.full((2 + matrix.claim.shape[1], len(matrix)), np.log(models.item_count))
    log[0] = np.log(max(models.claimed_item_count, 1) / COINCIDENCE_RATE)
    log[1:-1] += np.log(models.label_prior)[models.label_index][matrix.transposed.label]
    return log


def log_likelihood(matrix: LabelMatrix, models: AnnotatorModels) -> np.ndarray:
    """(2 + A, A, n) log of how likely each annotator claims what it claims, or is silent, under each hypothesis (7)."""
    items = matrix.transposed
    nothing, others = independent_likelihood(matrix, models)
    _add_dependence(matrix, models, nothing, others)
    # equation 6
    annotator = np.arange(len(nothing))[:, None]
    right, wrong = models.right_level[annotator, items.level], models.wrong_level[annotator, items.level]
    nothing *= np.where(items.present, wrong, 1.0)
    others[:-1] *= np.where(items.present, items.similarity * right + (1 - items.similarity) * wrong, 1.0)
    others[-1] *= np.where(items.present, wrong, 1.0)
    log = np.log(np.concatenate([nothing[None], others]) + 1e-300)
    log *= items.was_asked
    return log


def independent_likelihood(matrix: LabelMatrix, models: AnnotatorModels) -> tuple[np.ndarray, np.ndarray]:
    """Likelihood of each annotator's claim or silence, whatever the others claim and without scores (equations 2 to 4).

    Returns (A, n) under nothing, and (1 + A, A, n) under the label that annotator j claims (j first) and another label.
    """
    items = matrix.transposed
    present, similarity, label = items.present, items.similarity, models.label_index[items.label]
    wrong_prior = models.wrong_label_prior[label]
    # equation 2
    rate = np.minimum(models.false_positives * COINCIDENCE_RATE / max(models.claimed_item_count, 1), 0.5)
    # equation 3: (label that j claims, annotator, item)
    recall, accuracy = models.recall[:, label].swapaxes(0, 1), models.label_accuracy[:, label].swapaxes(0, 1)
    claim = recall * (similarity * accuracy + (1 - similarity) * (1 - accuracy) * wrong_prior)
    # under "nothing" silence has likelihood 1, under "another label" 1 − r̄; here under the label that j claims
    silence = silence_likelihood(items.can_label, recall)
    # equation 4
    mean = models.mean_recall
    accuracy = models.correct_recall / np.maximum(mean, 1e-9)
    other = np.where(present, (mean * (1 - accuracy))[:, None] * wrong_prior, (1 - mean)[:, None])
    others = np.concatenate([np.where(present, claim, silence), other[None]])
    return np.where(present, rate[:, None] * wrong_prior, 1.0), others


def silence_likelihood(can_label: np.ndarray | None, recall: np.ndarray) -> np.ndarray:
    """(A, A, n) P(∅ | v) of each annotator under the label v that annotator j claims (equation 3, second line)."""
    return 1 - recall if can_label is None else np.where(can_label, 1 - recall, 1.0)


def _add_dependence(matrix: LabelMatrix, models: AnnotatorModels, nothing: np.ndarray, others: np.ndarray) -> None:
    """Mix the chance that an annotator copies another one into its likelihood, in place (equation 5)."""
    for a in np.flatnonzero(models.copied_from >= 0).tolist():
        b = int(models.copied_from[a])
        copies = models.dependence[a] * matrix.transposed.was_asked[b]
        agree = matrix.pair_similarity(b, a)
        nothing[a] = copies * agree + (1 - copies) * nothing[a]
        others[:, a] = copies * agree + (1 - copies) * others[:, a]


def _student_scale(log: np.ndarray, possible: np.ndarray, student: int, cap: float) -> np.ndarray:
    """(n,) what to scale the student's log likelihood by (equation 8)."""
    shown = possible[:, None]
    span = np.where(shown, log, -np.inf).max(axis=0) - np.where(shown, log, np.inf).min(axis=0)
    others = span.sum(axis=0) - span[student]
    return np.minimum(1.0, others * cap / (1 - cap) / np.maximum(span[student], 1e-12))


def _apply_people(matrix: LabelMatrix, probability: np.ndarray) -> None:
    """Make certain what a person claims, in place (equation 10)."""
    if matrix.human is None:
        return
    items = np.flatnonzero(matrix.present[:, matrix.human])
    probability[:, items] = 0
    label = matrix.label[items, matrix.human]
    # the first to claim the label stands for all who do
    first = (matrix.present[items] & (matrix.label[items] == label[:, None])).argmax(axis=1)
    probability[np.where(label == matrix.nothing_label, 0, 1 + first), items] = 1
