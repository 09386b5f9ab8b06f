"""Objects by a detector of the transformers library: DETR, RT-DETR, D-FINE, Conditional DETR, YOLOS and whatever else is an AutoModelForObjectDetection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.errors import FlorenceError, ModelError, SettingsError
from florence.hub.models import answer, load_config, load_model, load_processor, torch_device, weights_version
from florence.imaging.boxes import objects_found
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
        most: int = Field(100, ge=1, description="objects an image at most, the best")
        names: dict[str, str | None] = Field(
            {}, description="the model's labels under other names; nothing (null) drops a label"
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._network: Any = None
        self._names: dict[int, str] | None = None

    def ingredients(self) -> dict[str, str]:
        """The weights."""
        return {"model": weights_version(self.options.model, self.options.revision)}

    def vocabulary(self) -> tuple[str, ...]:
        """The names of the model's labels, as its configuration has them."""
        return tuple(sorted(set(self._named().values())))

    def load(self) -> None:
        """Load the model. Raises ModelError where that cannot be done."""
        if self._network is None:
            self._named()
            self._processor = load_processor("AutoImageProcessor", self.options.model, self.options.revision)
            self._network = load_model(CLASS, self.options.model, self.options.revision, self.device, dtype="float32")
            if not hasattr(self._processor, "post_process_object_detection"):
                raise ModelError(
                    f"{self.options.model}: its processor, {type(self._processor).__name__}, does not tell boxes. Name a detector such as PekingU/rtdetr_r50vd"
                )

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """The objects of each picture, the best first.

        No picture is padded to the size of another: that would move its boxes. On a GPU those that come out at one size go through the network
        together; on a CPU, where that is no faster and may change the last digits, each goes alone.
        """
        given = [
            answer(record, self._given, pixels) for record, pixels in zip(batch.records, batch.pixels, strict=True)
        ]
        result: list[ClaimsOrError] = [part if isinstance(part, FlorenceError) else [] for part in given]
        for group in _groups(given, alone=torch_device(self.device).type == "cpu"):
            said = answer(
                batch.records[group[0]], self._look, [batch.records[i] for i in group], [given[i] for i in group]
            )
            if isinstance(said, FlorenceError):
                if len(group) > 1:
                    raise said  # the caller then asks about each image alone
                said = [said]
            for index, claims in zip(group, said, strict=True):
                result[index] = claims
        return result

    def _named(self) -> dict[int, str]:
        """The name to claim for each label's number."""
        if self._names is None:
            labels = load_config(self.options.model, self.options.revision).id2label
            if unknown := sorted(set(self.options.names) - set(labels.values())):
                raise SettingsError(
                    f"annotators.{self.name}.names: {self.options.model} has no label {unknown[0]!r}; it has {', '.join(sorted(set(labels.values())))}"
                )
            named = {int(number): self.options.names.get(label, label) for number, label in labels.items()}
            self._names = {number: name for number, name in named.items() if name and name != "N/A"}
        return self._names

    def _given(self, pixels: np.ndarray) -> dict[str, Any]:
        """What the network is given of a picture: (1, …) tensors."""
        from PIL import Image

        # A picture and not an array: of one that is three pixels high it cannot be told where its channels are.
        return dict(self._processor(images=[Image.fromarray(pixels)], return_tensors="pt"))

    def _look(self, records: Sequence[ImageRecord], given: Sequence[dict[str, Any]]) -> list[ClaimsOrError]:
        """The answers for images of one size."""
        import torch

        device = torch_device(self.device)
        with torch.inference_mode():
            output = self._network(**{key: torch.cat([part[key] for part in given]).to(device) for key in given[0]})
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
            return ModelError(f"{record.name}: {self.options.model} answers with scores that are no numbers")
        names = self._named()
        labels = found["labels"].tolist()
        mine = [i for i, label in enumerate(labels) if label in names]
        boxes, scores = found["boxes"].cpu().numpy()[mine], found["scores"].cpu().numpy()[mine]
        return objects_found(
            boxes,
            scores,
            [names[labels[i]] for i in mine],
            record.width,
            record.height,
            self.options.nms_iou,
            self.options.most,
        )


def _groups(given: Sequence[Any], alone: bool) -> list[list[int]]:
    """The indices of what is no error, those of one size together unless each is to be ``alone``."""
    groups: dict[Any, list[int]] = {}
    for index, part in enumerate(given):
        if not isinstance(part, FlorenceError):
            groups.setdefault(index if alone else tuple((key, value.shape) for key, value in part.items()), []).append(
                index
            )
    return list(groups.values())
