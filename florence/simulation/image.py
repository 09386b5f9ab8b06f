"""Simulate all claims of an annotator about one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from florence.records import ANNOTATION_TYPES, FINE_TUNED, Annotation, Claim, ImageRecord, Region
from florence.simulation.captions import simulate_captions
from florence.simulation.errors import ImageErrors, SimulationSettings
from florence.simulation.words import COLOURS, replace_label

DESCRIPTION, EXPRESSION = "<DENSE_REGION_CAPTION>", "<REFERRING_EXPRESSION_SEGMENTATION>"


def simulate_claims(
    settings: SimulationSettings, annotator: str, record: ImageRecord, truth: Sequence[Annotation]
) -> list[Claim]:
    """Return the truth about an image as an annotator of that name with those error rates claims it."""
    errors = ImageErrors(settings, annotator, record, [row for row in truth if row.task in ANNOTATION_TYPES])
    claims: list[Claim] = []
    if "<OD>" in settings.tasks:
        claims += _objects(errors)
    if DESCRIPTION in settings.tasks:
        claims += _region_texts(errors, DESCRIPTION, polygons=False)
    if EXPRESSION in settings.tasks:
        claims += _region_texts(errors, EXPRESSION, polygons=True)
    if "<OCR_WITH_REGION>" in settings.tasks:
        claims += _ocr_lines(errors)
    return claims + simulate_captions(errors) + _answers(errors)


def _objects(errors: ImageErrors) -> list[Claim]:
    claims = []
    polygons = EXPRESSION in errors.settings.tasks
    for row, outcome in zip(errors.truth_of("<OD>"), errors.outcomes, strict=True):
        if outcome.is_found:
            label = outcome.wrong_label or row.text
            region = outcome.move_region(row.regions[0], label, polygons=polygons)
            claims.append(Claim("<OD>", label, (region,), outcome.score))
    return claims + [claim for index in range(len(errors.outcomes)) for claim in _invented_object(errors, index)]


def _invented_object(errors: ImageErrors, index: int) -> list[Claim]:
    """Return an object that is not there, of about the size of object ``index``, or nothing."""
    draw = errors.stream("invented", index)
    happens, choice, x, y, *stretch = draw.random(6)
    if happens >= errors.settings.invented:
        return []
    record = errors.record
    x0, y0, x1, y1 = errors.outcomes[index].before
    w = min((x1 - x0) * (0.7 + 0.6 * stretch[0]), record.width)
    h = min((y1 - y0) * (0.7 + 0.6 * stretch[1]), record.height)
    left, top = x * (record.width - w), y * (record.height - h)
    label, score = errors.wrong_label("", choice), errors.score(draw, False)
    return [Claim("<OD>", label, (Region(label, box=(left, top, left + w, top + h), score=score),), score)]


def _region_texts(errors: ImageErrors, task: str, *, polygons: bool) -> list[Claim]:
    claims = []
    for index, row in enumerate(errors.truth_of(task)):
        outcome = errors.outcome_at(row.regions[0].bounds, task, index)
        if outcome.is_found:
            wrong_label = outcome.wrong_label
            text = replace_label(row.text, outcome.label, wrong_label) if wrong_label else row.text
            region = outcome.move_region(row.regions[0], text, polygons=polygons)
            claims.append(Claim(task, text, (region,), outcome.score))
    return claims


def _ocr_lines(errors: ImageErrors) -> list[Claim]:
    claims = []
    for index, row in enumerate(errors.truth_of("<OCR_WITH_REGION>")):
        outcome = errors.outcome(row.regions[0].bounds, "", "sign", index)
        if not outcome.is_found:
            continue
        draw = errors.stream("misread", index)
        read = [errors.read_character(c, draw) for c in row.text]
        text = "".join(read).strip()
        if not text:
            continue
        correct = sum(a == b for a, b in zip(read, row.text, strict=True)) / len(read)
        outcome = replace(outcome, score=errors.score(draw, correct))
        region = outcome.move_region(row.regions[0], text, polygons=False)
        claims.append(Claim("<OCR_WITH_REGION>", text, (region,), outcome.score))
    return claims


def _answers(errors: ImageErrors) -> list[Claim]:
    """Return answers to questions and categories of images; their random numbers are keyed by the question."""
    claims = []
    settings = errors.settings
    for task in FINE_TUNED:
        for row in errors.truth_of(task) if task in settings.tasks else ():
            draw = errors.stream(task, row.text if task == "<VQA>" else "")
            missed, confused, choice = draw.random(3)
            truth = row.regions[0].label
            answer = _wrong_answer(errors, row.text, truth, choice)
            if answer is None:
                answer = "".join(errors.read_character(c, draw) for c in truth).strip()
            elif confused >= settings.mislabelled:
                answer = truth
            score = errors.score(draw, answer == truth)
            if missed >= settings.missed and answer:
                region = replace(row.regions[0], label=answer, score=score)
                claims.append(Claim(task, row.text if task == "<VQA>" else answer, (region,), score))
    return claims


def _wrong_answer(errors: ImageErrors, question: str, answer: str, choice: float) -> str | None:
    """Return a wrong answer of the same sort; None for a text read in the picture, whose characters may be wrong."""
    if answer in ("yes", "no"):
        return "no" if answer == "yes" else "yes"
    if answer.isdigit() and question.lower().startswith("how many"):
        return str(max(int(answer) + (1 if choice < 0.5 else -1), 0) if answer != "0" else 1)
    if answer in COLOURS:
        others = [c for c in COLOURS if c not in (answer, "grey")]
        return others[int(choice * len(others))]
    return errors.wrong_label(answer, choice) if answer in errors.labels else None
