"""The report: one static page a round, made of a loop's facts and the snapshot; it needs no network."""

from florence.report.facts import LoopFacts, RoundFacts

__all__ = ["LoopFacts", "RoundFacts"]
