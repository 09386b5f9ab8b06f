"""The M step: annotator models that fit the posterior of items best, drawn to what the scores state.

Symbols as in `florence.engine.consensus.annotator_models`, and

    P_ic     P_i(class c);  c_ia, P_i(v) = Σ_{c there} P_i(c, v) of (9) and (11);  claims_a the number of a's claims
    h_acl    what the scores state (`florence.engine.consensus.stated_scores`)
    S_a      how strongly: the mean over a's claims of 10 where fewer than two other families could have claimed the
             same, else 0.2; at least 3 where a states alternatives; at most 0.05 where people have judged
             `MIN_ANCHORED` claims of a
    w_i      weight of an item: 1, and κ ≥ 1 where people have judged it, so that judged items weigh at least half as
             much as the others

    (12) class recall        e_a: the ease by which Σ_c t_ac r_ac = Σ_c x_ac over the classes that are there;
                             h, where three families tell, that by which Σ_ac g_c t_ac r_ac = Σ_ac g_c x_ac (else 1.3);
                             of hard negatives r_ac = x_ac / t_ac
                             x_ac = Σ_i w_i P_ic [a claims] + R r_c,   t_ac = Σ_i w_i P_ic k_ia / (1 − u_ic) + R
                             R = 0.06 mean_c Σ_i w_i P_ic k_ia / (1 − u_ic) + 4,   r_c the default
                             where η of (S5) is above its least for some a, r of hard negatives is at least 0.25; where
                             it is so for one of which S_a > 3, of hard negatives r_c = 0.7 and R = 0.5 t_ac + 4
                             u_ic = min(Π_{a: k_ia = 1} m_ac, 0.8);   0 where a person has claimed all there is
                             m_ac = 1 − r_ac;   δ_a + (1 − δ_a)(1 − r_ac) where a copies
    (13) claims by class     n_acl = Σ_{i: l_ia = l} w_i P_ic + (S_a claims_a + 10) h_acl, then for each annotator and
         and level           level divided anew between what is there and what is not, by the logistic curve over
                             logit s_al that fits n best (its slope β_a drawn to 1);  scaled to Σ_cl n_acl = claims_a
                             λ_acl = n_acl / Σ_l n_acl;   f_a = Σ_l n_a0l
    (14) number of items     N_c = Σ_al n_acl / Σ_a r_ac mean_i k_ia;   that of all classes that are there is the same
    (15) label shift         d_av = logit r̂_av − logit r̂_a
                             r̂_av = (x_av + B r̂_a) / (t_av + B),   r̂_a = Σ_v x_av / Σ_v t_av
                             x_av = Σ_i P_i(v) [a claims];  t_av = Σ_i P_i(v) [a was asked and has label v] / (1 − u_i)
    (16) label priors        π_v ∝ m_v clip(σ_v),  ω_v ∝ m_v clip(1 − σ_v)         clip to 0.001…0.999
                             m_v: (claims of label v + 0.01) ^ 0.3, one claim more for V
                             σ_v = (Σ_{y_ia = v} c_ia + C Σ c / Σ 1) / (Σ_{y_ia = v} 1 + C)
                             C = 10; 100 of free texts, and where two families find objects.  Claims of a person are
                             left out of (16). Where one family alone finds objects σ = ½, and claims that copy boxes
                             are left out too
    (17) label accuracy      q_av = clip((s_av + B′ s̄_a) / (x_av + B′)),   B = 20, B′ = B + 48 S_a;
                             B where no other family finds objects
                             s̄_a = (Σ_v s_av + K_a q_a) / (Σ_v x_av + K_a),   K_a = 20 + min(0.3 S_a, 0.18) claims_a
                             s_av = Σ_i P_i(v) s(v, y_ia)
                             logit q_a = logit √A + logit b_a − mean_a logit b_a;   A: how similar the labels are that
                             two families claim of one item;   b_a: share of a's claims about what is there
                             of an annotator whose claims copy boxes logit q_a = logit √A − 1; its pairs with others
                             count in A by the largest p_al of (S3) of the item, where that is above P(there)
                             t_al = logit of the share right at level l less that of all levels, drawn to it by 30
                             claims
    (18) confusions          χ(u, v) = (n_vu + E ω_u) / (Σ_u n_vu + E),   E = 5
                             n_vu = Σ_a Σ_{y_ia = u} P_i(v) (1 − s(v, u))

u is the estimate of Lincoln and Petersen for annotators that find items of one class independently: of items that go
unclaimed with probability u, each claimed one stands for 1 / (1 − u). Frequent labels are little more likely than rare
ones in (16), because an annotator that takes one label for many would otherwise be believed for being predictable. In
(17) an annotator that finds what is there is taken to name it better, where only two families could tell. What one
family alone finds tells nothing of which labels are likely. Items that two annotators name differently would be taken
for nothing, and both for namers without mistakes, if A did not have what scores state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from florence.engine.consensus.annotator_models import (
    DEFAULT_EASE,
    DEFAULT_LABEL_ACCURACY,
    DEFAULT_TEMPTATION,
    DIFFICULTY,
    HARD_NEGATIVE,
    MIN_FALSE_POSITIVES,
    NOTHING,
    REAL,
    SPREAD,
    TEMPTATION,
    AnnotatorModels,
    Confusions,
    default_class_recall,
    logit,
    recall_of_ease,
)
from florence.engine.consensus.label_matrix import LabelMatrix
from florence.engine.consensus.posterior import Posterior
from florence.engine.consensus.stated_scores import (
    DEFAULT_PRECISION,
    HARD_NEGATIVE_SHARE,
    WEAK_EVIDENCE,
    state_classes,
)

STRENGTHS = np.asarray([10.0, 10.0, 0.2])
"""S of a claim that 0, 1, 2 or more other families could confirm."""
ALTERNATIVES_STRENGTH = 3.0
"""Least S of an annotator that states alternatives: that another one claims the same among much else proves little."""
ANCHORED_STRENGTH = 0.05
"""S of an annotator that people's labels judge."""
MIN_ANCHORED = 100
"""Claims that people must have judged for that."""
ANCHOR_SHARE = 0.5
"""How much judged items weigh at least, against all others."""
PRIOR_RECALL = 0.06
"""Share of the items that the default recall counts for."""
PRIOR_TEMPTATION = 0.5
"""The same of the recall of hard negatives, where scores show that there are many (S5)."""
PRIOR_ITEMS_OF_LABEL = 20.0
"""B: items that an annotator's mean counts for, against those of one label, in d."""
PRIOR_NAMED = 48.0
"""B′ of (17) less B, for S = 1: the fewer families tell which of them has named an item right, the more."""
PRIOR_ACCURACY, MAX_PRIOR_ACCURACY = 0.3, 0.18
"""K for one claim, as a share of S, and at most."""
NAMES_ONLY_LOG_ODDS = -1.0
"""How much worse an annotator that copies boxes is taken to name what is in them than one that found it, log odds."""
PRIOR_CLAIMS_OF_LEVEL = 30.0
"""Claims that all levels count for, against those of one, in t."""
PRIOR_CONFUSIONS = 5.0
"""E: wrong labels that the share of each label among all wrong ones counts for."""
PRIOR_CLAIMS = 10.0
"""C: claims that the mean of all labels counts for against those of one."""
PRIOR_CLAIMS_OF_TEXTS = 100.0
"""C of (16) where texts are written freely: few are claimed twice, and the posterior of one claim must not prove it."""
MIN_FINDERS = 3
"""Families that find objects, from which claims of a label tell whether it is likely."""
FREQUENCY_POWER = 0.3
"""Power of a label's claims in m of (16)."""
CURVE, CURVE_WEIGHT = np.asarray([0.3, 1.0]), np.asarray([0.3, 2.0])
"""Intercept and slope that the curve of (13) is drawn to, and how strongly for a hundred claims."""
MIN_OF_SPREAD = 3
"""Annotators with weak stated rates (S < 1) that the spread of difficulty needs."""
MAX_UNSEEN, MAX_SHIFT = 0.8, 2.0
"""Largest u, and largest d and t."""


