"""Captions of several annotators fused into one, word by word."""

from __future__ import annotations

import numpy as np
from engine_claims import fuse_claims, image, one_image, phrase

from florence.config import EngineSettings
from florence.engine.consensus.similarity_factors import group_dependent_annotators
from florence.engine.consensus.word_consensus import TextVersions, compose_by_characters, compose_texts
from florence.engine.wording.tokens import tokenize_texts
from florence.records import AnnotatorProfile, Claim


def composed_all(*items: tuple[str, ...], weights: tuple[float, ...] = ()) -> list[str]:
    """Return one text of the versions of each item, whose annotators are numbered."""
    texts = [text for item in items for text in item]
    annotator = np.concatenate([np.arange(len(item)) for item in items])
    weight = np.asarray(weights)[annotator] if weights else np.ones(len(texts))
    found = compose_texts(
        TextVersions(
            tokenize_texts(texts),
            np.repeat(np.arange(len(items)), [len(item) for item in items]),
            annotator,
            np.arange(len(texts)),
            weight,
        ),
        0.5,
    )
    return [found.texts.text[k] for k in found.row.tolist()]


def composed(*texts: str, weights: tuple[float, ...] = ()) -> str:
    return composed_all(texts, weights=weights)[0]


def test_versions_repair_each_other():
    assert (
        composed(
            "There is a red car near a big house.",
            "There is red car near a big house.",
            "There is a red car a big tree.",
        )
        == "There is a red car near a big house."
    )
    assert (
        composed("Is an orange leaf on a wall", "There is an orange leaf on a wall", "There is an orange leaf on wall")
        == "There is an orange leaf on a wall"
    )


def test_an_article_fits_the_word_after_it():
    assert (
        composed("look at an orange car here", "look at a big orange car here", "see look at a big car here")
        == "look at a big orange car here"
    )
    assert (
        composed("there is a green apple there", "there is an apple there", "so there is an apple there")
        == "there is an apple there"
    )


def test_texts_that_share_few_words_are_not_mixed():
    texts = ("a man rides a horse", "two dogs on a beach at night", "a person on a horse")
    assert composed(*texts) in texts
    assert composed("a red car", "a red van") in ("a red car", "a red van")
    assert composed("a red car", "a red van", weights=(0.2, 0.9)) == "a red van"


def test_the_recall_of_words_is_estimated():
    # each annotator leaves out every fifth word at random: one of three that has a word is right then, mostly
    rng = np.random.default_rng(0)
    whole = "the tall man near a table holds one small cup of hot tea in his left hand"
    drop = lambda: " ".join(w for w in whole.split() if rng.random() > 0.2)  # noqa: E731
    items = [tuple(drop() for _ in range(3)) for _ in range(150)]
    found = composed_all(*items)
    full = [len(c.split()) for c in found]
    votes = [sum(sum(w in text.split() for text in item) >= 2 for w in whole.split()) for item in items]
    assert sum(full) > sum(votes) + 0.4 * (150 * 17 - sum(votes)), "much of what a majority of two lacks is there"
    # a word that one annotator has and no other ever has is no word of the text
    assert set(composed_all(*((whole + f" extra{n}", whole, whole) for n in range(20)))) == {whole}


def test_an_annotator_that_never_has_a_word_does_not_drop_the_others():
    # three leave words out now and then; a fourth never has the preposition
    rng = np.random.default_rng(1)
    whole = "a red cup above a green box"
    drop = lambda: " ".join(w for w in whole.split() if rng.random() > 0.25)  # noqa: E731
    items = [(*(drop() for _ in range(3)), "a red cup a green box") for _ in range(150)]
    found = [text.split() for text in composed_all(*items, weights=(1.0, 1.0, 1.0, 0.9))]
    has_word = ["above" in " ".join(item).split() for item in items]
    assert sum("above" in words for words in found) > 0.9 * sum(has_word) > 100


def test_strings_are_composed_character_by_character():
    assert compose_by_characters(
        [
            [("EX1T", 1.0), ("EXIT", 1.0), ("FXIT", 1.0)],
            [("OPEN", 1.0), ("0PEN", 0.4)],
            [("NO PRKING", 1.0), ("N0 PARKING", 1.0), ("NO PARKINC", 1.0)],
        ]
    ) == [
        "EXIT",
        "OPEN",
        "NO PARKING",
    ]


