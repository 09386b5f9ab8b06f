"""Consensus and filters: claims a second and peak memory, on claims of six annotators of all eight base types.

The engine is `florence.engine.fuse` on the whole table, two blocks at a time, in a process of its own. Against it, in
turn: (a) the same function called image by image, on a sample of the images; (b) on the objects alone, weighted boxes
fusion (ensemble-boxes, where that is installed) image by image, which does no more than fuse boxes.

    python benchmarks/engine_claims.py --claims 1000000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _common import print_table

from florence.config import EngineSettings
from florence.engine import fuse
from florence.records import ANNOTATIONS, IMAGES, REGION

TABLES = ("claims", "images", "coverage")
WORKERS = 2
"""Blocks of claims that our side fuses at a time."""
SAMPLE = 0.02
"""Share of the images that sides which work image by image are given."""
ANNOTATORS = ("detector", "captioner", "grounder", "hasty", "crude", "old")
SIDE = 480
"""Pixels a side of every image."""
OBJECTS = 2.6
"""On average, of an image."""
PER_IMAGE = 46
"""Claims about an image, on average."""
COLOURS = "red green blue white black brown yellow pink grey orange".split()
NOUNS = (
    "man woman child dog cat horse bird boat car bus train bicycle tree flower house tower bridge sign lamp table "
    "chair sofa bed book cup plate bottle apple orange pizza cake ball kite umbrella hat bag shoe clock phone screen "
    "keyboard mouse cow sheep goat bear truck plane fence wall"
).split()
LINKS = ("near", "next to", "behind", "in front of", "on top of", "under", "beside", "above")
TEXTS = ("EXIT", "STOP", "OPEN", "SALE", "NO PARKING", "CAFE", "TAXI", "BUS LANE", "WATER", "GATE 4")
CAPTION_PHRASES = {"<CAPTION>": (2, 0.7), "<DETAILED_CAPTION>": (4, 0.4), "<MORE_DETAILED_CAPTION>": (8, 0.3)}
"""Phrases of a text, and the share of them that is grounded."""
CAPTIONS = 1500
"""Different texts of each type that are right; annotators claim them in `VERSIONS` versions."""
VERSIONS = (0.5, 0.15, 0.1, 0.1, 0.1, 0.05)
"""Share of each version: as it is, a word left out (twice), another noun, no articles, with boilerplate."""


def make_tables(claims: int, seed: int = 0) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return (claims, images, coverage): about ``claims`` claims of all base types, the same for the same seed."""
    rng = np.random.default_rng(seed)
    count = max(claims // PER_IMAGE, 1)
    ids = pa.array([hashlib.sha256(f"{seed}|{k}".encode()).hexdigest() for k in range(count)], pa.string())
    parts = [*_objects(rng, count), *_captions(rng, count)]
    columns = {
        "image": np.concatenate([part["image"] for part in parts]),
        "annotator": np.concatenate([part["annotator"] for part in parts]),
    }
    table = pa.concat_tables([part["table"] for part in parts])
    names = pa.array(ANNOTATORS)
    rows = {
        "annotation_id": pa.array([f"{k:016x}" for k in range(len(table))], pa.string()),
        "image_id": ids.take(pa.array(columns["image"])),
        "annotator": names.take(pa.array(columns["annotator"])),
        "version": pa.array(["1"] * len(table)),
        "round": pa.array(np.zeros(len(table), np.int32)),
        "confidence": pa.nulls(len(table), pa.float64()),
        "agreement": pa.nulls(len(table), pa.float64()),
        "kept": pa.array(np.ones(len(table), bool)),
        "reason": pa.array([""] * len(table)),
        **{name: table[name] for name in ("task", "text", "regions", "score")},
    }
    claimed = pa.table({name: rows[name] for name in ANNOTATIONS.names}, schema=ANNOTATIONS)
    return claimed, _images(ids), _coverage(ids)


def _images(ids: pa.Array) -> pa.Table:
    fill = {"width": np.full(len(ids), SIDE, np.int32), "height": np.full(len(ids), SIDE, np.int32)}
    names = [name for name in IMAGES.names if name != "bytes"]
    # the ids are hashes: as good as those of pictures of which no two are alike
    columns = [
        ids
        if n in ("image_id", "phash")
        else pa.array(fill[n])
        if n in fill
        else pa.array(["train" if n == "split" else None] * len(ids), pa.string())
        for n in names
    ]
    return pa.table(dict(zip(names, columns, strict=True)))


def _coverage(ids: pa.Array) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "image_id": pa.concat_arrays([ids] * len(ANNOTATORS)),
            "annotator": pa.array(np.repeat(ANNOTATORS, n)),
            "version": pa.array(["1"] * n * len(ANNOTATORS)),
            "claims": pa.array(np.ones(n * len(ANNOTATORS), np.int32)),
            "error": pa.array([""] * n * len(ANNOTATORS)),
        }
    )


