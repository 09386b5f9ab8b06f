"""Masks: intersection over union, |A ∩ B| / |A ∪ B|."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from florence.geometry import Polygon, box_quad, mask_iou, polygon_box, rasterise
from florence.metrics import METRICS, GradedAnswers, Measure, Metric, Prediction, Reference, mean
from florence.records import Region

SIDE = 512
"""Pixels a side of the canvas on which masks are compared; their common box is stretched to it, whatever its size."""


def list_polygons(regions: Sequence[Region]) -> list[Polygon]:
    """Return the polygons of regions; the quad or the corners of the box where a region has none."""
    found: list[Polygon] = []
    for region in regions:
        found += region.polygons or [region.quad or box_quad(region.bounds)]
    return found


def region_mask_iou(predicted: Sequence[Region], reference: Sequence[Region]) -> float:
    """Return the IoU of the union of one side's polygons with the other's; 0 where a side has none or no area."""
    left, right = list_polygons(predicted), list_polygons(reference)
    if not left or not right:
        return 0.0
    x0, y0, x1, y1 = polygon_box([value for points in (*left, *right) for value in points])
    if x1 <= x0 or y1 <= y0:
        return 0.0
    masks = [
        rasterise(
            [
                [(v - (y0 if i & 1 else x0)) * SIDE / ((y1 - y0) if i & 1 else (x1 - x0)) for i, v in enumerate(points)]
                for points in side
            ],
            SIDE,
            SIDE,
        )
        for side in (left, right)
    ]
    return mask_iou(*masks)


@METRICS.register("segmentation")
class SegmentationMetric(Metric):
    """Value: mean mask IoU over examples with a reference region. Details: over50, their share with 0.5 or more."""

    name = "segmentation"
    value_name = "mask_iou"

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.grade`: an answer is correct with a mask IoU of 0.5 or more."""
        pairs = [
            (n, p, r) for n, (p, r) in enumerate(zip(predictions, references, strict=True)) if p.regions and r.regions
        ]
        return GradedAnswers.from_rows((n, p.score, region_mask_iou(p.regions, r.regions) >= 0.5) for n, p, r in pairs)

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs; see the class."""
        per_example = np.asarray(
            [
                region_mask_iou(p.regions, r.regions) if r.regions else math.nan
                for p, r in zip(predictions, references, strict=True)
            ]
        )
        scored = per_example[~np.isnan(per_example)]
        return Measure(mean(per_example), per_example, {"over50": float((scored >= 0.5).mean())} if len(scored) else {})