def test_captions_are_fused_and_confidence_is_their_similarity():
    claims = one_image(
        a=[Claim("<CAPTION>", "a red car near a dog")],
        b=[Claim("<CAPTION>", "photo of a red car near a dog | stock photo")],
        c=[Claim("<CAPTION>", "a car near a dog")],
    )
    (row,) = fuse_claims(claims)
    assert row.text == "a red car near a dog" and row.kept and 0.9 < row.confidence < 1
    (alone,) = fuse_claims(one_image(a=[Claim("<CAPTION>", "IMG_12.jpg a red car", (), 0.7)]))
    assert (alone.text, alone.confidence, alone.score) == ("a red car", 1.0, 0.7)
    (nothing,) = fuse_claims(one_image(a=[Claim("<CAPTION>", "IMG_12.jpg")]))
    assert (nothing.kept, nothing.reason, nothing.text) == (False, "empty_text", "IMG_12.jpg")
    loop = "a cat and a cat and a cat and a cat and a cat"
    (said_twice,) = fuse_claims(one_image(a=[Claim("<CAPTION>", loop)], b=[Claim("<CAPTION>", "a cat")]))
    assert said_twice.text == "a cat", "a caption that repeats itself has no vote"


def test_captions_of_relatives_are_one_caption():
    def says(text):
        return [Claim("<CAPTION>", text)]

    kin = [AnnotatorProfile(name, family="kin") for name in ("a", "b", "c")]
    relatives = {name: says("a large blue boat on the sea") for name in ("a", "b", "c")}
    (row,) = fuse_claims(one_image(**relatives, d=says("two dogs sleep in a garden")), profiles=kin)
    assert row.confidence < 0.6, "one family against one other annotator"
    (row,) = fuse_claims(one_image(**relatives, d=says("two dogs sleep in a garden")))
    assert row.confidence > 0.7
    # nor does the silence of a relative count where another one speaks
    images = [image(name) for name in "xyz"]
    claims = {
        "a": {i.image_id: says("a large blue boat on the sea") for i in images},
        "b": {i.image_id: says("a large blue boat on the sea") if k else [] for k, i in enumerate(images)},
    }
    first = min(i.image_id for i in images)
    assert first == images[0].image_id

    def confidence(profiles):
        return next(row.confidence for row in fuse_claims(claims, images, profiles=profiles) if row.image_id == first)

    assert confidence(kin) == 1.0 and confidence(()) < 0.8


def test_annotators_of_one_family_are_grouped_however_few_there_are():
    mean = np.asarray([[1, 0.9, 0.3], [0.9, 1, 0.3], [0.3, 0.3, 1]])
    count = np.full((3, 3), 50.0)
    _, group = group_dependent_annotators(mean * count, count, np.asarray([4, 4, 2]))
    assert group.tolist() == [0, 0, 2]
    factors, group = group_dependent_annotators(mean * count, count, np.arange(3))
    assert group.tolist() == [0, 1, 2] and factors[0] > 0.8, "three annotators are always explained"


def test_a_student_without_others_captions_nothing():
    (row,) = fuse_claims(one_image(student=[Claim("<CAPTION>", "a red car", (), 0.9)]))
    assert (row.kept, row.reason) == (False, "low_confidence")
    alone = EngineSettings(student={"alone": ("<CAPTION>",)})
    (row,) = fuse_claims(one_image(student=[Claim("<CAPTION>", "a red car", (), 0.9)]), settings=alone)
    assert row.kept and row.text == "a red car"
    claims = one_image(
        student=[Claim("<CAPTION>", "a red car", (), 0.9)], a=[Claim("<CAPTION>", "a green hill", (), 0.9)]
    )
    (row,) = fuse_claims(claims, settings=alone)
    assert row.text == "a green hill", "where others were asked it has no more weight than elsewhere"


def test_agreement_is_the_share_of_annotators_whose_caption_is_a_version_of_the_label():
    claims = one_image(
        a=[Claim("<CAPTION>", "a red car near a dog")],
        b=[Claim("<CAPTION>", "photo of a red car near a dog | stock photo")],
        c=[Claim("<CAPTION>", "two cats on a mat")],
        d=[Claim("<CAPTION>", "IMG_12.jpg")],
    )
    (row,) = fuse_claims(claims)
    assert (row.text, row.agreement) == ("a red car near a dog", 2 / 4), "a caption without a vote is silence"
    (alone,) = fuse_claims(one_image(a=[Claim("<CAPTION>", "a red car")]))
    assert alone.agreement is None
    (nothing,) = fuse_claims(one_image(a=[Claim("<CAPTION>", "--")], b=[Claim("<CAPTION>", "--")]))
    assert not nothing.kept and nothing.agreement is None
    (by_person,) = fuse_claims(one_image(a=[Claim("<CAPTION>", "two cats")], human=[Claim("<CAPTION>", "a red car")]))
    assert (by_person.text, by_person.agreement) == ("a red car", 1 / 2)


def test_agreement_on_a_phrase_is_the_share_of_annotators_that_locate_it():
    caption = "a red car near a dog"
    car, dog = phrase(caption, "a red car", (10, 10, 40, 40)), phrase(caption, "a dog", (50, 10, 90, 40))
    rows = fuse_claims(one_image(a=[Claim("<CAPTION>", caption), car, dog], b=[Claim("<CAPTION>", caption), dog]))
    agreement = {row.regions[0].label: row.agreement for row in rows if row.regions}
    assert agreement == {"a red car": 1 / 2, "a dog": 1.0}
