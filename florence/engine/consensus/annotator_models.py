"""The annotator models: what is estimated of each annotator, and what is assumed before anything is known.

Symbols of the equations (here, in `florence.engine.consensus.posterior` and in `florence.engine.consensus.fitting`):

    i = 1…n    items: clusters of claims
    a = 1…A    annotators
    v = 1…V    labels; label V: every label that no claim has
    y_ia       label that annotator a claims of item i, ∅ where it is silent
    k_ia       1 where a was asked about i, else 0
    l_ia       level of the score of a's claim about i
    s(u, v)    how right label v is where label u is, 0…1
    z_i        what item i is: 0 nothing, a label v, * another label

    N        ``item_count``           how many items there are, those that nobody claims included
    r_av     ``recall``               P(a claims something | an item of label v)
    q_av     ``label_accuracy``       P(the label is right | a claims something of an item of label v)
    f_a      ``false_positives``      how many claims a makes about nothing
    π_v      ``label_prior``          P(label v | an item)
    ω_v      ``wrong_label_prior``    P(label v | a wrong claim)
    λ⁺_al    ``right_level``          P(level l | a right claim of a)
    λ⁻_al    ``wrong_level``          P(level l | a wrong claim of a)
    b(a)     ``copied_from``          the annotator that a depends on
    d_a      ``dependence``           P(a claims what b(a) claims because it copies it)
    p_a      ``precision``            share of a's claims that are right

    r̄_a = Σ_v π_v r_av              ``mean_recall``
    ρ_a = Σ_v π_v r_av q_av          ``correct_recall``: share of the items that a claims with the right label

The model follows Dawid and Skene (1979), "Maximum likelihood estimation of observer error-rates using the EM
algorithm", and differs in four points: an annotator may be silent, and may claim what is not there; items that nobody
claims leave no trace, so that their number is estimated as in capture–recapture (Petersen 1896, Lincoln 1930); an
annotator may copy another one, mistakes included, as two versions of one model do; and recall and label accuracy are
estimated label by label, shrunk to the annotator's mean where a label is rare. Truth is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence.engine.consensus.label_matrix import SCORE_LEVELS, LabelMatrix, LevelEdges

DEFAULT_RECALL, DEFAULT_LABEL_ACCURACY, DEFAULT_PRECISION = 0.6, 0.85, 0.8
"""r, q and p of an annotator that cannot be estimated."""


@dataclass(frozen=True)
class AnnotatorModels:
    """The models of A annotators, for V labels; the last label stands for every one that has not been met.

    ``precision``: (A,). ``recall``, ``label_accuracy``: (A, V). ``false_positives``: (A,), claims. ``item_count``: all
    items; ``claimed_item_count``: items that somebody claims. ``label_prior``, ``wrong_label_prior``: (V,).
    ``right_level``, ``wrong_level``: (A, levels). ``copied_from``: (A,), -1 for nobody; ``dependence``: (A,).
    ``estimated``: (A,), False where there were too few items to estimate recall and label accuracy. ``level_edges``:
    see `LabelMatrix`. ``label_names``: the text of each label, where other images have labels of these texts too.
    ``label_index``: (labels + 1,), v of each label of a label matrix.
    """

    precision: np.ndarray
    recall: np.ndarray
    label_accuracy: np.ndarray
    false_positives: np.ndarray
    item_count: float
    claimed_item_count: int
    label_prior: np.ndarray
    wrong_label_prior: np.ndarray
    right_level: np.ndarray
    wrong_level: np.ndarray
    copied_from: np.ndarray
    dependence: np.ndarray
    estimated: np.ndarray
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


def default_annotator_models(matrix: LabelMatrix) -> AnnotatorModels:
    """The models before anything is known: default rates, all labels and levels as likely, nobody copies.

    N is the median over a of p · claims_a / (r · q · share of the items that a was asked about); f_a is (1 − p) ·
    claims_a.
    """
    count, labels = matrix.claim.shape[1], matrix.label_count + 1
    claims = matrix.present.sum(axis=0)
    asked = np.maximum(matrix.was_asked.mean(axis=0), 1e-9) if len(matrix) else np.ones(count)
    items = [
        DEFAULT_PRECISION * n / (DEFAULT_RECALL * DEFAULT_LABEL_ACCURACY * share)
        for n, share in zip(claims.tolist(), asked.tolist(), strict=True)
        if n
    ]
    levels = np.full((count, SCORE_LEVELS + 1), 1.0 / (SCORE_LEVELS + 1))
    return AnnotatorModels(
        precision=np.full(count, DEFAULT_PRECISION),
        recall=np.full((count, labels), DEFAULT_RECALL),
        label_accuracy=np.full((count, labels), DEFAULT_LABEL_ACCURACY),
        false_positives=np.maximum((1 - DEFAULT_PRECISION) * claims, 0.1),
        item_count=float(np.median(items)) if items else 1.0,
        claimed_item_count=len(matrix),
        label_prior=np.full(labels, 1 / labels),
        wrong_label_prior=np.full(labels, 1 / labels),
        right_level=levels,
        wrong_level=levels,
        copied_from=np.full(count, -1),
        dependence=np.zeros(count),
        estimated=np.zeros(count, bool),
        level_edges=matrix.level_edges,
        label_names=(),
        label_index=np.arange(labels),
    )
