"""Texts stripped, aligned and made into one."""

from __future__ import annotations

import pytest
from engine_claims import fused, one_image
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.config import Engine
from florence.engine.alignment import GAP, SWAP, align, code_of, joined, names, overlap, tokens
from florence.engine.enhance import Version, bare, compose, spell
from florence.records import Claim

words = st.lists(st.sampled_from(["a", "the", "cat", "dog", "red", "on", ".", "mat"]), max_size=9)


@pytest.mark.parametrize("text, left", [
    ("photo of a red car", "a red car"), ("Image: a red car", "a red car"), ("IMG_1234.jpg a red car", "a red car"), ("DSC04567.JPG - a red car", "a red car"),
    ("a red car | stock photo", "a red car"), ("a red car #4711", "a red car"), ("a red car - buy online", "a red car"), ("picture of a red car (640x480)", "a red car"),
    ("A photo of a red car | cars.example", "a red car"), ("IMG_1.jpg photo of a red car #12", "a red car"), ("IMG_1234.jpg", ""), ("https://example.org/x.png", ""),
    ("a photo album on a table", "a photo album on a table"), ("a black and white photo of a cat", "a black and white photo of a cat"),
    ("A well-known half-empty glass.", "A well-known half-empty glass."), ("2 dogs", "2 dogs"), ("", ""),
])  # fmt: skip
def test_boilerplate_goes_and_descriptions_stay(text: str, left: str):
    start, end = bare(text)
    assert text[start:end] == left


@pytest.mark.parametrize("text", ["There is a red car, standing.", 'a sign that says "STOP now" on it', "two cats (and a dog)", "a dog's bone; 50% off!"])
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
        spent = sum(GAP if j < 0 else 0 if a[i] == b[j] else SWAP for i, j in enumerate(to)) + GAP * (len(b) - len(found))
        assert spent == cost(a, b)


def composed(*texts: str, weights: tuple[float, ...] = ()) -> str:
    versions = [Version(k, tokens(text), weights[k] if weights else 1.0) for k, text in enumerate(texts)]
    return compose([versions], 0.5)[0].tokens.text


def test_versions_repair_each_other():
    assert composed("There is a red car near a big house.", "There is red car near a big house.", "There is a red car a big tree.") == "There is a red car near a big house."
    assert composed("Is an orange leaf on a wall", "There is an orange leaf on a wall", "There is an orange leaf on wall") == "There is an orange leaf on a wall"


def test_an_article_fits_the_word_after_it():
    assert composed("look at an orange car here", "look at a big orange car here", "see look at a big car here") == "look at a big orange car here"
    assert composed("there is a green apple there", "there is an apple there", "so there is an apple there") == "there is an apple there"


def test_texts_that_have_little_in_common_are_not_mixed():
    said = ("a man rides a horse", "two dogs on a beach at night", "a person on a horse")
    assert composed(*said) in said
    assert composed("a red car", "a red van") in ("a red car", "a red van")
    assert composed("a red car", "a red van", weights=(0.2, 0.9)) == "a red van"


def test_how_often_words_are_left_out_is_learnt():
    # each author leaves out every fifth word at random: one of three that has a word is right then, mostly
    import numpy as np

    rng = np.random.default_rng(0)
    whole = "the tall man near a table holds one small cup of hot tea in his left hand"
    drop = lambda: " ".join(w for w in whole.split() if rng.random() > 0.2)  # noqa: E731
    items = [[Version(k, tokens(drop()), 1.0) for k in range(3)] for _ in range(150)]
    found = [c.tokens.text for c in compose(items, 0.5)]
    full = [len(c.split()) for c in found]
    votes = [sum(sum(w in v.tokens.words for v in item) >= 2 for w in whole.split()) for item in items]
    assert sum(full) > sum(votes) + 0.4 * (150 * 17 - sum(votes)), "much of what a majority of two lacks is there"
    # and where it is told by one what no other ever says, it is no word of the text
    noise = [[Version(0, tokens(whole + f" extra{n}"), 1.0), *(Version(k, tokens(whole), 1.0) for k in (1, 2))] for n in range(20)]
    assert {c.tokens.text for c in compose(noise, 0.5)} == {whole}


def test_who_never_says_a_word_does_not_take_it_from_the_others():
    # three leave words out now and then; a fourth never says where things are
    import numpy as np

    rng = np.random.default_rng(1)
    whole = "a red cup above a green box"
    drop = lambda: " ".join(w for w in whole.split() if rng.random() > 0.25)  # noqa: E731
    items = [[*(Version(k, tokens(drop()), 1.0) for k in range(3)), Version(3, tokens("a red cup a green box"), 0.9)] for _ in range(150)]
    found = [c.tokens.words for c in compose(items, 0.5)]
    said = ["above" in {w for v in item for w in v.tokens.words} for item in items]
    assert sum("above" in words for words in found) > 0.9 * sum(said) > 100


def test_strings_are_read_character_by_character():
    assert spell([[("EX1T", 1.0), ("EXIT", 1.0), ("FXIT", 1.0)], [("OPEN", 1.0), ("0PEN", 0.4)], [("NO PRKING", 1.0), ("N0 PARKING", 1.0), ("NO PARKINC", 1.0)]]) == [
        "EXIT", "OPEN", "NO PARKING",
    ]  # fmt: skip


def test_overlap_is_of_words():
    assert overlap("a red car", "A red van") == pytest.approx(4 / 6) and overlap("", "") == 1.0 and overlap("a", "") == 0.0


def test_captions_are_fused_and_agreement_is_how_far_they_use_the_same_words():
    said = one_image(
        a=[Claim("<CAPTION>", "a red car near a dog")], b=[Claim("<CAPTION>", "photo of a red car near a dog | stock photo")], c=[Claim("<CAPTION>", "a car near a dog")]
    )
    (row,) = fused(said)
    assert row.text == "a red car near a dog" and row.kept and 0.9 < row.agreement < 1
    (alone,) = fused(one_image(a=[Claim("<CAPTION>", "IMG_12.jpg a red car", (), 0.7)]))
    assert (alone.text, alone.agreement, alone.score) == ("a red car", 1.0, 0.7)
    (nothing,) = fused(one_image(a=[Claim("<CAPTION>", "IMG_12.jpg")]))
    assert (nothing.kept, nothing.reason, nothing.text) == (False, "empty_text", "IMG_12.jpg")
    loop = "a cat and a cat and a cat and a cat and a cat"
    (said_twice,) = fused(one_image(a=[Claim("<CAPTION>", loop)], b=[Claim("<CAPTION>", "a cat")]))
    assert said_twice.text == "a cat", "one that is stuck has no vote"


def test_a_student_without_others_captions_nothing():
    (row,) = fused(one_image(student=[Claim("<CAPTION>", "a red car", (), 0.9)]))
    assert (row.kept, row.reason) == (False, "no_quorum")
    alone = Engine(student={"alone": ("<CAPTION>",)})
    (row,) = fused(one_image(student=[Claim("<CAPTION>", "a red car", (), 0.9)]), settings=alone)
    assert row.kept and row.text == "a red car"
    said = one_image(student=[Claim("<CAPTION>", "a red car", (), 0.9)], a=[Claim("<CAPTION>", "a green hill", (), 0.9)])
    (row,) = fused(said, settings=alone)
    assert row.text == "a green hill", "where others have looked it has no more to say than elsewhere"
