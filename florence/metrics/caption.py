"""Texts about an image: CIDEr-D (Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", 2015, section 5 and appendix)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from florence.metrics import METRICS, Measure, Metric, Prediction, Reference

ORDERS = 4
"""n-grams of 1…4 words."""
SIGMA = 6.0
"""Width, in words, of the penalty on a difference in length."""

_WORD = re.compile(r"'\w+|\w+(?:[.,]\d+)*(?:-\w+)*")

Vector = dict[tuple[str, ...], float]


def words(text: str) -> list[str]:
    """Lower-case words, near to the Penn Treebank's: punctuation left out, "dog's" is dog + 's, hyphens stay within words, 1,000.5 is one."""
    return _WORD.findall(text.lower().replace("’", "'"))


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D (n,), 0…10, of n candidates, each against its references; document frequencies are those of all references given.

    For each order n, with tf-idf weights g and l the difference in words: the mean over the references of
    exp(−l²/2σ²) · Σ min(g_c, g_r)·g_r / (‖g_c‖·‖g_r‖); then the mean over orders, times 10. idf is
    log(number of candidates / number of candidates with the n-gram in a reference): it is 0, and so is the score, where there is but one candidate.
    """
    grams = [[_grams(words(text)) for text in texts] for texts in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for image in grams:
        frequency.update({gram for document in image for gram in document})
    documents = math.log(max(len(references), 1))

    def weigh(counted: Counter[tuple[str, ...]]) -> list[Vector]:
        vectors: list[Vector] = [{} for _ in range(ORDERS)]
        for gram, count in counted.items():
            vectors[len(gram) - 1][gram] = count * (documents - math.log(max(frequency[gram], 1)))
        return vectors

    return np.asarray(
        [
            _one(_grams(words(text)), image, weigh) if image else 0.0
            for text, image in zip(candidates, grams, strict=True)
        ]
    )


def _grams(tokens: list[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(tokens) - n + 1))


def _one(candidate: Counter, image: list[Counter], weigh) -> float:
    said = weigh(candidate)
    total = 0.0
    for document in image:
        shorter = _length(candidate) - _length(document)
        penalty = math.exp(-(shorter**2) / (2 * SIGMA**2))
        total += penalty * sum(_cosine(c, r) for c, r in zip(said, weigh(document), strict=True)) / ORDERS
    return 10 * total / len(image)


def _length(counted: Counter) -> int:
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
    """Value: mean CIDEr-D, on the scale 0…10 of its formula (tables often show it times 10 again, as 0…100 and above).

    With fewer than two examples there is no inverse document frequency and the value is None. Details: exact (same words), length (words
    said for each word of the reference).
    """

    name = "caption"
    value_name = "cider"

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        texts = [(reference.text, *reference.alternatives) for reference in references]
        said = [prediction.text for prediction in predictions]
        exact = np.mean(
            [words(text) in [words(right) for right in all_right] for text, all_right in zip(said, texts, strict=True)]
        )
        there = sum(len(words(all_right[0])) for all_right in texts)
        details = {
            "exact": float(exact),
            "length": sum(len(words(text)) for text in said) / there if there else math.nan,
        }
        if len(references) < 2:
            return Measure(None, np.full(len(references), math.nan), details)
        per_example = cider_d(said, texts)
        return Measure(float(per_example.mean()), per_example, details)
