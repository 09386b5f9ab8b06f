"""One label for each region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence.metrics import METRICS, Measure, Metric, Prediction, Reference, same


@METRICS.register("category")
class Category(Metric):
    """Value: balanced accuracy, the mean over the reference's classes of the share of their examples named right. Per image: the plain share.

    Details: exact, the plain share over all examples; classes, their number. Chance is 1/classes.
    """

    name = "category"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        there = np.asarray([same(reference.text) for reference in references])
        right = np.asarray([same(p.text) == name for p, name in zip(predictions, there.tolist(), strict=True)], float)
        _, codes = np.unique(there, return_inverse=True)
        recall = np.bincount(codes, weights=right) / np.bincount(codes)
        return Measure(float(recall.mean()), right, {"exact": float(right.mean()), "classes": float(len(recall))})
