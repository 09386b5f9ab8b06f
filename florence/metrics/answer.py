"""Answers to questions: VQA accuracy (Antol et al., "VQA: Visual Question Answering", 2015, section 3)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from florence.metrics import METRICS, GradedAnswers, Measure, Metric, Prediction, Reference, mean

ENOUGH = 3
"""People whose answer an answer has to be to count in full."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d)")
_APOSTROPHE = re.compile(r"['’`]")
_PUNCTUATION = re.compile(r"[^\w\s.:]|_|(?<!\d)[.:]|[.:](?!\d)")


def normalize_answer(answer: str) -> str:
    """``answer`` as answers are compared: lower case, no punctuation, no a, an and the, numbers up to ten as digits.

    As in the evaluation of VQAv2, but that every word is compared without its apostrophe, which spares its list of contractions.
    """
    text = _PUNCTUATION.sub(" ", _APOSTROPHE.sub("", _THOUSANDS.sub("", answer.lower())))
    words = [_DIGITS.get(word, word) for word in text.split() if word not in ("a", "an", "the")]
    return " ".join(words)


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """How right ``answer`` is, 0…1, where people gave the answers ``given``: the mean, over all ways to leave one of them out, of the share of
    `ENOUGH` others that say the same, 1 at most. Where fewer than `ENOUGH` others are there, all of them are enough; a single answer has to be met.
    """
    said, there = normalize_answer(answer), [normalize_answer(one) for one in given]
    if len(there) == 1:
        return float(said == there[0])
    same = sum(said == one for one in there)
    return sum(min((same - (said == one)) / min(ENOUGH, len(there) - 1), 1.0) for one in there) / len(there)


@METRICS.register("answer")
class AnswerMetric(Metric):
    """Value: mean VQA accuracy. The answers that people gave are the labels of the reference's regions; without regions its text is the one answer.

    Details: the accuracy of questions whose answer is yes or no (yes_no), a number (number) or anything else (other), and exact: the share of
    answers that are the reference's text.
    """

    name = "answer"
    value_name = "vqa_accuracy"

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.judged`: an answer is right that most people gave."""
        pairs = zip(predictions, references, strict=True)
        return GradedAnswers.of(
            (number, p.score, normalize_answer(p.text) == normalize_answer(r.text))
            for number, (p, r) in enumerate(pairs)
        )

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        pairs = list(zip(predictions, references, strict=True))
        per_example = np.asarray(
            [vqa_accuracy(p.text, [region.label for region in r.regions] or [r.text]) for p, r in pairs], float
        )
        kinds = np.asarray([_kind(r.text) for r in references])
        exact = np.asarray([normalize_answer(p.text) == normalize_answer(r.text) for p, r in pairs], float)
        details = {
            kind: math.nan if (found := mean(per_example[kinds == kind])) is None else found
            for kind in ("yes_no", "number", "other")
        }
        return Measure(mean(per_example), per_example, {**details, "exact": float(exact.mean())})


def _kind(answer: str) -> str:
    text = normalize_answer(answer)
    return "yes_no" if text in ("yes", "no") else "number" if re.fullmatch(r"[\d.: ]+", text) else "other"
