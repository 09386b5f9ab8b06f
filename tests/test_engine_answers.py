"""Answers about whole images: simulated with declared errors, fused, turned into examples and scored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from florence.annotators import ANNOTATORS, ImageBatch
from florence.config import EngineSettings, settings_from
from florence.engine import fuse
from florence.engine.churn import measure_churn
from florence.errors import EncodeError
from florence.evaluate.quality import measure_quality
from florence.evaluate.references import References
from florence.evaluate.scores import choose_questions
from florence.records import (
    ANNOTATIONS,
    BASE_TYPES,
    FINE_TUNED,
    IMAGES,
    TASKS,
    AnnotatorProfile,
    Claim,
    ImageRecord,
    Region,
    annotate,
    annotations_table,
    table_annotations,
)
from florence.sources import SOURCES
from florence.tasks import task

SIDE = 64
WHOLE = (0.0, 0.0, float(SIDE), float(SIDE))


@pytest.fixture(scope="module")
def scenes():
    """Return records and truth of scenes with questions."""
    found = []
    for index, image in enumerate(SOURCES.get("scenes")(count=250, size=SIDE, questions=True).images(frozenset())):
        record = ImageRecord(f"{index:064x}", SIDE, SIDE, "scenes", image.name, image.licence, None, "train")
        found.append((record, annotate(record.image_id, image.truth, "truth", "1")))
    return found


def simulate(scenes, name="one", **options):
    annotator = ANNOTATORS.get("simulated")(name=name, **options)
    return annotator.annotate(
        ImageBatch(tuple(record for record, _ in scenes), truth=tuple(truth for _, truth in scenes))
    )


def answers(claims, annotation_type):
    return {
        (i, c.text if annotation_type == "<VQA>" else ""): c.regions[0].label
        for i, image_claims in enumerate(claims)
        for c in image_claims
        if c.task == annotation_type
    }


@pytest.mark.parametrize("annotation_type", FINE_TUNED)
def test_an_annotator_answers_with_the_errors_that_it_declares(scenes, annotation_type):
    right = answers([truth for _, truth in scenes], annotation_type)
    found = answers(simulate(scenes, missed=0.4, mislabelled=0.15, misread=0), annotation_type)
    assert set(found) <= set(right)
    n, missed = len(right), 1 - len(found) / len(right)
    assert abs(missed - 0.4) < 4 * (0.4 * 0.6 / n) ** 0.5
    # what is read is wrong by its characters alone
    compared = [key for key in found if "say" not in key[1]]
    wrong = sum(found[key] != right[key] for key in compared) / len(compared)
    assert abs(wrong - 0.15) < 4 * (0.15 * 0.85 / len(compared)) ** 0.5
    assert answers(simulate(scenes, missed=0, mislabelled=0, misread=0), annotation_type) == right
    for key in found:
        if right[key] in ("yes", "no"):
            assert found[key] in ("yes", "no")


def test_what_is_read_is_misread_by_its_characters(scenes):
    right = {key: value for key, value in answers([truth for _, truth in scenes], "<VQA>").items() if "say" in key[1]}
    found = answers(simulate(scenes, missed=0, mislabelled=0, misread=0.2), "<VQA>")
    characters = sum(len(value) for value in right.values())
    same = sum(a == b for key, value in right.items() for a, b in zip(value, found.get(key, ""), strict=False))
    assert 0.55 < same / characters < 0.95


def test_annotation_types_that_are_named_are_answered_alone_and_the_rest_does_not_change(scenes):
    few = scenes[:30]
    everything = simulate(few)
    assert {c.task for image_claims in everything for c in image_claims} == {*BASE_TYPES, *FINE_TUNED}
    assert {c.task for image_claims in simulate(few, tasks=("<OD>", "<VQA>")) for c in image_claims} == {
        "<OD>",
        "<VQA>",
    }
    plain = simulate([(record, tuple(row for row in truth if row.task in BASE_TYPES)) for record, truth in few])
    assert plain == [[c for c in image_claims if c.task in BASE_TYPES] for image_claims in everything]


def table(claims, annotator):
    return annotations_table(
        [row for i, image_claims in enumerate(claims) for row in annotate(f"{i:064x}", image_claims, annotator, "1")]
    )


def images(count):
    rows = [
        {
            "image_id": f"{i:064x}",
            "width": SIDE,
            "height": SIDE,
            "source": "s",
            "name": str(i),
            "licence": "",
            "alt_text": None,
            "split": "train",
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=IMAGES)


def fuse_answers(by_annotator, count, profiles=(), **settings):
    claims = pa.concat_tables([table(claims, annotator) for annotator, claims in by_annotator.items()])
    covered = [
        {"image_id": f"{i:064x}", "annotator": annotator, "error": ""}
        for annotator in by_annotator
        for i in range(count)
    ]
    return fuse(claims, images(count), pa.Table.from_pylist(covered), EngineSettings(**settings), 0, profiles)


def test_fused_answers_are_better_than_any_annotators(scenes):
    by_annotator = {
        name: simulate(scenes, name, missed=0.2, mislabelled=wrong, misread=0.1)
        for name, wrong in (("a", 0.2), ("b", 0.3), ("c", 0.4))
    }
    labels = table_annotations(fuse_answers(by_annotator, len(scenes)))
    for annotation_type in FINE_TUNED:
        right = answers([truth for _, truth in scenes], annotation_type)
        kept = {
            (int(r.image_id, 16), r.text if annotation_type == "<VQA>" else ""): r.regions[0].label
            for r in labels
            if r.task == annotation_type and r.kept
        }
        found = sum(right[key] == value for key, value in kept.items()) / len(right)
        singly = [
            sum(right[key] == value for key, value in answers(claims, annotation_type).items()) / len(right)
            for claims in by_annotator.values()
        ]
        assert found > max(singly) + 0.05, (annotation_type, found, singly)
    for row in labels:
        if row.task in FINE_TUNED:
            assert row.regions[0].box == WHOLE and (row.kept or row.reason) and 0 <= row.confidence <= 1


def vqa(*answers, question="What is it?", scores=None):
    return [[Claim("<VQA>", question, tuple(Region(answer, box=WHOLE) for answer in answers), scores)]]


def test_votes_min_confidence_and_people():
    def only(by_annotator, **settings):
        (row,) = table_annotations(fuse_answers(by_annotator, 1, **settings))
        return row

    row = only({"a": vqa("cat", scores=0.5), "b": vqa("Cat", scores=0.7), "c": vqa("dog")})
    assert (
        (row.regions[0].label, row.kept, row.text) == ("cat", True, "What is it?")
        and row.confidence == pytest.approx(2 / 3)
        and row.score == pytest.approx(0.6)
    )
    row = only({"a": vqa("cat"), "b": vqa("cow"), "c": vqa("dog")}, min_confidence=0.5)
    assert not row.kept and row.reason == "low_confidence"
    row = only({"a": vqa("cat"), "b": vqa("cat"), "human": vqa("dog", "dog", "puppy")})
    assert [r.label for r in row.regions] == ["dog", "dog", "puppy"] and row.kept
    assert only({"a": vqa("cat", scores=0.01)}).reason == "low_score"
    assert only({"a": vqa("?")}).reason == "empty_text"
    # an annotator that is silent was not asked
    assert only({"a": vqa("cat"), "b": [[]]}).confidence == 1


def category(name, score=None):
    return [[Claim("<CLASSIFICATION>", name, (Region(name, box=WHOLE),), score)]]


def test_relatives_have_one_vote_and_scores_say_how_likely_an_answer_is():
    kin = [AnnotatorProfile(name, family="kin") for name in ("a", "b", "c")]

    def only(by_annotator, profiles=kin):
        (row,) = table_annotations(fuse_answers(by_annotator, 1, profiles, min_confidence=0.01))
        return row.regions[0].label, row.confidence

    both = {"a": category("worm", 0.5), "b": category("worm", 0.54)}
    assert only(both) == ("worm", pytest.approx(0.52)), "two relatives say no more than their scores"
    assert only({"a": category("worm", 0.52)}) == ("worm", pytest.approx(0.52))
    strangers = pytest.approx(1 - 0.5 * 0.46)
    assert only(both, ()) == ("worm", strangers), "two that have nothing in common say more"
    three = {"a": category("worm"), "b": category("worm"), "c": category("worm")}
    others = {"d": category("coin"), "e": category("coin")}
    assert only({**three, **others}) == ("coin", pytest.approx(2 / 3)), "three relatives are outvoted by two strangers"
    assert only({**three, **others}, ()) == ("worm", pytest.approx(3 / 5))
    divided = {"a": category("worm"), "b": category("snake"), "c": category("worm"), "d": category("coin")}
    assert only(divided) == ("coin", pytest.approx(1 / 2)), "a family that disagrees divides its vote"
    assert only({**both, "human": category("coin", 0.3)}) == ("coin", 1.0)


def test_relatives_do_not_make_each_other_reliable():
    # a and b repeat each other's mistakes; c and d are right wherever they agree
    said = {
        "a": ["x", "y"] * 30,
        "b": ["x", "y"] * 30,
        "c": ["x", "x"] * 28 + ["y"] * 4,
        "d": ["x", "x"] * 30,
    }
    claims = {name: [category(answer)[0] for answer in answers] for name, answers in said.items()}

    def share(profiles):
        rows = table_annotations(fuse_answers(claims, 60, profiles))
        return sum(row.regions[0].label == "x" for row in rows) / len(rows)

    assert share([AnnotatorProfile(name, family="kin") for name in "ab"]) > 0.95
    assert share(()) < 0.6, "taken for two witnesses, a and b are believed"


def test_agreement_is_the_share_of_equal_answers():
    def agreement(**by_annotator) -> float | None:
        (row,) = table_annotations(fuse_answers(by_annotator, 1))
        return row.agreement

    assert agreement(a=vqa("cat"), b=vqa("Cat"), c=vqa("dog")) == pytest.approx(2 / 3)
    assert agreement(a=vqa("cat"), b=vqa("cat"), human=vqa("dog", "puppy")) == pytest.approx(1 / 3)
    assert agreement(a=vqa("cat"), b=vqa("cat", scores=0.01)) is None, "an answer without a vote is silence"
    assert agreement(a=vqa("cat"), b=[[]]) is None and agreement(a=vqa("?"), b=vqa("?")) is None


def test_the_order_of_the_claims_does_not_matter(scenes):
    few = scenes[:40]
    by_annotator = {name: simulate(few, name) for name in ("a", "b", "c")}
    assert fuse_answers(by_annotator, 40).equals(fuse_answers(dict(reversed(by_annotator.items())), 40))


def test_a_changed_answer_is_a_changed_label():
    before, after = (fuse_answers({"a": vqa(first, question="Q1")[:1]}, 1) for first in ("cat", "dog"))
    assert measure_churn(before, before)["<VQA>"].share == 0 and measure_churn(before, after)["<VQA>"].share == 1


def test_quality_is_the_share_of_questions_answered_right(scenes):
    few = scenes[:60]
    labels = fuse_answers({"a": simulate(few, "a", missed=0.3, mislabelled=0.2)}, 60)
    known = References(
        {
            (record.image_id, annotation_type): ("truth", tuple(r for r in truth if r.task == annotation_type))
            for record, truth in few
            for annotation_type in FINE_TUNED
        }
    )
    found = {
        m.task: m
        for m in measure_quality(labels, known, [record.image_id for record, _ in few])
        if m.task in FINE_TUNED
    }
    kept = {(r.image_id, r.text): r.regions[0].label for r in table_annotations(labels) if r.task == "<VQA>" and r.kept}
    record, truth = few[0]
    rows = [row for row in truth if row.task == "<VQA>"]
    right = sum(kept.get((record.image_id, row.text), "").lower() == row.regions[0].label.lower() for row in rows)
    assert found["<VQA>"].per_image[record.image_id] == pytest.approx(right / len(rows))
    assert found["<CLASSIFICATION>"].metric == "accuracy"


# ---------------------------------------------------------------- tasks and settings


def test_examples_of_questions_hold_every_answer_and_learn_the_commonest():
    record = ImageRecord("a" * 64, SIDE, SIDE, "s", "n", "", None, "train")
    rows = annotate(
        record.image_id,
        [
            *vqa("red", "crimson", "red", question=" What colour? ")[0],
            *vqa("red", question="What colour?")[0],
            *vqa("2", question="How many?")[0],
        ],
        "human",
        "1",
    )
    first, second = task("<VQA>").examples(record, rows)
    assert (first.input, first.target, [r.label for r in first.regions]) == (
        "What colour?",
        "red",
        ["crimson", "red", "red", "red"],
    )
    assert (second.input, second.text) == ("How many?", "2")
    assert "What colour?" in task("<VQA>").prompt(first.input)
    with pytest.raises(EncodeError):
        task("<VQA>").prompt()
    refused = []
    bad = annotate(
        record.image_id,
        [Claim("<VQA>", "Why?"), *vqa("a<loc_1>")[0], *vqa("x", question="<sep>")[0], *vqa(" ")[0]],
        "a",
        "1",
    )
    assert task("<VQA>").examples(record, bad, refused) == [] and len(refused) == 4


def test_they_are_asked_for_only_by_name(scenes):
    plain = settings_from({"sources": {}, "annotators": {}})
    assert (
        plain.evaluate.tasks == TASKS
        and not set(plain.train.task_weights) & set(FINE_TUNED)
        and not set(FINE_TUNED) & {*TASKS, *BASE_TYPES}
    )
    settings = settings_from(
        {
            "sources": {},
            "annotators": {},
            "train": {"task_weights": {"<VQA>": 2}},
            "evaluate": {"tasks": ["<OD>", "<VQA>", "<CLASSIFICATION>"], "shuffled_image_tasks": ["<VQA>"]},
        }
    )
    few = scenes[:20]
    known = References(
        {
            (record.image_id, annotation_type): ("truth", tuple(r for r in truth if r.task == annotation_type))
            for record, truth in few
            for annotation_type in (*BASE_TYPES, *FINE_TUNED)
        }
    )
    records = [record for record, _ in few]
    names = {q.example.task for q in choose_questions(records, known, settings.evaluate)[0]}
    assert names == {"<OD>", "<VQA>", "<CLASSIFICATION>"}
    assert not {q.example.task for q in choose_questions(records, known, plain.evaluate)[0]} & set(FINE_TUNED)
    assert np.all(
        [q.shuffled_image for q in choose_questions(records, known, settings.evaluate)[0] if q.example.task == "<VQA>"]
    )


def test_schemas_are_the_same():
    assert fuse_answers({"a": vqa("cat")}, 1).schema == ANNOTATIONS
