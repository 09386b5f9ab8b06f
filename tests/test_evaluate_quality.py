"""Label quality against cases worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import World, make_object

from florence.config import EvaluateSettings
from florence.evaluate import build_quality_json, find_gold_references, measure_gains, measure_quality
from florence.records import Claim, Region, annotations_table


def square(x: float, side: float = 20.0) -> tuple[float, ...]:
    return (x, 10.0, x + side, 10.0, x + side, 10.0 + side, x, 10.0 + side)


def ocr_line(text: str, x: float) -> Claim:
    return Claim("<OCR_WITH_REGION>", text, (Region(text, quad=square(x)),))


def masked(label: str, x: float, outline: float) -> Claim:
    """An object in a box of 20, whose mask is a square of ``outline``."""
    return Claim("<OD>", label, (Region(label, box=(x, 10.0, x + 20.0, 30.0), polygons=(square(x, outline),)),))


def phrase(caption: str, words: str, x: float) -> Claim:
    start = caption.index(words)
    return Claim(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        caption,
        (Region(words, box=(x, 10.0, x + 20.0, 30.0), span=(start, start + len(words))),),
    )


def figures(world: World, labels, images=None) -> dict:
    return {
        (m.task, m.metric, m.reference): m.per_image
        for m in measure_quality(labels, find_gold_references(world.data, world.ids), set(images or world.ids))
    }


def test_objects_by_hand(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 4)
    world.truth(
        {
            0: [make_object("cat", 10), make_object("dog", 60)],
            1: [make_object("cat", 10)],
            2: [make_object("cat", 10)],
            3: [make_object("cat", 10)],
        }
    )
    labelled = {
        0: [make_object("Cat", 12), make_object("cup", 60), make_object("dog", 0)],
        1: [],
        2: [make_object("cat", 10)],
    }
    found = figures(world, world.labels(labelled))
    a, b, c, d = world.ids
    assert found["<OD>", "f1", "truth"] == pytest.approx({a: 2 / 5, b: 0.0, c: 1.0, d: 0.0})
    assert found["<OD>", "f1_boxes", "truth"] == pytest.approx({a: 4 / 5, b: 0.0, c: 1.0, d: 0.0})
    (json,) = build_quality_json(
        [
            m
            for m in measure_quality(world.labels(labelled), find_gold_references(world.data, world.ids), world.ids)
            if m.metric == "f1"
        ],
        EvaluateSettings(),
    ).values()
    values = json["<OD>"]["f1"]
    assert (
        values["value"] == pytest.approx(1.4 / 4)
        and values["n"] == 4
        and values["low"] < values["value"] < values["high"]
    )


def test_dropped_labels_do_not_count_and_a_kind_nobody_speaks_of_is_not_measured(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 2)
    world.truth({0: [make_object("cat", 10), ocr_line("A", 50)], 1: [make_object("cat", 10)]})
    rows = world.rows({0: [make_object("cat", 10), make_object("dog", 60)], 1: [make_object("cat", 10)]}, "consensus")
    with_dropped = annotations_table(
        replace(row, kept=False, reason="low_confidence") if row.text == "dog" else row for row in rows
    )
    found = figures(world, with_dropped)
    assert set(found) == {("<OD>", "f1", "truth"), ("<OD>", "f1_boxes", "truth")}
    assert set(found["<OD>", "f1", "truth"].values()) == {1.0}
    everything = annotations_table(replace(row, kept=False, reason="low_confidence") for row in rows)
    assert set(figures(world, everything)["<OD>", "f1", "truth"].values()) == {0.0}, (
        "dropping all is worst, not unknown"
    )


def test_masks_signs_and_phrases_by_hand(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 2)
    caption = "a cat and a dog"
    world.truth(
        {
            0: [
                masked("cat", 10, 20),
                masked("dog", 60, 20),
                ocr_line("EXIT", 0),
                ocr_line("42", 60),
                phrase(caption, "a cat", 10),
                phrase(caption, "a dog", 60),
            ],
            1: [masked("cat", 10, 20)],
        }
    )
    labelled = {
        0: [
            masked("cat", 10, 10),
            make_object("dog", 60),
            ocr_line("EXIT", 0),
            ocr_line("4Z", 60),
            phrase("the cat, a dog", "the cat", 10),
            phrase("the cat, a dog", "a dog", 60),
        ],
        1: [masked("cat", 10, 20), ocr_line("no", 0)],
    }
    found = figures(world, world.labels(labelled))
    a, b = world.ids
    # a quarter of the cat's mask; the dog has none
    assert found["<OD>", "mask_iou", "truth"] == pytest.approx({a: 2 * 0.25 / 3, b: 1.0}, abs=0.01)
    assert found["<OCR_WITH_REGION>", "spotted", "truth"] == pytest.approx({a: 2 * 1 / 4, b: 0.0})
    assert found["<OCR_WITH_REGION>", "f1_boxes", "truth"] == pytest.approx({a: 1.0, b: 0.0})
    assert found["<CAPTION_TO_PHRASE_GROUNDING>", "f1", "truth"][a] == pytest.approx(2 * 1 / 4)


def test_signs_where_neither_side_has_any_are_no_merit(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 3)
    world.truth(
        {0: [ocr_line("EXIT", 0), make_object("cat", 10)], 1: [make_object("cat", 10)], 2: [make_object("cat", 10)]}
    )
    found = figures(world, world.labels({0: [ocr_line("EXIT", 0)], 2: [ocr_line("no", 0)]}))[
        "<OCR_WITH_REGION>", "spotted", "truth"
    ]
    assert found[world.ids[0]] == 1.0 and math.isnan(found[world.ids[1]]) and found[world.ids[2]] == 0.0


def test_captions_are_those_of_the_formula(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 3)
    texts = ["a red cat sleeps on the mat", "two dogs run over green grass", "one old hat lies in the rain"]
    world.truth({i: [Claim("<CAPTION>", text)] for i, text in enumerate(texts)})
    found = figures(world, world.labels({0: [Claim("<CAPTION>", texts[0])], 1: [Claim("<CAPTION>", "nothing of it")]}))[
        "<CAPTION>", "cider", "truth"
    ]
    assert found == pytest.approx({world.ids[0]: 10.0, world.ids[1]: 0.0, world.ids[2]: 0.0})


def test_people_s_gold_labels_are_a_reference_of_their_own_and_their_claims_are_none(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 2)
    world.truth({0: [make_object("cat", 10)]}, annotator="human")
    world.claims({1: [make_object("cat", 10)]}, "human")
    found = figures(world, world.labels({0: [make_object("cat", 10)], 1: [make_object("cat", 10)]}))
    assert {key[2] for key in found} == {"human"} and list(found["<OD>", "f1", "human"]) == [world.ids[0]]


def test_without_truth_there_is_nothing_to_measure(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 2)
    labels = world.labels({0: [make_object("cat", 10)]})
    known = find_gold_references(world.data, world.ids)
    assert (
        measure_quality(labels, known, world.ids) == []
        and measure_gains(labels, labels, known, EvaluateSettings()) == {}
    )


def test_gain_is_paired_over_the_images_of_both(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 12)
    world.truth({i: [make_object("cat", 10), make_object("dog", 60)] for i in range(12)})
    before = world.labels({i: [make_object("cat", 10), make_object("cup", 60)] for i in range(10)})
    better = world.labels(
        {i: [make_object("cat", 10)] + [make_object("dog", 60)] * (i < 8) for i in range(12)}, round=1
    )
    known = find_gold_references(world.data, world.ids)
    found = measure_gains(before, better, known, EvaluateSettings())["<OD>", "f1", "truth"]
    # 1/2 before; 1 on eight images, 2/3 on two; the two that came later are not compared
    assert found.mean == pytest.approx((8 * 0.5 + 2 / 6) / 10) and found.n == 10 and found.low > 0
    same = measure_gains(before, before, known, EvaluateSettings())["<OD>", "f1", "truth"]
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_inventing_where_there_is_nothing_is_a_loss(tmp_path: Path):
    world = World(tmp_path, ["gold"] * 4)
    world.truth({i: [ocr_line("EXIT", 0)] if i < 2 else [make_object("cat", 10)] for i in range(4)})
    quiet = {i: [ocr_line("EXIT", 0)] if i < 2 else [make_object("cat", 10)] for i in range(4)}
    before = world.labels(quiet)
    after = world.labels({**quiet, 3: [ocr_line("no", 0)]}, round=1)
    found = measure_gains(before, after, find_gold_references(world.data, world.ids), EvaluateSettings())[
        "<OCR_WITH_REGION>", "spotted", "truth"
    ]
    assert found.mean == pytest.approx(-1 / 3) and found.n == 3
