"""Write captions of pictures and of the objects in them by an image-to-text model of the transformers library.

BLIP, BLIP-2, Florence-2, LLaVA and others are of its class, AutoModelForImageTextToText.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, check_tasks, subset_of
from florence.config import Section
from florence.errors import SettingsError
from florence.hub.fixed_batches import fill_batch, group_by_shape
from florence.hub.models import load_model, load_processor, weights_version
from florence.imaging.crops import crop_box, pillow_image
from florence.records import CAPTIONS, Claim, Region
from florence.scene.objects import SceneObject, merge_objects

REGION_CAPTION = "<DENSE_REGION_CAPTION>"
TASKS = (*CAPTIONS, REGION_CAPTION)
INSTRUCTIONS = {
    "<CAPTION>": "Describe the picture in one short sentence.",
    "<DETAILED_CAPTION>": "Describe the picture in two or three sentences.",
    "<MORE_DETAILED_CAPTION>": "Describe in one paragraph everything that the picture shows.",
    REGION_CAPTION: "Name what is in the middle of the picture in a few words, with its most striking property.",
}
"""Prompts for a model with a chat template, by annotation type."""


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """One text to write. ``image``: index in the batch. ``pixels``: the picture, or a crop of it around ``item``."""

    image: int
    task: str
    pixels: np.ndarray
    item: SceneObject | None = None


@ANNOTATORS.register("hub_captioner")
class HubCaptioner(Annotator):
    """Claims captions, and a brief description of each object that others have boxed.

    A text's score is the geometric mean of the probabilities of its tokens.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS

    class Options(Section):
        """Settings."""

        model: str = Field(
            description="a folder, or a name on the hub: any model of the class AutoModelForImageTextToText"
        )
        revision: str | None = Field(None, description="of a model on the hub: branch, tag or commit")
        tasks: Annotated[tuple[str, ...], subset_of(TASKS)] = Field(
            ("<CAPTION>", REGION_CAPTION), description="annotation types it claims"
        )
        prompts: dict[str, str] = Field(
            {},
            description="prompts by annotation type; by default Florence-2's tasks, "
            "an instruction for models with a chat template, nothing for others",
        )
        max_tokens: int = Field(100, ge=1, description="largest number of tokens in a text")
        beams: int = Field(3, ge=1, description="beams of the search; 1 takes the most likely token each time")
        most: int = Field(8, ge=1, description="largest number of objects described in an image")
        margin: float = Field(0.1, ge=0, le=1, description="share of a box's sides that a crop shows around it")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that a single annotator named")
        rows: int = Field(
            4,
            ge=1,
            description="pictures in a batch of the model, always exactly this many, "
            "so that an answer does not depend on the other images",
        )

        @field_validator("prompts")
        @classmethod
        def _prompts(cls, values: dict[str, str]) -> dict[str, str]:
            check_tasks(tuple(values), TASKS)
            return values

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.needs = frozenset({"pixels", "claims"} if REGION_CAPTION in self.tasks else {"pixels"})
        self._model: CaptionModel | None = None

    def ingredients(self) -> dict[str, str]:
        """Return the version of the weights."""
        return {"weights": weights_version(self.options.model, self.options.revision)}

    def load(self) -> None:
        """Load the model.

        Raises ModelError if that fails, and SettingsError if captions of several types would have the same prompt.
        """
        if self._model is not None:
            return
        model = CaptionModel(self.options, self.device)
        tasks: dict[str, str] = {}
        for task in self.tasks:
            if task != REGION_CAPTION and (other := tasks.setdefault(model.prompt(task), task)) != task:
                raise SettingsError(
                    f"annotators.{self.name}.prompts: {other} and {task} have the same prompt "
                    f"({model.prompt(task)!r}); give each a prompt of its own, or name one of them in tasks"
                )
        self._model = model

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the captions of each picture, then the descriptions of objects, the best object first.

        An empty text is not claimed.
        """
        assert self._model is not None, "load() comes first"
        requests = [request for index in range(len(batch.records)) for request in self._requests(batch, index)]
        result: list[list[Claim]] = [[] for _ in batch.records]
        for request, (text, score) in zip(requests, self._model.write_texts(requests), strict=True):
            if text:
                regions = () if request.item is None else (Region(text, box=request.item.box, score=score),)
                result[request.image].append(Claim(request.task, text, regions, score))
        return result

    def _requests(self, batch: ImageBatch, index: int) -> list[CaptionRequest]:
        pixels = batch.pixels[index]
        requests = [CaptionRequest(index, task, pixels) for task in CAPTIONS if task in self.tasks]
        if REGION_CAPTION in self.tasks:
            o = self.options
            for item in merge_objects(batch.claims[index], o.min_score, o.min_alone)[: o.most]:
                requests.append(CaptionRequest(index, REGION_CAPTION, crop_box(pixels, item.box, o.margin), item))
        return requests


class CaptionModel:
    """An image-to-text model with its processor."""

    def __init__(self, options: HubCaptioner.Options, device: str) -> None:
        self._options = options
        self._processor = load_processor("AutoProcessor", options.model, options.revision)
        self._model = load_model("AutoModelForImageTextToText", options.model, options.revision, device)
        tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self._special = frozenset(tokenizer.all_special_ids)
        ends = self._model.generation_config.eos_token_id
        self._ends = frozenset(
            [tokenizer.eos_token_id, tokenizer.sep_token_id, *(ends if isinstance(ends, list) else [ends])]
        )

    def prompt(self, task: str) -> str:
        """Return the prompt for a text of that annotation type; empty for no prompt at all."""
        if task in self._options.prompts:
            return self._options.prompts[task]
        if self._model.config.model_type == "florence2":
            return "<CAPTION>" if task == REGION_CAPTION else task
        return INSTRUCTIONS[task] if self._has_chat_template else ""

    @property
    def _has_chat_template(self) -> bool:
        return bool(getattr(self._processor, "chat_template", None))

    def write_texts(self, requests: Sequence[CaptionRequest]) -> list[tuple[str, float]]:
        """Return the text and its score for each request."""
        import torch

        inputs = [self._model_input(pillow_image(request.pixels), self.prompt(request.task)) for request in requests]
        found: dict[int, tuple[str, float]] = {}
        with torch.inference_mode():
            for indices in group_by_shape(inputs, self._options.rows):
                batch = fill_batch([inputs[i] for i in indices], self._options.rows, self._model)
                found.update(zip(indices, self._generate(batch), strict=False))
        return [found[i] for i in range(len(requests))]

    def _model_input(self, image: Any, prompt: str) -> dict[str, Any]:
        """Return the model's input for one picture: (1, …) tensors, without padding."""
        if self._has_chat_template:
            turn = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}
            return dict(
                self._processor.apply_chat_template(
                    [turn], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
                )
            )
        text = {"text": [prompt]} if prompt else {}
        return dict(self._processor(images=[image], return_tensors="pt", **text))

    def _generate(self, batch: dict[str, Any]) -> list[tuple[str, float]]:
        """Return the text and score of each row of a batch."""
        o = self._options
        output = self._model.generate(
            **batch,
            max_new_tokens=o.max_tokens,
            num_beams=o.beams,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        beams = getattr(output, "beam_indices", None)
        # Some models repeat the prompt and some do not: what is new has as many tokens as the longest answer had steps.
        steps = len(output.logits) if beams is None else int((beams >= 0).sum(dim=1).max())
        result = []
        for row, tokens in enumerate(output.sequences[:, output.sequences.shape[1] - steps :].tolist()):
            end = next((step for step, token in enumerate(tokens) if token in self._ends), len(tokens))
            log_probabilities = []
            for step, token in enumerate(tokens[:end]):
                if token not in self._special:
                    logits = output.logits[step][row if beams is None else int(beams[row, step])]
                    log_probabilities.append(float(logits.double().log_softmax(dim=-1)[token]))
            text = self._processor.batch_decode([tokens[:end]], skip_special_tokens=True)[0]
            printable = " ".join("".join(c if c.isprintable() else " " for c in text).split())
            score = math.exp(sum(log_probabilities) / len(log_probabilities)) if log_probabilities else 0.0
            result.append((printable, score))
        return result
