"""Phrases of a caption: is the thing that each names where the answer says?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from florence.geometry import box_iou
from florence.metrics import METRICS, Judged, Measure, Metric, Prediction, Reference, bounds, ratio, same, shares
from florence.records import Region

IOU = 0.5

Key = tuple[str, tuple[int, int] | None]


def _phrases(regions: Sequence[Region]) -> dict[Key, list[Region]]:
    found: dict[Key, list[Region]] = {}
    for region in regions:
        found.setdefault((same(region.label), region.span), []).append(region)
    return found


def _best(regions: Sequence[Region]) -> Region:
    """The region with the highest score; the first of equals."""
    return max(regions, key=lambda region: 1.0 if region.score is None else region.score)


def hits(predicted: Sequence[Region], reference: Sequence[Region]) -> list[bool]:
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
        result.append(bool(candidates) and bool(box_iou(bounds([_best(candidates)]), bounds(regions)).max() >= IOU))
    return result


@METRICS.register("grounding")
class Grounding(Metric):
    """Value: share of the reference phrases whose first box is right (recall@1 at IoU 0.5, any of a phrase's boxes will do).

    Details: named, the share of phrases that the answer names at all.
    """

    name = "grounding"
    measures = "recall_at_1"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        found = [hits(p.regions, r.regions) for p, r in zip(predictions, references, strict=True)]
        per_example = np.asarray([ratio(sum(phrases), len(phrases)) for phrases in found])
        value = ratio(sum(map(sum, found)), sum(map(len, found)))
        named = [
            words in {same(region.label) for region in p.regions}
            for p, r in zip(predictions, references, strict=True)
            for words, _ in _phrases(r.regions)
        ]
        return Measure(None if math.isnan(value) else value, per_example, {"named": ratio(sum(named), len(named))})

    def judged(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Judged:
        """See `Metric.judged`: a box is right that overlaps one of its phrase's."""
        found = []
        for number, (p, r) in enumerate(zip(predictions, references, strict=True)):
            there: dict[str, list[Region]] = {}
            for region in r.regions:
                there.setdefault(same(region.label), []).append(region)
            for region in p.regions:
                right = there.get(same(region.label), [])
                found.append(
                    (number, region.score, bool(right) and bool(box_iou(bounds([region]), bounds(right)).max() >= IOU))
                )
        return Judged.of(found)

    def resampled(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """See `Metric.resampled`: an example weighs as many as its phrases."""
        found = [hits(p.regions, r.regions) for p, r in zip(predictions, references, strict=True)]
        return shares(
            weights @ np.asarray([sum(phrases) for phrases in found]),
            weights @ np.asarray([len(phrases) for phrases in found]),
        )
