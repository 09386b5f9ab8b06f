"""How well texts fit pictures and places, by a model that puts both into one space (CLIP, SigLIP): the part that Florence-1 has in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among
from florence.config import Section
from florence.errors import ModelError
from florence.hub.fixed_batches import in_rows, stacked
from florence.hub.models import load_model, load_processor, weights_version
from florence.imaging.crops import crop, picture
from florence.packaged_models.nouns import packages, parser
from florence.records import Claim
from florence.scene.candidates import TASKS, judged, ranked

CLIPSCORE = 2.5
"""What a cosine of CLIP's is stretched by, as CLIPScore does (arXiv 2104.08718): those of fitting captions are near 0.3."""


@ANNOTATORS.register("ranker")
class Ranker(Annotator):
    """Claims every caption that others gave, and every candidate text of each place, under a score of its own.

    Of a model with a sigmoid (SigLIP) each score is the probability that picture and text belong together. Of others a caption's score is its
    CLIPScore, and the scores of a place's candidates are a softmax over them.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS
    role = "ranker"

    class Options(Section):
        """Settings."""

        model: str = Field(description="a folder, or a name on the hub: any CLIP or SigLIP")
        revision: str | None = Field(None, description="of a model on the hub: branch, tag or commit")
        tasks: Annotated[tuple[str, ...], among(TASKS)] = Field(TASKS, description="kinds it judges")
        temperature: float = Field(
            1.0, gt=0, description="of the softmax over a place's candidates; a higher one is less decided"
        )
        most: int = Field(10, ge=1, description="places an image at most")
        margin: float = Field(0.1, ge=0, le=1, description="share of a box's sides that is seen around it")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object whose name is a candidate")
        rows: int = Field(
            8,
            ge=1,
            description="pictures that the model is given at once: always exactly so many, so that answers do not depend on what else is asked",
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._space: Space | None = None

    def ingredients(self) -> dict[str, str]:
        """The weights, and the parser that finds noun chunks."""
        return {"weights": weights_version(self.options.model, self.options.revision), **packages()}

    def load(self) -> None:
        """Load model and parser. Raises ModelError for a model that does not compare pictures with texts."""
        if self._space is None:
            parser()
            self._space = Space(self.options.model, self.options.revision, self.device)

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """The captions of each image, then the candidates place by place, each under its score."""
        assert self._space is not None, "load() comes first"
        o = self.options
        asked = [
            judged(claims, record, o.tasks, o.min_score, o.most)
            for record, claims in zip(batch.records, batch.claims, strict=True)
        ]
        seen: list[np.ndarray] = []
        for pixels, (captions, places) in zip(batch.pixels, asked, strict=True):
            seen += [pixels] * bool(captions) + [crop(pixels, place.box, o.margin) for place in places]
        texts = dict.fromkeys(
            text
            for captions, places in asked
            for text in (*(t for _, t in captions), *(t for place in places for t in place.texts))
        )
        pictures = iter(self._space.pictures(seen, o.rows))
        vectors = dict(zip(texts, self._space.texts(list(texts), o.rows), strict=True))
        result = []
        for captions, places in asked:
            whole = self._space.fits(next(pictures), [vectors[text] for _, text in captions]) if captions else []
            parts = [
                (place, self._space.chosen(next(pictures), [vectors[text] for text in place.texts], o.temperature))
                for place in places
            ]
            result.append(ranked([(*caption, score) for caption, score in zip(captions, whole, strict=True)], parts))
        return result


class Space:
    """A model of pictures and texts. Raises ModelError where it is none."""

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
                f"{model} is a {type(self._model).__name__}, which does not compare pictures with texts: name a CLIP or SigLIP"
            )
        self._scale = float(self._model.logit_scale.detach().exp())
        bias = getattr(self._model, "logit_bias", None)
        self._bias = None if bias is None else float(bias.detach())
        self._longest = self._model.config.text_config.max_position_embeddings

    def pictures(self, pixels: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        """(d,) float64 of length 1 of each of some pictures (H, W, 3), uint8."""
        inputs = (dict(self._processor.image_processor(images=[picture(one)], return_tensors="pt")) for one in pixels)
        return self._vectors(list(inputs), self._model.get_image_features, rows)

    def texts(self, texts: Sequence[str], rows: int) -> list[np.ndarray]:
        """(d,) float64 of length 1 of each text; of a text that is too long the beginning counts."""
        # SigLIP has learnt from texts filled up to one length, all of which it reads
        filled = {"padding": "max_length"} if self._bias is not None else {}
        inputs = (
            {
                "input_ids": self._processor.tokenizer(
                    [text], truncation=True, max_length=self._longest, return_tensors="pt", **filled
                )["input_ids"]
            }
            for text in texts
        )
        return self._vectors(list(inputs), self._model.get_text_features, rows)

    def _vectors(self, inputs: list[dict[str, Any]], features: Any, rows: int) -> list[np.ndarray]:
        import torch

        found: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for indices in in_rows(inputs, rows):
                made = features(**stacked([inputs[i] for i in indices], rows, self._model)).pooler_output
                found.update(zip(indices, made.double().cpu().numpy(), strict=False))
        return [found[i] / max(float(np.linalg.norm(found[i])), 1e-12) for i in range(len(inputs))]

    def fits(self, picture: np.ndarray, texts: Sequence[np.ndarray]) -> list[float]:
        """How well each text fits the picture by itself, 0…1."""
        cosines = _cosines(picture, texts)
        if self._bias is not None:
            return self._sigmoid(cosines)
        return [float(v) for v in np.clip(CLIPSCORE * cosines, 0, 1)]

    def chosen(self, picture: np.ndarray, texts: Sequence[np.ndarray], temperature: float) -> list[float]:
        """How well each of several candidates fits the picture, 0…1: a softmax over them, or what each has by itself."""
        cosines = _cosines(picture, texts)
        if self._bias is not None:
            return self._sigmoid(cosines)
        logits = self._scale / temperature * cosines
        shares = np.exp(logits - logits.max())
        return [float(v) for v in shares / shares.sum()]

    def _sigmoid(self, cosines: np.ndarray) -> list[float]:
        return [float(v) for v in 1 / (1 + np.exp(-(self._scale * cosines + (self._bias or 0.0))))]


def _cosines(picture: np.ndarray, texts: Sequence[np.ndarray]) -> np.ndarray:
    """One by one: a product of matrices sums in an order that follows from their shape."""
    return np.asarray([float((picture * text).sum()) for text in texts])
