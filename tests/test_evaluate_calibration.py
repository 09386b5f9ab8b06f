"""Confidences from scores: against known chances, other implementations, and on images that were not fitted on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from florence.errors import ModelError
from florence.evaluate.calibration import (
    BINS,
    MIN_ANSWERS,
    build_calibrations_json,
    expected_calibration_error,
    fit_calibration,
)
from florence.metrics import METRICS, GradedAnswers, Prediction, Reference
from florence.model.confidence import parse_calibrations, read_calibrations
from florence.records import Region


def grade(scores: np.ndarray, chance: np.ndarray, seed: int = 0) -> tuple[GradedAnswers, list[str]]:
    """Answers that are right with a known chance, three of each image."""
    correct = np.random.default_rng(seed).random(len(scores)) < chance
    return GradedAnswers(np.arange(len(scores)) // 3, scores, correct), [
        f"image-{i}" for i in range(len(scores) // 3 + 1)
    ]


def test_confidences_are_the_chances_that_answers_were_drawn_with():
    scores = np.random.default_rng(1).random(6000)
    chance = scores**3 * 0.8  # surer than it is right, everywhere
    found = fit_calibration(*grade(scores, chance))
    at = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose([found.confidence(score) for score in at], at**3 * 0.8, atol=0.08)
    assert found.error == pytest.approx(np.mean(scores - chance), abs=0.02)
    assert found.calibrated < 0.03 and found.n == 6000
    rising = [found.confidence(score) for score in np.linspace(-1, 2, 50)]
    assert rising == sorted(rising) and 0 <= rising[0] and rising[-1] <= 1


def test_it_is_measured_on_images_that_were_not_fitted_on():
    """Scores are noise here: a map that is measured on what it was fitted on follows it and looks good."""
    rng = np.random.default_rng(2)
    scores, correct = rng.random(60), rng.random(60) < 0.5
    # three answers of an image are the same: with them in both parts the map would know what is asked
    found = fit_calibration(
        GradedAnswers(np.arange(180) // 3, np.repeat(scores, 3), np.repeat(correct, 3)), [str(i) for i in range(60)]
    )
    at, height = np.asarray(found.scores), np.asarray(found.confidences)
    seen = expected_calibration_error(np.interp(np.repeat(scores, 3), at, height), np.repeat(correct, 3).astype(float))
    assert seen < 0.02 < 0.1 < found.calibrated


def test_the_error_is_that_of_its_definition():
    rng = np.random.default_rng(3)
    sure, correct = rng.random(500), (rng.random(500) < 0.4).astype(float)
    edges = np.linspace(0, 1, BINS + 1)
    by_hand = 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (sure >= low) & (sure < high if high < 1 else sure <= 1)
        if inside.any():
            by_hand += inside.mean() * abs(sure[inside].mean() - correct[inside].mean())
    assert expected_calibration_error(sure, correct) == pytest.approx(by_hand)
    assert (
        expected_calibration_error(np.ones(4), np.ones(4)) == 0
        and expected_calibration_error(np.ones(4), np.zeros(4)) == 1
    )


def test_too_few_or_all_alike_give_none():
    few = MIN_ANSWERS - 1
    assert fit_calibration(*grade(np.linspace(0, 1, few), np.full(few, 0.5))) is None
    assert fit_calibration(*grade(np.linspace(0, 1, 100), np.ones(100))) is None
    assert fit_calibration(*grade(np.linspace(0, 1, 100), np.zeros(100))) is None
    assert (
        fit_calibration(GradedAnswers(np.zeros(100, int), np.linspace(0, 1, 100), np.arange(100) % 2 > 0), ["one"])
        is None
    )


def test_it_is_read_as_it_was_written_and_other_files_are_refused(tmp_path: Path):
    found = fit_calibration(*grade(np.linspace(0, 1, 300), np.linspace(0, 1, 300)))
    written = build_calibrations_json({"<OD>": found})
    assert parse_calibrations(json.loads(json.dumps(written))) == {"<OD>": found}
    assert read_calibrations(tmp_path) == {}
    for broken in (
        "{",
        "[]",
        '{"<OD>": {}}',
        json.dumps({"<OD>": {**written["<OD>"], "confidences": [0.5]}}),
        json.dumps({"<OD>": {**written["<OD>"], "scores": ["a", "b"]}}),
    ):
        (tmp_path / "calibration.json").write_text(broken)
        with pytest.raises(ModelError, match="calibration.json"):
            read_calibrations(tmp_path)


@pytest.mark.parametrize(
    "name, predicted, expected, correct",
    [
        ("detection", [("cup", 0), ("cup", 2), ("owl", 50)], [("cup", 0), ("hat", 50)], [True, False, False]),
        ("proposal", [("", 0), ("", 2), ("", 50)], [("cup", 0), ("hat", 50)], [True, False, True]),
        ("reading", [("STOP", 0), ("GO", 50)], [("STOP", 1), ("NO", 50)], [True, False]),
        ("grounding", [("a cup", 0), ("a cup", 60), ("a hat", 50)], [("a cup", 0), ("a hat", 0)], [True, False, False]),
    ],
)
def test_regions_are_graded_by_label_and_box(name: str, predicted, expected, correct):
    def regions(found, scored: bool):
        return tuple(
            Region(label, box=(x, 0.0, x + 20.0, 20.0), score=0.1 * (i + 1) if scored else None)
            for i, (label, x) in enumerate(found)
        )

    metric = METRICS.get(name)()
    prediction, reference = Prediction("a", "", regions(predicted, True)), Reference("a", "", regions(expected, False))
    found = metric.grade([Prediction("z"), prediction], [Reference("z"), reference])
    assert found.correct.tolist() == correct and found.examples.tolist() == [1] * len(predicted)
    np.testing.assert_allclose(found.scores, [0.1 * (i + 1) for i in range(len(predicted))])
    # what no model has scored is not graded
    assert not len(metric.grade([Prediction("a", "", regions(predicted, False))], [reference]).correct)


@pytest.mark.parametrize(
    "name, text, correct",
    [
        ("category", "Cup", True),
        ("category", "cap", False),
        ("answer", "the cup", True),
        ("answer", "two", False),
        ("reading", "cup", True),
        ("reading", "Cup", False),
    ],
)
def test_texts_are_graded_by_their_words(name: str, text: str, correct: bool):
    found = METRICS.get(name)().grade([Prediction("a", text, score=0.3)], [Reference("a", "cup")])
    assert (found.correct.tolist(), found.scores.tolist()) == ([correct], [0.3])


def test_captions_have_only_degrees():
    assert not len(
        METRICS.get("caption")().grade([Prediction("a", "a cup", score=0.3)], [Reference("a", "a cup")]).correct
    )
