"""A small snapshot with all possible parts: two sources and rounds, three annotators, truth, a hostile label."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw
from skimage import data as samples

from florence.records import IMAGES, Annotation, Claim, Region, annotate, annotations_table
from florence.store import Store

EVIL = "<script>alert('x')</script>&\"quoted\""
ANNOTATORS = (("first", "a1", 0.0), ("second", "b2", 0.35), ("third", "c3", 0.6))
STRINGS = pa.schema([(name, pa.string()) for name in ("source", "name", "reason", "detail")])
COVERAGE = pa.schema(
    [
        ("image_id", pa.string()),
        ("annotator", pa.string()),
        ("version", pa.string()),
        ("claims", pa.int32()),
        ("error", pa.string()),
    ]
)
BASELINE = pa.schema(
    [("image_id", pa.string()), ("task", pa.string()), ("reference", pa.string()), ("value", pa.float64())]
)
STATISTICS = {
    "annotation_types": {
        "<CAPTION>": {
            "images": 13,
            "texts": 13,
            "tokens_per_text": 4.5,
            "regions": None,
            "regions_per_image": None,
            "tokens_per_region": None,
        },
        "<OD>": {
            "images": 13,
            "texts": 31,
            "tokens_per_text": None,
            "regions": 31,
            "regions_per_image": 2.38,
            "tokens_per_region": 1.0,
        },
        "<CAPTION_TO_PHRASE_GROUNDING>": {
            "images": 10,
            "texts": 10,
            "tokens_per_text": 4.5,
            "regions": 25,
            "regions_per_image": 2.5,
            "tokens_per_region": 2.0,
        },
    },
    "triplets": {
        "<MORE_DETAILED_CAPTION>": {
            "images": 10,
            "texts": 10,
            "tokens_per_text": 4.5,
            "regions": 25,
            "regions_per_image": 2.5,
            "tokens_per_region": 2.0,
        },
    },
    "texts": {
        "<CAPTION>": {
            "objects": 2.31,
            "attributes": 0.0,
            "actions": 0.0,
            "proper_nouns": 0.0,
            "object_complexity": 1.4,
            "action_complexity": 0.0,
            "ungrounded": 3,
        },
    },
    "boxes": {
        "area": {"edges": [0.0, 0.25, 1.0], "shares": [0.8, 0.2]},
        "aspect_ratio": {"edges": [0.25, 1.0, 4.0], "shares": [0.4, 0.6]},
    },
}


def _scene(rng: np.random.Generator) -> tuple[bytes, tuple[Claim, ...]]:
    picture = Image.new("RGB", (128, 128), tuple(int(v) for v in rng.integers(120, 255, 3)))
    brush, claims, caption, phrases = ImageDraw.Draw(picture), [], "", []
    for index in range(int(rng.integers(2, 4))):
        x, y, side = int(rng.integers(4, 80)), int(rng.integers(4, 80)), int(rng.integers(20, 44))
        name, box = ("ball", "brick")[index % 2], (x, y, x + side, y + side)
        (brush.ellipse if name == "ball" else brush.rectangle)(box, fill=tuple(int(v) for v in rng.integers(0, 120, 3)))
        corners = (x, y, x + side, y, x + side, y + side, x, y + side)
        claims.append(
            Claim("<OD>", name, (Region(name, box=tuple(map(float, box)), polygons=(tuple(map(float, corners)),)),))
        )
        claims.append(
            Claim("<DENSE_REGION_CAPTION>", f"a dark {name}", (Region(f"a dark {name}", box=tuple(map(float, box))),))
        )
        caption += (" and " if caption else "") + f"a {name}"
        span = (len(caption) - len(name) - 2, len(caption))
        phrases.append((f"a {name}", span, tuple(map(float, box))))
    claims.append(Claim("<CAPTION>", caption))
    claims += [Claim("<CAPTION_TO_PHRASE_GROUNDING>", caption, (Region(p, box=b, span=s),)) for p, s, b in phrases]
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue(), tuple(claims)


def _photo(pixels: np.ndarray, label: str) -> tuple[bytes, tuple[Claim, ...]]:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=90)
    height, width = pixels.shape[:2]
    box = (width * 0.2, height * 0.1, width * 0.8, height * 0.9)
    claims = (
        Claim("<OD>", label, (Region(label, box=box),), 0.9),
        Claim("<OD>", "thing", (Region("thing", box=(5.0, 5.0, width * 0.3, height * 0.4)),), 0.4),
        Claim("<CAPTION>", f"a picture of {label}"),
        Claim(
            "<OCR_WITH_REGION>", "EXIT", (Region("EXIT", quad=(10.0, 10.0, 90.0, 20.0, 88.0, 40.0, 8.0, 30.0)),), 0.8
        ),
    )
    return sink.getvalue(), claims


def _noisy(claims: tuple[Claim, ...], noise: float, rng: np.random.Generator) -> tuple[Claim, ...]:
    kept = []
    for claim in claims:
        if rng.random() < noise / 2:
            continue
        regions = tuple(
            Region(
                r.label,
                tuple(v + float(rng.normal(0, 20 * noise)) for v in r.box) if r.box else None,
                r.quad,
                r.polygons,
                0.5,
                r.span,
            )
            for r in claim.regions
        )
        kept.append(Claim(claim.task, claim.text, regions, claim.score))
    return tuple(kept)


def _write_source(store: Store, source: str, found: list[tuple], rng: np.random.Generator) -> None:
    """Write a source's shard: images, truth of scenes, claims and coverage of all annotators."""
    ours = [(hashlib.sha256(data).hexdigest(), name, data, claims) for s, name, data, claims in found if s == source]
    rows = []
    for position, (image_id, name, data, _) in enumerate(ours):
        width, height = Image.open(io.BytesIO(data)).size
        split = ("train", "train", "train", "held_out", "gold")[position % 5]
        rows.append(
            dict(
                image_id=image_id,
                width=width,
                height=height,
                source=source,
                name=name,
                licence="CC0",
                alt_text=None,
                split=split,
                bytes=data,
            )
        )
    shard = f"{source}-00000.parquet"
    store.write_table(f"images/{shard}", pa.Table.from_pylist(rows, schema=IMAGES))
    if source == "scenes":
        store.write_table(
            f"truth/{shard}", annotations_table(a for i, _, _, c in ours for a in annotate(i, c, "truth", "1"))
        )
    for annotator, version, noise in ANNOTATORS:
        claims = [annotate(i, _noisy(c, noise, rng), annotator, version) for i, _, _, c in ours]
        coverage = [
            dict(image_id=o[0], annotator=annotator, version=version, claims=len(c), error="")
            for o, c in zip(ours, claims, strict=True)
        ]
        store.write_table(
            f"claims/{annotator}@{version}/{shard}", annotations_table(a for group in claims for a in group)
        )
        store.write_table(f"coverage/{annotator}@{version}/{shard}", pa.Table.from_pylist(coverage, schema=COVERAGE))


