"""The tables of the report, made of a loop's facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence.records import CAPTIONS
from florence.report.facts import AnnotatorQuality, LoopFacts, RoundFacts, TaskScore


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text, a smaller remark after it, a class of the style sheet, and a bar filled to a share (0 … 1)."""

    text: str
    small: str = ""
    style: str = ""
    bar: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A head and its rows."""

    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


def format_figure(value: float | None, digits: int = 3) -> str:
    """Return a figure with ``digits`` decimals; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def format_count(value: int) -> str:
    """Return a count with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def format_interval(low: float | None, high: float | None) -> str:
    """Return the interval in brackets; empty where there is none."""
    return "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def make_head(*names: str) -> tuple[Cell, ...]:
    """Return the head of a table; a name that starts with > is of a column of numbers."""
    return tuple(Cell(name.lstrip(">"), style="n" if name.startswith(">") else "") for name in names)


def number_cell(text: str, small: str = "", style: str = "") -> Cell:
    """Return a cell of a column of numbers."""
    return Cell(text, small, f"n {style}".strip())


def tabulate_quality(facts: LoopFacts) -> Table | None:
    """Return label quality by round, a row for each measure and split."""
    rounds = [r for r in facts.rounds if r.label_quality]
    if not rounds:
        return None
    keys = sorted({(q.split, q.task, q.metric, q.reference) for r in rounds for q in r.label_quality})
    rows = []
    for key in keys:
        cells = []
        for r in rounds:
            found = [q for q in r.label_quality if (q.split, q.task, q.metric, q.reference) == key]
            cells.append(
                number_cell(
                    format_figure(found[0].value),
                    f"{format_interval(found[0].low, found[0].high)} n {found[0].n}".strip(),
                )
                if found
                else number_cell("–")
            )
        split, task, metric, reference = key
        rows.append((Cell(task), Cell(metric), Cell(split), Cell(reference), *cells))
    return Table(
        make_head("Annotation type", "Measure", "Split", "Reference", *(f">Round {r.round}" for r in rounds)),
        tuple(rows),
    )


def tabulate_gains(facts: RoundFacts) -> Table | None:
    """Return the gains of this round's labels since an earlier round."""
    rows = []
    for g in facts.label_quality_gain:
        rises, falls = g.low is not None and g.low > 0, g.high is not None and g.high < 0
        # a difference of rounding is none
        style = "" if abs(g.value) < 0.0005 else "up" if rises else "down" if falls else ""
        rows.append(
            (
                Cell(g.task),
                Cell(g.metric),
                Cell(g.split),
                Cell(f"round {g.since}"),
                number_cell(f"{g.value:+z.3f}", format_interval(g.low, g.high), style),
                number_cell(format_count(g.n)),
                number_cell("–" if g.without_student is None else f"{g.without_student:+z.3f}"),
            )
        )
    head = make_head("Annotation type", "Measure", "Split", "Since", ">Gain", ">Images", ">Without the student's vote")
    return Table(head, tuple(rows)) if rows else None


def tabulate_scores(facts: RoundFacts) -> Table | None:
    """Return the model's scores with their references and shuffled-image baselines."""
    rows = tuple(
        (
            Cell(s.task),
            Cell(s.metric),
            number_cell(format_figure(s.value), format_interval(s.low, s.high)),
            number_cell(format_figure(s.shuffled)),
            number_cell(format_count(s.n)),
            number_cell(f"{100 * s.invalid:.2f} %"),
            _calibration_cell(s),
            Cell(s.reference),
        )
        for s in facts.scores
    )
    return (
        Table(
            make_head(
                "Task",
                "Measure",
                ">Score",
                ">Shuffled images",
                ">Images",
                ">Invalid",
                ">Calibration error",
                "Reference",
            ),
            rows,
        )
        if rows
        else None
    )


OPPONENTS = {
    "champion": "champion",
    "anchor": "first champion",
    "initial": "what training began with",
    "shuffled": "shuffled images",
}
"""What a model is compared with, in words."""