@dataclass(frozen=True)
class Fixed:
    """What does not change from step to step.

    ``weight``: (n,), w; ``strength``: (A,), S; ``stated``: (6, A, levels), h; ``fits_spread``: whether the spread of
    difficulty is estimated: three families could claim the same, or people have judged; ``tempted``: (A,),
    whether scores show that others make the same mistakes (S5).
    """

    weight: np.ndarray
    strength: np.ndarray
    stated: np.ndarray
    fits_spread: bool
    tempted: np.ndarray


def prepare_maximisation(matrix: LabelMatrix, precision: float = DEFAULT_PRECISION) -> Fixed:
    """Compute what does not change from step to step. ``precision``: share right of claims without a score."""
    present, anchored = matrix.present, matrix.anchored
    strength = (STRENGTHS[np.minimum(matrix.confirming, 2)] * present).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    strength = np.where(matrix.states_alternatives, np.maximum(strength, ALTERNATIVES_STRENGTH), strength)
    by_people = (present & anchored[:, None]).sum(axis=0)
    strength = np.where(by_people >= MIN_ANCHORED, np.minimum(strength, ANCHORED_STRENGTH), strength)
    weight = max(1.0, ANCHOR_SHARE * int((~anchored).sum()) / max(int(anchored.sum()), 1))
    stated = state_classes(matrix, precision, strength)
    fits_spread = bool((strength < WEAK_EVIDENCE).sum() >= MIN_OF_SPREAD)
    tempted = stated.hard_negatives > HARD_NEGATIVE_SHARE
    return Fixed(np.where(anchored, weight, 1.0), strength, stated.classes, fits_spread, tempted)


