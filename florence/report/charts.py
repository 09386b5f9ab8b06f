"""Charts as inline SVG, coloured by the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 14, 26


@dataclass(frozen=True, slots=True)
class Point:
    """A value of one round with its interval, where there is one."""

    round: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its title and legend."""

    title: str
    svg: Markup
    legend: Markup


@dataclass(frozen=True, slots=True)
class SharePoint:
    """A point of a reliability diagram: ``n`` labels of a mean ``stated`` confidence, and the share ``right`` of them.

    ``low``, ``high``: the interval of the share.
    """

    stated: float
    right: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Series:
    """A named line. ``style``: main, second or shuffled, a class of the style sheet."""

    name: str
    style: str
    points: tuple[Point, ...]


def choose_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers, 1, 2 or 5 times a power of ten apart, from at most ``low`` to at least ``high``."""
    if high <= low:
        low, high = low - 0.05, high + 0.05
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def draw_lines(title: str, series: Sequence[Series]) -> Markup:
    """Draw lines over rounds with interval bars; empty where no series has points."""
    lines = [s for s in series if s.points]
    if not lines:
        return Markup("")
    points = [p for s in lines for p in s.points]
    bounds = [v for p in points for v in (p.value, p.low, p.high) if v is not None]
    scale = choose_ticks(min(bounds), max(bounds))
    rounds = sorted({p.round for p in points})
    x = _make_scale(rounds[0], rounds[-1], LEFT + 22, WIDTH - RIGHT - 22)
    y = _make_scale(scale[0], scale[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title),
        Markup("<title>{}</title>").format(title),
    ]
    for tick in scale:
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(LEFT, WIDTH - RIGHT, y(tick), y(tick), LEFT - 6, y(tick) + 4, f"{tick:g}")
        )
    for number in rounds:
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">round {}</text>').format(
                x(number), HEIGHT - 8, number
            )
        )
    offset = -(len(lines) - 1) * 3.0
    for index, line in enumerate(lines):
        parts.append(_draw_line(line, x, y, offset + index * 6))
    return Markup("").join([*parts, Markup("</svg>")])


def draw_histogram(title: str, edges: Sequence[float], shares: Sequence[float]) -> Markup:
    """Draw bars of the ``shares`` (n,) between ``edges`` (n + 1,); empty without any."""
    if not shares:
        return Markup("")
    scale = choose_ticks(0, max(shares))
    y = _make_scale(scale[0], scale[-1], HEIGHT - BOTTOM, TOP)
    x = _make_scale(0, len(shares), LEFT + 6, WIDTH - RIGHT)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title),
        Markup("<title>{}</title>").format(title),
    ]
    for tick in scale:
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(LEFT, WIDTH - RIGHT, y(tick), y(tick), LEFT - 6, y(tick) + 4, f"{100 * tick:g} %")
        )
    for k, share in enumerate(shares):
        parts.append(
            Markup(
                '<rect class="column" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
            ).format(
                x(k) + 1,
                y(share),
                x(k + 1) - x(k) - 2,
                y(0) - y(share),
                f"{edges[k]:g} to {edges[k + 1]:g}: {100 * share:.1f} %",
            )
        )
    for k in range(0, len(edges), max(1, (len(edges) - 1) // 5)):
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                x(k), HEIGHT - 8, f"{edges[k]:.2g}"
            )
        )
    return Markup("").join([*parts, Markup("</svg>")])


def draw_reliability(title: str, points: Sequence[SharePoint]) -> Markup:
    """Draw the shares that are right over the stated confidences, beside the line on which both are the same.

    Empty without points.
    """
    if not points:
        return Markup("")
    x, y = _make_scale(0, 1, LEFT + 6, WIDTH - RIGHT - 6), _make_scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title),
        Markup("<title>{}</title>").format(title),
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
                '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
            ).format(
                LEFT,
                WIDTH - RIGHT,
                y(tick),
                y(tick),
                LEFT - 6,
                y(tick) + 4,
                f"{tick:g}",
                x(tick),
                HEIGHT - 8,
                f"{tick:g}",
            )
        )
    diagonal = Markup('<g class="shuffled"><polyline points="{:.1f},{:.1f} {:.1f},{:.1f}"/></g>')
    line = " ".join(f"{x(p.stated):.1f},{y(p.right):.1f}" for p in points)
    parts += [diagonal.format(x(0), y(0), x(1), y(1)), Markup('<g class="main"><polyline points="{}"/>').format(line)]
    for p in points:
        text = f"stated {p.stated:.2f}, right {p.right:.2f} ({p.low:.2f} to {p.high:.2f}) of {p.n} labels"
        parts.append(
            Markup(
                '<line class="interval" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
                '<circle cx="{0:.1f}" cy="{3:.1f}" r="4"><title>{4}</title></circle>'
            ).format(x(p.stated), y(p.low), y(p.high), y(p.right), text)
        )
    return Markup("").join([*parts, Markup("</g></svg>")])


def _make_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    def place(value: float) -> float:
        return (start + end) / 2 if high == low else start + (value - low) / (high - low) * (end - start)

    return place


def _draw_line(series: Series, x: Callable[[float], float], y: Callable[[float], float], shift: float) -> Markup:
    """Draw the series ``shift`` pixels to the right of where ``x`` places it."""
    points = " ".join(f"{x(p.round) + shift:.1f},{y(p.value):.1f}" for p in series.points)
    parts = [Markup('<g class="{}"><polyline points="{}"/>').format(series.style, points)]
    for p in series.points:
        if p.low is not None and p.high is not None:
            parts.append(
                Markup('<line class="interval" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>').format(
                    x(p.round) + shift, y(p.low), y(p.high)
                )
            )
        title = f"{series.name}, round {p.round}: {p.value:.3f}" + (
            f" ({p.low:.3f} to {p.high:.3f})" if p.low is not None and p.high is not None else ""
        )
        parts.append(
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
                x(p.round) + shift, y(p.value), title
            )
        )
    return Markup("").join([*parts, Markup("</g>")])


def draw_legend(series: Sequence[Series]) -> Markup:
    """Draw the names of series beside their colours."""
    items = [Markup('<span class="key {}">{}</span>').format(s.style, escape(s.name)) for s in series if s.points]
    return Markup("").join(items)
