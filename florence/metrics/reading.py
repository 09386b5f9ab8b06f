"""Written text: edit distance, exact match, and whether strings were found where they are."""

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
    """Levenshtein distance: the fewest insertions, deletions and replacements of a character that turn ``a`` into ``b``."""
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
        # insertions: each cell may be reached from any to its left at one a step
        row = np.minimum.accumulate(following - steps) + steps
    return int(row[-1])


def normalize_text(text: str) -> str:
    """``text`` as readings are compared: composed characters (NFC), white space as single spaces, case kept."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@METRICS.register("reading")
class ReadingMetric(Metric):
    """Value: mean share of characters read right, 1 − (edit distance / characters of the reference), not below 0.

    An empty reference is read right (1) by an empty answer, else not at all (0). Details: exact (share of examples without an error), cer
    (all edits over all reference characters; may exceed 1), and where answers have regions spotted: F1 of strings read exactly at IoU 0.5.
    """

    name = "reading"
    value_name = "characters"

    def grade(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> GradedAnswers:
        """See `Metric.judged`: a string is right that is read without an error, and where it has a place, there."""
        if not any(p.regions for p in predictions):
            pairs = zip(predictions, references, strict=True)
            return GradedAnswers.of(
                (number, p.score, normalize_text(p.text) == normalize_text(r.text))
                for number, (p, r) in enumerate(pairs)
            )
        found = []
        for number, (p, r) in enumerate(zip(predictions, references, strict=True)):
            read = {
                i
                for i, j in match_regions(p.regions, r.regions, labelled=False)
                if normalize_text(p.regions[i].label) == normalize_text(r.regions[j].label)
            }
            found += [(number, region.score, row in read) for row, region in enumerate(p.regions)]
        return GradedAnswers.of(found)

    def measure(self, predictions: Sequence[Prediction], references: Sequence[Reference]) -> Measure:
        """See the class."""
        pairs = [(normalize_text(p.text), normalize_text(r.text)) for p, r in zip(predictions, references, strict=True)]
        edits = np.asarray([edit_distance(said, there) for said, there in pairs], float)
        lengths = np.asarray([len(there) for _, there in pairs], float)
        per_example = np.clip(1 - edits / np.maximum(lengths, 1), 0, 1)
        details = {"exact": float((edits == 0).mean()), "cer": divide_or_nan(float(edits.sum()), float(lengths.sum()))}
        if any(p.regions for p in predictions):
            details["spotted"] = _spotted(predictions, references)
        return Measure(float(per_example.mean()), per_example, details)


def _spotted(predictions: Sequence[Prediction], references: Sequence[Reference]) -> float:
    hit = said = there = 0
    for p, r in zip(predictions, references, strict=True):
        pairs = match_regions(p.regions, r.regions, labelled=False)
        hit += sum(normalize_text(p.regions[i].label) == normalize_text(r.regions[j].label) for i, j in pairs)
        said, there = said + len(p.regions), there + len(r.regions)
    return divide_or_nan(2 * hit, said + there)
