"""The results of an ablation: a table as CSV, Markdown and for the terminal, and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from florence.report.tables import format_figure, format_interval

NAME, COLUMN, ACROSS = 44, 9, 7
"""In the terminal: characters of the first column and of each variant's, and how many variants a table has."""
CIDER = "cider"
"""The metric with a scale of its own."""
UNTRAINED_MARK = "*"
"""Behind the score of a task that the variant was not trained on."""


@dataclass(frozen=True, slots=True)
class AblationRow:
    """The score of one variant on one task.

    ``variant``: its name. ``tasks`` … ``images``: how it was trained. ``set``: the task set of ``task``. ``trained``:
    whether the variant was trained on ``task``. The rest is as in metrics/scores.json.
    """

    variant: str
    tasks: str
    data_fraction: float
    freeze: str
    seed: int
    steps: int
    images: int
    task: str
    set: str
    trained: bool
    reference: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    examples: int
    invalid: float | None
    shuffled: float | None


Cells = Mapping[tuple[str, str], AblationRow]
"""(what is scored, variant) → row."""


def format_csv(rows: Iterable[AblationRow]) -> str:
    """Return every row with its interval as CSV; what is not known is empty."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [field.name for field in fields(AblationRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**asdict(row), "trained": "yes" if row.trained else "no"} for row in rows)
    return sink.getvalue()


def format_markdown(rows: Sequence[AblationRow]) -> str:
    """Return a Markdown table of values and intervals: a line for each task, a column for each variant."""
    variants, scored, cells = _pivot(rows)
    lines = ["| task | " + " | ".join(variants) + " |", "|---|" + "---|" * len(variants)]
    for what in scored:
        lines.append(
            f"| `{what}` | " + " | ".join(_cell(cells.get((what, variant)), wide=True) for variant in variants) + " |"
        )
    sizes = {row.variant: f"{row.steps} steps on {row.images} images" for row in rows}
    lines += ["", f"{UNTRAINED_MARK} The variant was not trained on this task. Intervals are 95%, over images.", ""]
    return "\n".join([*lines, *(f"- {variant}: {size}" for variant, size in sizes.items())]) + "\n"


def format_terminal(rows: Sequence[AblationRow]) -> str:
    """Return the values as a table of at most 110 characters; variants are numbered, and named below."""
    variants, scored, cells = _pivot(rows)
    parts = []
    for start in range(0, len(variants), ACROSS):
        shown = variants[start : start + ACROSS]
        parts.append(_line("held-out scores", [f"{start + number} " for number, _ in enumerate(shown, start=1)]))
        parts += [_line(what, [_cell(cells.get((what, variant))) for variant in shown]) for what in scored]
        parts.append("")
    parts += [f"{number:>3}  {variant}" for number, variant in enumerate(variants, start=1)]
    if not all(row.trained for row in rows):
        parts.append(f"  {UNTRAINED_MARK}  the variant was not trained on this task")
    return "\n".join(line.rstrip() for line in parts)


def _pivot(rows: Sequence[AblationRow]) -> tuple[list[str], list[str], Cells]:
    cells = {(_name_score(row), row.variant): row for row in rows}
    return (
        list(dict.fromkeys(row.variant for row in rows)),
        list(dict.fromkeys(_name_score(row) for row in rows)),
        cells,
    )


def _name_score(row: AblationRow) -> str:
    return f"{row.task} {row.metric} ({row.reference})" if row.reference else f"{row.task} (no example)"


def _cell(row: AblationRow | None, wide: bool = False) -> str:
    value = format_figure(None if row is None else row.value)
    mark = UNTRAINED_MARK if row is not None and row.value is not None and not row.trained else ""
    if wide:
        return f"{value}{mark} {format_interval(row.low, row.high) if row else ''}".rstrip()
    return value + (mark or " ")


def _line(name: str, cells: Sequence[str]) -> str:
    short = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
    return f"{short:<{NAME}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


# ---------------------------------------------------------------- the plot


def draw_plot(rows: Sequence[AblationRow], lines: bool = False) -> bytes:
    """Return a PNG with a panel for each task set and scale (CIDEr goes to 10, the others to 1).

    Bars have a colour for each variant and are pale where it was not trained on the task. ``lines``: draw lines over
    the share of images instead, where nothing else differs. Of several references the best one is shown.
    """
    from matplotlib.figure import Figure

    best: dict[tuple[str, str], AblationRow] = {}
    for row in rows:
        if row.value is not None:
            best.setdefault((row.task, row.variant), row)
    sets = list(dict.fromkeys((row.set, row.metric == CIDER) for row in best.values()))
    sets.sort(key=lambda panel: ({"image": 0, "region": 1, "pixel": 2}.get(panel[0], 3), panel))
    variants = list(dict.fromkeys(row.variant for row in rows))
    drawing = Figure(figsize=(11, 3.2 * max(len(sets), 1)), layout="constrained")
    for number, (name, cider) in enumerate(sets, start=1):
        axes = drawing.add_subplot(len(sets), 1, number)
        of_set = {key: row for key, row in best.items() if (row.set, row.metric == CIDER) == (name, cider)}
        (_lines if lines else _bars)(axes, of_set, variants)
        axes.set_title(f"{name} tasks" + (", CIDEr" if cider else ""), loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    if not lines:
        _legend(drawing, variants, has_untrained=not all(row.trained for row in best.values()))
    sink = io.BytesIO()
    drawing.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()


def _bars(axes: Any, cells: Cells, variants: Sequence[str]) -> None:
    tasks = list(dict.fromkeys(task for task, _ in cells))
    width = 0.8 / len(variants)
    for number, variant in enumerate(variants):
        for position, name in enumerate(tasks):
            row = cells.get((name, variant))
            if row is not None:
                x = position - 0.4 + (number + 0.5) * width
                pale = dict(alpha=1.0 if row.trained else 0.35, hatch=None if row.trained else "//")
                axes.bar(
                    x,
                    row.value,
                    width * 0.92,
                    color=f"C{number % 10}",
                    yerr=_error(row),
                    error_kw={"lw": 0.8, "ecolor": "0.3"},
                    **pale,
                )
    axes.set_xticks(
        range(len(tasks)),
        [_below(next(row for (task, _), row in cells.items() if task == name)) for name in tasks],
        fontsize="x-small",
    )


def _legend(drawing: Any, variants: Sequence[str], *, has_untrained: bool) -> None:
    """Draw the variants' colours above the panels."""
    from matplotlib.patches import Patch

    keys = [Patch(facecolor=f"C{number % 10}", label=variant) for number, variant in enumerate(variants)]
    keys += [Patch(facecolor="0.8", hatch="//", label="not trained on it")] if has_untrained else []
    drawing.legend(handles=keys, loc="outside upper center", ncols=4, fontsize="small", frameon=False)