def _objects(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Return objects by all six annotators, region texts, masks and OCR lines by two each, with errors."""
    owner = np.repeat(np.arange(count), rng.poisson(OBJECTS - 1, count) + 1)
    low, side = rng.uniform(0, 0.6 * SIDE, (len(owner), 2)), rng.uniform(0.1 * SIDE, 0.4 * SIDE, (len(owner), 2))
    truth = np.concatenate([low, low + side], axis=1)
    noun, colour, text = (
        rng.integers(len(NOUNS), size=len(owner)),
        rng.integers(len(COLOURS), size=len(owner)),
        rng.integers(len(TEXTS), size=len(owner)),
    )
    parts = []
    for annotator in range(len(ANNOTATORS)):
        found = np.flatnonzero(rng.random(len(owner)) < 0.85 - 0.04 * annotator)
        box = truth[found] + rng.normal(0, 0.03 + 0.01 * annotator, (len(found), 4)) * np.tile(side[found], 2)
        label = np.where(
            rng.random(len(found)) < 0.05 + 0.03 * annotator, rng.integers(len(NOUNS), size=len(found)), noun[found]
        )
        score = rng.beta(6, 2, len(found))
        labels, polygons = [NOUNS[k] for k in label], _draw_polygons(rng, box) if annotator < 2 else None
        claims = partial(_make_claims, annotator=annotator, image=owner[found], box=box, score=score)
        parts.append(claims("<OD>", texts=labels, polygons=polygons if annotator == 0 else None))
        if annotator in (0, 1):
            texts = [f"a {COLOURS[c]} {name}" for c, name in zip(colour[found], labels, strict=True)]
            parts.append(claims("<DENSE_REGION_CAPTION>", texts=texts))
            texts = [f"the {name}" for name in labels]
            parts.append(claims("<REFERRING_EXPRESSION_SEGMENTATION>", texts=texts, polygons=polygons))
        if annotator in (2, 3):
            read = np.flatnonzero(text[found] < 2)
            texts = [TEXTS[k] for k in noun[found][read] % len(TEXTS)]
            quad = box[read][:, [0, 1, 2, 1, 2, 3, 0, 3]]
            line = {"image": owner[found][read], "box": None, "score": score[read], "quad": quad}
            parts.append(claims("<OCR_WITH_REGION>", texts=texts, **line))
    return parts


def _draw_polygons(rng: np.random.Generator, box: np.ndarray, corners: int = 24) -> pa.Array:
    """Return a rough ellipse in each box."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)[None] * rng.uniform(0.85, 1, (len(box), corners, 1))
    points = (box[:, None, :2] + box[:, None, 2:]) / 2 + around * (box[:, None, 2:] - box[:, None, :2]) / 2
    inner = pa.ListArray.from_arrays(
        pa.array(np.arange(len(box) + 1, dtype=np.int32) * 2 * corners), pa.array(points.reshape(-1))
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(len(box) + 1, dtype=np.int32)), inner)


