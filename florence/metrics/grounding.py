"""Phrases of a caption: recall@1 at IoU 0.5 (Plummer et al., "Flickr30k Entities", 2015, any-box protocol)."""

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
    region_boxes,
)
from florence.records import Region, fold_label

IOU = 0.5

PhraseKey = tuple[str, tuple[int, int] | None]


def _group_by_phrase(regions: Sequence[Region]) -> dict[PhraseKey, list[Region]]:
    found: dict[PhraseKey, list[Region]] = {}
    for region in regions:
        found.setdefault((fold_label(region.label), region.span), []).append(region)
    return found


def _best(regions: Sequence[Region]) -> Region:
    """Return the region with the highest score; the first of equals."""
    return max(regions, key=lambda region: 1.0 if region.score is None else region.score)


def find_hits(predicted: Sequence[Region], reference: Sequence[Region]) -> list[bool]:
    """Return for each phrase of the reference whether its best predicted box has an IoU of `IOU` with one of its boxes.

    A phrase is found by its words and its span in the caption; by its words alone where the answer's span differs.
    """
    by_span = _group_by_phrase(predicted)
    by_words: dict[str, list[Region]] = {}
    for (words, _), regions in by_span.items():
        by_words.setdefault(words, []).extend(regions)
    result = []
    for (words, span), regions in _group_by_phrase(reference).items():
        candidates = by_span.get((words, span)) or by_words.get(words, [])
        result.append(
            bool(candidates) and bool(box_iou(region_boxes([_best(candidates)]), region_boxes(regions)).max() >= IOU)
        )
    return result


@METRICS.register("grounding")
class GroundingMetric(Metric):
    """Value: share of the reference phrases whose best box has an IoU of 0.5 or more with any of the phrase's boxes.

    Details: named, the share of phrases that the answer names at all.
    """

    name = "grounding"
    value_name = "recall_at_1"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs; see the class."""
        found = [find_hits(p.regions, r.regions) for p, r in zip(predictions, references, strict=True)]
        per_example = np.asarray([divide_or_nan(sum(phrases), len(phrases)) for phrases in found])
        value = divide_or_nan(sum(map(sum, found)), sum(map(len, found)))
        named = [
            words in {fold_label(region.label) for region in p.regions}
            for p, r in zip(predictions, references, strict=True)
            for words, _ in _group_by_phrase(r.regions)
        ]
        return Measure(
            None if math.isnan(value) else value, per_example, {"named": divide_or_nan(sum(named), len(named))}
        )

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.grade`: a box is correct if it overlaps one of its phrase's."""
        found = []
        for number, (p, r) in enumerate(zip(predictions, references, strict=True)):
            by_label: dict[str, list[Region]] = {}
            for region in r.regions:
                by_label.setdefault(fold_label(region.label), []).append(region)
            for region in p.regions:
                boxes = by_label.get(fold_label(region.label), [])
                found.append(
                    (
                        number,
                        region.score,
                        bool(boxes) and bool(box_iou(region_boxes([region]), region_boxes(boxes)).max() >= IOU),
                    )
                )
        return GradedAnswers.from_rows(found)

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """See `Metric.resample`: the weight of an example is its number of phrases."""
        found = [find_hits(p.regions, r.regions) for p, r in zip(predictions, references, strict=True)]
        return divide(
            weights @ np.asarray([sum(phrases) for phrases in found]),
            weights @ np.asarray([len(phrases) for phrases in found]),
        )