def _lines(axes: Any, cells: Cells, variants: Sequence[str]) -> None:
    for number, name in enumerate(dict.fromkeys(task for task, _ in cells)):
        found = sorted((row for (task, _), row in cells.items() if task == name), key=lambda row: row.data_fraction)
        errors = [[pair[side][0] if (pair := _error(row)) else 0.0 for row in found] for side in (0, 1)]
        label = _below(found[0]).replace("\n", " ")
        axes.errorbar(
            [row.data_fraction for row in found],
            [row.value for row in found],
            yerr=errors,
            marker="o",
            lw=1.5,
            elinewidth=0.8,
            color=f"C{number % 10}",
            linestyle="-" if number < 10 else "--",
            label=label,
        )
    shares = sorted({row.data_fraction for row in cells.values()})
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("share of the training images")
    axes.legend(fontsize="x-small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _error(row: AblationRow) -> list[list[float]] | None:
    """Return the interval as lengths below and above the value."""
    if row.value is None or row.low is None or row.high is None:
        return None
    return [[max(row.value - row.low, 0.0)], [max(row.high - row.value, 0.0)]]


def _below(row: AblationRow) -> str:
    """Return a task's name and metric in lines that fit below a bar."""
    words, lines = row.task.strip("<>").lower().split("_"), [""]
    for word in words:
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < 12 else [*lines, word]
    return "\n".join([*lines, f"({row.metric})"])
