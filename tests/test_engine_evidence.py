"""What each claim is worth: by all, by the others alone, and what the silence of an annotator weighs."""

from __future__ import annotations

import pytest
from engine_claims import box, crowd, image, line, one_image, shuffle_rows, tables

from florence.config import EngineSettings
from florence.engine import fuse
from florence.engine.claims import image_sizes, read_claims
from florence.engine.consensus import blocks
from florence.engine.consensus.regions import cluster_regions
from florence.engine.consensus.vote import vote_on_items
from florence.engine.evidence import Evidence, weigh_evidence
from florence.records import AnnotatorProfile, annotations_table

SETTINGS = EngineSettings()


def with_crowd(extra, **claimed):
    """Return tables of 60 images that a, b and c agree on, and of the image "a" with ``claimed``; with ``extra``."""
    claims, images = crowd(60)
    for annotator, by_image in one_image(**claimed).items():
        claims.setdefault(annotator, {}).update(by_image)
    for annotator, by_image in extra.items():
        claims.setdefault(annotator, {}).update(by_image)
    return tables(claims, [*images, image()])


def of_image(found: Evidence) -> tuple[list[dict], list[dict], list[dict]]:
    """Return the claims, items and silences about the image "a"."""
    items = [row for row in found.items.to_pylist() if row["image_id"] == image().image_id]
    numbers = {row["item"] for row in items}
    claims, silences = (
        [row for row in table.to_pylist() if row["item"] in numbers] for table in (found.claims, found.silences)
    )
    return claims, items, silences


CAT, MOVED, DOG = box("cat", 10, 10, 50, 50), box("cat", 11, 10, 50, 50), box("dog", 60, 10, 90, 50)


def test_a_claim_has_its_item_and_the_item_who_claims_it_and_who_is_silent():
    claims, items, silences = of_image(weigh_evidence(*with_crowd({}, a=[CAT], b=[MOVED], c=[DOG]), SETTINGS))
    assert [(row["annotator"], row["text"], row["box"], row["region"], row["vote_reason"]) for row in claims] == [
        ("a", "cat", [10, 10, 50, 50], 0, ""),
        ("b", "cat", [11, 10, 50, 50], 0, ""),
        ("c", "dog", [60, 10, 90, 50], 0, ""),
    ]
    cat, dog = items
    assert [row["item"] for row in claims] == [cat["item"], cat["item"], dog["item"]]
    assert (cat["label"], cat["claimed_by"], cat["silent"]) == ("cat", ["a", "b"], ["c"])
    assert (dog["label"], dog["claimed_by"], dog["silent"]) == ("dog", ["c"], ["a", "b"])
    assert claims[0]["p_right"] == pytest.approx(cat["confidence"], abs=1e-9)
    assert claims[2]["p_right"] == pytest.approx(dog["confidence"], abs=1e-9)
    assert [(row["item"], row["annotator"]) for row in silences] == [
        (cat["item"], "c"),
        (dog["item"], "a"),
        (dog["item"], "b"),
    ]


def test_items_are_the_labels_of_the_engine():
    found = with_crowd(
        {"d": {image().image_id: [line("open", 0, 60, 40, 70), box("cat", 12, 10, 50, 50)]}},
        a=[CAT, line("open", 0, 60, 40, 70)],
        b=[MOVED, box("a cat", 30, 30, 31, 30.4)],
        c=[DOG, line("opem", 0, 60, 40, 70)],
    )
    items = weigh_evidence(*found, SETTINGS).items.to_pylist()
    labels = fuse(*found, SETTINGS, 0).to_pylist()
    columns = ("image_id", "task", "label", "confidence", "kept", "reason")

    def key(row: dict) -> tuple:
        return tuple(str(row[name]) for name in columns)

    assert sorted(map(key, items)) == sorted(key({**row, "label": row["text"]}) for row in labels)
    assert {row["reason"] for row in items} >= {"", "degenerate"}


def confidences(found, of) -> list[float]:
    """Return the confidences of the last image's objects in ``found``, with the models that are fitted to ``of``."""
    first, second = read_claims(*select(of)), read_claims(*select(found))
    known = cluster_regions(first, 0, image_sizes(of[1]), SETTINGS).models
    clusters = cluster_regions(second, 0, image_sizes(found[1]), SETTINGS, known)
    last = clusters.claims.image[clusters.voter] == len(found[1]) - 1
    items = sorted(set(clusters.item[clusters.cluster[clusters.voter[last]]].tolist()))
    votes = vote_on_items(clusters.matrix, clusters.models.labels, None, 1.0, by_label=True)
    return votes.confidence[items].tolist()


def select(found):
    return found[0], found[2], found[1]


