"""Texts stripped, aligned and made into one."""

from __future__ import annotations

import numpy as np
import pytest
from engine_claims import fused, one_image
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.config import EngineSettings
from florence.engine.consensus.word_consensus import Versions, compose, spell
from florence.engine.filters.alt_text import find_description
from florence.engine.wording import alignment
from florence.engine.wording.alignment import GAP, SWAP, align
from florence.engine.wording.tokens import code_of, joined, lines, names, overlap, overlaps, tokens
from florence.records import Claim

words = st.lists(st.sampled_from(["a", "the", "cat", "dog", "red", "on", ".", "mat"]), max_size=9)


@pytest.mark.parametrize(
    "text, left",
    [
        ("photo of a red car", "a red car"),
        ("Image: a red car", "a red car"),
        ("IMG_1234.jpg a red car", "a red car"),
        ("DSC04567.JPG - a red car", "a red car"),
        ("a red car | stock photo", "a red car"),
        ("a red car #4711", "a red car"),
        ("a red car - buy online", "a red car"),
        ("picture of a red car (640x480)", "a red car"),
        ("A photo of a red car | cars.example", "a red car"),
        ("IMG_1.jpg photo of a red car #12", "a red car"),
        ("IMG_1234.jpg", ""),
        ("https://example.org/x.png", ""),
        ("a photo album on a table", "a photo album on a table"),
        ("a black and white photo of a cat", "a black and white photo of a cat"),
        ("A well-known half-empty glass.", "A well-known half-empty glass."),
        ("2 dogs", "2 dogs"),
        ("", ""),
        ("a sugar-free drink in a duty-free shop", "a sugar-free drink in a duty-free shop"),
    ],
)
def test_boilerplate_goes_and_descriptions_stay(text: str, left: str):
    start, end = find_description(text)
    assert text[start:end] == left


@pytest.mark.parametrize(
    "text",
    [
        "There is a red car, standing.",
        'a sign that says "STOP now" on it',
        "two cats (and a dog)",
        "a dog's bone; 50% off!",
    ],
)
def test_tokens_join_to_their_text(text: str):
    assert joined(tokens(text).words) == text
    assert all(text[a:b] == word for word, (a, b) in zip(tokens(text).words, tokens(text).spans, strict=True))


def cost(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """The cheapest alignment, cell by cell."""
    table = [[GAP * j for j in range(len(b) + 1)]]
    for i, x in enumerate(a, start=1):
        row = [GAP * i]
        for j, y in enumerate(b, start=1):
            swap = 0 if x == y else SWAP if names(x) and names(y) else 2 * GAP
            row.append(min(table[-1][j - 1] + swap, table[-1][j] + GAP, row[-1] + GAP))
        table.append(row)
    return table[-1][-1]


@settings(deadline=None)
@given(st.lists(st.tuples(words, words), max_size=6))
def test_alignments_are_the_cheapest_and_in_order(pairs):
    coded = [(tuple(map(code_of, a)), tuple(map(code_of, b))) for a, b in pairs]
    for (a, b), side in zip(coded, align(coded), strict=True):
        whole = GAP * (len(a) + len(b))
        assert side.similarity == pytest.approx(1 - cost(a, b) / whole if whole else 1.0)
        to = [int(j) for j in side.to]
        found = [j for j in to if j >= 0]
        assert len(to) == len(a) and found == sorted(set(found))
        spent = sum(GAP if j < 0 else 0 if a[i] == b[j] else SWAP for i, j in enumerate(to)) + GAP * (
            len(b) - len(found)
        )
        assert spent == cost(a, b)


few = st.lists(st.sampled_from(["a", "the", "cat", "red", "."]), max_size=12)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(few, few, few), max_size=6))
def test_what_texts_share_at_their_ends_may_be_taken_off(parts):
    coded = [(tuple(map(code_of, head + a)), tuple(map(code_of, head + b))) for head, a, b in parts]
    coded += [(a + coded[0][0], b + coded[0][0]) for a, b in coded]
    found = [side.to.tolist() for side in align(coded)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "_common", lambda a, b, most, ends: np.zeros(len(a), np.int64))
        assert [side.to.tolist() for side in align(coded)] == found


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(st.sampled_from("abAñ日1'’-.,;! \n\t\x85\u2003\x1c\ud800😀ßı")), max_size=5))
def test_texts_are_read_at_once_as_each_by_itself(texts):
    found = lines(texts)
    assert len(found) == len(texts) and found.text == tuple(texts)
    assert found.words.tolist() == [len(text.split()) for text in texts]
    for row, text in enumerate(texts):
        start, end, alone = found.first[row], found.first[row + 1], tokens(text)
        assert found.keys[start:end].tolist() == list(alone.keys) and [
            tuple(span) for span in found.spans[start:end].tolist()
        ] == list(alone.spans)
    assert found.some(np.arange(len(texts))[::-1]).text == tuple(texts[::-1])


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.data())
def test_overlaps_of_many_are_those_of_each_pair(texts, data):
    said = [" ".join(text) for text in texts]
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, len(said) - 1)] * 2), max_size=8))
    a, b = np.asarray(rows, int).reshape(-1, 2).T
    assert overlaps(lines(said), a, b).tolist() == [overlap(said[i], said[j]) for i, j in rows]


