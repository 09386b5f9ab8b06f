"""Captions made of claims, word for word."""

from __future__ import annotations

import numpy as np
import pytest

from florence.annotators import ANNOTATORS, ImageBatch
from florence.imaging.colours import colour_shares
from florence.records import Annotation, Claim, ImageRecord, Region, annotate
from florence.scene.objects import merge_objects

Box = tuple[float, float, float, float]
RED, BLUE, GREEN, ORANGE = (200, 30, 25), (30, 60, 200), (60, 150, 50), (250, 150, 30)


def make_claims(
    *objects: tuple[str, Box, float], lines: tuple[tuple[str, Box, float], ...] = (), annotator: str = "a"
) -> tuple[Annotation, ...]:
    claims = [Claim("<OD>", label, (Region(label, box=box, score=score),), score) for label, box, score in objects]
    for text, (x0, y0, x1, y1), score in lines:
        claims.append(
            Claim("<OCR_WITH_REGION>", text, (Region(text, quad=(x0, y0, x1, y0, x1, y1, x0, y1), score=score),), score)
        )
    return annotate("0" * 64, claims, annotator, "1")


def write_captions(pixels: np.ndarray, claims: tuple[Annotation, ...], **options) -> list[Claim]:
    record = ImageRecord("0" * 64, pixels.shape[1], pixels.shape[0], "mine", "x", "", None, "train")
    return ANNOTATORS.get("captioner")(name="captioner", **options).annotate(
        ImageBatch((record,), (pixels,), (claims,))
    )[0]


def captions(pixels: np.ndarray, claims: tuple[Annotation, ...]) -> list[str]:
    return [claim.text for claim in write_captions(pixels, claims)[:3]]


def field(width: int = 300, height: int = 200, colour: tuple[int, int, int] = GREEN) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def paint(pixels: np.ndarray, box: Box, colour: tuple[int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = (int(v) for v in box)
    pixels[y0:y1, x0:x1] = colour
    return pixels


def test_one_object_with_a_text():
    box = (10.0, 60.0, 90.0, 140.0)
    claims = make_claims(
        ("umbrella", box, 0.8),
        lines=(("TO LET", (20.0, 90.0, 80.0, 110.0), 0.95), ("mumble", (20.0, 120.0, 80.0, 130.0), 0.5)),
    )
    results = write_captions(paint(field(), box, ORANGE), claims)
    assert [claim.text for claim in results] == [
        'an orange umbrella that says "TO LET"',
        'There is an orange umbrella on the left. The words "TO LET" can be read on the left. '
        "The picture is mostly green.",
        'This is a wide picture with one object. On the left there is an orange umbrella that says "TO LET". '
        'The text "TO LET" is written on the left. The main colors are green and orange.',
        'an orange umbrella that says "TO LET"',
    ]
    assert [claim.task for claim in results] == [
        "<CAPTION>",
        "<DETAILED_CAPTION>",
        "<MORE_DETAILED_CAPTION>",
        "<DENSE_REGION_CAPTION>",
    ]
    assert results[3].regions == (Region(results[3].text, box=box, score=0.8),) and {
        claim.score for claim in results
    } == {0.8}


def test_objects_of_several_labels_are_counted_and_the_surest_comes_first():
    first, second, third = (10.0, 10.0, 60.0, 60.0), (200.0, 10.0, 260.0, 60.0), (120.0, 100.0, 200.0, 190.0)
    pixels = paint(paint(paint(field(), first, RED), second, RED), third, BLUE)
    claims = make_claims(("mouse", first, 0.9), ("mouse", second, 0.85), ("hourglass", third, 0.7))
    assert captions(pixels, claims) == [
        "two mice and a blue hourglass",
        "There are two mice. There is also a blue hourglass. The picture is mostly green.",
        "This is a wide picture with three objects. At the top left there is a small red mouse. "
        "At the bottom there is a blue hourglass. At the top right there is a red mouse. "
        "The main colors are green and blue.",
    ]


def test_without_objects_it_says_what_the_pixels_show():
    assert captions(field(200, 300, RED), ()) == [
        "a red picture",
        "The picture is mostly red.",
        "This is a tall picture. The main color is red.",
    ]
    assert captions(field(200, 200, (120, 120, 120)), ())[0] == "a black and white picture"
    half = paint(field(200, 200, ORANGE), (0.0, 0.0, 90.0, 200.0), BLUE)
    assert (
        captions(half, make_claims(lines=(("EXIT", (5.0, 5.0, 60.0, 30.0), 0.99),)))[0]
        == 'an orange and blue picture with the word "EXIT"'
    )
    assert (
        captions(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8), ())[0]
        == "a picture in many colors"
    )
    assert all(0 <= claim.score <= 1 for claim in write_captions(field(), ()))


def test_a_colour_that_is_all_around_is_not_the_objects():
    box = (100.0, 50.0, 200.0, 150.0)
    assert captions(field(), make_claims(("bird", box, 0.9)))[0] == "a bird"
    assert captions(paint(field(), box, RED), make_claims(("bird", box, 0.9)))[0] == "a red bird"


def test_a_mask_says_which_pixels_are_the_objects():
    box = (100.0, 50.0, 200.0, 150.0)
    pixels = paint(paint(field(), box, BLUE), (100.0, 50.0, 200.0, 80.0), RED)
    mask = Claim(
        "<REFERRING_EXPRESSION_SEGMENTATION>",
        "the roof",
        (Region("the roof", polygons=((100.0, 50.0, 200.0, 50.0, 200.0, 80.0, 100.0, 80.0),)),),
    )
    claims = make_claims(("roof", (100.0, 50.0, 200.0, 140.0), 0.9))
    assert captions(pixels, claims)[0] == "a blue roof"
    assert captions(pixels, claims + annotate("0" * 64, [mask], "masks", "1"))[0] == "a red roof"


def test_long_texts_are_cut_and_quotes_stay_even():
    lines = tuple(
        (f'line {i} says "hello" to you', (10.0, 10.0 + 20 * i, 200.0, 25.0 + 20 * i), 0.99) for i in range(5)
    )
    for text in captions(field(), make_claims(lines=lines)):
        assert text.count('"') % 2 == 0 and len(text) < 500
    assert captions(field(), make_claims(lines=lines))[0].endswith(' …"')


def test_only_the_tasks_asked_for():
    claims = write_captions(
        field(), make_claims(("cat", (10.0, 10.0, 90.0, 90.0), 0.9)), tasks=("<CAPTION>", "<DENSE_REGION_CAPTION>")
    )
    assert [claim.task for claim in claims] == ["<CAPTION>", "<DENSE_REGION_CAPTION>"]


def test_claims_of_several_annotators_are_put_together():
    near, nearer = (10.0, 10.0, 100.0, 100.0), (14.0, 10.0, 104.0, 100.0)
    rows = make_claims(("cat", near, 0.6), ("vase", (150.0, 10.0, 190.0, 60.0), 0.5)) + make_claims(
        ("cat", nearer, 0.2), ("rug", (12.0, 8.0, 102.0, 98.0), 0.9), annotator="b"
    )
    found = merge_objects(rows, 0.3, 0.6)
    assert [(s.label, s.score, sorted(s.annotators)) for s in found] == [("cat", 0.6, ["a", "b"])], (
        "the rug overlaps the cat, the vase has one unsure annotator"
    )
    assert found[0].box == pytest.approx((11, 10, 101, 100))
    assert merge_objects(tuple(reversed(rows)), 0.3, 0.6) == found
    inner = make_claims(
        ("cat", near, 0.9), ("cat", (20.0, 20.0, 50.0, 50.0), 0.8), ("hat", (20.0, 20.0, 50.0, 50.0), 0.8)
    )
    assert [s.label for s in merge_objects(inner, 0.3, 0.6)] == ["cat", "hat"], "a cat within a cat is the same cat"


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"),
        ((128, 128, 128), "gray"),
        ((255, 255, 255), "white"),
        ((255, 0, 0), "red"),
        ((255, 165, 0), "orange"),
        ((139, 69, 19), "brown"),
        ((255, 255, 0), "yellow"),
        ((0, 128, 0), "green"),
        ((0, 0, 255), "blue"),
        ((128, 0, 128), "purple"),
        ((255, 192, 203), "pink"),
        ((165, 42, 42), "red"),
        ((210, 180, 140), "brown"),
    ],
)
def test_colours_have_their_usual_names(rgb: tuple[int, int, int], name: str):
    assert colour_shares(np.full((3, 4, 3), rgb, np.uint8)) == {name: 1.0}


