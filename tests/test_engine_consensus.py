"""Places gathered, annotators weighed, votes counted."""

from __future__ import annotations

import numpy as np
import pytest
from engine_claims import box, fused, image, line, one_image, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.config import Engine
from florence.engine.consensus import ballots, churn, gather, information, paired_iou, reliabilities, reliability, vote
from florence.geometry import box_iou
from florence.records import Annotation, Region, annotations_table

boxes = st.lists(st.tuples(*(st.integers(low, high) for low, high in ((0, 3), (0, 2), (0, 60), (0, 60), (5, 40), (5, 40), (0, 2)))), max_size=14)


@settings(deadline=None)
@given(boxes)
def test_a_place_has_one_claim_an_author_and_claims_that_overlap(rows):
    rows = sorted(rows)
    group, author, code = (np.asarray([r[k] for r in rows], np.int64) for k in (1, 0, 6))
    group, order = np.sort(group), np.argsort(group, kind="stable")
    author, code = author[order], code[order]
    bounds = np.asarray([(r[2], r[3], r[2] + r[4], r[3] + r[5]) for r in rows], float).reshape(-1, 4)[order]
    place = gather(group, author, bounds, code, 0.5, 0.3)
    overlap = box_iou(bounds, bounds)
    for number in set(place.tolist()):
        members = np.flatnonzero(place == number)
        assert len(set(author[members].tolist())) == len(members) and len(set(group[members].tolist())) == 1
        for k in members:
            near = [overlap[k, m] >= (0.3 if code[k] == code[m] else 0.5) for m in members if m != k]
            assert any(near) or len(members) == 1
    # nothing that could join is left apart: two places of one group without a common author hold no pair that is the same place
    for a in range(len(rows)):
        for b in range(a):
            if place[a] != place[b] and group[a] == group[b] and overlap[a, b] >= 0.5:
                assert set(author[place == place[a]].tolist()) & set(author[place == place[b]].tolist())


@settings(deadline=None)
@given(boxes)
def test_overlaps_of_pairs_are_those_of_the_matrix(rows):
    bounds = np.asarray([(r[2], r[3], r[2] + r[4], r[3] + r[5]) for r in rows], float).reshape(-1, 4)
    assert np.allclose(paired_iou(bounds, bounds[::-1]), np.diag(box_iou(bounds, bounds[::-1])))


def test_the_best_overlap_wins_and_the_same_label_comes_first():
    group, bounds = np.zeros(3, np.int64), np.asarray([(0, 0, 10, 10), (1, 0, 11, 10), (3, 0, 13, 10)], float)
    assert gather(group, np.asarray([0, 1, 1]), bounds, np.asarray([0, 1, 2]), 0.5, 0.3).tolist() == [0, 0, 1]
    assert gather(group, np.asarray([0, 1, 1]), bounds, np.asarray([0, 1, 0]), 0.5, 0.3).tolist() == [0, 1, 0]


def simulated_ballots(right: list[float], seen: list[float], things: int = 6000, labels: int = 30, scored: bool = False):
    """Things with a true label, seen and named by authors of known reliability; every wrong claim is a thing of its own (invented) half of the time."""
    rng = np.random.default_rng(3)
    rows, extra, truth = [], things, []
    for author, (r, s) in enumerate(zip(right, seen, strict=True)):
        for thing in range(things):
            if rng.random() < s / r:
                good = rng.random() < r
                if good:
                    rows.append((thing, author, 0))
                elif rng.random() < 0.5:
                    rows.append((thing, author, int(rng.integers(1, labels))))
                else:
                    rows.append((extra, author, int(rng.integers(labels))))
                    extra += 1
                truth.append(good)
    thing = np.unique([row[0] for row in rows], return_inverse=True)[1]
    author, code = np.asarray([row[1] for row in rows]), np.asarray([row[2] for row in rows])
    score = np.asarray(truth) * 0.4 + rng.random(len(truth)) * 0.6 if scored else np.full(len(truth), np.nan)
    looked = np.ones((int(thing.max()) + 1, len(right)), bool)
    return ballots(thing, author, looked, code, score, None), np.asarray(truth), author


def test_reliability_is_recovered_without_truth():
    right, seen = [0.9, 0.75, 0.55], [0.7, 0.55, 0.4]
    votes, _, author = simulated_ballots(right, seen)
    trust = reliability(votes, np.ones(3, bool), 30)
    assert trust.estimated.all()
    assert np.allclose(trust.seen, seen, atol=0.03)
    assert np.allclose([trust.right[author == a].mean() for a in range(3)], right, atol=0.05)
    assert np.allclose(trust.weight, information(np.asarray(right), 30), atol=0.04)


