"""How good answers are. One file a metric; found, never listed. Metrics know no task: they compare predictions with references.

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
from florence.records import Region
from florence.registry import Registry


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model or an annotator says about one example. ``invalid``: its text was no legal answer; what was certain of it is scored. ``score``: of its text, where a model wrote it."""

    image_id: str
    text: str = ""
    regions: tuple[Region, ...] = ()
    invalid: bool = False
    score: float | None = None


@dataclass(frozen=True, slots=True)
class GradedAnswers:
    """Things said that are plainly right or wrong: the number of the example ``examples`` (n,), ``scores`` (n,) from 0 to 1, and whether ``right`` (n,) bool."""

    examples: np.ndarray
    scores: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, found: Iterable[tuple[int, float | None, bool]]) -> GradedAnswers:
        """Of (example, score, right); what has no score is left out."""
        rows = [row for row in found if row[1] is not None]
        return cls(
            np.asarray([row[0] for row in rows], int),
            np.asarray([row[1] for row in rows], float),
            np.asarray([row[2] for row in rows], bool),
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """What is right about one example. ``alternatives``: other texts that are as good as ``text``; captions alone use them."""

    image_id: str
    text: str = ""
    regions: tuple[Region, ...] = ()
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric's result. ``value``: higher is better, None where nothing can be scored; ``per_example``: (n,), NaN where an example cannot."""

    value: float | None
    per_example: np.ndarray
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """A task's score. ``value``: higher is better, None where nothing could be scored. ``n``: examples; ``invalid``: share of invalid answers, 0…1.

    ``reference``: what was scored against (truth, human, consensus). ``per_image``: a value for each image that could be scored, the
    mean over its examples, for paired tests. ``details``: further figures by name.
    """

    task: str
    metric: str
    value: float | None
    n: int
    invalid: float
    reference: str
    per_image: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)


class Metric(ABC):
    """A way to compare answers with references. A subclass sets ``name`` and writes `measure`.

    ``value_name``: what its value is called in tables, as map50. A value that is no mean over examples needs `resampled` too.
    """

    name: str
    value_name: str = ""

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
        return Score(task, self.name, found.value, len(references), invalid, reference, per_image, details)

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """Whether each thing that is said is right, with the score that it was given. Here nothing: where there are only degrees, nothing is plainly right."""
        return GradedAnswers.of(())

    @abstractmethod
    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs."""

    def resample(
        self, predictions: Sequence[Prediction], references: Sequence[Reference], weights: np.ndarray
    ) -> np.ndarray:
        """The value (r,) in each of r resamples. ``weights`` (r, n): how often an example is in it. NaN where nothing can be scored.

        With every weight 1 it is the value of `measure`. Here: the mean over the examples that can be scored.
        """
        per_example = self.measure(predictions, references).per_example
        there = ~np.isnan(per_example)
        return divide(weights[:, there] @ per_example[there], weights[:, there].sum(axis=1))


METRICS: Registry[type[Metric]] = Registry("metric", "florence.metrics")


def _check_pairs(predictions: Sequence[Prediction], references: Sequence[Reference]) -> None:
    if len(predictions) != len(references):
        raise DataError(
            f"{len(predictions)} predictions for {len(references)} references; one for each is expected, in the same order"
        )
    for index, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        if prediction.image_id != reference.image_id:
            raise DataError(
                f"pair {index}: the prediction is about {prediction.image_id!r}, the reference about {reference.image_id!r}"
            )


def _by_image(references: Sequence[Reference], per_example: np.ndarray) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for reference, value in zip(references, per_example.tolist(), strict=True):
        if math.isfinite(value):
            values.setdefault(reference.image_id, []).append(value)
    return {image_id: sum(found) / len(found) for image_id, found in values.items()}


# ---------------------------------------------------------------- what metrics share


def mean(values: np.ndarray) -> float | None:
    """The mean of the numbers that are not NaN; None where there are none."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else None


def divide_or_nan(part: float, whole: float) -> float:
    """``part`` / ``whole``; NaN of nothing."""
    return part / whole if whole else math.nan


def divide(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """``parts`` / ``wholes``, element by element; NaN of nothing."""
    parts, wholes = np.asarray(parts, float), np.asarray(wholes, float)
    return np.divide(parts, wholes, out=np.full(parts.shape, math.nan), where=wholes > 0)


def normalize_label(text: str) -> str:
    """``text`` as labels are compared: without case, white space as single spaces."""
    return " ".join(text.casefold().split())


def region_boxes(regions: Sequence[Region]) -> np.ndarray:
    """The boxes (n, 4) around regions."""
    return np.asarray([region.bounds for region in regions], float).reshape(-1, 4)


def grade_regions(
    predictions: Sequence[Prediction], references: Sequence[Reference], labelled: bool = True
) -> Iterator[tuple[int, float | None, bool]]:
    """Of each region said its example, its score, and whether it is one of `matches`."""
    for number, (p, r) in enumerate(zip(predictions, references, strict=True)):
        right = {row for row, _ in match_regions(p.regions, r.regions, labelled=labelled)}
        for row, region in enumerate(p.regions):
            yield number, region.score, row in right


def match_regions(
    predicted: Sequence[Region], reference: Sequence[Region], iou: float = 0.5, labelled: bool = True
) -> list[tuple[int, int]]:
    """Pairs (predicted, reference) whose boxes overlap by ``iou`` or more and, if ``labelled``, whose labels are the same.

    Greedy: the pair that overlaps most first, each region in one pair at most.
    """
    if not predicted or not reference:
        return []
    overlap = box_iou(region_boxes(predicted), region_boxes(reference))
    good = overlap >= iou
    if labelled:
        codes: dict[str, int] = {}
        left, right = (
            [codes.setdefault(normalize_label(r.label), len(codes)) for r in side] for side in (predicted, reference)
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
