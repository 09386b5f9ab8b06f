"""The engine's labels of a sample, by default settings; it learns the truth of the pictures given as gold alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _samples import Objects, Picture, Row, Sample, objects

OBJECTS = "<OD>"
GOLD = "gold"
"""The annotator that gives the truth of some pictures, as a person would."""


def fuse_sample(sample: Sample, gold: int = 0, settings: Any = None) -> Objects:
    """Return the engine's objects, kept and dropped; their score is the confidence.

    The truth of the first ``gold`` pictures is given as complete labels by a person.
    """
    from florence.config import EngineSettings
    from florence.engine import fuse
    from florence.records import table_annotations

    fused = fuse(*engine_tables(sample, gold), settings or EngineSettings(), 0, engine_profiles(sample, gold))
    rows: list[Row] = []
    for row in table_annotations(fused):
        # a duplicate has been merged into another object: it is not one that the engine states
        if row.confidence is not None and row.task == OBJECTS and row.reason != "duplicate":
            name = sample.names[row.text]
            rows.append((int(row.image_id, 16), name, row.regions[0].box, row.confidence, 1, row.kept))
    return objects(rows)


def engine_profiles(sample: Sample, gold: int = 0) -> list[Any]:
    """Return the profiles of a sample's annotators as the engine is given them."""
    from florence.records import AnnotatorProfile

    profiles = [
        AnnotatorProfile(
            name,
            "human" if known.human else "annotator",
            known.vocabulary,
            known.family,
            names_only=known.names_only,
        )
        for name, known in sample.annotators.items()
    ]
    return [*profiles, AnnotatorProfile(GOLD, "human", complete=True)] if gold else profiles


def engine_tables(sample: Sample, gold: int = 0) -> tuple[Any, Any, Any]:
    """Return a sample's claims, images and coverage as the engine is given them."""
    import pyarrow as pa

    from florence.records import IMAGES, annotations_table

    rows, records, coverage = [], [], []
    for number, picture in enumerate(sample.pictures):
        image_id = f"{number:064x}"
        claims = {name: picture.claims[name] for name in sample.annotators if name in picture.claims}
        if number < gold:
            claims[GOLD] = picture.truth
        rows += _annotations(image_id, claims)
        coverage += [
            {"image_id": image_id, "annotator": name, "version": "1", "claims": len(found), "error": ""}
            for name, found in claims.items()
        ]
        records.append(_image(image_id, picture))
    schema = pa.schema([IMAGES.field(name) for name in records[0]])
    return annotations_table(rows), pa.Table.from_pylist(records, schema=schema), pa.Table.from_pylist(coverage)


def _annotations(image_id: str, claims: Mapping[str, Any]) -> list[Any]:
    from florence.records import Claim, Region, annotate

    return [
        row
        for name, found in claims.items()
        for row in annotate(
            image_id,
            [Claim(OBJECTS, f.name, (Region(f.name, box=f.box, score=f.score),), f.score) for f in found],
            name,
            "1",
        )
    ]


def _image(image_id: str, picture: Picture) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "width": picture.width,
        "height": picture.height,
        "source": picture.source,
        "name": image_id[-8:],
        "licence": "",
        "alt_text": None,
        "split": "train",
        "phash": None,
    }
