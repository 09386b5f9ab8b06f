"""A model that answers questions about images: `load` it from anywhere, and `Model.predict`."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Sequence
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from florence.errors import EncodeError, ImageError, ModelError
from florence.images import MALFORMED, rgb_pixels
from florence.model import checkpoint as checkpoints
from florence.model.checkpoint import Checkpoint
from florence.model.confidence import ModelCalibrations, read_calibrations
from florence.model.generate import Query, check_prompts, predict
from florence.predict.answers import ImageAnswers, TaskAnswer
from florence.predict.questions import Asked, TaskQuestion, read_questions
from florence.predict.reading import ImageInput, ReadImage, read_chunks
from florence.records import digest
from florence.tasks import Answer
from florence.tasks import task as find_task

ImageLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
"""An image: the path of a file, the bytes of one, a Pillow image, or pixels (H, W, 3) uint8, RGB."""
ONE = (str, os.PathLike, bytes, Image.Image, np.ndarray)
BATCH = 64
"""Images that are asked about together, unless their pixels take too much memory."""
ROWS = 128
"""Answers that are decoded together."""
NOTHING = np.zeros((1, 1, 3), np.uint8)
"""Stands where an image could not be read; nothing is asked about it."""
RESOLVERS = "florence.models"
"""The group of entry points that fetch models: scheme of an address → function (address) → folder."""
SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/")


class Model:
    """A model with its calibrated confidences. ``name``: as it was asked for; ``folder``: None for a preset."""

    def __init__(self, name: str, checkpoint: Checkpoint, calibrations: ModelCalibrations, folder: Path | None) -> None:
        self.name, self.checkpoint, self.calibrations, self.folder = name, checkpoint, calibrations, folder

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and of all else that answers depend on."""
        weights = checkpoints.weights_hash(self.folder) if self.folder is not None else _hash_tensors(self.checkpoint)
        return digest([weights, self.checkpoint.image_size])

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        tasks: Asked | Sequence[Asked],
        *,
        beams: int = 1,
        max_tokens: int | None = None,
        batch_size: int = BATCH,
    ) -> list[ImageAnswers]:
        """Return the answers about each image, in order; an image that cannot be read has an error, and costs no other.

        ``images``: one or several, see `ImageLike`. ``tasks``: one or a list; a task with an input is a tuple, as
        ("<CAPTION_TO_PHRASE_GROUNDING>", "a cat") or ("<REGION_TO_CATEGORY>", (40, 60, 200, 180)), a box in pixels.
        ``beams``: more than one searches for the likeliest whole answer. ``max_tokens``: of an answer; None: the
        model's own. ``batch_size``: images that are asked about together.

        Raises UnknownNameError for a task, EncodeError for an input that no image could be asked with, ModelError for
        a ``max_tokens`` below 1.
        """
        questions = read_questions(tasks)
        self.check_questions(questions)
        several: Sequence[Any] = [images] if isinstance(images, ONE) else list(images)
        inputs = [_read_input(index, image) for index, image in enumerate(several)]
        answers: list[ImageAnswers] = []
        for chunk in read_chunks([inputs], batch_size):
            answers += self.answer_images(chunk, questions, beams=beams, max_tokens=max_tokens)
        return answers

    def check_questions(self, questions: Sequence[TaskQuestion]) -> None:
        """Raise EncodeError for a question that is longer than the model can read beside an image."""
        texts = [find_task(one.task).prompt(one.input) for one in questions if one.box is None]
        check_prompts(self.checkpoint, texts)

    def answer_images(
        self,
        images: Sequence[ReadImage],
        questions: Sequence[TaskQuestion],
        *,
        beams: int = 1,
        max_tokens: int | None = None,
    ) -> list[ImageAnswers]:
        """Return the answers about images that were read, all asked together; see `predict`."""
        failures = [[_explain_failure(image, question) for question in questions] for image in images]
        queries = [
            Query(index, question.task, question.encode(image.size))
            for index, (image, row) in enumerate(zip(images, failures, strict=True))
            for question, failure in zip(questions, row, strict=True)
            if not failure
        ]
        pixels = [image.pixels if image.pixels is not None else NOTHING for image in images]
        found = (
            predict(self.checkpoint, pixels, queries, max_tokens=max_tokens, beams=beams, batch_size=ROWS)
            if queries
            else []
        )
        answers = iter(found)
        asked = iter(queries)
        return [
            ImageAnswers(
                image.name,
                image.size,
                tuple(
                    TaskAnswer(image.name, image.size, question.task, question.input, Answer(""), None, failure)
                    if failure
                    else self._make_answer(image, next(asked), next(answers))
                    for question, failure in zip(questions, row, strict=True)
                ),
                image.error,
            )
            for image, row in zip(images, failures, strict=True)
        ]

    def _make_answer(self, image: ReadImage, query: Query, answer: Answer) -> TaskAnswer:
        return TaskAnswer(image.name, image.size, query.task, query.input, answer, self.calibrations.get(query.task))


