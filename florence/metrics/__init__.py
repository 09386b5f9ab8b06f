"""Metrics: they compare predictions with references, and know no task. One file each; found, never listed.

Predictions and references are two lists in step; an image may come up several times (one example for each of its
regions). What cannot be scored has no value: None, never NaN.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from florence.errors import DataError
from florence.geometry import box_iou
from florence.records import Region, fold_label
from florence.registry import Registry


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer of a model or an annotator to one example.

    ``invalid``: the text broke the task's grammar; the part that could be decoded is scored. ``score``: of the text,
    where a model wrote it. ``truncated``: it would have gone on but for the greatest length that was allowed.
    """

    image_id: str
    text: str = ""
    regions: tuple[Region, ...] = ()
    invalid: bool = False
    score: float | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class GradedAnswers:
    """Scored answers that are either correct or not, to calibrate scores with.

    ``examples`` (n,): number of the example; ``scores`` (n,): 0…1; ``correct`` (n,) bool.
    """

    examples: np.ndarray
    scores: np.ndarray
    correct: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[int, float | None, bool]]) -> GradedAnswers:
        """Return the answers of rows (example, score, correct); a row without a score is left out."""
        rows = [row for row in rows if row[1] is not None]
        return cls(
            np.asarray([row[0] for row in rows], int),
            np.asarray([row[1] for row in rows], float),
            np.asarray([row[2] for row in rows], bool),
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """The correct answer to one example. ``alternatives``: texts as good as ``text``; only captions use them."""

    image_id: str
    text: str = ""
    regions: tuple[Region, ...] = ()
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric's result.

    ``value``: higher is better, None where nothing can be scored. ``per_example`` (n,): NaN where an example cannot be.
    """

    value: float | None
    per_example: np.ndarray
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """A task's score.

    ``value``: higher is better, None where nothing could be scored. ``n``: examples. ``invalid``: share of invalid
    answers, ``truncated``: of truncated ones, 0…1. ``reference``: truth, human or consensus. ``per_image``: for paired
    tests, the mean over the examples of each image that could be scored. ``details``: further figures by name.
    """

    task: str
    metric: str
    value: float | None
    n: int
    invalid: float
    reference: str
    per_image: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)
    truncated: float = 0.0


class Metric(ABC):
    """A way to compare answers with references. A subclass sets ``name`` and writes `measure`.

    ``value_name``: the name of its value in tables, such as map50. A value that is no mean over examples needs
    `resample` too, and ``per_image_name``, what is measured of one image. ``highest``: the value of perfect answers, of
    which margins of promotion are shares.
    """

    name: str
    value_name: str = ""
    per_image_name: str = ""
    highest: float = 1.0

    def score(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], *, task: str = "", reference: str = ""
    ) -> Score:
        """Score predictions against references, one by one in the same order.

        Raises DataError where the two lists are not about the same images.
        """
        _check_pairs(predictions, references)
        if not references:
            return Score(task, self.name, None, 0, 0.0, reference)
        found = self.measure(predictions, references)
        invalid = sum(prediction.invalid for prediction in predictions) / len(predictions)
        per_image = _by_image(references, found.per_example)
        details = {name: float(value) for name, value in found.details.items() if math.isfinite(value)}
        truncated = sum(prediction.truncated for prediction in predictions) / len(predictions)
        return Score(task, self.name, found.value, len(references), invalid, reference, per_image, details, truncated)

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """Return which scored answers are correct. Here none: a metric of degrees has no correct answers."""
        return GradedAnswers.from_rows(())

    @abstractmethod
    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs of prediction and reference."""

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """Return the value (r,) in each of r resamples; NaN where nothing can be scored.

        ``weights`` (r, n): how often each example occurs; with every weight 1 the result is the value of `measure`.
        Here: the mean over the examples that can be scored.
        """
        per_example = self.measure(predictions, references).per_example
        is_scored = ~np.isnan(per_example)
        return divide(weights[:, is_scored] @ per_example[is_scored], weights[:, is_scored].sum(axis=1))


METRICS: Registry[type[Metric]] = Registry("metric", "florence.metrics")


def _check_pairs(predictions: Sequence[Prediction], references: Sequence[Reference]) -> None:
    if len(predictions) != len(references):
        raise DataError(
            f"{len(predictions)} predictions for {len(references)} references; "
            "one for each is expected, in the same order"
        )
    for index, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        if prediction.image_id != reference.image_id:
            raise DataError(
                f"pair {index}: the prediction is about {prediction.image_id!r}, "
                f"the reference about {reference.image_id!r}"
            )


def _by_image(references: Sequence[Reference], per_example: np.ndarray) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for reference, value in zip(references, per_example.tolist(), strict=True):
        if math.isfinite(value):
            values.setdefault(reference.image_id, []).append(value)
    return {image_id: sum(found) / len(found) for image_id, found in values.items()}


# ---------------------------------------------------------------- what metrics share


def mean(values: np.ndarray) -> float | None:
    """Return the mean of the numbers that are not NaN; None where there are none."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else None


def divide_or_nan(part: float, whole: float) -> float:
    """Return ``part`` / ``whole``; NaN where ``whole`` is 0."""
    return part / whole if whole else math.nan


def divide(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Return ``parts`` / ``wholes``, element by element; NaN where ``wholes`` is 0."""
    parts, wholes = np.asarray(parts, float), np.asarray(wholes, float)
    return np.divide(parts, wholes, out=np.full(parts.shape, math.nan), where=wholes > 0)


def region_boxes(regions: Sequence[Region]) -> np.ndarray:
    """Return the boxes (n, 4) around regions, x0, y0, x1, y1 in pixels."""
    return np.asarray([region.bounds for region in regions], float).reshape(-1, 4)


def grade_regions(
    predictions: Sequence[Prediction], references: Sequence[Reference], labelled: bool = True
) -> Iterator[tuple[int, float | None, bool]]:
    """Yield example, score and whether it is correct (see `match_regions`) of each predicted region."""
    for number, (p, r) in enumerate(zip(predictions, references, strict=True)):
        correct = {row for row, _ in match_regions(p.regions, r.regions, labelled=labelled)}
        for row, region in enumerate(p.regions):
            yield number, region.score, row in correct


def match_regions(
    predicted: Sequence[Region], reference: Sequence[Region], iou: float = 0.5, labelled: bool = True
) -> list[tuple[int, int]]:
    """Return pairs (predicted, reference) of regions with an IoU of ``iou`` or more, each region in one pair at most.

    With ``labelled`` their labels are the same too. Greedy: the pair with the highest IoU first.
    """
    if not predicted or not reference:
        return []
    overlap = box_iou(region_boxes(predicted), region_boxes(reference))
    good = overlap >= iou
    if labelled:
        codes: dict[str, int] = {}
        left, right = (
            [codes.setdefault(fold_label(r.label), len(codes)) for r in side] for side in (predicted, reference)
        )
        good &= np.asarray(left)[:, None] == np.asarray(right)[None, :]
    rows, columns = np.nonzero(good)
    pairs: list[tuple[int, int]] = []
    taken: tuple[set[int], set[int]] = (set(), set())
    for index in np.argsort(-overlap[rows, columns], kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row not in taken[0] and column not in taken[1]:
            pairs.append((row, column))
            taken[0].add(row)
            taken[1].add(column)
    return pairs
