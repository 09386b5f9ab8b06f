"""Confidences of labels against references: what counts as right, by type and source, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from evaluations import World, make_object
from workspaces import workspace_of

from florence.coverage import COVERAGE
from florence.evaluate.confidence import grade_labels, measure_confidence
from florence.evaluate.references import References, find_gold_references
from florence.records import Annotation, Claim, Region, annotate, annotations_table
from florence.workspace.annotate import AnnotatorVersion
from florence.workspace.evidence import list_alphas, list_label_confidences, weigh_round
from flows.loop.messages import say_weighing


def label(claim: Claim, confidence: float | None, reason: str = "", image: str = "i") -> Annotation:
    (row,) = annotate(image, [claim], "consensus", "1")
    return replace(row, confidence=confidence, kept=not reason, reason=reason)


def truth(*claims: Claim, image: str = "i") -> tuple[Annotation, ...]:
    return annotate(image, claims, "truth", "1")


def test_each_reference_makes_one_label_right_the_surest_first():
    labels = [
        label(make_object("cat", 12), 0.6),  # the same cat once more: wrong, though it overlaps better
        label(make_object("Cat", 14), 0.9),
        label(make_object("dog", 50), 0.8),  # a cat's place with another name
        label(make_object("cat", 80), 0.3),  # nothing is there
    ]
    right = truth(make_object("cat", 12), make_object("cat", 50))
    assert grade_labels(labels, right) == [(0.9, True), (0.8, False), (0.6, False), (0.3, False)]
    # from an IoU of a half: 40 × 20 pixels of which 30 × 20 are shared are 30/50
    assert grade_labels([label(make_object("cat", 22), 0.7)], truth(make_object("cat", 12))) == [(0.7, False)]
    assert grade_labels([label(make_object("cat", 18), 0.7)], truth(make_object("cat", 12))) == [(0.7, True)]


def test_every_type_is_compared_by_what_it_names():
    box = (0.0, 0.0, 10.0, 10.0)
    quad = (0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0)

    def pair(task: str, ours: Region, theirs: Region, text: str = "a text", their_text: str = "a text"):
        found = grade_labels([label(Claim(task, text, (ours,)), 0.5)], truth(Claim(task, their_text, (theirs,))))
        return found == [(0.5, True)]

    ocr = "<OCR_WITH_REGION>"
    assert pair(ocr, Region("", quad=quad), Region("", quad=quad), "STOP", "STOP")
    assert not pair(ocr, Region("", quad=quad), Region("", quad=quad), "STOP", "SHOP")
    phrase = "<CAPTION_TO_PHRASE_GROUNDING>"  # of another caption, the same phrase
    assert pair(phrase, Region("a cat", box=box), Region("A cat", box=box), "a cat sits", "there is a cat")
    assert not pair(phrase, Region("a cat", box=box), Region("a hat", box=box))
    assert pair("<VQA>", Region("two", box=box), Region("Two", box=box))
    assert not pair("<VQA>", Region("two", box=box), Region("two", box=box), "how many cats?", "how many dogs?")
    assert pair("<CLASSIFICATION>", Region("cat"), Region("cat"), "cat", "Cat")
    assert not pair("<CLASSIFICATION>", Region("cat", box=box), Region("cat"), "cat", "cat")


def test_labels_are_measured_by_type_and_source_kept_or_dropped_for_their_confidence():
    labels, rows = [], {}
    sources = {f"i{k}": "scenes" if k < 30 else "photos" for k in range(40)}
    for k, image in enumerate(sources):
        right = k % 3 > 0
        labels += [
            label(make_object("cat", 10 if right else 60), 0.95, image=image),
            label(make_object("dog", 80), 0.1, "low_confidence", image=image),
            label(make_object("hen", 30), 0.5, "near_full", image=image),
            label(Claim("<CAPTION>", "a cat"), 0.7, image=image),
            label(make_object("cow", 30), None, image=image),
        ]
        rows[image, "<OD>"] = "truth", truth(make_object("cat", 10), image=image)
        rows[image, "<CAPTION>"] = "truth", truth(Claim("<CAPTION>", "a cat"), image=image)
    found = {one.source: one for one in measure_confidence(annotations_table(labels), References(rows), sources)}
    assert set(found) == {"", "scenes", "photos"} and {one.task for one in found.values()} == {"<OD>"}
    whole = found[""]
    share = sum(k % 3 > 0 for k in range(40)) / 40
    assert (whole.measure.n, whole.sure, whole.sure_right) == (80, 40, pytest.approx(share))
    assert whole.measure.error == pytest.approx((0.1 + 0.95 - share) / 2)
    assert whole.measure.brier == pytest.approx((0.01 + share * 0.05**2 + (1 - share) * 0.95**2) / 2)
    assert found["photos"].measure.n == 20 and found["photos"].sure == 10
    few = measure_confidence(
        annotations_table(labels), References(rows), {k: v for k, v in sources.items() if v == "photos"}
    )
    assert [one.source for one in few] == [""], "one source is all there is"
    assert measure_confidence(annotations_table(labels), References({}), sources) == []


# ---------------------------------------------------------------- of a round


def claims_of(world: World, name: str, claims) -> AnnotatorVersion:
    """Write an annotator's claims, and that it has finished every image it is given, with claims or without."""
    world.claims({k: found for k, found in claims.items() if found}, name)
    rows = [
        dict(image_id=world.ids[k], annotator=name, version="1", claims=len(found), error="")
        for k, found in claims.items()
    ]
    world.data.write_table(f"coverage/{name}@1/made-00000.parquet", pa.Table.from_pylist(rows, schema=COVERAGE))
    return AnnotatorVersion(name, "1")


