"""One label for each region: balanced accuracy.

    balanced accuracy = mean over the classes c of |{i : yᵢ = c and ŷᵢ = c}| / |{i : yᵢ = c}|

Brodersen et al., "The Balanced Accuracy and Its Posterior Distribution", 2010.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence.metrics import METRICS, GradedAnswers, Measure, Metric, Prediction, Reference, divide
from florence.records import fold_label


@METRICS.register("category")
class CategoryMetric(Metric):
    """Value: balanced accuracy. Per image: the plain share of correct labels.

    Details: exact, the plain share over all examples; classes, their number. Chance is 1/classes.
    """

    name = "category"
    value_name = "balanced_accuracy"
    per_image_name = "share of correct labels"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs; see the class."""
        correct, codes = _grade_labels(predictions, references)
        recall = np.bincount(codes, weights=correct) / np.bincount(codes)
        return Measure(float(recall.mean()), correct, {"exact": float(correct.mean()), "classes": float(len(recall))})

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.grade`: a label is correct if it is the reference's."""
        correct, _ = _grade_labels(predictions, references)
        return GradedAnswers.from_rows((number, p.score, bool(correct[number])) for number, p in enumerate(predictions))

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """See `Metric.resample`: the mean over the classes that are in the resample."""
        correct, codes = _grade_labels(predictions, references)
        member = np.eye(int(codes.max()) + 1)[codes]
        recall = divide(weights @ (member * correct[:, None]), weights @ member)
        return divide(np.nansum(recall, axis=1), (~np.isnan(recall)).sum(axis=1))


def _grade_labels(predictions: Sequence[Prediction], references: Sequence[Reference]) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) whether each label is correct, 1 or 0, and the number of its class."""
    classes = np.asarray([fold_label(reference.text) for reference in references])
    correct = np.asarray(
        [fold_label(p.text) == name for p, name in zip(predictions, classes.tolist(), strict=True)], float
    )
    return correct, np.unique(classes, return_inverse=True)[1]