def update_models(
    matrix: LabelMatrix, posterior: Posterior, models: AnnotatorModels, fixed: Fixed, prior_claims: float
) -> AnnotatorModels:
    """Return the models that fit the posterior best (equations 12 to 18). ``prior_claims``: C of (16)."""
    stands_for = 1 / (1 - unseen_probability(matrix, models))
    recall = _class_recall(matrix, posterior.classes[:, :NOTHING], stands_for, fixed)
    claims, slope = _claims_by_class(matrix, posterior, fixed)
    label_prior, wrong_label_prior = _label_priors(matrix, posterior.correct, prior_claims)
    labels = _rates_of_labels(matrix, posterior, stands_for, fixed)
    return replace(
        models,
        precision=measure_precision(matrix, posterior),
        item_counts=_count_items(matrix, claims, recall),
        class_recall=recall,
        label_shift=labels.shift,
        label_accuracy=labels.accuracy,
        level_shift=labels.level_shift,
        confusions=labels.confusions,
        false_positives=np.maximum(claims[NOTHING].sum(axis=1), MIN_FALSE_POSITIVES),
        label_prior=label_prior,
        wrong_label_prior=wrong_label_prior,
        level_share=claims / np.maximum(claims.sum(axis=2, keepdims=True), 1e-9),
        level_slope=slope,
    )


def measure_precision(matrix: LabelMatrix, posterior: Posterior) -> np.ndarray:
    """Return (A,) p: the share of each annotator's claims that are right."""
    return np.asarray((posterior.correct.sum(axis=0) + 0.5) / (matrix.present.sum(axis=0) + 1))


def unseen_probability(matrix: LabelMatrix, models: AnnotatorModels) -> np.ndarray:
    """Return (n, 5) u: how likely nobody who was asked would have claimed anything of an item of each class."""
    silent, copies = 1 - models.class_recall, models.dependence[:, None]
    silent = np.where((models.copied_from >= 0)[:, None], copies + (1 - copies) * silent, silent)
    silent[matrix.traits.names_only] = 1
    unseen = np.minimum(np.exp(matrix.was_asked @ np.log(np.maximum(silent, 1e-9))), MAX_UNSEEN)
    return np.where(matrix.complete[:, None], 0.0, unseen)


