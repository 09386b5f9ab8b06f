"""Captions of pictures and of the objects in them, by a model that writes (BLIP, BLIP-2, Florence-2, LLaVA and others of transformers' image-text-to-text class)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among, checked_tasks
from florence.config import Section
from florence.errors import SettingsError
from florence.hub.fixed_batches import in_rows, stacked
from florence.hub.models import load_model, load_processor, weights_version
from florence.imaging.crops import crop, picture
from florence.records import CAPTIONS, Claim, Region
from florence.scene.objects import Seen, objects

CROPS = "<DENSE_REGION_CAPTION>"
TASKS = (*CAPTIONS, CROPS)
INSTRUCTIONS = {
    "<CAPTION>": "Describe the picture in one short sentence.",
    "<DETAILED_CAPTION>": "Describe the picture in two or three sentences.",
    "<MORE_DETAILED_CAPTION>": "Describe in one paragraph everything that the picture shows.",
    CROPS: "Name what is in the middle of the picture in a few words, with its most striking property.",
}
"""What a model with a chat template is asked."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One text to write. ``image``: index in the batch; ``pixels``: the picture or a crop of it; ``seen``: the object of the crop."""

    image: int
    task: str
    pixels: np.ndarray
    seen: Seen | None = None


@ANNOTATORS.register("hub_captioner")
class HubCaptioner(Annotator):
    """Claims captions, and a brief description of each object that others have boxed. A text's score is the mean (geometric) probability of its tokens."""

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS

    class Options(Section):
        """Settings."""

        model: str = Field(
            description="a folder, or a name on the hub: any model of the class AutoModelForImageTextToText"
        )
        revision: str | None = Field(None, description="of a model on the hub: branch, tag or commit")
        tasks: Annotated[tuple[str, ...], among(TASKS)] = Field(("<CAPTION>", CROPS), description="kinds it claims")
        prompts: dict[str, str] = Field(
            {},
            description="what it is asked, by kind; else Florence-2's tasks, an instruction for models with a chat template, nothing for others",
        )
        max_tokens: int = Field(100, ge=1, description="tokens of a text at most")
        beams: int = Field(3, ge=1, description="beams of the search; 1 takes the likeliest token each time")
        most: int = Field(8, ge=1, description="objects an image at most")
        margin: float = Field(0.1, ge=0, le=1, description="share of a box's sides that is seen around it")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that one annotator alone named")
        rows: int = Field(
            4,
            ge=1,
            description="pictures that the model is given at once: always exactly so many, so that answers do not depend on what else is asked",
        )

        @field_validator("prompts")
        @classmethod
        def _prompts(cls, values: dict[str, str]) -> dict[str, str]:
            checked_tasks(tuple(values), TASKS)
            return values

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.needs = frozenset({"pixels", "claims"} if CROPS in self.tasks else {"pixels"})
        self._writer: Writer | None = None

    def ingredients(self) -> dict[str, str]:
        """The weights."""
        return {"weights": weights_version(self.options.model, self.options.revision)}

    def load(self) -> None:
        """Load the model. Raises ModelError where it cannot be had, SettingsError where captions of several kinds would be asked for in the same words."""
        if self._writer is not None:
            return
        writer = Writer(self.options, self.device)
        kinds: dict[str, str] = {}
        for task in self.tasks:
            if task != CROPS and (other := kinds.setdefault(writer.prompt(task), task)) != task:
                raise SettingsError(
                    f"annotators.{self.name}.prompts: {other} and {task} would be asked for in the same words ({writer.prompt(task)!r}); "
                    f"give each a prompt of its own, or name one of them in tasks"
                )
        self._writer = writer

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """The captions of each picture, then the descriptions, of the surest object first. A text that comes out empty is not claimed."""
        assert self._writer is not None, "load() comes first"
        asked = [one for index in range(len(batch.records)) for one in self._asked(batch, index)]
        result: list[list[Claim]] = [[] for _ in batch.records]
        for one, (text, score) in zip(asked, self._writer.written(asked), strict=True):
            if text:
                regions = () if one.seen is None else (Region(text, box=one.seen.box, score=score),)
                result[one.image].append(Claim(one.task, text, regions, score))
        return result

    def _asked(self, batch: ImageBatch, index: int) -> list[Asked]:
        pixels = batch.pixels[index]
        asked = [Asked(index, task, pixels) for task in CAPTIONS if task in self.tasks]
        if CROPS in self.tasks:
            found = objects(batch.claims[index], self.options.min_score, self.options.min_alone)[: self.options.most]
            asked += [Asked(index, CROPS, crop(pixels, seen.box, self.options.margin), seen) for seen in found]
        return asked


