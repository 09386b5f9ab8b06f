"""Answers about images, in pixels of the upright image, with scores and confidences; and their JSON values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from florence.errors import UnknownNameError
from florence.model.confidence import Calibration
from florence.records import Region
from florence.tasks import Answer

DIGITS = 2
"""Decimal places of coordinates in JSON values."""


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """The answer to one question about an image.

    ``image``: its name; ``size``: width and height in pixels, (0, 0) where it could not be read; ``task``, ``input``:
    as they stand in the prompt; ``calibration``: of the answer's scores, None where it is not known; ``failure``: why
    the question could not be asked, "" where it was.
    """

    image: str
    size: tuple[int, int]
    task: str
    input: str
    answer: Answer
    calibration: Calibration | None = None
    failure: str = ""

    @property
    def text(self) -> str:
        """The text that the model wrote: a caption, a name, or the text that regions were read from."""
        return self.answer.text

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions in pixels; their ``score`` is the model's own."""
        return self.answer.regions

    @property
    def score(self) -> float | None:
        """The model's score of the whole answer; None where nothing was answered."""
        return self.answer.score

    @property
    def confidence(self) -> float | None:
        """How often an answer of this score is right; None where that is not known, and for an answer with regions.

        An answer that was cut has none either: it is not one of those that were found right or wrong.
        """
        if self.answer.regions or self.answer.truncated or self.failure:
            return None
        return self.confidence_of(self.answer.score)

    @property
    def confidences(self) -> tuple[float | None, ...]:
        """The confidence of each region."""
        return tuple(self.confidence_of(region.score) for region in self.answer.regions)

    @property
    def likely_regions(self) -> tuple[Region, ...]:
        """The regions with confidences in place of scores, where they are known."""
        if self.calibration is None:
            return self.answer.regions
        return tuple(replace(region, score=self.confidence_of(region.score)) for region in self.answer.regions)

    @property
    def error(self) -> str:
        """Why there is no answer, or no whole one; "" where there is."""
        return self.failure or (str(self.answer.error) if self.answer.error is not None else "")

    def confidence_of(self, score: float | None) -> float | None:
        """Return how often an answer of this score is right; None where that is not known."""
        return None if score is None or self.calibration is None else self.calibration.confidence(score)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON values; see `answer_values`."""
        return answer_values(self)


@dataclass(frozen=True, slots=True)
class ImageAnswers:
    """The answers about one image, in the order of the questions; by number or by task: ``found["<OD>"]``.

    ``error``: why the image could not be read, "" where it was; then every answer has it too.
    """

    image: str
    size: tuple[int, int]
    answers: tuple[TaskAnswer, ...]
    error: str = ""

    def __getitem__(self, key: int | str) -> TaskAnswer:
        if isinstance(key, int):
            return self.answers[key]
        found = next((answer for answer in self.answers if answer.task == key), None)
        if found is None:
            raise UnknownNameError("answer to", key, (answer.task for answer in self.answers))
        return found

    def __iter__(self) -> Iterator[TaskAnswer]:
        return iter(self.answers)

    def __len__(self) -> int:
        return len(self.answers)

    def to_dict(self) -> dict[str, Any]:
        """Return the image with all its answers as JSON values."""
        return {
            "image": self.image,
            "width": self.size[0],
            "height": self.size[1],
            "error": self.error or None,
            "answers": [answer_values(answer) for answer in self.answers],
        }


def answer_values(found: TaskAnswer) -> dict[str, Any]:
    """Return an answer as JSON values; boxes, quads and polygons in pixels of the upright image."""
    return {
        "image": found.image,
        "width": found.size[0],
        "height": found.size[1],
        "task": found.task,
        "input": found.input,
        "text": found.text,
        "score": found.score,
        "confidence": found.confidence,
        "regions": [_region_values(found, region) for region in found.regions],
        "truncated": found.answer.truncated,
        "error": found.error or None,
    }


def _region_values(found: TaskAnswer, region: Region) -> dict[str, Any]:
    polygons = [[round(v, DIGITS) for v in polygon] for polygon in region.polygons]
    coordinates = {"box": region.box, "quad": region.quad}
    return {
        "label": region.label,
        "score": region.score,
        "confidence": found.confidence_of(region.score),
        **{name: [round(v, DIGITS) for v in values] for name, values in coordinates.items() if values},
        **({"polygons": polygons} if polygons else {}),
    }
