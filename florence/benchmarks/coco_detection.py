"""COCO detection, 2017 validation: annotations/instances_val2017.json and the images in val2017/.

Average precision over IoU 0.5…0.95 as at cocodataset.org/#detection-eval: crowds are ignored, sizes are those of the
masks (``area`` of the file), at most 100 boxes of one category and image count. Computed by faster-coco-eval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from florence.benchmarks import Benchmark, BenchmarkAnswer, BenchmarkImage, find_file
from florence.errors import DataError
from florence.records import fold_label

FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first six figures of COCO's summary, in its order."""


class CocoDetection(Benchmark):
    """Figures: AP, AP50, AP75, AP by size and class; and AP with all boxes of one score (``ap_unscored``).

    A box's score is the probability of its tokens. A name that is no category of COCO counts for none: its share is
    ``unknown_names``.
    """

    name = "coco-det"
    paper = {
        "ap": {
            "base zero-shot": 34.7,
            "large zero-shot": 37.5,
            "base fine-tuned": 41.4,
            "large fine-tuned": 43.4,
        }
    }

    def __init__(self, root: Path) -> None:
        path = find_file(root, "annotations/instances_val2017.json", self.name)
        try:
            self.truth: dict[str, Any] = json.loads(path.read_bytes())
            rows = sorted(self.truth["images"], key=lambda row: row["id"])
            self.images = [
                BenchmarkImage(str(r["id"]), root / "val2017" / r["file_name"], (("<OD>", ""),), (str(r["id"]),))
                for r in rows
            ]
            self.codes = {fold_label(row["name"]): int(row["id"]) for row in self.truth["categories"]}
            for row in self.truth["annotations"]:
                row["image_id"], row["category_id"], row["area"], row["iscrowd"], row["bbox"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no file of COCO instances: {error!r}; copy it again") from None
        self.files = [path]

    def score(self, images: Sequence[BenchmarkImage], answers: Mapping[str, BenchmarkAnswer]) -> dict[str, float]:
        """See `Benchmark.score`; a figure without any reference box is left out."""
        ids = [int(image.key) for image in images]
        rows, unknown, total = self._list_rows(images, answers)
        figures, precision = self._evaluate(ids, rows)
        result = dict(zip(FIGURES, figures, strict=True))
        result["ap_unscored"] = self._evaluate(ids, [row | {"score": 1.0} for row in rows])[0][0]
        names = {int(row["id"]): row["name"] for row in self.truth["categories"]}
        for index, code in enumerate(sorted(names)):
            found = precision[:, :, index, 0, 2]
            result[f"ap/{names[code]}"] = float(found.mean()) if (found > -1).all() else -1.0
        percent = {key: 100 * value for key, value in result.items() if value > -1 and math.isfinite(value)}
        return percent | {
            "invalid": 100 * sum(answers[image.key].invalid for image in images) / max(len(images), 1),
            "unknown_names": 100 * unknown / max(total, 1),
        }

    def _list_rows(
        self, images: Sequence[BenchmarkImage], answers: Mapping[str, BenchmarkAnswer]
    ) -> tuple[list[dict[str, Any]], int, int]:
        """Return the boxes in COCO's form, how many have a name that is no category, and how many there are."""
        rows: list[dict[str, Any]] = []
        total = 0
        for image in images:
            for region in answers[image.key].regions:
                total += 1
                if (code := self.codes.get(fold_label(region.label))) is None:
                    continue
                x0, y0, x1, y1 = region.bounds
                score = 1.0 if region.score is None else float(region.score)
                box = [x0, y0, x1 - x0, y1 - y0]
                rows.append({"image_id": int(image.key), "category_id": code, "bbox": box, "score": score})
        return rows, total - len(rows), total

    def _evaluate(self, ids: Sequence[int], rows: Sequence[dict[str, Any]]) -> tuple[list[float], np.ndarray]:
        """Return COCO's first six figures and its precision (IoUs, recalls, categories, sizes, limits)."""
        from faster_coco_eval import COCO, COCOeval_faster

        wanted = set(ids)
        truth = {
            "images": [row for row in self.truth["images"] if row["id"] in wanted],
            "categories": self.truth["categories"],
            "annotations": [dict(row) for row in self.truth["annotations"] if row["image_id"] in wanted],
        }
        silent = {"print_function": _silent}
        gold = COCO(truth, **silent)
        found = gold.loadRes([dict(row) for row in rows]) if rows else COCO(truth | {"annotations": []}, **silent)
        evaluation = COCOeval_faster(gold, found, iouType="bbox", **silent)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return [float(value) for value in evaluation.stats[: len(FIGURES)]], evaluation.eval["precision"]


def _silent(*_: object) -> None:
    """Print nothing: the evaluator writes tables to the terminal."""
