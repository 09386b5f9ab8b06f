"""Answers to questions: VQA accuracy.

For an answer a and the answers g₁ … gₘ that people gave,

    accuracy(a) = mean over i of min(|{j ≠ i : gⱼ = a}| / min(3, m − 1), 1),

the mean over all ways to leave one person out; with a single answer (m = 1) it is 1 if a = g₁, else 0.

Antol et al., "VQA: Visual Question Answering", 2015, section 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from florence.metrics import METRICS, GradedAnswers, Measure, Metric, Prediction, Reference, mean

ENOUGH = 3
"""People who have to give an answer for it to count in full."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d)")
_APOSTROPHE = re.compile(r"['’`]")
_PUNCTUATION = re.compile(r"[^\w\s.:]|_|(?<!\d)[.:]|[.:](?!\d)")


def normalize_answer(answer: str) -> str:
    """Return ``answer`` in the form that is compared: lower case, no punctuation or article, numbers to ten as digits.

    As in the evaluation of VQAv2, except that words are compared without apostrophes, which replaces its list of
    contractions.
    """
    text = _PUNCTUATION.sub(" ", _APOSTROPHE.sub("", _THOUSANDS.sub("", answer.lower())))
    words = [_DIGITS.get(word, word) for word in text.split() if word not in ("a", "an", "the")]
    return " ".join(words)


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """Return the VQA accuracy, 0…1, of ``answer`` where people gave the answers ``given``."""
    predicted, people = normalize_answer(answer), [normalize_answer(one) for one in given]
    if len(people) == 1:
        return float(predicted == people[0])
    same = sum(predicted == one for one in people)
    return sum(min((same - (predicted == one)) / min(ENOUGH, len(people) - 1), 1.0) for one in people) / len(people)


@METRICS.register("answer")
class AnswerMetric(Metric):
    """Value: mean VQA accuracy.

    People's answers are the labels of the reference's regions; without regions its text is the only answer. Details:
    the accuracy of questions whose answer is yes or no (yes_no), a number (number) or anything else (other), and
    exact, the share of answers that are the reference's text.
    """

    name = "answer"
    value_name = "vqa_accuracy"

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.grade`: an answer is correct if most people gave it."""
        pairs = zip(predictions, references, strict=True)
        return GradedAnswers.from_rows(
            (number, p.score, normalize_answer(p.text) == normalize_answer(r.text))
            for number, (p, r) in enumerate(pairs)
        )

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs; see the class."""
        pairs = list(zip(predictions, references, strict=True))
        per_example = np.asarray(
            [vqa_accuracy(p.text, [region.label for region in r.regions] or [r.text]) for p, r in pairs], float
        )
        types = np.asarray([_answer_type(r.text) for r in references])
        exact = np.asarray([normalize_answer(p.text) == normalize_answer(r.text) for p, r in pairs], float)
        details = {
            name: math.nan if (found := mean(per_example[types == name])) is None else found
            for name in ("yes_no", "number", "other")
        }
        return Measure(mean(per_example), per_example, {**details, "exact": float(exact.mean())})


def _answer_type(answer: str) -> str:
    text = normalize_answer(answer)
    return "yes_no" if text in ("yes", "no") else "number" if re.fullmatch(r"[\d.: ]+", text) else "other"