def tabulate_comparison(facts: RoundFacts) -> Table | None:
    """Return what the decision about the model rests on: scores that are tested first, then the others."""
    rows = []
    for c in sorted(facts.comparison, key=lambda c: (c.locked, c.bound is None)):
        passes = c.bound is None or c.least is None or c.bound > c.least
        verdict = "decides nothing" if c.bound is None else "passes" if passes else "does not pass"
        shown = c.bound is not None and c.least is not None
        rows.append(
            (
                Cell(c.task),
                Cell(OPPONENTS.get(c.against, c.against)),
                number_cell(format_figure(c.before)),
                number_cell(format_figure(c.after)),
                number_cell(f"{c.after - c.before:+z.3f}", format_interval(c.low, c.high)),
                number_cell(f"{c.bound:+z.3f}" if shown else "–"),
                number_cell(f"{c.least:+z.3f}" if shown else "–"),
                number_cell(format_count(c.n)),
                Cell(c.reference),
                Cell("locked: " + verdict if c.locked else verdict, "", "" if passes else "down"),
            )
        )
    columns = (">Before", ">Now", ">Change", ">At least", ">Needed above", ">Images", "Reference", "Verdict")
    return Table(make_head("Task", "Against", *columns), tuple(rows)) if rows else None


def _calibration_cell(score: TaskScore) -> Cell:
    """Return the calibration error of confidences, and beneath it that of the scores themselves."""
    if score.calibration is None:
        return number_cell("–")
    scores, confidences = score.calibration
    twice = "" if score.second_look is None else f", both looks {score.second_look:.3f}"
    return number_cell(format_figure(confidences), f"scores {scores:.3f}{twice}")


def tabulate_images(facts: RoundFacts) -> Table | None:
    """Return the images by source and split."""
    if not facts.images:
        return None
    splits = sorted({i.split for i in facts.images}, key=lambda s: (s != "train", s))
    number: Counter[tuple[str, str]] = Counter()
    for i in facts.images:
        number[i.source, i.split] += i.images
    rows = []
    for source in sorted({i.source for i in facts.images}):
        per = [number[source, split] for split in splits]
        rows.append((Cell(source), *(number_cell(format_count(n)) for n in per), number_cell(format_count(sum(per)))))
    return Table(make_head("Source", *(f">{s.replace('_', ' ')}" for s in splits), ">all"), tuple(rows))


def tabulate_counts(facts: RoundFacts) -> Table | None:
    """Return the labels kept and dropped by annotation type."""
    rows = []
    for c in facts.counts:
        total = c.kept + c.dropped
        rows.append(
            (
                Cell(c.task),
                number_cell(format_count(c.kept)),
                number_cell(format_count(c.dropped)),
                Cell("", bar=c.kept / total if total else None),
            )
        )
    return Table(make_head("Annotation type", ">Kept", ">Dropped", "Share kept"), tuple(rows)) if rows else None


def tabulate_drops(facts: RoundFacts) -> Table | None:
    """Return dropped labels by annotation type and reason, the most frequent first."""
    ordered = sorted(facts.drops, key=lambda d: (-d.count, d.task, d.reason))
    rows = tuple((Cell(d.reason.replace("_", " ")), Cell(d.task), number_cell(format_count(d.count))) for d in ordered)
    return Table(make_head("Reason", "Annotation type", ">Labels"), rows) if rows else None


def tabulate_annotator_activity(facts: RoundFacts) -> Table | None:
    """Return the work and usage of annotators; without columns of cost where none has any."""
    has_usage = any(a.calls or a.tokens or a.cost for a in facts.annotator_activity)
    rows = []
    for a in facts.annotator_activity:
        cells = (
            Cell(a.name, a.version),
            Cell(a.role),
            Cell(a.family),
            Cell(a.device),
            number_cell(format_count(a.batch_size)),
            number_cell(format_count(a.images)),
        )
        cost = (
            (
                number_cell(format_count(a.calls)),
                number_cell(format_count(a.tokens)),
                number_cell(format_figure(a.cost, 2)),
            )
            if has_usage
            else ()
        )
        rows.append(
            (
                *cells,
                number_cell(format_count(a.missing), a.missing_reason, "down why" if a.missing else ""),
                number_cell(format_count(a.claims)),
                *cost,
            )
        )
    head = make_head(
        "Annotator",
        "Role",
        "Family",
        "Device",
        ">Batch",
        ">Images",
        ">Missing",
        ">Claims",
        *((">Calls", ">Tokens", ">Cost") if has_usage else ()),
    )
    return Table(head, tuple(rows)) if rows else None


