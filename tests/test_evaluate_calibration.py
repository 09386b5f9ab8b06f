"""Confidences from scores: against known chances, other implementations, and on images that were not fitted on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from florence.errors import ModelError
from florence.evaluate.calibration import (
    MIN_ANSWERS,
    PRIOR_ANSWERS,
    GradedImages,
    GradedLooks,
    fit_calibration,
    fit_second_look,
    fit_smoothed_isotonic,
    join_graded,
)
from florence.metrics import METRICS, GradedAnswers, Prediction, Reference
from florence.metrics.calibration import expected_calibration_error
from florence.model.confidence import Calibration, ModelCalibrations, SecondLook, parse_calibrations, read_calibrations
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
    seen = np.asarray([found.confidence(score, "") for score in np.repeat(scores, 3).tolist()])
    assert expected_calibration_error(seen, np.repeat(correct, 3)) < found.calibrated / 2


def test_no_end_is_certain_and_an_end_of_few_answers_says_less():
    # three wrong answers below, four right ones above, and one of two between
    scores = np.array([0.1, 0.1, 0.2, 0.5, 0.6, 0.8, 0.8, 0.9, 0.9])
    correct = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1])
    found = fit_smoothed_isotonic(scores, correct)
    assert [found(score) for score in (0.0, 0.2, 0.5, 0.6, 0.8, 1.0)] == pytest.approx(
        [1 / 5, 1 / 5, 2 / 4, 2 / 4, 5 / 6, 5 / 6], abs=1e-6
    )
    # what smoothing lets fall is pooled: 0 of 1, then 1 of 40
    rising = fit_smoothed_isotonic(np.r_[0.1, np.full(40, 0.5)], np.r_[0, 1, np.zeros(39)])
    assert rising.confidences[0] == pytest.approx((1 / 3 * 3 + 2 / 42 * 42) / 45, abs=1e-6)
    assert list(rising.confidences) == sorted(rising.confidences)


def mixed(chances, n: int = 900, seed: int = 4):
    """Answers of several sources, one image each, right with ``chances[source](score)``."""
    rng = np.random.default_rng(seed)
    scores, source = rng.random(n * len(chances)), np.repeat(list(chances), n)
    chance = np.asarray([chances[name](score) for name, score in zip(source, scores, strict=True)])
    answers = GradedAnswers(np.arange(len(scores)), scores, rng.random(len(scores)) < chance)
    return answers, [str(k) for k in range(len(scores))], source.tolist()


def test_each_source_has_its_own_map_and_a_small_one_is_drawn_to_the_whole():
    answers, images, sources = mixed({"drawn": lambda s: 0.2 + 0.7 * s, "photos": lambda s: 0.5 * s})
    keep = [k for k, name in enumerate(sources) if name == "drawn" or k % 90 == 0]  # ten of the photos
    few = GradedAnswers(np.arange(len(keep)), answers.scores[keep], answers.correct[keep])
    found = fit_calibration(few, [images[k] for k in keep], [sources[k] for k in keep])
    whole = fit_calibration(few, [images[k] for k in keep])
    assert found.confidence(0.9, "drawn") == pytest.approx(0.83, abs=0.06)
    many = fit_calibration(answers, images, sources)
    gaps = [one.confidence(0.9, "drawn") - one.confidence(0.9, "photos") for one in (found, many)]
    assert 0 < gaps[0] < 0.2 < 0.25 < gaps[1], f"ten answers weigh {10 / (10 + PRIOR_ANSWERS):.2f}"
    assert many.confidence(0.9, "photos") == pytest.approx(0.45, abs=0.09)
    assert many.calibrated < 0.06 < fit_calibration(answers, images).error
    # as one source: what no source is named for is shrunk half-way to the base rate
    at = np.interp(0.95, whole.scores, whole.confidences)
    assert whole.confidence(0.95, "photos") == pytest.approx((at + whole.base_rate) / 2, abs=1e-6)
    assert whole.confidence(0.95) == pytest.approx(at, abs=1e-6), "neither names a source"


def test_an_unknown_source_is_drawn_to_the_base_rate_by_what_sources_tell_of_each_other():
    alike, images, sources = mixed(dict.fromkeys(("a", "b", "c"), lambda s: s))
    same = fit_calibration(alike, images, sources)
    other, images, sources = mixed({"a": lambda s: s, "b": lambda s: 0.5, "c": lambda s: 1 - s})
    unlike = fit_calibration(other, images, sources)
    assert same.transfer > 0.8 > 0.5 > unlike.transfer
    assert same.confidence(0.95, "new") > 0.8 > 0.65 > unlike.confidence(0.95, "new")
    assert unlike.confidence(0.95, "a") > 0.8


def looks_at(seed: int, n: int = 3000) -> tuple[GradedLooks, list[str]]:
    """Two looks of one model: both scores follow from one hidden state, so they are far from independent."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(1, 1, n)
    first, second = (np.clip(chance**0.5 + rng.normal(0, 0.03, n), 0, 1) for _ in range(2))
    agree = rng.random(n) < chance
    correct = rng.random(n) < np.where(agree, chance, chance / 3)
    old_rule = np.where(agree, 1 - (1 - first) * (1 - second), second / 2)
    return GradedLooks(np.arange(n) // 3, first, second, agree, old_rule, correct), [str(k) for k in range(n)]


def test_two_looks_make_one_confidence():
    looks, images = looks_at(0)
    found = fit_second_look(looks, images)
    assert found.calibration.error > 0.2 > 0.05 > found.calibration.calibrated
    other, _ = looks_at(1)  # looks that it was not fitted on
    pairs = zip(other.first.tolist(), other.second.tolist(), other.agree.tolist(), strict=True)
    stated = np.asarray([found.confidence(p, q, agree, "") for p, q, agree in pairs])
    assert expected_calibration_error(stated, other.correct) < 0.05
    assert 0 < stated.min() and stated.max() < 1
    assert found.confidence(0.8, 0.8, True) > found.confidence(0.8, 0.8, False)


def test_few_looks_that_differ_have_the_share_of_right_ones():
    looks, images = looks_at(2, 200)
    agree = np.arange(200) >= 10
    found = fit_second_look(
        GradedLooks(looks.examples, looks.first, looks.second, agree, looks.rule, looks.correct), images
    )
    assert found.differ[1:] == (0.0, 0.0) and found.agree[1:] != (0.0, 0.0)
    assert (
        fit_second_look(
            GradedLooks(
                *(
                    values[:50]
                    for values in (looks.examples, looks.first, looks.second, agree, looks.rule, looks.correct)
                )
            ),
            images,
        )
        is None
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
    answers, images, sources = mixed({"drawn": lambda s: s, "photos": lambda s: s / 2}, 150)
    looks, names = looks_at(3, 300)
    found = ModelCalibrations({"<OD>": fit_calibration(answers, images, sources)}, fit_second_look(looks, names))
    written = found.to_json()
    assert parse_calibrations(json.loads(json.dumps(written))) == found
    assert read_calibrations(tmp_path) == ModelCalibrations()

    def changed(**values) -> str:
        return json.dumps({**written, "tasks": {"<OD>": {**written["tasks"]["<OD>"], **values}}})

    for broken, part in (
        ("{", "line 1"),
        ("[]", "mapping"),
        ('{"<OD>": {}}', "<OD>"),
        (changed(confidences=[0.5]), "rising"),
        (changed(scores=["a", "b"]), "float"),
        (changed(base_rate=2), "base_rate"),
        (changed(sources={"photos": {"scores": [0.1]}}), "photos"),
        (changed(more=1), "<OD>"),
        (json.dumps({**written, "tasks": []}), "tasks"),
        (json.dumps({**written, "more": 1}), "version, tasks and second_look"),
        (json.dumps({**written, "version": 3}), "a newer Florence"),
        (json.dumps({**written, "second_look": {**written["second_look"], "agree": [1.0]}}), "three numbers"),
    ):
        (tmp_path / "calibration.json").write_text(broken)
        with pytest.raises(ModelError, match="calibration.json") as error:
            read_calibrations(tmp_path)
        assert part in str(error.value)


def test_a_file_of_version_1_is_read_as_of_sources_that_are_not_known():
    old = {"scores": [0.0, 1.0], "confidences": [0.0, 1.0], "error": 0.2, "calibrated": 0.1, "n": 200}
    found = parse_calibrations({"<OD>": old})
    assert found.second_look is None and found.get("<CAPTION>") is None
    assert [found.get("<OD>").confidence(score, "photos") for score in (0, 0.5, 1)] == [0, 0.5, 0.75]


def test_weights_of_any_size_give_a_score():
    found = SecondLook((-1e300, 1.0, 1.0), (1e300, 1.0, 1.0), Calibration((0.0, 1.0), (0.0, 1.0), 0, 0, 9))
    assert found.score(0.5, 0.5, True) < 1e-300 and found.score(0.0, 1.0, False) == 1.0


def test_a_source_without_a_map_is_shrunk():
    found = Calibration((0.0, 1.0), (0.2, 0.8), 0.1, 0.1, 9, base_rate=0.4, transfer=0.25)
    assert found.confidence(1.0, "photos") == pytest.approx(0.4 + 0.25 * 0.4)
    assert found.confidence(0.0, "photos") == 0.2, "nothing makes a low one higher"


def test_parts_of_different_images_are_joined():
    parts = []
    for seed, source in ((0, "drawn"), (1, "photos")):
        answers, images, _ = mixed({source: lambda s: s}, 60, seed)
        looks, _ = looks_at(seed, 60)
        names = tuple(f"{source}-{image}" for image in images)
        parts.append(GradedImages(answers, names, (source,) * 60, looks if seed else None))
    whole = join_graded(parts)
    assert len(whole.images) == 120 and whole.sources[59:61] == ("drawn", "photos")
    for part, start in zip(parts, (0, 60), strict=True):
        rows = slice(start, start + 60)
        assert [whole.images[k] for k in whole.answers.examples[rows]] == [
            part.images[k] for k in part.answers.examples
        ]
        np.testing.assert_array_equal(whole.answers.scores[rows], part.answers.scores)
        np.testing.assert_array_equal(whole.answers.correct[rows], part.answers.correct)
    assert {whole.images[k].split("-")[0] for k in whole.looks.examples} == {"photos"}
    assert fit_calibration(parts[0].answers, parts[0].images) is None, "too few"
    assert set(fit_calibration(whole.answers, whole.images, whole.sources).sources) == {"drawn", "photos"}


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
