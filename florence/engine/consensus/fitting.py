"""Fit annotator models to a label matrix by expectation maximisation; truth is not used.

Symbols as in `florence.engine.consensus.annotator_models`; the E step is `florence.engine.consensus.posterior`. With
its results P_i(z) and c_ia (how likely a's claim about i is right), claims_a the number of a's claims, t_ia = 1 where
another annotator could have claimed what a claims, g_ia as in equation (5), the M step sets

    (12) unseen items        u_i = min(Π_{a: k_ia = 1} m_a, 0.95)
                             m_a = 1 − r̄_a;  d_a + (1 − d_a)(1 − r̄_a) where a copies
                             N = Σ_i (1 − P_i(0)) / (1 − u_i), at least 1/2
    (13) precision           p_a = (Σ_i c_ia t_ia + K p₀) / (Σ_i t_ia + K)                            K = 4, p₀ = 0.8
    (14) false positives     f_a = (Σ_i P_i(0) t_ia (1 − d_a g_ia) + 1/2) (claims_a + 1/2) / (Σ_i t_ia + 1/2)
    (15) score levels        λ⁺_al = (Σ_{i: l_ia = l} c_ia + C h_al) / (Σ_i c_ia + C);  λ⁻_al with 1 − c_ia      C = 10
                             h_al: share of a's claims at level l (each level has 0.01 claims more)
    (16) label priors        π_v ∝ m_v clip(σ_v),  ω_v ∝ m_v clip(1 − σ_v)        clip to 0.001…0.999
                             m_v: claims of label v + 0.01, one more for V, every label that no claim has
                             σ_v = (Σ_{y_ia = v} c_ia t_ia + C Σ c t / Σ t) / (Σ_{y_ia = v} t_ia + C)
                             C = 10; 100 where texts are written freely
    (17) recall              r_av = clip((x_av + B x̄_a) / (w_av + B)),  x̄_a = (Σ_v x_av + K r₀) / (Σ_v w_av + K)
                             x_av = Σ_i P_i(v) [a claims something of i]
                             w_av = Σ_i P_i(v) [a was asked about i and has label v] / (1 − u_i)
    (18) label accuracy      q_av = clip((s_av + B s̄_a) / (x_av + B)),  s̄_a = (Σ_v s_av + K q₀) / (Σ_v x_av + K)
                             s_av = Σ_i P_i(v) s(v, y_ia)
                             B = 20, r₀ = 0.6, q₀ = 0.85, clip to 0.005…0.995

(17) and (18) are set for annotators that were asked about enough items together with two others; else r₀ and q₀ stay.
(12) is the estimate of Lincoln and Petersen for annotators that find items independently: of items that go unclaimed
with probability u_i, each claimed one stands for 1 / (1 − u_i). It also keeps the false positives of one annotator from
being taken for items that the others missed. N and f_a of a sample are scaled up to all items. Dependence is estimated
anew at every third step, where there are four annotators: `florence.engine.consensus.dependence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence.engine.consensus.annotator_models import (
    DEFAULT_LABEL_ACCURACY,
    DEFAULT_PRECISION,
    DEFAULT_RECALL,
    AnnotatorModels,
    default_annotator_models,
)
from florence.engine.consensus.dependence import MIN_ITEMS, estimate_dependence
from florence.engine.consensus.label_matrix import SCORE_LEVELS, LabelMatrix
from florence.engine.consensus.posterior import Posterior, infer_posterior

PRIOR_ITEMS = 4.0
"""K: items that the default rates count for."""
PRIOR_ITEMS_OF_LABEL = 20.0
"""B: items that an annotator's mean counts for, against those of one label."""
PRIOR_CLAIMS = 10.0
"""C: claims that the mean of all labels, or of all score levels, counts for against those of one."""
PRIOR_CLAIMS_OF_TEXTS = 100.0
"""C of (16) where texts are written freely: few are claimed twice, and the posterior of one claim must not prove it."""
MAX_FIT_ITEMS = 5000
"""Items that models are fitted to at most."""
MAX_STEPS, TOLERANCE = 40, 1e-3
MAX_UNSEEN = 0.95


@dataclass(frozen=True)
class FitOptions:
    """``student``, ``cap``: see `infer_posterior`. ``prior_claims``: C of equation (16)."""

    student: int | None = None
    cap: float = 1.0
    prior_claims: float = PRIOR_CLAIMS


