"""Text read in pictures: character accuracy, exact match, and F1 of strings at their places.

With d the Levenshtein distance of an answer and its reference, and n the characters of the reference,

    characters = max(0, 1 − d / max(n, 1)),        CER = Σ d / Σ n.

Levenshtein, "Binary Codes Capable of Correcting Deletions, Insertions, and Reversals", 1966; end-to-end spotting as in
the ICDAR 2015 robust reading competition, with IoU 0.5 and case kept.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from florence.metrics import (
    METRICS,
    GradedAnswers,
    Measure,
    Metric,
    Prediction,
    Reference,
    divide_or_nan,
    match_regions,
)


def edit_distance(a: str, b: str) -> int:
    """Return the fewest insertions, deletions and replacements of a character that turn ``a`` into ``b``."""
    if len(a) < len(b):
        a, b = b, a
    if not b:
        return len(a)
    target = np.frombuffer(b.encode("utf-32-le", "surrogatepass"), np.uint32)
    steps = np.arange(len(b) + 1)
    row = steps
    for number, character in enumerate(a, start=1):
        following = np.empty_like(row)
        following[0] = number
        following[1:] = np.minimum(row[:-1] + (target != ord(character)), row[1:] + 1)
        # insertions: a cell is reached from any cell to its left at a cost of one a step
        row = np.minimum.accumulate(following - steps) + steps
    return int(row[-1])


def normalize_text(text: str) -> str:
    """Return ``text`` in the form in which OCR texts are compared: NFC, white space as single spaces, case kept."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@METRICS.register("reading")
class ReadingMetric(Metric):
    """Value: mean of `characters`, the share of characters read correctly.

    An empty reference gives 1 for an empty answer, else 0. Details: exact (share of examples without an error), cer
    (may exceed 1), and where answers have regions spotted: F1 of strings read exactly at IoU 0.5.
    """

    name = "reading"
    value_name = "characters"

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.grade`: a string is correct if it has no error and, with a region, matches there."""
        if not any(p.regions for p in predictions):
            pairs = zip(predictions, references, strict=True)
            return GradedAnswers.from_rows(
                (number, p.score, normalize_text(p.text) == normalize_text(r.text))
                for number, (p, r) in enumerate(pairs)
            )
        found = []
        for number, (p, r) in enumerate(zip(predictions, references, strict=True)):
            correct = {
                i
                for i, j in match_regions(p.regions, r.regions, labelled=False)
                if normalize_text(p.regions[i].label) == normalize_text(r.regions[j].label)
            }
            found += [(number, region.score, row in correct) for row, region in enumerate(p.regions)]
        return GradedAnswers.from_rows(found)

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """Compare one or more pairs; see the class."""
        pairs = [(normalize_text(p.text), normalize_text(r.text)) for p, r in zip(predictions, references, strict=True)]
        edits = np.asarray([edit_distance(answer, reference) for answer, reference in pairs], float)
        lengths = np.asarray([len(reference) for _, reference in pairs], float)
        per_example = np.clip(1 - edits / np.maximum(lengths, 1), 0, 1)
        details = {"exact": float((edits == 0).mean()), "cer": divide_or_nan(float(edits.sum()), float(lengths.sum()))}
        if any(p.regions for p in predictions):
            details["spotted"] = _spotting_f1(predictions, references)
        return Measure(float(per_example.mean()), per_example, details)


def _spotting_f1(predictions: Sequence[Prediction], references: Sequence[Reference]) -> float:
    hits = total = 0
    for p, r in zip(predictions, references, strict=True):
        pairs = match_regions(p.regions, r.regions, labelled=False)
        hits += sum(normalize_text(p.regions[i].label) == normalize_text(r.regions[j].label) for i, j in pairs)
        total += len(p.regions) + len(r.regions)
    return divide_or_nan(2 * hits, total)
