"""The model as one more annotator: what it predicts enters the next round's consensus as claims of annotator `student`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from florence.annotators import ImageBatch
from florence.codec.grammar import box_tokens
from florence.config import Settings
from florence.geometry import box_iou
from florence.metrics import same
from florence.model.checkpoint import load, weights_hash
from florence.model.confidence import Calibration, beside
from florence.model.generate import Ask, predict
from florence.records import CAPTIONS, Claim, Region, digest
from florence.tasks import Answer

TWICE = 0.7
"""Overlap from which two regions of one label in one answer are the same one, told twice."""
DOUBT = 0.5
"""What is left of a name's score where the first look gave another."""
OBJECTS, CATEGORY, GROUNDING = "<OD>", "<REGION_TO_CATEGORY>", "<CAPTION_TO_PHRASE_GROUNDING>"


class Student:
    """A checkpoint folder as an annotator, with the interface of an annotator.

    It is asked the tasks in `engine.student.tasks`. Scores are confidences where a calibration lies beside the weights, and probabilities of tokens elsewhere; answers that
    are no legal text of their task are not claimed, nor are regions whose score is below `engine.student.min_score`. With `engine.student.second_look` it is asked about each object's box again
    (<REGION_TO_CATEGORY>), and that name is claimed: in <OD> a name is told before its place, so it is less sure there.
    """

    needs = frozenset({"pixels"})
    revision = 3

    def __init__(self, folder: str, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self._checkpoint: Any = None
        self._calibrations: dict[str, Calibration] = {}

    @property
    def version(self) -> str:
        """Follows from the weights, their calibration, and from what is asked of them. Raises ModelError where the folder holds none."""
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
            self._calibrations = beside(Path(self.folder))
            self._checkpoint = load(self.folder, image_size=self.settings.model.image_size)

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """What the model says of each image."""
        import torch

        torch.set_num_threads(self.settings.train.threads)
        self.load()
        student = self.settings.engine.student
        asked = [task for task in student.tasks if task != GROUNDING]
        asks = [Ask(image, task) for image in range(len(batch.pixels)) for task in asked]
        claims: list[list[Claim]] = [[] for _ in batch.pixels]
        answers = self._ask(batch, asks)
        if student.second_look:
            answers = self._looked_again(batch, asks, answers)
        for ask, answer in zip(asks, answers, strict=True):
            claims[ask.image] += _claims(ask.task, answer, student.min_score)
        if GROUNDING in student.tasks:
            about = [
                Ask(image, GROUNDING, claim.text)
                for image, said in enumerate(claims)
                for claim in said
                if claim.task == "<CAPTION>"
            ]
            for ask, answer in zip(about, self._ask(batch, about), strict=True):
                claims[ask.image] += _phrases(ask.input, answer, student.min_score)
        return claims

    def _looked_again(self, batch: ImageBatch, asks: list[Ask], answers: list[Answer]) -> list[Answer]:
        """The answers with the objects of <OD> named anew."""
        rows = [
            row
            for row, (ask, answer) in enumerate(zip(asks, answers, strict=True))
            if ask.task == OBJECTS and answer.error is None
        ]
        about = []
        for row in rows:
            height, width = batch.pixels[asks[row].image].shape[:2]
            about += [
                Ask(asks[row].image, CATEGORY, box_tokens(region.bounds, (width, height)))
                for region in answers[row].regions
            ]
        names = iter(self._ask(batch, about))
        result = list(answers)
        for row in rows:
            result[row] = replace(
                answers[row], regions=tuple(renamed(region, next(names)) for region in answers[row].regions)
            )
        return result

    def _ask(self, batch: ImageBatch, asks: list[Ask]) -> list[Answer]:
        answers = predict(
            self._checkpoint,
            batch.pixels,
            asks,
            max_tokens=self.settings.train.max_target,
            batch=self.settings.engine.student.batch_size,
        )
        return [sure(answer, self._calibrations.get(ask.task)) for ask, answer in zip(asks, answers, strict=True)]


def _claims(task: str, answer: Answer, least: float) -> list[Claim]:
    if answer.error is not None:
        return []
    if task in CAPTIONS:
        return [Claim(task, answer.text.strip(), (), answer.score)] if answer.text.strip() else []
    return [
        Claim(task, region.label, (region,), region.score)
        for region in _once(answer.regions)
        if (region.score or 0.0) >= least
    ]


def sure(answer: Answer, calibration: Calibration | None) -> Answer:
    """An answer with confidences for scores, where they are known."""
    if calibration is None:
        return answer
    confidence = [
        score if score is None else calibration.confidence(score)
        for score in (answer.score, *(region.score for region in answer.regions))
    ]
    regions = tuple(replace(region, score=score) for region, score in zip(answer.regions, confidence[1:], strict=True))
    return replace(answer, score=confidence[0], regions=regions)


def renamed(region: Region, name: Answer) -> Region:
    """A region under the name of the second look, where there is one.

    Its score is how likely one of two looks that agree is right, 1 − (1 − p)(1 − q); where they disagree, `DOUBT` times that of the second.
    """
    label = name.text.strip()
    if not label or name.error is not None or name.score is None:
        return region
    agree = same(label) == same(region.label)
    return replace(
        region, label=label, score=1 - (1 - (region.score or 0.0)) * (1 - name.score) if agree else name.score * DOUBT
    )


def _phrases(caption: str, answer: Answer, least: float) -> list[Claim]:
    """One claim a phrase; phrases that do not stand in the caption are not claimed."""
    spoken: dict[tuple[int, int], list[Region]] = {}
    for region in _once(answer.regions):
        if region.span is not None and (region.score or 0.0) >= least and answer.error is None:
            spoken.setdefault(region.span, []).append(region)
    return [
        Claim(GROUNDING, caption, tuple(regions), float(np.mean([r.score for r in regions])))
        for _, regions in sorted(spoken.items())
    ]


def _once(regions: tuple[Region, ...]) -> list[Region]:
    """Regions without those that repeat a likelier one of the same label and place; in the order of the answer."""
    ranked = sorted(range(len(regions)), key=lambda i: -(regions[i].score or 0.0))
    kept: list[int] = []
    for index in ranked:
        same = [j for j in kept if regions[j].label == regions[index].label]
        if (
            not same
            or box_iou(np.asarray([regions[index].bounds]), np.asarray([regions[j].bounds for j in same])).max() < TWICE
        ):
            kept.append(index)
    return [regions[index] for index in sorted(kept)]