def fit_annotator_models(
    matrix: LabelMatrix, options: FitOptions = FitOptions(), label_names: Sequence[str] = ()
) -> AnnotatorModels:
    """Fit the models of all annotators. ``label_names``: the text of each label.

    Three annotators that were asked about the same items are needed to estimate each of them, four to find who copies
    whom. With two, only the number of items and of false positives is estimated; with one, nothing is.
    """
    default = replace(default_annotator_models(matrix), label_names=tuple(label_names))
    asked = matrix.was_asked.sum(axis=1)
    for least in (3, 2):
        rows = np.flatnonzero(asked >= least)
        if len(rows) >= MIN_ITEMS:
            sample = matrix.take(rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_FIT_ITEMS)).astype(np.int64)])
            fitted = _fit_sample(sample, options, estimate=least > 2)
            scale = len(matrix) / len(sample)
            in_sample = sample.was_asked.any(axis=0)
            false_positives = np.where(
                in_sample, fitted.false_positives * _claims_per_sampled(matrix, sample), default.false_positives
            )
            return replace(
                fitted,
                item_count=fitted.item_count * scale,
                claimed_item_count=len(matrix),
                false_positives=false_positives,
                estimated=fitted.estimated & in_sample,
                label_names=default.label_names,
            )
    return default


def _claims_per_sampled(matrix: LabelMatrix, sample: LabelMatrix) -> np.ndarray:
    """(A,) how many claims an annotator has for each one in the sample."""
    return matrix.present.sum(axis=0) / np.maximum(sample.present.sum(axis=0), 1)


def _fit_sample(matrix: LabelMatrix, options: FitOptions, *, estimate: bool) -> AnnotatorModels:
    """Alternate E and M steps until N and correct recall settle. ``estimate``: recall and label accuracy too."""
    models = default_annotator_models(matrix)
    estimated = matrix.was_asked.sum(axis=0) >= MIN_ITEMS if estimate else np.zeros(matrix.claim.shape[1], bool)
    models = replace(models, estimated=estimated)
    for step in range(MAX_STEPS):
        before = models
        posterior = infer_posterior(matrix, models, options.student, options.cap)
        models = _maximise(matrix, posterior, models, options.prior_claims)
        if estimate and estimated.sum() > 3 and step >= 5 and step % 3 == 2:
            models = estimate_dependence(matrix, posterior, models)
        change = max(
            abs(models.item_count / before.item_count - 1),
            float(np.abs(models.correct_recall - before.correct_recall).max()),
        )
        if change < TOLERANCE and step > 12:
            break
    return models


# ---------------------------------------------------------------- the M step


def _maximise(
    matrix: LabelMatrix, posterior: Posterior, models: AnnotatorModels, prior_claims: float
) -> AnnotatorModels:
    """Return the models that fit the posterior best (equations 12 to 18)."""
    present, correct = matrix.present, posterior.correct
    something = 1 - posterior.nothing
    stands_for = 1 / (1 - unseen_probability(matrix, models))
    items = float((something * stands_for).sum())
    # claims that nobody could have confirmed are taken to be as often wrong as the others
    tested = present & matrix.testable
    label_prior, wrong_label_prior = _label_priors(matrix, correct, tested, prior_claims)
    fitted = replace(
        models,
        precision=((correct * tested).sum(axis=0) + DEFAULT_PRECISION * PRIOR_ITEMS)
        / (tested.sum(axis=0) + PRIOR_ITEMS),
        item_count=max(items, 0.5),
        false_positives=_false_positives(matrix, posterior, models, tested),
        label_prior=label_prior,
        wrong_label_prior=wrong_label_prior,
        right_level=_level_shares(matrix, correct),
        wrong_level=_level_shares(matrix, present - correct),
    )
    if not models.estimated.any():
        return fitted
    recall, accuracy = _recall_and_accuracy(matrix, posterior, stands_for)
    estimated = models.estimated[:, None]
    return replace(
        fitted,
        recall=np.where(estimated, recall, models.recall),
        label_accuracy=np.where(estimated, accuracy, models.label_accuracy),
    )


