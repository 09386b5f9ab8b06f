"""Masks of the objects and phrases that others have boxed, by SAM or SAM 2 of the transformers library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.errors import ModelError
from florence.geometry import Box, Polygon
from florence.hub.models import answer, load_config, load_model, load_processor, torch_device, weights_version
from florence.records import Annotation, Claim, ClaimsOrError, ImageRecord
from florence.scene.segmentation import GROUNDED, REFERRED, boxes, outlined, polygons, wanted

CLASS = "AutoModelForMaskGeneration"
SAM, SAM_2 = ("sam",), ("sam2", "sam2_video")
"""Types of models: those that take pictures in proportion, and those that take them stretched to a square."""
TOGETHER = 16
"""Boxes that are decoded at once: each takes a copy of the picture's features."""


@ANNOTATORS.register("segmenter")
class Segmenter(Annotator):
    """Claims an expression for each object that can be told from the others, with its outline, and again each phrase that others boxed, with
    outlines in its boxes. Scores are those of what was boxed.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = (GROUNDED, REFERRED)

    class Options(Section):
        """Settings."""

        model: str = Field(min_length=1, description="folder of a checkpoint, or its name on a hub")
        revision: str | None = Field(
            None, description="commit, tag or branch on the hub; a commit alone always means the same weights"
        )
        most: int = Field(30, ge=1, description="objects an image at most, and boxes of phrases that are not theirs")
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object, and of a phrase's box")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that one annotator alone named")
        min_iou: float = Field(
            0.7, ge=0, le=1, description="least overlap with the true mask that the model expects of its own"
        )
        min_polygon_iou: float = Field(
            0.95,
            gt=0,
            le=1,
            description="least overlap (IoU) of a mask's polygons with it: they get the fewest corners that keep it",
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._network: Any = None

    def ingredients(self) -> dict[str, str]:
        """The weights."""
        return {"model": weights_version(self.options.model, self.options.revision)}

    def load(self) -> None:
        """Load the model. Raises ModelError where that cannot be done."""
        if self._network is not None:
            return
        model, revision = self.options.model, self.options.revision
        kind = load_config(model, revision).model_type
        if kind not in SAM + SAM_2:
            raise ModelError(
                f"{model} is of type {kind}, which is not asked for masks here; allowed: {', '.join(SAM + SAM_2)}. Others can run out of process"
            )
        # SAM 2's own processor cannot be had without torchvision. What it does to pictures is what ViT's does with the same settings.
        self._processor = load_processor("AutoProcessor" if kind in SAM else "ViTImageProcessorPil", model, revision)
        self._prompted = self._in_proportion if kind in SAM else self._stretched
        self._network = load_model(CLASS, model, revision, self.device, dtype="float32")

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """The masks in each picture: of the surest object first, then of phrases."""
        return [
            answer(record, self._cut, record, pixels, claims)
            for record, pixels, claims in zip(batch.records, batch.pixels, batch.claims, strict=True)
        ]

    def _cut(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        asked = wanted(record, claims, self.options.most, self.options.min_score, self.options.min_alone)
        return outlined(asked, self._outlines(pixels, boxes(asked)) if asked else {})

    def _outlines(self, pixels: np.ndarray, asked: Sequence[Box]) -> dict[Box, tuple[Polygon, ...]]:
        """Polygons of each box's mask, none where the model does not trust it. The picture is encoded once."""
        import torch
        from PIL import Image

        device = torch_device(self.device)
        given, prompts, restored = self._prompted(Image.fromarray(pixels), asked)
        result = {}
        with torch.inference_mode():
            seen = self._network.get_image_embeddings(given.to(device))
            for start in range(0, len(asked), TOGETHER):
                part = prompts[:, start : start + TOGETHER].to(device)
                output = self._network(image_embeddings=seen, input_boxes=part, multimask_output=False)
                expected = output.iou_scores[0, :, 0].tolist()
                if np.isnan(expected).any():
                    raise ModelError(f"{self.options.model} answers with scores that are no numbers")
                for box, mask, iou in zip(asked[start : start + TOGETHER], output.pred_masks[0], expected, strict=True):
                    if iou >= self.options.min_iou:
                        result[box] = polygons(restored(mask[None].cpu()), self.options.min_polygon_iou)
        return result

    def _in_proportion(self, image: Any, asked: Sequence[Box]) -> tuple[Any, Any, Callable[[Any], np.ndarray]]:
        """SAM's input, (1, 3, h, w); its prompts, (1, boxes, 4); and what makes a mask (1, 1, h, w) of its logits one of the picture's size."""
        given = self._processor(images=image, input_boxes=[[list(box) for box in asked]], return_tensors="pt")
        sizes = given["original_sizes"].tolist(), given["reshaped_input_sizes"].tolist()
        return (
            given["pixel_values"],
            given["input_boxes"].float(),
            lambda logits: self._processor.image_processor.post_process_masks([logits], *sizes)[0][0, 0].numpy(),
        )

    def _stretched(self, image: Any, asked: Sequence[Box]) -> tuple[Any, Any, Callable[[Any], np.ndarray]]:
        """The same for SAM 2."""
        import torch
        from torch.nn.functional import interpolate

        given = self._processor(images=image, return_tensors="pt")["pixel_values"]
        scale = [given.shape[3] / image.width, given.shape[2] / image.height] * 2
        prompts = torch.tensor([asked], dtype=torch.float64) * torch.tensor(scale, dtype=torch.float64)
        return (
            given,
            prompts.float(),
            lambda logits: (
                interpolate(logits, (image.height, image.width), mode="bilinear", align_corners=False)[0, 0] > 0
            ).numpy(),
        )
