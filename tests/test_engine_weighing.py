"""How evidence was weighed: who was asked about the same images, by family, and what follows from it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from engine_claims import box, image, line, tables

from florence.config import EngineSettings
from florence.engine.consensus.maximisation import MIN_ANCHORED
from florence.engine.reliability import estimate_reliability
from florence.engine.weighing import find_with_alternatives, join_sentences, weigh_annotators
from florence.records import AnnotatorProfile

PLACE, OTHER_PLACE = (10, 10, 50, 50), (60, 10, 90, 40)
IMAGES = [image(f"x{k:03d}") for k in range(60)]

FORTY = IMAGES[:40]


def weigh(asked, profiles=(), task: str = "<OD>"):
    """``asked``: annotator → numbers of the images that it was asked about; it claims a cat and a dog on each."""
    pets = [box("cat", *PLACE), box("dog", *OTHER_PLACE)]
    claims_of = {name: {IMAGES[k].image_id: pets for k in numbers} for name, numbers in asked.items()}
    claims, _, coverage = tables(claims_of, IMAGES)
    found = {one.task: one for one in weigh_annotators(claims, coverage, profiles)}
    return found.get(task)


def family(name: str, *names: str) -> list[AnnotatorProfile]:
    return [AnnotatorProfile(one, family=name) for one in names]


ALL = range(40)
SMALL_AND_LARGE = family("one recipe", "objects_large", "objects_small")


@pytest.mark.parametrize(
    "asked, profiles, basis, sentence",
    [
        ({"a": ALL}, (), "scores", "a alone was asked, and its scores decide"),
        ({"a": ALL, "b": ALL}, (), "scores", "a and b were asked and no third annotator: the scores decide"),
        (
            dict.fromkeys(("objects_small", "objects_large", "yolo"), ALL),
            SMALL_AND_LARGE,
            "scores",
            "objects_large and objects_small are of one family; with one other annotator the scores decide",
        ),
        (
            dict.fromkeys(("objects_small", "objects_large"), ALL),
            SMALL_AND_LARGE,
            "scores",
            "objects_large and objects_small are of one family and nobody else was asked: the scores decide",
        ),
        (
            dict.fromkeys(("objects_small", "objects_large", "a", "b"), ALL),
            [*SMALL_AND_LARGE, *family("b", "a", "b")],
            "scores",
            "a and b are of one family; objects_large and objects_small are of one family; "
            "with no third family the scores decide",
        ),
        (
            dict.fromkeys("abc", ALL),
            (),
            "agreement",
            "how reliable a, b and c are follows from where they agree",
        ),
        (
            {"objects_small": ALL, "objects_large": ALL, "a": ALL, "b": range(25)},
            SMALL_AND_LARGE,
            "agreement",
            "objects_large and objects_small are of one family; how reliable a, b, objects_large and objects_small are "
            "follows from where the 3 families agree, and holds for the 15 images that fewer than three were asked "
            "about",
        ),
        (
            {"a": range(20), "b": range(10, 30), "c": range(15, 40)},
            (),
            "scores",
            "too few claims were put to three families: the scores decide",
        ),
        (
            {"a": range(10), "b": range(10), "c": range(10)},
            (),
            "scores",
            "too few claims were put to three families: the scores decide",
        ),
        (
            {"a": ALL, "b": range(15), "c": range(15)},
            (),
            "agreement",
            "b and c are judged by where independent families agree; "
            "a is weighed by scores alone, because too few others could confirm the claims",
        ),
    ],
)
def test_what_decides_and_what_is_said(asked, profiles, basis: str, sentence: str):
    found = weigh(asked, profiles)
    assert (found.basis, found.sentence) == (basis, sentence)


def test_many_annotators_are_counted():
    found = weigh(dict.fromkeys("abcde", ALL))
    assert found.sentence == "how reliable the 5 annotators are follows from where they agree"


def test_a_family_called_like_an_annotator_is_another_one():
    found = weigh(dict.fromkeys("abc", ALL), family("c", "a", "b"))
    assert found.families == (("a", "b"), ("c",)) and found.basis == "scores"


def test_names_that_others_lack_are_not_confirmed():
    asked = dict.fromkeys("abc", ALL)
    assert weigh(asked, [AnnotatorProfile("c", vocabulary=("cat", "dog"))]).basis == "agreement"
    found = weigh(asked, [AnnotatorProfile("b", vocabulary=("cat",)), AnnotatorProfile("c", vocabulary=("cat",))])
    assert found.sentence.endswith("a is weighed by scores alone, because too few others could confirm the claims")
    assert weigh(asked, [AnnotatorProfile("b", vocabulary=("animal",))]).basis == "agreement", "a cat is an animal"


def test_people_judge_where_they_have_labelled_enough():
    people = [AnnotatorProfile("anna", "human", complete=True)]
    two_each = MIN_ANCHORED // 2
    found = weigh({"a": range(60), "anna": range(two_each)}, people)
    assert (found.basis, found.reviewed, found.families) == ("people", two_each, (("a",),))
    assert found.sentence == f"people have labelled {two_each} images completely, and every annotator is judged by " + (
        "their labels"
    )
    found = weigh({"a": ALL, "anna": range(7)}, people)
    assert found.basis == "scores"
    assert found.sentence.endswith(
        "people have labelled 7 images completely, and judge an annotator from 100 of its claims there on"
    )
    found = weigh({"a": range(60), "anna": range(60)}, [AnnotatorProfile("anna", "human")])
    assert (found.basis, found.reviewed) == ("scores", 0), "these people do not label every object"
    found = weigh({"a": range(60), "b": range(20), "anna": range(two_each)}, people)
    assert found.basis == "agreement" and found.sentence.startswith("a is judged by people's labels; b is weighed by")


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("shared", [10, 40])
def test_what_is_said_is_what_the_fit_does(count: int, shared: int):
    names = "abc"[:count]
    claims_of = {
        name: {i.image_id: [box("cat", *PLACE)] if k < shared or name == "a" else [] for k, i in enumerate(IMAGES[:40])}
        for name in names
    }
    claims_of = {name: {i: found for i, found in images.items() if found} for name, images in claims_of.items()}
    claims, _, coverage = tables(claims_of, IMAGES)
    (said,) = weigh_annotators(claims, coverage)
    fitted = estimate_reliability(claims, coverage, EngineSettings())
    by_agreement = {name for name in names if (name, "<OD>") in fitted}
    assert (said.basis == "scores") == (not by_agreement)
    if said.basis == "agreement":
        assert (by_agreement == set(names)) == said.sentence.startswith("how reliable")


def test_the_student_rankers_and_those_who_only_name_are_not_counted():
    profiles = [AnnotatorProfile("ranks", "ranker"), AnnotatorProfile("names", names_only=True)]
    found = weigh(dict.fromkeys(("a", "student", "ranks", "names"), ALL), profiles)
    assert found.families == (("a",),)
    assert weigh({"student": ALL}) is None


def test_types_are_weighed_apart_and_said_together():
    claims_of = {
        name: {i.image_id: [box("cat", *PLACE), line("EXIT", 60, 10, 90, 20)] for i in FORTY} for name in ("a", "b")
    }
    claims_of["c"] = {i.image_id: [box("cat", *PLACE)] for i in FORTY}
    claims, _, coverage = tables(claims_of, FORTY)
    assert "looked_at" not in coverage.column_names, "an older table"
    found = weigh_annotators(claims, coverage)
    assert [(one.task, one.basis) for one in found] == [("<OD>", "agreement"), ("<OCR_WITH_REGION>", "scores")]
    # c looked for objects on half of the images alone
    half = pa.array([None if k < 20 or name != "c" else "<OCR_WITH_REGION>" for name in "abc" for k in range(40)])
    claims_of["c"] = {i.image_id: [box("cat", *PLACE)] if k < 20 else [] for k, i in enumerate(FORTY)}
    claims, _, coverage = tables(claims_of, IMAGES)
    objects = weigh_annotators(claims, coverage.append_column("looked_at", half))[0]
    assert (objects.shared, objects.images) == (20, 40)
    two = [AnnotatorProfile("c", "ranker")]
    weighed = weigh_annotators(claims, coverage, two)
    assert join_sentences((one.task, one.sentence) for one in weighed) == [
        "<OD> and <OCR_WITH_REGION>: a and b were asked and no third annotator: the scores decide"
    ]


def test_annotators_that_claim_several_things_of_one_place_are_named():
    doubts = [box("cat", *PLACE, 0.8), box("dog", *PLACE, 0.4)]
    claims_of = {name: dict.fromkeys((i.image_id for i in IMAGES), doubts) for name in ("a", "b")}
    claims_of["c"] = dict.fromkeys((i.image_id for i in IMAGES), doubts[:1])
    claims, _, coverage = tables(claims_of, IMAGES)
    found = find_with_alternatives(claims, coverage, EngineSettings())
    assert found == ("a", "b")
    (said,) = weigh_annotators(claims, coverage, with_alternatives=found)
    assert said.sentence == (
        "how reliable a, b and c are follows from where they agree; "
        "a and b often claim several things of one place: only the best one counts"
    )
    assert find_with_alternatives(claims, coverage, EngineSettings(min_score={"*": 0.5})) == ()