def composed_all(*items: tuple[str, ...], weights: tuple[float, ...] = ()) -> list[str]:
    """One text of the versions of each item, whose annotators are numbered."""
    texts = [text for item in items for text in item]
    annotator = np.concatenate([np.arange(len(item)) for item in items])
    weight = np.asarray(weights)[annotator] if weights else np.ones(len(texts))
    found = compose(
        Versions(
            lines(texts),
            np.repeat(np.arange(len(items)), [len(item) for item in items]),
            annotator,
            np.arange(len(texts)),
            weight,
        ),
        0.5,
    )
    return [found.lines.text[k] for k in found.line.tolist()]


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


def test_texts_that_have_little_in_common_are_not_mixed():
    said = ("a man rides a horse", "two dogs on a beach at night", "a person on a horse")
    assert composed(*said) in said
    assert composed("a red car", "a red van") in ("a red car", "a red van")
    assert composed("a red car", "a red van", weights=(0.2, 0.9)) == "a red van"


def test_how_often_words_are_left_out_is_learnt():
    # each annotator leaves out every fifth word at random: one of three that has a word is right then, mostly
    rng = np.random.default_rng(0)
    whole = "the tall man near a table holds one small cup of hot tea in his left hand"
    drop = lambda: " ".join(w for w in whole.split() if rng.random() > 0.2)  # noqa: E731
    items = [tuple(drop() for _ in range(3)) for _ in range(150)]
    found = composed_all(*items)
    full = [len(c.split()) for c in found]
    votes = [sum(sum(w in text.split() for text in item) >= 2 for w in whole.split()) for item in items]
    assert sum(full) > sum(votes) + 0.4 * (150 * 17 - sum(votes)), "much of what a majority of two lacks is there"
    # and where it is told by one what no other ever says, it is no word of the text
    assert set(composed_all(*((whole + f" extra{n}", whole, whole) for n in range(20)))) == {whole}


def test_who_never_says_a_word_does_not_take_it_from_the_others():
    # three leave words out now and then; a fourth never says where things are
    rng = np.random.default_rng(1)
    whole = "a red cup above a green box"
    drop = lambda: " ".join(w for w in whole.split() if rng.random() > 0.25)  # noqa: E731
    items = [(*(drop() for _ in range(3)), "a red cup a green box") for _ in range(150)]
    found = [text.split() for text in composed_all(*items, weights=(1.0, 1.0, 1.0, 0.9))]
    said = ["above" in " ".join(item).split() for item in items]
    assert sum("above" in words for words in found) > 0.9 * sum(said) > 100


def test_strings_are_read_character_by_character():
    assert spell(
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


def test_overlap_is_of_words():
    assert (
        overlap("a red car", "A red van") == pytest.approx(4 / 6) and overlap("", "") == 1.0 and overlap("a", "") == 0.0
    )


def test_captions_are_fused_and_agreement_is_how_far_they_use_the_same_words():
    said = one_image(
        a=[Claim("<CAPTION>", "a red car near a dog")],
        b=[Claim("<CAPTION>", "photo of a red car near a dog | stock photo")],
        c=[Claim("<CAPTION>", "a car near a dog")],
    )
    (row,) = fused(said)
    assert row.text == "a red car near a dog" and row.kept and 0.9 < row.confidence < 1
    (alone,) = fused(one_image(a=[Claim("<CAPTION>", "IMG_12.jpg a red car", (), 0.7)]))
    assert (alone.text, alone.confidence, alone.score) == ("a red car", 1.0, 0.7)
    (nothing,) = fused(one_image(a=[Claim("<CAPTION>", "IMG_12.jpg")]))
    assert (nothing.kept, nothing.reason, nothing.text) == (False, "empty_text", "IMG_12.jpg")
    loop = "a cat and a cat and a cat and a cat and a cat"
    (said_twice,) = fused(one_image(a=[Claim("<CAPTION>", loop)], b=[Claim("<CAPTION>", "a cat")]))
    assert said_twice.text == "a cat", "one that is stuck has no vote"


def test_a_student_without_others_captions_nothing():
    (row,) = fused(one_image(student=[Claim("<CAPTION>", "a red car", (), 0.9)]))
    assert (row.kept, row.reason) == (False, "low_confidence")
    alone = EngineSettings(student={"alone": ("<CAPTION>",)})
    (row,) = fused(one_image(student=[Claim("<CAPTION>", "a red car", (), 0.9)]), settings=alone)
    assert row.kept and row.text == "a red car"
    said = one_image(
        student=[Claim("<CAPTION>", "a red car", (), 0.9)], a=[Claim("<CAPTION>", "a green hill", (), 0.9)]
    )
    (row,) = fused(said, settings=alone)
    assert row.text == "a green hill", "where others have looked it has no more to say than elsewhere"
