"""Phrases of captions tied to boxes; and the chain of those who read claims, on a real store."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from florence import annotation, stages
from florence.config import settings_from
from florence.records import Annotation, Claim, ImageRecord, Region, annotate, table_annotations
from florence.specialists import SPECIALISTS, Batch
from florence.store import Store

Box = tuple[float, float, float, float]
LEFT, RIGHT, TOP, ALL = (0.0, 60.0, 60.0, 140.0), (240.0, 60.0, 300.0, 140.0), (120.0, 0.0, 180.0, 50.0), (0.0, 0.0, 300.0, 200.0)


@lru_cache(maxsize=1)
def annotator():
    found = SPECIALISTS.get("phrases")(name="phrases")
    found.load()
    return found


def ground(caption: str, *objects: tuple[str, Box, float]) -> list[tuple[str, list[Box]]]:
    claims = [Claim("<OD>", label, (Region(label, box=box, score=score),), score) for label, box, score in objects]
    claims.append(Claim("<CAPTION>", caption, (), 0.9))
    record = ImageRecord("0" * 64, 300, 200, "mine", "x", "", None, "train")
    found = annotator().annotate(Batch((record,), claims=(annotate(record.image_id, claims, "a", "1"),)))[0]
    for claim in found:
        assert (claim.task, claim.text) == ("<CAPTION_TO_PHRASE_GROUNDING>", caption)
        assert all(caption[slice(*region.span)] == region.label for region in claim.regions)
    return [(claim.regions[0].label, [region.box for region in claim.regions]) for claim in found]


def test_phrases_are_whole_and_lead_to_their_objects():
    assert ground("A brown dog is standing beside a red folding chair.", ("dog", LEFT, 0.9), ("chair", RIGHT, 0.8)) == [
        ("A brown dog", [LEFT]),
        ("a red folding chair", [RIGHT]),
    ]


def test_plurals_lead_to_all_and_unseen_things_nowhere():
    objects = ("dog", LEFT, 0.9), ("dog", RIGHT, 0.8), ("mouse", TOP, 0.7)
    assert ground("two dogs and a sofa", *objects) == [("two dogs", [LEFT, RIGHT])]
    assert ground("three mice", *objects) == [("three mice", [TOP])]
    assert ground("a dogs' home with a catalogue", *objects[2:]) == []


def test_one_of_several_is_the_one_whose_place_is_named():
    objects = ("dog", LEFT, 0.9), ("dog", RIGHT, 0.8)
    assert ground("On the right there is a gray dog. On the left there is a brown dog.", *objects) == [("a gray dog", [RIGHT]), ("a brown dog", [LEFT])]
    assert ground("there is a dog", *objects) == [("a dog", [LEFT])]


def test_the_whole_label_counts_before_its_head():
    objects = ("computer mouse", LEFT, 0.9), ("mouse", RIGHT, 0.95)
    assert ground("a computer mouse on a desk", *objects) == [("a computer mouse", [LEFT])]


def test_quoted_words_and_pronouns_name_nothing():
    assert ground('a sign that says "BEWARE OF THE DOG" beside it', ("dog", LEFT, 0.9)) == []


def test_without_objects_or_captions_nothing_is_claimed():
    assert ground("a dog") == []
    record = ImageRecord("0" * 64, 300, 200, "mine", "x", "", None, "train")
    assert annotator().annotate(Batch((record,), claims=((),))) == [[]]


def test_captioner_and_phrases_work_on_from_the_claims_of_others(tmp_path: Path):
    settings = settings_from({
        "sources": {"scenes": {"use": "scenes", "count": 4}},
        "specialists": {
            "captioner": {"use": "captioner", "sources": ["*"]},
            "phrases": {"use": "phrases", "sources": ["*"]},
            "objects": {"use": "simulated", "sources": ["*"], "tasks": ["<OD>"], "missed": 0, "mislabelled": 0, "invented": 0, "shifted": 0, "skill": 1, "score_noise": 0},
        },
    })  # fmt: skip
    store = Store(str(tmp_path))
    stages.collect(settings, store)
    who = annotation.authors(settings)
    assert [author.name for author in who] == ["objects", "captioner", "phrases"]
    said: dict[str, list[Annotation]] = {}
    for shard in stages.shards(store):
        annotation.annotate_shard(settings, store, who, shard)
        for author in who:
            said.setdefault(author.name, []).extend(table_annotations(store.read_table(f"claims/{author.key}/{shard}.parquet")))
    captions = {(row.image_id, row.text) for row in said["captioner"] if not row.regions}
    boxes = {(row.image_id, row.regions[0].box) for row in said["objects"]}
    assert len(captions) == 12 and len(said["phrases"]) >= 4
    for row in said["phrases"]:
        assert (row.image_id, row.text) in captions
        assert all((row.image_id, region.box) in boxes for region in row.regions)
    for row in said["objects"]:
        assert any(row.text in text for image, text in captions if image == row.image_id), row.text