def _class_recall(matrix: LabelMatrix, classes: np.ndarray, stands_for: np.ndarray, fixed: Fixed) -> np.ndarray:
    """(A, 5) r (equation 12). ``classes``, ``stands_for``: (n, 5)."""
    weighted = classes * fixed.weight[:, None]
    there = matrix.was_asked.T @ (weighted * stands_for)
    default = default_class_recall(len(there))
    prior = np.repeat((PRIOR_RECALL * there.mean(axis=1) + 4)[:, None], there.shape[1], axis=1)
    if fixed.tempted[fixed.strength > ALTERNATIVES_STRENGTH].any():
        default[:, HARD_NEGATIVE] = TEMPTATION
        prior[:, HARD_NEGATIVE] = PRIOR_TEMPTATION * there[:, HARD_NEGATIVE] + 4
    found, there = matrix.present.T @ weighted + prior * default, there + prior
    result = np.clip(found / there, 0.01, 0.99)
    if fixed.tempted.any():
        result[:, HARD_NEGATIVE] = np.maximum(result[:, HARD_NEGATIVE], DEFAULT_TEMPTATION)
    ease, spread = _fit_ease(found[:, list(REAL)], there[:, list(REAL)], fixed.fits_spread)
    result[:, list(REAL)] = np.clip(recall_of_ease(ease, spread), 0.005, 0.995)
    return result


def _fit_ease(found: np.ndarray, there: np.ndarray, fits_spread: bool) -> tuple[np.ndarray, float]:
    """e (A,) and h of annotators that claim ``found`` of what is ``there`` (A, classes), by Newton's method."""
    ease, spread = np.full(len(found), DEFAULT_EASE), SPREAD
    for _ in range(12):
        recall = recall_of_ease(ease, spread)
        rest, information = found - there * recall, there * recall * (1 - recall)
        ease = np.clip(ease + np.clip(rest.sum(axis=1) / np.maximum(information.sum(axis=1), 1e-6), -1, 1), -4, 6)
        if fits_spread:
            step = -(rest @ DIFFICULTY).sum() / max(float((information @ DIFFICULTY**2).sum()), 1e-6)
            spread = float(np.clip(spread + np.clip(step, -0.5, 0.5), 0.1, 2.0))
    return ease, spread


def _claims_by_class(matrix: LabelMatrix, posterior: Posterior, fixed: Fixed) -> tuple[np.ndarray, np.ndarray]:
    """(6, A, levels) n, and (A,) β, the slope of the curve (equation 13)."""
    result, slope = np.empty_like(fixed.stated), np.zeros(matrix.claim.shape[1])
    for a in range(matrix.claim.shape[1]):
        rows = np.flatnonzero(matrix.present[:, a])
        weighted = posterior.classes[rows] * fixed.weight[rows, None]
        # the weight of judged items must not change how many claims there are
        weighted *= len(rows) / max(float(weighted.sum()), 1e-9)
        level = matrix.level[rows, a]
        for c in range(len(result)):
            result[c, a] = np.bincount(level, weighted[:, c], minlength=result.shape[2])
        result[:, a] += (fixed.strength[a] * len(rows) + 10) * fixed.stated[:, a]
        slope[a] = _fit_curve(result[:, a], matrix.level_score[a])
        result[:, a] *= len(rows) / result[:, a].sum()
    return result, slope


def _fit_curve(claims: np.ndarray, score: np.ndarray) -> float:
    """Divide claims (6, levels) anew between what is there and what is not, by a logistic curve, in place.

    Return the slope of the curve, at least 0.
    """
    known = np.flatnonzero(~np.isnan(score))
    if len(known) < 2:
        return float(CURVE[1])
    there, rest = np.asarray(REAL), np.asarray([HARD_NEGATIVE, NOTHING])
    right, wrong = claims[np.ix_(there, known)].sum(axis=0), claims[np.ix_(rest, known)].sum(axis=0)
    count = right + wrong
    x = np.stack([np.ones(len(known)), logit(np.clip(score[known], 0.005, 0.995))], axis=1)
    curve, weight = CURVE.copy(), CURVE_WEIGHT * count.sum() / 100
    for _ in range(6):  # Newton's method
        share = 1 / (1 + np.exp(-x @ curve))
        gradient = x.T @ (right - count * share) - weight * (curve - CURVE)
        curve = curve + np.linalg.solve((x.T * (count * share * (1 - share))) @ x + np.diag(weight), gradient)
    share = 1 / (1 + np.exp(-x @ curve))
    claims[np.ix_(there, known)] *= count * share / np.maximum(right, 1e-9)
    claims[np.ix_(rest, known)] *= count * (1 - share) / np.maximum(wrong, 1e-9)
    return max(float(curve[1]), 0.0)


