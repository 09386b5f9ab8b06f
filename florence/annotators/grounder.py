"""Find the boxes of phrases by a text-prompted detector of the transformers library: Grounding DINO, OWLv2, OWL-ViT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.errors import ModelError
from florence.geometry import Box
from florence.hub.models import answer_or_error, load_model, load_processor, torch_device, weights_version
from florence.imaging.boxes import suppress_overlaps
from florence.packaged_models import nouns
from florence.records import CAPTIONS, Annotation, Claim, ClaimsOrError, ImageRecord, Region

CLASS = "AutoModelForZeroShotObjectDetection"
TOKEN_SCORING, TEXT_SCORING = ("grounding-dino", "mm-grounding-dino"), ("owlv2", "owlvit")
"""Types of models: the first score the tokens of one text, the second score whole texts."""


@dataclass(frozen=True, slots=True)
class PhraseScores:
    """``boxes``: (q, 4), pixels. ``scores``: (q, phrases), 0…1, how well each box fits each phrase."""

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
        box_threshold: float = Field(
            0.3, ge=0, lt=1, description="score that a box must exceed for the phrase that fits it best"
        )
        text_threshold: float = Field(0.25, ge=0, lt=1, description="score that such a box must exceed for a phrase")
        nms_iou: float = Field(0.7, gt=0, le=1, description="of a phrase's boxes that overlap more, the best is kept")
        most: int = Field(10, ge=1, description="largest number of boxes for a phrase; the best are kept")
        max_characters: int = Field(2000, ge=1, description="longer captions are skipped")
        captions: Annotated[tuple[str, ...], subset_of(CAPTIONS)] = Field(
            CAPTIONS, min_length=1, description="types of captions whose phrases are grounded"
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._network: Any = None

    def ingredients(self) -> dict[str, str]:
        """Return the versions of the weights, and of the parser that finds the phrases."""
        return {"model": weights_version(self.options.model, self.options.revision), **nouns.versions()}

    def load(self) -> None:
        """Load parser and model. Raises ModelError if that fails, or if the model takes no phrases."""
        if self._network is not None:
            return
        self._processor = load_processor("AutoProcessor", self.options.model, self.options.revision)
        network = load_model(CLASS, self.options.model, self.options.revision, self.device, dtype="float32")
        if network.config.model_type not in TOKEN_SCORING + TEXT_SCORING:
            raise ModelError(
                f"{self.options.model} is of type {network.config.model_type}, which this annotator cannot prompt; "
                f"allowed: {', '.join(TOKEN_SCORING + TEXT_SCORING)}"
            )
        nouns.load_parser()
        self._network = network

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the phrases of each picture's captions, caption by caption.

        All phrases of a picture are searched together, each picture by itself.
        """
        return [
            answer_or_error(record, self._ground, record, pixels, claims)
            for record, pixels, claims in zip(batch.records, batch.pixels, batch.claims, strict=True)
        ]

    def _ground(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        texts = dict.fromkeys(row.text for task in self.options.captions for row in claims if row.task == task)
        chunks = [
            (text, chunk)
            for text in texts
            if len(text) <= self.options.max_characters
            for chunk in nouns.noun_chunks(text)
        ]
        prompts = list(dict.fromkeys(prompt for _, chunk in chunks if (prompt := _prompt_phrase(chunk.text))))
        boxes: dict[str, list[tuple[Box, float]]] = {}
        for part, scores in self._score_phrases(pixels, prompts) if prompts else ():
            boxes |= {prompt: self._phrase_boxes(record, scores, index) for index, prompt in enumerate(part)}
        result = []
        for text, chunk in chunks:
            span = (chunk.start_char, chunk.end_char)
            regions = tuple(
                Region(chunk.text, box=box, score=score, span=span)
                for box, score in boxes.get(_prompt_phrase(chunk.text), ())
            )
            if regions:
                score = sum(region.score or 0.0 for region in regions) / len(regions)
                result.append(Claim("<CAPTION_TO_PHRASE_GROUNDING>", text, regions, score))
        return result

    def _phrase_boxes(self, record: ImageRecord, scores: PhraseScores, phrase: int) -> list[tuple[Box, float]]:
        """Return the boxes and scores of one phrase, the best first."""
        chosen = (scores.scores.max(axis=1) > self.options.box_threshold) & (
            scores.scores[:, phrase] > self.options.text_threshold
        )
        return suppress_overlaps(
            scores.boxes[chosen],
            scores.scores[chosen, phrase],
            record.width,
            record.height,
            self.options.nms_iou,
            self.options.most,
        )

    def _score_phrases(
        self, pixels: np.ndarray, phrases: Sequence[str]
    ) -> Iterator[tuple[Sequence[str], PhraseScores]]:
        """Yield the phrases, in as many parts as the model's text length requires, with the scores of each part."""
        image = self._processor.image_processor(images=[Image.fromarray(pixels)], return_tensors="pt")
        size = pixels.shape[:2]
        if self._network.config.model_type in TEXT_SCORING:
            longest = self._network.config.text_config.max_position_embeddings
            text = self._processor.tokenizer(
                list(phrases), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
            )
            yield phrases, PhraseScores(*self._run_network(image, text, size))
            return
        for part in self._split_phrases(phrases):
            prompt, owners = self._join_phrases(part)
            boxes, tokens = self._run_network(image, prompt, size)
            scores = [tokens[:, np.flatnonzero(owners == index)].max(axis=1, initial=0) for index in range(len(part))]
            yield part, PhraseScores(boxes, np.stack(scores, axis=1))

    def _run_network(self, image: Any, text: Any, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes (q, 4) in pixels and the score (q, n) of each for each text or token.

        ``size``: (height, width) of the picture.
        """
        import torch

        device = torch_device(self.device)
        with torch.inference_mode():
            output = self._network(**{key: value.to(device) for key, value in {**image, **text}.items()})
            if bool(output.logits.isnan().any()):
                raise ModelError(f"{self.options.model} answers with scores that are not numbers")
            # The threshold is below any score: boxes are chosen later, for each phrase, and not by their best one.
            (found,) = self._processor.image_processor.post_process_object_detection(
                output, threshold=-1.0, target_sizes=[size]
            )
            return found["boxes"].cpu().numpy(), output.logits[0].sigmoid().cpu().numpy()

    def _split_phrases(self, phrases: Sequence[str]) -> Iterator[list[str]]:
        """Yield the phrases in parts that fit into one prompt; a phrase that is too long by itself is left out."""
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

    def _join_phrases(self, phrases: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
        """Return the prompt in which each phrase ends in a full stop, as tokens, and the phrase of each token.

        The latter is (tokens,), indices of phrases; -1 for a token that belongs to none.
        """
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


def _prompt_phrase(phrase: str) -> str:
    """Return a phrase for the prompt, without the full stops and question marks that end phrases of Grounding DINO."""
    return " ".join(re.sub(r"[.?]", " ", phrase.lower()).split())
