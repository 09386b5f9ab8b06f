"""A model's scores on held-out images: asked as it is used, compared with what is right, beside the same with the images shuffled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from florence.config import EvaluateSettings
from florence.errors import EncodeError
from florence.evaluate.calibration import fit_calibration
from florence.evaluate.references import REFERENCE_ORDER, References, order_by_hash
from florence.geometry import Box, Quad
from florence.metrics import METRICS, Metric, Prediction, Reference, Score
from florence.model.confidence import Calibration
from florence.model.generate import Query
from florence.records import ImageRecord, Region
from florence.tasks import Answer, Example, task

SCORES = pa.schema(
    [("image_id", pa.string()), ("task", pa.string()), ("reference", pa.string()), ("value", pa.float64())]
)
"""One value for each image and task; ``reference`` says what the image was compared with."""
ALPHA = 0.05

Predict = Callable[[Sequence[np.ndarray], Sequence[Query]], Sequence[Answer]]
"""Called with pictures (height, width, 3) and what to ask of them; gives the answers in the same order, places in pixels of their picture."""


@dataclass(frozen=True, slots=True)
class Question:
    """One example that is asked. ``reference``: where it is from; ``alternatives``: other texts as good as the example's.

    ``other``: the image it is asked of as a control; "" for none.
    """

    example: Example
    reference: str
    alternatives: tuple[str, ...] = ()
    shuffled_image: str = ""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's score against one reference. ``low``, ``high``: 95% bootstrap interval over images, None with fewer than two.

    ``control``: the score with each question asked of another image, where it was. ``refused``: labels of the reference that could not be asked about.
    ``calibration``: of the scores that the answers came with, None where too few are plainly right or wrong.
    """

    score: Score
    low: float | None
    high: float | None
    shuffled: Score | None = None
    refused: int = 0
    calibration: Calibration | None = None


