"""Quality of the consensus: simulated annotators with declared errors, measured against the truth."""

from __future__ import annotations

import pytest
from engine_claims import NOISE, STUDENT, Scenes, tables

from florence.config import EngineSettings
from florence.engine import fuse
from florence.engine.reliability import estimate_reliability

COUNT = 160


@pytest.fixture(scope="module")
def scenes():
    return Scenes(COUNT, seed=11)


@pytest.fixture(scope="module")
def claims_of(scenes):
    """Return claims by annotator, whose scores tell right ones a little from wrong ones."""
    claims = {name: scenes.says(name, noise, skill=0.2) for name, noise in NOISE.items()}
    claims["student"] = scenes.says(
        "student", STUDENT, skill=0.2, tasks=("<OD>", "<CAPTION>", "<OCR_WITH_REGION>"), alt_noise=0.3, misread=0.15
    )
    return claims


@pytest.fixture(scope="module")
def quality(scenes, claims_of):
    def measure(*names: str, settings: EngineSettings | None = None):
        return scenes.quality(
            fuse(*tables({name: claims_of[name] for name in names}, scenes.images), settings or EngineSettings(), 0)
        )

    single = {name: scenes.quality(tables({name: claims_of[name]}, scenes.images)[0]) for name in claims_of}
    return (
        single,
        measure("careful", "hasty", "crude"),
        measure(*claims_of),
        measure("careful", "hasty", "crude", "student", settings=EngineSettings(student={"cap": 0.2})),
    )


GAIN = {
    ("<OD>", "f1"): 0.04,
    ("<DENSE_REGION_CAPTION>", "f1"): 0.04,
    ("<OCR_WITH_REGION>", "spotted"): 0.03,
    ("<CAPTION>", "cider"): 1.5,
    ("<DETAILED_CAPTION>", "cider"): 2.0,
    ("<MORE_DETAILED_CAPTION>", "cider"): 3.0,
    ("<CAPTION_TO_PHRASE_GROUNDING>", "f1"): 0.08,
}
"""The least gain of the consensus over the best annotator."""


@pytest.mark.parametrize("key", GAIN)
def test_the_consensus_is_better_than_every_annotator(quality, key):
    single, three, _, _ = quality
    best = max(single[name][key] for name in NOISE)
    assert three[key] > best + GAIN[key], f"{key}: consensus {three[key]:.3f}, best annotator {best:.3f}"


@pytest.mark.parametrize("key", [("<OD>", "f1"), ("<OCR_WITH_REGION>", "spotted"), ("<CAPTION>", "cider")])
def test_a_poor_student_helps_all_the_same(quality, key):
    single, three, four, capped = quality
    assert single["student"][key] < min(single[name][key] for name in NOISE)
    assert four[key] > three[key] and capped[key] > three[key] - 0.01


def test_annotators_are_distinguished(scenes, claims_of):
    claims, _, coverage = tables(claims_of, scenes.images)
    found = estimate_reliability(claims, coverage, EngineSettings())
    ranked = [found[name, "<OD>"].value for name in ("careful", "hasty", "crude", "student")]
    assert ranked == sorted(ranked, reverse=True) and ranked[0] > ranked[-1] + 0.1