class Writer:
    """The model with its processor."""

    def __init__(self, options: HubCaptioner.Options, device: str) -> None:
        self._options = options
        self._processor = load_processor("AutoProcessor", options.model, options.revision)
        self._model = load_model("AutoModelForImageTextToText", options.model, options.revision, device)
        words = getattr(self._processor, "tokenizer", self._processor)
        self._special = frozenset(words.all_special_ids)
        ends = self._model.generation_config.eos_token_id
        self._ends = frozenset([words.eos_token_id, words.sep_token_id, *(ends if isinstance(ends, list) else [ends])])

    def prompt(self, task: str) -> str:
        """What is asked for a text of that kind; empty for nothing at all."""
        if task in self._options.prompts:
            return self._options.prompts[task]
        if self._model.config.model_type == "florence2":
            return "<CAPTION>" if task == CROPS else task
        return INSTRUCTIONS[task] if self._chats else ""

    @property
    def _chats(self) -> bool:
        return bool(getattr(self._processor, "chat_template", None))

    def written(self, asked: Sequence[Asked]) -> list[tuple[str, float]]:
        """The text and its score of each."""
        import torch

        inputs = [self._given(picture(one.pixels), self.prompt(one.task)) for one in asked]
        found: dict[int, tuple[str, float]] = {}
        with torch.inference_mode():
            for indices in in_rows(inputs, self._options.rows):
                batch = stacked([inputs[i] for i in indices], self._options.rows, self._model)
                found.update(zip(indices, self._texts(batch), strict=False))
        return [found[i] for i in range(len(asked))]

    def _given(self, image: Any, prompt: str) -> dict[str, Any]:
        """What the model takes of one picture. One at a time: what is as long as another is put beside it later, and nothing has to be padded."""
        if self._chats:
            turn = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}
            return dict(
                self._processor.apply_chat_template(
                    [turn], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
                )
            )
        text = {"text": [prompt]} if prompt else {}
        return dict(self._processor(images=[image], return_tensors="pt", **text))

    def _texts(self, batch: dict[str, Any]) -> list[tuple[str, float]]:
        o = self._options
        made = self._model.generate(
            **batch,
            max_new_tokens=o.max_tokens,
            num_beams=o.beams,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        beams = getattr(made, "beam_indices", None)
        # Some models give the prompt back and some do not: what is new has as many tokens as the longest answer had steps.
        steps = len(made.logits) if beams is None else int((beams >= 0).sum(dim=1).max())
        result = []
        for row, tokens in enumerate(made.sequences[:, made.sequences.shape[1] - steps :].tolist()):
            end = next((step for step, token in enumerate(tokens) if token in self._ends), len(tokens))
            chances = []
            for step, token in enumerate(tokens[:end]):
                if token not in self._special:
                    logits = made.logits[step][row if beams is None else int(beams[row, step])]
                    chances.append(float(logits.double().log_softmax(dim=-1)[token]))
            text = self._processor.batch_decode([tokens[:end]], skip_special_tokens=True)[0]
            printable = " ".join("".join(c if c.isprintable() else " " for c in text).split())
            result.append((printable, math.exp(sum(chances) / len(chances)) if chances else 0.0))
        return result
