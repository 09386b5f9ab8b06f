"""Boxes with labels: average precision as COCO defines it, with the predictions' own scores; and F1 at IoU 0.5."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from florence.metrics import METRICS, Measure, Metric, Prediction, Reference, matches, ratio, same
from florence.records import Region


def counts(
    predicted: Sequence[Region], reference: Sequence[Region], iou: float = 0.5, labelled: bool = True
) -> tuple[int, int, int]:
    """(matched, predicted, reference) regions of one image."""
    return len(matches(predicted, reference, iou, labelled)), len(predicted), len(reference)


def f1(predicted: Sequence[Region], reference: Sequence[Region], iou: float = 0.5, labelled: bool = True) -> float:
    """F1 of one image's regions: 2·matched / (predicted + reference); 1 where both are empty."""
    matched, said, there = counts(predicted, reference, iou, labelled)
    return 2 * matched / (said + there) if said + there else 1.0


@METRICS.register("detection")
class Detection(Metric):
    """Value: AP at IoU 0.5, mean over the labels in the references. Per image: F1 at IoU 0.5.

    Details: map (IoU 0.5…0.95), f1, precision, recall over all regions, and f1_boxes, which ignores labels. A region without a
    score counts as certain (1). At most 100 predictions an example enter AP, as in COCO. Without any reference region AP is None.
    """

    name = "detection"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        pairs = list(zip(predictions, references, strict=True))
        per_example = np.asarray([f1(p.regions, r.regions) for p, r in pairs])
        matched, said, there = np.sum([counts(p.regions, r.regions) for p, r in pairs], axis=0).tolist()
        boxes = sum(counts(p.regions, r.regions, labelled=False)[0] for p, r in pairs)
        details = {
            "f1": ratio(2 * matched, said + there),
            "precision": ratio(matched, said),
            "recall": ratio(matched, there),
            "f1_boxes": ratio(2 * boxes, said + there),
        }
        ap = average_precision(predictions, references)
        if ap is None:
            return Measure(None, per_example, details)
        return Measure(ap[1], per_example, {"map": ap[0], **details})


def average_precision(predictions: Sequence[Prediction], references: Sequence[Reference]) -> tuple[float, float] | None:
    """(AP at IoU 0.5…0.95, AP at IoU 0.5) by faster-coco-eval; None where the references hold no region."""
    from faster_coco_eval import COCO, COCOeval_faster

    labels = sorted({same(region.label) for reference in references for region in reference.regions})
    if not labels:
        return None
    code = {name: index for index, name in enumerate(labels, start=1)}
    truth = {
        "images": [{"id": index, "width": 0, "height": 0} for index in range(1, len(references) + 1)],
        "categories": [{"id": index, "name": name} for name, index in code.items()],
        "annotations": _coco((reference.regions for reference in references), code),
    }
    # labels that no reference has enter no label's precision; F1 counts them
    found = _coco((prediction.regions for prediction in predictions), code)
    if not found:
        return 0.0, 0.0
    silent = {"print_function": _silent}
    gold = COCO(truth, **silent)
    evaluation = COCOeval_faster(gold, gold.loadRes(found), iouType="bbox", **silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _coco(images, code: dict[str, int]) -> list[dict]:
    rows: list[dict] = []
    for number, regions in enumerate(images, start=1):
        for region in regions:
            if (category := code.get(same(region.label))) is None:
                continue
            x0, y0, x1, y1 = region.bounds
            score = 1.0 if region.score is None else float(region.score)
            rows.append({
                "id": len(rows) + 1, "image_id": number, "category_id": category, "iscrowd": 0, "area": (x1 - x0) * (y1 - y0),
                "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score if math.isfinite(score) else 0.0,
            })  # fmt: skip
    return rows


def _silent(*_: object) -> None:
    """The evaluator's tables are not wanted on the terminal."""
