"""Properties of the engine's table that hold for all claims."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from engine_claims import (
    NOISE,
    STUDENT,
    Scenes,
    box,
    fuse_claims,
    image,
    line,
    one_image,
    parquet_bytes,
    phrase,
    shuffle_rows,
    tables,
)

from florence.config import EngineSettings
from florence.engine import fuse
from florence.engine.filters.reasons import DROP_REASONS
from florence.errors import DataError
from florence.records import ANNOTATIONS, BASE_TYPES, Claim, Region, annotation_id, table_annotations


@pytest.fixture(scope="module")
def claimed():
    """(claims, images, coverage) of three annotators and a student before 60 scenes."""
    scenes = Scenes(60, seed=5)
    claims = {name: scenes.says(name, noise) for name, noise in NOISE.items()}
    claims["student"] = scenes.says(
        "student",
        STUDENT,
        tasks=("<OD>", "<CAPTION>", "<OCR_WITH_REGION>", "<CAPTION_TO_PHRASE_GROUNDING>"),
        alt_noise=0.4,
    )
    return tables(claims, scenes.images)


def test_the_order_of_claims_and_coverage_does_not_matter(claimed):
    claims, images, coverage = claimed
    first = parquet_bytes(fuse(claims, images, coverage, EngineSettings(), 1))
    for seed in range(3):
        assert (
            parquet_bytes(fuse(shuffle_rows(claims, seed), images, shuffle_rows(coverage, seed), EngineSettings(), 1))
            == first
        )
    cut = pa.concat_tables([claims.slice(0, 100), claims.slice(100)])
    assert parquet_bytes(fuse(cut, images, coverage, EngineSettings(), 1)) == first


def test_a_student_without_a_vote_leaves_no_trace(claimed):
    claims, images, coverage = claimed
    off = EngineSettings(student={"cap": 0.0})
    alone = [table.filter(pa.compute.not_equal(table["annotator"], "student")) for table in (claims, coverage)]
    assert parquet_bytes(fuse(claims, images, coverage, off, 1)) == parquet_bytes(
        fuse(alone[0], images, alone[1], off, 1)
    )
    assert fuse(claims, images, coverage, EngineSettings(), 1) != fuse(alone[0], images, alone[1], EngineSettings(), 1)


def test_every_row_is_whole(claimed):
    claims, images, coverage = claimed
    table = fuse(claims, images, coverage, EngineSettings(), 3)
    rows = table_annotations(table)
    assert table.schema == ANNOTATIONS
    assert len({row.annotation_id for row in rows}) == len(rows)
    near_left = {image_id: k for k, image_id in enumerate(images["image_id"].to_pylist())}
    keys = [(near_left[row.image_id], BASE_TYPES.index(row.task)) for row in rows]
    assert keys == sorted(keys)
    counts: dict[tuple, int] = {}
    for row in rows:
        assert (row.annotator, row.version, row.round) == ("consensus", EngineSettings().digest(), 3)
        assert row.kept == (row.reason == "") and (row.kept or row.reason in DROP_REASONS)
        assert not row.kept or (row.confidence is not None and 0 < row.confidence <= 1)
        counts[row.image_id, row.task] = counts.get((row.image_id, row.task), -1) + 1
        assert row.annotation_id == annotation_id(
            row.image_id, row.task, "consensus", row.version, counts[row.image_id, row.task]
        )
    claimed_kinds = {(row["image_id"], row["task"]) for row in claims.select(["image_id", "task"]).to_pylist()}
    assert {(row.image_id, row.task) for row in rows} == claimed_kinds, "nothing that was claimed vanishes"


def test_every_kept_phrase_stands_in_its_kept_caption(claimed):
    rows = [row for row in table_annotations(fuse(*claimed, EngineSettings(), 0)) if row.kept]
    captions = {(row.image_id, row.text) for row in rows if "CAPTION>" in row.task and not row.regions}
    phrases = [row for row in rows if row.task == "<CAPTION_TO_PHRASE_GROUNDING>"]
    assert len(phrases) > 100
    for row in phrases:
        assert (row.image_id, row.text) in captions and row.regions
        for region in row.regions:
            assert region.span is not None and row.text[slice(*region.span)] == region.label


def test_nothing_leaves_the_image():
    wild = (Region("cat", box=(-20, 40, 140, 300), polygons=((-30.0, 40.0, 150.0, 50.0, 60.0, 200.0),), score=0.9),)
    rows = fuse_claims(
        one_image(
            a=[
                Claim("<OD>", "cat", wild, 0.9),
                Claim("<REFERRING_EXPRESSION_SEGMENTATION>", "the cat", wild, 0.9),
                line("EXIT", -5, -5, 300, 30),
            ],
            b=[box("cat", -25, 45, 130, 290)],
        )
    )
    assert len(rows) == 3
    for row in rows:
        for region in row.regions:
            values = [*(region.box or ()), *(region.quad or ()), *(v for polygon in region.polygons for v in polygon)]
            assert values and min(values) >= 0 and max(values[0::2]) <= 100 and max(values[1::2]) <= 80


def test_polygons_go_along_with_the_fused_box():
    polygons = ((10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0),)
    (row,) = fuse_claims(
        one_image(
            a=[Claim("<OD>", "cat", (Region("cat", box=(10, 10, 30, 30), polygons=polygons),))],
            b=[Claim("<OD>", "cat", (Region("cat", box=(14, 10, 34, 30)),))],
        )
    )
    assert row.regions[0].box == (12, 10, 32, 30) and row.regions[0].polygons == ((12, 10, 32, 10, 32, 30, 12, 30),)


def test_no_claims_and_no_images_give_an_empty_table():
    claims, images, coverage = tables({"a": {image().image_id: []}}, [image()])
    for table in (
        fuse(claims, images, coverage, EngineSettings(), 0),
        fuse(claims, images.slice(0, 0), coverage, EngineSettings(), 0),
    ):
        assert len(table) == 0 and table.schema == ANNOTATIONS


def test_claims_about_other_images_are_left_out():
    claims, images, coverage = tables(
        {"a": {image("a").image_id: [box("cat", 1, 1, 40, 40)], image("b").image_id: [box("cow", 1, 1, 40, 40)]}},
        [image("b")],
    )
    assert [row.text for row in table_annotations(fuse(claims, images, coverage, EngineSettings(), 0))] == ["cow"]


@pytest.mark.parametrize(
    "claim, message",
    [
        (Claim("<REGION_TO_OCR>", "x"), "<REGION_TO_OCR>"),
        (Claim("<OD>", "cat", (Region("cat", box=(1, 2, 3)),)), "3 numbers"),  # type: ignore[arg-type]
        (Claim("<OD>", "cat", (Region("cat", polygons=((1.0, 2.0, 3.0),)),)), "3 numbers"),
    ],
)
def test_a_claim_that_is_none_is_refused(claim: Claim, message: str):
    with pytest.raises(DataError, match=message):
        fuse_claims(one_image(a=[claim]))


def test_phrases_of_several_annotators_meet_in_the_kept_caption():
    caption, other = "a red car near a dog", "a red truck near a dog"
    claims = one_image(
        a=[
            Claim("<CAPTION>", caption),
            phrase(caption, "a red car", (10, 10, 40, 40)),
            phrase(caption, "a dog", (60, 10, 80, 40)),
        ],
        b=[Claim("<CAPTION>", f"photo of {caption}"), phrase(f"photo of {caption}", "a red car", (12, 10, 42, 40))],
        c=[
            Claim("<CAPTION>", other),
            phrase(other, "a red truck", (11, 12, 41, 42)),
            phrase(other, "a dog", (62, 10, 82, 40)),
        ],
        d=[
            Claim("<CAPTION>", "something else entirely , in two halves"),
            phrase("something else entirely , in two halves", "two halves", (1, 1, 9, 9)),
        ],
    )
    rows = [row for row in fuse_claims(claims) if row.task == "<CAPTION_TO_PHRASE_GROUNDING>"]
    kept = {row.regions[0].label: row for row in rows if row.kept}
    assert set(kept) == {"a red car", "a dog"} and all(row.text == caption for row in kept.values())
    assert (
        kept["a red car"].regions[0].box == pytest.approx((11, 10 + 2 / 3, 41, 40 + 2 / 3), abs=0.3)
        and kept["a red car"].confidence > 0.98
    )
    assert [(row.reason, row.regions[0].label) for row in rows if not row.kept] == [("not_in_caption", "two halves")]


def test_phrases_of_a_text_that_nobody_captioned_find_the_caption_it_is_like():
    caption, other = "a red car near a dog", "one red car near a dog and a tree"
    claims = one_image(
        a=[Claim("<CAPTION>", caption), phrase(caption, "a red car", (10, 10, 40, 40))],
        b=[phrase(other, "one red car", (12, 10, 42, 40)), phrase(other, "a tree", (60, 1, 80, 50))],
        c=[phrase("nothing of the sort, not at all", "the sort", (1, 1, 30, 30))],
    )
    rows = [row for row in fuse_claims(claims) if row.regions]
    assert [(row.regions[0].label, row.reason) for row in rows] == [
        ("a red car", ""),
        ("the sort", "no_caption"),
        ("a tree", "not_in_caption"),
    ]
    assert rows[0].regions[0].box == (11, 10, 41, 40), "both claim one region"


def test_phrases_whose_caption_was_dropped_are_reported():
    caption = "a red car"
    claims = one_image(a=[Claim("<CAPTION>", caption, (), 0.01), phrase(caption, "a red car", (10, 10, 40, 40))])
    rows = fuse_claims(claims)
    assert [(row.task, row.reason) for row in rows] == [
        ("<CAPTION>", "low_score"),
        ("<CAPTION_TO_PHRASE_GROUNDING>", "no_caption"),
    ]


def test_a_persons_caption_and_phrases_hold():
    theirs, caption = "a blue van", "a red car"
    claims = one_image(
        a=[Claim("<CAPTION>", caption), phrase(caption, "a red car", (10, 10, 40, 40))],
        b=[Claim("<CAPTION>", caption)],
        human=[Claim("<CAPTION>", theirs), phrase(theirs, "a blue van", (50, 10, 90, 40))],
    )
    rows = [row for row in fuse_claims(claims) if row.kept]
    assert [(row.task, row.text, row.confidence) for row in rows] == [
        ("<CAPTION>", theirs, 1.0),
        ("<CAPTION_TO_PHRASE_GROUNDING>", theirs, 1.0),
    ]
    assert [region.box for region in rows[1].regions] == [(50, 10, 90, 40)]


def test_a_phrase_may_have_several_boxes():
    caption = "two cats"
    both = Claim(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        caption,
        tuple(Region(caption, box=b, score=0.9, span=(0, 8)) for b in ((10, 10, 30, 30), (60, 10, 80, 30))),
    )
    (row,) = [
        r
        for r in fuse_claims(one_image(a=[Claim("<CAPTION>", caption), both], b=[Claim("<CAPTION>", caption), both]))
        if r.regions
    ]
    assert [region.box for region in row.regions] == [(10, 10, 30, 30), (60, 10, 80, 30)] and row.kept


def test_an_annotator_of_masks_in_the_boxes_of_others_has_no_vote_and_no_silence():
    caption, near_left, far = "a red car near a dog", (10, 10, 40, 40), (60, 10, 80, 40)
    polygons = ((12.0, 12.0, 38.0, 12.0, 38.0, 38.0, 12.0, 38.0),)
    found = [phrase(caption, "a red car", near_left, 0.6), phrase(caption, "a dog", far, 0.6)]
    drawn = Claim(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        caption,
        (Region("a red car", box=near_left, polygons=polygons, score=0.6, span=(0, 9)),),
        0.6,
    )

    def rows(**claims):
        labels = fuse_claims(
            one_image(
                a=[Claim("<CAPTION>", caption), *found],
                other=[Claim("<CAPTION>", caption), phrase(caption, "a red car", (50, 50, 70, 70))],
                **claims,
            )
        )
        return {row.regions[0].label: row for row in labels if row.regions and row.kept}

    alone, with_masks = rows(), rows(masks=[drawn])
    assert {label: row.confidence for label, row in alone.items()} == {
        label: row.confidence for label, row in with_masks.items()
    }
    assert not alone["a red car"].regions[0].polygons and with_masks["a red car"].regions[0].polygons == polygons
    moved = Claim(
        drawn.task,
        caption,
        (Region("a red car", box=(11, 10, 40, 40), polygons=polygons, score=0.6, span=(0, 9)),),
        0.6,
    )
    assert rows(masks=[moved])["a red car"].confidence > with_masks["a red car"].confidence, (
        "a box of its own is a vote"
    )


def test_quads_that_start_at_another_corner_are_rotated():
    quad = (10.0, 10.0, 50.0, 10.0, 50.0, 20.0, 10.0, 20.0)
    rotated = tuple(np.roll(quad, 4))
    (row,) = fuse_claims(
        one_image(
            *[],
            **{
                name: [Claim("<OCR_WITH_REGION>", "EXIT", (Region("EXIT", quad=q),))]
                for name, q in (("a", quad), ("b", rotated))
            },
        )
    )
    assert row.regions[0].quad == quad
