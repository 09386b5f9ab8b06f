"""Alternatives: several claims of one annotator about one place, and what a whole export of a detector does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from florence.engine.consensus.alternatives import drop_alternatives, find_alternatives, measure_alternatives
from florence.engine.consensus.boxes import BoxClaims
from florence.engine.consensus.clusters import measure_same_iou

PLACES = 60


def make_boxes(images: int, places: list[list[tuple[float, float]]], annotator: int = 0) -> BoxClaims:
    """Return claims about the same places in each image; each place: (shift of a box of 100, score) of each claim."""
    rows = [
        (image, 300.0 * number + shift, score, number)
        for image in range(images)
        for number, place in enumerate(places)
        for shift, score in place
    ]
    count = len(rows)
    left = np.asarray([row[1] for row in rows])
    return BoxClaims(
        claim=np.arange(count),
        region=np.arange(count),
        scope=np.asarray([row[0] for row in rows]),
        image=np.asarray([row[0] for row in rows]),
        annotator=np.full(count, annotator),
        bounds=np.stack([left, np.zeros(count), left + 100, np.full(count, 100.0)], axis=1),
        text=("cat",) * count,
        label=np.asarray([row[3] for row in rows]),
        score=np.asarray([row[2] for row in rows]),
        reason=np.full(count, "", object),
        is_human=np.asarray([False]),
    )


def test_only_the_best_claim_of_a_place_has_a_vote_where_many_places_have_several():
    boxes = make_boxes(PLACES, [[(0, 0.4), (10, 0.9), (20, 0.3)], [(0, 0.8)]])
    alternative = find_alternatives(boxes)
    assert alternative.reshape(PLACES, 4).tolist() == [[True, False, True, False]] * PLACES
    states = measure_alternatives(boxes, alternative, 2)
    assert states.tolist() == [True, False]
    assert drop_alternatives(boxes, alternative, states).reason[:4].tolist() == ["alternative", "", "alternative", ""]


def test_a_claim_beside_one_that_is_itself_an_alternative_keeps_its_vote():
    # 0 and 40 overlap by 0.43, 40 and 80 too, 0 and 80 by 0.11
    boxes = make_boxes(1, [[(0, 0.9), (40, 0.8), (80, 0.7)]])
    assert find_alternatives(boxes).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("places", "images"),
    [
        pytest.param([[(0, 0.4), (10, 0.9)], *[[(0, 0.8)]] * 9], PLACES, id="few places have several"),
        pytest.param([[(0, 0.4), (10, 0.9)]], 10, id="few claims"),
        pytest.param([[(0, 0.4), (60, 0.9)]], PLACES, id="neighbours"),
        pytest.param([[(0, np.nan), (0, np.nan)]], PLACES, id="no scores"),
        pytest.param([[(0, 0.5), (0, 0.5)]], PLACES, id="equal scores"),
    ],
)
def test_otherwise_every_claim_has_a_vote(places: list[list[tuple[float, float]]], images: int):
    boxes = make_boxes(images, places)
    alternative = find_alternatives(boxes)
    states = measure_alternatives(boxes, alternative, 1)
    assert not states.any()
    assert (drop_alternatives(boxes, alternative, states).reason == "").all()


def test_low_scores_of_an_annotator_that_states_alternatives_have_no_vote():
    boxes = make_boxes(PLACES, [[(0, 0.4), (10, 0.9)], [(0, 0.05)]])
    states = np.asarray([True])
    assert drop_alternatives(boxes, find_alternatives(boxes), states).reason[:3].tolist() == [
        "alternative",
        "",
        "alternative",
    ]


def test_a_claim_without_a_vote_makes_no_other_one_an_alternative():
    boxes = make_boxes(1, [[(0, 0.4), (10, 0.9)]])
    assert not find_alternatives(replace(boxes, reason=np.asarray(["", "degenerate"], object))).any()


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        pytest.param(0.0, 0.45, id="alike"),
        pytest.param(25.0, 0.3, id="a little apart"),
        pytest.param(60.0, 0.2, id="far apart"),
    ],
)
def test_annotators_that_draw_alike_are_joined_at_a_larger_overlap(shift: float, expected: float):
    one, other = make_boxes(PLACES, [[(0, 0.9)]]), make_boxes(PLACES, [[(shift, 0.9)]], 1)
    rows = np.argsort(np.concatenate([one.scope, other.scope]), kind="stable")

    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name), getattr(other, name)])[rows]

    found = measure_same_iou(both("scope"), both("annotator"), both("bounds"), both("label"), 3, 0.2)
    assert found[0, 1] == found[1, 0] == pytest.approx(expected)
    # nobody knows how the third one draws
    assert found[0, 2] == found[2, 2] == 0.2
