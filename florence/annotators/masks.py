"""Segment the objects and phrases that others have boxed by GrabCut, from the colors inside and around a box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.geometry import Box, Polygon
from florence.images import shrink
from florence.imaging.polygons import mask_to_polygons
from florence.records import Annotation, Claim, ImageRecord
from florence.scene.segmentation import GROUNDING, REFERRING, add_polygons, segmentation_targets, target_boxes
from florence.versions import package_versions

MARGIN = 0.3
"""Share of a box's sides that is added around it: the surroundings show what the object is not."""


@ANNOTATORS.register("masks")
class Masks(Annotator):
    """Claims a referring expression with polygons for each object, and polygons in the boxes of phrases.

    Objects without an expression that fits them alone are left out. Scores are those of the boxes.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = (GROUNDING, REFERRING)
    revision = 2

    class Options(Section):
        """Settings."""

        most: int = Field(
            6, ge=1, description="largest number of objects in an image, and of boxes of phrases that are no objects'"
        )
        side: int = Field(256, ge=32, description="pixels of the longer side at which an object is segmented")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object, and of a phrase's box")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that a single annotator named")
        max_box: float = Field(
            0.7,
            gt=0,
            le=1,
            description="largest share of the image that a box may have: around larger ones too little is left",
        )
        min_share: float = Field(0.15, ge=0, le=1, description="least share of its box that a mask may fill")
        max_share: float = Field(
            0.95, ge=0, le=1, description="largest share of its box: a mask that fills it says no more than the box"
        )
        rounds: int = Field(4, ge=1, description="iterations")
        min_polygon_iou: float = Field(
            0.95,
            gt=0,
            le=1,
            description="least overlap (IoU) of a mask's polygons with it: they get the fewest corners that keep it",
        )

    def ingredients(self) -> dict[str, str]:
        """Return the version of OpenCV, whose GrabCut this is."""
        return package_versions("opencv-python-headless")

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the polygons in each picture: of objects, the best first, then of phrases."""
        return [self._segment(*image) for image in zip(batch.records, batch.pixels, batch.claims, strict=True)]

    def _segment(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        o = self.options
        targets = segmentation_targets(record, claims, o.most, o.min_score, o.min_alone)
        largest = o.max_box * record.width * record.height
        polygons = {
            box: self._box_polygons(pixels, box)
            for box in target_boxes(targets)
            if (box[2] - box[0]) * (box[3] - box[1]) <= largest
        }
        return add_polygons(targets, polygons)

    def _box_polygons(self, pixels: np.ndarray, box: Box) -> tuple[Polygon, ...]:
        """Return polygons in pixels of the picture; none if the colors do not separate inside and outside."""
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
        # Polygons run through the middle of pixels: in the small picture they would lose half of its larger pixels.
        whole = cv2.resize(mask.astype(np.float32), crop.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
        return tuple(
            tuple(v + (top if i % 2 else left) for i, v in enumerate(polygon))
            for polygon in mask_to_polygons(whole, self.options.min_polygon_iou)
        )


def _grabcut(pixels: np.ndarray, inner: np.ndarray, rounds: int) -> np.ndarray | None:
    """Return the mask (h, w), bool, of the object in a box of a picture (h, w, 3); None if nothing is outside the box.

    ``inner``: the box, ((x0, y0), (x1, y1)).
    """
    import cv2

    state = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
    state[inner[0][1] : inner[1][1], inner[0][0] : inner[1][0]] = cv2.GC_PR_FGD
    outside = int((state == cv2.GC_BGD).sum())
    if outside < 0.03 * state.size or outside == state.size:
        return None
    cv2.setRNGSeed(0)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    image, mode = np.ascontiguousarray(pixels), cv2.GC_INIT_WITH_MASK
    cv2.grabCut(image, state, None, background, foreground, rounds, mode)  # type: ignore[call-overload]
    mask = ((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk), cv2.MORPH_CLOSE, disk).astype(bool)
