"""Models of annotators: how often each finds an item, names it rightly, and claims what is not there.

Symbols of all equations of the consensus: items i = 1…n, annotators a = 1…A, labels v = 1…V (V: every label that no
claim has), classes of items c.

    y_ia     label that annotator a claims of item i, ∅ where it is silent
    k_ia     1 where a was asked about i, else 0; 0 for people, whose claims hold (10)
    l_ia     level of the score of a's claim about i
    s(u, v)  how right label v is where label u is, 0…1
    z_i      what item i is: (c, v) of class c with label v; (c, *) with a label that nobody claims; 0 nothing at all

    c        one of `REAL`: an item that is there, of difficulty g_c; or `HARD_NEGATIVE`: not there, but looks as if
    N_c      ``item_counts``          how many items of a class there are, those that nobody claims included
    r_ac     ``class_recall``         P(a claims something | an item of class c)
    d_av     ``label_shift``          how much more easily a finds label v than others, log odds
    q_av     ``label_accuracy``       P(the label is right | a claims something of an item of label v)
    t_al     ``level_shift``          how much more often a's labels are right at level l, log odds
    χ(u, v)  ``confusions``           P(label u | a wrong label of an item of label v)
    f_a      ``false_positives``      how many claims a makes about nothing at all
    π_v      ``label_prior``          P(label v | an item)
    ω_v      ``wrong_label_prior``    P(label v | a claim about nothing)
    λ_acl    ``level_share``          P(level l | a claim of a about an item of class c); c = 0: about nothing at all
    β_a      ``level_slope``          how log odds of a claim being right rise with those of its score, within a level
    b(a)     ``copied_from``          the annotator that a depends on
    δ_a      ``dependence``           P(a claims what b(a) claims because both make the same mistakes)
    p_a      ``precision``            share of a's claims that are right

    r_ac = logistic(e_a − h g_c) of an item that is there: e_a is the annotator's ease, h the spread of difficulty
    r_av(c) = logistic(logit r_ac + d_av)          q_avl = logistic(logit q_av + t_al)
    r̄_a = Σ_v π_v mean_c r_av(c)                   ``mean_recall``
    ρ_a = Σ_v π_v q_av mean_c r_av(c)              ``correct_recall``: share of the items claimed with the right label

The model follows Dawid and Skene (1979), "Maximum likelihood estimation of observer error-rates using the EM
algorithm", and differs in six points: an annotator may be silent, and may claim what is not there; items that nobody
claims leave no trace, so that their number is estimated as in capture–recapture (Petersen 1896, Lincoln 1930); items
differ in difficulty, with one ease for each annotator as in the model of Rasch (1960), and some places tempt everybody;
annotators of one family share mistakes; the scores of an annotator are evidence; and rates are drawn to what its scores
state, the more the fewer independent families could confirm its claims. Truth is not used, but what people claim is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence.engine.consensus.label_matrix import LabelMatrix, LevelEdges

DIFFICULTY = np.asarray([-1.27, -0.32, 0.32, 1.27])
"""g_c of the classes of items that are there: the means of four equal parts of a normal distribution."""
SPREAD = 1.3
"""h, the standard deviation of the difficulty of items (log odds of being found), where it is not estimated."""
REAL = tuple(range(len(DIFFICULTY)))
"""Classes of items that are there, in equal numbers."""
HARD_NEGATIVE, NOTHING = len(REAL), len(REAL) + 1
"""The class of places that tempt everybody; and, where the last axis has one place more, nothing at all."""
DEFAULT_EASE, DEFAULT_TEMPTATION = 1.0, 0.25
"""e of an annotator of which nothing is known, and its r of hard negatives."""
TEMPTATION = 0.7
"""The same of hard negatives that two families take for objects, where no third one shows more."""
DEFAULT_LABEL_ACCURACY = 0.88
"""q of an annotator of which nothing is known."""
DEFAULT_DEPENDENCE = 0.8
"""δ of annotators that are declared to be of one family."""
PLACES_PER_IMAGE = 200.0
"""Places in one image: two claims about nothing that lie in one image have one box once in so many times."""
MIN_FALSE_POSITIVES = 0.3
"""Least f."""


@dataclass(frozen=True)
class Confusions:
    """Which labels are taken for which, as k pairs in order of ``key`` = v · V + u: label u claimed of label v.

    ``share``: (k,), P(u | a wrong label of v) of these pairs; ``rest``: (V,), P(u is none of them | v).
    """

    key: np.ndarray
    share: np.ndarray
    rest: np.ndarray

    def look_up(self, true: np.ndarray, claimed: np.ndarray, wrong_label_prior: np.ndarray) -> np.ndarray:
        """Return χ(u, v) of labels ``claimed`` u where ``true`` labels are v."""
        result = self.rest[true] * wrong_label_prior[claimed]
        if len(self.key):
            key = true * len(self.rest) + claimed
            at = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
            result = result + np.where(self.key[at] == key, self.share[at], 0.0)
        return result


@dataclass(frozen=True)
class AnnotatorModels:
    """The models of A annotators, for V labels; the last label stands for every one that has not been met.

    ``precision``: (A,). ``item_counts``: (5,); ``places``: where claims about nothing may lie. ``class_recall``: (A,
    5). ``label_shift``, ``label_accuracy``: (A, V). ``level_shift``: (A, levels). ``confusions``: of all
    annotators. ``false_positives``: (A,), claims. ``label_prior``, ``wrong_label_prior``: (V,). ``level_share``:
    (6, A, levels). ``level_score``: see `LabelMatrix`; ``level_slope``: (A,). ``copied_from``: (A,), -1 for nobody;
    ``dependence``: (A,). ``estimated``: (A,), False where too few others could confirm its claims; ``families``:
    (A,), how many independent families could confirm its claims, on the mean; ``anchored``: (A,), on how many
    claims people's labels judge it. ``level_edges``: see `LabelMatrix`. ``label_names``: the text of each
    label, where other images have labels of these texts too. ``label_index``: (labels + 1,), v of each label of a
    label matrix.
    """

    precision: np.ndarray
    item_counts: np.ndarray
    places: float
    class_recall: np.ndarray
    label_shift: np.ndarray
    label_accuracy: np.ndarray
    level_shift: np.ndarray
    confusions: Confusions
    false_positives: np.ndarray
    label_prior: np.ndarray
    wrong_label_prior: np.ndarray
    level_share: np.ndarray
    level_score: np.ndarray
    level_slope: np.ndarray
    copied_from: np.ndarray
    dependence: np.ndarray
    estimated: np.ndarray
    families: np.ndarray
    anchored: np.ndarray
    level_edges: LevelEdges
    label_names: tuple[str, ...]
    label_index: np.ndarray

    def for_labels(self, names: Sequence[str], count: int) -> AnnotatorModels:
        """The same models for a label matrix of ``count`` labels, the first of which have these ``names``."""
        known = {name: v for v, name in enumerate(self.label_names)}
        index = np.full(count + 1, len(self.label_prior) - 1)
        index[: len(names)] = [known.get(name, len(self.label_prior) - 1) for name in names]
        return replace(self, label_index=index)

    @property
    def recall(self) -> np.ndarray:
        """(A, V): share of the items of a label that an annotator claims something of."""
        return np.mean([shift_share(self.class_recall[:, [c]], self.label_shift) for c in REAL], axis=0)

    @property
    def mean_recall(self) -> np.ndarray:
        """(A,) r̄: share of the items that an annotator claims something of."""
        return self.recall @ self.label_prior

    @property
    def correct_recall(self) -> np.ndarray:
        """(A,) ρ: share of the items that an annotator claims with the right label."""
        return (self.recall * self.label_accuracy) @ self.label_prior

    @property
    def f1(self) -> np.ndarray:
        """(A,): the harmonic mean of precision and correct recall."""
        return 2 * self.precision * self.correct_recall / np.maximum(self.precision + self.correct_recall, 1e-9)


def count_places(matrix: LabelMatrix) -> float:
    """Return how many places there are where claims about nothing may lie, in all images together."""
    return max(len(matrix), 1) / max(matrix.items_per_image, 1e-9) * PLACES_PER_IMAGE


def recall_of_ease(ease: np.ndarray, spread: float = SPREAD) -> np.ndarray:
    """Return (A, classes of `REAL`) r of annotators of so much ``ease`` (A,), where h is ``spread``."""
    return np.asarray(1 / (1 + np.exp(spread * DIFFICULTY - ease[:, None])))


def shift_share(share: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return logistic(logit(share) + shift)."""
    odds = share / (1 - share) * np.exp(shift)
    return np.asarray(odds / (1 + odds))


