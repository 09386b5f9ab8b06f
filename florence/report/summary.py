"""A loop's rounds as a table for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from florence.report.facts import LoopFacts, RoundFacts
from florence.report.tables import format_figure, format_interval

WIDTH = 110
NAME, ROUND, MORE = 44, 9, 39
"""Characters of the first column, of each round's, and of the last round's interval, images and baseline."""
SHOWN = (WIDTH - NAME - MORE) // ROUND
"""Rounds that fit; the last ones are shown."""

Figures = Mapping[str, tuple[str, ...]]
"""What is measured → value, interval, images and shuffled-image baseline in one round."""


def summarize_rounds(facts: LoopFacts) -> str:
    """Return a table of at most 110 characters: labels, their quality, held-out scores and the decision of each round.

    Beside the figures of the last round stand their interval and images, and for scores the shuffled-image baseline.
    """
    if not facts.rounds:
        return "no round has been made"
    rounds = facts.rounds[-SHOWN:]
    lines = [_format_line("round", [str(r.round) for r in rounds], "last: interval", "images", "shuffled")]
    lines.append("-" * len(lines[0]))
    lines.append(_format_line("labels kept", [f"{sum(c.kept for c in r.counts):,}" for r in rounds]))
    lines.append(_format_line("labels dropped", [f"{sum(c.dropped for c in r.counts):,}" for r in rounds]))
    lines += _format_part("label quality on gold images", [_list_quality(r) for r in rounds])
    if any(r.label_quality_gain for r in rounds):
        lines += _format_part(
            "label quality gained since an earlier round (last column: without the student)",
            [_list_gains(r) for r in rounds],
        )
    if any(r.label_confidence for r in rounds):
        lines += _format_part(
            "calibration error of the confidences of labels (the number is of labels)",
            [_list_confidence(r) for r in rounds],
        )
    lines += _format_part("held-out scores", [_list_scores(r) for r in rounds])
    lines += ["", _format_line("decision", [r.decision or "none" for r in rounds])]
    for r in rounds:
        if r.reason:
            lines += textwrap.wrap(f"round {r.round}: {r.reason}", WIDTH, subsequent_indent="  ")
        if r.approval is not None:
            lines += textwrap.wrap(f"round {r.round}: {r.approval.describe()}", WIDTH, subsequent_indent="  ")
        if r.labels_kept is not None:
            verdict = "kept" if r.labels_kept else "set back"
            text = f"round {r.round}: the labels are {verdict}: {r.labels_reason}"
            lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    return "\n".join(line.rstrip() for line in lines)


def _list_quality(facts: RoundFacts) -> Figures:
    return {
        f"{q.task} {q.metric} ({q.reference})": (format_figure(q.value), format_interval(q.low, q.high), str(q.n))
        for q in facts.label_quality
        if q.split == "gold"
    }


def _list_gains(facts: RoundFacts) -> Figures:
    """Return the gains of annotation types that changed."""
    return {
        f"{g.task} {g.metric} (since {g.since})": (
            f"{g.value:+.3f}",
            format_interval(g.low, g.high),
            str(g.n),
            "" if g.without_student is None else f"{g.without_student:+.3f}",
        )
        for g in facts.label_quality_gain
        if g.split == "gold" and (g.value or g.low or g.high)
    }


def _list_confidence(facts: RoundFacts) -> Figures:
    """Return the calibration errors of all sources together; the count is of labels."""
    return {
        f"{c.task} ({c.reference})": (format_figure(c.error), "", str(c.n))
        for c in facts.label_confidence
        if not c.source
    }


def _list_scores(facts: RoundFacts) -> Figures:
    return {
        f"{s.task} {s.metric} ({s.reference})": (
            format_figure(s.value),
            format_interval(s.low, s.high),
            str(s.n),
            "" if s.shuffled is None else format_figure(s.shuffled),
        )
        for s in facts.scores
    }


def _format_part(title: str, rounds: Sequence[Figures]) -> list[str]:
    names = dict.fromkeys(name for figures in rounds for name in figures)
    if not names:
        return ["", f"{title}: none"]
    lines = [
        _format_line(
            f"  {name}",
            [figures.get(name, (format_figure(None),))[0] for figures in rounds],
            *rounds[-1].get(name, ("",))[1:],
        )
        for name in names
    ]
    return ["", title, *lines]


def _format_line(name: str, cells: Sequence[str], between: str = "", images: str = "", shuffled: str = "") -> str:
    short = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
    return (
        f"{short:<{NAME}}" + "".join(f"{cell:>{ROUND}}" for cell in cells) + f"{between:>18}{images:>10}{shuffled:>11}"
    )
