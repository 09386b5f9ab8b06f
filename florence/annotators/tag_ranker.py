"""How well texts fit pictures and places, without a model of both: an ImageNet classifier tells which tags a picture has, a sentence embedding which tags a text speaks of.

A text is read as a distribution q over the tags: a softmax over the cosines between text and names. If it speaks of the picture, the tag that
it means and the tag that the picture has agree with probability Σ p·q; of any other picture they would with 1/n. The score is the share of the first in both: the
probability that a text belongs to the picture, where half of all texts do. A text that names nothing in particular comes out near a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among
from florence.config import Section
from florence.hub.threads import one_thread
from florence.imaging.crops import crop
from florence.packaged_models import imagenet, nouns, sentences
from florence.images import shrink
from florence.records import Claim
from florence.scene.candidates import TASKS, judged, ranked


@ANNOTATORS.register("tag_ranker")
class TagRanker(Annotator):
    """Claims every caption that others gave, and every candidate text of each place, under the probability that it fits."""

    needs = frozenset({"pixels", "claims"})
    tasks = TASKS
    role = "ranker"

    class Options(Section):
        """Settings."""

        weights: Literal["lite0", "lite2"] = Field("lite2", description="which classifier")
        tasks: Annotated[tuple[str, ...], among(TASKS)] = Field(TASKS, description="kinds it judges")
        temperature: float = Field(
            0.05, ge=0.005, le=1, description="of the softmax that makes tags of a text; a higher one is less decided"
        )
        most: int = Field(10, ge=1, description="places an image at most")
        margin: float = Field(0.1, ge=0, le=1, description="share of a box's sides that is seen around it")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object whose name is a candidate")

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._network: Any = None

    def ingredients(self) -> dict[str, str]:
        """The packages that hold classifier, names, sentence embedding and parser."""
        return {**imagenet.packages(self.options.weights), **sentences.packages(), **nouns.packages()}

    def load(self) -> None:
        """Load classifier, embedding and parser."""
        if self._network is None:
            nouns.parser()
            _names()
            self._network = imagenet.network(self.options.weights)

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """The captions of each image, then the candidates place by place, each under its score."""
        o = self.options
        result = []
        for record, pixels, claims in zip(batch.records, batch.pixels, batch.claims, strict=True):
            captions, places = judged(claims, record, o.tasks, o.min_score, o.most)
            whole = self._fits(pixels, [text for _, text in captions])
            parts = [(place, self._fits(crop(pixels, place.box, o.margin), place.texts)) for place in places]
            result.append(ranked([(*caption, score) for caption, score in zip(captions, whole, strict=True)], parts))
        return result

    def _fits(self, pixels: np.ndarray, texts: Sequence[str]) -> list[float]:
        """The probability that each text belongs to a picture (H, W, 3)."""
        if not texts:
            return []
        chances = self._chances(pixels)
        agreeing = [len(chances) * float((chances * meant).sum()) for meant in tags(texts, self.options.temperature)]
        return [value / (value + 1) for value in agreeing]

    def _chances(self, pixels: np.ndarray) -> np.ndarray:
        """The probabilities (1000,) of the classes."""
        side = imagenet.SIDES[self.options.weights]
        height, width = pixels.shape[:2]
        with one_thread():
            return imagenet.probabilities(
                imagenet.cell_scores(self._network, shrink(pixels, 8 * side), imagenet.extent(width, height, side))
            )


def tags(texts: Sequence[str], temperature: float) -> list[np.ndarray]:
    """The distribution (1000,) over ImageNet's classes that each text speaks of. A class is as near to it as the nearer of its two names, the plain one and its own."""
    found = []
    for vector in sentences.sentences().vectors(texts):
        # text by text: a product of matrices sums in an order that follows from their shape
        cosines = np.maximum(*(names @ vector for names in _names())).astype(float)
        weights = np.exp((cosines - cosines.max()) / temperature)
        found.append(weights / weights.sum())
    return found


@lru_cache(maxsize=1)
def _names() -> tuple[np.ndarray, np.ndarray]:
    """The vectors (1000, 384) of the classes' own names, and of their plain names."""
    own, plain = (
        tuple(labels[i] for i in members.argmax(axis=0)) for labels, members in map(imagenet.labels, ("fine", "coarse"))
    )
    return sentences.sentences().vectors(own), sentences.sentences().vectors(plain)
