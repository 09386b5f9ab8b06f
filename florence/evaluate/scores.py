"""Scores of a model on held-out images, by task and reference, beside its scores with the images shuffled.

The interval of a score is that of the metric's own value over images: with w*ᵣ ~ Multinomial(n, 1/n … 1/n) the number
of times that each of n images occurs in resample r, the quantiles α/2 and 1 − α/2 of value(w*₁) … value(w*_R). All
examples of an image come along (cluster bootstrap). Davison and Hinkley, "Bootstrap Methods and Their Application",
1997, section 3.8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from florence.config import EvaluateSettings
from florence.engine.second_look import OBJECTS
from florence.errors import EncodeError
from florence.evaluate.calibration import GradedImages, fit_calibration, fit_second_look, join_graded
from florence.evaluate.references import REFERENCE_ORDER, References, order_by_hash
from florence.evaluate.second_look import ask_second_looks, grade_second_looks
from florence.geometry import Box, Quad
from florence.metrics import METRICS, Metric, Prediction, Reference, Score
from florence.model.confidence import Calibration, ModelCalibrations, SecondLook
from florence.model.generate import Query
from florence.records import ImageRecord, Region
from florence.tasks import Answer, Example, task

SCORES = pa.schema(
    [("image_id", pa.string()), ("task", pa.string()), ("reference", pa.string()), ("value", pa.float64())]
)
"""One value for each image and task; ``reference``: truth, human or consensus."""
ALPHA = 0.05
"""Intervals cover 1 − ALPHA."""

Predict = Callable[[Sequence[np.ndarray], Sequence[Query]], Sequence[Answer]]
"""Called with images (H, W, 3) and queries; returns the answers in the same order, regions in pixels of their image."""


@dataclass(frozen=True, slots=True)
class Question:
    """One example that the model is asked.

    ``reference``: where it is from. ``alternatives``: texts as good as the example's. ``shuffled_image``: the other
    image of the same question in the shuffled-image baseline; "" for none.
    """

    example: Example
    reference: str
    alternatives: tuple[str, ...] = ()
    shuffled_image: str = ""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's score against one reference.

    ``low``, ``high``: 95% bootstrap interval over images, None with fewer than two. ``shuffled``: the score with each
    question asked of another image. ``refused``: labels of the reference that cannot be written in the task's grammar.
    ``calibration``: of the answers' scores, ``second_look``: of two looks at objects; None where too few are graded.
    ``graded``: the answers that both follow from.
    """

    score: Score
    low: float | None
    high: float | None
    shuffled: Score | None = None
    refused: int = 0
    calibration: Calibration | None = None
    second_look: SecondLook | None = None
    graded: GradedImages | None = None


def score_tasks(
    records: Sequence[ImageRecord],
    read_pixels: Callable[[Sequence[str]], Iterable[tuple[str, np.ndarray]]],
    references: References,
    settings: EvaluateSettings,
    predict: Predict,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[TaskResult]:
    """Return the scores of the model behind ``predict``, by task and reference.

    ``records``: held-out images. ``read_pixels``: yields id and pixels of the images it is given, in any order. At most
    ``settings.batch_size`` images are in memory; each is given to ``predict`` once with all of its queries, and once
    more with the boxes of the objects that were found in it, as the student looks at them twice.
    """
    questions, refused = choose_questions(records, references, settings)
    answers = _collect_answers(questions, read_pixels, predict, settings.batch_size, progress)
    by_id = {record.image_id: record for record in records}
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.example.task, question.reference), []).append(question)
    return [
        _score_group(groups[key], answers, by_id, settings, refused[key])
        for key in sorted(groups, key=_order(settings))
    ]


def _order(settings: EvaluateSettings) -> Callable[[tuple[str, str]], tuple[int, int]]:
    return lambda key: (settings.tasks.index(key[0]), REFERENCE_ORDER.index(key[1]))


# ---------------------------------------------------------------- questions


def choose_questions(
    records: Sequence[ImageRecord], references: References, settings: EvaluateSettings
) -> tuple[list[Question], Counter[tuple[str, str]]]:
    """Return the questions about the images, and how many labels cannot be asked about, by (task, reference).

    At most ``settings.max_images`` images of each reference and ``settings.max_examples`` examples of each image and
    task, both drawn by hash, so that more images hardly change the questions about the others.
    """
    by_id = {record.image_id: record for record in records}
    result: list[Question] = []
    refused: Counter[tuple[str, str]] = Counter()
    types = dict.fromkeys(task(name).annotation_type for name in settings.tasks)
    for reference in references.names:
        rows = {annotation_type: references.select(annotation_type, reference) for annotation_type in types}
        images = order_by_hash(
            {image for found in rows.values() for image, labels in found.items() if labels and image in by_id},
            settings.seed,
        )
        images = images[: settings.max_images]
        for name in settings.tasks:
            errors: list[EncodeError] = []
            found = rows[task(name).annotation_type]
            for image in images:
                examples = task(name).examples(by_id[image], [row for row in found.get(image, ()) if row.kept], errors)
                result += _draw_questions(examples, reference, settings)
            refused[name, reference] = len(errors)
    return _add_shuffled_images(result, settings), refused


