"""Phrases of captions bound to boxes; and a chain of annotators that read claims, on a real store."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from workspaces import workspace_of

from florence.annotators import ANNOTATORS, ImageBatch
from florence.config import settings_from
from florence.records import Annotation, Claim, ImageRecord, Region, annotate, table_annotations
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators
from florence.workspace.collect import collect_images
from florence.workspace.layout import list_shards

Box = tuple[float, float, float, float]
LEFT, RIGHT, TOP, ALL = (
    (0.0, 60.0, 60.0, 140.0),
    (240.0, 60.0, 300.0, 140.0),
    (120.0, 0.0, 180.0, 50.0),
    (0.0, 0.0, 300.0, 200.0),
)


@lru_cache(maxsize=4)
def annotator(**options):
    found = ANNOTATORS.get("phrases")(name="phrases", **options)
    found.load()
    return found


def ground(caption: str, *objects: tuple[str, Box, float], **options) -> list[tuple[str, list[Box]]]:
    return [
        (claim.regions[0].label, [region.box for region in claim.regions])
        for claim in claimed(caption, *objects, **options)
    ]


def claimed(caption: str, *objects: tuple[str, Box, float], **options) -> list[Claim]:
    claims = [Claim("<OD>", label, (Region(label, box=box, score=score),), score) for label, box, score in objects]
    claims.append(Claim("<CAPTION>", caption, (), 0.9))
    record = ImageRecord("0" * 64, 300, 200, "mine", "x", "", None, "train")
    found = annotator(**options).annotate(ImageBatch((record,), claims=(annotate(record.image_id, claims, "a", "1"),)))[
        0
    ]
    for claim in found:
        assert (claim.task, claim.text) == ("<CAPTION_TO_PHRASE_GROUNDING>", caption)
        assert all(caption[slice(*region.span)] == region.label for region in claim.regions)
    return found


def test_phrases_are_whole_and_lead_to_their_objects():
    assert ground("A brown dog is standing beside a red folding chair.", ("dog", LEFT, 0.9), ("chair", RIGHT, 0.8)) == [
        ("A brown dog", [LEFT]),
        ("a red folding chair", [RIGHT]),
    ]


def test_plurals_are_bound_to_all_objects_and_unseen_ones_to_none():
    objects = ("dog", LEFT, 0.9), ("dog", RIGHT, 0.8), ("mouse", TOP, 0.7)
    assert ground("two dogs and a sofa", *objects) == [("two dogs", [LEFT, RIGHT])]
    assert ground("three mice", *objects) == [("three mice", [TOP])]
    assert ground("a dogs' home with a catalogue", *objects[2:]) == []


def test_one_of_several_is_the_one_whose_position_is_named():
    objects = ("dog", LEFT, 0.9), ("dog", RIGHT, 0.8)
    assert ground("On the right there is a gray dog. On the left there is a brown dog.", *objects) == [
        ("a gray dog", [RIGHT]),
        ("a brown dog", [LEFT]),
    ]
    assert ground("there is a dog", *objects) == [("a dog", [LEFT])]


def test_the_whole_label_counts_before_its_head():
    objects = ("computer mouse", LEFT, 0.9), ("mouse", RIGHT, 0.95)
    assert ground("a computer mouse on a desk", *objects) == [("a computer mouse", [LEFT])]


def test_quoted_words_and_pronouns_name_nothing():
    assert ground('a sign that says "BEWARE OF THE DOG" beside it', ("dog", LEFT, 0.9)) == []


def test_a_phrase_leads_to_an_object_of_about_the_same_meaning():
    objects = ("cat", LEFT, 0.9), ("motorcycle", RIGHT, 0.8)
    assert ground("A fluffy white kitten sits on a motorbike.", *objects) == [
        ("A fluffy white kitten", [LEFT]),
        ("a motorbike", [RIGHT]),
    ]
    assert ground("two kittens", ("cat", LEFT, 0.9), ("cat", TOP, 0.8)) == [("two kittens", [LEFT, TOP])]
    assert ground("The puppy is near a tree in the street.", *objects) == []


def test_a_name_counts_before_a_meaning():
    assert ground("a kitten", ("cat", LEFT, 0.9), ("kitten", RIGHT, 0.6)) == [("a kitten", [RIGHT])]
    # a chair is a folding chair by its name, though the two mean not quite the same
    (by_name,), (by_meaning,) = (
        claimed("a chair", ("folding chair", LEFT, 0.8)),
        claimed("a kitten", ("cat", LEFT, 0.8)),
    )
    assert by_name.score == by_name.regions[0].score == 0.8
    assert 0.6 < by_meaning.score == by_meaning.regions[0].score < 0.8


def test_of_several_likely_names_the_likeliest_wins_and_a_threshold_of_one_leaves_names_alone():
    objects = ("dog", LEFT, 0.95), ("cat", RIGHT, 0.7)
    assert ground("a kitten", *objects, min_likeness=0.2) == [("a kitten", [RIGHT])]
    assert ground("a kitten and a cat", *objects, min_likeness=1) == [("a cat", [RIGHT])]


def test_without_objects_or_captions_nothing_is_claimed():
    assert ground("a dog") == []
    record = ImageRecord("0" * 64, 300, 200, "mine", "x", "", None, "train")
    assert annotator().annotate(ImageBatch((record,), claims=((),))) == [[]]


def test_captioner_and_phrases_work_on_from_the_claims_of_others(tmp_path: Path):
    settings = settings_from(
        {
            "sources": {"scenes": {"use": "scenes", "count": 4}},
            "annotators": {
                "captioner": {"use": "captioner", "sources": ["*"]},
                "phrases": {"use": "phrases", "sources": ["*"]},
                "objects": {
                    "use": "simulated",
                    "sources": ["*"],
                    "tasks": ["<OD>"],
                    "missed": 0,
                    "mislabelled": 0,
                    "invented": 0,
                    "shifted": 0,
                    "skill": 1,
                    "score_noise": 0,
                },
            },
        }
    )
    store = Store(str(tmp_path))
    collect_images(workspace_of(settings, store))
    annotators = list_annotators(settings)
    assert [annotator.name for annotator in annotators] == ["objects", "captioner", "phrases"]
    claims: dict[str, list[Annotation]] = {}
    for shard in list_shards(store):
        annotate_shard(workspace_of(settings, store), annotators, shard)
        for annotator in annotators:
            claims.setdefault(annotator.name, []).extend(
                table_annotations(store.read_table(f"claims/{annotator.key}/{shard}.parquet"))
            )
    captions = {(row.image_id, row.text) for row in claims["captioner"] if not row.regions}
    boxes = {(row.image_id, row.regions[0].box) for row in claims["objects"]}
    assert len(captions) == 12 and len(claims["phrases"]) >= 4
    for row in claims["phrases"]:
        assert (row.image_id, row.text) in captions
        assert all((row.image_id, region.box) in boxes for region in row.regions)
    for row in claims["objects"]:
        assert any(row.text in text for image, text in captions if image == row.image_id), row.text
