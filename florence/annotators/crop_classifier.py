"""Name the objects that others have boxed, each from its crop, by an ImageNet classifier that comes in packages.

It chooses among the names that the annotators which it depends on may give, where all of them say which: a crop is far
easier to name by one of eighty names than by any. How likely a name is right is calibrated
(`florence.packaged_models.imagenet.best_name`). A box is copied from an earlier annotator, so that a claim is evidence
about a name alone (`names_only`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.geometry import Box
from florence.hub.threads import one_thread
from florence.images import shrink
from florence.imaging.boxes import suppress_overlaps
from florence.imaging.crops import crop_box
from florence.packaged_models import imagenet
from florence.records import Annotation, Claim, ImageRecord, Region


@ANNOTATORS.register("crop_classifier")
class CropClassifier(Annotator):
    """Claims objects with the boxes of others' claims and names of its own; where it knows no name, nothing."""

    needs = frozenset({"pixels", "claims"})
    tasks = ("<OD>",)
    names_only = True

    class Options(Section):
        """Settings."""

        weights: Literal["lite0", "lite2"] = Field("lite2", description="which classifier")
        names: Literal["coarse", "fine"] = Field("coarse", description="dog, or one of 120 breeds")
        labels: tuple[str, ...] = Field(
            (),
            description="names to choose from; none: those of the annotators whose boxes it names, or all if one of "
            "them may give any name",
        )
        most: int = Field(30, ge=1, description="largest number of boxes that are named in an image; the best are")
        margin: float = Field(0.0, ge=0, le=1, description="share of a box's sides that a crop shows around it")
        min_side: int = Field(16, ge=1, description="pixels; a box with a shorter side is not named")
        nms_iou: float = Field(
            0.7, gt=0, le=1, description="boxes of several annotators that overlap more are named once, as the best"
        )
        min_score: float = Field(0.2, ge=0, le=1, description="least score of a claim whose box is named")
        min_confidence: float = Field(
            0.5, ge=0, le=1, description="least confidence of a name (calibrated); below it nothing is claimed"
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._network: Any = None

    def ingredients(self) -> dict[str, str]:
        """Return the versions of the packages that hold network, weights and names."""
        return imagenet.versions(self.options.weights)

    @property
    def family(self) -> str:
        """The family of all that build on the packaged classifiers."""
        return imagenet.FAMILY

    def vocabulary(self) -> tuple[str, ...]:
        """Return the names that it may claim."""
        return tuple(sorted(self._choice()[0]))

    def load(self) -> None:
        """Build the network and read its weights."""
        if self._network is None:
            self._network = imagenet.load_network(self.options.weights)

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the names of boxes in each picture, in the order of the boxes, the best first."""
        with one_thread():
            return [self._name(*image) for image in zip(batch.records, batch.pixels, batch.claims, strict=True)]

    def _name(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        o = self.options
        rows = [(region.bounds, _score(row, region)) for row in claims if row.task == "<OD>" for region in row.regions]
        boxes, scores = [box for box, _ in rows], [score for _, score in rows]
        found = []
        for box, score in suppress_overlaps(
            np.asarray(boxes), np.asarray(scores), record.width, record.height, o.nms_iou, o.most
        ):
            if score >= o.min_score and min(box[2] - box[0], box[3] - box[1]) >= o.min_side:
                label, confidence = self._classify(pixels, box)
                if label and confidence >= o.min_confidence:
                    found.append(Claim("<OD>", label, (Region(label, box=box, score=confidence),), confidence))
        return found

    def _classify(self, pixels: np.ndarray, box: Box) -> tuple[str, float]:
        """Return the best name of what a box shows, and its confidence, 0…1."""
        o = self.options
        side = imagenet.SIDES[o.weights]
        crop = shrink(crop_box(pixels, box, o.margin), 8 * side)
        size = imagenet.input_size(crop.shape[1], crop.shape[0], side)
        logits = imagenet.cell_scores(self._network, crop, size).mean(axis=(1, 2))
        return imagenet.best_name(logits, o.weights, self._choice())

    def _choice(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the names to choose from, and the classes that they stand for."""
        return imagenet.choosable_labels(self.options.names, self.options.labels or self.known_labels)


def _score(row: Annotation, region: Region) -> float:
    score = row.score if region.score is None else region.score
    return 1.0 if score is None else score
