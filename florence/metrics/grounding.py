"""Phrases of a caption: is the thing that each names where the answer says?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from florence.geometry import box_iou
from florence.metrics import (
    METRICS,
    GradedAnswers,
    Measure,
    Metric,
    Prediction,
    Reference,
    divide,
    divide_or_nan,
    normalize_label,
    region_boxes,
)
from florence.records import Region

IOU = 0.5

Key = tuple[str, tuple[int, int] | None]


def _phrases(regions: Sequence[Region]) -> dict[Key, list[Region]]:
    found: dict[Key, list[Region]] = {}
    for region in regions:
        found.setdefault((normalize_label(region.label), region.span), []).append(region)
    return found


def _best(regions: Sequence[Region]) -> Region:
    """The region with the highest score; the first of equals."""
    return max(regions, key=lambda region: 1.0 if region.score is None else region.score)


def find_hits(predicted: Sequence[Region], reference: Sequence[Region]) -> list[bool]:
    """For each phrase of the references, whether the best box predicted for it overlaps one of its boxes by `IOU` or more.

    A phrase is found by its words and its place in the caption; by its words alone where the answer's place is another.
    """
    said = _phrases(predicted)
    anywhere: dict[str, list[Region]] = {}
    for (words, _), regions in said.items():
        anywhere.setdefault(words, []).extend(regions)
    result = []
    for (words, span), regions in _phrases(reference).items():
        candidates = said.get((words, span)) or anywhere.get(words, [])
        result.append(
            bool(candidates) and bool(box_iou(region_boxes([_best(candidates)]), region_boxes(regions)).max() >= IOU)
        )
    return result


@METRICS.register("grounding")
class GroundingMetric(Metric):
    """Value: share of the reference phrases whose first box is right (recall@1 at IoU 0.5, any of a phrase's boxes will do).

    Details: named, the share of phrases that the answer names at all.
    """

    name = "grounding"
    value_name = "recall_at_1"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        found = [find_hits(p.regions, r.regions) for p, r in zip(predictions, references, strict=True)]
        per_example = np.asarray([divide_or_nan(sum(phrases), len(phrases)) for phrases in found])
        value = divide_or_nan(sum(map(sum, found)), sum(map(len, found)))
        named = [
            words in {normalize_label(region.label) for region in p.regions}
            for p, r in zip(predictions, references, strict=True)
            for words, _ in _phrases(r.regions)
        ]
        return Measure(
            None if math.isnan(value) else value, per_example, {"named": divide_or_nan(sum(named), len(named))}
        )

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.judged`: a box is right that overlaps one of its phrase's."""
        found = []
        for number, (p, r) in enumerate(zip(predictions, references, strict=True)):
            there: dict[str, list[Region]] = {}
            for region in r.regions:
                there.setdefault(normalize_label(region.label), []).append(region)
            for region in p.regions:
                right = there.get(normalize_label(region.label), [])
                found.append(
                    (
                        number,
                        region.score,
                        bool(right) and bool(box_iou(region_boxes([region]), region_boxes(right)).max() >= IOU),
                    )
                )
        return GradedAnswers.of(found)

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """See `Metric.resampled`: an example weighs as many as its phrases."""
        found = [find_hits(p.regions, r.regions) for p, r in zip(predictions, references, strict=True)]
        return divide(
            weights @ np.asarray([sum(phrases) for phrases in found]),
            weights @ np.asarray([len(phrases) for phrases in found]),
        )
