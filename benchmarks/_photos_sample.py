"""The sample photos with the annotators that need no download, judged against boxes drawn by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from _samples import Box, Declared, Found, Picture, Sample

BOXES = Path(__file__).parents[1] / "tests" / "sample_photos.json"
ANNOTATORS = {"objects_small": "lite0", "objects_large": "lite2"}
"""Class-activation annotators and their weights: one family, for they are trained on the same images."""


def photo_places() -> Sample:
    """Return the photos with every object and claim under one name: what is found, whatever it is called."""
    sample = annotate_photos()
    pictures = [
        replace(
            picture,
            truth=[replace(found, name="object") for found in picture.truth],
            claims={name: [replace(one, name="object") for one in found] for name, found in picture.claims.items()},
        )
        for picture in sample.pictures
    ]
    return Sample(pictures, sample.annotators)


@cache
def annotate_photos() -> Sample:
    """Return the photos with what the annotators claim.

    Areas of many things, which no single box is drawn around, are no objects; claims that lie in one are left out.
    """
    from florence import annotators
    from florence.annotators import ImageBatch
    from florence.images import decode_image
    from florence.records import ImageRecord
    from florence.sources import SOURCES

    drawn, areas, sizes = _read_boxes()
    loaded = {
        name: annotators.ANNOTATORS.get("activation")(name=name, weights=weights, tasks=("<OD>",))
        for name, weights in ANNOTATORS.items()
    }
    for annotator in loaded.values():
        annotator.load()
    pictures = []
    for photo in SOURCES.get("samples")(packages=["skimage", "sklearn", "matplotlib"]).images(frozenset()):
        if photo.name not in drawn:
            continue
        pixels = decode_image(photo.data, photo.name, min_side=16)
        width, height = sizes[photo.name]
        record = ImageRecord(f"{len(pictures):064x}", width, height, "photos", photo.name, "", None, "train")
        batch = ImageBatch(records=(record,), pixels=(pixels,))
        claims = {
            name: [
                Found(claim.text, claim.regions[0].box, claim.score)
                for claim in annotator.annotate(batch)[0]
                if claim.task == "<OD>" and not _lies_in(claim.regions[0].box, areas[photo.name])
            ]
            for name, annotator in loaded.items()
        }
        pictures.append(Picture(width, height, "photos", drawn[photo.name], claims))
    return Sample(pictures, {name: Declared(family="imagenet") for name in loaded})


def _read_boxes() -> tuple[dict[str, list[Found]], dict[str, list[Box]], dict[str, tuple[int, int]]]:
    """Return objects, areas of many things and the size of every photo, by its file's name."""
    data = json.loads(BOXES.read_text(encoding="utf-8"))
    names = {row["id"]: row["name"] for row in data["categories"]}
    files = {row["id"]: row["file_name"] for row in data["images"]}
    drawn: dict[str, list[Found]] = {name: [] for name in files.values()}
    areas: dict[str, list[Box]] = {name: [] for name in files.values()}
    for row in data["annotations"]:
        x, y, width, height = (float(v) for v in row["bbox"])
        box = (x, y, x + width, y + height)
        if row.get("iscrowd"):
            areas[files[row["image_id"]]].append(box)
        else:
            drawn[files[row["image_id"]]].append(Found(names[row["category_id"]], box))
    return drawn, areas, {row["file_name"]: (row["width"], row["height"]) for row in data["images"]}


def _lies_in(box: Box, areas: Sequence[Box]) -> bool:
    """Return whether most of a box lies in one of the areas."""
    for area in areas:
        width = min(box[2], area[2]) - max(box[0], area[0])
        height = min(box[3], area[3]) - max(box[1], area[1])
        if max(width, 0.0) * max(height, 0.0) > 0.5 * (box[2] - box[0]) * (box[3] - box[1]):
            return True
    return False
