"""Tables 2 and 3 of the Florence-2 paper for each source of a snapshot, beside the paper's own figures for FLD-5B.

python benchmarks/tables.py data
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from _common import print_table

from florence.rounds import list_labels
from florence.workspace.layout import read_images


def statistics_by_source(uri: str) -> dict[str, dict[str, Any]]:
    """Return the statistics of each source's images, by the labels of the snapshot's last round."""
    import pyarrow.compute as pc

    from florence.engine.statistics import compute_statistics
    from florence.store import Store

    data = Store(uri)
    if not (tables := list_labels(data)):
        sys.exit(f"{uri} has no labels: name the folder of a snapshot, as `make demo` leaves one in data/")
    labels, images = data.read_table(tables[max(tables)]), read_images(data)
    return {
        source: compute_statistics(labels, images.filter(pc.equal(images["source"], source)).combine_chunks())
        for source in sorted(set(images["source"].to_pylist()))
    }


def format_rows(table: Any) -> list[list[str]]:
    """Format a table of the report as rows of text, each figure followed by the paper's in brackets."""

    def format_cell(cell: Any) -> str:
        paper = f" ({cell.small})" if cell.small not in ("", "–") else ""
        return f"{cell.text}{paper}".strip()

    return [[cell.text for cell in table.head], *([format_cell(cell) for cell in row] for row in table.rows)]


def main() -> None:
    """Print both tables of every source."""
    from florence.report.tables import tabulate_table2, tabulate_table3

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", nargs="?", default="data", help="the snapshot's folder or s3:// address (default: data)"
    )
    for source, figures in statistics_by_source(parser.parse_args().data).items():
        print_table(f"{source}: annotations (the paper's Table 2 in brackets)", format_rows(tabulate_table2(figures)))
        print_table(
            f"{source}: means per text (the paper's Table 3 in brackets)", format_rows(tabulate_table3(figures))
        )


if __name__ == "__main__":
    main()
