"""VQA accuracy against the evaluation of VQAv2, written out here from its published definition."""

import itertools

import numpy as np
import pytest

from florence.metrics import METRICS, Prediction, Reference
from florence.metrics.answer import normalize_answer, vqa_accuracy
from florence.records import Region


def published(answer, given):
    """min(#others that say it / 3, 1), averaged over all sets of nine of the ten people."""
    return sum(
        min(sum(answer == one for one in nine) / 3, 1) for nine in itertools.combinations(given, len(given) - 1)
    ) / len(given)


def test_with_ten_people_it_is_the_published_rule():
    rng = np.random.default_rng(4)
    for _ in range(300):
        given = [str(v) for v in rng.integers(0, rng.integers(1, 5), 10)]
        answer = str(rng.integers(0, 5))
        assert vqa_accuracy(answer, given) == pytest.approx(published(answer, given))
    assert vqa_accuracy("a cat", ["cat"] * 2 + ["dog"] * 8) == pytest.approx(0.6)


@pytest.mark.parametrize("given", [["cat"], ["cat"] * 2, ["cat"] * 3, ["cat"] * 4])
def test_with_few_people_what_all_say_is_right(given):
    assert vqa_accuracy("Cat.", given) == 1 and vqa_accuracy("dog", given) == 0


@pytest.mark.parametrize(
    "answer,as_",
    [
        ("The cat", "cat"),
        ("Two", "2"),
        ("none", "0"),
        ("don't", "dont"),
        ("yes!", "yes"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("12:30", "12:30"),
        ("red, white", "red white"),
        ("ten cats.", "10 cats"),
        ("t-shirt", "t shirt"),
        ("  A   dog ", "dog"),
        ("STOP", "stop"),
        ("Café", "café"),
        ("", ""),
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(answer, as_):
    assert normalize_answer(answer) == as_ and normalize_answer(as_) == as_


def test_figures_by_sort_of_answer():
    def reference(*answers):
        return Reference("x", answers[0], tuple(Region(answer, box=(0, 0, 1, 1)) for answer in answers))

    references = [reference("yes"), reference("2"), reference("red", "red", "crimson"), Reference("x", "cat")]
    answer = [Prediction("x", text) for text in ("no", "two", "crimson", "the cat")]
    score = METRICS.get("answer")().score(answer, references)
    assert score.details == pytest.approx({"yes_no": 0, "number": 1, "other": (1 / 3 + 1) / 2, "exact": 0.5})
    assert score.value == pytest.approx((0 + 1 + 1 / 3 + 1) / 4)