def load(model: str | os.PathLike[str], *, image_size: int | None = None, device: str | None = None) -> Model:
    """Load a model: its folder, an address as models:/NAME@champion, a preset (nano, …) or a name on the hub.

    A folder is taken before a preset of its name. ``image_size``: the side of the model's input; by default its own.
    ``device``: as torch names it; by default a GPU, where there is one. Confidences come from calibration.json in the
    model's folder. Raises ModelError where there is no such model, it is no Florence-2 model, or nothing that is
    installed fetches such an address.
    """
    import torch

    name = os.fspath(model)
    folder = find_model_folder(name)
    found = checkpoints.load(str(folder) if folder is not None else name, image_size=image_size)
    found.model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Model(name, found, read_calibrations(folder) if folder is not None else ModelCalibrations(), folder)


def find_model_folder(name: str) -> Path | None:
    """Return the folder of a model, fetched where ``name`` is an address; None for a preset and a name on the hub.

    Addresses are fetched by what is installed for their scheme, as an entry point of the group ``florence.models``: so
    this library needs no model registry. Raises ModelError where nothing is, or a folder holds no model.
    """
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError(f"{name} holds no model: config.json is missing; a model's folder is expected")
        return Path(name).absolute()
    if (scheme := SCHEME.match(name)) is None:
        return None
    known = {entry.name: entry for entry in entry_points(group=RESOLVERS)}
    if scheme[1] not in known:
        raise ModelError(
            f"model {name!r}: nothing that is installed fetches {scheme[1]}:/ "
            f"(known: {', '.join(sorted(known)) or 'none'}); install florence with its flows and mlflow, or name the "
            "folder of a model"
        )
    try:
        resolve = known[scheme[1]].load()
    except ImportError as error:
        raise ModelError(f"model {name!r}: {scheme[1]}:/ needs a package that is not installed ({error})") from None
    return Path(resolve(name))


def _explain_failure(image: ReadImage, question: TaskQuestion) -> str:
    """Return why a question cannot be asked about an image, "" where it can."""
    if image.error:
        return image.error
    try:
        question.encode(image.size)
    except EncodeError as error:
        return str(error)
    return ""


def _hash_tensors(checkpoint: Checkpoint) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().float().numpy().tobytes())
    return total.hexdigest()


# ---------------------------------------------------------------- images


def _read_input(index: int, image: Any) -> ImageInput:
    """Return an image as it is read; those without a path are named by their place, from 0."""
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return ImageInput(str(path), partial(read_file, str(path)))
    name = f"image {index}"
    if isinstance(image, bytes | bytearray | memoryview):
        return ImageInput(name, partial(bytes, image))
    return ImageInput(name, partial(_read_pixels, name, image))


def read_file(path: str) -> bytes:
    """Return the bytes of an image's file. Raises ImageError where it cannot be read."""
    try:
        with io.FileIO(path) as file:
            return file.readall()
    except OSError as error:
        raise ImageError(path, "unreadable", error.strerror or str(error)) from None
    except ValueError as error:
        raise ImageError(repr(path), "unreadable", str(error)) from None


def _read_pixels(name: str, image: Any) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of a Pillow image or array. Raises ImageError where it is none."""
    if isinstance(image, Image.Image):
        try:
            return np.ascontiguousarray(rgb_pixels(ImageOps.exif_transpose(image)))
        except MALFORMED as error:
            raise ImageError(name, "unreadable", str(error)) from None
    if not isinstance(image, np.ndarray):
        raise ImageError(
            name, "unreadable", f"a path, bytes, Pillow image or array is expected, not {type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(name, "unreadable", f"pixels (H, W, 3) uint8 are expected, not {image.shape} {image.dtype}")
    return np.ascontiguousarray(image)
