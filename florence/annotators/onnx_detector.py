"""Find objects by a detector in an ONNX file whose outputs have the layout of YOLO, NanoDet or DETR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.errors import ModelError, SettingsError
from florence.imaging.boxes import object_claims
from florence.imaging.onnx_outputs import read_detections
from florence.records import ClaimsOrError, ImageRecord
from florence.versions import files_version

Triple = tuple[float, float, float]
LETTERBOX_GREY = 114
"""Value of the pixels around a letterboxed picture."""


@dataclass(frozen=True, slots=True)
class InputDefaults:
    """How pictures are preprocessed for networks of one layout, unless the settings say otherwise."""

    mean: Triple
    std: Triple
    order: str
    resize: str


INPUT_DEFAULTS = {
    "yolo": InputDefaults((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "rgb", "letterbox"),
    "nanodet": InputDefaults((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "bgr", "stretch"),
    "detr": InputDefaults((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb", "stretch"),
}


@ANNOTATORS.register("onnx_detector")
class OnnxDetector(Annotator):
    """Claims objects with boxes."""

    tasks = ("<OD>",)

    class Options(Section):
        """Settings."""

        model: str = Field(min_length=1, description="path of the .onnx file")
        layout: Literal["yolo", "nanodet", "detr"] = Field(
            description="the layout of its outputs; variants are recognised by their shapes"
        )
        labels: tuple[str, ...] | str = Field(
            min_length=1,
            description="names by number, or the path of a text file with one name a line; an empty name drops a label",
        )
        size: int | tuple[int, int] | None = Field(
            None, description="pixels a side of the input, or its height and width; None: as in the file"
        )
        mean: Triple | None = Field(
            None,
            description="subtracted from each channel (0…255, in the order of `order`) before it is divided by std; "
            "None: the layout's default. Inputs of bytes are not normalised",
        )
        std: Triple | None = Field(None, description="what each channel is divided by; None: the layout's default")
        order: Literal["rgb", "bgr"] | None = Field(
            None, description="order of the channels; None: the layout's default"
        )
        resize: Literal["letterbox", "stretch"] | None = Field(
            None,
            description="how a picture gets the input's size: in its aspect ratio with grey around it, or stretched; "
            "None: the layout's default",
        )
        threshold: float = Field(0.3, ge=0, lt=1, description="score that an object must exceed")
        nms_iou: float = Field(
            0.5, gt=0, le=1, description="of boxes under one name that overlap more, the best is kept"
        )
        most: int = Field(100, ge=1, description="largest number of objects in an image; the best are kept")

        @field_validator("size")
        @classmethod
        def _size(cls, value: Any) -> Any:
            if value is not None and not all(
                1 <= side <= 8192 for side in (value if isinstance(value, tuple) else (value,))
            ):
                raise ValueError("1 to 8192 pixels a side are allowed")
            return value

        @field_validator("std")
        @classmethod
        def _std(cls, value: Any) -> Any:
            if value is not None and not all(part > 0 for part in value):
                raise ValueError("three numbers above 0 are allowed")
            return value

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        defaults = INPUT_DEFAULTS[self.options.layout]
        self._mean, self._std = (
            np.asarray(own or default, np.float32)
            for own, default in ((self.options.mean, defaults.mean), (self.options.std, defaults.std))
        )
        self._order, self._resize = self.options.order or defaults.order, self.options.resize or defaults.resize
        self._session: Any = None

    def ingredients(self) -> dict[str, str]:
        """Return a hash of the file and of the files beside it that hold its weights, and the labels."""
        path = self._path()
        beside = [path.with_name(path.name + suffix) for suffix in (".data", "_data")]
        return {
            "model": files_version([path, *(other for other in beside if other.is_file())]),
            "labels": "\n".join(self._labels()),
        }

    def vocabulary(self) -> tuple[str, ...]:
        """Return the labels."""
        return tuple(sorted({label for label in self._labels() if label}))

    def load(self) -> None:
        """Open the file and run it on an empty picture. Raises ModelError if it is no detector of that layout."""
        if self._session is not None:
            return
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # One thread, so that sums come out the same on every machine.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(self._path()), options, providers=_providers(self.device, onnxruntime.get_available_providers())
            )
        except Exception as error:
            raise ModelError(
                f"{self.options.model} cannot be opened ({str(error).splitlines()[0]}): is it a whole ONNX file?"
            ) from None
        self._channels, self._size, self._type = self._input(session.get_inputs())
        self._names = self._labels()
        self._session = session
        try:
            self._detect(np.zeros((8, 8, 3), np.uint8))
        except ModelError:
            self._session = None
            raise

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the objects of each picture, the best first."""
        return [self._claims(record, pixels) for record, pixels in zip(batch.records, batch.pixels, strict=True)]

    def _path(self) -> Path:
        path = Path(self.options.model)
        if not path.is_file():
            raise ModelError(f"annotators.{self.name}.model: {path} is not a file; the path of an .onnx file is needed")
        return path

    def _labels(self) -> tuple[str, ...]:
        if not isinstance(self.options.labels, str):
            return tuple(label.strip() for label in self.options.labels)
        try:
            text = Path(self.options.labels).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"annotators.{self.name}.labels: {self.options.labels} cannot be read ({error}); "
                "a UTF-8 text with one name a line is needed"
            ) from None
        if not text.strip():
            raise SettingsError(
                f"annotators.{self.name}.labels: {self.options.labels} is empty; one name a line is needed"
            )
        return tuple(line.strip() for line in text.rstrip().splitlines())

    def _input(self, inputs: Sequence[Any]) -> tuple[int, tuple[int, int], Any]:
        """Return the network's input: the dimension of its channels, (height, width), and its number type.

        Raises ModelError for a file without one image input, SettingsError for settings that do not fit the input.
        """
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        shapes = ", ".join(f"{item.name} {item.type} {item.shape}" for item in inputs)
        if (
            len(inputs) != 1
            or inputs[0].type not in types
            or len(inputs[0].shape) != 4
            or 3 not in (inputs[0].shape[1], inputs[0].shape[3])
        ):
            raise ModelError(
                f"{self.options.model}: one input (1, 3, height, width) or (1, height, width, 3) of float, float16 or "
                f"uint8 is expected; found {shapes}"
            )
        channels = 1 if inputs[0].shape[1] == 3 else 3
        declared = [side for index, side in enumerate(inputs[0].shape) if index not in (0, channels)]
        own = self.options.size
        size = [own, own] if isinstance(own, int) else list(own) if own else declared
        if not all(isinstance(side, int) for side in size):
            raise SettingsError(
                f"annotators.{self.name}.size: {self.options.model} takes any size ({shapes}); "
                "set one, as 640 or [480, 640]"
            )
        if any(isinstance(side, int) and side != chosen for side, chosen in zip(declared, size, strict=True)):
            raise SettingsError(
                f"annotators.{self.name}.size: {size} is not the input of {self.options.model} ({shapes}); leave it out"
            )
        if inputs[0].type == "tensor(uint8)" and (self.options.mean or self.options.std):
            raise SettingsError(
                f"annotators.{self.name}: {self.options.model} takes bytes ({shapes}), which are not normalised; "
                "leave out mean and std"
            )
        return channels, (size[0], size[1]), types[inputs[0].type]

    def _claims(self, record: ImageRecord, pixels: np.ndarray) -> ClaimsOrError:
        try:
            boxes, scores, labels = self._detect(pixels)
        except ModelError as error:
            return ModelError(f"{record.name}: {error}")
        chosen = [i for i in np.flatnonzero(scores > self.options.threshold) if self._names[labels[i]]]
        return object_claims(
            boxes[chosen],
            scores[chosen],
            [self._names[labels[i]] for i in chosen],
            record.width,
            record.height,
            self.options.nms_iou,
            self.options.most,
        )

    def _detect(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all that the network gives: boxes (n, 4) in the picture's pixels, scores (n,), label numbers (n,)."""
        resized, scale, corner = _resize(pixels, self._size, self._resize == "letterbox")
        resized = resized[..., ::-1] if self._order == "bgr" else resized
        values = (
            resized
            if self._type == np.uint8
            else ((resized.astype(np.float32) - self._mean) / self._std).astype(self._type)
        )
        tensor = np.ascontiguousarray(values.transpose(2, 0, 1) if self._channels == 1 else values)[None]
        names = [output.name for output in self._session.get_outputs()]
        try:
            outputs = self._session.run(names, {self._session.get_inputs()[0].name: tensor})
        except Exception as error:
            raise ModelError(
                f"{self.options.model} failed on an input of {tensor.shape} ({str(error).splitlines()[0]}): "
                "does it take that size?"
            ) from None
        try:
            named_outputs = dict(zip(names, outputs, strict=True))
            found = read_detections(self.options.layout, named_outputs, len(self._names), self._size)
        except ModelError as error:
            raise ModelError(f"{self.options.model}: {error}") from None
        return (found.boxes - np.tile(corner, 2)) / np.tile(scale, 2), found.scores, found.labels


def _providers(device: str, available: Sequence[str]) -> list[Any]:
    """Return the execution providers of onnxruntime for a device. Raises ModelError for one that it does not have."""
    gpu = "CUDAExecutionProvider" in available
    if device == "cpu" or (device == "auto" and not gpu):
        return ["CPUExecutionProvider"]
    name, _, number = device.partition(":")
    if name not in ("auto", "cuda") or not gpu or not (number or "0").isdigit():
        raise ModelError(
            f"device {device!r} cannot be used by onnxruntime, which has {', '.join(available)}: "
            "use auto or cpu, or install onnxruntime-gpu"
        )
    return [("CUDAExecutionProvider", {"device_id": int(number or 0)}), "CPUExecutionProvider"]


def _resize(pixels: np.ndarray, size: tuple[int, int], letterbox: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a picture at ``size`` (height, width), the scale (x, y) of its pixels, and where (x, y) its corner is."""
    import cv2

    height, width = pixels.shape[:2]
    rate = min(size[0] / height, size[1] / width)
    inner = (max(1, round(height * rate)), max(1, round(width * rate))) if letterbox else size
    resized = cv2.resize(pixels, inner[::-1], interpolation=cv2.INTER_LINEAR)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = np.full((*size, 3), LETTERBOX_GREY, np.uint8)
    canvas[top : top + inner[0], left : left + inner[1]] = resized
    return canvas, np.asarray([inner[1] / width, inner[0] / height]), np.asarray([left, top], float)
