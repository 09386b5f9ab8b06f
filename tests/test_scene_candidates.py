"""The texts that rankers score: captions, and the three types of candidates of each region."""

from __future__ import annotations

import math

import numpy as np
import pytest

from florence.records import Annotation, Claim, ImageRecord, Region, annotate
from florence.scene.candidates import CandidateRegion, caption_candidates, region_candidates

RECORD = ImageRecord("0" * 64, 300, 200, "mine", "x", "", None, "train")
DENSE = "<DENSE_REGION_CAPTION>"
LEFT, RIGHT = (10.0, 20.0, 110.0, 120.0), (200.0, 20.0, 290.0, 120.0)


def make_claims(annotator: str, *claims: Claim) -> tuple[Annotation, ...]:
    return annotate(RECORD.image_id, claims, annotator, "1")


def at(task: str, text: str, box: tuple, score: float | None = 0.8) -> Claim:
    return Claim(task, text, (Region(text, box=box, score=score),), score)


def found(*claims: Annotation, min_score: float = 0.3, most: int = 10) -> tuple[CandidateRegion, ...]:
    return region_candidates(claims, RECORD, min_score, most)


def test_a_region_has_its_name_its_descriptions_and_their_noun_chunks():
    (region,) = found(
        *make_claims("a", at("<OD>", "dog", LEFT)),
        *make_claims("b", at(DENSE, "a brown dog sleeping on a red sofa", LEFT)),
        *make_claims("c", at(DENSE, "a pet beside the window", LEFT)),
    )
    assert region.categories == ("dog",)
    assert region.descriptions == ("a brown dog sleeping on a red sofa", "a pet beside the window")
    assert region.phrases == ("a brown dog", "a red sofa", "a pet", "the window")
    assert region.texts == (*region.categories, *region.descriptions, *region.phrases)


def test_the_same_text_is_one_candidate():
    (region,) = found(
        *make_claims("a", at("<OD>", "dog", LEFT), at("<OD>", "Dog", LEFT, 0.7)),
        *make_claims("b", at(DENSE, "a brown  dog", LEFT)),
        *make_claims("c", at(DENSE, "A brown dog", LEFT, 0.5), at(DENSE, "dog", LEFT, 0.4)),
    )
    # the noun chunk of a description may be the whole of it
    assert region.texts == ("dog", "a brown  dog")


def test_noun_chunks_that_differ_by_their_article_alone_are_none_of_their_own():
    (region,) = found(
        *make_claims("a", at("<OD>", "dog", LEFT)),
        *make_claims("b", at(DENSE, "the dog near a tree and the tree", LEFT)),
    )
    assert region.phrases == ("the dog", "a tree", "the tree")
    assert region.texts == ("dog", "the dog near a tree and the tree", "a tree")


def test_quotes_and_pronouns_are_no_candidates():
    (region,) = found(*make_claims("b", at(DENSE, 'a sign that says "BEWARE OF THE DOG" beside it', LEFT)))
    assert region.phrases == ("a sign",)


def test_claims_of_one_region_are_put_together_by_their_scores_and_others_apart():
    shifted = (20.0, 20.0, 120.0, 120.0)
    both = found(
        *make_claims("a", at("<OD>", "dog", LEFT, 0.9), at("<OD>", "cat", RIGHT, 0.7)),
        *make_claims("b", at(DENSE, "a wolf", shifted, 0.3)),
    )
    assert [region.texts for region in both] == [("dog", "a wolf"), ("cat",)]
    assert both[0].box == pytest.approx(np.average([LEFT, shifted], axis=0, weights=[0.9, 0.3]))
    assert both[1].box == RIGHT


def test_two_names_of_one_region_are_both_candidates_the_surer_first():
    (region,) = found(
        *make_claims("a", at("<OD>", "fox", LEFT, 0.5)),
        *make_claims("b", at("<OD>", "dog", LEFT, 0.6)),
        *make_claims("c", at("<OD>", "cat", LEFT, 0.2)),
    )
    assert region.texts == ("dog", "fox")


def test_regions_that_most_annotators_claim_come_first():
    claims = (
        *make_claims("a", at("<OD>", "dog", LEFT, 0.5), at("<OD>", "cat", RIGHT, 0.9)),
        *make_claims("b", at("<OD>", "dog", LEFT, 0.4)),
    )
    assert [region.texts for region in found(*claims)] == [("dog",), ("cat",)]
    assert [region.texts for region in found(*claims, most=1)] == [("dog",)]
    assert found(*claims) == found(*claims[::-1])


@pytest.mark.parametrize(
    "box",
    [(10.0, 20.0, 10.0, 120.0), (math.nan, 0.0, 10.0, 10.0), (400.0, 20.0, 500.0, 120.0), (-math.inf, 0.0, 10.0, 10.0)],
)
def test_a_claim_without_a_box_is_no_region(box: tuple):
    assert found(*make_claims("a", at("<OD>", "dog", box))) == ()


def test_foreign_claims_do_no_harm():
    (region,) = found(
        *make_claims(
            "a",
            at("<OD>", "dog", (-50.0, -20.0, 900.0, 900.0), None),
            Claim("<OD>", "cat"),
            at(DENSE, " ", LEFT),
            at(DENSE, "a Kätzchen 🐈", LEFT, math.nan),
        ),
        most=1,
    )
    assert region == CandidateRegion((0.0, 0.0, 300.0, 200.0), ("dog",), (), ())
    (region,) = found(*make_claims("a", at(DENSE, "a cat", LEFT, math.nan), at("<OD>", "cat", LEFT)))
    assert region.box == LEFT and region.texts == ("cat", "a cat")


def test_captions_are_candidates_once_per_annotation_type_as_they_were_claimed():
    rows = make_claims(
        "a",
        Claim("<DETAILED_CAPTION>", "A dog."),
        Claim("<CAPTION>", "A dog."),
        Claim("<CAPTION>", "A dog."),
        Claim("<CAPTION>", "a dog."),
        at("<OD>", "dog", LEFT),
    )
    assert caption_candidates(rows, ("<CAPTION>", "<DETAILED_CAPTION>")) == (
        ("<CAPTION>", "A dog."),
        ("<CAPTION>", "a dog."),
        ("<DETAILED_CAPTION>", "A dog."),
    )
    assert caption_candidates(rows, ("<MORE_DETAILED_CAPTION>", DENSE)) == ()
