"""Agreement: the share of the annotators asked about an item that claim its label, counted by hand."""

from __future__ import annotations

import pytest
from engine_claims import box, image, line, one_image, tables

from florence.config import EngineSettings
from florence.engine import fuse
from florence.records import Annotation, AnnotatorProfile, table_annotations

PLACE = (10, 10, 50, 50)
HERE, FAR = image("a"), image("b")


def labels(claims_of, profiles=(), errors=None, **engine) -> list[Annotation]:
    """Return the labels about the image "a"; every annotator of objects has claimed one on "b"."""
    for claims in claims_of.values():
        claims[FAR.image_id] = [box("cow", *PLACE)]
    table = fuse(*tables(claims_of, [HERE, FAR], errors), EngineSettings(**engine), 0, profiles)
    return [row for row in table_annotations(table) if row.image_id == HERE.image_id]


def agreement(claims, text: str = "cat", **more) -> float | None:
    (row,) = [row for row in labels(claims, **more) if row.task == "<OD>" and row.text == text]
    return row.agreement


def test_claims_and_silence_of_all_who_were_asked_count():
    cats = {"a": [box("cat", *PLACE)], "b": [box("cat", 12, 10, 50, 50)]}
    assert agreement(one_image(**cats)) == 1
    assert agreement(one_image(**cats, c=[])) == pytest.approx(2 / 3)
    assert agreement(one_image(**cats, c=[], d=[box("dog", *PLACE)])) == pytest.approx(2 / 4)
    assert agreement(one_image(**cats, c=[box("Cat", 11, 10, 50, 50)], d=[])) == pytest.approx(3 / 4)


def test_one_annotator_alone_has_no_agreement():
    assert agreement(one_image(a=[box("cat", *PLACE)])) is None
    failed = one_image(a=[box("cat", *PLACE)], b=[])
    assert agreement(failed, errors={("b", HERE.image_id): "MemoryError"}) is None, (
        "an annotator that failed was not asked"
    )
    assert agreement(one_image(a=[box("cat", *PLACE)], b=[])) == pytest.approx(1 / 2)


def test_an_annotator_without_such_a_label_cannot_claim_it():
    claims = one_image(a=[box("cat", *PLACE)], b=[], c=[])
    profiles = [AnnotatorProfile("b", "annotator", ("dog", "cow"))]
    assert agreement(claims, profiles=profiles) == pytest.approx(1 / 2)
    profiles.append(AnnotatorProfile("c", "annotator", ("cow",)))
    assert agreement(claims, profiles=profiles) is None
    claims = one_image(a=[box("cat", *PLACE)], b=[box("dog", *PLACE)], c=[box("cat", *PLACE)])
    assert agreement(claims, profiles=profiles[:1]) == 1, (
        "a claim of another label is no vote if the annotator does not have the label"
    )


def test_people_are_annotators_with_coverage_and_rankers_are_not():
    claims = one_image(a=[box("cat", *PLACE)], b=[], anna=[])
    assert agreement(claims, profiles=[AnnotatorProfile("anna", "human")]) == pytest.approx(1 / 3)
    assert agreement(claims, profiles=[AnnotatorProfile("anna", "ranker")]) == pytest.approx(1 / 2)
    claims = one_image(a=[box("cat", *PLACE)], b=[box("dog", *PLACE)], anna=[box("dog", *PLACE)])
    (row,) = labels(claims, profiles=[AnnotatorProfile("anna", "human")])
    assert (row.text, row.confidence, row.agreement) == ("dog", 1.0, pytest.approx(2 / 3))


def test_a_claim_without_a_vote_is_silence_and_a_label_without_a_vote_has_no_agreement():
    claims = one_image(a=[box("cat", *PLACE)], b=[box("cat", *PLACE, 0.01)])
    assert agreement(claims) == pytest.approx(1 / 2)
    claims = one_image(a=[box("cat", *PLACE, 0.01)], b=[])
    (row,) = labels(claims)
    assert not row.kept and row.reason == "low_score" and row.agreement is None


def test_an_ocr_text_is_compared_as_it_was_voted():
    corners = (10, 10, 60, 20)
    claims = one_image(
        a=[line("EXIT NOW", *corners)],
        b=[line("EXIT NOW", *corners)],
        c=[line("EXIT HOW", *corners)],
        d=[line("BUS", *corners)],
    )
    (row,) = [row for row in labels(claims) if row.task == "<OCR_WITH_REGION>"]
    assert (row.text, row.agreement) == ("EXIT NOW", pytest.approx(2 / 4))
    # of three readings with a mistake each, the one made of them is nobody's
    texts = {"a": "EXIX NOW HERE", "b": "EXIT MOW HERE", "c": "EXIT NOW HEPE"}
    claims = one_image(**{name: [line(text, *corners)] for name, text in texts.items()})
    (row,) = [row for row in labels(claims, min_confidence=0) if row.task == "<OCR_WITH_REGION>"]
    assert row.text not in texts.values() and row.agreement == 0


def test_of_ranked_texts_each_has_its_own_agreement():
    def text(words: str, score: float | None = 0.9):
        return box(words, *PLACE, score, task="<DENSE_REGION_CAPTION>")

    claims = one_image(
        a=[text("a red cat")],
        b=[text("a red cat")],
        c=[text("a cat on a mat")],
        judge=[text("a cat on a mat"), text("a red cat", 0.2)],
    )
    rows = labels(claims, profiles=[AnnotatorProfile("judge", "ranker")], min_confidence=0)
    found = {row.text: (row.kept, row.reason, row.agreement) for row in rows if row.task == "<DENSE_REGION_CAPTION>"}
    assert found == {
        "a cat on a mat": (True, "", pytest.approx(1 / 3)),
        "a red cat": (False, "ranked_lower", pytest.approx(2 / 3)),
    }
