"""Fit annotator models to a label matrix by expectation maximisation; truth is not used, but people's claims are.

The E step is `florence.engine.consensus.posterior`, the M step `florence.engine.consensus.maximisation`. Dependence is
estimated anew at every sixth step: `florence.engine.consensus.dependence`. Where no claim could be confirmed by another
family, and none was judged by people, nothing is fitted: what the scores state holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence.engine.consensus.annotator_models import AnnotatorModels, count_places, default_annotator_models
from florence.engine.consensus.dependence import MIN_ITEMS, estimate_dependence
from florence.engine.consensus.label_matrix import LabelMatrix
from florence.engine.consensus.maximisation import (
    MIN_ANCHORED,
    PRIOR_CLAIMS,
    measure_precision,
    prepare_maximisation,
    update_models,
)
from florence.engine.consensus.posterior import infer_posterior
from florence.engine.consensus.stated_scores import DEFAULT_PRECISION, state_classes

MAX_FIT_ITEMS = 3000
"""Items that models are fitted to at most."""
MAX_STEPS, TOLERANCE = 36, 3e-3
MIN_FAMILIES = 1.5
"""Other families that could confirm an annotator's claims, on the mean, from which its rates count as estimated."""


@dataclass(frozen=True)
class FitOptions:
    """``student``, ``cap``: see `infer_posterior`. ``prior_claims``: see `update_models`.

    ``precision``: share right of claims without a score, before anything is known.
    """

    student: int | None = None
    cap: float = 1.0
    prior_claims: float = PRIOR_CLAIMS
    precision: float = DEFAULT_PRECISION


def fit_annotator_models(
    matrix: LabelMatrix, options: FitOptions = FitOptions(), label_names: Sequence[str] = ()
) -> AnnotatorModels:
    """Fit the models of all annotators. ``label_names``: the text of each label."""
    stated = state_classes(matrix, options.precision).classes
    default = replace(default_annotator_models(matrix, stated), label_names=tuple(label_names))
    rows = np.flatnonzero((matrix.was_asked.sum(axis=1) > 0) | matrix.anchored)
    if len(rows) < MIN_ITEMS:
        return default
    sample = matrix.take(_sample_rows(matrix, rows))
    fitted = _fit_sample(sample, options)
    in_sample = sample.was_asked.any(axis=0)
    per_sampled = matrix.present.sum(axis=0) / np.maximum(sample.present.sum(axis=0), 1)
    return replace(
        fitted,
        item_counts=fitted.item_counts * (len(matrix) / len(sample)),
        places=count_places(matrix),
        false_positives=np.where(in_sample, fitted.false_positives * per_sampled, default.false_positives),
        estimated=fitted.estimated & in_sample,
        label_names=default.label_names,
    )


def _sample_rows(matrix: LabelMatrix, rows: np.ndarray) -> np.ndarray:
    """Return some of the ``rows``: those that people's labels cover, up to half of them, and others."""
    if len(rows) <= MAX_FIT_ITEMS:
        return rows
    anchored = matrix.anchored[rows]
    covered, others = rows[anchored], rows[~anchored]
    covered = _spread(covered, max(MAX_FIT_ITEMS // 2, MAX_FIT_ITEMS - len(others)))
    return np.sort(np.concatenate([covered, _spread(others, MAX_FIT_ITEMS - len(covered))]))


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the rows, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _fit_sample(matrix: LabelMatrix, options: FitOptions) -> AnnotatorModels:
    """Alternate E and M steps until the number of items and recall settle."""
    fixed = prepare_maximisation(matrix, options.precision)
    claims = np.maximum(matrix.present.sum(axis=0), 1)
    families = (matrix.confirming * matrix.present).sum(axis=0) / claims
    anchored = (matrix.present & matrix.anchored[:, None]).sum(axis=0)
    enough = matrix.was_asked.sum(axis=0) >= MIN_ITEMS
    models = replace(
        default_annotator_models(matrix, fixed.stated),
        families=families,
        anchored=anchored,
        estimated=enough & ((families >= MIN_FAMILIES) | (anchored >= MIN_ANCHORED)),
    )
    if not families.any() and anchored.max(initial=0) < MIN_ITEMS:
        posterior = infer_posterior(matrix, models, options.student, options.cap)
        return replace(models, precision=measure_precision(matrix, posterior))
    for step in range(MAX_STEPS):
        before = models
        posterior = infer_posterior(matrix, models, options.student, options.cap)
        models = update_models(matrix, posterior, models, fixed, options.prior_claims)
        if step % 6 == 5:
            models = estimate_dependence(matrix, posterior, models)
        change = max(
            float(np.abs(models.item_counts / before.item_counts - 1).max()),
            float(np.abs(models.class_recall - before.class_recall).max()),
        )
        if change < TOLERANCE and step > 12:
            break
    return models
