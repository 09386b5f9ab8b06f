"""Write captions by templates from what other annotators found.

They say which objects there are, how many, where, how big, of what color, and the text in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region
from florence.scene.description import describe_scene

TASKS = (*CAPTIONS, "<DENSE_REGION_CAPTION>")


@ANNOTATORS.register("captioner")
class Captioner(Annotator):
    """Claims captions at three granularities and a description of each object.

    If no object was found, a caption says what the whole picture is called, if somebody is sure of that, and what the
    pixels show: colors, and the text in the picture. A caption's score is the mean of the scores of what it names, or
    the share of the picture that has the named colors.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS
    revision = 2

    class Options(Section):
        """Settings."""

        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object that is named")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that a single annotator named")
        min_reading: float = Field(0.9, ge=0, le=1, description="least score of a text that is quoted")
        most: int = Field(8, ge=1, description="largest number of objects that are named")
        tasks: Annotated[tuple[str, ...], subset_of(TASKS)] = Field(TASKS, description="annotation types it claims")

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the captions of each picture, then its descriptions of objects."""
        images = zip(batch.records, batch.pixels, batch.claims, strict=True)
        return [[claim for claim in self._describe(*image) if claim.task in self.options.tasks] for image in images]

    def _describe(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        o = self.options
        scene = describe_scene(record, pixels, claims, o.min_score, o.min_alone, o.min_reading, o.most)
        texts = (scene.brief_caption(), scene.detailed_caption(), scene.more_detailed_caption())
        result = [Claim(task, text, (), scene.score) for task, text in zip(CAPTIONS, texts, strict=True)]
        for item in scene.objects:
            text = scene.full_phrase(item)
            region = Region(text, box=item.box, score=item.score)
            result.append(Claim("<DENSE_REGION_CAPTION>", text, (region,), item.score))
        return result
