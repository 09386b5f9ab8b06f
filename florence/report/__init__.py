"""The report: one static page a round, made of a loop's facts and the snapshot; it needs no network."""

from florence.report.facts import LoopFacts, RoundFacts
from florence.report.page import build_report

__all__ = ["LoopFacts", "RoundFacts", "build_report"]
