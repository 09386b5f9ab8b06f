"""Texts as tokens, aligned, and compared by their words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.engine.wording import alignment
from florence.engine.wording.alignment import GAP_COST, SUBSTITUTION_COST, align_pairs
from florence.engine.wording.overlap import word_overlap, word_overlaps
from florence.engine.wording.tokens import encode_key, is_content_word, join_tokens, tokenize, tokenize_texts

words = st.lists(st.sampled_from(["a", "the", "cat", "dog", "red", "on", ".", "mat"]), max_size=9)


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
    assert join_tokens(tokenize(text).words) == text
    assert all(text[a:b] == word for word, (a, b) in zip(tokenize(text).words, tokenize(text).spans, strict=True))


def cost(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return the cost of the cheapest alignment, computed cell by cell."""
    table = [[GAP_COST * j for j in range(len(b) + 1)]]
    for i, x in enumerate(a, start=1):
        row = [GAP_COST * i]
        for j, y in enumerate(b, start=1):
            swap = 0 if x == y else SUBSTITUTION_COST if is_content_word(x) and is_content_word(y) else 2 * GAP_COST
            row.append(min(table[-1][j - 1] + swap, table[-1][j] + GAP_COST, row[-1] + GAP_COST))
        table.append(row)
    return table[-1][-1]


@settings(deadline=None)
@given(st.lists(st.tuples(words, words), max_size=6))
def test_alignments_are_the_cheapest_and_in_order(pairs):
    coded = [(tuple(map(encode_key, a)), tuple(map(encode_key, b))) for a, b in pairs]
    for (a, b), side in zip(coded, align_pairs(coded), strict=True):
        whole = GAP_COST * (len(a) + len(b))
        assert side.similarity == pytest.approx(1 - cost(a, b) / whole if whole else 1.0)
        to = [int(j) for j in side.target]
        found = [j for j in to if j >= 0]
        assert len(to) == len(a) and found == sorted(set(found))
        spent = sum(
            GAP_COST if j < 0 else 0 if a[i] == b[j] else SUBSTITUTION_COST for i, j in enumerate(to)
        ) + GAP_COST * (len(b) - len(found))
        assert spent == cost(a, b)


few = st.lists(st.sampled_from(["a", "the", "cat", "red", "."]), max_size=12)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(few, few, few), max_size=6))
def test_common_beginnings_and_ends_of_texts_may_be_taken_off(parts):
    coded = [(tuple(map(encode_key, head + a)), tuple(map(encode_key, head + b))) for head, a, b in parts]
    coded += [(a + coded[0][0], b + coded[0][0]) for a, b in coded]
    found = [side.target.tolist() for side in align_pairs(coded)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "_count_common", lambda a, b, most, ends: np.zeros(len(a), np.int64))
        assert [side.target.tolist() for side in align_pairs(coded)] == found


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(st.sampled_from("abAñ日1'’-.,;! \n\t\x85\u2003\x1c\ud800😀ßı")), max_size=5))
def test_texts_are_read_at_once_as_each_by_itself(texts):
    found = tokenize_texts(texts)
    assert len(found) == len(texts) and found.text == tuple(texts)
    assert found.word_count.tolist() == [len(text.split()) for text in texts]
    for row, text in enumerate(texts):
        start, end, alone = found.offsets[row], found.offsets[row + 1], tokenize(text)
        assert found.keys[start:end].tolist() == list(alone.keys) and [
            tuple(span) for span in found.spans[start:end].tolist()
        ] == list(alone.spans)
    assert found.select_texts(np.arange(len(texts))[::-1]).text == tuple(texts[::-1])


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.data())
def test_overlaps_of_many_equal_those_of_each_pair(texts, data):
    joined = [" ".join(text) for text in texts]
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, len(joined) - 1)] * 2), max_size=8))
    a, b = np.asarray(rows, int).reshape(-1, 2).T
    assert word_overlaps(tokenize_texts(joined), a, b).tolist() == [word_overlap(joined[i], joined[j]) for i, j in rows]


def test_overlap_is_of_words():
    assert (
        word_overlap("a red car", "A red van") == pytest.approx(4 / 6)
        and word_overlap("", "") == 1.0
        and word_overlap("a", "") == 0.0
    )