def logit(share: np.ndarray) -> np.ndarray:
    """Return the log odds."""
    return np.asarray(np.log(share / (1 - share)))


def default_class_recall(count: int) -> np.ndarray:
    """Return (count, 5) r of annotators of which nothing is known."""
    real = recall_of_ease(np.full(count, DEFAULT_EASE))
    return np.concatenate([real, np.full((count, 1), DEFAULT_TEMPTATION)], axis=1)


def copy_within_families(families: np.ndarray, names_only: np.ndarray) -> np.ndarray:
    """Return (A,) the annotator of the same family before each one, -1 for none. ``families``, ``names_only``: (A,).

    Annotators that find objects come first: they copy none whose claims copy boxes.
    """
    result = np.full(len(families), -1, np.int64)
    last: dict[int, int] = {}
    for a in np.argsort(names_only, kind="stable").tolist():
        family = int(families[a])
        result[a] = last.get(family, -1)
        last[family] = a
    return result


def default_annotator_models(matrix: LabelMatrix, stated: np.ndarray) -> AnnotatorModels:
    """The models before anything is known: default rates, all labels as likely as they are claimed.

    ``stated``: (6, A, levels), what scores state (`florence.engine.consensus.stated_scores`). Annotators of one family
    copy the one before them with `DEFAULT_DEPENDENCE`.
    """
    count, labels = matrix.claim.shape[1], matrix.label_count + 1
    claims = matrix.present.sum(axis=0)
    prior = np.bincount(matrix.label[matrix.present], minlength=labels) + 0.5
    copied_from = copy_within_families(matrix.families, matrix.traits.names_only)
    return AnnotatorModels(
        precision=stated[list(REAL)].sum(axis=(0, 2)),
        item_counts=np.maximum(np.asarray([0.2] * len(REAL) + [0.1]) * len(matrix), 0.5),
        places=count_places(matrix),
        class_recall=default_class_recall(count),
        label_shift=np.zeros((count, labels)),
        label_accuracy=np.full((count, labels), DEFAULT_LABEL_ACCURACY),
        level_shift=np.zeros((count, stated.shape[2])),
        confusions=Confusions(np.zeros(0, np.int64), np.zeros(0), np.ones(labels)),
        false_positives=np.maximum(stated[NOTHING].sum(axis=1) * claims, MIN_FALSE_POSITIVES),
        label_prior=prior / prior.sum(),
        wrong_label_prior=prior / prior.sum(),
        level_share=stated / stated.sum(axis=2, keepdims=True),
        level_score=matrix.level_score,
        level_slope=np.ones(count),
        copied_from=copied_from,
        dependence=np.where(copied_from >= 0, DEFAULT_DEPENDENCE, 0.0),
        estimated=np.zeros(count, bool),
        families=np.zeros(count),
        anchored=np.zeros(count),
        level_edges=matrix.level_edges,
        label_names=(),
        label_index=np.arange(labels),
    )