def tabulate_annotator_quality(facts: RoundFacts) -> Table | None:
    """Return the claims of annotators by annotation type: estimated reliability, and quality on gold images."""
    by_scores = {
        (name, one.task)
        for one in facts.weighing
        if one.basis == "scores" and one.task not in CAPTIONS
        for names in one.families
        for name in names
    }
    rankers = {a.name for a in facts.annotator_activity if a.role == "ranker"}
    rows = tuple(
        (
            Cell(a.name, a.version),
            Cell(a.task),
            number_cell(format_count(a.claims)),
            number_cell(format_count(a.failed)),
            _reliability_cell(a, (a.name, a.task) in by_scores, a.name in rankers),
            number_cell(format_figure(a.measured), a.metric.replace("_", " ")),
        )
        for a in facts.annotator_quality
    )
    return (
        Table(
            make_head("Annotator", "Annotation type", ">Claims", ">Images failed", ">Reliability", ">On gold images"),
            rows,
        )
        if rows
        else None
    )


def _reliability_cell(quality: AnnotatorQuality, by_scores: bool, is_ranker: bool) -> Cell:
    """Return the reliability, or that it was not estimated and what decides then; a ranker has no vote."""
    if is_ranker:
        return number_cell("no vote")
    if quality.reliability is not None:
        return number_cell(format_figure(quality.reliability))
    return number_cell("not estimated", "its scores decide" if by_scores else "", "down")


def tabulate_reliability_by_name(facts: RoundFacts) -> Table | None:
    """Return the reliability of annotators by object name: as estimated, and beneath it on gold images."""
    names = list(dict.fromkeys(n.name for n in facts.reliability_by_name))
    annotators = list(dict.fromkeys(n.annotator for n in facts.reliability_by_name))
    found = {(n.annotator, n.name): n for n in facts.reliability_by_name}
    rows = []
    for name in names:
        row = [found.get((annotator, name)) for annotator in annotators]
        cells = [
            number_cell(format_figure(n.estimated, 2), "" if n.measured is None else f"{n.measured:.2f} of {n.n}")
            if n
            else number_cell("–")
            for n in row
        ]
        rows.append((Cell(name), *cells))
    return Table(make_head("Object", *(f">{annotator}" for annotator in annotators)), tuple(rows)) if rows else None


def tabulate_churn(facts: RoundFacts) -> Table | None:
    """Return the changes of labels since the round before, by annotation type."""
    rows = []
    for c in facts.churn:
        without = "–" if c.without_student is None else f"{100 * c.without_student:.1f} %"
        rows.append(
            (
                Cell(c.task),
                number_cell(f"{100 * c.value:.1f} %"),
                *(number_cell(format_count(n)) for n in (c.same, c.renamed, c.moved, c.added, c.removed)),
                number_cell(without),
            )
        )
    head = make_head(
        "Annotation type",
        ">Changed",
        ">As before",
        ">Renamed",
        ">Moved",
        ">Added",
        ">Removed",
        ">Changed without the student's vote",
    )
    return Table(head, tuple(rows)) if rows else None


def tabulate_seconds(facts: RoundFacts) -> Table | None:
    """Return the time by stage."""
    if not facts.seconds:
        return None
    total = sum(facts.seconds.values())
    rows = [(Cell(stage), number_cell(f"{value:,.1f} s")) for stage, value in facts.seconds.items()]
    return Table(make_head("Stage", ">Time"), (*rows, (Cell("all"), number_cell(f"{total:,.1f} s"))))


def tabulate_lineage(facts: RoundFacts) -> Table:
    """Return the lineage, from the model back to the data."""
    rows = (
        ("Registered model version", facts.model_version),
        ("Tracking run", facts.run_id),
        ("Snapshot", facts.snapshot_id),
        ("Parent snapshot", facts.parent),
        ("DVC hash of data/", facts.dvc_hash),
        ("Git commit", facts.git_commit),
    )
    return Table(make_head("What", "Which"), tuple((Cell(name), Cell(value or "none")) for name, value in rows))


