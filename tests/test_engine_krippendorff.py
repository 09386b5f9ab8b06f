"""Krippendorff's alpha: published worked examples, and annotators of objects whose agreement is counted by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from engine_claims import box, image, tables

from florence.config import EngineSettings
from florence.engine.krippendorff import MISSING, krippendorff_alpha, measure_object_alpha
from florence.records import AnnotatorProfile

PLACE = (10, 10, 50, 50)


def columns(*texts: str) -> np.ndarray:
    """Values of observers, a character each; a dot is missing."""
    return np.asarray([[MISSING if c == "." else ord(c) for c in text] for text in texts]).T


@pytest.mark.parametrize(
    "observers, alpha",
    [
        (("0100000010", "1110010000"), 0.095),  # example A of Krippendorff (2011)
        (("aabbdcccedda", "babbbccceddd"), 0.692),  # example B
        (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),  # examples C and D
        (("abab", "abab"), 1.0),
        (("abab", "baba"), -0.75),
    ],
)
def test_published_examples(observers: tuple[str, ...], alpha: float):
    assert krippendorff_alpha(columns(*observers)) == pytest.approx(alpha, abs=5e-4)


def test_it_is_the_mean_over_all_pairs():
    """Observed and chance disagreement by the definition: pair by pair, weighted by 1 / (m_u − 1)."""
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 4, (80, 5))
    units = [row[row != MISSING] for row in values if (row != MISSING).sum() > 1]
    pooled = np.concatenate(units)
    n = len(pooled)
    observed = sum(sum(a != b for a, b in product(unit, unit)) / (len(unit) - 1) for unit in units) / n
    by_chance = sum(a != b for a, b in product(pooled, pooled)) / (n * (n - 1))
    assert krippendorff_alpha(values) == pytest.approx(1 - observed / by_chance)


def test_it_is_not_defined_without_two_values():
    for values in (columns("aaaa", "aaaa"), columns("ab..", "..ab"), np.zeros((0, 3), int), columns("....")):
        assert krippendorff_alpha(values) is None


def measure(claims_of, profiles=()):
    """Alpha by annotators, of images on which each annotator claims what it is given."""
    images = [image(f"x{k:03d}") for k in range(len(next(iter(claims_of.values()))))]
    by_image = {
        name: {i.image_id: found for i, found in zip(images, claims, strict=True) if found is not None}
        for name, claims in claims_of.items()
    }
    claims, _, coverage = tables(by_image, images)
    found = measure_object_alpha(claims, coverage, EngineSettings(), profiles)
    return {one.annotators: (one.value, one.units) for one in found}


def alpha_of(*texts: str):
    return pytest.approx(krippendorff_alpha(columns(*texts)), abs=1e-6)


def named(text: str):
    """Claims of one place on each image: a cat, a dog, nothing (-), not asked (.)."""
    words = {"c": [box("cat", *PLACE)], "d": [box("dog", *PLACE)], "-": [], ".": None}
    return [words[c] for c in text]


def test_silence_of_those_who_were_asked_is_a_value():
    found = measure({"a": named("ccddccdd"), "b": named("ccddcd--"), "c": named("cc--dddd")})
    assert found["a", "b", "c"] == (alpha_of("ccddccdd", "ccddcd--", "cc--dddd"), 8)
    assert found["a", "b"] == (alpha_of("ccddccdd", "ccddcd--"), 8)
    assert set(found) == {("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c")}


def test_who_was_not_asked_or_has_no_such_name_says_nothing():
    found = measure({"a": named("ccddccdd"), "b": named("ccddcd..")})
    assert found == {("a", "b"): (alpha_of("ccddccdd", "ccddcd.."), 6)}
    found = measure({"a": named("ccddccdd"), "b": named("cc--cc--")}, [AnnotatorProfile("b", vocabulary=("cat",))])
    assert found == {("a", "b"): (None, 4)}, "both say cat of all that b could name"


def test_people_are_silent_about_what_is_not_there_where_they_label_everything():
    claims = {"a": named("ccddccdd"), "anna": named("ccddcd--")}
    for complete, units in ((True, 8), (False, 6)):
        found = measure(claims, [AnnotatorProfile("anna", "human", complete=complete)])
        assert found["a", "human"][1] == units


def test_the_student_is_compared_but_is_no_witness():
    found = measure({"a": named("ccdd"), "b": named("ccd-"), "c": named("cddd"), "student": named("ccdd")})
    assert ("a", "b", "c") in found and ("a", "student") in found
    assert measure({"a": named("ccdd")}) == {}