def test_a_score_that_tells_right_from_wrong_is_found_out():
    votes, truth, author = simulated_ballots([0.8, 0.7, 0.6], [0.6, 0.6, 0.5], scored=True)
    trust = reliability(votes, np.ones(3, bool), 30)
    for a in range(3):
        assert trust.right[(author == a) & truth].mean() > trust.right[(author == a) & ~truth].mean() + 0.3


def test_one_that_guesses_weighs_next_to_nothing():
    votes, _, _ = simulated_ballots([0.85, 0.8, 0.75, 1 / 30], [0.7, 0.6, 0.6, 0.02])
    trust = reliability(votes, np.ones(4, bool), 30)
    assert trust.weight[3] < 0.25 and trust.weight[:3].min() > 0.5
    assert information(np.asarray([1 / 30]), 30)[0] == pytest.approx(0) and information(np.asarray([0.99]), 30)[0] == pytest.approx(1)


@pytest.mark.parametrize("cap", [0.1, 0.25, 0.5, 0.9])
def test_a_student_never_weighs_more_than_its_cap(cap: float):
    votes, _, _ = simulated_ballots([0.5, 0.5, 0.95], [0.4, 0.4, 0.9], things=800)
    trust = reliability(votes, np.ones(3, bool), 30)
    outcome = vote(votes, trust, ("careful", "hasty", "student"), cap)
    free = vote(votes, trust, ("careful", "hasty", "other"), cap)
    others = (votes.looked[:, :2] * trust.weight[:2]).sum(axis=1)
    share = outcome.weight[:, 2] / (others + outcome.weight[:, 2])
    assert share.max() <= cap + 1e-9
    assert (free.weight[:, 2] >= outcome.weight[:, 2]).all()
    if cap < 0.25:
        assert share.max() == pytest.approx(cap)


# ---------------------------------------------------------------- what comes of it


def test_one_annotator_alone_is_believed():
    rows = fused(one_image(reader=[line("EXIT", 10, 10, 40, 20)], seer=[box("cat", 10, 10, 50, 50)]))
    assert {(r.task, r.text, r.agreement, r.kept) for r in rows} == {("<OCR_WITH_REGION>", "EXIT", 1.0, True), ("<OD>", "cat", 1.0, True)}
    (read,) = [r for r in rows if r.task == "<OCR_WITH_REGION>"]
    assert read.regions[0].quad == (10, 10, 40, 10, 40, 20, 10, 20) and read.regions[0].box is None


def test_agreement_is_the_share_of_those_who_looked_and_can_say_it():
    place = (10, 10, 50, 50)
    said = one_image(a=[box("cat", *place)], b=[box("cat", *place)], c=[box("dog", *place)], d=[], reader=[line("EXIT", 60, 10, 90, 20)])
    found = [r for r in fused(said) if r.task == "<OD>"]
    assert [(r.text, round(r.agreement, 6)) for r in found] == [("cat", round(2 / 3, 6))], "d and the reader claim no object anywhere"
    far = image("b")
    said["d"][far.image_id] = [box("cow", *place)]
    (found,) = [r for r in fused(said, [image(), far]) if r.task == "<OD>" and r.image_id == image().image_id]
    assert found.agreement < 2 / 3, "now d is known to claim objects, and has said nothing here"
    (found,) = [r for r in fused(said, [image(), far], errors={("d", image().image_id): "MemoryError"}) if r.task == "<OD>" and r.image_id == image().image_id]
    assert found.agreement == pytest.approx(2 / 3), "one that failed has not looked"


def crowd(count: int = 60) -> tuple[dict, list]:
    """Annotators a, b, c that agree on ``count`` images, so that their reliability is known."""
    images = [image(f"{k:03d}") for k in range(count)]
    said = {author: {i.image_id: [box(f"thing {k % 20}", 10, 10, 50, 50, None)] for k, i in enumerate(images)} for author in ("a", "b", "c")}
    return said, images


def od(rows, of) -> list[Annotation]:
    return [r for r in rows if r.task == "<OD>" and r.image_id == of.image_id]