TYPE_NAMES = {
    "<CAPTION>": "Text, brief",
    "<DETAILED_CAPTION>": "Text, detailed",
    "<MORE_DETAILED_CAPTION>": "Text, more detailed",
    "<OD>": "Region–text, phrase",
    "<DENSE_REGION_CAPTION>": "Region–text, brief",
    "<OCR_WITH_REGION>": "Region–text, OCR",
    "<CAPTION_TO_PHRASE_GROUNDING>": "Text–phrase–region",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "Expression–mask",
}
PAPER_2: Mapping[str, tuple[str, ...]] = {
    "<CAPTION>": ("235M", "235M", "7.95", "–", "–", "–"),
    "<DETAILED_CAPTION>": ("126M", "126M", "31.65", "–", "–", "–"),
    "<MORE_DETAILED_CAPTION>": ("126M", "126M", "70.53", "–", "–", "–"),
    "<OD>": ("126M", "126M", "–", "681M", "5.42", "1.19"),
    "<DENSE_REGION_CAPTION>": ("126M", "126M", "–", "681M", "5.42", "2.55"),
}
"""Table 2 of the paper: images, texts, tokens per text, regions, regions per image, tokens per region."""
PAPER_TRIPLETS: Mapping[str, tuple[str, ...]] = {
    "<CAPTION>": ("235M", "235M", "7.95", "1007M", "4.27", "1.93"),
    "<DETAILED_CAPTION>": ("126M", "126M", "31.65", "1289M", "10.25", "1.49"),
    "<MORE_DETAILED_CAPTION>": ("126M", "126M", "70.53", "1278M", "10.17", "1.35"),
}
"""The same of its triplets, by the text that the phrases are in."""
PAPER_3: Mapping[str, tuple[str, str, str]] = {
    "objects": ("3.23", "13.31", "28.06"),
    "attributes": ("2.80", "7.27", "16.25"),
    "actions": ("0.58", "4.21", "8.76"),
    "proper_nouns": ("1.10", "2.40", "2.41"),
    "object_complexity": ("2.80", "4.00", "4.02"),
    "action_complexity": ("1.14", "3.63", "4.38"),
}
"""Table 3 of the paper: means per text for brief, detailed and more detailed texts."""
COLUMNS_2 = ("images", "texts", "tokens_per_text", "regions", "regions_per_image", "tokens_per_region")


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    return format_count(value) if isinstance(value, int) else f"{value:.2f}"


def tabulate_table2(statistics: Mapping[str, Any]) -> Table:
    """Return Table 2 of the paper with this snapshot's figures, the paper's beneath each."""
    rows = []
    for task, name in TYPE_NAMES.items():
        ours = statistics.get("annotation_types", {}).get(task)
        if ours is not None:
            rows.append(_make_row2(name, ours, PAPER_2.get(task, ("–",) * len(COLUMNS_2))))
        if task == "<CAPTION_TO_PHRASE_GROUNDING>":
            triplets = statistics.get("triplets", {})
            rows += [
                _make_row2(f"{name}, {TYPE_NAMES[on].partition(', ')[2]}", triplets[on], theirs)
                for on, theirs in PAPER_TRIPLETS.items()
                if on in triplets
            ]
    names = [number_cell(c.replace("_", " ")) for c in COLUMNS_2]
    return Table((Cell("Annotation"), *names), tuple(rows))


def _make_row2(name: str, ours: Mapping[str, Any], theirs: Sequence[str]) -> tuple[Cell, ...]:
    return (Cell(name), *_pair_cells((_format_value(ours.get(c)) for c in COLUMNS_2), theirs))


def tabulate_table3(statistics: Mapping[str, Any]) -> Table:
    """Return Table 3 of the paper with this snapshot's means per text, the paper's beneath each."""
    rows = []
    for key, theirs in PAPER_3.items():
        ours = [_format_value(statistics.get("texts", {}).get(task, {}).get(key)) for task in CAPTIONS]
        rows.append((Cell(key.replace("_", " ")), *_pair_cells(ours, theirs)))
    without = [_format_value(statistics.get("texts", {}).get(task, {}).get("ungrounded")) for task in CAPTIONS]
    rows.append((Cell("texts without a grounded phrase"), *_pair_cells(without, ("–",) * len(CAPTIONS))))
    names = [number_cell(c) for c in ("brief", "detailed", "more detailed")]
    return Table((Cell("Per text"), *names), tuple(rows))


def _pair_cells(ours: Iterable[str], theirs: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(number_cell(a, b, "both") for a, b in zip(ours, theirs, strict=True))