def scored(name: str, x: float, score: float) -> Claim:
    return replace(make_object(name, x), score=score)


@pytest.fixture()
def reviewed(tmp_path: Path):
    """Forty images with two annotators; people have labelled the first twenty of them completely."""
    world = World(tmp_path / "data", ["train"] * 38 + ["gold"] * 2)
    cats = {k: [scored("cat", 10, 0.9)] for k in range(40)}
    more = {k: [scored("cat", 12, 0.9), *([scored("dog", 60, 0.4)] if k % 2 else [])] for k in range(40)}
    annotators = [claims_of(world, "a", cats), claims_of(world, "b", more)]
    annotators.append(claims_of(world, "human", {k: [make_object("cat", 10)] for k in range(20)}))
    world.data.write_json("annotators/human@1.json", {"role": "human", "vocabulary": None, "complete": True})
    return world, annotators


def test_without_truth_confidences_are_measured_by_complete_labels_of_people(reviewed):
    world, annotators = reviewed
    workspace = workspace_of(None, world.data, world.data)
    labels = world.labels({k: [make_object("cat", 10)] for k in range(40)})
    (found,) = list_label_confidences(workspace, annotators, labels, 0)
    assert (found.task, found.reference, found.source) == ("<OD>", "human", "")
    assert found.n == 30, "a cat on each of twenty images, a dog on ten of them: fused without people"
    assert sum(b.right * b.n for b in found.bins) == pytest.approx(20)
    # people who do not label everything are no measure, nor is anything else here
    world.data.write_json("annotators/human@1.json", {"role": "human", "vocabulary": None, "complete": False})
    assert not list(list_label_confidences(workspace, annotators, labels, 0))
    # truth comes first
    world.truth({k: [make_object("cat", 10)] for k in (38, 39)})
    table = annotations_table(
        [
            replace(row, confidence=0.9)
            for row in world.rows({k: [make_object("cat", 10)] for k in (38, 39)}, "consensus")
        ]
    )
    (found,) = list_label_confidences(workspace, annotators, table, 0)
    assert (found.reference, found.n, found.sure, found.sure_right) == ("truth", 2, 2, 1.0)
    assert find_gold_references(world.data, world.ids).names == ("truth",)


def test_a_round_tells_how_its_evidence_was_weighed_and_how_annotators_agree(reviewed, capsys):
    world, annotators = reviewed
    workspace = workspace_of(None, world.data, world.data)
    (objects,) = weigh_round(workspace, annotators)
    assert objects.sentence.startswith("a and b were asked and no third annotator: the scores decide; people have")
    assert {alpha.annotators for alpha in list_alphas(workspace, annotators)} == {
        ("a", "b", "human"),
        ("a", "b"),
        ("a", "human"),
        ("b", "human"),
    }
    say_weighing(workspace, annotators)
    said = capsys.readouterr().out.splitlines()
    assert said == ["how the evidence was weighed:", f"  <OD>: {objects.sentence}"]
    say_weighing(workspace, [])
    assert capsys.readouterr().out == ""
    assert weigh_round(workspace, []) == () and not list(list_alphas(workspace, []))
