"""Places gathered, annotators weighed, matrix counted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from engine_claims import box, fused, image, line, one_image, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.config import EngineSettings
from florence.engine.churn import LabelChanges, measure_churn
from florence.engine.consensus.clusters import ClusterOverlap, cluster_claims
from florence.engine.consensus.fitting import fit_annotator_models
from florence.engine.consensus.label_matrix import ABSENT, NOT_ASKED, ItemClaims, build_label_matrix
from florence.engine.consensus.posterior import compute_posterior, infer_posterior
from florence.engine.consensus.vote import vote_on_items
from florence.engine.reliability import estimate_reliability
from florence.geometry import box_iou, paired_iou
from florence.records import Annotation, Region, annotations_table

OVERLAP = ClusterOverlap(iou=0.5, same_iou=0.3)

boxes = st.lists(
    st.tuples(*(st.integers(low, high) for low, high in ((0, 3), (0, 2), (0, 60), (0, 60), (5, 40), (5, 40), (0, 2)))),
    max_size=14,
)


@settings(deadline=None)
@given(boxes)
def test_a_place_has_one_claim_an_author_and_claims_that_overlap(rows):
    rows = sorted(rows)
    group, annotator, code = (np.asarray([r[k] for r in rows], np.int64) for k in (1, 0, 6))
    group, order = np.sort(group), np.argsort(group, kind="stable")
    annotator, code = annotator[order], code[order]
    bounds = np.asarray([(r[2], r[3], r[2] + r[4], r[3] + r[5]) for r in rows], float).reshape(-1, 4)[order]
    place = cluster_claims(group, annotator, bounds, code, OVERLAP)
    overlap = box_iou(bounds, bounds)
    for number in set(place.tolist()):
        members = np.flatnonzero(place == number)
        assert len(set(annotator[members].tolist())) == len(members) and len(set(group[members].tolist())) == 1
        for k in members:
            near = [overlap[k, m] >= (0.3 if code[k] == code[m] else 0.5) for m in members if m != k]
            assert any(near) or len(members) == 1
    # nothing that could join is left apart: two places of one group without a common annotator hold no pair that is the same place
    for a in range(len(rows)):
        for b in range(a):
            if place[a] != place[b] and group[a] == group[b] and overlap[a, b] >= 0.5:
                assert set(annotator[place == place[a]].tolist()) & set(annotator[place == place[b]].tolist())


@settings(deadline=None)
@given(boxes)
def test_overlaps_of_pairs_are_those_of_the_matrix(rows):
    bounds = np.asarray([(r[2], r[3], r[2] + r[4], r[3] + r[5]) for r in rows], float).reshape(-1, 4)
    assert np.allclose(paired_iou(bounds, bounds[::-1]), np.diag(box_iou(bounds, bounds[::-1])))


def test_the_best_overlap_wins_and_the_same_label_comes_first():
    group, bounds = np.zeros(3, np.int64), np.asarray([(0, 0, 10, 10), (1, 0, 11, 10), (3, 0, 13, 10)], float)
    assert cluster_claims(group, np.asarray([0, 1, 1]), bounds, np.asarray([0, 1, 2]), OVERLAP).tolist() == [0, 0, 1]
    assert cluster_claims(group, np.asarray([0, 1, 1]), bounds, np.asarray([0, 1, 0]), OVERLAP).tolist() == [0, 1, 0]


def simulate_label_matrix(
    right: list[float],
    seen: list[float],
    things: int = 4000,
    labels: int = 30,
    *,
    scored: bool = False,
    copies: float = 0.0,
    alone: int = 0,
):
    """Ballots, whether each claim is right, and its annotator: things seen and named by annotators of known reliability.

    Half of the wrong claims are about nothing. ``copies``: share of things of which the last annotator says what the one before it says, its inventions included.
    ``alone``: labels that wrong claims alone say.
    """
    rng = np.random.default_rng(3)
    said = {(a, t): None for a in range(len(right)) for t in range(things)}
    invented: list[list[int]] = [[] for _ in right]
    for a, (r, s) in enumerate(zip(right, seen, strict=True)):
        for t in range(things):
            if rng.random() < s / r and rng.random() < (1 + r) / 2:
                wrong = rng.random() >= 2 * r / (1 + r)
                said[a, t] = (
                    (int(rng.integers(1, labels + alone)) + t) % labels
                    if wrong and not alone
                    else labels + int(rng.integers(alone))
                    if wrong
                    else t % labels
                )
        invented[a] = [int(rng.integers(labels + alone)) for _ in range(int(rng.poisson(things * s / r * (1 - r) / 2)))]
    last = len(right) - 1
    if copies:
        for t in range(things):
            if rng.random() < copies:
                said[last, t] = said[last - 1, t]
    rows = [(t, a, label, label == t % labels) for (a, t), label in said.items() if label is not None]
    extra = things
    for a, names in enumerate(invented):
        for label in names:
            copied = copies and a >= last - 1 and rng.random() < copies
            rows += [(extra, who, label, False) for who in ((last - 1, last) if copied else (a,))]
            extra += 1
    rows.sort()
    thing = np.unique([row[0] for row in rows], return_inverse=True)[1]
    annotator, code, truth = (np.asarray([row[k] for row in rows]) for k in (1, 2, 3))
    score = truth * 0.4 + rng.random(len(truth)) * 0.6 if scored else np.full(len(truth), np.nan)
    looked = np.ones((int(thing.max()) + 1, len(right)), bool)
    return build_label_matrix(ItemClaims(thing, annotator, code, score), looked), truth, annotator


def by_claim(matrix, values: np.ndarray) -> np.ndarray:
    """(claims,) of (c, A) values."""
    result = np.zeros(int(matrix.present.sum()))
    result[matrix.claim[matrix.present]] = values[matrix.present]
    return result


def test_reliability_is_recovered_without_truth():
    right, seen = [0.9, 0.75, 0.55], [0.7, 0.55, 0.4]
    matrix, truth, annotator = simulate_label_matrix(right, seen)
    models = fit_annotator_models(matrix)
    assert models.estimated.all()
    assert np.allclose(models.correct_recall, seen, atol=0.06)
    assert np.allclose(models.precision, [truth[annotator == a].mean() for a in range(3)], atol=0.05)
    assert models.item_count == pytest.approx(4000, rel=0.07), "unseen things are counted too"
    assert (models.copied_from == -1).all(), "nobody repeats another"


@pytest.mark.parametrize("scored", [False, True])
def test_what_is_said_alike_is_judged_once_and_alike(scored: bool):
    matrix, _, _ = simulate_label_matrix([0.9, 0.75, 0.55], [0.7, 0.55, 0.4], scored=scored)
    matrix.claim[::7, 1][matrix.claim[::7, 1] == ABSENT] = NOT_ASKED
    rows, number = matrix.find_distinct()
    assert (2 * len(rows) < len(number)) != scored, "few are said alike where scores tell them apart"
    for name in ("label", "level", "asked", "present"):
        assert (getattr(matrix, name)[rows][number] == getattr(matrix, name)).all(), name
    models = fit_annotator_models(matrix)
    one, all_ = infer_posterior(matrix, models, 2, 0.4), compute_posterior(matrix, models, 2, 0.4)
    for name in ("nothing", "label", "correct"):
        assert np.allclose(getattr(one, name), getattr(all_, name), atol=1e-12), name


def test_what_is_believed_is_as_often_right():
    matrix, truth, _ = simulate_label_matrix([0.85, 0.7, 0.55, 0.5], [0.7, 0.5, 0.4, 0.3])
    belief = by_claim(matrix, compute_posterior(matrix, fit_annotator_models(matrix)).correct)
    for low in np.arange(0, 1, 0.2):
        there = (belief >= low) & (belief < low + 0.2 + 1e-9)
        if there.sum() > 200:
            assert belief[there].mean() == pytest.approx(truth[there].mean(), abs=0.08)


def test_one_that_repeats_another_adds_little():
    right, seen = [0.8, 0.75, 0.7, 0.6, 0.6], [0.6, 0.6, 0.5, 0.5, 0.5]
    matrix, truth, annotator = simulate_label_matrix(right, seen, copies=0.8)
    models = fit_annotator_models(matrix)
    assert models.copied_from.tolist() == [-1, -1, -1, -1, 3] and models.dependence[4] == pytest.approx(0.8, abs=0.08)
    assert np.allclose(models.correct_recall, seen, atol=0.05)
    told = by_claim(matrix, compute_posterior(matrix, models).correct)
    both = matrix.present[:, 3] & matrix.present[:, 4] & ~matrix.present[:, :3].any(axis=1)
    mistakes = matrix.claim[both & (matrix.similarity[:, 3, 4] == 1), 3]
    assert told[mistakes].mean() == pytest.approx(truth[mistakes].mean(), abs=0.12) and truth[mistakes].mean() < 0.5
    free, _, _ = simulate_label_matrix(right, seen)
    assert (fit_annotator_models(free).copied_from == -1).all()


def test_names_that_only_wrong_claims_say_are_found_out():
    matrix, truth, _ = simulate_label_matrix([0.8, 0.7, 0.6], [0.6, 0.6, 0.5], alone=30)
    models = fit_annotator_models(matrix)
    assert models.label_prior[30:].sum() < 0.08 < 0.8 < models.wrong_label_prior[30:].sum()


def test_a_score_that_tells_right_from_wrong_is_found_out():
    matrix, truth, annotator = simulate_label_matrix([0.8, 0.7, 0.6], [0.6, 0.6, 0.5], scored=True)
    told = by_claim(matrix, compute_posterior(matrix, fit_annotator_models(matrix)).correct)
    plain, _, _ = simulate_label_matrix([0.8, 0.7, 0.6], [0.6, 0.6, 0.5])
    for a in range(3):
        gap = told[(annotator == a) & truth].mean() - told[(annotator == a) & ~truth].mean()
        without = by_claim(plain, compute_posterior(plain, fit_annotator_models(plain)).correct)
        assert gap > without[(annotator == a) & truth].mean() - without[(annotator == a) & ~truth].mean() + 0.05


def test_one_that_guesses_changes_nothing():
    matrix, truth, annotator = simulate_label_matrix([0.85, 0.8, 0.75, 1 / 30], [0.7, 0.6, 0.6, 0.02])
    models = fit_annotator_models(matrix)
    assert models.precision[3] < 0.15 and models.precision[:3].min() > 0.65
    told = by_claim(matrix, compute_posterior(matrix, models).correct)
    assert told[annotator == 3].mean() < 0.15


@pytest.mark.parametrize("cap", [0.1, 0.25, 0.5, 0.9])
def test_a_student_never_tells_more_than_its_cap(cap: float):
    matrix, _, _ = simulate_label_matrix([0.7, 0.6, 0.95], [0.5, 0.5, 0.9], things=800)
    models = fit_annotator_models(matrix)
    free, held, without = (
        compute_posterior(matrix, models, who, c).correct for who, c in ((None, 1.0), (2, cap), (2, 1e-9))
    )
    assert np.abs(held - without).sum() <= np.abs(free - without).sum() + 1e-6
    outcome = vote_on_items(matrix, models, 2, cap)
    assert np.allclose(outcome.weight, held)
    # alone against two silent ones it cannot make a thing, whatever it says, where its share is small
    alone = matrix.present[:, 2] & ~matrix.present[:, :2].any(axis=1)
    if cap <= 0.1:
        assert (outcome.confidence[alone] < 0.5).all() and (
            vote_on_items(matrix, models, None, cap).confidence[alone] > 0.5
        ).any()


# ---------------------------------------------------------------- what comes of it


def test_one_annotator_alone_is_believed():
    rows = fused(one_image(reader=[line("EXIT", 10, 10, 40, 20)], seer=[box("cat", 10, 10, 50, 50)]))
    assert {(r.task, r.text, round(r.confidence, 1), r.kept) for r in rows} == {
        ("<OCR_WITH_REGION>", "EXIT", 0.7, True),
        ("<OD>", "cat", 0.7, True),
    }
    (read,) = [r for r in rows if r.task == "<OCR_WITH_REGION>"]
    assert read.regions[0].quad == (10, 10, 40, 10, 40, 20, 10, 20) and read.regions[0].box is None


def test_silence_counts_of_those_who_looked_and_claim_such_things():
    place = (10, 10, 50, 50)
    said = one_image(a=[box("cat", *place)], b=[], c=[], d=[], reader=[line("EXIT", 60, 10, 90, 20)])

    def confidence(**more) -> float:
        (found,) = [
            r for r in fused(said, [image(), far], **more) if r.task == "<OD>" and r.image_id == image().image_id
        ]
        return found.confidence

    far = image("b")
    alone = confidence()
    assert alone == pytest.approx(0.7, abs=0.05), "b, c, d and the reader claim no object anywhere"
    said["c"][far.image_id] = [box("cow", *place)]
    one = confidence()
    said["d"][far.image_id] = [box("cow", *place)]
    two = confidence()
    assert alone > one > two, "those who are known to claim objects have said nothing here"
    assert confidence(errors={("d", image().image_id): "MemoryError"}) > two, "one that failed has not looked"
    said["b"][image().image_id] = [box("cat", *place)]
    assert confidence() > 0.9
    said["b"][image().image_id] = [box("dog", *place)]
    assert confidence() < 0.5, "two names, and nothing between them"


def crowd(count: int = 60) -> tuple[dict, list]:
    """Annotators a, b, c that agree on ``count`` images, so that their reliability is known."""
    images = [image(f"{k:03d}") for k in range(count)]
    said = {
        annotator: {i.image_id: [box(f"thing {k % 20}", 10, 10, 50, 50, None)] for k, i in enumerate(images)}
        for annotator in ("a", "b", "c")
    }
    return said, images


def od(rows, of) -> list[Annotation]:
    return [r for r in rows if r.task == "<OD>" and r.image_id == of.image_id]


def test_a_student_rescues_what_one_alone_has_seen():
    said, images = crowd()
    said["a"][images[0].image_id] = [box("thing 0", 10, 10, 50, 50, None), box("cat", 60, 10, 90, 60, None)]
    (cat,) = [r for r in od(fused(said, images), images[0]) if r.text == "cat"]
    assert not cat.kept and cat.reason == "low_confidence"
    said["student"] = {i.image_id: [box(f"thing {k % 20}", 11, 10, 50, 50, 0.9)] for k, i in enumerate(images)}
    said["student"][images[0].image_id].append(box("cat", 61, 10, 90, 60, 0.9))
    (cat,) = [r for r in od(fused(said, images), images[0]) if r.text == "cat"]
    assert cat.kept and cat.confidence > 0.5
    low = EngineSettings(student={"cap": 0.05})
    assert not [r for r in od(fused(said, images, low), images[0]) if r.text == "cat"][0].kept, (
        "at a small cap it has too little weight"
    )
    sure = EngineSettings(student={"min_score": 0.95})
    assert fused(said, images, sure) == fused(
        {k: v for k, v in said.items() if k != "student"} | {"student": {i.image_id: [] for i in images}}, images, sure
    )


def test_a_student_settles_what_is_disputed():
    said, images = crowd()
    for annotator, label in (("a", "cat"), ("b", "dog")):
        said[annotator][images[0].image_id] = [box(label, 10, 10, 50, 50, None)]
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
    assert (row.text, row.regions[0].box, row.confidence, row.kept) == ("cat", (12, 12, 52, 52), 1.0, True)
    said["human"] = {first: [box("", 10, 10, 50, 50, None)]}
    (row,) = od(fused(said, images), images[0])
    assert not row.kept and row.reason == "rejected"
    said["human"] = {first: [], images[1].image_id: [box("cat", 60, 60, 90, 79, None)]}
    (row,) = od(fused(said, images), images[0])
    assert row.kept and row.text == "thing 0" and row.confidence > 0.99, "that a person says nothing means nothing"


def test_reliabilities_are_told_by_author_and_kind():
    said, images = crowd()
    said["d"] = {i.image_id: [box(f"thing {(k * 7 + 3) % 20}", 10, 10, 50, 50, None)] for k, i in enumerate(images)}
    said["reader"] = {images[0].image_id: [line("EXIT", 60, 10, 90, 20)]}
    claims, _, coverage = tables(said, images)
    found = estimate_reliability(claims, coverage, EngineSettings())
    assert {key for key in found} == {(annotator, "<OD>") for annotator in "abcd"}, (
        "nobody else reads, so the reader's is not known"
    )
    assert found["a", "<OD>"].value == found["b", "<OD>"].value > 0.9 and found["d", "<OD>"].value < 0.3
    for who, least, most in (("a", 0.9, 1), ("d", 0, 0.3)):
        by_name = found[who, "<OD>"].by_name
        assert len(by_name) == 20 and all(least <= value <= most for value in by_name.values())


def test_reliability_is_told_name_by_name():
    """One of four never says "cat": it calls them dogs."""
    images = [image(f"{k}") for k in range(120)]
    said = {
        who: {i.image_id: [box(("cat", "dog", "hen")[k % 3], 10, 10, 50, 50, None)] for k, i in enumerate(images)}
        for who in "abc"
    }
    said["d"] = {i.image_id: [box(("dog", "dog", "hen")[k % 3], 10, 10, 50, 50, None)] for k, i in enumerate(images)}
    claims, _, coverage = tables(said, images)
    found = estimate_reliability(claims, coverage, EngineSettings())
    assert found["d", "<OD>"].by_name["cat"] < 0.4 < 0.8 < found["d", "<OD>"].by_name["hen"]
    assert set(found["a", "<OD>"].by_name) == {"cat", "dog", "hen"} and not found["a", "<OD>"].by_name["cat"] < 0.8
    without = pa.array([i.image_id for k, i in enumerate(images) if k % 3 == 0])
    claims, coverage = (
        t.filter(pc.invert(pc.and_(pc.equal(t["annotator"], "d"), pc.is_in(t["image_id"], without))))
        for t in (claims, coverage)
    )
    assert set(estimate_reliability(claims, coverage, EngineSettings())["d", "<OD>"].by_name) == {"dog", "hen"}, (
        "nothing is told of what it was never shown"
    )


def test_churn_is_the_share_of_labels_that_changed():
    def row(k: int, text: str, x: float, task: str = "<OD>", kept: bool = True) -> Annotation:
        region = () if task == "<CAPTION>" else (Region(text, box=(x, 0, x + 20, 20)),)
        return Annotation(
            f"{k}{text}{x}",
            image(str(k)).image_id,
            task,
            "consensus",
            "v",
            0,
            text,
            region,
            None,
            1.0,
            None,
            kept,
            "" if kept else "low_confidence",
        )

    before = annotations_table(
        [
            row(1, "cat", 0),
            row(1, "dog", 40),
            row(2, "cow", 0),
            row(3, "hen", 0, kept=False),
            row(1, "a cat", 0, "<CAPTION>"),
        ]
    )
    after = annotations_table(
        [row(1, "cat", 2), row(1, "fox", 40), row(2, "cow", 30), row(3, "hen", 0), row(1, "a cat", 0, "<CAPTION>")]
    )
    assert measure_churn(before, before) == {
        "<OD>": LabelChanges(3, 0, 0, 0, 0),
        "<CAPTION>": LabelChanges(1, 0, 0, 0, 0),
    }
    found = measure_churn(before, after)
    # the cat has moved a little, the dog is a fox now, the cow is elsewhere, and the hen is new
    assert found == {
        "<OD>": LabelChanges(same=1, renamed=1, moved=1, added=1, removed=0),
        "<CAPTION>": LabelChanges(1, 0, 0, 0, 0),
    }
    assert found["<OD>"].share == pytest.approx(1 - 2 / 7, abs=1e-6) and found["<CAPTION>"].share == 0
    assert measure_churn(after, before)["<OD>"] == LabelChanges(same=1, renamed=1, moved=1, added=0, removed=1)
    reworded = annotations_table([row(1, "a black cat", 0, "<CAPTION>"), row(2, "a cow", 0, "<CAPTION>")])
    assert measure_churn(before, reworded) == {
        "<OD>": LabelChanges(0, 0, 0, 0, removed=3),
        "<CAPTION>": LabelChanges(same=0, renamed=1, moved=0, added=1, removed=0),
    }


def test_a_phrase_is_the_same_where_its_caption_is_told_in_other_words():
    def phrase(caption: str, label: str, x: float) -> Annotation:
        region = Region(label, box=(x, 0, x + 20, 20), span=(0, len(label)))
        return Annotation(
            f"{caption}{label}{x}",
            image("1").image_id,
            "<CAPTION_TO_PHRASE_GROUNDING>",
            "consensus",
            "v",
            0,
            caption,
            (region,),
            None,
            1.0,
            None,
            True,
            "",
        )

    before = annotations_table([phrase("a cat sits", "a cat", 0), phrase("a cat sits", "a hat", 40)])
    after = annotations_table([phrase("a cat lies", "a cat", 1), phrase("a cat lies", "a bow", 40)])
    assert measure_churn(before, after) == {
        "<CAPTION_TO_PHRASE_GROUNDING>": LabelChanges(same=1, renamed=1, moved=0, added=0, removed=0)
    }


def test_two_things_of_one_name_are_paired_one_by_one():
    def cats(*at: float) -> pa.Table:
        return annotations_table(
            [
                Annotation(
                    f"{x}",
                    image("1").image_id,
                    "<OD>",
                    "consensus",
                    "v",
                    0,
                    "cat",
                    (Region("cat", box=(x, 0, x + 20, 20)),),
                    None,
                    1.0,
                    None,
                    True,
                    "",
                )
                for x in at
            ]
        )

    assert measure_churn(cats(0, 40, 80), cats(2, 82)) == {"<OD>": LabelChanges(2, 0, 0, 0, removed=1)}
    assert measure_churn(cats(0, 40), cats(100, 140, 180)) == {"<OD>": LabelChanges(0, 0, moved=2, added=1, removed=0)}
