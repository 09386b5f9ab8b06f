"""Alternatives: several claims of one annotator about one place, and what a whole export of a detector does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from engine_claims import box, image, tables

from florence.config import EngineSettings
from florence.engine import fuse
from florence.engine.consensus import alternatives, blocks
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
        "low_score",
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


# ---------------------------------------------------------------- whole exports


PETS = ("cat", "dog", "fox", "rabbit")
TRUE_PLACES = [(20 + 200 * k, 20, 140 + 200 * k, 140) for k in range(4)]


def export_everything(images: int, seed: int) -> tuple[tuple[pa.Table, pa.Table, pa.Table], list[dict]]:
    """Return what two detectors state that export all they think of, and the true pet of each place by image.

    They take each pet for the next one of `PETS` now and then, and state that one beside it anyway: the doubt of both
    is about the same two names.
    """
    rng = np.random.default_rng(seed)
    records = [image(f"{number:03d}", 900, 160) for number in range(images)]
    truth = [{place: PETS[rng.integers(len(PETS))] for place in TRUE_PLACES if rng.random() < 0.7} for _ in records]
    claims: dict[str, dict] = {"one": {}, "other": {}}
    for found in claims.values():
        for record, pets in zip(records, truth, strict=True):
            found[record.image_id] = rows = []
            for place, pet in pets.items():
                names = [pet, PETS[(PETS.index(pet) + 1) % len(PETS)]]
                if rng.random() < 0.15:
                    names.reverse()
                for name, low, high in zip(names, (0.55, 0.3), (0.95, 0.6), strict=True):
                    x, y = rng.normal(0, 4, 2)
                    corners = (place[0] + x, place[1] + y, place[2] + x, place[3] + y)
                    rows.append(box(name, *corners, float(rng.uniform(low, high))))
    return tables(claims, records), truth


def count_right(labels: pa.Table, records: pa.Table, truth: list[dict]) -> tuple[int, int]:
    """Return how many labels there are, and how many of them say the true pet of a place."""
    image_of = {image_id: number for number, image_id in enumerate(records["image_id"].to_pylist())}
    kept = [row for row in labels.to_pylist() if row["kept"]]
    right = 0
    for row in kept:
        (region,) = row["regions"]
        center = (region["box"][0] + region["box"][2]) / 2
        pets = truth[image_of[row["image_id"]]]
        right += any(place[0] <= center <= place[2] and pet == row["text"] for place, pet in pets.items())
    return len(kept), right


def test_doubts_that_two_detectors_share_are_no_labels(monkeypatch):
    (claims, records, coverage), truth = export_everything(80, 3)
    true = sum(map(len, truth))
    count, right = count_right(fuse(claims, records, coverage, EngineSettings(), 0), records, truth)
    assert right > 0.75 * true and right > 0.85 * count
    monkeypatch.setattr(alternatives, "MIN_SHARE", 1.1)
    more, right_of_more = count_right(fuse(claims, records, coverage, EngineSettings(), 0), records, truth)
    assert 2 * right / (count + true) > 2 * right_of_more / (more + true) + 0.1, "every claim of a place has a vote"


def test_alternatives_are_the_same_in_blocks(monkeypatch):
    (claims, records, coverage), _ = export_everything(80, 4)
    whole = fuse(claims, records, coverage, EngineSettings(), 0)
    reasons = whole["reason"].to_pylist()
    assert reasons.count("alternative") > 100
    monkeypatch.setattr(blocks, "MAX_CLAIMS_WHOLE", 0)
    monkeypatch.setattr(blocks, "CLAIMS_PER_BLOCK", 40)
    assert fuse(claims, records, coverage, EngineSettings(), 0).combine_chunks() == whole.combine_chunks()
