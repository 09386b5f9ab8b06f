"""Boxes without labels: recall of proposals at IoU 0.5."""

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
"""Proposals of one example that count, in the order of the answer: covering the image with boxes is no detection."""


@METRICS.register("proposal")
class ProposalMetric(Metric):
    """Value: recall at IoU 0.5 over all reference regions; labels do not count. Details: precision, f1."""

    name = "proposal"
    value_name = "recall"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs; see the class."""
        matched = np.asarray(
            [
                len(match_regions(p.regions[:LIMIT], r.regions, labelled=False))
                for p, r in zip(predictions, references, strict=True)
            ]
        )
        reference_count = np.asarray([len(reference.regions) for reference in references])
        predicted = sum(min(len(prediction.regions), LIMIT) for prediction in predictions)
        per_example = np.divide(
            matched, reference_count, out=np.full(len(reference_count), math.nan), where=reference_count > 0
        )
        total, hit = int(reference_count.sum()), int(matched.sum())
        details = {"precision": divide_or_nan(hit, predicted), "f1": divide_or_nan(2 * hit, predicted + total)}
        return Measure(hit / total if total else None, per_example, details)

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.grade`: a region is correct if it matches any reference region."""
        return GradedAnswers.from_rows(grade_regions(predictions, references, labelled=False))

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """See `Metric.resample`: the weight of an example is its number of regions."""
        reference_count = np.asarray([len(reference.regions) for reference in references], float)
        found = np.nan_to_num(self.measure(predictions, references).per_example) * reference_count
        return divide(weights @ found, weights @ reference_count)
