"""The consensus of few annotators, a student and a person."""

from __future__ import annotations

import pytest
from engine_claims import box, crowd, fuse_claims, image, line, one_image

from florence.config import EngineSettings
from florence.records import Annotation


def test_claims_of_one_annotator_alone_are_kept():
    rows = fuse_claims(one_image(reader=[line("EXIT", 10, 10, 40, 20)], seer=[box("cat", 10, 10, 50, 50)]))
    assert {(r.task, r.text, round(r.confidence, 1), r.kept) for r in rows} == {
        ("<OCR_WITH_REGION>", "EXIT", 0.7, True),
        ("<OD>", "cat", 0.7, True),
    }
    (read,) = [r for r in rows if r.task == "<OCR_WITH_REGION>"]
    assert read.regions[0].quad == (10, 10, 40, 10, 40, 20, 10, 20) and read.regions[0].box is None


def test_silence_counts_of_annotators_that_were_asked_and_claim_such_items():
    corners = (10, 10, 50, 50)
    claims = one_image(a=[box("cat", *corners)], b=[], c=[], d=[], reader=[line("EXIT", 60, 10, 90, 20)])

    def confidence(**more) -> float:
        (found,) = [
            r
            for r in fuse_claims(claims, [image(), far], **more)
            if r.task == "<OD>" and r.image_id == image().image_id
        ]
        return found.confidence

    far = image("b")
    alone = confidence()
    assert alone == pytest.approx(0.7, abs=0.05), "b, c, d and the reader claim no object anywhere"
    claims["c"][far.image_id] = [box("cow", *corners)]
    one = confidence()
    claims["d"][far.image_id] = [box("cow", *corners)]
    two = confidence()
    assert alone > one > two, "annotators that claim objects elsewhere are silent here"
    assert confidence(errors={("d", image().image_id): "MemoryError"}) > two, "an annotator that failed was not asked"
    claims["b"][image().image_id] = [box("cat", *corners)]
    assert confidence() > max(0.75, alone), "two claim it and two are silent"
    claims["b"][image().image_id] = [box("dog", *corners)]
    assert confidence() < 0.5, "two labels, and nothing to decide between them"


def od(rows, of) -> list[Annotation]:
    return [r for r in rows if r.task == "<OD>" and r.image_id == of.image_id]


def test_a_student_confirms_what_one_annotator_alone_claims():
    claims, images = crowd()
    claims["a"][images[0].image_id] = [box("thing 0", 10, 10, 50, 50, None), box("cat", 60, 10, 90, 60, None)]
    (cat,) = [r for r in od(fuse_claims(claims, images), images[0]) if r.text == "cat"]
    assert not cat.kept and cat.reason == "low_confidence"
    claims["student"] = {i.image_id: [box(f"thing {k % 20}", 11, 10, 50, 50, 0.9)] for k, i in enumerate(images)}
    claims["student"][images[0].image_id].append(box("cat", 61, 10, 90, 60, 0.9))
    (cat,) = [r for r in od(fuse_claims(claims, images), images[0]) if r.text == "cat"]
    assert cat.kept and cat.confidence > 0.5
    low = EngineSettings(student={"cap": 0.05})
    assert not [r for r in od(fuse_claims(claims, images, low), images[0]) if r.text == "cat"][0].kept, (
        "at a small cap it has too little weight"
    )
    sure = EngineSettings(student={"min_score": 0.95})
    assert fuse_claims(claims, images, sure) == fuse_claims(
        {k: v for k, v in claims.items() if k != "student"} | {"student": {i.image_id: [] for i in images}},
        images,
        sure,
    )


def test_a_student_settles_what_is_disputed():
    claims, images = crowd()
    for annotator, label in (("a", "cat"), ("b", "dog")):
        claims[annotator][images[0].image_id] = [box(label, 10, 10, 50, 50, None)]
    claims["c"][images[0].image_id] = []
    claims["student"] = {i.image_id: [box(f"thing {k % 20}", 10, 10, 50, 50, 0.9)] for k, i in enumerate(images)}
    for label in ("cat", "dog"):
        claims["student"][images[0].image_id] = [box(label, 12, 10, 50, 50, 0.9)]
        (row,) = od(fuse_claims(claims, images), images[0])
        assert row.text == label and row.kept


def test_what_a_person_claims_of_a_region_holds():
    claims, images = crowd(10)
    first = images[0].image_id
    claims["human"] = {first: [box("cat", 12, 12, 52, 52, None)]}
    (row,) = od(fuse_claims(claims, images), images[0])
    assert (row.text, row.regions[0].box, row.confidence, row.kept) == ("cat", (12, 12, 52, 52), 1.0, True)
    claims["human"] = {first: [box("", 10, 10, 50, 50, None)]}
    (row,) = od(fuse_claims(claims, images), images[0])
    assert not row.kept and row.reason == "rejected"
    claims["human"] = {first: [], images[1].image_id: [box("cat", 60, 60, 90, 79, None)]}
    (row,) = od(fuse_claims(claims, images), images[0])
    assert row.kept and row.text == "thing 0" and row.confidence > 0.99, "the silence of a person means nothing"
