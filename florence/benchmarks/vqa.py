"""VQAv2, 2014 validation: the published files of questions and of annotations, and the images in val2014/.

Antol et al., "VQA: Visual Question Answering", 2015; visualqa.org.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from florence.benchmarks import Benchmark, BenchmarkAnswer, BenchmarkImage, find_file
from florence.errors import DataError
from florence.metrics.answer import vqa_accuracy

QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"


class VisualQuestions(Benchmark):
    """Figures: accuracy by leaving one person out, over all questions and by ``answer_type``.

    The paper reports VQAv2 on its test split, whose answers are not published: so no figure of it stands beside ours.
    """

    name = "vqav2"
    paper: Mapping[str, Mapping[str, float]] = {}

    def __init__(self, root: Path) -> None:
        self.files = [find_file(root, name, self.name) for name in (QUESTIONS, ANNOTATIONS)]
        try:
            questions, rows = (json.loads(path.read_bytes()) for path in self.files)
            self.given = {
                str(row["question_id"]): (
                    str(row["answer_type"]),
                    tuple(str(answer["answer"]) for answer in row["answers"]),
                )
                for row in rows["annotations"]
            }
            by_image: dict[int, list[tuple[str, str]]] = {}
            for row in questions["questions"]:
                by_image.setdefault(int(row["image_id"]), []).append((str(row["question_id"]), str(row["question"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.files[0]} and {self.files[1]} are no files of VQAv2: {error!r}") from None
        asked = {key for found in by_image.values() for key, _ in found}
        if asked != self.given.keys():
            odd = min(asked ^ self.given.keys())
            both = f"{self.files[0]} and {self.files[1]}"
            raise DataError(f"{both} do not belong together: question {odd} is in one only")
        self.images = [
            BenchmarkImage(
                str(image),
                root / "val2014" / f"COCO_val2014_{image:012d}.jpg",
                tuple(("<VQA>", text) for _, text in found),
                tuple(key for key, _ in found),
            )
            for image, found in sorted(by_image.items())
        ]

    def score(self, images: Sequence[BenchmarkImage], answers: Mapping[str, BenchmarkAnswer]) -> dict[str, float]:
        """See `Benchmark.score`."""
        values: dict[str, list[float]] = {}
        keys = [key for image in images for key in image.query_keys]
        for key in keys:
            kind, given = self.given[key]
            value = vqa_accuracy(answers[key].text, given)
            values.setdefault("accuracy", []).append(value)
            values.setdefault(f"accuracy/{kind}", []).append(value)
        result = {name: 100 * sum(found) / len(found) for name, found in values.items()}
        return result | {"invalid": 100 * sum(answers[key].invalid for key in keys) / max(len(keys), 1)}
