"""How many images are still to be annotated, from the footers of Parquet files alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from florence.store import Store
from florence.workspace.annotate.annotators import AnnotatorVersion, is_assigned
from florence.workspace.base import Workspace

MISSING = "missing.json"
"""In the working store: annotator@version → why the last run left images missing, of annotators that left some."""
READERS = 16
"""Footers read at once: in a bucket each takes a request or two."""


def count_missing(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], shards: Iterable[str] | None = None
) -> dict[str, dict[str, int]]:
    """Return annotator's name → shard → images that it has still to annotate, of shards that have some.

    ``shards``: look at these alone.

    An image is counted again that an annotator finished without the claims of one that it depends on, once all of those
    are complete.
    """
    store = workspace.store
    names = store.stems("images") if shards is None else list(shards)
    images = _count_rows(store, {shard: f"images/{shard}.parquet" for shard in names})
    total = {shard: rows for shard, (rows, _) in images.items()}
    complete: dict[str, set[str]] = {}
    result: dict[str, dict[str, int]] = {}
    for annotator in annotators:
        present = set(store.stems(f"coverage/{annotator.key}")) & total.keys()
        counted = _count_rows(store, {shard: f"coverage/{annotator.key}/{shard}.parquet" for shard in present})
        complete[annotator.name], left = set(), {}
        for shard in names:
            rows, unread = counted.get(shard, (0, 0))
            missing = total[shard] - rows if is_assigned(workspace.settings, annotator, shard) else 0
            if not missing and not unread:
                complete[annotator.name].add(shard)
            if missing or (unread and all(shard in complete[name] for name in annotator.depends_on)):
                left[shard] = missing or unread
        result[annotator.name] = left
    return result


def _count_rows(store: Store, files: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Return the rows of each file, and how many of them have a value in the column `unread`."""
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(files, pool.map(lambda name: _count_file(store, name), files.values()), strict=True))


def _count_file(store: Store, name: str) -> tuple[int, int]:
    footer = store.footer(name)
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    return footer.num_rows, sum(
        c.num_values - c.statistics.null_count for c in columns if c.path_in_schema == "unread" and c.is_stats_set
    )