def _draw_questions(examples: Iterable[Example], reference: str, settings: EvaluateSettings) -> Iterator[Question]:
    """Yield questions of one image and task; further texts of the same prompt are alternatives of the first."""
    prompts: dict[str, list[Example]] = {}
    key: tuple[object, ...] = ()
    for example in examples:
        prompts.setdefault(example.input, []).append(example)
        # the image is part of the draw, else the same names would be asked for in every image
        key = settings.seed, example.task, example.image_id
    chosen = set(order_by_hash(prompts, *key)[: settings.max_examples])
    for prompt, found in prompts.items():
        if prompt in chosen:
            yield Question(
                found[0], reference, tuple(dict.fromkeys(e.text for e in found[1:] if e.text != found[0].text))
            )


def _add_shuffled_images(questions: list[Question], settings: EvaluateSettings) -> list[Question]:
    """Return the questions, those of ``settings.shuffled_image_tasks`` with another image each.

    It is the next image in a circle of the reference's images, in drawn order.
    """
    circles: dict[str, dict[str, str]] = {}
    for reference in {question.reference for question in questions}:
        # the hash key "control" fixes the draw
        images = order_by_hash(
            (q.example.image_id for q in questions if q.reference == reference), settings.seed, "control"
        )
        if len(images) > 1:
            circles[reference] = dict(zip(images, [*images[1:], images[0]], strict=True))
    return [
        replace(q, shuffled_image=circles.get(q.reference, {}).get(q.example.image_id, ""))
        if q.example.task in settings.shuffled_image_tasks
        else q
        for q in questions
    ]


# ---------------------------------------------------------------- answers

QuestionKey = tuple[str, str, str]
"""Image id, task, input."""


@dataclass(frozen=True, slots=True)
class CollectedAnswers:
    """``answers`` to questions; ``second_looks`` at the objects of an image, by its id, in the order of its answer."""

    answers: Mapping[QuestionKey, Answer]
    second_looks: Mapping[str, Sequence[Answer]]


def _collect_answers(
    questions: Sequence[Question],
    read_pixels: Callable[[Sequence[str]], Iterable[tuple[str, np.ndarray]]],
    predict: Predict,
    batch: int,
    progress: Callable[[int, int], None],
) -> CollectedAnswers:
    """Return every answer; the same query of one image is asked once.

    Tasks without an input ask the same of an image for themselves and for the shuffled-image baseline.
    """
    wanted: dict[str, dict[QuestionKey, None]] = {}
    for question in questions:
        for image in (question.example.image_id, question.shuffled_image):
            if image:
                wanted.setdefault(image, {})[image, question.example.task, question.example.input] = None
    result: dict[QuestionKey, Answer] = {}
    second_looks: dict[str, list[Answer]] = {}
    done = 0
    for chunk in _split_chunks(read_pixels(sorted(wanted)), batch):
        asks = [(index, key) for index, (image, _) in enumerate(chunk) for key in wanted[image]]
        found = predict(
            [pixels for _, pixels in chunk], [Query(index, name, prompt) for index, (_, name, prompt) in asks]
        )
        result.update(zip([key for _, key in asks], found, strict=True))
        second_looks |= ask_second_looks(chunk, result, predict)
        done += len(chunk)
        progress(done, len(wanted))
    return CollectedAnswers(result, second_looks)


def _split_chunks(images: Iterable[tuple[str, np.ndarray]], size: int) -> Iterator[list[tuple[str, np.ndarray]]]:
    chunk: list[tuple[str, np.ndarray]] = []
    for image in images:
        chunk.append(image)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _make_prediction(
    question: Question,
    answers: Mapping[QuestionKey, Answer],
    records: Mapping[str, ImageRecord],
    *,
    shuffled: bool = False,
) -> Prediction:
    """Return the answer with its regions scaled to the question's own image."""
    example = question.example
    image = question.shuffled_image if shuffled else example.image_id
    answer = answers[image, example.task, example.input]
    regions = answer.regions
    own, its = records[example.image_id], records[image]
    if (own.width, own.height) != (its.width, its.height):
        x, y = own.width / its.width, own.height / its.height
        regions = tuple(_scale_region(region, x, y) for region in regions)
    return Prediction(example.image_id, answer.text, regions, answer.error is not None, answer.score, answer.truncated)


