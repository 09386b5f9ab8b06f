"""The page of a round, put together."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from florence.errors import DataError
from florence.report import charts, evidence, gallery, tables, unused
from florence.report.charts import Chart, Point, Series
from florence.report.facts import LoopFacts, RoundFacts
from florence.report.tables import Cell
from florence.store import Store

SECTIONS = (
    ("quality", "Label quality"),
    ("confidence", "Confidence"),
    ("scores", "Scores"),
    ("data", "Kept and dropped"),
    ("evidence", "Evidence"),
    ("unused", "What was not used"),
    ("statistics", "Statistics"),
    ("gallery", "Gallery"),
    ("change", "Before and after"),
    ("uncertain", "Least confident"),
    ("lineage", "Lineage and time"),
)
REJECTED_FILES = "rejected_files.parquet"
REJECTED_LIST = "rejected_files.csv"
"""The whole list of rejected files, in the snapshot and beside the page."""


def build_report(facts: LoopFacts, data: Store, out: Path) -> Path:
    """Write the page of the loop's last round and return its path.

    ``data``: the snapshot of that round. ``out``: a folder that gets ``round-<N>/index.html``, one self-contained file,
    the same page as ``index.html``, and the whole list of rejected files as ``round-<N>/rejected_files.csv``; pages of
    earlier rounds stay and are linked. Raises DataError without rounds,
    StoreError where the snapshot is damaged.
    """
    if not facts.rounds:
        raise DataError(f"loop {facts.loop_id} has no round to report; `florence loop` makes one")
    last = facts.rounds[-1]
    context = _build_context(facts, last, data, out)
    store = Store(str(out))
    if context["rejected_list"]:
        store.write_bytes(context["rejected_list"], unused.write_rejected_files(data.read_table(REJECTED_FILES)))
    # The page twice instead of a redirect: headless browsers that take a picture do not follow one.
    store.write_bytes(f"round-{last.round}/index.html", render_page("report.html", up="../", **context).encode())
    store.write_bytes("index.html", render_page("report.html", up="", **context).encode())
    return out / f"round-{last.round}" / "index.html"


def render_page(template: str, **context: Any) -> str:
    """Return a page of ``template``, with the style sheet as ``style``."""
    environment = Environment(
        loader=PackageLoader("florence.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("florence.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=Markup(style), **context)


def _build_context(facts: LoopFacts, last: RoundFacts, data: Store, out: Path) -> dict[str, Any]:
    images = gallery.SnapshotImages(data)
    labels = images.read_labels(last.round)
    earlier = [r for r in facts.rounds if r.round < last.round]
    before = images.read_labels(earlier[-1].round) if earlier else labels.slice(0, 0)
    changed, changed_cards = gallery.draw_changes(images, before, labels if earlier else before)
    statistics = data.read_json("statistics.json") if data.exists("statistics.json") else None
    return {
        "loop_id": facts.loop_id,
        "round": last,
        "sections": SECTIONS,
        "others": [r.round for r in earlier if (out / f"round-{r.round}" / "index.html").exists()],
        "tiles": _list_tiles(last),
        "quality_charts": _draw_quality_charts(facts),
        "quality": tables.tabulate_quality(facts),
        "gains": tables.tabulate_gains(last),
        **evidence.build_context(last),
        "score_charts": _draw_score_charts(facts) if len(facts.rounds) > 1 else [],
        "scores": tables.tabulate_scores(last),
        "comparison": tables.tabulate_comparison(last),
        "images": tables.tabulate_images(last),
        "counts": tables.tabulate_counts(last),
        "drops": tables.tabulate_drops(last),
        "files": unused.tabulate_files(last),
        "label_sets": unused.tabulate_label_sets(last),
        "losses": unused.tabulate_losses(last),
        "failed_images": unused.tabulate_failed_images(last),
        "rejected_list": f"round-{last.round}/{REJECTED_LIST}" if _has_rejected_files(data) else "",
        "annotator_activity": tables.tabulate_annotator_activity(last),
        "annotator_quality": tables.tabulate_annotator_quality(last),
        "reliability_by_name": tables.tabulate_reliability_by_name(last),
        "table2": tables.tabulate_table2(statistics) if statistics else None,
        "table3": tables.tabulate_table3(statistics) if statistics else None,
        "boxes": _draw_box_charts(statistics) if statistics else [],
        "galleries": gallery.build_galleries(images, labels),
        "previous": earlier[-1].round if earlier else None,
        "changed": changed,
        "changed_cards": changed_cards,
        "colours": {
            "removed": gallery.format_css(gallery.REMOVED),
            "added": gallery.format_css(gallery.ADDED),
            "same": gallery.format_css(gallery.SAME),
        },
        "churn": tables.tabulate_churn(last),
        "uncertain": gallery.draw_uncertain_images(
            images, labels, {(a.name, a.version) for a in last.annotator_quality}
        ),
        "lineage": tables.tabulate_lineage(last),
        "seconds": tables.tabulate_seconds(last),
    }


def _has_rejected_files(data: Store) -> bool:
    return data.exists(REJECTED_FILES) and data.footer(REJECTED_FILES).num_rows > 0


def _list_tiles(facts: RoundFacts) -> list[Cell]:
    tiles = [
        Cell(tables.format_count(sum(i.images for i in facts.images)), "images"),
        Cell(tables.format_count(sum(c.kept for c in facts.counts)), "labels kept"),
        Cell(tables.format_count(sum(c.dropped for c in facts.counts)), "labels dropped"),
        *_list_unused_tiles(facts),
    ]
    tiles += [
        Cell(tables.format_figure(q.value), f"{q.task} labels, {q.metric} on gold images")
        for q in facts.label_quality
        if q.split == "gold" and q.task == "<OD>"
    ]
    tiles += [
        Cell(tables.format_figure(s.value), f"{s.task} {s.metric}, held-out")
        for s in facts.scores
        if s.task in ("<OD>", "<REGION_TO_CATEGORY>")
    ]
    return [*tiles, Cell(facts.model_version or "none", "model version")]


def _list_unused_tiles(facts: RoundFacts) -> list[Cell]:
    """Return the numbers of files and labels that were not used, where there are any."""
    files = sum(unused.count for one in facts.listings for unused in one.unused)
    labels = sum(report.lost for report in facts.label_sets)
    tiles = ((files, "files not used"), (labels, "labels of label sets not used"))
    return [Cell(tables.format_count(number), name) for number, name in tiles if number]


def _draw_quality_charts(facts: LoopFacts) -> list[Chart]:
    found: dict[tuple[str, str, str], dict[str, list[Point]]] = {}
    for r in facts.rounds:
        for q in r.label_quality:
            lines = found.setdefault((q.task, q.metric, q.reference), {"gold": [], "train": []})
            lines.setdefault(q.split, []).append(Point(r.round, q.value, q.low, q.high))
    return [
        _make_chart(
            _make_title(task, metric, reference),
            [Series("gold", "main", tuple(lines["gold"])), Series("training", "second", tuple(lines["train"]))],
        )
        for (task, metric, reference), lines in sorted(found.items())
    ]


def _draw_score_charts(facts: LoopFacts) -> list[Chart]:
    found: dict[tuple[str, str, str], tuple[list[Point], list[Point]]] = {}
    for r in facts.rounds:
        for s in r.scores:
            students, baselines = found.setdefault((s.task, s.metric, s.reference), ([], []))
            if s.value is not None:
                students.append(Point(r.round, s.value, s.low, s.high))
            if s.shuffled is not None:
                baselines.append(Point(r.round, s.shuffled))
    return [
        _make_chart(
            _make_title(task, metric, reference),
            [Series("student", "main", tuple(students)), Series("shuffled images", "shuffled", tuple(baselines))],
        )
        for (task, metric, reference), (students, baselines) in found.items()
        if students
    ]


BOXES = {
    "area": "Area, share of the image",
    "aspect_ratio": "Width over height",
    "centre_x": "Centre, from the left",
    "centre_y": "Centre, from the top",
}
"""Keys of the boxes in statistics.json, and the titles of their plots."""


def _draw_box_charts(statistics: Mapping[str, Any]) -> list[Chart]:
    found = statistics.get("boxes", {})
    return [
        Chart(title, charts.draw_histogram(title, found[name]["edges"], found[name]["shares"]), Markup(""))
        for name, title in BOXES.items()
        if name in found
    ]


def _make_title(task: str, metric: str, reference: str) -> str:
    return f"{task} {metric}" if reference == "truth" else f"{task} {metric} ({reference})"


def _make_chart(title: str, series: list[Series]) -> Chart:
    return Chart(title, charts.draw_lines(title, series), charts.draw_legend(series))
