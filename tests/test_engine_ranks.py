"""The effect of rankers: texts of regions are chosen, captions get weights."""

from __future__ import annotations

import pytest
from engine_claims import image, one_image, tables

from florence.config import EngineSettings
from florence.engine import fuse
from florence.records import AnnotatorProfile, Claim, Region, table_annotations

CLIP = (AnnotatorProfile("clip", "ranker"),)
DENSE = "<DENSE_REGION_CAPTION>"


def region_text(text: str, box: tuple[float, float, float, float], score: float | None = 0.9) -> Claim:
    return Claim(DENSE, text, (Region(text, box=box, score=score),), score)


def rows(claims, profiles=CLIP):
    return table_annotations(fuse(*tables(claims, [image()]), EngineSettings(), 0, profiles))


def test_the_text_that_fits_best_is_taken_and_the_others_are_kept_as_dropped():
    box, near, far = (10, 10, 50, 50), (12, 11, 51, 50), (60, 10, 90, 60)
    claims = one_image(
        blip=[region_text("a red cat on a mat", box), region_text("a dog", far)],
        clip=[
            region_text("cat", near, 0.3),
            region_text("a red cat on a mat", near, 0.5),
            region_text("a mat", near, 0.2),
            region_text("cat", near, 0.1),
            region_text("A Mat", near, 0.25),
        ],
    )
    found = rows(claims)
    assert [(row.text, row.kept, row.reason, row.score) for row in found] == [
        ("a red cat on a mat", True, "", 0.5),
        ("A Mat", False, "ranked_lower", 0.25),
        ("cat", False, "ranked_lower", 0.2),
        ("a dog", True, "", 0.9),
    ]
    assert all(row.regions[0].label == row.text for row in found)
    assert [row.regions[0].box for row in found if not row.kept] == [box] * sum(not row.kept for row in found)


def test_another_text_may_replace_a_claimed_one_but_never_a_persons():
    box = (10, 10, 50, 50)
    ranks = [region_text("a tabby cat", box, 0.9), region_text("a thing", box, 0.2)]
    (best, other) = rows(one_image(blip=[region_text("a thing", box)], clip=ranks))
    assert (best.text, best.kept, best.score, best.regions[0].score) == ("a tabby cat", True, 0.9, 0.9)
    assert (other.text, other.reason, other.score) == ("a thing", "ranked_lower", 0.2)
    (by_person,) = [
        row
        for row in rows(one_image(blip=[region_text("a thing", box)], human=[region_text("my cat", box)], clip=ranks))
        if row.kept
    ]
    assert by_person.text == "my cat"


def test_dropped_regions_and_other_images_are_left_alone():
    box = (10, 10, 50, 50)
    claims = one_image(blip=[region_text("a cat", box, 0.01)], clip=[region_text("cat", box, 0.9)])
    assert [(row.text, row.reason) for row in rows(claims)] == [("a cat", "low_score")]
    claims = {
        "blip": {image().image_id: [region_text("a cat", box)]},
        "clip": {image("b").image_id: [region_text("cat", box, 0.9)]},
    }
    found = table_annotations(fuse(*tables(claims, [image(), image("b")]), EngineSettings(), 0, CLIP))
    assert [(row.text, row.image_id) for row in found] == [("a cat", image().image_id)]


@pytest.mark.parametrize("best, expected", [("a red cat", "a red cat"), ("a green hill", "a green hill")])
def test_the_caption_of_the_best_score_weighs_more(best: str, expected: str):
    captions = {"a": "a red cat", "b": "a green hill"}
    ranks = [Claim("<CAPTION>", text, (), 0.9 if text == best else 0.3) for text in captions.values()]
    claims = one_image(**{name: [Claim("<CAPTION>", text)] for name, text in captions.items()}, clip=ranks)
    (row,) = [row for row in rows(claims) if row.kept]
    assert row.text == expected
    assert [
        row.text
        for row in rows(
            one_image(**{name: [Claim("<CAPTION>", text)] for name, text in captions.items()}, clip=ranks[:1])
        )
    ] == [
        row.text for row in rows(one_image(**{name: [Claim("<CAPTION>", text)] for name, text in captions.items()}))
    ], "unless all captions have a score, none counts"