def _write_labels(store: Store, found: list[tuple], rng: np.random.Generator) -> None:
    """Write the labels of two rounds."""
    for number, noise in ((0, 0.4), (1, 0.1)):
        labels = [
            _keep_or_drop(a, rng)
            for _, _, data, claims in found
            for a in annotate(hashlib.sha256(data).hexdigest(), _noisy(claims, noise, rng), "consensus", "e1", number)
        ]
        store.write_table(
            f"labels/round-{number:05d}.parquet",
            annotations_table(sorted(labels, key=lambda a: (a.image_id, a.task, a.annotation_id))),
        )


def make_snapshot(folder: Path, scenes: int = 10) -> Store:
    """Write the snapshot below ``folder``; the same call writes the same bytes."""
    store, rng = Store(str(folder)), np.random.default_rng(7)
    found = [
        (
            "photos",
            f"{name} {EVIL}.jpg" if name == "cat" else f"{name}.jpg",
            *_photo(pixels, EVIL if name == "cat" else name),
        )
        for name, pixels in (("cat", samples.chelsea()), ("coffee", samples.coffee()), ("rocket", samples.rocket()))
    ]
    found += [("scenes", f"{number:06d}.png", *_scene(rng)) for number in range(scenes)]
    for source in ("photos", "scenes"):
        _write_source(store, source, found, rng)
    _write_labels(store, found, rng)
    store.write_table(
        "rejected_files.parquet",
        pa.Table.from_pylist([dict(source="photos", name="a.jpg", reason="empty", detail="")], schema=STRINGS),
    )
    store.write_json("statistics.json", STATISTICS)
    store.write_json("snapshot.json", {"format": 3, "id": "snap-1", "parent": "snap-0", "round": 1})
    store.write_table("baseline/scores.parquet", BASELINE.empty_table())
    return store


def _keep_or_drop(row: Annotation, rng: np.random.Generator) -> Annotation:
    confidence = float(rng.uniform(0.2, 1))
    return Annotation(
        row.annotation_id,
        row.image_id,
        row.task,
        row.annotator,
        row.version,
        row.round,
        row.text,
        row.regions,
        row.score,
        confidence,
        None,
        confidence >= 0.4,
        "" if confidence >= 0.4 else "low_confidence",
    )
