"""Data sets to audit: drawn objects, detectors that look at them, and given labels with known errors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from florence.audit.alignment import GivenLabels
from florence.audit.issues import KINDS, LabelIssue, list_issues
from florence.audit.others import AnnotatorClaims, find_other_items
from florence.audit.reading import AuditImages, make_annotator_claims
from florence.audit.scores import LabelScores, score_labels
from florence.config import EngineSettings
from florence.names import build_name_table
from florence.records import AnnotatorProfile, Claim, ImageRecord, Region

NAMES = ("cat", "dog", "cup", "boat", "tree")
WIDTH, HEIGHT = 200, 150

Box = tuple[float, float, float, float]
Object = tuple[str, Box]


@dataclass
class AuditSet:
    """Images by number: true objects, given labels with their errors ("" for none), removed ones, detectors' claims."""

    truth: list[list[Object]] = field(default_factory=list)
    given: list[list[Object]] = field(default_factory=list)
    errors: list[list[str]] = field(default_factory=list)
    removed: list[list[Object]] = field(default_factory=list)
    claims: dict[str, list[list[tuple[str, Box, float]]]] = field(default_factory=dict)


def draw_set(images: int = 80, seed: int = 0, detectors: int = 2, names: tuple[str, ...] = NAMES) -> AuditSet:
    """Return images with two or three objects in cells of their own; every fifteenth label has one of four errors."""
    rng = np.random.default_rng(seed)
    result = AuditSet(claims={f"detector{k}": [] for k in range(detectors)})
    number = 0
    for _ in range(images):
        cells = [(int(c), rng) for c in rng.permutation(6)[:4]]
        objects = [(str(rng.choice(names)), draw_box(*cell)) for cell in cells[:-1]]
        free = draw_box(*cells[-1])
        given, errors, removed = [], [], []
        for name, box in objects:
            number += 1
            kind = KINDS[number // 15 % 4] if number % 15 == 0 else ""
            if kind == "missing":
                removed.append((name, box))
                continue
            if kind == "swapped":
                given.append((names[(names.index(name) + 1) % len(names)], box))
            elif kind == "misplaced":
                x, y = (box[2] - box[0]) * 0.45, (box[3] - box[1]) * 0.3
                given.append((name, clip((box[0] + x, box[1] + y, box[2] + x, box[3] + y))))
            else:
                given.append((name, box))
            errors.append("" if kind == "spurious" else kind)
            if kind == "spurious":
                given.append((str(rng.choice(names)), free))
                errors.append("spurious")
        result.truth.append(objects)
        result.given.append(given)
        result.errors.append(errors)
        result.removed.append(removed)
        for claims in result.claims.values():
            claims.append(look(objects, rng, names))
    return result


def draw_box(cell: int, rng: np.random.Generator) -> Box:
    """Return a box inside one of six cells of the image."""
    x, y = cell % 3 * 66 + rng.uniform(2, 12), cell // 3 * 75 + rng.uniform(2, 12)
    return (float(x), float(y), float(x + rng.uniform(25, 50)), float(y + rng.uniform(25, 55)))


def clip(box: Iterable[float]) -> Box:
    x0, y0, x1, y1 = box
    return (max(x0, 0.0), max(y0, 0.0), min(x1, float(WIDTH)), min(y1, float(HEIGHT)))


def look(objects: Iterable[Object], rng: np.random.Generator, names: tuple[str, ...]) -> list[tuple[str, Box, float]]:
    """Return what a detector claims: it misses a tenth, misnames a twentieth, and sees things now and then."""
    found = []
    for name, box in objects:
        if rng.random() < 0.1:
            continue
        if rng.random() < 0.05:
            name = str(rng.choice(names))
        drawn = clip(np.asarray(box) + rng.normal(0, 1.5, 4))
        found.append((name, drawn, float(np.clip(rng.normal(0.8, 0.12), 0.05, 0.99))))
    if rng.random() < 0.1:
        box = draw_box(int(rng.integers(6)), rng)
        found.append((str(rng.choice(names)), box, float(np.clip(rng.normal(0.35, 0.12), 0.05, 0.99))))
    return found


# ---------------------------------------------------------------- as the audit takes them


def make_images(found: AuditSet) -> AuditImages:
    return AuditImages(
        [
            ImageRecord(f"{k:064x}", WIDTH, HEIGHT, "audit", f"{k:03d}.png", "", None, "train")
            for k in range(len(found.truth))
        ]
    )


def make_given(found: AuditSet) -> GivenLabels:
    labels = [(k, n, *item) for k, items in enumerate(found.given) for n, item in enumerate(items)]
    return GivenLabels(
        np.asarray([image for image, _, _, _ in labels], np.int64),
        np.asarray([index for _, index, _, _ in labels], np.int64),
        np.asarray([box for _, _, _, box in labels], float).reshape(-1, 4),
        tuple(name for _, _, name, _ in labels),
        np.ones(len(found.truth), bool),
        np.tile([WIDTH, HEIGHT], (len(found.truth), 1)),
    )


def make_claims(found: AuditSet, vocabulary: tuple[str, ...] | None = None) -> AnnotatorClaims:
    return make_annotator_claims(
        {
            AnnotatorProfile(name, "annotator", vocabulary): {
                f"{k:064x}": [Claim("<OD>", text, (Region(text, box=box, score=s),), s) for text, box, s in rows]
                for k, rows in enumerate(claims)
            }
            for name, claims in found.claims.items()
        }
    )


def audit_set(
    found: AuditSet, claims: AnnotatorClaims | None = None, given: GivenLabels | None = None
) -> tuple[LabelScores, tuple[LabelIssue, ...]]:
    """Return scores and issues."""
    names = build_name_table(EngineSettings())
    images, given = make_images(found), given or make_given(found)
    items = find_other_items(claims or make_claims(found), images.table(), EngineSettings(), names)
    scores = score_labels(given, items, names)
    return scores, list_issues(images.records, given, items, scores)


# ---------------------------------------------------------------- as files


def write_pictures(found: AuditSet, folder: Path) -> None:
    """Write a picture for each image, all of them different."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, objects in enumerate(found.truth):
        pixels = np.full((HEIGHT, WIDTH, 3), 90 + k % 80, np.uint8)
        for n, (_, box) in enumerate(objects):
            x0, y0, x1, y1 = map(int, box)
            pixels[y0:y1, x0:x1] = (40 * n + k % 40, 200 - 50 * n, 120)
        pixels[0, :8, 0] = [int(bit) for bit in f"{k:08b}"]
        Image.fromarray(pixels).save(folder / f"{k:03d}.png")


def coco_document(rows: list[list[Object]], scores: list[list[float]] | None = None) -> dict[str, Any]:
    annotations = []
    for k, items in enumerate(rows):
        for n, (name, (x0, y0, x1, y1)) in enumerate(items):
            values = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            one = {"id": len(annotations) + 1, "image_id": k, "category_id": NAMES.index(name) + 1, **values}
            annotations.append({**one, "note": "kept"} if scores is None else {**one, "score": scores[k][n]})
    images = [{"id": k, "file_name": f"{k:03d}.png", "width": WIDTH, "height": HEIGHT} for k in range(len(rows))]
    categories = [{"id": k + 1, "name": name, "supercategory": "thing"} for k, name in enumerate(NAMES)]
    return {"info": {"made": "by a test"}, "images": images, "categories": categories, "annotations": annotations}


def write_set(found: AuditSet, folder: Path) -> None:
    """Write pictures, instances.json and a file of results for each detector."""
    write_pictures(found, folder / "photos")
    (folder / "instances.json").write_text(json.dumps(coco_document(found.given)))
    for name, claims in found.claims.items():
        rows = [[(text, box) for text, box, _ in image] for image in claims]
        scores = [[score for _, _, score in image] for image in claims]
        (folder / f"{name}.json").write_text(json.dumps(coco_document(rows, scores)["annotations"]))