def score_tasks(
    records: Sequence[ImageRecord],
    pictures: Callable[[Sequence[str]], Iterable[tuple[str, np.ndarray]]],
    known: References,
    settings: EvaluateSettings,
    predict: Predict,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[TaskResult]:
    """Scores of the model behind ``predict``, by task and reference.

    ``records``: held-out images; ``pictures``: gives the pixels of those named, in any order, one by one. At most
    ``settings.batch_size`` pictures are in memory; each is given to ``predict`` once, with all that is asked of it.
    """
    asked, refused = choose_questions(records, known, settings)
    answers = _answers(asked, pictures, predict, settings.batch_size, progress)
    sizes = {record.image_id: (record.width, record.height) for record in records}
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in asked:
        groups.setdefault((question.example.task, question.reference), []).append(question)
    return [
        _result(groups[key], answers, sizes, settings, refused[key]) for key in sorted(groups, key=_order(settings))
    ]


def _order(settings: EvaluateSettings) -> Callable[[tuple[str, str]], tuple[int, int]]:
    return lambda key: (settings.tasks.index(key[0]), REFERENCE_ORDER.index(key[1]))


# ---------------------------------------------------------------- what is asked


def choose_questions(
    records: Sequence[ImageRecord], known: References, settings: EvaluateSettings
) -> tuple[list[Question], Counter[tuple[str, str]]]:
    """What is asked about the images, and how many labels could not be, by (task, reference).

    Of each reference at most ``settings.max_images`` images and of each image and task at most ``settings.max_examples``
    examples, both drawn by hash, so that more images change little of what is asked of the others.
    """
    by_id = {record.image_id: record for record in records}
    result: list[Question] = []
    refused: Counter[tuple[str, str]] = Counter()
    kinds = dict.fromkeys(task(name).annotation_type for name in settings.tasks)
    for reference in known.references:
        rows = {kind: known.of(kind, reference) for kind in kinds}
        images = order_by_hash(
            {image for found in rows.values() for image, there in found.items() if there and image in by_id},
            settings.seed,
        )
        images = images[: settings.max_images]
        for name in settings.tasks:
            errors: list[EncodeError] = []
            found = rows[task(name).annotation_type]
            for image in images:
                examples = task(name).examples(by_id[image], [row for row in found.get(image, ()) if row.kept], errors)
                result += _few(examples, reference, settings)
            refused[name, reference] = len(errors)
    return _add_shuffled_images(result, settings), refused


def _few(examples: Iterable[Example], reference: str, settings: EvaluateSettings) -> Iterator[Question]:
    """Some of the examples of one image and task. One prompt has one answer: further texts are alternatives of the first."""
    prompts: dict[str, list[Example]] = {}
    key: tuple[object, ...] = ()
    for example in examples:
        prompts.setdefault(example.input, []).append(example)
        # the image is part of the draw, or the same names would be asked for in every image
        key = settings.seed, example.task, example.image_id
    chosen = set(order_by_hash(prompts, *key)[: settings.max_examples])
    for prompt, found in prompts.items():
        if prompt in chosen:
            yield Question(
                found[0], reference, tuple(dict.fromkeys(e.text for e in found[1:] if e.text != found[0].text))
            )


def _add_shuffled_images(asked: list[Question], settings: EvaluateSettings) -> list[Question]:
    """The questions of the tasks in ``settings.shuffled_image_tasks`` with another image each: the next one in a drawn circle of its reference's images."""
    circles: dict[str, dict[str, str]] = {}
    for reference in {question.reference for question in asked}:
        images = order_by_hash(
            (q.example.image_id for q in asked if q.reference == reference), settings.seed, "control"
        )
        if len(images) > 1:
            circles[reference] = dict(zip(images, [*images[1:], images[0]], strict=True))
    return [
        replace(q, shuffled_image=circles.get(q.reference, {}).get(q.example.image_id, ""))
        if q.example.task in settings.shuffled_image_tasks
        else q
        for q in asked
    ]


# ---------------------------------------------------------------- what is answered

QuestionKey = tuple[str, str, str]
"""Image id, task, input."""


def _answers(
    asked: Sequence[Question],
    pictures: Callable[[Sequence[str]], Iterable[tuple[str, np.ndarray]]],
    predict: Predict,
    batch: int,
    progress: Callable[[int, int], None],
) -> dict[QuestionKey, Answer]:
    """Every answer; what is asked twice of one image, as tasks without an input are for their control, is answered once."""
    wanted: dict[str, dict[QuestionKey, None]] = {}
    for question in asked:
        for image in (question.example.image_id, question.shuffled_image):
            if image:
                wanted.setdefault(image, {})[image, question.example.task, question.example.input] = None
    result: dict[QuestionKey, Answer] = {}
    done = 0
    for chunk in _chunks(pictures(sorted(wanted)), batch):
        asks = [(index, key) for index, (image, _) in enumerate(chunk) for key in wanted[image]]
        found = predict(
            [picture for _, picture in chunk], [Query(index, name, prompt) for index, (_, name, prompt) in asks]
        )
        result.update(zip([key for _, key in asks], found, strict=True))
        done += len(chunk)
        progress(done, len(wanted))
    return result


def _chunks(pictures: Iterable[tuple[str, np.ndarray]], size: int) -> Iterator[list[tuple[str, np.ndarray]]]:
    chunk: list[tuple[str, np.ndarray]] = []
    for picture in pictures:
        chunk.append(picture)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _prediction(
    question: Question,
    answers: Mapping[QuestionKey, Answer],
    sizes: Mapping[str, tuple[int, int]],
    *,
    shuffled: bool = False,
) -> Prediction:
    """The answer as one about the question's own image."""
    example = question.example
    image = question.shuffled_image if shuffled else example.image_id
    answer = answers[image, example.task, example.input]
    regions = answer.regions
    if sizes[image] != sizes[example.image_id]:
        x, y = (own / its for own, its in zip(sizes[example.image_id], sizes[image], strict=True))
        regions = tuple(_scaled(region, x, y) for region in regions)
    return Prediction(example.image_id, answer.text, regions, answer.error is not None, answer.score)


def _scaled(region: Region, x: float, y: float) -> Region:
    """``region`` in an image that is ``x`` times as wide and ``y`` times as high."""

    def scaled(points: Sequence[float]) -> tuple[float, ...]:
        return tuple(value * (y if index & 1 else x) for index, value in enumerate(points))

    return replace(
        region,
        box=cast(Box, scaled(region.box)) if region.box else None,
        quad=cast(Quad, scaled(region.quad)) if region.quad else None,
        polygons=tuple(scaled(points) for points in region.polygons),
    )


# ---------------------------------------------------------------- what it is worth


def _result(
    asked: Sequence[Question],
    answers: Mapping[QuestionKey, Answer],
    sizes: Mapping[str, tuple[int, int]],
    settings: EvaluateSettings,
    refused: int,
) -> TaskResult:
    name, reference = asked[0].example.task, asked[0].reference
    metric = METRICS.get(task(name).metric)()
    right = [_reference(question) for question in asked]
    said = [_prediction(question, answers, sizes) for question in asked]
    score = metric.score(said, right, task=name, reference=reference)
    low, high = _interval(metric, said, right, settings) if score.value is not None else (None, None)
    shuffled = None
    if all(question.shuffled_image for question in asked):
        shuffled = [_prediction(question, answers, sizes, shuffled=True) for question in asked]
        shuffled = metric.score(shuffled, right, task=name, reference=reference)
    calibration = fit_calibration(metric.grade(said, right), [r.image_id for r in right])
    return TaskResult(score, low, high, shuffled, refused, calibration)


def _reference(question: Question) -> Reference:
    return Reference(question.example.image_id, question.example.text, question.example.regions, question.alternatives)


def _interval(
    metric: Metric, said: Sequence[Prediction], right: Sequence[Reference], settings: EvaluateSettings
) -> tuple[float | None, float | None]:
    """Percentile interval of the metric's own value over images drawn with replacement; all examples of an image come along."""
    images, member = np.unique([reference.image_id for reference in right], return_inverse=True)
    if len(images) < 2:
        return None, None
    rng = np.random.default_rng([settings.seed, len(images)])
    times = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=settings.bootstrap)
    values = metric.resample(said, right, times[:, member].astype(float))
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


