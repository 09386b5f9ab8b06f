"""The parts of the page about evidence: what confidences are worth, how claims were weighed, how annotators agree."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from florence.annotators import DETECTOR_EXAMPLE
from florence.engine.weighing import join_sentences
from florence.report.charts import Chart, SharePoint, draw_reliability
from florence.report.facts import LabelConfidence, RoundFacts
from florence.report.tables import Cell, Table, format_count, format_figure, make_head, number_cell

MIN_DRAWN = 20
"""Labels from which a reliability diagram is drawn: the points of fewer say nothing."""


def build_context(facts: RoundFacts) -> dict[str, Any]:
    """Return the values of the template that are about evidence."""
    return {
        "confidence": tabulate_confidence(facts),
        "confidence_charts": draw_confidence_charts(facts),
        "by_people": any(c.reference == "human" for c in facts.label_confidence),
        "weighing": join_sentences((one.task, one.sentence) for one in facts.weighing),
        "alpha": tabulate_alpha(facts),
        "reviewers": tabulate_reviewers(facts),
        "without_detector": ", ".join(facts.without_detector),
        "detector_example": DETECTOR_EXAMPLE,
    }


def tabulate_confidence(facts: RoundFacts) -> Table | None:
    """Return how well confidences are calibrated, by annotation type and source."""
    rows = tuple(
        (
            Cell(c.task),
            Cell(c.source or "all"),
            Cell(c.reference),
            number_cell(format_count(c.n)),
            number_cell(format_figure(c.error)),
            number_cell(format_figure(c.brier)),
            number_cell(format_count(c.sure)),
            number_cell(format_figure(c.sure_right)),
        )
        for c in facts.label_confidence
    )
    head = make_head(
        "Annotation type",
        "Source",
        "Reference",
        ">Labels",
        ">Calibration error",
        ">Brier score",
        ">Stated ≥ 0.9",
        ">Right of those",
    )
    return Table(head, rows) if rows else None


def draw_confidence_charts(facts: RoundFacts) -> list[Chart]:
    """Return the reliability diagram of each annotation type with enough labels, all sources together."""
    return [
        Chart(_make_title(c), draw_reliability(_make_title(c), _list_points(c)), Markup(""))
        for c in facts.label_confidence
        if not c.source and c.n >= MIN_DRAWN
    ]


def _make_title(found: LabelConfidence) -> str:
    reference = "" if found.reference == "truth" else f" ({found.reference})"
    return f"{found.task}{reference}"


def _list_points(found: LabelConfidence) -> list[SharePoint]:
    return [SharePoint(b.confidence, b.right, b.low, b.high, b.n) for b in found.bins]


def tabulate_alpha(facts: RoundFacts) -> Table | None:
    """Return Krippendorff's alpha of all annotators and of each pair; those that agree least come last."""
    whole = [a for a in facts.alpha if len(a.annotators) > 2]
    pairs = [a for a in facts.alpha if len(a.annotators) == 2]
    pairs.sort(key=lambda a: (a.value is None, -(a.value or 0.0), a.annotators))
    rows = tuple(
        (
            Cell(
                "all" if len(a.annotators) > 2 else " and ".join(a.annotators),
                ", ".join(a.annotators) if len(a.annotators) > 2 else "",
            ),
            number_cell("not defined" if a.value is None else format_figure(a.value)),
            number_cell(format_count(a.units)),
        )
        for a in [*whole, *pairs]
    )
    return Table(make_head("Annotators", ">Alpha", ">Clusters"), rows) if rows else None


def tabulate_reviewers(facts: RoundFacts) -> Table | None:
    """Return the reviewers of gold and held-out images, the best first."""
    rows = []
    for one in facts.reviewers:
        marks = [word for word, is_so in (("doubtful", one.doubtful), ("left out", one.excluded)) if is_so]
        interval = "" if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"
        rows.append(
            (
                Cell(one.reviewer, ", ".join(marks)),
                number_cell(format_count(one.images)),
                number_cell(_format_share(one.quality), interval, style="down" if one.doubtful else ""),
                Cell(one.against),
                number_cell(_format_share(one.agreement)),
                number_cell(_format_share(one.alpha)),
                number_cell(_format_share(one.repeated)),
            )
        )
    head = make_head("Reviewer", ">Images", ">F1", "Against", ">F1 with each other", ">Alpha", ">With themselves")
    return Table(head, tuple(rows)) if rows else None


def _format_share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
