"""The model as an annotator: the queries it answers, and the claims made of the answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import florence.model
from florence.annotators import ImageBatch
from florence.codec.grammar import box_tokens
from florence.config import Settings
from florence.engine.second_look import DISAGREEMENT_FACTOR, rename_region
from florence.engine.student import StudentAnnotator
from florence.errors import ModelError
from florence.images import decode_image
from florence.model.checkpoint import load
from florence.model.confidence import Calibration, Curve, ModelCalibrations, SecondLook
from florence.model.generate import Query, predict
from florence.records import ImageRecord, Region
from florence.sources import SOURCES, SourceImage
from florence.tasks import Answer

NANO = str(Path(florence.model.__file__).parent / "nano")


def settings(**student) -> Settings:
    return Settings(
        sources={"scenes": {"use": "scenes"}},
        annotators={"a": {"use": "simulated", "sources": ["*"]}},
        engine={"student": {"min_score": 0.0, **student}},
        model={"image_size": 64},
    )


@pytest.fixture(scope="module")
def batch() -> ImageBatch:
    pictures = [
        found for found in SOURCES.get("scenes")(count=6, seed=5).images(frozenset()) if isinstance(found, SourceImage)
    ]
    pixels = tuple(decode_image(found.data, found.name) for found in pictures)
    records = tuple(
        ImageRecord(f"{k:064x}", p.shape[1], p.shape[0], "scenes", f"{k}.png", "CC0", None, "train")
        for k, p in enumerate(pixels)
    )
    return ImageBatch(records, pixels)


def objects(claims) -> list[list[Region]]:
    return [[claim.regions[0] for claim in image_claims if claim.task == "<OD>"] for image_claims in claims]


def test_an_object_has_the_name_of_the_second_look(batch: ImageBatch):
    twice = objects(StudentAnnotator(NANO, settings()).annotate(batch))
    once = objects(StudentAnnotator(NANO, settings(second_look=False)).annotate(batch))
    model = load(NANO, image_size=64)
    first = predict(model, batch.pixels, [Query(k, "<OD>") for k in range(len(batch.pixels))])
    assert sum(map(len, twice)) and all(
        {r.label for r in found} <= {r.label for r in a.regions} for found, a in zip(once, first, strict=True)
    )
    for k, found in enumerate(twice):
        height, width = batch.pixels[k].shape[:2]
        predictions = predict(
            model,
            batch.pixels,
            [Query(k, "<REGION_TO_CATEGORY>", box_tokens(r.bounds, (width, height))) for r in found],
        )
        assert [r.label for r in found] == [a.text.strip() for a in predictions]
        assert {r.bounds for r in found} <= {r.bounds for r in first[k].regions}


@given(st.floats(0, 1), st.floats(0, 1))
def test_two_looks_that_are_not_calibrated_are_no_two_witnesses(first: float, second: float):
    region, none = Region("cat", box=(0, 0, 1, 1), score=first), ModelCalibrations()
    assert rename_region(region, Answer("Cat", score=second), none).score == max(first, second)
    other = rename_region(region, Answer("dog", score=second), none)
    assert (other.label, other.score) == ("dog", second * DISAGREEMENT_FACTOR)
    assert rename_region(region, Answer("", score=second), none) == region
    # without a second name the first look's own calibration holds
    halved = ModelCalibrations({"<OD>": Calibration((0.0, 1.0), (0.0, 0.5), 0, 0, 9, transfer=1.0)})
    assert rename_region(region, Answer("", score=second), halved).score == pytest.approx(first / 2)


def test_two_looks_have_the_confidence_that_was_fitted_for_the_source():
    curve = Calibration((0.0, 1.0), (0.1, 0.9), 0, 0, 9, 0.4, 0.5, {"scenes": Curve((0.0, 1.0), (0.0, 1.0))})
    known = ModelCalibrations({}, SecondLook((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), curve))
    region = Region("cat", box=(0, 0, 1, 1), score=0.3)
    # agreeing names: s is the second look's score itself; else it is σ(−1), whatever the scores
    assert rename_region(region, Answer("cat", score=0.7), known, "scenes").score == pytest.approx(0.7)
    assert rename_region(region, Answer("cat", score=0.7), known, "photos").score == pytest.approx(
        0.4 + (0.1 + 0.8 * 0.7 - 0.4) / 2
    )
    renamed = rename_region(region, Answer("dog", score=0.7), known, "scenes")
    assert (renamed.label, renamed.score) == ("dog", pytest.approx(1 / (1 + np.e)))


def test_the_settings_are_part_of_the_version():
    versions = {
        StudentAnnotator(NANO, settings(**more)).version
        for more in ({}, {"second_look": False}, {"min_score": 0.1}, {"tasks": ["<OD>"]})
    }
    assert len(versions) == 4


def test_a_second_look_changes_no_captions_and_no_ocr_lines(batch: ImageBatch):
    both = [
        StudentAnnotator(NANO, settings(second_look=look, tasks=["<CAPTION>", "<OCR_WITH_REGION>"])).annotate(batch)
        for look in (True, False)
    ]
    assert both[0] == both[1] and all(
        any(claim.task == "<CAPTION>" for claim in image_claims) for image_claims in both[0]
    )


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match=str(tmp_path)):
        StudentAnnotator(str(tmp_path), settings()).version  # noqa: B018


def test_scores_are_confidences_where_a_calibration_lies_beside_the_weights(batch: ImageBatch, tmp_path: Path):
    folder = tmp_path / "student"
    shutil.copytree(NANO, folder)
    plain = StudentAnnotator(str(folder), settings(second_look=False))
    before, version = objects(plain.annotate(batch)), plain.version
    twice = objects(StudentAnnotator(str(folder), settings()).annotate(batch))
    halved = Calibration((0.0, 1.0), (0.0, 0.5), 0.2, 0.1, 200, 0.5, 0.5, {"scenes": Curve((0.0, 1.0), (0.0, 0.5))})
    constant = Calibration((0.0,), (0.25,), 0.2, 0.1, 200, 0.25)
    known = ModelCalibrations({"<OD>": halved}, SecondLook((0.0, 0.5, 0.5), (0.0, 0.5, 0.5), constant))
    (folder / "calibration.json").write_text(json.dumps(known.to_json()))
    calibrated = StudentAnnotator(str(folder), settings(second_look=False))
    after = objects(calibrated.annotate(batch))
    assert sum(map(len, before)) and [[r.score / 2 for r in found] for found in before] == [
        pytest.approx([r.score for r in found]) for found in after
    ]
    assert [[r.label for r in found] for found in before] == [
        [r.label for r in found] for found in after
    ] and calibrated.version != version
    renamed = objects(StudentAnnotator(str(folder), settings()).annotate(batch))
    assert {r.label for found in renamed for r in found} == {r.label for found in twice for r in found}
    assert {r.score for found in renamed for r in found} == {0.25}
    (folder / "calibration.json").write_text("{")
    with pytest.raises(ModelError, match="calibration"):
        StudentAnnotator(str(folder), settings()).annotate(batch)
