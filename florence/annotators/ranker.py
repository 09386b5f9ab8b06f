"""Score how well texts fit pictures and regions, by a model with one embedding space for both (CLIP, SigLIP).

In the Florence-2 paper (arXiv 2311.06242), Florence-1 has this part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.errors import ModelError
from florence.hub.fixed_batches import fill_batch, group_by_shape
from florence.hub.models import load_model, load_processor, weights_version
from florence.imaging.crops import crop_box, pillow_image
from florence.packaged_models import nouns
from florence.records import Claim
from florence.scene.candidates import TASKS, ranking_candidates, ranking_claims

CLIPSCORE = 2.5
"""Factor of CLIPScore (arXiv 2104.08718) for cosines of CLIP: those of fitting captions are near 0.3."""


@ANNOTATORS.register("ranker")
class Ranker(Annotator):
    """Claims every caption that others gave, and every candidate text of each region, with a score of its own.

    With a sigmoid model (SigLIP), a score is the probability that picture and text belong together. With others, a
    caption's score is its CLIPScore, and the scores of a region's candidates are a softmax over them.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS
    role = "ranker"

    class Options(Section):
        """Settings."""

        model: str = Field(description="a folder, or a name on the hub: any CLIP or SigLIP")
        revision: str | None = Field(None, description="of a model on the hub: branch, tag or commit")
        tasks: Annotated[tuple[str, ...], subset_of(TASKS)] = Field(TASKS, description="annotation types it ranks")
        temperature: float = Field(
            1.0, gt=0, description="of the softmax over a region's candidates; a higher one brings scores closer"
        )
        most: int = Field(10, ge=1, description="largest number of regions in an image")
        margin: float = Field(0.1, ge=0, le=1, description="share of a box's sides that a crop shows around it")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object whose label is a candidate")
        rows: int = Field(
            8,
            ge=1,
            description="pictures in a batch of the model, always exactly this many, "
            "so that an answer does not depend on the other images",
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._model: ImageTextModel | None = None

    def ingredients(self) -> dict[str, str]:
        """Return the versions of the weights, and of the parser that finds noun chunks."""
        return {"weights": weights_version(self.options.model, self.options.revision), **nouns.versions()}

    def load(self) -> None:
        """Load model and parser. Raises ModelError for a model that does not compare pictures with texts."""
        if self._model is None:
            nouns.load_parser()
            self._model = ImageTextModel(self.options.model, self.options.revision, self.device)

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the captions of each image, then the candidates region by region, each with its score."""
        assert self._model is not None, "load() comes first"
        o = self.options
        candidates = [
            ranking_candidates(claims, record, o.tasks, o.min_score, o.most)
            for record, claims in zip(batch.records, batch.claims, strict=True)
        ]
        images: list[np.ndarray] = []
        for pixels, (captions, regions) in zip(batch.pixels, candidates, strict=True):
            images += [pixels] * bool(captions) + [crop_box(pixels, region.box, o.margin) for region in regions]
        texts = dict.fromkeys(
            text
            for captions, regions in candidates
            for text in (*(t for _, t in captions), *(t for region in regions for t in region.texts))
        )
        image_vectors = iter(self._model.embed_images(images, o.rows))
        text_vectors = dict(zip(texts, self._model.embed_texts(list(texts), o.rows), strict=True))
        result = []
        for captions, regions in candidates:
            caption_vectors = [text_vectors[text] for _, text in captions]
            scores = self._model.score_captions(next(image_vectors), caption_vectors) if captions else []
            region_scores = [
                (
                    region,
                    self._model.score_candidates(
                        next(image_vectors), [text_vectors[text] for text in region.texts], o.temperature
                    ),
                )
                for region in regions
            ]
            caption_scores = [(*caption, score) for caption, score in zip(captions, scores, strict=True)]
            result.append(ranking_claims(caption_scores, region_scores))
        return result


class ImageTextModel:
    """A model with one embedding space for pictures and texts. Raises ModelError for any other model."""

    def __init__(self, model: str, revision: str | None, device: str) -> None:
        self._processor = load_processor("AutoProcessor", model, revision)
        self._model = load_model("AutoModel", model, revision, device)
        parts = (
            (self._model, "get_image_features"),
            (self._model, "logit_scale"),
            (self._processor, "image_processor"),
            (self._processor, "tokenizer"),
        )
        if not all(hasattr(*part) for part in parts):
            raise ModelError(
                f"{model} is a {type(self._model).__name__}, which does not compare pictures with texts: "
                "name a CLIP or SigLIP"
            )
        self._scale = float(self._model.logit_scale.detach().exp())
        bias = getattr(self._model, "logit_bias", None)
        self._bias = None if bias is None else float(bias.detach())
        self._max_length = self._model.config.text_config.max_position_embeddings

    def embed_images(self, images: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        """Return (d,) float64 of length 1 for each picture (H, W, 3), uint8."""
        processor = self._processor.image_processor
        inputs = (dict(processor(images=[pillow_image(pixels)], return_tensors="pt")) for pixels in images)
        return self._embed(list(inputs), self._model.get_image_features, rows)

    def embed_texts(self, texts: Sequence[str], rows: int) -> list[np.ndarray]:
        """Return (d,) float64 of length 1 for each text; of a text that is too long, the beginning is used."""
        # SigLIP was trained on texts padded to one length, and reads the padding too
        padding = {"padding": "max_length"} if self._bias is not None else {}
        inputs = (
            {
                "input_ids": self._processor.tokenizer(
                    [text], truncation=True, max_length=self._max_length, return_tensors="pt", **padding
                )["input_ids"]
            }
            for text in texts
        )
        return self._embed(list(inputs), self._model.get_text_features, rows)

    def _embed(self, inputs: list[dict[str, Any]], features: Any, rows: int) -> list[np.ndarray]:
        import torch

        found: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for indices in group_by_shape(inputs, rows):
                output = features(**fill_batch([inputs[i] for i in indices], rows, self._model)).pooler_output
                found.update(zip(indices, output.double().cpu().numpy(), strict=False))
        return [found[i] / max(float(np.linalg.norm(found[i])), 1e-12) for i in range(len(inputs))]

    def score_captions(self, image: np.ndarray, texts: Sequence[np.ndarray]) -> list[float]:
        """Return how well each text (d,) fits the picture (d,) by itself, 0…1."""
        cosines = _cosines(image, texts)
        if self._bias is not None:
            return self._sigmoid(cosines)
        return [float(v) for v in np.clip(CLIPSCORE * cosines, 0, 1)]

    def score_candidates(self, image: np.ndarray, texts: Sequence[np.ndarray], temperature: float) -> list[float]:
        """Return how well each of several candidates fits the picture, 0…1: a softmax over them, or a sigmoid each."""
        cosines = _cosines(image, texts)
        if self._bias is not None:
            return self._sigmoid(cosines)
        logits = self._scale / temperature * cosines
        shares = np.exp(logits - logits.max())
        return [float(v) for v in shares / shares.sum()]

    def _sigmoid(self, cosines: np.ndarray) -> list[float]:
        return [float(v) for v in 1 / (1 + np.exp(-(self._scale * cosines + (self._bias or 0.0))))]


def _cosines(image: np.ndarray, texts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the cosines one by one: a product of matrices sums in an order that follows from their shape."""
    return np.asarray([float((image * text).sum()) for text in texts])
