"""Boxes with labels: COCO's average precision, by the predictions' own scores, and F1 at IoU 0.5.

Of one label, with predictions sorted by score and precision(r) the highest precision at a recall of r or more,

    AP = mean over r = 0, 0.01 … 1 of precision(r),        F1 = 2 · matched / (predicted + reference).

AP is averaged over the labels of the references; map also over IoU 0.5, 0.55 … 0.95. Lin et al., "Microsoft COCO",
2014, and cocodataset.org/#detection-eval; computed by faster-coco-eval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

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
    grade_regions,
    match_regions,
    region_boxes,
)
from florence.records import Region, fold_label


def count_matches(
    predicted: Sequence[Region], reference: Sequence[Region], iou: float = 0.5, labelled: bool = True
) -> tuple[int, int, int]:
    """Return the numbers of matched, predicted and reference regions of one image."""
    return len(match_regions(predicted, reference, iou, labelled)), len(predicted), len(reference)


def f1_score(
    predicted: Sequence[Region], reference: Sequence[Region], iou: float = 0.5, labelled: bool = True
) -> float:
    """Return F1 of one image's regions; 1 where both sides are empty."""
    matched, left, right = count_matches(predicted, reference, iou, labelled)
    return 2 * matched / (left + right) if left + right else 1.0


@METRICS.register("detection")
class DetectionMetric(Metric):
    """Value: AP at IoU 0.5, mean over the labels in the references. Per image: F1 at IoU 0.5.

    Details: map (IoU 0.5…0.95), f1, precision, recall over all regions, and f1_boxes, which ignores labels. A region
    without a score counts as 1. As in COCO, at most 100 predictions an example enter AP. Without any reference region
    AP is None.
    """

    name = "detection"
    value_name = "map50"
    per_image_name = "F1 at IoU 0.5"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs; see the class."""
        pairs = list(zip(predictions, references, strict=True))
        per_example = np.asarray([f1_score(p.regions, r.regions) for p, r in pairs])
        matched, predicted, in_reference = np.sum(
            [count_matches(p.regions, r.regions) for p, r in pairs], axis=0
        ).tolist()
        boxes = sum(count_matches(p.regions, r.regions, labelled=False)[0] for p, r in pairs)
        details = {
            "f1": divide_or_nan(2 * matched, predicted + in_reference),
            "precision": divide_or_nan(matched, predicted),
            "recall": divide_or_nan(matched, in_reference),
            "f1_boxes": divide_or_nan(2 * boxes, predicted + in_reference),
        }
        ap = coco_average_precision(predictions, references)
        if ap is None:
            return Measure(None, per_example, details)
        return Measure(ap[1], per_example, {"map": ap[0], **details})

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.grade`: a region is correct if F1 counts it as matched."""
        return GradedAnswers.from_rows(grade_regions(predictions, references))

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """See `Metric.resample`: AP at IoU 0.5.

        Regions are paired within an example, so its pairs are the same in every resample.
        """
        labels = sorted({fold_label(region.label) for reference in references for region in reference.regions})
        found = (
            np.stack([_resample_ap(name, predictions, references, weights) for name in labels])
            if labels
            else np.zeros((0, len(weights)))
        )
        return divide(np.nansum(found, axis=0), (~np.isnan(found)).sum(axis=0))


RECALLS = np.linspace(0, 1, 101)
"""Recalls at which COCO reads the precision."""
LIMIT = 100
"""Predictions of one label and example that enter AP."""


def _resample_ap(
    name: str, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
) -> np.ndarray:
    """Return AP (r,) of one label in each resample; NaN where no reference has the label."""
    in_reference = np.zeros(len(references))
    found: list[tuple[float, int, bool]] = []
    for index, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        targets = [region for region in reference.regions if fold_label(region.label) == name]
        predicted = sorted(
            (region for region in prediction.regions if fold_label(region.label) == name),
            key=lambda region: -_score(region),
        )[:LIMIT]
        in_reference[index] = len(targets)
        found += [
            (_score(region), index, hit) for region, hit in zip(predicted, _find_hits(predicted, targets), strict=True)
        ]
    total = weights @ in_reference
    if not found:
        return np.where(total > 0, 0.0, math.nan)
    found.sort(key=lambda row: -row[0])
    times = np.asarray(weights[:, [index for _, index, _ in found]], float)
    hit = np.asarray([hit for _, _, hit in found], float)
    hits_so_far, so_far = np.cumsum(times * hit, axis=1), np.cumsum(times, axis=1)
    recall = hits_so_far / np.maximum(total, 1)[:, None]
    precision = np.divide(hits_so_far, so_far, out=np.zeros_like(so_far), where=so_far > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # each precision counts for the recalls that are reached with it first
    reached = np.diff(np.searchsorted(RECALLS, recall, side="right"), axis=1, prepend=0)
    return np.where(total > 0, (reached * precision).sum(axis=1) / len(RECALLS), math.nan)


def _find_hits(predicted: Sequence[Region], targets: Sequence[Region]) -> list[bool]:
    """Return whether each prediction, best first, has a reference region of IoU 0.5 or more.

    It takes the one it overlaps most of those that no earlier prediction took.
    """
    if not predicted or not targets:
        return [False] * len(predicted)
    overlap = box_iou(region_boxes(predicted), region_boxes(targets))
    taken: set[int] = set()
    result = []
    for row in overlap:
        free = [j for j in range(len(targets)) if j not in taken and row[j] >= 0.5]
        result.append(bool(free))
        if free:
            taken.add(max(free, key=lambda j: (row[j], j)))
    return result


def _score(region: Region) -> float:
    score = 1.0 if region.score is None else float(region.score)
    return score if math.isfinite(score) else 0.0


def coco_average_precision(
    predictions: Sequence[Prediction], references: Sequence[Reference]
) -> tuple[float, float] | None:
    """Return (AP at IoU 0.5…0.95, AP at IoU 0.5); None where the references hold no region."""
    from faster_coco_eval import COCO, COCOeval_faster

    labels = sorted({fold_label(region.label) for reference in references for region in reference.regions})
    if not labels:
        return None
    code = {name: index for index, name in enumerate(labels, start=1)}
    truth = {
        "images": [{"id": index, "width": 0, "height": 0} for index in range(1, len(references) + 1)],
        "categories": [{"id": index, "name": name} for name, index in code.items()],
        "annotations": _build_coco_rows((reference.regions for reference in references), code),
    }
    # labels that no reference has enter no label's precision; F1 counts them
    found = _build_coco_rows((prediction.regions for prediction in predictions), code)
    if not found:
        return 0.0, 0.0
    silent = {"print_function": _silent}
    gold = COCO(truth, **silent)
    evaluation = COCOeval_faster(gold, gold.loadRes(found), iouType="bbox", **silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _build_coco_rows(images: Iterable[Sequence[Region]], code: dict[str, int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, regions in enumerate(images, start=1):
        for region in regions:
            if (category := code.get(fold_label(region.label))) is None:
                continue
            x0, y0, x1, y1 = region.bounds
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    "area": (x1 - x0) * (y1 - y0),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": _score(region),
                }
            )
    return rows


def _silent(*_: object) -> None:
    """Print nothing: the evaluator writes tables to the terminal."""
