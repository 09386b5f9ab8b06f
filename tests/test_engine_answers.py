"""Answers about whole images: told with declared errors, agreed on, learnt from and scored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from florence.annotators import ANNOTATORS, ImageBatch
from florence.config import EngineSettings, settings_from
from florence.engine import fuse
from florence.engine.churn import measure_churn
from florence.errors import EncodeError
from florence.evaluate.quality import measure
from florence.evaluate.references import Known
from florence.evaluate.scores import questions
from florence.records import (
    ANNOTATIONS,
    BASE_TYPES,
    FINE_TUNED,
    IMAGES,
    TASKS,
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
    """Records and truth of scenes with questions."""
    found = []
    for index, image in enumerate(SOURCES.get("scenes")(count=250, size=SIDE, questions=True).images(frozenset())):
        record = ImageRecord(f"{index:064x}", SIDE, SIDE, "scenes", image.name, image.licence, None, "train")
        found.append((record, annotate(record.image_id, image.truth, "truth", "1")))
    return found


def told(scenes, name="one", **options):
    annotator = ANNOTATORS.get("simulated")(name=name, **options)
    return annotator.annotate(
        ImageBatch(tuple(record for record, _ in scenes), truth=tuple(truth for _, truth in scenes))
    )


def answers(claims, kind):
    return {
        (i, c.text if kind == "<VQA>" else ""): c.regions[0].label
        for i, said in enumerate(claims)
        for c in said
        if c.task == kind
    }


@pytest.mark.parametrize("kind", FINE_TUNED)
def test_an_annotator_answers_with_the_errors_that_it_declares(scenes, kind):
    right = answers([truth for _, truth in scenes], kind)
    said = answers(told(scenes, missed=0.4, mislabelled=0.15, misread=0), kind)
    assert set(said) <= set(right)
    n, missed = len(right), 1 - len(said) / len(right)
    assert abs(missed - 0.4) < 4 * (0.4 * 0.6 / n) ** 0.5
    # what is read is wrong by its characters alone
    judged = [key for key in said if "say" not in key[1]]
    wrong = sum(said[key] != right[key] for key in judged) / len(judged)
    assert abs(wrong - 0.15) < 4 * (0.15 * 0.85 / len(judged)) ** 0.5
    assert answers(told(scenes, missed=0, mislabelled=0, misread=0), kind) == right
    for key in said:
        if right[key] in ("yes", "no"):
            assert said[key] in ("yes", "no")


def test_what_is_read_is_misread_by_its_characters(scenes):
    right = {key: value for key, value in answers([truth for _, truth in scenes], "<VQA>").items() if "say" in key[1]}
    said = answers(told(scenes, missed=0, mislabelled=0, misread=0.2), "<VQA>")
    characters = sum(len(value) for value in right.values())
    same = sum(a == b for key, value in right.items() for a, b in zip(value, said.get(key, ""), strict=False))
    assert 0.55 < same / characters < 0.95


def test_kinds_that_are_named_are_told_alone_and_the_rest_does_not_change(scenes):
    few = scenes[:30]
    everything = told(few)
    assert {c.task for said in everything for c in said} == {*BASE_TYPES, *FINE_TUNED}
    assert {c.task for said in told(few, tasks=("<OD>", "<VQA>")) for c in said} == {"<OD>", "<VQA>"}
    plain = told([(record, tuple(row for row in truth if row.task in BASE_TYPES)) for record, truth in few])
    assert plain == [[c for c in said if c.task in BASE_TYPES] for said in everything]


def table(claims, annotator):
    return annotations_table(
        [row for i, said in enumerate(claims) for row in annotate(f"{i:064x}", said, annotator, "1")]
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


def fused(by_author, count, **settings):
    claims = pa.concat_tables([table(claims, annotator) for annotator, claims in by_author.items()])
    covered = [
        {"image_id": f"{i:064x}", "annotator": annotator, "error": ""} for annotator in by_author for i in range(count)
    ]
    return fuse(claims, images(count), pa.Table.from_pylist(covered), EngineSettings(**settings), 0)


def test_agreed_answers_are_better_than_anybodys(scenes):
    by_author = {
        name: told(scenes, name, missed=0.2, mislabelled=wrong, misread=0.1)
        for name, wrong in (("a", 0.2), ("b", 0.3), ("c", 0.4))
    }
    labels = table_annotations(fused(by_author, len(scenes)))
    for kind in FINE_TUNED:
        right = answers([truth for _, truth in scenes], kind)
        kept = {
            (int(r.image_id, 16), r.text if kind == "<VQA>" else ""): r.regions[0].label
            for r in labels
            if r.task == kind and r.kept
        }
        found = sum(right[key] == value for key, value in kept.items()) / len(right)
        singly = [
            sum(right[key] == value for key, value in answers(claims, kind).items()) / len(right)
            for claims in by_author.values()
        ]
        assert found > max(singly) + 0.05, (kind, found, singly)
    for row in labels:
        if row.task in FINE_TUNED:
            assert row.regions[0].box == WHOLE and (row.kept or row.reason) and 0 <= row.confidence <= 1


def said(*answers, question="What is it?", scores=None):
    return [[Claim("<VQA>", question, tuple(Region(answer, box=WHOLE) for answer in answers), scores)]]


def test_votes_quorum_and_people():
    def only(by_author, **settings):
        (row,) = table_annotations(fused(by_author, 1, **settings))
        return row

    row = only({"a": said("cat", scores=0.5), "b": said("Cat", scores=0.7), "c": said("dog")})
    assert (
        (row.regions[0].label, row.kept, row.text) == ("cat", True, "What is it?")
        and row.confidence == pytest.approx(2 / 3)
        and row.score == pytest.approx(0.6)
    )
    row = only({"a": said("cat"), "b": said("cow"), "c": said("dog")}, min_confidence=0.5)
    assert not row.kept and row.reason == "low_confidence"
    row = only({"a": said("cat"), "b": said("cat"), "human": said("dog", "dog", "puppy")})
    assert [r.label for r in row.regions] == ["dog", "dog", "puppy"] and row.kept
    assert only({"a": said("cat", scores=0.01)}).reason == "low_score"
    assert only({"a": said("?")}).reason == "empty_text"
    # who was not asked has no part in it
    assert only({"a": said("cat"), "b": [[]]}).confidence == 1


def test_agreement_is_the_share_of_equal_answers():
    def agreement(**by_annotator) -> float | None:
        (row,) = table_annotations(fused(by_annotator, 1))
        return row.agreement

    assert agreement(a=said("cat"), b=said("Cat"), c=said("dog")) == pytest.approx(2 / 3)
    assert agreement(a=said("cat"), b=said("cat"), human=said("dog", "puppy")) == pytest.approx(1 / 3)
    assert agreement(a=said("cat"), b=said("cat", scores=0.01)) is None, "an answer without a vote is silence"
    assert agreement(a=said("cat"), b=[[]]) is None and agreement(a=said("?"), b=said("?")) is None


def test_the_order_of_the_claims_does_not_matter(scenes):
    few = scenes[:40]
    by_author = {name: told(few, name) for name in ("a", "b", "c")}
    assert fused(by_author, 40).equals(fused(dict(reversed(by_author.items())), 40))


def test_a_changed_answer_is_a_changed_label():
    before, after = (fused({"a": said(first, question="Q1")[:1]}, 1) for first in ("cat", "dog"))
    assert measure_churn(before, before)["<VQA>"].share == 0 and measure_churn(before, after)["<VQA>"].share == 1


def test_quality_is_the_share_of_questions_answered_right(scenes):
    few = scenes[:60]
    labels = fused({"a": told(few, "a", missed=0.3, mislabelled=0.2)}, 60)
    known = Known(
        {
            (record.image_id, kind): ("truth", tuple(r for r in truth if r.task == kind))
            for record, truth in few
            for kind in FINE_TUNED
        }
    )
    found = {m.task: m for m in measure(labels, known, [record.image_id for record, _ in few]) if m.task in FINE_TUNED}
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
            *said("red", "crimson", "red", question=" What colour? ")[0],
            *said("red", question="What colour?")[0],
            *said("2", question="How many?")[0],
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
        [Claim("<VQA>", "Why?"), *said("a<loc_1>")[0], *said("x", question="<sep>")[0], *said(" ")[0]],
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
    asked = settings_from(
        {
            "sources": {},
            "annotators": {},
            "train": {"task_weights": {"<VQA>": 2}},
            "evaluate": {"tasks": ["<OD>", "<VQA>", "<CLASSIFICATION>"], "shuffled_image_tasks": ["<VQA>"]},
        }
    )
    few = scenes[:20]
    known = Known(
        {
            (record.image_id, kind): ("truth", tuple(r for r in truth if r.task == kind))
            for record, truth in few
            for kind in (*BASE_TYPES, *FINE_TUNED)
        }
    )
    records = [record for record, _ in few]
    names = {q.example.task for q in questions(records, known, asked.evaluate)[0]}
    assert names == {"<OD>", "<VQA>", "<CLASSIFICATION>"}
    assert not {q.example.task for q in questions(records, known, plain.evaluate)[0]} & set(FINE_TUNED)
    assert np.all([q.other for q in questions(records, known, asked.evaluate)[0] if q.example.task == "<VQA>"])


def test_schemas_are_the_same():
    assert fused({"a": said("cat")}, 1).schema == ANNOTATIONS
