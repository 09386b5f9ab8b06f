"""Small data to evaluate on: images of one colour each, so that a predictor can tell them apart."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from florence.records import IMAGES, Annotation, Claim, Region, annotate, annotations_table
from florence.store import Store
from florence.tasks import Answer, task


def make_object(label: str, x: float, y: float = 10.0, side: float = 20.0) -> Claim:
    """Return a claim of an object in a square box."""
    return Claim("<OD>", label, (Region(label, box=(x, y, x + side, y + side)),))


class World:
    """A store of pictures (width, height) named 0, 1, 2 …; ``ids`` in that order."""

    def __init__(
        self, folder: Path, splits: Sequence[str], *, source: str = "made", size: tuple[int, int] = (100, 100)
    ) -> None:
        self.data, self.source = Store(str(folder)), source
        rows, self.ids, self.sizes = [], [], {}
        for index, split in enumerate(splits):
            width, height = size if index % 2 == 0 else (size[0] * 2, size[1])
            sink = io.BytesIO()
            Image.fromarray(np.full((height, width, 3), index, np.uint8)).save(sink, "PNG")
            image_id = hashlib.sha256(sink.getvalue()).hexdigest()
            self.ids.append(image_id)
            self.sizes[image_id] = (width, height)
            rows.append(
                dict(
                    image_id=image_id,
                    width=width,
                    height=height,
                    source=source,
                    name=f"{index}.png",
                    licence="CC0",
                    alt_text=None,
                    split=split,
                    bytes=sink.getvalue(),
                )
            )
        self.data.write_table(f"images/{source}-00000.parquet", pa.Table.from_pylist(rows, schema=IMAGES))

    def rows(
        self, claims: Mapping[int, Iterable[Claim]], annotator: str, version: str = "1", round: int = 0
    ) -> list[Annotation]:
        """Claims by picture as annotations."""
        return [
            row
            for index, found in claims.items()
            for row in annotate(self.ids[index], found, annotator, version, round)
        ]

    def truth(self, claims: Mapping[int, Iterable[Claim]], annotator: str = "truth") -> None:
        """Write truth; what is there is added to."""
        name = f"truth/{self.source}-00000.parquet"
        table = annotations_table(self.rows(claims, annotator))
        self.data.write_table(
            name, pa.concat_tables([self.data.read_table(name), table]) if self.data.exists(name) else table
        )

    def labels(self, claims: Mapping[int, Iterable[Claim]], round: int = 0) -> pa.Table:
        """Write a round's labels, all kept."""
        table = annotations_table(self.rows(claims, "consensus", "e", round))
        self.data.write_table(f"labels/round-{round:05d}.parquet", table)
        return table

    def claims(self, claims: Mapping[int, Iterable[Claim]], annotator: str, version: str = "1", round: int = 0) -> None:
        """Write an annotator's claims."""
        self.data.write_table(
            f"claims/{annotator}@{version}/{self.source}-00000.parquet",
            annotations_table(self.rows(claims, annotator, version, round)),
        )


class Oracle:
    """A predictor that answers with ``claims`` of each image; ``asked``: its queries by call."""

    def __init__(self, world: World, claims: Mapping[int, Sequence[Claim]]) -> None:
        self.world, self.claims = world, claims
        self.asked: list[list] = []

    def __call__(self, pictures, asks, **_) -> list[Answer]:
        self.asked.append(list(asks))
        return [self.answer(int(pictures[ask.image][0, 0, 0]), ask) for ask in asks]

    def answer(self, index: int, ask) -> Answer:
        one = task(ask.task)
        image_id = self.world.ids[index]
        size = self.world.sizes[image_id]
        rows = [
            row
            for row in self.world.rows({index: self.claims.get(index, ())}, "oracle")
            if row.task == one.annotation_type
        ]
        record = type("Record", (), dict(image_id=image_id, width=size[0], height=size[1]))()
        examples = [example for example in one.examples(record, rows) if example.input == ask.input]
        return one.decode(examples[0].target if examples else "", size, ask.input)
