"""Segment the objects and phrases that others have boxed by SAM or SAM 2 of the transformers library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.errors import ModelError
from florence.geometry import Box, Polygon
from florence.hub.models import answer_or_error, load_config, load_model, load_processor, torch_device, weights_version
from florence.imaging.polygons import mask_to_polygons
from florence.records import Annotation, Claim, ClaimsOrError, ImageRecord
from florence.scene.segmentation import GROUNDING, REFERRING, add_polygons, segmentation_targets, target_boxes

CLASS = "AutoModelForMaskGeneration"
SAM, SAM_2 = ("sam",), ("sam2", "sam2_video")
"""Types of models: the first keep a picture's aspect ratio, the second stretch it to a square."""
MAX_PROMPTS = 16
"""Boxes that are decoded at once: each takes a copy of the picture's features."""


@ANNOTATORS.register("segmenter")
class Segmenter(Annotator):
    """Claims a referring expression with polygons for each object, and polygons in the boxes of phrases.

    Objects without an expression that fits them alone are left out. Scores are those of the boxes.
    """

    needs = frozenset({"pixels", "claims"})
    tasks = (GROUNDING, REFERRING)

    class Options(Section):
        """Settings."""

        model: str = Field(min_length=1, description="folder of a checkpoint, or its name on a hub")
        revision: str | None = Field(
            None, description="commit, tag or branch on the hub; a commit alone always means the same weights"
        )
        most: int = Field(
            30, ge=1, description="largest number of objects in an image, and of boxes of phrases that are no objects'"
        )
        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object, and of a phrase's box")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that a single annotator named")
        min_iou: float = Field(0.7, ge=0, le=1, description="least IoU with the true mask that the model predicts")
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
        """Return the version of the weights."""
        return {"model": weights_version(self.options.model, self.options.revision)}

    def load(self) -> None:
        """Load the model. Raises ModelError if that fails."""
        if self._network is not None:
            return
        model, revision = self.options.model, self.options.revision
        model_type = load_config(model, revision).model_type
        if model_type not in SAM + SAM_2:
            raise ModelError(
                f"{model} is of type {model_type}, which this annotator cannot prompt; "
                f"allowed: {', '.join(SAM + SAM_2)}. Other models can run as a program of their own"
            )
        # SAM 2's own processor needs torchvision. What it does to pictures, ViT's does with the same settings.
        is_sam = model_type in SAM
        self._processor = load_processor("AutoProcessor" if is_sam else "ViTImageProcessorPil", model, revision)
        self._prepare = self._prepare_sam if is_sam else self._prepare_sam_2
        self._network = load_model(CLASS, model, revision, self.device, dtype="float32")

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the polygons in each picture: of objects, the best first, then of phrases."""
        return [
            answer_or_error(record, self._segment, record, pixels, claims)
            for record, pixels, claims in zip(batch.records, batch.pixels, batch.claims, strict=True)
        ]

    def _segment(self, record: ImageRecord, pixels: np.ndarray, claims: Sequence[Annotation]) -> list[Claim]:
        o = self.options
        targets = segmentation_targets(record, claims, o.most, o.min_score, o.min_alone)
        return add_polygons(targets, self._box_polygons(pixels, target_boxes(targets)) if targets else {})

    def _box_polygons(self, pixels: np.ndarray, boxes: Sequence[Box]) -> dict[Box, tuple[Polygon, ...]]:
        """Return the polygons of each box's mask, none if the model predicts a low IoU. The picture is encoded once."""
        import torch

        device = torch_device(self.device)
        image, prompts, to_mask = self._prepare(Image.fromarray(pixels), boxes)
        result = {}
        with torch.inference_mode():
            embeddings = self._network.get_image_embeddings(image.to(device))
            for start in range(0, len(boxes), MAX_PROMPTS):
                part = prompts[:, start : start + MAX_PROMPTS].to(device)
                output = self._network(image_embeddings=embeddings, input_boxes=part, multimask_output=False)
                predicted = output.iou_scores[0, :, 0].tolist()
                if np.isnan(predicted).any():
                    raise ModelError(f"{self.options.model} answers with scores that are not numbers")
                masks = output.pred_masks[0]
                for box, mask, iou in zip(boxes[start : start + MAX_PROMPTS], masks, predicted, strict=True):
                    if iou >= self.options.min_iou:
                        result[box] = mask_to_polygons(to_mask(mask[None].cpu()), self.options.min_polygon_iou)
        return result

    def _prepare_sam(self, image: Any, boxes: Sequence[Box]) -> tuple[Any, Any, Callable[[Any], np.ndarray]]:
        """Return SAM's input (1, 3, h, w), its prompts (1, boxes, 4), and a function from logits to masks.

        The function turns logits (1, 1, h, w) into a mask (H, W), bool, of the picture's size.
        """
        inputs = self._processor(images=image, input_boxes=[[list(box) for box in boxes]], return_tensors="pt")
        sizes = inputs["original_sizes"].tolist(), inputs["reshaped_input_sizes"].tolist()
        return (
            inputs["pixel_values"],
            inputs["input_boxes"].float(),
            lambda logits: self._processor.image_processor.post_process_masks([logits], *sizes)[0][0, 0].numpy(),
        )

    def _prepare_sam_2(self, image: Any, boxes: Sequence[Box]) -> tuple[Any, Any, Callable[[Any], np.ndarray]]:
        """Return the same for SAM 2."""
        import torch
        from torch.nn.functional import interpolate

        inputs = self._processor(images=image, return_tensors="pt")["pixel_values"]
        scale = [inputs.shape[3] / image.width, inputs.shape[2] / image.height] * 2
        prompts = torch.tensor([boxes], dtype=torch.float64) * torch.tensor(scale, dtype=torch.float64)
        return (
            inputs,
            prompts.float(),
            lambda logits: (
                interpolate(logits, (image.height, image.width), mode="bilinear", align_corners=False)[0, 0] > 0
            ).numpy(),
        )
