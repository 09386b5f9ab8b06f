"""Texts about an image: CIDEr-D.

With g the tf-idf vector of a text's n-grams of one order, and l its number of words, a candidate c scores against its
references r₁ … r_m

    CIDEr-D_n(c) = 10/m · Σ_j exp(−(l_c − l_rj)² / 2σ²) · Σ_w min(g_c(w), g_rj(w)) · g_rj(w) / (‖g_c‖ · ‖g_rj‖)
    CIDEr-D(c)   = mean over n = 1 … 4 of CIDEr-D_n(c)
    idf(w)       = log(number of candidates / number of candidates that have w in a reference).

With a single candidate idf, and so the score, is 0. Vedantam et al., "CIDEr: Consensus-based Image Description
Evaluation", 2015, sections 3 and 5.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from florence.metrics import METRICS, Measure, Metric, Prediction, Reference

ORDERS = 4
"""n-grams of 1…4 words."""
SIGMA = 6.0
"""σ, in words, of the penalty on a difference in length."""

_WORD = re.compile(r"'\w+|\w+(?:[.,]\d+)*(?:-\w+)*")

Ngrams = Counter[tuple[str, ...]]
"""How often each n-gram occurs in a text."""
Vector = dict[tuple[str, ...], float]


def split_words(text: str) -> list[str]:
    """Return lower-case words, near to the Penn Treebank's: no punctuation; "dog's" is dog + 's; 1,000.5 is one."""
    return _WORD.findall(text.lower().replace("’", "'"))


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return CIDEr-D (n,), 0…10, of n candidates, each against its references.

    Document frequencies are those of all references given.
    """
    grams = [[_count_ngrams(split_words(text)) for text in texts] for texts in references]
    frequency: Ngrams = Counter()
    for image in grams:
        frequency.update({gram for document in image for gram in document})
    documents = math.log(max(len(references), 1))

    def weigh(counted: Ngrams) -> list[Vector]:
        vectors: list[Vector] = [{} for _ in range(ORDERS)]
        for gram, count in counted.items():
            vectors[len(gram) - 1][gram] = count * (documents - math.log(max(frequency[gram], 1)))
        return vectors

    return np.asarray(
        [
            _score_candidate(_count_ngrams(split_words(text)), image, weigh) if image else 0.0
            for text, image in zip(candidates, grams, strict=True)
        ]
    )


def _count_ngrams(tokens: list[str]) -> Ngrams:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(tokens) - n + 1))


def _score_candidate(candidate: Ngrams, image: list[Ngrams], weigh: Callable[[Ngrams], list[Vector]]) -> float:
    weights = weigh(candidate)
    total = 0.0
    for document in image:
        difference = _count_words(candidate) - _count_words(document)
        penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
        total += penalty * sum(_cosine(c, r) for c, r in zip(weights, weigh(document), strict=True)) / ORDERS
    return 10 * total / len(image)


def _count_words(counted: Ngrams) -> int:
    return sum(count for gram, count in counted.items() if len(gram) == 1)


def _cosine(candidate: Vector, reference: Vector) -> float:
    norm = math.sqrt(sum(v * v for v in candidate.values())) * math.sqrt(sum(v * v for v in reference.values()))
    if not norm:
        return 0.0
    return (
        sum(min(value, reference[gram]) * reference[gram] for gram, value in candidate.items() if gram in reference)
        / norm
    )


@METRICS.register("caption")
class CaptionMetric(Metric):
    """Value: mean CIDEr-D, 0…10 as in its formula (tables often show ten times that).

    With fewer than two examples there is no inverse document frequency and the value is None. Details: exact (same
    words), length (words of the answers for each word of the references).
    """

    name = "caption"
    value_name = "cider"
    highest = 10.0

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs; see the class."""
        texts = [(reference.text, *reference.alternatives) for reference in references]
        answers = [prediction.text for prediction in predictions]
        exact = np.mean(
            [
                split_words(text) in [split_words(reference) for reference in alternatives]
                for text, alternatives in zip(answers, texts, strict=True)
            ]
        )
        length = sum(len(split_words(alternatives[0])) for alternatives in texts)
        details = {
            "exact": float(exact),
            "length": sum(len(split_words(text)) for text in answers) / length if length else math.nan,
        }
        if len(references) < 2:
            return Measure(None, np.full(len(references), math.nan), details)
        per_example = cider_d(answers, texts)
        return Measure(float(per_example.mean()), per_example, details)