# ---------------------------------------------------------------- what is written


def build_scores_table(scores: Iterable[Score]) -> pa.Table:
    """A table of schema `SCORES`, sorted."""
    rows = sorted(
        (score.task, score.reference, image, value) for score in scores for image, value in score.per_image.items()
    )
    return pa.table(
        {
            "image_id": [r[2] for r in rows],
            "task": [r[0] for r in rows],
            "reference": [r[1] for r in rows],
            "value": [r[3] for r in rows],
        },
        schema=SCORES,
    )


def build_scores_json(results: Iterable[TaskResult]) -> dict[str, dict[str, dict[str, Any]]]:
    """task → reference → figures; what there is no figure for is left out. ``n``: images, ``per_image``: the mean over them, which promotion compares."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        score = result.score
        per_image = list(score.per_image.values())
        values: dict[str, Any] = {
            "metric": METRICS.get(score.metric).value_name or score.metric,
            "value": score.value,
            "low": result.low,
            "high": result.high,
            "n": len(per_image),
            "examples": score.n,
            "invalid": score.invalid,
            "shuffled": result.shuffled.value if result.shuffled else None,
            "per_image": sum(per_image) / len(per_image) if per_image else None,
            "refused": result.refused or None,
            "calibration": {
                name: round_figure(getattr(result.calibration, name)) for name in ("error", "calibrated", "n")
            }
            if result.calibration
            else None,
            "details": {name: round_figure(value) for name, value in sorted(score.details.items())} or None,
        }
        found.setdefault(score.task, {})[score.reference] = {
            key: round_figure(value) for key, value in values.items() if value is not None
        }
    return found


def round_figure(value: Any) -> Any:
    """Floats to six digits, as they stand in metrics files; all else as it is."""
    return round(value, 6) if isinstance(value, float) else value
