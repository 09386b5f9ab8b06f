"""Names that say the same, kinds of things, and who has a name for what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_claims import box, fused, image, one_image, tables

import florence.engine
from florence.config import EngineSettings
from florence.engine import fuse
from florence.engine.enhance.names import names
from florence.errors import SettingsError
from florence.records import AnnotatorProfile, Claim, table_annotations

PLACE = (10, 10, 50, 50)
BUILT_IN = json.loads((Path(florence.engine.__file__).parent / "enhance/names.json").read_text())


def only(said, **settings):
    (row,) = fused(said, **settings)
    return row


def test_names_that_say_the_same_are_one_vote():
    said = one_image(
        a=[box("sofa", *PLACE)], b=[box("Couch", *PLACE)], c=[box("settee", *PLACE)], d=[box("chair", *PLACE)]
    )
    assert only(said).text in ("sofa", "Couch", "settee") and only(said).confidence > 0.9
    assert only(said, settings=EngineSettings(synonyms={"sofa": ("couch", "settee")})).text == "sofa"
    person = one_image(a=[box("sofa", *PLACE)], human=[box("Couch", *PLACE)])
    assert only(person, settings=EngineSettings(synonyms={"sofa": ("couch",)})).text == "Couch", (
        "what a person says is not changed"
    )


def test_names_are_never_alike_by_accident():
    for one, other in (("cat", "car"), ("hat", "cat"), ("bus", "bush"), ("pot", "potted plant")):
        assert names(EngineSettings()).likeness(one, other) == 0
        assert only(one_image(a=[box(one, *PLACE)], b=[box(other, *PLACE)])).confidence < 0.6


def test_a_kind_supports_what_is_of_it_and_the_narrower_name_stands():
    for order in (("dog", "animal"), ("animal", "dog")):
        row = only(one_image(a=[box(order[0], *PLACE)], b=[box(order[1], *PLACE)]))
        apart = only(one_image(a=[box("dog", *PLACE)], b=[box("vehicle", *PLACE)]))
        assert row.text == "dog" and row.confidence > apart.confidence + 0.2
    assert (
        only(
            one_image(a=[box("robin", *PLACE)], b=[box("fowl", *PLACE)], c=[]),
            settings=EngineSettings(hypernyms={"fowl": ("robin",)}),
        ).text
        == "robin"
    )


def test_kinds_go_up_all_the_way():
    table = names(EngineSettings(hypernyms={"pet": ("kitten",), "thing": ("pet", "animal")}))
    assert {"kitten", "cat", "animal", "pet", "thing"} <= table.kinds("Kitten")
    assert table.likeness("kitten", "thing") > table.likeness("thing", "kitten") > 0 == table.likeness("kitten", "dog")


@pytest.mark.parametrize(
    "settings, told",
    [
        (EngineSettings(hypernyms={"a": ("b",), "b": ("a",)}), "kind of itself"),
        (EngineSettings(synonyms={"a": ("b",), "c": ("b",)}), "given to both"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(settings, told):
    with pytest.raises(SettingsError, match=told):
        names(settings)


def test_the_built_in_table_is_sound():
    table = names(EngineSettings())
    for name, others in BUILT_IN["synonyms"].items():
        assert table.plain(name) == name and all(table.plain(other) == name for other in others)
    for kind, members in BUILT_IN["kinds"].items():
        assert all(table.likeness(table.plain(member), table.plain(kind)) > 0.5 for member in members)
        assert not set(map(table.plain, members)) & table.kinds(kind), f"{kind} is its own member"
    coco_in_voc = {
        "aeroplane": "airplane",
        "motorbike": "motorcycle",
        "tvmonitor": "tv",
        "sofa": "couch",
        "pottedplant": "potted plant",
        "diningtable": "dining table",
    }
    assert all(table.plain(voc) == coco for voc, coco in coco_in_voc.items())


def told(said, profiles, images=None) -> list:
    return table_annotations(fuse(*tables(said, images or [image()]), EngineSettings(), 0, profiles))


def test_silence_of_one_that_has_no_name_for_it_tells_nothing():
    images = [image(f"{k:03d}") for k in range(40)]
    said = {
        who: {i.image_id: [box("zebra", *PLACE)] if who == "a" else [] for i in images[:4]}
        | {i.image_id: [box("cat", *PLACE)] for i in images[4:]}
        for who in "abc"
    }

    def zebra(vocabulary) -> float:
        return next(
            row.confidence
            for row in told(said, [AnnotatorProfile(who, vocabulary=vocabulary) for who in "bc"], images)
            if row.text == "zebra"
        )

    blind, seeing, kind = zebra(("cat", "dog")), zebra(("cat", "zebra")), zebra(("cat", "animal"))
    assert blind > 0.6 > 0.3 > seeing and kind == seeing, 'one that says "animal" could have said that'
    assert zebra(None) == seeing


def test_a_ranker_has_no_vote_and_a_person_may_have_any_name():
    said = one_image(
        a=[box("cat", *PLACE)],
        clip=[box("dog", *PLACE), Claim("<CAPTION>", "a dog", (), 0.9)],
        coco=[box("cow", *PLACE)],
    )
    (row,) = told(said, [AnnotatorProfile("clip", "ranker"), AnnotatorProfile("coco", "human")])
    assert (row.text, row.confidence) == ("cow", 1.0)
    assert told(said, []) != told(said, [AnnotatorProfile("clip", "ranker")])