def _count_items(matrix: LabelMatrix, claims: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """(5,) N (equation 14). ``claims``: (6, A, levels), n; ``recall``: (A, 5)."""
    asked = matrix.was_asked.mean(axis=0) * ~matrix.traits.names_only
    total = (claims[:NOTHING].sum(axis=2) * (asked > 0)).sum(axis=1)
    found = asked @ recall
    result = total / np.maximum(found, 1e-6) + 0.5
    result[list(REAL)] = total[list(REAL)].sum() / max(float(found[list(REAL)].sum()), 1e-6) + 0.5
    return np.asarray(result)


# ---------------------------------------------------------------- labels


@dataclass(frozen=True)
class _RatesOfLabels:
    """d, q (A, V), t (A, levels) and χ."""

    shift: np.ndarray
    accuracy: np.ndarray
    level_shift: np.ndarray
    confusions: Confusions


def _label_priors(matrix: LabelMatrix, correct: np.ndarray, prior_claims: float) -> tuple[np.ndarray, np.ndarray]:
    """(V,) twice: π and ω (equation 16)."""
    labels, present = matrix.label_count + 1, matrix.present
    left_out = np.zeros(present.shape[1], bool)
    if matrix.human is not None and present.any(axis=0).sum() > 1:
        left_out[matrix.human] = True
    finders = len(np.unique(matrix.families[present.any(axis=0) & ~matrix.traits.names_only & ~left_out]))
    is_alone = finders < 2 and not left_out.any()
    if finders < MIN_FINDERS and not left_out.any():
        prior_claims = max(prior_claims, PRIOR_CLAIMS_OF_TEXTS)
    present = present & ~(left_out | (matrix.traits.names_only & is_alone))
    label = matrix.label[present]
    of = np.bincount(label, minlength=labels)
    claims = of + 0.01
    claims[-1] += 1  # a label that has not been met is as rare as one that was claimed once
    claims = claims**FREQUENCY_POWER
    right = np.bincount(label, correct[present], minlength=labels)
    share = (right + prior_claims * right.sum() / max(of.sum(), 1)) / (of + prior_claims)
    if is_alone:
        share = np.full(labels, 0.5)
    prior, wrong_prior = claims * np.clip(share, 0.001, 0.999), claims * np.clip(1 - share, 0.001, 0.999)
    return prior / prior.sum(), wrong_prior / wrong_prior.sum()


def _rates_of_labels(matrix: LabelMatrix, posterior: Posterior, stands_for: np.ndarray, fixed: Fixed) -> _RatesOfLabels:
    """d, q, t and χ (equations 15, 17 and 18). ``stands_for``: (n, 5)."""
    labels, (count, levels) = matrix.label_count + 1, matrix.level_score.shape
    items, by = np.nonzero(matrix.first)
    there = posterior.hypotheses[list(REAL)][:, by, items]
    probability = there.sum(axis=0)
    unseen = (there * stands_for[items][:, list(REAL)].T).sum(axis=0)
    label, expected = matrix.label[items, by], _expect_accuracy(matrix, posterior, fixed)
    confirmed = ((matrix.confirming > 0) & matrix.present).any(axis=0)
    shift, accuracy, level_shift = np.zeros((count, labels)), np.empty((count, labels)), np.zeros((count, levels))
    wrong_labels = []
    for a in range(count):
        asked, present = matrix.was_asked[items, a], matrix.present[items, a]
        if matrix.can_label is not None:
            asked = asked & matrix.can_label[a][label]
        similar = matrix.similarity[items, by, a]
        possible = np.bincount(label, unseen * asked, minlength=labels)
        found = np.bincount(label, probability * present, minlength=labels)
        right = np.bincount(label, probability * similar, minlength=labels)
        shift[a] = _draw_to_mean(found, possible, (found.sum() + 1) / (possible.sum() + 2), PRIOR_ITEMS_OF_LABEL)
        claims = matrix.present[:, a].sum()
        prior = 20 + min(PRIOR_ACCURACY * fixed.strength[a], MAX_PRIOR_ACCURACY) * claims
        mean = (right.sum() + prior * expected[a]) / (found.sum() + prior)
        named = PRIOR_ITEMS_OF_LABEL + PRIOR_NAMED * fixed.strength[a] * confirmed[a]
        accuracy[a] = np.clip((right + named * mean) / (found + named), 0.005, 0.995)
        level = matrix.level[items, a]
        level_shift[a] = _draw_to_mean(
            np.bincount(level, probability * similar, minlength=levels),
            np.bincount(level, probability * present, minlength=levels),
            right.sum() / max(found.sum(), 1e-9),
            PRIOR_CLAIMS_OF_LEVEL,
        )
        wrong = np.flatnonzero(present & (similar < 1))
        wrong_labels.append((label[wrong], matrix.label[items[wrong], a], (probability * (1 - similar))[wrong]))
    true, claimed, mass = (np.concatenate(values) for values in zip(*wrong_labels, strict=True))
    return _RatesOfLabels(shift, accuracy, level_shift, _count_confusions(true, claimed, mass, labels))


def _draw_to_mean(part: np.ndarray, whole: np.ndarray, mean: float, prior: float) -> np.ndarray:
    """How much the log odds of part / whole differ from those of the mean, which counts for ``prior``."""
    mean = float(np.clip(mean, 0.02, 0.98))
    share = np.clip((part + prior * mean) / (whole + prior), 0.005, 0.995)
    return np.clip(logit(share) - logit(np.asarray(mean)), -MAX_SHIFT, MAX_SHIFT)


def _expect_accuracy(matrix: LabelMatrix, posterior: Posterior, fixed: Fixed) -> np.ndarray:
    """(A,) q_a of equation 17: by how often families agree, and who claims what is there."""
    there, present, copies = posterior.classes[:, list(REAL)].sum(axis=1), matrix.present, matrix.traits.names_only
    stated = np.maximum(there, _state_there(matrix, fixed)) if copies.any() else there
    pairs, similar = 1.0, DEFAULT_LABEL_ACCURACY**2
    for a in range(present.shape[1]):
        for b in range(a):
            if matrix.families[a] != matrix.families[b]:
                both = present[:, a] & present[:, b]
                weight = (stated if copies[a] or copies[b] else there)[both]
                pairs += weight.sum()
                similar += (weight * matrix.similarity[both, a, b]).sum()
    claims = present.sum(axis=0) * ~copies
    found = logit(np.clip((present.T @ there + 1) / (present.sum(axis=0) + 2), 0.05, 0.95))
    mean = logit(np.clip(np.sqrt(similar / pairs), 0.1, 0.985))
    better = np.where(copies, NAMES_ONLY_LOG_ODDS, found - (found * claims).sum() / max(claims.sum(), 1))
    return np.asarray(1 / (1 + np.exp(-np.clip(mean + better, -2, 5))))


def _state_there(matrix: LabelMatrix, fixed: Fixed) -> np.ndarray:
    """(n,) the largest probability that an annotator's score states of an item."""
    right = fixed.stated[list(REAL)].sum(axis=0) / np.maximum(fixed.stated.sum(axis=0), 1e-12)
    by = np.arange(matrix.present.shape[1])
    level = np.where(matrix.present, matrix.level, 0)
    return np.asarray(np.where(matrix.present, right[by, level], 0.0).max(axis=1))


def _count_confusions(true: np.ndarray, claimed: np.ndarray, mass: np.ndarray, labels: int) -> Confusions:
    """χ of labels that were claimed where others are right, with so much probability (equation 18)."""
    key, at = np.unique(true * labels + claimed, return_inverse=True)
    counted = np.bincount(at, mass, minlength=len(key))
    whole = np.bincount(true, mass, minlength=labels) + PRIOR_CONFUSIONS
    return Confusions(key, counted / whole[key // labels], PRIOR_CONFUSIONS / whole)
