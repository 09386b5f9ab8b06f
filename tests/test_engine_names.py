"""Synonyms and hypernyms of names, and which names an annotator has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_claims import box, fuse_claims, image, one_image, tables

import florence
from florence.config import EngineSettings
from florence.engine import fuse
from florence.errors import SettingsError
from florence.names import build_name_table
from florence.records import AnnotatorProfile, Claim, table_annotations

PLACE = (10, 10, 50, 50)
BUILT_IN = json.loads((Path(florence.__file__).parent / "names.json").read_text())


def only(claims, **settings):
    (row,) = fuse_claims(claims, **settings)
    return row


def test_synonyms_are_votes_for_one_name():
    claims = one_image(
        a=[box("sofa", *PLACE)], b=[box("Couch", *PLACE)], c=[box("settee", *PLACE)], d=[box("chair", *PLACE)]
    )
    assert only(claims).text in ("sofa", "Couch", "settee") and only(claims).confidence > 0.9
    assert only(claims, settings=EngineSettings(synonyms={"sofa": ("couch", "settee")})).text == "sofa"
    person = one_image(a=[box("sofa", *PLACE)], human=[box("Couch", *PLACE)])
    assert only(person, settings=EngineSettings(synonyms={"sofa": ("couch",)})).text == "Couch", (
        "a label by a person is not changed"
    )


def test_names_of_similar_spelling_are_not_similar():
    for one, other in (("cat", "car"), ("hat", "cat"), ("bus", "bush"), ("pot", "potted plant")):
        assert build_name_table(EngineSettings()).similarity(one, other) == 0
        assert only(one_image(a=[box(one, *PLACE)], b=[box(other, *PLACE)])).confidence < 0.6


def test_a_hypernym_supports_its_hyponym_and_the_narrower_name_is_kept():
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


def test_hypernyms_are_transitive():
    table = build_name_table(EngineSettings(hypernyms={"pet": ("kitten",), "thing": ("pet", "animal")}))
    assert {"kitten", "cat", "animal", "pet", "thing"} <= table.with_hypernyms("Kitten")
    assert (
        table.similarity("kitten", "thing")
        > table.similarity("thing", "kitten")
        > 0
        == table.similarity("kitten", "dog")
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        (EngineSettings(hypernyms={"a": ("b",), "b": ("a",)}), "hypernym of itself"),
        (EngineSettings(synonyms={"a": ("b",), "c": ("b",)}), "given to both"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        build_name_table(settings)


def test_the_built_in_table_is_sound():
    table = build_name_table(EngineSettings())
    for name, others in BUILT_IN["synonyms"].items():
        assert table.canonical(name) == name and all(table.canonical(other) == name for other in others)
    for hypernym, members in BUILT_IN["hypernyms"].items():
        assert all(table.similarity(table.canonical(member), table.canonical(hypernym)) > 0.5 for member in members)
        assert not set(map(table.canonical, members)) & table.with_hypernyms(hypernym), (
            f"{hypernym} is its own hypernym"
        )
    coco_in_voc = {
        "aeroplane": "airplane",
        "motorbike": "motorcycle",
        "tvmonitor": "tv",
        "sofa": "couch",
        "pottedplant": "potted plant",
        "diningtable": "dining table",
    }
    assert all(table.canonical(voc) == coco for voc, coco in coco_in_voc.items())


def fuse_with_profiles(claims, profiles, images=None) -> list:
    return table_annotations(fuse(*tables(claims, images or [image()]), EngineSettings(), 0, profiles))


def test_silence_of_an_annotator_that_lacks_the_name_is_no_evidence():
    images = [image(f"{k:03d}") for k in range(40)]
    claims = {
        annotator: {i.image_id: [box("zebra", *PLACE)] if annotator == "a" else [] for i in images[:4]}
        | {i.image_id: [box("cat", *PLACE)] for i in images[4:]}
        for annotator in "abc"
    }

    def zebra(vocabulary) -> float:
        return next(
            row.confidence
            for row in fuse_with_profiles(
                claims, [AnnotatorProfile(name, vocabulary=vocabulary) for name in "bc"], images
            )
            if row.text == "zebra"
        )

    lacking, having, hypernym = zebra(("cat", "dog")), zebra(("cat", "zebra")), zebra(("cat", "animal"))
    assert lacking > 0.6 > 0.3 > having and hypernym == having, 'one that says "animal" could have claimed that'
    assert zebra(None) == having


def test_a_ranker_has_no_vote_and_a_person_may_have_any_name():
    claims = one_image(
        a=[box("cat", *PLACE)],
        clip=[box("dog", *PLACE), Claim("<CAPTION>", "a dog", (), 0.9)],
        coco=[box("cow", *PLACE)],
    )
    (row,) = fuse_with_profiles(claims, [AnnotatorProfile("clip", "ranker"), AnnotatorProfile("coco", "human")])
    assert (row.text, row.confidence) == ("cow", 1.0)
    assert fuse_with_profiles(claims, []) != fuse_with_profiles(claims, [AnnotatorProfile("clip", "ranker")])