def test_a_student_rescues_what_one_alone_has_seen():
    said, images = crowd()
    said["a"][images[0].image_id] = [box("thing 0", 10, 10, 50, 50, None), box("cat", 60, 10, 90, 60, None)]
    (cat,) = [r for r in od(fused(said, images), images[0]) if r.text == "cat"]
    assert not cat.kept and cat.reason == "no_quorum"
    said["student"] = {i.image_id: [box(f"thing {k % 20}", 11, 10, 50, 50, 0.9)] for k, i in enumerate(images)}
    said["student"][images[0].image_id].append(box("cat", 61, 10, 90, 60, 0.9))
    (cat,) = [r for r in od(fused(said, images), images[0]) if r.text == "cat"]
    assert cat.kept and cat.agreement > 0.5
    low = Engine(student={"cap": 0.05})
    assert not [r for r in od(fused(said, images, low), images[0]) if r.text == "cat"][0].kept, "at a small cap it has too little weight"
    sure = Engine(student={"min_score": 0.95})
    assert fused(said, images, sure) == fused({k: v for k, v in said.items() if k != "student"} | {"student": {i.image_id: [] for i in images}}, images, sure)


def test_a_student_settles_what_is_disputed():
    said, images = crowd()
    for author, label in (("a", "cat"), ("b", "dog")):
        said[author][images[0].image_id] = [box(label, 10, 10, 50, 50, None)]
    said["c"][images[0].image_id] = []
    said["student"] = {i.image_id: [box(f"thing {k % 20}", 10, 10, 50, 50, 0.9)] for k, i in enumerate(images)}
    for label in ("cat", "dog"):
        said["student"][images[0].image_id] = [box(label, 12, 10, 50, 50, 0.9)]
        (row,) = od(fused(said, images), images[0])
        assert row.text == label and row.kept


def test_what_a_person_says_of_a_place_holds():
    said, images = crowd(10)
    first = images[0].image_id
    said["human"] = {first: [box("cat", 12, 12, 52, 52, None)]}
    (row,) = od(fused(said, images), images[0])
    assert (row.text, row.regions[0].box, row.agreement, row.kept) == ("cat", (12, 12, 52, 52), 1.0, True)
    said["human"] = {first: [box("", 10, 10, 50, 50, None)]}
    (row,) = od(fused(said, images), images[0])
    assert not row.kept and row.reason == "rejected"
    said["human"] = {first: [], images[1].image_id: [box("cat", 60, 60, 90, 79, None)]}
    (row,) = od(fused(said, images), images[0])
    assert row.kept and row.text == "thing 0" and row.agreement == 1.0, "that a person says nothing means nothing"


def test_reliabilities_are_told_by_author_and_kind():
    said, images = crowd()
    said["d"] = {i.image_id: [box(f"thing {(k * 7 + 3) % 20}", 10, 10, 50, 50, None)] for k, i in enumerate(images)}
    said["reader"] = {images[0].image_id: [line("EXIT", 60, 10, 90, 20)]}
    claims, _, coverage = tables(said, images)
    found = reliabilities(claims, coverage, Engine())
    assert {key for key in found} == {(author, "<OD>") for author in "abcd"}, "nobody else reads, so the reader's is not known"
    assert found["a", "<OD>"] == found["b", "<OD>"] > 0.9 and found["d", "<OD>"] < 0.3


def test_churn_is_the_share_of_labels_that_changed():
    def row(k: int, text: str, x: float, task: str = "<OD>", kept: bool = True) -> Annotation:
        region = () if task == "<CAPTION>" else (Region(text, box=(x, 0, x + 20, 20)),)
        return Annotation(f"{k}{text}{x}", image(str(k)).image_id, task, "consensus", "v", 0, text, region, None, 1.0, kept, "" if kept else "no_quorum")

    before = annotations_table([row(1, "cat", 0), row(1, "dog", 40), row(2, "cow", 0), row(3, "hen", 0, kept=False), row(1, "a cat", 0, "<CAPTION>")])
    after = annotations_table([row(1, "cat", 2), row(1, "fox", 40), row(2, "cow", 30), row(3, "hen", 0), row(1, "a cat", 0, "<CAPTION>")])
    assert churn(before, before) == {"<OD>": 0.0, "<CAPTION>": 0.0}
    # one of three and one of four are unchanged: the cat that moved a little
    assert churn(before, after) == {"<OD>": pytest.approx(1 - 2 / 7, abs=1e-6), "<CAPTION>": 0.0}
