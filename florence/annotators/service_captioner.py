"""Captions, and texts of objects that earlier annotators boxed, by an image-text model behind a chat endpoint."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.geometry import Box
from florence.records import CAPTIONS, Claim, ClaimsOrError, Region
from florence.scene.objects import SceneObject, merge_objects
from florence.services.chat import KEY_VARIABLES, ChatClient, ChatQuestion, ChatSettings, Texts
from florence.services.settings import refuse_secrets

REGION = "<DENSE_REGION_CAPTION>"
TASKS = (*CAPTIONS, REGION)


@ANNOTATORS.register("service_captioner")
class ServiceCaptioner(Annotator):
    """Claim the captions of an image in one call, and a brief text of each boxed object in one call a crop.

    Captions have no score, as the endpoint gives none; the score of a region is that of its object.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS

    class Options(Section):
        """Settings."""

        service: ChatSettings = Field(description="the endpoint, and what it may cost")
        tasks: Annotated[tuple[str, ...], subset_of(TASKS)] = Field(TASKS, min_length=1, description="kinds it claims")
        brief: str = Field(
            "A caption of the image: one phrase of about eight words that names what matters most.",
            min_length=1,
            description="what is asked for as <CAPTION>",
        )
        detailed: str = Field(
            "A description in two or three sentences, about thirty words: the objects, their colors, where they are "
            "and what they do.",
            min_length=1,
            description="what is asked for as <DETAILED_CAPTION>",
        )
        more_detailed: str = Field(
            "A paragraph of about seventy words: every object with its color, size and place, what happens, "
            "the surroundings, and words that can be read.",
            min_length=1,
            description="what is asked for as <MORE_DETAILED_CAPTION>",
        )
        rules: str = Field(
            "Look at the image and write, in plain English and without any comment of your own, "
            "only what can be seen in it.",
            description="what stands before each question",
        )
        region: str = Field(
            "The image is a part of a larger one, cut out around one object. "
            "Answer with one noun phrase of two to six words that describes the object, and nothing else.",
            min_length=1,
            description="what is asked about a crop",
        )
        margin: float = Field(0.1, ge=0, le=1, description="share of a box's sides that a crop shows around it")
        most: int = Field(6, ge=1, description="objects of an image that are asked about at most")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of such an object")
        min_alone: float = Field(0.6, ge=0, le=1, description="the same where one annotator alone named it")

    def __init__(self, *, name: str, **options: Any) -> None:
        refuse_secrets(options, f"annotators.{name}", " or ".join(KEY_VARIABLES.values()))
        super().__init__(name=name, **options)
        self._chat = ChatClient(self, self.options.service, f"annotators.{name}.service")

    def load(self) -> None:
        """Make the endpoint's client. Raises SettingsError where package, key or address is missing."""
        self._chat.load()

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the captions of each image, then the texts of its objects.

        Raises SettingsError where the endpoint refuses key, model or request.
        """
        found = [
            merge_objects(claims, self.options.min_score, self.options.min_alone)[: self.options.most]
            if REGION in self.tasks
            else ()
            for claims in batch.claims
        ]
        return self._chat.annotate(
            len(batch.records),
            lambda i: self._questions(batch.pixels[i], found[i]),
            lambda i, texts: self._claims(found[i], texts),
        )

    def _questions(self, pixels: np.ndarray, found: tuple[SceneObject, ...]) -> list[ChatQuestion]:
        wishes = {
            task: (self.options.brief, self.options.detailed, self.options.more_detailed)[index]
            for index, task in enumerate(CAPTIONS)
            if task in self.tasks
        }
        names = {task: _key(task) for task in wishes}
        listed = "\n".join(f'- "{names[task]}": {text}' for task, text in wishes.items())
        prompt = f"{self.options.rules}\n\nAnswer with a JSON object with these texts, and nothing else:\n{listed}"
        whole = [ChatQuestion(prompt, tuple(names.values()), pixels)] if wishes else []
        return whole + [
            ChatQuestion(self.options.region, (), _crop(pixels, one.box, self.options.margin)) for one in found
        ]

    def _claims(self, found: tuple[SceneObject, ...], texts: list[Texts]) -> list[Claim]:
        captions = [Claim(task, texts[0][_key(task)]) for task in CAPTIONS if task in self.tasks]
        regions = [one[""].rstrip(".") for one in texts[len(texts) - len(found) :]]
        return captions + [
            Claim(REGION, text, (Region(text, box=one.box, score=one.score),), one.score)
            for text, one in zip(regions, found, strict=True)
        ]


def _key(task: str) -> str:
    """Return the name of a caption in an answer: detailed_caption for <DETAILED_CAPTION>."""
    return task.strip("<>").lower()


def _crop(pixels: np.ndarray, box: Box, margin: float) -> np.ndarray:
    """Return the part of a picture (H, W, 3) around a box, with ``margin`` of its sides added; at least one pixel."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    left, top = min(max(int(x0 - dx), 0), width - 1), min(max(int(y0 - dy), 0), height - 1)
    right, bottom = max(min(int(np.ceil(x1 + dx)), width), left + 1), max(min(int(np.ceil(y1 + dy)), height), top + 1)
    return pixels[top:bottom, left:right]
