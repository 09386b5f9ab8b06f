"""Places of phrases by a model that finds what it is told in words: Grounding DINO, OWLv2 and OWL-ViT of the transformers library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among
from florence.config import Section
from florence.errors import ModelError
from florence.geometry import Box
from florence.hub.models import answer, load_model, load_processor, torch_device, weights_version
from florence.imaging.boxes import distinct
from florence.packaged_models import nouns
from florence.records import CAPTIONS, Annotation, Claim, ClaimsOrError, ImageRecord, Region

CLASS = "AutoModelForZeroShotObjectDetection"
TOKENS, TEXTS = ("grounding-dino", "mm-grounding-dino"), ("owlv2", "owlvit")
"""Types of models: those that score the tokens of one text, and those that score texts."""


@dataclass(frozen=True, slots=True)
class Sought:
    """Where phrases were looked for: boxes (q, 4) in pixels and how well each fits each phrase, (q, phrases), 0…1."""

    boxes: np.ndarray
    scores: np.ndarray


@ANNOTATORS.register("grounder")
class Grounder(Annotator):
    """Claims boxes for the noun phrases of the captions that others have claimed."""

    needs = frozenset({"pixels", "claims"})
    tasks = ("<CAPTION_TO_PHRASE_GROUNDING>",)

    class Options(Section):
        """Settings."""

        model: str = Field(min_length=1, description="folder of a checkpoint, or its name on a hub")
        revision: str | None = Field(
            None, description="commit, tag or branch on the hub; a commit alone always means the same weights"
        )
        box_threshold: float = Field(0.3, ge=0, lt=1, description="score for its best phrase that a box must exceed")
        text_threshold: float = Field(
            0.25, ge=0, lt=1, description="score for a phrase above which such a box is the phrase's"
        )
        nms_iou: float = Field(0.7, gt=0, le=1, description="of a phrase's boxes that overlap more, the best is kept")
        most: int = Field(10, ge=1, description="boxes a phrase at most, the best")
        max_characters: int = Field(2000, ge=1, description="longer captions are left alone")
        captions: Annotated[tuple[str, ...], among(CAPTIONS)] = Field(
            CAPTIONS, min_length=1, description="kinds of captions whose phrases are looked for"
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._network: Any = None

    def ingredients(self) -> dict[str, str]:
        """The weights, and the parser that finds the phrases."""
        return {"model": weights_version(self.options.model, self.options.revision), **nouns.packages()}

    def load(self) -> None:
        """Load parser and model. Raises ModelError where that cannot be done, or the model is none that can be asked for phrases."""
        if self._network is not None:
            return
        self._processor = load_processor("AutoProcessor", self.options.model, self.options.revision)
        network = load_model(CLASS, self.options.model, self.options.revision, self.device, dtype="float32")
        if network.config.model_type not in TOKENS + TEXTS:
            raise ModelError(
                f"{self.options.model} is of type {network.config.model_type}, which is not asked for phrases here; allowed: {', '.join(TOKENS + TEXTS)}"
            )
        nouns.parser()
        self._network = network

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """The phrases of each picture's captions, caption by caption. All phrases of a picture are looked for together, each picture by itself."""
        return [
            answer(record, self._ground, record, pixels, claims)
            for record, pixels, claims in zip(batch.records, batch.pixels, batch.claims, strict=True)
        ]

    def _ground(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        texts = dict.fromkeys(row.text for task in self.options.captions for row in claims if row.task == task)
        chunks = [
            (text, chunk) for text in texts if len(text) <= self.options.max_characters for chunk in nouns.chunks(text)
        ]
        phrases = list(dict.fromkeys(spoken for _, chunk in chunks if (spoken := _spoken(chunk.text))))
        places: dict[str, list[tuple[Box, float]]] = {}
        for asked, sought in self._sought(pixels, phrases) if phrases else ():
            places |= {phrase: self._places(record, sought, index) for index, phrase in enumerate(asked)}
        result = []
        for text, chunk in chunks:
            span = (chunk.start_char, chunk.end_char)
            regions = tuple(
                Region(chunk.text, box=box, score=score, span=span)
                for box, score in places.get(_spoken(chunk.text), ())
            )
            if regions:
                result.append(
                    Claim(
                        "<CAPTION_TO_PHRASE_GROUNDING>",
                        text,
                        regions,
                        sum(region.score or 0.0 for region in regions) / len(regions),
                    )
                )
        return result

    def _places(self, record: ImageRecord, sought: Sought, phrase: int) -> list[tuple[Box, float]]:
        mine = (sought.scores.max(axis=1) > self.options.box_threshold) & (
            sought.scores[:, phrase] > self.options.text_threshold
        )
        return distinct(
            sought.boxes[mine],
            sought.scores[mine, phrase],
            record.width,
            record.height,
            self.options.nms_iou,
            self.options.most,
        )

    def _sought(self, pixels: np.ndarray, phrases: Sequence[str]) -> Iterator[tuple[Sequence[str], Sought]]:
        """The phrases, in as many parts as have to be asked for one after the other, with what was found."""
        from PIL import Image

        image = self._processor.image_processor(images=[Image.fromarray(pixels)], return_tensors="pt")
        size = pixels.shape[:2]
        if self._network.config.model_type in TEXTS:
            longest = self._network.config.text_config.max_position_embeddings
            text = self._processor.tokenizer(
                list(phrases), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
            )
            yield phrases, Sought(*self._asked(image, text, size))
            return
        for part in self._parts(phrases):
            prompt, owners = self._prompt(part)
            boxes, tokens = self._asked(image, prompt, size)
            scores = [tokens[:, np.flatnonzero(owners == index)].max(axis=1, initial=0) for index in range(len(part))]
            yield part, Sought(boxes, np.stack(scores, axis=1))

    def _asked(self, image: Any, text: Any, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (q, 4) in pixels of a picture of ``size`` (height, width), and the score (q, n) of each for each text or token."""
        import torch

        device = torch_device(self.device)
        with torch.inference_mode():
            output = self._network(**{key: value.to(device) for key, value in {**image, **text}.items()})
            if bool(output.logits.isnan().any()):
                raise ModelError(f"{self.options.model} answers with scores that are no numbers")
            # Below any score: boxes are chosen here, phrase by phrase, and not by their best one.
            (found,) = self._processor.image_processor.post_process_object_detection(
                output, threshold=-1.0, target_sizes=[size]
            )
            return found["boxes"].cpu().numpy(), output.logits[0].sigmoid().cpu().numpy()

    def _parts(self, phrases: Sequence[str]) -> Iterator[list[str]]:
        """The phrases in parts that the model can be asked for at once; those that are too long by themselves are left out."""
        room = self._network.config.max_text_len - 2
        part: list[str] = []
        used = 0
        for phrase in phrases:
            length = len(self._processor.tokenizer(phrase + ".", add_special_tokens=False).input_ids)
            if length > room:
                continue
            if used + length > room:
                yield part
                part, used = [], 0
            part.append(phrase)
            used += length
        if part:
            yield part

    def _prompt(self, phrases: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
        """The text in which each phrase ends in a full stop, as tokens, and the phrase (tokens,) that each token is of; -1 for none."""
        text, starts = "", []
        for phrase in phrases:
            starts.append(len(text))
            text += phrase + ". "
        prompt = dict(self._processor.tokenizer(text.rstrip(), return_offsets_mapping=True, return_tensors="pt"))
        owners = np.full(prompt["input_ids"].shape[1], -1)
        for token, (start, end) in enumerate(prompt.pop("offset_mapping")[0].tolist()):
            owner = int(np.searchsorted(starts, start, side="right")) - 1
            if start < end <= starts[owner] + len(phrases[owner]):
                owners[token] = owner
        return prompt, owners


def _spoken(phrase: str) -> str:
    """A phrase as the models are asked for it. To Grounding DINO, full stops and question marks are the ends of phrases."""
    return " ".join(re.sub(r"[.?]", " ", phrase.lower()).split())
