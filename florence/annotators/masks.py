"""Masks of the objects and phrases that others have boxed: GrabCut, which parts the colours inside a box from those around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.geometry import Box, Polygon
from florence.images import shrink
from florence.records import Annotation, Claim, ImageRecord
from florence.scene.segmentation import GROUNDED, REFERRED, boxes, outlined, polygons, wanted
from florence.versions import package_versions

MARGIN = 0.3
"""How much of its surroundings a box is looked at with, as a share of its sides: they show what the object is not."""


@ANNOTATORS.register("masks")
class Masks(Annotator):
    """Claims an expression for each object that can be told from the others, with its outline, and again each phrase that others boxed, with
    outlines in its boxes. Scores are those of what was boxed.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = (GROUNDED, REFERRED)
    revision = 2

    class Options(Section):
        """Settings."""

        most: int = Field(6, ge=1, description="objects an image at most, and boxes of phrases that are not theirs")
        side: int = Field(256, ge=32, description="pixels of the longer side that an object is cut out at")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object, and of a phrase's box")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that one annotator alone named")
        max_box: float = Field(
            0.7,
            gt=0,
            le=1,
            description="largest share of the image that a box may have: around larger ones too little is left to compare with",
        )
        min_share: float = Field(0.15, ge=0, le=1, description="least share of its box that a mask may fill")
        max_share: float = Field(
            0.95, ge=0, le=1, description="largest share of its box: a mask that fills it tells no more than the box"
        )
        rounds: int = Field(4, ge=1, description="iterations")
        min_polygon_iou: float = Field(
            0.95,
            gt=0,
            le=1,
            description="least overlap (IoU) of a mask's polygons with it: they get the fewest corners that keep it",
        )

    def ingredients(self) -> dict[str, str]:
        """OpenCV, whose GrabCut this is."""
        return package_versions("opencv-python-headless")

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """The masks in each picture: of the surest object first, then of phrases."""
        return [self._cut(*image) for image in zip(batch.records, batch.pixels, batch.claims, strict=True)]

    def _cut(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        asked = wanted(record, claims, self.options.most, self.options.min_score, self.options.min_alone)
        largest = self.options.max_box * record.width * record.height
        outlines = {
            box: self._outline(pixels, box) for box in boxes(asked) if (box[2] - box[0]) * (box[3] - box[1]) <= largest
        }
        return outlined(asked, outlines)

    def _outline(self, pixels: np.ndarray, box: Box) -> tuple[Polygon, ...]:
        """Outlines in pixels of the picture; none where the colours do not part inside and outside."""
        import cv2

        height, width = pixels.shape[:2]
        dx, dy = MARGIN * (box[2] - box[0]), MARGIN * (box[3] - box[1])
        left, top = max(int(box[0] - dx), 0), max(int(box[1] - dy), 0)
        crop = pixels[top : min(int(box[3] + dy) + 1, height), left : min(int(box[2] + dx) + 1, width)]
        if min(crop.shape[:2]) < 8:
            return ()
        small = shrink(crop, self.options.side)
        scale = np.asarray([crop.shape[1] / small.shape[1], crop.shape[0] / small.shape[0]])
        inner = np.rint((np.asarray(box).reshape(2, 2) - [left, top]) / scale).astype(int)
        mask = _grabcut(small, inner, self.options.rounds)
        area = max(int(np.prod(inner[1] - inner[0])), 1)
        if mask is None or not self.options.min_share <= mask.sum() / area <= self.options.max_share:
            return ()
        # Polygons run through the middle of pixels: traced in the small picture they would lose half of its larger ones.
        whole = cv2.resize(mask.astype(np.float32), crop.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
        return tuple(
            tuple(v + (top if i % 2 else left) for i, v in enumerate(polygon))
            for polygon in polygons(whole, self.options.min_polygon_iou)
        )


def _grabcut(pixels: np.ndarray, inner: np.ndarray, rounds: int) -> np.ndarray | None:
    """The mask (h, w), bool, of what is inside the box ``inner`` ((x0, y0), (x1, y1)); None where nothing is left outside it."""
    import cv2

    state = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
    state[inner[0][1] : inner[1][1], inner[0][0] : inner[1][0]] = cv2.GC_PR_FGD
    outside = int((state == cv2.GC_BGD).sum())
    if outside < 0.03 * state.size or outside == state.size:
        return None
    cv2.setRNGSeed(0)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(pixels), state, None, background, foreground, rounds, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    mask = ((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk), cv2.MORPH_CLOSE, disk).astype(bool)
