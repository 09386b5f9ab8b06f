"""What one annotator has said of one shard: its claims, and its coverage, which tells who looked at which image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from florence.annotation.annotators import AnnotatorVersion
from florence.records import ANNOTATIONS, Annotation, table_annotations
from florence.store import Store

COVERAGE = pa.schema(
    [
        ("image_id", pa.string()),
        ("annotator", pa.string()),
        ("version", pa.string()),
        ("claims", pa.int32()),
        ("error", pa.string()),
        ("unread", pa.string()),
    ]
)
"""``unread``: of those it reads, the ones that had not answered then, with commas between them; null: they all had."""


Rows = tuple[pa.Table, int, int]
"""Rows of a table, from the first to one past the last: a slice of Arrow's takes more memory than the rows of one image."""


def by_image(table: pa.Table, order: Mapping[str, int]) -> dict[str, Rows]:
    """The rows of each image that is in ``order``, in their own order; images without a row are left out."""
    places = np.asarray([order.get(image, -1) for image in table["image_id"].to_pylist()], np.int64)
    if len(places) and (np.diff(places) < 0).any():
        arranged = np.argsort(places, kind="stable")
        table, places = table.take(arranged), places[arranged]
    edges = [*np.flatnonzero(np.diff(places, prepend=-2)).tolist(), len(places)]
    return {
        table["image_id"][start].as_py(): (table, start, end) for start, end in pairwise(edges) if places[start] >= 0
    }


def _joined(found: Iterable[Rows]) -> pa.Table:
    """All of these rows in one table of schema `ANNOTATIONS`; what lies side by side is taken in one piece."""
    pieces: list[Rows] = []
    for table, start, end in found:
        if pieces and pieces[-1][0] is table and pieces[-1][2] == start:
            pieces[-1] = (table, pieces[-1][1], end)
        else:
            pieces.append((table, start, end))
    return pa.concat_tables(
        [table.slice(start, end - start) for table, start, end in pieces] or [ANNOTATIONS.empty_table()]
    )


class ShardClaims:
    """An annotator's claims and coverage of one shard, as they are in the store and as they grow. ``order``: the shard's images, and their places in it.

    Claims are read when they are first needed. Those of images without coverage are what a killed run left behind: they are dropped.
    """

    def __init__(self, store: Store, annotator: AnnotatorVersion, shard: str, order: Mapping[str, int]) -> None:
        self.annotator, self._store, self._order = annotator, store, order
        self._name = f"{annotator.key}/{shard}.parquet"
        rows = store.read_table(f"coverage/{self._name}").to_pylist() if store.exists(f"coverage/{self._name}") else []
        self.covered: dict[str, dict[str, Any]] = {row["image_id"]: row for row in rows if row["image_id"] in order}
        self._claims: dict[str, Rows] | None = None
        self._changed = False

    def unread(self, image_id: str) -> frozenset[str]:
        """Names of those it reads whose claims it had not been given when it spoke of a covered image."""
        names = self.covered[image_id].get("unread") if image_id in self.covered else None
        return frozenset(names.split(",")) if names else frozenset()

    def tidy(self) -> None:
        """Read the claims, and drop those of images without coverage."""
        self._rows()

    def _rows(self) -> dict[str, Rows]:
        if self._claims is None:
            name = f"claims/{self._name}"
            # Parquet calls the entries of lists by another name than Arrow, and would write that name into the file.
            found = (
                by_image(self._store.read_table(name).cast(ANNOTATIONS), self._order)
                if self._store.exists(name)
                else {}
            )
            self._claims = {image: rows for image, rows in found.items() if image in self.covered}
            self._changed |= len(self._claims) < len(found)
        return self._claims

    def add(self, image_id: str, claims: Rows | None, error: str = "", unread: Iterable[str] = ()) -> None:
        """Cover an image: its claims, in a table of schema `ANNOTATIONS`, or why there are none. What was said of it before is replaced."""
        rows = self._rows()
        rows.pop(image_id, None)
        count = 0 if claims is None else claims[2] - claims[1]
        if claims is not None and count:
            rows[image_id] = claims
        names = ",".join(sorted(unread)) or None
        row = {
            "image_id": image_id,
            "annotator": self.annotator.name,
            "version": self.annotator.version,
            "claims": count,
            "error": error,
            "unread": names,
        }
        self.covered[image_id] = row
        self._changed = True

    def annotations(self, image_ids: Iterable[str]) -> dict[str, list[Annotation]]:
        """The claims about each of these images that has any."""
        return annotations_of(self._rows(), image_ids)

    def flush(self) -> None:
        """Write what has changed: claims first, then coverage, in the order of the shard, so that the same rows are the same bytes however they came."""
        if not self._changed:
            return
        rows = self._rows()
        claims = _joined(rows[image] for image in self._order if image in rows).combine_chunks()
        covered = [self.covered[image] for image in self._order if image in self.covered]
        self._store.write_table(f"claims/{self._name}", claims)
        self._store.write_table(f"coverage/{self._name}", pa.Table.from_pylist(covered, schema=COVERAGE))
        self._changed = False


def annotations_of(rows: Mapping[str, Rows], image_ids: Iterable[str]) -> dict[str, list[Annotation]]:
    """The rows of each of these images that has any, from `by_image`."""
    result: dict[str, list[Annotation]] = {}
    for row in table_annotations(_joined(rows[image] for image in image_ids if image in rows)):
        result.setdefault(row.image_id, []).append(row)
    return result