def categories(*found: tuple[str, str, float]) -> tuple[Annotation, ...]:
    """Return what annotators call a whole picture of 300 × 200: (annotator, name, score)."""
    rows = []
    for annotator, name, score in found:
        region = Region(name, box=(0.0, 0.0, 300.0, 200.0), score=score)
        rows += annotate("0" * 64, [Claim("<CLASSIFICATION>", name, (region,), score)], annotator, "1")
    return tuple(rows)


def test_without_boxes_a_caption_says_what_the_whole_picture_is_called():
    claims = categories(("a", "cat", 0.5), ("b", "cat", 0.4), ("c", "dog", 0.9))
    results = write_captions(field(), claims)
    assert [claim.text for claim in results] == [
        "a picture of a cat",
        "The picture shows a cat. The picture is mostly green.",
        "This is a wide picture of a cat. The main color is green.",
    ]
    assert {claim.score for claim in results} == {0.5}


def test_a_category_of_which_nobody_is_sure_is_not_told_and_boxes_come_first():
    assert captions(field(), categories(("a", "cat", 0.5)))[0] == "a green picture"
    assert captions(field(), categories(("a", "cat", 0.7)))[0] == "a picture of a cat"
    boxed = make_claims(("umbrella", (10.0, 60.0, 90.0, 140.0), 0.8))
    assert "cat" not in " ".join(captions(field(), (*boxed, *categories(("c", "cat", 0.9)))))
    lines = make_claims(lines=(("EXIT", (20.0, 90.0, 80.0, 110.0), 0.95),))
    with_text = captions(field(), (*lines, *categories(("c", "trousers", 0.9))))
    assert with_text[0] == 'a picture of trousers with the word "EXIT"'
