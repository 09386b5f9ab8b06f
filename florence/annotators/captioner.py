"""Captions made of what others found: which objects, how many, where, how big, of what colour, and what is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among
from florence.config import Section
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region
from florence.scene.description import picture

TASKS = (*CAPTIONS, "<DENSE_REGION_CAPTION>")


@ANNOTATORS.register("captioner")
class Captioner(Annotator):
    """Claims captions at three granularities and a description of each object.

    Where no object was found it says what the pixels show: colours and what is written. A caption's score is the mean of
    the scores of what it names, or the share of the picture that has the named colours.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS

    class Options(Section):
        """Settings."""

        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object that is named")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that one annotator alone named")
        min_reading: float = Field(0.9, ge=0, le=1, description="least score of a text that is quoted")
        most: int = Field(8, ge=1, description="objects named at most")
        tasks: Annotated[tuple[str, ...], among(TASKS)] = Field(TASKS, description="kinds it claims")

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """The captions of each picture, then its descriptions."""
        images = zip(batch.records, batch.pixels, batch.claims, strict=True)
        return [[claim for claim in self._tell(*image) if claim.task in self.options.tasks] for image in images]

    def _tell(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        whole = picture(
            record,
            pixels,
            claims,
            self.options.min_score,
            self.options.min_alone,
            self.options.min_reading,
            self.options.most,
        )
        told = [
            Claim(task, text, (), whole.score)
            for task, text in zip(CAPTIONS, (whole.brief(), whole.detailed(), whole.paragraph()), strict=True)
        ]
        for seen in whole.found:
            text = whole.description(seen)
            told.append(
                Claim("<DENSE_REGION_CAPTION>", text, (Region(text, box=seen.box, score=seen.score),), seen.score)
            )
        return told