def unseen_probability(matrix: LabelMatrix, models: AnnotatorModels) -> np.ndarray:
    """(n,) u: how likely nobody who was asked would have claimed anything of such an item (equation 12)."""
    silent = 1 - models.mean_recall
    for a in np.flatnonzero(models.copied_from >= 0).tolist():
        silent[a] = models.dependence[a] + (1 - models.dependence[a]) * silent[a]
    return np.minimum(np.exp(matrix.was_asked @ np.log(np.maximum(silent, 1e-9))), MAX_UNSEEN)


def _false_positives(
    matrix: LabelMatrix, posterior: Posterior, models: AnnotatorModels, tested: np.ndarray
) -> np.ndarray:
    """(A,) f: how many claims about nothing each annotator makes of its own (equation 14)."""
    own = 1 - np.stack(
        [
            matrix.pair_similarity(int(b), a) * d if b >= 0 else np.zeros(len(matrix))
            for a, (b, d) in enumerate(zip(models.copied_from.tolist(), models.dependence.tolist(), strict=True))
        ],
        axis=1,
    )
    share = (matrix.present.sum(axis=0) + 0.5) / (tested.sum(axis=0) + 0.5)
    return ((posterior.nothing[:, None] * tested * own).sum(axis=0) + 0.5) * share


def _level_shares(matrix: LabelMatrix, weight: np.ndarray) -> np.ndarray:
    """(A, levels) share of the ``weight`` (n, A) of an annotator's claims at each level of its score (equation 15)."""
    result = np.empty((matrix.claim.shape[1], SCORE_LEVELS + 1))
    for a in range(len(result)):
        present = matrix.present[:, a]
        level = matrix.level[present, a]
        share = (np.bincount(level, minlength=SCORE_LEVELS + 1) + 0.01) / (present.sum() + 0.01 * (SCORE_LEVELS + 1))
        mass = np.bincount(level, weight[present, a], minlength=SCORE_LEVELS + 1)
        result[a] = (mass + PRIOR_CLAIMS * share) / (mass.sum() + PRIOR_CLAIMS)
    return result


def _label_priors(
    matrix: LabelMatrix, correct: np.ndarray, tested: np.ndarray, prior_claims: float
) -> tuple[np.ndarray, np.ndarray]:
    """(V,) twice: π and ω (equation 16)."""
    labels = matrix.label_count + 1
    claims = np.bincount(matrix.label[matrix.present], minlength=labels) + 0.01
    claims[-1] += 1  # a label that has not been met is as rare as one that was claimed once
    label = matrix.label[tested]
    right, of = np.bincount(label, correct[tested], minlength=labels), np.bincount(label, minlength=labels)
    share = (right + prior_claims * right.sum() / max(of.sum(), 1)) / (of + prior_claims)
    prior, wrong_prior = claims * np.clip(share, 0.001, 0.999), claims * np.clip(1 - share, 0.001, 0.999)
    return prior / prior.sum(), wrong_prior / wrong_prior.sum()


def _recall_and_accuracy(
    matrix: LabelMatrix, posterior: Posterior, stands_for: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(A, V) twice: r and q (equations 17 and 18)."""
    labels, count = matrix.label_count + 1, matrix.claim.shape[1]
    items, by = np.nonzero(matrix.first)
    probability, label = posterior.label[items, by], matrix.label[items, by]
    recall, accuracy = np.empty((count, labels)), np.empty((count, labels))
    for a in range(count):
        asked = matrix.was_asked[items, a]
        if matrix.can_label is not None:
            asked = asked & matrix.can_label[a][label]
        present = matrix.present[items, a]
        there = np.bincount(label, probability * asked * stands_for[items], minlength=labels)
        claimed = np.bincount(label, probability * present, minlength=labels)
        right = np.bincount(label, probability * matrix.similarity[items, by, a], minlength=labels)
        mean_recall = (claimed.sum() + PRIOR_ITEMS * DEFAULT_RECALL) / (there.sum() + PRIOR_ITEMS)
        mean_accuracy = (right.sum() + PRIOR_ITEMS * DEFAULT_LABEL_ACCURACY) / (claimed.sum() + PRIOR_ITEMS)
        b = PRIOR_ITEMS_OF_LABEL
        recall[a] = np.clip((claimed + b * mean_recall) / (there + b), 0.005, 0.995)
        accuracy[a] = np.clip((right + b * mean_accuracy) / (claimed + b), 0.005, 0.995)
    return recall, accuracy