def _captions(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Return captions of three types by three annotators, and some of their phrases with boxes."""
    parts = []
    for annotation_type, (phrases, share) in CAPTION_PHRASES.items():
        texts, spans, labels = _texts(rng, phrases)
        which = rng.integers(CAPTIONS, size=count)
        boxes = rng.uniform(0, 0.6 * SIDE, (count, phrases, 2))
        boxes = np.concatenate([boxes, boxes + rng.uniform(0.1 * SIDE, 0.4 * SIDE, boxes.shape)], axis=2)
        for annotator in range(3):
            text = which * len(VERSIONS) + rng.choice(len(VERSIONS), size=count, p=VERSIONS)
            score = rng.beta(6, 2, count)
            table = _table(annotation_type, [texts[k] for k in text], None, score, np.zeros(count, np.int32))
            parts.append({"image": np.arange(count), "annotator": np.full(count, annotator), "table": table})
            image, phrase = np.nonzero((rng.random((count, phrases)) < share) & (spans[text][:, :, 0] >= 0))
            box = boxes[image, phrase] + rng.normal(0, 6, (len(image), 4))
            chosen = text[image]
            regions = _regions(
                [labels[k][p] for k, p in zip(chosen, phrase, strict=True)],
                box,
                rng.beta(6, 2, len(image)),
                span=spans[chosen, phrase],
            )
            table = _table(
                "<CAPTION_TO_PHRASE_GROUNDING>",
                [texts[k] for k in chosen],
                regions,
                rng.beta(6, 2, len(image)),
                np.ones(len(image), np.int32),
            )
            parts.append({"image": image, "annotator": np.full(len(image), annotator), "table": table})
    return parts


def _texts(rng: np.random.Generator, phrases: int) -> tuple[list[str], np.ndarray, list[list[str]]]:
    """Return all versions of all texts of a type; (texts, phrases, 2) the span of each phrase or -1; the phrases."""
    texts: list[str] = []
    labels: list[list[str]] = []
    spans = []
    for _ in range(CAPTIONS):
        noun_phrases = [
            f"a {COLOURS[rng.integers(len(COLOURS))]} {NOUNS[rng.integers(len(NOUNS))]}" for _ in range(phrases)
        ]
        links = [LINKS[rng.integers(len(LINKS))] for _ in range(phrases - 1)]
        for version in range(len(VERSIONS)):
            text, found, claims = "photo of " if version == 5 else "", [], []
            drop = int(rng.integers(phrases)) if version in (1, 2) else -1
            for k, noun_phrase in enumerate(noun_phrases):
                words = noun_phrase.split()
                if k == drop:
                    words.pop(version)
                if version == 3 and k == 0:
                    words[2] = NOUNS[rng.integers(len(NOUNS))]
                if version == 4:
                    words.pop(0)
                phrase = " ".join(words)
                found.append((len(text), len(text) + len(phrase)))
                claims.append(phrase)
                text += phrase + (f" {links[k]} " if k < phrases - 1 else "")
            texts.append(text + (" | stock photo" if version == 5 else ""))
            labels.append(claims)
            spans.append(found)
    return texts, np.asarray(spans), labels


def _make_claims(
    task: str,
    annotator: int,
    image: np.ndarray,
    texts: Sequence[str],
    box: np.ndarray | None,
    score: np.ndarray,
    polygons: pa.Array | None = None,
    quad: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return claims of one region each: their images and annotators as numbers, and their table."""
    regions = _regions(texts, box, score, polygons, quad)
    return {
        "image": image,
        "annotator": np.full(len(image), annotator),
        "table": _table(task, texts, regions, score, np.ones(len(image), np.int32)),
    }


def _table(
    task: str, texts: Sequence[str], regions: pa.Array | None, score: np.ndarray, counts: np.ndarray
) -> pa.Table:
    offsets = pa.array(np.r_[0, np.cumsum(counts)].astype(np.int32))
    values = regions if regions is not None else pa.array([], REGION)
    return pa.table(
        {
            "task": pa.array([task] * len(texts)),
            "text": pa.array(texts, pa.string()),
            "regions": pa.ListArray.from_arrays(offsets, values),
            "score": pa.array(score),
        }
    )


def _regions(
    labels: Sequence[str],
    box: np.ndarray | None,
    score: np.ndarray,
    polygons: pa.Array | None = None,
    quad: np.ndarray | None = None,
    span: np.ndarray | None = None,
) -> pa.Array:
    n = len(labels)

    def lists(values: np.ndarray | None, length: int, annotation_type: pa.DataType) -> pa.Array:
        if values is None:
            return pa.nulls(n, pa.list_(annotation_type))
        return pa.ListArray.from_arrays(
            pa.array(np.arange(n + 1, dtype=np.int32) * length), pa.array(values.reshape(-1)).cast(annotation_type)
        )

    none = pa.array([[]] * n, pa.list_(pa.list_(pa.float64())))
    fields = [
        pa.array(labels, pa.string()),
        lists(box, 4, pa.float64()),
        lists(quad, 8, pa.float64()),
        polygons if polygons is not None else none,
        pa.array(score),
        lists(span, 2, pa.int32()),
    ]
    return pa.StructArray.from_arrays(fields, fields=list(REGION))


# ---------------------------------------------------------------- measuring


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=int, default=1_000_000, help="about so many claims (default 1,000,000)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side, taken in turn (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--tables", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(_measure(options.side, options.tables)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, table in zip(TABLES, make_tables(options.claims), strict=True):
            pq.write_table(table, f"{folder}/{name}.parquet")
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(options.repeats):
            for side in SIDES:
                found[side].append(_child(side, folder))
    figures = {
        side: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for side, runs in found.items()
        if runs[0]
    }
    rows: list[list[Any]] = [
        ["side", "claims", "claims a second", "seconds of all cores a million claims", "peak memory, GB"]
    ]
    for side, run in figures.items():
        rows.append(
            [
                SIDES[side],
                f"{run['claims']:,.0f}",
                f"{run['claims'] / run['seconds']:,.0f}",
                f"{1e6 * run['cpu'] / run['claims']:.1f}",
                f"{run['memory']:.2f}",
            ]
        )
    print_table(f"Consensus and filters, {options.claims:,} claims", rows)
    if options.json:
        options.json.write_text(
            json.dumps({"benchmark": "engine_claims", "sides": figures}, indent=2) + "\n", encoding="utf-8"
        )


SIDES = {
    "ours": "ours, the whole table",
    "loop": "(a) ours, image by image",
    "objects": "ours, objects alone",
    "boxes": "(b) weighted boxes fusion, objects alone",
}


def _child(side: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--tables", folder]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def _measure(side: str, folder: Path) -> dict[str, float]:
    """Measure one side in this process: claims, seconds, seconds of all cores, peak GB; empty if it cannot run."""
    claims, images, coverage = (pq.read_table(folder / f"{name}.parquet") for name in TABLES)
    if side in ("objects", "boxes"):
        claims = claims.filter(pc.equal(claims["task"], "<OD>"))
    if side in ("loop", "boxes"):
        images = images.slice(0, max(int(SAMPLE * len(images)), 1))
        claims, coverage = (
            table.filter(pc.is_in(table["image_id"], images["image_id"].combine_chunks())).combine_chunks()
            for table in (claims, coverage)
        )
    run = {"ours": _whole, "objects": _whole, "loop": _loop, "boxes": _boxes}[side](claims, images, coverage)
    if run is None:
        return {}
    # models are loaded and caches filled by what is not timed
    fuse(claims.slice(0, 500), images, coverage, EngineSettings(), 0)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "claims": len(claims),
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": peak,
    }


def _whole(claims: pa.Table, images: pa.Table, coverage: pa.Table) -> Callable[[], Any]:
    return lambda: fuse(claims, images, coverage, EngineSettings(), 0, workers=WORKERS)


def _loop(claims: pa.Table, images: pa.Table, coverage: pa.Table) -> Callable[[], Any]:
    parts = [
        [table.filter(pc.equal(table["image_id"], image)) for table in (claims, images, coverage)]
        for image in images["image_id"].to_pylist()
    ]
    return lambda: [fuse(*part, EngineSettings(), 0) for part in parts]


def _boxes(claims: pa.Table, images: pa.Table, coverage: pa.Table) -> Callable[[], Any] | None:
    try:
        from ensemble_boxes import weighted_boxes_fusion
    except ImportError:
        return None
    numbers = {name: k for k, name in enumerate(NOUNS)}
    given: dict[str, dict[str, list[tuple[list[float], float, int]]]] = {}
    for row in claims.select(["image_id", "annotator", "text", "regions"]).to_pylist():
        box = [min(max(v / SIDE, 0.0), 1.0) for v in row["regions"][0]["box"]]
        given.setdefault(row["image_id"], {}).setdefault(row["annotator"], []).append(
            (box, row["regions"][0]["score"], numbers[row["text"]])
        )
    sides = [[list(zip(*claimed, strict=True)) for claimed in by_annotator.values()] for by_annotator in given.values()]
    weighted_boxes_fusion(
        *([claimed[k] for claimed in sides[0]] for k in range(3)), iou_thr=0.4
    )  # compiled on its first call
    return lambda: [
        weighted_boxes_fusion(*([claimed[k] for claimed in annotators] for k in range(3)), iou_thr=0.4)
        for annotators in sides
    ]


if __name__ == "__main__":
    main()
