"""One label for each region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence.metrics import METRICS, GradedAnswers, Measure, Metric, Prediction, Reference, divide, normalize_label


@METRICS.register("category")
class CategoryMetric(Metric):
    """Value: balanced accuracy, the mean over the reference's classes of the share of their examples named right. Per image: the plain share.

    Details: exact, the plain share over all examples; classes, their number. Chance is 1/classes.
    """

    name = "category"
    value_name = "balanced_accuracy"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        right, codes = _right(predictions, references)
        recall = np.bincount(codes, weights=right) / np.bincount(codes)
        return Measure(float(recall.mean()), right, {"exact": float(right.mean()), "classes": float(len(recall))})

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.judged`."""
        right, _ = _right(predictions, references)
        return GradedAnswers.of((number, p.score, bool(right[number])) for number, p in enumerate(predictions))

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """See `Metric.resampled`: the mean over the classes that are in the resample."""
        right, codes = _right(predictions, references)
        member = np.eye(int(codes.max()) + 1)[codes]
        recall = divide(weights @ (member * right[:, None]), weights @ member)
        return divide(np.nansum(recall, axis=1), (~np.isnan(recall)).sum(axis=1))


def _right(predictions: Sequence[Prediction], references: Sequence[Reference]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) whether each example is named right, and the number of its class."""
    there = np.asarray([normalize_label(reference.text) for reference in references])
    right = np.asarray(
        [normalize_label(p.text) == name for p, name in zip(predictions, there.tolist(), strict=True)], float
    )
    return right, np.unique(there, return_inverse=True)[1]