def _scale_region(region: Region, x: float, y: float) -> Region:
    """Return ``region`` in an image that is ``x`` times as wide and ``y`` times as high."""

    def scaled(points: Sequence[float]) -> tuple[float, ...]:
        return tuple(value * (y if index & 1 else x) for index, value in enumerate(points))

    return replace(
        region,
        box=cast(Box, scaled(region.box)) if region.box else None,
        quad=cast(Quad, scaled(region.quad)) if region.quad else None,
        polygons=tuple(scaled(points) for points in region.polygons),
    )


# ---------------------------------------------------------------- scores


def _score_group(
    questions: Sequence[Question],
    collected: CollectedAnswers,
    records: Mapping[str, ImageRecord],
    settings: EvaluateSettings,
    refused: int,
) -> TaskResult:
    name, reference = questions[0].example.task, questions[0].reference
    metric = METRICS.get(task(name).metric)()
    right = [_make_reference(question) for question in questions]
    predictions = [_make_prediction(question, collected.answers, records) for question in questions]
    score = metric.score(predictions, right, task=name, reference=reference)
    low, high = _bootstrap_interval(metric, predictions, right, settings) if score.value is not None else (None, None)
    shuffled = None
    if all(question.shuffled_image for question in questions):
        others = [_make_prediction(question, collected.answers, records, shuffled=True) for question in questions]
        shuffled = metric.score(others, right, task=name, reference=reference)
    images = tuple(r.image_id for r in right)
    sources = tuple(records[image].source for image in images)
    answers = metric.grade(predictions, right)
    calibration = fit_calibration(answers, images, sources)
    looks = second_look = None
    if name == OBJECTS:
        looks = grade_second_looks(predictions, collected.second_looks, right, sources, calibration)
        second_look = fit_second_look(looks, images, sources)
    graded = GradedImages(answers, images, sources, looks)
    return TaskResult(score, low, high, shuffled, refused, calibration, second_look, graded)


def calibrate_tasks(results: Iterable[TaskResult]) -> ModelCalibrations:
    """Return the calibrations of a model: each task's of all its references, as each image has but one.

    So sources without truth have a map too: how often answers are as people say there, or else the consensus.
    """
    parts: dict[str, list[GradedImages]] = {}
    for result in results:
        if result.graded is not None:
            parts.setdefault(result.score.task, []).append(result.graded)
    tasks, second_look = {}, None
    for name, found in parts.items():
        whole = join_graded(found)
        if (calibration := fit_calibration(whole.answers, whole.images, whole.sources)) is not None:
            tasks[name] = calibration
        if whole.looks is not None:
            second_look = fit_second_look(whole.looks, whole.images, whole.sources)
    return ModelCalibrations(tasks, second_look)


def _make_reference(question: Question) -> Reference:
    return Reference(question.example.image_id, question.example.text, question.example.regions, question.alternatives)


def _bootstrap_interval(
    metric: Metric, predictions: Sequence[Prediction], right: Sequence[Reference], settings: EvaluateSettings
) -> tuple[float | None, float | None]:
    """Return the percentile interval of the metric's own value over resampled images."""
    images, member = np.unique([reference.image_id for reference in right], return_inverse=True)
    if len(images) < 2:
        return None, None
    rng = np.random.default_rng([settings.seed, len(images)])
    times = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=settings.bootstrap)
    values = metric.resample(predictions, right, times[:, member].astype(float))
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


# ---------------------------------------------------------------- files


def build_scores_table(scores: Iterable[Score]) -> pa.Table:
    """Return a table of schema `SCORES`, sorted."""
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
    """Return task → reference → figures; a figure that is not known is left out.

    ``n``: images. ``per_image``: the mean over them, which promotion compares.
    """
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
            "truncated": score.truncated or None,
            "shuffled": result.shuffled.value if result.shuffled else None,
            "per_image": sum(per_image) / len(per_image) if per_image else None,
            "refused": result.refused or None,
            "calibration": _list_calibration_figures(result.calibration),
            "second_look": _list_calibration_figures(
                None if result.second_look is None else result.second_look.calibration
            ),
            "details": {name: round_figure(value) for name, value in sorted(score.details.items())} or None,
        }
        found.setdefault(score.task, {})[score.reference] = {
            key: round_figure(value) for key, value in values.items() if value is not None
        }
    return found


def _list_calibration_figures(found: Calibration | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {name: round_figure(getattr(found, name)) for name in ("error", "calibrated", "n")}


def round_figure(value: Any) -> Any:
    """Return a float with six digits, as in the files of metrics/; any other value as it is."""
    return round(value, 6) if isinstance(value, float) else value
