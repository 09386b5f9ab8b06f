"""Score how well texts fit pictures and regions, without a model of both.

An ImageNet classifier gives the probability p of each of n tags for a picture. A sentence embedding gives a
distribution q over the tags for a text: a softmax over the cosines between the text and the tags' names. If the text is
about the picture, the tag of the text and the tag of the picture are the same with probability Σ p·q; if it is about
any other picture, with probability 1/n. With even prior odds, the text belongs to the picture with probability

    score = Σ p·q / (Σ p·q + 1/n).

A text about no tag in particular has a score near one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.hub.threads import one_thread
from florence.images import shrink
from florence.imaging.crops import crop_box
from florence.packaged_models import imagenet, nouns, sentences
from florence.records import Claim
from florence.scene.candidates import TASKS, ranking_candidates, ranking_claims


@ANNOTATORS.register("tag_ranker")
class TagRanker(Annotator):
    """Claims every caption that others gave, and every candidate text of each region; scores say how likely it fits."""

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS
    role = "ranker"

    class Options(Section):
        """Settings."""

        weights: Literal["lite0", "lite2"] = Field("lite2", description="which classifier")
        tasks: Annotated[tuple[str, ...], subset_of(TASKS)] = Field(TASKS, description="annotation types it ranks")
        temperature: float = Field(
            0.05, ge=0.005, le=1, description="of the softmax over a text's tags; a higher one brings them closer"
        )
        most: int = Field(10, ge=1, description="largest number of regions in an image")
        margin: float = Field(0.1, ge=0, le=1, description="share of a box's sides that a crop shows around it")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object whose label is a candidate")

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._network: Any = None

    def ingredients(self) -> dict[str, str]:
        """Return the versions of the packages that hold classifier, names, sentence embedding and parser."""
        return {**imagenet.versions(self.options.weights), **sentences.versions(), **nouns.versions()}

    @property
    def family(self) -> str:
        """The family of all that build on the packaged classifiers."""
        return imagenet.FAMILY

    def load(self) -> None:
        """Load classifier, embedding and parser."""
        if self._network is None:
            nouns.load_parser()
            _class_name_vectors()
            self._network = imagenet.load_network(self.options.weights)

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the captions of each image, then the candidates region by region, each with its score."""
        o = self.options
        result = []
        for record, pixels, claims in zip(batch.records, batch.pixels, batch.claims, strict=True):
            captions, regions = ranking_candidates(claims, record, o.tasks, o.min_score, o.most)
            scores = self._score(pixels, [text for _, text in captions])
            region_scores = [
                (region, self._score(crop_box(pixels, region.box, o.margin), region.texts)) for region in regions
            ]
            caption_scores = [(*caption, score) for caption, score in zip(captions, scores, strict=True)]
            result.append(ranking_claims(caption_scores, region_scores))
        return result

    def _score(self, pixels: np.ndarray, texts: Sequence[str]) -> list[float]:
        """Return the probability that each text belongs to a picture (H, W, 3)."""
        if not texts:
            return []
        p = self._class_probabilities(pixels)
        odds = [len(p) * float((p * q).sum()) for q in text_tags(texts, self.options.temperature)]
        return [value / (value + 1) for value in odds]

    def _class_probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return the probabilities (1000,) of the classes."""
        side = imagenet.SIDES[self.options.weights]
        height, width = pixels.shape[:2]
        with one_thread():
            size = imagenet.input_size(width, height, side)
            return imagenet.class_probabilities(imagenet.cell_scores(self._network, shrink(pixels, 8 * side), size))


def text_tags(texts: Sequence[str], temperature: float) -> list[np.ndarray]:
    """Return the distribution (1000,) over ImageNet's classes for each text.

    A class is as close to a text as the closer of its two names, the coarse one and its own.
    """
    found = []
    for vector in sentences.sentence_encoder().encode(texts):
        # text by text: a product of matrices sums in an order that follows from their shape
        cosines = np.maximum(*(names @ vector for names in _class_name_vectors())).astype(float)
        weights = np.exp((cosines - cosines.max()) / temperature)
        found.append(weights / weights.sum())
    return found


@lru_cache(maxsize=1)
def _class_name_vectors() -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors (1000, 384) of the classes' own names, and of their coarse names."""
    own, coarse = (
        tuple(labels[i] for i in members.argmax(axis=0))
        for labels, members in map(imagenet.class_labels, ("fine", "coarse"))
    )
    encoder = sentences.sentence_encoder()
    return encoder.encode(own), encoder.encode(coarse)
