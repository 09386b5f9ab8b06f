"""Find objects by a detector of the transformers library: any AutoModelForObjectDetection.

DETR, RT-DETR, D-FINE, Conditional DETR and YOLOS are of that class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.errors import FlorenceError, ModelError, SettingsError
from florence.hub.models import answer_or_error, load_config, load_model, load_processor, torch_device, weights_version
from florence.imaging.boxes import object_claims
from florence.records import ClaimsOrError, ImageRecord

CLASS = "AutoModelForObjectDetection"


@ANNOTATORS.register("detector")
class Detector(Annotator):
    """Claims objects with boxes."""

    tasks = ("<OD>",)

    class Options(Section):
        """Settings."""

        model: str = Field(min_length=1, description="folder of a checkpoint, or its name on a hub")
        revision: str | None = Field(
            None, description="commit, tag or branch on the hub; a commit alone always means the same weights"
        )
        threshold: float = Field(0.3, ge=0, lt=1, description="score that an object must exceed")
        nms_iou: float = Field(
            0.7, gt=0, le=1, description="of boxes under one name that overlap more, the best is kept"
        )
        most: int = Field(100, ge=1, description="largest number of objects in an image; the best are kept")
        names: dict[str, str | None] = Field(
            {}, description="the model's labels under other names; nothing (null) drops a label"
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._network: Any = None
        self._label_names: dict[int, str] | None = None

    def ingredients(self) -> dict[str, str]:
        """Return the version of the weights."""
        return {"model": weights_version(self.options.model, self.options.revision)}

    def vocabulary(self) -> tuple[str, ...]:
        """Return the names of the model's labels, from its configuration."""
        return tuple(sorted(set(self._names_by_number().values())))

    def load(self) -> None:
        """Load the model. Raises ModelError if that fails."""
        if self._network is None:
            self._names_by_number()
            self._processor = load_processor("AutoImageProcessor", self.options.model, self.options.revision)
            self._network = load_model(CLASS, self.options.model, self.options.revision, self.device, dtype="float32")
            if not hasattr(self._processor, "post_process_object_detection"):
                raise ModelError(
                    f"{self.options.model}: its processor, {type(self._processor).__name__}, gives no boxes. "
                    "Name a detector such as PekingU/rtdetr_r50vd"
                )

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the objects of each picture, the best first.

        No picture is padded to the size of another: that would move its boxes. On a GPU, pictures that are processed to
        one size go through the network together. On a CPU each goes alone: batches are not faster there, and may change
        the last digits.
        """
        inputs = [
            answer_or_error(record, self._network_input, pixels)
            for record, pixels in zip(batch.records, batch.pixels, strict=True)
        ]
        result: list[ClaimsOrError] = [part if isinstance(part, FlorenceError) else [] for part in inputs]
        for group in _group_by_size(inputs, one_by_one=torch_device(self.device).type == "cpu"):
            records, tensors = [batch.records[i] for i in group], [inputs[i] for i in group]
            answers = answer_or_error(records[0], self._detect, records, tensors)
            if isinstance(answers, FlorenceError):
                if len(group) > 1:
                    raise answers  # the caller then asks about each image alone
                answers = [answers]
            for index, claims in zip(group, answers, strict=True):
                result[index] = claims
        return result

    def _names_by_number(self) -> dict[int, str]:
        """Return the name to claim for each label's number."""
        if self._label_names is None:
            labels = load_config(self.options.model, self.options.revision).id2label
            if unknown := sorted(set(self.options.names) - set(labels.values())):
                raise SettingsError(
                    f"annotators.{self.name}.names: {self.options.model} has no label {unknown[0]!r}; "
                    f"it has {', '.join(sorted(set(labels.values())))}"
                )
            names = {int(number): self.options.names.get(label, label) for number, label in labels.items()}
            self._label_names = {number: name for number, name in names.items() if name and name != "N/A"}
        return self._label_names

    def _network_input(self, pixels: np.ndarray) -> dict[str, Any]:
        """Return the network's input for a picture: (1, …) tensors."""
        # A Pillow image, not an array: of an array three pixels high, the processor cannot tell the channels.
        return dict(self._processor(images=[Image.fromarray(pixels)], return_tensors="pt"))

    def _detect(self, records: Sequence[ImageRecord], inputs: Sequence[dict[str, Any]]) -> list[ClaimsOrError]:
        """Return the answers for images whose inputs have one size."""
        import torch

        device = torch_device(self.device)
        with torch.inference_mode():
            output = self._network(**{key: torch.cat([part[key] for part in inputs]).to(device) for key in inputs[0]})
            sizes = [(record.height, record.width) for record in records]
            found = self._processor.post_process_object_detection(
                output, threshold=self.options.threshold, target_sizes=torch.tensor(sizes, device=device)
            )
        return [
            self._claims(record, logits, part)
            for record, logits, part in zip(records, output.logits, found, strict=True)
        ]

    def _claims(self, record: ImageRecord, logits: Any, found: dict[str, Any]) -> ClaimsOrError:
        if bool(logits.isnan().any()):
            return ModelError(f"{record.name}: {self.options.model} answers with scores that are not numbers")
        names = self._names_by_number()
        labels = found["labels"].tolist()
        named = [i for i, label in enumerate(labels) if label in names]
        return object_claims(
            found["boxes"].cpu().numpy()[named],
            found["scores"].cpu().numpy()[named],
            [names[labels[i]] for i in named],
            record.width,
            record.height,
            self.options.nms_iou,
            self.options.most,
        )


def _group_by_size(inputs: Sequence[Any], one_by_one: bool) -> list[list[int]]:
    """Return the indices of inputs that are no errors, in groups of one size, or each in a group of its own."""
    groups: dict[Any, list[int]] = {}
    for index, part in enumerate(inputs):
        if not isinstance(part, FlorenceError):
            key = index if one_by_one else tuple((name, value.shape) for name, value in part.items())
            groups.setdefault(key, []).append(index)
    return list(groups.values())
