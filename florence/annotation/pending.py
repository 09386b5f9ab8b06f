"""What is still to be annotated, told from the footers of files alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from florence.annotation.annotators import AnnotatorVersion, looks_at
from florence.config import Settings
from florence.store import Store

MISSING = "missing.json"
"""In the working store: annotator@version → why the last run has left something, of those who have."""
READERS = 16
"""Footers read at once: in a bucket each takes a request or two."""


def pending(
    settings: Settings, store: Store, who: Sequence[AnnotatorVersion], shards: Iterable[str] | None = None
) -> dict[str, dict[str, int]]:
    """AnnotatorVersion's name → shard → images that it has still to annotate, of those shards that have some; ``shards``: look at these alone.

    Images are counted again of which an annotator has spoken without the claims of one that it reads, once all of those are complete.
    """
    names = store.stems("images") if shards is None else list(shards)
    total = {
        shard: rows
        for shard, (rows, _) in _counted(store, {shard: f"images/{shard}.parquet" for shard in names}).items()
    }
    complete: dict[str, set[str]] = {}
    result: dict[str, dict[str, int]] = {}
    for annotator in who:
        there = set(store.stems(f"coverage/{annotator.key}")) & total.keys()
        counted = _counted(store, {shard: f"coverage/{annotator.key}/{shard}.parquet" for shard in there})
        complete[annotator.name], left = set(), {}
        for shard in names:
            rows, unread = counted.get(shard, (0, 0))
            missing = total[shard] - rows if looks_at(settings, annotator, shard) else 0
            if not missing and not unread:
                complete[annotator.name].add(shard)
            if missing or (unread and all(shard in complete[name] for name in annotator.reads)):
                left[shard] = missing or unread
        result[annotator.name] = left
    return result


def _counted(store: Store, files: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Of each file its rows, and those whose column `unread` is not null."""
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(files, pool.map(lambda name: _rows(store, name), files.values()), strict=True))


def _rows(store: Store, name: str) -> tuple[int, int]:
    footer = store.footer(name)
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    return footer.num_rows, sum(
        c.num_values - c.statistics.null_count for c in columns if c.path_in_schema == "unread" and c.is_stats_set
    )
