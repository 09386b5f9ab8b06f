"""An annotator that alone labels better than the consensus: what evaluation finds and reports show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict


@dataclass(frozen=True, slots=True)
class BetterAnnotator:
    """An annotator that alone is better than the labels of an annotation type.

    ``threshold``: the higher one of those of the two halves, None for all claims; ``labels``, ``alone``: means of the
    measure over ``n`` images; ``low``, ``high``: 95% interval of the difference.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    annotator: str
    task: str
    metric: str
    reference: str
    threshold: float | None
    labels: float
    alone: float
    low: float
    high: float
    n: int

    def describe(self) -> str:
        """Return a sentence that says by how much, and what can be done."""
        claims = "its claims" if self.threshold is None else f"its claims of {self.threshold:.2f} or more"
        return (
            f"{self.task}: {self.annotator} alone ({claims}) is better than the consensus: {self.metric} "
            f"{self.alone:.3f} against {self.labels:.3f} (difference {self.low:+.3f} to {self.high:+.3f}) on {self.n} "
            f"gold images against {self.reference}; state with `family` which annotators are alike, review some "
            "images (`florence review export`), or leave the weak ones out"
        )
