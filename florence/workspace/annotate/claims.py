"""One annotator's claims about the images of a shard, and its coverage, which says which images it has finished."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from florence.coverage import COVERAGE
from florence.records import ANNOTATIONS, Annotation, table_annotations
from florence.store import Store
from florence.workspace.annotate.annotators import AnnotatorVersion

RowRange = tuple[pa.Table, int, int]
"""Rows of a table, from the first to one past the last.

A slice of Arrow's takes more memory than the rows of one image.
"""


def group_by_image(table: pa.Table, order: Mapping[str, int]) -> dict[str, RowRange]:
    """Return the rows of each image that is in ``order``, in their own order; images without a row are left out."""
    positions = np.asarray([order.get(image, -1) for image in table["image_id"].to_pylist()], np.int64)
    if len(positions) and (np.diff(positions) < 0).any():
        arranged = np.argsort(positions, kind="stable")
        table, positions = table.take(arranged), positions[arranged]
    edges = [*np.flatnonzero(np.diff(positions, prepend=-2)).tolist(), len(positions)]
    return {
        table["image_id"][start].as_py(): (table, start, end) for start, end in pairwise(edges) if positions[start] >= 0
    }


def _join_ranges(ranges: Iterable[RowRange]) -> pa.Table:
    """Return all of these rows in one table of schema `ANNOTATIONS`; neighbouring ranges are taken in one piece."""
    pieces: list[RowRange] = []
    for table, start, end in ranges:
        if pieces and pieces[-1][0] is table and pieces[-1][2] == start:
            pieces[-1] = (table, pieces[-1][1], end)
        else:
            pieces.append((table, start, end))
    return pa.concat_tables(
        [table.slice(start, end - start) for table, start, end in pieces] or [ANNOTATIONS.empty_table()]
    )


def list_annotations(rows: Mapping[str, RowRange], image_ids: Iterable[str]) -> dict[str, list[Annotation]]:
    """Return the annotations of each of these images that has any, from the result of `group_by_image`."""
    result: dict[str, list[Annotation]] = {}
    for row in table_annotations(_join_ranges(rows[image] for image in image_ids if image in rows)):
        result.setdefault(row.image_id, []).append(row)
    return result


class ShardClaims:
    """An annotator's claims and coverage of one shard, as they are in the store and as they grow.

    ``order``: image id → position in the shard.

    Claims are read when they are first needed. Claims about images without coverage are what a killed run left behind:
    they are dropped.
    """

    def __init__(self, store: Store, annotator: AnnotatorVersion, shard: str, order: Mapping[str, int]) -> None:
        self.annotator, self._store, self._order = annotator, store, order
        self._name = f"{annotator.key}/{shard}.parquet"
        rows = store.read_table(f"coverage/{self._name}").to_pylist() if store.exists(f"coverage/{self._name}") else []
        self.covered: dict[str, dict[str, Any]] = {row["image_id"]: row for row in rows if row["image_id"] in order}
        self._claims: dict[str, RowRange] | None = None
        self._changed = False

    def unread(self, image_id: str) -> frozenset[str]:
        """Return the names of the annotators whose claims it had not been given when it finished a covered image."""
        names = self.covered[image_id].get("unread") if image_id in self.covered else None
        return frozenset(names.split(",")) if names else frozenset()

    def load(self) -> None:
        """Read the claims from the store, unless that is done; those about images without coverage are dropped."""
        self._rows()

    def _rows(self) -> dict[str, RowRange]:
        if self._claims is None:
            name = f"claims/{self._name}"
            found: dict[str, RowRange] = {}
            if self._store.exists(name):
                # Parquet calls the entries of lists by another name than Arrow, and would write that name.
                found = group_by_image(self._store.read_table(name).cast(ANNOTATIONS), self._order)
            self._claims = {image: rows for image, rows in found.items() if image in self.covered}
            self._changed |= len(self._claims) < len(found)
        return self._claims

    def cover(
        self,
        image_id: str,
        claims: RowRange | None,
        error: str = "",
        unread: Iterable[str] = (),
        looked_at: Sequence[str] | None = None,
    ) -> None:
        """Finish an image with its claims (rows of schema `ANNOTATIONS`) or the error that there are instead.

        Earlier claims about it are replaced. ``looked_at``: annotation types; None for all that the annotator claims.
        """
        rows = self._rows()
        rows.pop(image_id, None)
        count = 0 if claims is None else claims[2] - claims[1]
        if claims is not None and count:
            rows[image_id] = claims
        self.covered[image_id] = {
            "image_id": image_id,
            "annotator": self.annotator.name,
            "version": self.annotator.version,
            "claims": count,
            "error": error,
            "unread": ",".join(sorted(unread)) or None,
            "looked_at": None if looked_at is None else ",".join(looked_at),
        }
        self._changed = True

    def annotations(self, image_ids: Iterable[str]) -> dict[str, list[Annotation]]:
        """Return the claims about each of these images that has any."""
        return list_annotations(self._rows(), image_ids)

    def write(self) -> None:
        """Write what has changed: claims first, then coverage.

        Rows are in the order of the shard, so that the same rows give the same bytes.
        """
        if not self._changed:
            return
        rows = self._rows()
        claims = _join_ranges(rows[image] for image in self._order if image in rows).combine_chunks()
        covered = [self.covered[image] for image in self._order if image in self.covered]
        self._store.write_table(f"claims/{self._name}", claims)
        self._store.write_table(f"coverage/{self._name}", pa.Table.from_pylist(covered, schema=COVERAGE))
        self._changed = False
