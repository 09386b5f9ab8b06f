"""Boxes without labels: how many of the things that are there were proposed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from florence.metrics import (
    METRICS,
    GradedAnswers,
    Measure,
    Metric,
    Prediction,
    Reference,
    divide,
    divide_or_nan,
    grade_regions,
    match_regions,
)

LIMIT = 100
"""Proposals of one example that count, in the order of the answer: proposing everywhere is no detection."""


@METRICS.register("proposal")
class ProposalMetric(Metric):
    """Value: recall at IoU 0.5 over all reference regions; labels do not count. Details: precision, f1."""

    name = "proposal"
    value_name = "recall"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        matched = np.asarray(
            [
                len(match_regions(p.regions[:LIMIT], r.regions, labelled=False))
                for p, r in zip(predictions, references, strict=True)
            ]
        )
        there = np.asarray([len(reference.regions) for reference in references])
        said = sum(min(len(prediction.regions), LIMIT) for prediction in predictions)
        per_example = np.divide(matched, there, out=np.full(len(there), math.nan), where=there > 0)
        total, hit = int(there.sum()), int(matched.sum())
        details = {"precision": divide_or_nan(hit, said), "f1": divide_or_nan(2 * hit, said + total)}
        return Measure(hit / total if total else None, per_example, details)

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.judged`: a region is right where something is."""
        return GradedAnswers.of(grade_regions(predictions, references, labelled=False))

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """See `Metric.resampled`: an example weighs as many as its regions."""
        there = np.asarray([len(reference.regions) for reference in references], float)
        found = np.nan_to_num(self.measure(predictions, references).per_example) * there
        return divide(weights @ found, weights @ there)
