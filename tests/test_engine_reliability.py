"""Estimated reliabilities of annotators, by annotation type and by name."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from engine_claims import box, crowd, image, line, tables

from florence.config import EngineSettings
from florence.engine.reliability import estimate_reliability


def test_reliability_is_estimated_by_annotator_and_type():
    claims_of, images = crowd()
    claims_of["d"] = {
        i.image_id: [box(f"thing {(k * 7 + 3) % 20}", 10, 10, 50, 50, None)] for k, i in enumerate(images)
    }
    claims_of["reader"] = {images[0].image_id: [line("EXIT", 60, 10, 90, 20)]}
    claims, _, coverage = tables(claims_of, images)
    found = estimate_reliability(claims, coverage, EngineSettings())
    assert {key for key in found} == {(annotator, "<OD>") for annotator in "abcd"}, (
        "nobody else reads, so the reader's is not known"
    )
    assert found["a", "<OD>"].value == found["b", "<OD>"].value > 0.9 and found["d", "<OD>"].value < 0.3
    for name, least, most in (("a", 0.8, 1), ("d", 0, 0.3)):
        by_name = found[name, "<OD>"].by_name
        assert len(by_name) == 20 and all(least <= value <= most for value in by_name.values())


def test_reliability_is_estimated_name_by_name():
    """One of four annotators claims "dog" for every cat."""
    images = [image(f"{k}") for k in range(120)]
    claims_of = {
        annotator: {i.image_id: [box(("cat", "dog", "hen")[k % 3], 10, 10, 50, 50, None)] for k, i in enumerate(images)}
        for annotator in "abc"
    }
    claims_of["d"] = {
        i.image_id: [box(("dog", "dog", "hen")[k % 3], 10, 10, 50, 50, None)] for k, i in enumerate(images)
    }
    claims, _, coverage = tables(claims_of, images)
    found = estimate_reliability(claims, coverage, EngineSettings())
    assert found["d", "<OD>"].by_name["cat"] < 0.4 < 0.8 < found["d", "<OD>"].by_name["hen"]
    assert set(found["a", "<OD>"].by_name) == {"cat", "dog", "hen"} and not found["a", "<OD>"].by_name["cat"] < 0.8
    without = pa.array([i.image_id for k, i in enumerate(images) if k % 3 == 0])
    claims, coverage = (
        t.filter(pc.invert(pc.and_(pc.equal(t["annotator"], "d"), pc.is_in(t["image_id"], without))))
        for t in (claims, coverage)
    )
    assert set(estimate_reliability(claims, coverage, EngineSettings())["d", "<OD>"].by_name) == {"dog", "hen"}, (
        "nothing is estimated of what it was never asked about"
    )
