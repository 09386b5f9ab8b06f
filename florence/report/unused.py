"""What was not used: files by source, images and labels of label sets, and images that annotators failed on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

import pyarrow as pa

from florence.label_report import LabelSetReport, LossCount, name_unit
from florence.report.facts import RoundFacts
from florence.report.tables import Cell, Table, format_count, make_head, number_cell


def tabulate_files(facts: RoundFacts) -> Table | None:
    """Return the files of each source: those that are used, and the others by reason."""
    rows: list[tuple[Cell, ...]] = []
    for one in facts.listings:
        rows.append((Cell(one.source, one.address), Cell("all files"), number_cell(format_count(one.files)), Cell("")))
        rows.append((Cell(""), Cell("images"), number_cell(format_count(one.images)), Cell("")))
        if one.texts:
            rows.append((Cell(""), Cell("texts read beside images"), number_cell(format_count(one.texts)), Cell("")))
        rows += [
            (
                Cell(""),
                Cell(_name_reason(unused.reason), unused.remedy, "lines"),
                number_cell(format_count(unused.count), style="down"),
                _list_cell(unused.examples, unused.count),
            )
            for unused in one.unused
        ]
        if one.gone:
            reason = Cell("images of before that are no longer there")
            rows.append(
                (Cell(""), reason, number_cell(format_count(one.gone)), _list_cell(one.gone_examples, one.gone))
            )
        if one.left:
            reason = Cell("images of a folder or source that is not read any more")
            rows.append(
                (Cell(""), reason, number_cell(format_count(one.left)), _list_cell(one.left_examples, one.left))
            )
    return Table(make_head("Source", "Files", ">Number", "Such as"), tuple(rows)) if rows else None


def _name_reason(reason: str) -> str:
    """Return a reason as people read it; the ending of a file stays as it is."""
    return reason if ": " in reason else reason.replace("_", " ")


def tabulate_label_sets(facts: RoundFacts) -> Table | None:
    """Return what each label set knows of the images: those labelled, looked at and empty, or not looked at."""
    rows = tuple(_row_of_set(report) for report in facts.label_sets)
    head = make_head(
        "Annotator",
        "Label set",
        ">Images",
        ">Labelled",
        ">Looked at and empty",
        ">Not listed",
        ">Refused",
        ">In the set",
        ">Not here",
    )
    return Table(head, rows) if rows else None


def _row_of_set(report: LabelSetReport) -> tuple[Cell, ...]:
    refused = sum(loss.count for loss in report.refused)
    numbers = (report.images, report.labelled, report.empty, report.not_listed, refused)
    remedy = report.error or report.remedy
    return (
        Cell(report.annotator, "people" if report.human else ""),
        Cell(f"{report.format} {report.address}".strip(), remedy, "lines" if report.known else "lines down"),
        *(number_cell(format_count(number)) for number in numbers),
        number_cell(format_count(report.listed)),
        number_cell(format_count(report.listed - report.matched)),
    )


def tabulate_losses(facts: RoundFacts) -> Table | None:
    """Return the labels, images and files of each label set that are not used, by reason."""
    rows = []
    for report in facts.label_sets:
        used, unread = sum(report.used.values()), report.unread.items()
        rows.append(
            (
                Cell(report.annotator),
                Cell("label"),
                Cell("all labels"),
                number_cell(format_count(used + report.lost)),
                Cell(""),
            )
        )
        rows.append((Cell(""), Cell("label"), Cell("used"), number_cell(format_count(used)), Cell("")))
        losses = [LossCount("label", f"{task}: a type that is not read", count) for task, count in unread]
        losses += sorted(report.losses, key=lambda loss: loss.unit != "label")
        losses += [LossCount("image", loss.reason, loss.count, loss.examples) for loss in report.refused]
        elsewhere = report.listed - report.matched
        for unit, number, reason, names in (
            ("image", report.not_listed, "the set does not list it", report.not_listed_examples),
            ("image of the set", elsewhere, "it is not here", report.unmatched_examples),
        ):
            if number:
                losses.append(LossCount(unit, reason, number, names))
        rows += [
            (
                Cell(""),
                Cell(name_unit(loss.unit)),
                Cell(loss.reason),
                number_cell(format_count(loss.count), style="down"),
                _list_cell(loss.examples, loss.count),
            )
            for loss in losses
        ]
    return Table(make_head("Annotator", "What", "Reason", ">Number", "Such as"), tuple(rows)) if rows else None


def tabulate_failed_images(facts: RoundFacts) -> Table | None:
    """Return the images that annotators could not annotate, by reason."""
    rows = tuple(
        (
            Cell(one.annotator),
            Cell(one.reason),
            number_cell(format_count(one.count), style="down"),
            _list_cell(one.examples, one.count),
        )
        for one in facts.failed_images
    )
    return Table(make_head("Annotator", "Reason", ">Images", "Such as"), rows) if rows else None


def write_rejected_files(rejected: pa.Table) -> bytes:
    """Return the whole list of rejected files as CSV, in UTF-8 with a mark that spreadsheets know it by."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(rejected.column_names)
    writer.writerows(zip(*rejected.to_pydict().values(), strict=True))
    return text.getvalue().encode("utf-8-sig")


def _list_cell(examples: Iterable[str], count: int) -> Cell:
    """Return a cell with one example a line; how many more there are stands behind them."""
    shown = list(examples)
    more = count - len(shown)
    return Cell("\n".join(shown), f"and {format_count(more)} more" if shown and more > 0 else "", "lines")