def test_by_the_others_a_claim_is_worth_what_the_vote_gives_where_its_annotator_was_not_asked():
    whole = with_crowd({}, a=[CAT], b=[MOVED], c=[DOG])
    claims, _, silences = of_image(weigh_evidence(*whole, SETTINGS))
    # the same image, which a was not asked about, with the same models: a's claim adds nothing to the item
    without_a = confidences(with_crowd({}, b=[MOVED], c=[DOG]), whole)
    assert claims[0]["p_right_by_others"] == pytest.approx(without_a[0], abs=1e-9)
    assert claims[0]["p_right_by_others"] < claims[0]["p_right"]
    # what c alone claims, the others think little of; where c's silence counts for nothing, the cat is likelier
    assert claims[2]["p_right_by_others"] < 0.02
    without_c = confidences(with_crowd({}, a=[CAT], b=[MOVED]), whole)
    assert silences[0]["p_right_by_others"] == pytest.approx(without_c[0], abs=1e-9)


def test_a_name_that_nobody_else_gives_is_worth_less_than_the_one_that_the_others_give():
    wrong = box("dog", 10, 10, 50, 50)
    claims, items, _ = of_image(weigh_evidence(*with_crowd({}, a=[CAT], b=[MOVED], c=[wrong]), SETTINGS))
    assert len(items) == 1
    worth = {row["annotator"]: row["p_right_by_others"] for row in claims}
    assert worth["c"] < 0.1
    assert worth["c"] < worth["a"] == pytest.approx(worth["b"])


def test_where_nobody_else_was_asked_the_others_say_nothing():
    found = weigh_evidence(*with_crowd({}, a=[CAT]), SETTINGS)
    claims, items, silences = of_image(found)
    assert claims[0]["p_right"] is not None
    assert claims[0]["p_right_by_others"] is None
    assert (items[0]["silent"], silences) == ([], [])


def test_only_the_wanted_annotators_are_weighed_by_the_others():
    found = with_crowd({}, a=[CAT], b=[MOVED], c=[DOG])
    few, every = weigh_evidence(*found, SETTINGS, by_others=["c"]), weigh_evidence(*found, SETTINGS)
    worth = {row["annotator"]: row["p_right_by_others"] for row in of_image(few)[0]}
    assert worth["a"] is worth["b"] is None
    assert worth["c"] == of_image(every)[0][2]["p_right_by_others"]
    assert set(few.silences["annotator"].to_pylist()) == {"c"}
    assert few.items.equals(every.items)


def test_a_person_s_claim_holds_and_measures_the_claims_of_others():
    found = with_crowd({"person": {image().image_id: [box("dog", 10, 10, 50, 50)]}}, a=[CAT], b=[MOVED], c=[])
    people = [AnnotatorProfile("person", "human")]
    claims, items, _ = of_image(weigh_evidence(*found, SETTINGS, people))
    worth = {row["annotator"]: row["p_right"] for row in claims}
    assert worth == {"a": 0, "b": 0, "person": 1}
    assert (items[0]["label"], items[0]["claimed_by"]) == ("dog", ["a", "b", "human"])


def test_a_claim_without_a_vote_says_why():
    found = with_crowd({}, a=[box("cat", 10, 10, 50, 50, 0.001)], b=[], c=[])
    claims, items, _ = of_image(weigh_evidence(*found, SETTINGS))
    assert (claims[0]["vote_reason"], claims[0]["p_right"], claims[0]["p_right_by_others"]) == ("low_score", None, None)
    assert (items[0]["kept"], items[0]["reason"], items[0]["claimed_by"]) == (False, "low_score", [])


def test_the_order_of_rows_does_not_matter():
    found = with_crowd({}, a=[CAT], b=[MOVED], c=[DOG, line("open", 0, 60, 40, 70)])
    one, other = (
        weigh_evidence(shuffle_rows(found[0], seed), found[1], shuffle_rows(found[2], seed), SETTINGS)
        for seed in (0, 1)
    )
    assert one.claims.equals(other.claims)
    assert one.items.equals(other.items)
    assert one.silences.equals(other.silences)


def test_many_claims_are_weighed_in_blocks_and_come_out_in_order(monkeypatch):
    found = with_crowd({}, a=[CAT], b=[MOVED], c=[DOG])
    whole = weigh_evidence(*found, SETTINGS)
    monkeypatch.setattr(blocks, "MAX_CLAIMS_WHOLE", 50)
    monkeypatch.setattr(blocks, "CLAIMS_PER_BLOCK", 40)
    cut = weigh_evidence(*found, SETTINGS)
    for name in ("claims", "items", "silences"):
        one, other = (getattr(evidence, name).to_pylist() for evidence in (whole, cut))
        assert one == other


def test_no_claims_are_no_evidence():
    found = weigh_evidence(annotations_table([]), *with_crowd({})[1:], SETTINGS)
    assert (len(found.claims), len(found.items), len(found.silences)) == (0, 0, 0)
