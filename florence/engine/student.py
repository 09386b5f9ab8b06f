"""The model of the round before as one more annotator: its predictions are claims of the annotator `student`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from florence.annotators import ImageBatch
from florence.config import Settings
from florence.engine.second_look import OBJECTS, calibrate_score, list_second_queries, rename_region
from florence.geometry import box_iou
from florence.model.checkpoint import load, weights_hash
from florence.model.confidence import Calibration, ModelCalibrations, read_calibrations
from florence.model.generate import Query, predict
from florence.records import CAPTIONS, Claim, Region, digest
from florence.tasks import Answer

DUPLICATE_IOU = 0.7
"""IoU from which two regions of one label in one answer are duplicates."""
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"


class StudentAnnotator:
    """A checkpoint folder, with the interface of `florence.annotators.Annotator`.

    It is asked the tasks in `engine.student.tasks`. Scores are confidences where a calibration lies beside the weights,
    by the source of the image, else probabilities of tokens. Answers that are no legal text of their task are not
    claimed, nor regions whose score is below `engine.student.min_score`. With `engine.student.second_look` the model is
    asked about the box of each object again (<REGION_TO_CATEGORY>), and that name is claimed: see
    `florence.engine.second_look`.
    """

    needs = frozenset({"pixels"})
    revision = 4

    def __init__(self, folder: str, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self._checkpoint: Any = None
        self._calibrations = ModelCalibrations()

    @property
    def version(self) -> str:
        """A hash of the weights, their calibration and the settings. Raises ModelError where there are no weights."""
        student = self.settings.engine.student
        return digest(
            [
                self.revision,
                weights_hash(self.folder),
                sorted(student.tasks),
                student.min_score,
                student.second_look,
                self.settings.model.image_size,
            ],
            length=12,
        )

    def load(self) -> None:
        """Load the model, once."""
        if self._checkpoint is None:
            self._calibrations = read_calibrations(Path(self.folder))
            self._checkpoint = load(self.folder, image_size=self.settings.model.image_size)

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the claims about each image."""
        import torch

        torch.set_num_threads(self.settings.train.threads)
        self.load()
        student = self.settings.engine.student
        tasks = [task for task in student.tasks if task != GROUNDING]
        queries = [Query(image, task) for image in range(len(batch.pixels)) for task in tasks]
        claims: list[list[Claim]] = [[] for _ in batch.pixels]
        found = self._answer(batch, queries)
        answers = [self._calibrate(batch, query, answer) for query, answer in zip(queries, found, strict=True)]
        if student.second_look:
            twice = self._look_twice(batch, queries, found)
            answers = [
                both if query.task == OBJECTS and both.error is None else answer
                for query, answer, both in zip(queries, answers, twice, strict=True)
            ]
        for query, answer in zip(queries, answers, strict=True):
            claims[query.image] += _make_claims(query.task, answer, student.min_score)
        if GROUNDING in student.tasks:
            queries = [
                Query(image, GROUNDING, claim.text)
                for image, image_claims in enumerate(claims)
                for claim in image_claims
                if claim.task == "<CAPTION>"
            ]
            for query, answer in zip(queries, self._answer(batch, queries), strict=True):
                phrases = self._calibrate(batch, query, answer)
                claims[query.image] += _make_phrase_claims(query.input, phrases, student.min_score)
        return claims

    def _look_twice(self, batch: ImageBatch, queries: list[Query], answers: list[Answer]) -> list[Answer]:
        """Return the answers, with the objects of <OD> under the name that a second look at each box gives.

        Their scores are confidences of both looks, those of the other answers are as they were.
        """
        rows = [
            row
            for row, (query, answer) in enumerate(zip(queries, answers, strict=True))
            if query.task == OBJECTS and answer.error is None
        ]
        second: list[Query] = []
        for row in rows:
            height, width = batch.pixels[queries[row].image].shape[:2]
            second += list_second_queries(queries[row].image, answers[row].regions, (width, height))
        names = iter(self._answer(batch, second))
        result = list(answers)
        for row in rows:
            source = batch.records[queries[row].image].source
            regions = tuple(
                rename_region(region, next(names), self._calibrations, source) for region in answers[row].regions
            )
            result[row] = replace(answers[row], regions=regions)
        return result

    def _calibrate(self, batch: ImageBatch, query: Query, answer: Answer) -> Answer:
        return calibrate_answer(answer, self._calibrations.get(query.task), batch.records[query.image].source)

    def _answer(self, batch: ImageBatch, queries: list[Query]) -> list[Answer]:
        """Return answers with the model's own scores."""
        return predict(
            self._checkpoint,
            batch.pixels,
            queries,
            batch_size=self.settings.engine.student.batch_size,
        )


def _make_claims(task: str, answer: Answer, min_score: float) -> list[Claim]:
    if answer.error is not None:
        return []
    if task in CAPTIONS:
        return [Claim(task, answer.text.strip(), (), answer.score)] if answer.text.strip() else []
    return [
        Claim(task, region.label, (region,), region.score)
        for region in _drop_duplicates(answer.regions)
        if (region.score or 0.0) >= min_score
    ]


def calibrate_answer(answer: Answer, calibration: Calibration | None, source: str = "") -> Answer:
    """Return the answer with confidences in place of scores, where there is a calibration.

    ``source``: of the image, empty where it is not known.
    """
    if calibration is None:
        return answer
    confidence = [
        calibrate_score(score, calibration, source)
        for score in (answer.score, *(region.score for region in answer.regions))
    ]
    regions = tuple(replace(region, score=score) for region, score in zip(answer.regions, confidence[1:], strict=True))
    return replace(answer, score=confidence[0], regions=regions)


def _make_phrase_claims(caption: str, answer: Answer, min_score: float) -> list[Claim]:
    """Return one claim for each phrase; phrases that are not in the caption are not claimed."""
    by_span: dict[tuple[int, int], list[Region]] = {}
    for region in _drop_duplicates(answer.regions):
        if region.span is not None and (region.score or 0.0) >= min_score and answer.error is None:
            by_span.setdefault(region.span, []).append(region)
    return [
        Claim(GROUNDING, caption, tuple(regions), float(np.mean([r.score for r in regions])))
        for _, regions in sorted(by_span.items())
    ]


def _drop_duplicates(regions: tuple[Region, ...]) -> list[Region]:
    """Return the regions without those that overlap one of the same label and a higher score, in their order."""
    ranked = sorted(range(len(regions)), key=lambda i: -(regions[i].score or 0.0))
    kept: list[int] = []
    for index in ranked:
        rivals = [regions[j].bounds for j in kept if regions[j].label == regions[index].label]
        box = np.asarray([regions[index].bounds])
        if not rivals or box_iou(box, np.asarray(rivals)).max() < DUPLICATE_IOU:
            kept.append(index)
    return [regions[index] for index in sorted(kept)]
