"""What rankers choose: texts of regions, and whose caption counts for more."""

from __future__ import annotations

import pytest
from engine_claims import image, one_image, tables

from florence.config import EngineSettings
from florence.engine import fuse
from florence.records import AnnotatorProfile, Claim, Region, table_annotations

CLIP = (AnnotatorProfile("clip", "ranker"),)
DENSE = "<DENSE_REGION_CAPTION>"


def about(text: str, place: tuple[float, float, float, float], score: float | None = 0.9) -> Claim:
    return Claim(DENSE, text, (Region(text, box=place, score=score),), score)


def rows(said, profiles=CLIP):
    return table_annotations(fuse(*tables(said, [image()]), EngineSettings(), 0, profiles))


def test_the_text_that_fits_best_is_taken_and_the_others_are_kept_as_dropped():
    place, near, far = (10, 10, 50, 50), (12, 11, 51, 50), (60, 10, 90, 60)
    said = one_image(
        blip=[about("a red cat on a mat", place), about("a dog", far)],
        clip=[
            about("cat", near, 0.3),
            about("a red cat on a mat", near, 0.5),
            about("a mat", near, 0.2),
            about("cat", near, 0.1),
            about("A Mat", near, 0.25),
        ],
    )
    found = rows(said)
    assert [(row.text, row.kept, row.reason, row.score) for row in found] == [
        ("a red cat on a mat", True, "", 0.5),
        ("A Mat", False, "ranked_lower", 0.25),
        ("cat", False, "ranked_lower", 0.2),
        ("a dog", True, "", 0.9),
    ]
    assert all(row.regions[0].label == row.text for row in found)
    assert [row.regions[0].box for row in found if not row.kept] == [place] * sum(not row.kept for row in found)


def test_another_text_may_replace_what_was_said_but_never_what_a_person_said():
    place = (10, 10, 50, 50)
    ranks = [about("a tabby cat", place, 0.9), about("a thing", place, 0.2)]
    (best, other) = rows(one_image(blip=[about("a thing", place)], clip=ranks))
    assert (best.text, best.kept, best.score, best.regions[0].score) == ("a tabby cat", True, 0.9, 0.9)
    assert (other.text, other.reason, other.score) == ("a thing", "ranked_lower", 0.2)
    (theirs,) = [
        row
        for row in rows(one_image(blip=[about("a thing", place)], human=[about("my cat", place)], clip=ranks))
        if row.kept
    ]
    assert theirs.text == "my cat"


def test_dropped_regions_and_other_images_are_left_alone():
    place = (10, 10, 50, 50)
    said = one_image(blip=[about("a cat", place, 0.01)], clip=[about("cat", place, 0.9)])
    assert [(row.text, row.reason) for row in rows(said)] == [("a cat", "low_score")]
    said = {
        "blip": {image().image_id: [about("a cat", place)]},
        "clip": {image("b").image_id: [about("cat", place, 0.9)]},
    }
    found = table_annotations(fuse(*tables(said, [image(), image("b")]), EngineSettings(), 0, CLIP))
    assert [(row.text, row.image_id) for row in found] == [("a cat", image().image_id)]


@pytest.mark.parametrize("liked, told", [("a red cat", "a red cat"), ("a green hill", "a green hill")])
def test_of_captions_that_say_different_things_the_one_that_fits_counts_for_more(liked: str, told: str):
    captions = {"a": "a red cat", "b": "a green hill"}
    ranks = [Claim("<CAPTION>", text, (), 0.9 if text == liked else 0.3) for text in captions.values()]
    said = one_image(**{name: [Claim("<CAPTION>", text)] for name, text in captions.items()}, clip=ranks)
    (row,) = [row for row in rows(said) if row.kept]
    assert row.text == told
    assert [
        row.text
        for row in rows(
            one_image(**{name: [Claim("<CAPTION>", text)] for name, text in captions.items()}, clip=ranks[:1])
        )
    ] == [
        row.text for row in rows(one_image(**{name: [Claim("<CAPTION>", text)] for name, text in captions.items()}))
    ], "where one was not ranked none is"
