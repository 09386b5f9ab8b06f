"""Whether a round's labels are kept though its model was rejected: labels and models are judged apart.

With the change of each quality measure over the gold images that both rounds have labels of, paired, labels are kept if

    some measure rises: p̃_rise < α, corrected by Holm's method over all measures, and
    no measure falls:   p_fall ≥ α for each, not corrected, or a fall of less than `MIN_FALL`

(`florence.metrics.bootstrap`). Without gold images that have a reference nothing can be shown, and labels go the way
of their model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from florence.metrics.bootstrap import Interval, correct_p_values

MIN_FALL = 0.005
"""A fall that counts, as a share of the measure's highest value: many images show also one that means nothing."""
HIGHEST = {"cider": 10.0}
"""Highest value of measures that go beyond 1."""


@dataclass(frozen=True, slots=True)
class LabelDecision:
    """Whether labels are kept. ``reason``: a sentence for people."""

    kept: bool
    reason: str


def decide_labels(gains: Mapping[tuple[str, str, str], Interval], since: int, alpha: float) -> LabelDecision:
    """Decide by the rule above. ``gains``: (annotation type, measure, reference) → change since the round ``since``."""
    if not gains:
        missing = "no gold image has a known truth or labels by people"
        return LabelDecision(False, f"its labels cannot be judged apart from it: {missing}")
    corrected = correct_p_values({" ".join(key): gain.p_rise for key, gain in gains.items()})
    risen = [key for key in sorted(gains) if corrected[" ".join(key)] < alpha and gains[key].mean > 0]
    fallen = [
        key
        for key in sorted(gains)
        if gains[key].p_fall < alpha and gains[key].mean < -MIN_FALL * HIGHEST.get(key[1], 1.0)
    ]
    named = ", ".join(_describe_gain(key, gains[key]) for key in fallen or risen)
    if fallen:
        return LabelDecision(False, f"its labels are worse than those of round {since} on gold images: {named}")
    if not risen:
        return LabelDecision(False, f"its labels are not shown to be better than those of round {since} on gold images")
    return LabelDecision(True, f"its labels are better than those of round {since} on gold images: {named}")


def _describe_gain(key: tuple[str, str, str], gain: Interval) -> str:
    task, metric, _ = key
    return f"{task} {metric} {gain.mean:+z.3f} ({gain.low:+z.3f} to {gain.high:+z.3f}, {gain.n} images)"
