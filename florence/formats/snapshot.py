"""A snapshot published by Florence: the kept labels of a round, or the truth. Read only.

Images are matched by the hash of their bytes, whatever their names.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from florence.config import Section
from florence.coverage import find_looked_at
from florence.errors import DataError, NotListedError
from florence.formats import FORMATS, OBJECTS, Format, ImageClaims, LabelSet, LabelSetEntry, list_looked_at
from florence.formats._files import Files
from florence.records import ANNOTATION_TYPES, ANNOTATIONS, Claim, ImageRecord, table_annotations
from florence.rounds import index_labels


@FORMATS.register("snapshot")
class SnapshotFormat(Format):
    """The folder ``data/`` of another workspace, or of an earlier state of this one."""

    annotation_types = ANNOTATION_TYPES
    is_writable = False
    revision = 2

    class Options(Section):
        """Settings of reading."""

        part: Literal["labels", "truth"] = Field(
            "labels", description="labels: the kept labels; truth: the annotations known to be right"
        )
        round: int | None = Field(None, ge=0, description="round of the labels; by default the last")
        min_confidence: float = Field(0.0, ge=0, le=1, description="least confidence of a label that is read")

    def files(self, uri: str) -> Files:
        """Return the files of labels or truth; of images and of coverage, which only grow, only the names."""
        number = self.options.round if self.options.part == "labels" else None
        return Files(
            uri,
            lambda name: (
                name.startswith(f"{self.options.part}/")
                and name.endswith(".parquet")
                and (number is None or number in index_labels([name]))
            ),
            f"{self.options.part}/{'' if number is None else f'round-{number:05d}'}… of a snapshot",
            lambda name: name.startswith(("images/", "coverage/")) and name.endswith(".parquet"),
        )

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _SnapshotSet(files, self.options)


class _SnapshotSet(LabelSet):
    def __init__(self, files: Files, options: Any) -> None:
        names = list(files.names)
        self.looked_at: dict[str, frozenset[str]] | None = None
        if options.part == "labels" and names:
            tables = index_labels(names)
            names = [tables[max(tables)]] if tables else []
            self.looked_at = find_looked_at(files.store, max(tables), names[0]) if tables else None
        if not names:
            raise DataError(f"{files.uri}: a snapshot with {options.part}/ is expected")
        rows = pa.concat_tables([_table(files, name) for name in names])
        rows = rows.filter(rows["kept"])
        if options.min_confidence > 0:
            rows = rows.filter(pc.fill_null(pc.greater_equal(rows["confidence"], options.min_confidence), False))
        self.rows = rows
        self.rows_of_image: dict[str, list[int]] = {}
        for k, image_id in enumerate(rows["image_id"].to_pylist()):
            self.rows_of_image.setdefault(image_id, []).append(k)
        entries = [LabelSetEntry((), image_id) for image_id in self.rows_of_image]
        # All labels of an image may be dropped: it was looked at. An image without truth is unknown.
        if options.part == "labels":
            images = [
                files.store.read_table(name, ["image_id", "width", "height"]).to_pylist()
                for name in files.others
                if name.startswith("images/")
            ]
            entries = [
                LabelSetEntry((), row["image_id"], (row["width"], row["height"])) for shard in images for row in shard
            ] or entries
        super().__init__(
            files.uri, entries, sorted(pc.unique(rows.filter(pc.equal(rows["task"], OBJECTS))["text"]).to_pylist())
        )

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the labels of an image, in the order of the snapshot.

        Raises NotListedError if none of its annotators has looked at the image.
        """
        looked_at = None if self.looked_at is None else self.looked_at.get(entry.image_id or "")
        if self.looked_at is not None and not looked_at:
            raise NotListedError(f"{record.name}: {self.where} has this image, but nobody had looked at it")
        positions = pa.array(self.rows_of_image.get(entry.image_id or "", []), pa.int64())
        rows = table_annotations(self.rows.take(positions))
        claims = tuple(Claim(row.task, row.text, row.regions, row.score) for row in rows)
        return ImageClaims(claims, (), None if looked_at is None else list_looked_at(claims, looked_at, ()))


def _table(files: Files, name: str) -> pa.Table:
    table = files.store.read_table(name)
    if missing := set(ANNOTATIONS.names) - set(table.column_names):
        raise DataError(
            f"{files.where(name)}: columns {', '.join(sorted(missing))} are missing; a table of labels is expected"
        )
    return table.select(ANNOTATIONS.names).cast(ANNOTATIONS)
