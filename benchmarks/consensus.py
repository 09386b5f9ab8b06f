"""Quality of the consensus: six annotators of drawn scenes, fused by the engine and by four other methods.

One annotator is bad and two depend on each other. The other methods are tuned by the same grid on seeds that are not
measured; the engine is measured as it is by default. Weighted boxes fusion is that of the package ensemble-boxes, which
the extra `benchmarks` installs (and `test` as well).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from _common import print_table

OVERLAP = (0.3, 0.4, 0.5, 0.6, 0.7)
SCORE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
VOTES = (1, 2, 3, 4)
"""The grid: least IoU of boxes of one object, least score (of fused boxes, if there is one), least number of votes."""
SIZE = 128
KIND = "<OD>"

Box = tuple[float, float, float, float]
Found = tuple[str, Box, float, Any]
"""Label, box, score, and the annotator that claims it, or how many do."""
Method = Callable[[Sequence[Found], float], list[Found]]
"""(claims about an image, least IoU of boxes of one object) → all objects; they are filtered later."""


def annotators() -> dict[str, dict[str, Any]]:
    """Return the demo's three, one with many wrong labels and false positives, and two that share most claims."""
    from florence.config import read_settings

    settings = read_settings(Path(__file__).parents[1] / "params.yaml")
    declared = {
        name: dict(section.options) for name, section in settings.annotators.items() if section.use == "simulated"
    }
    twin = {**declared["hasty"], "mislabelled": 0.25, "invented": 0.2, "twin": "vendor", "shared": 0.8}
    bad = {**declared["crude"], "missed": 0.3, "mislabelled": 0.5, "invented": 0.5}
    return {**declared, "bad": bad, "twin_a": twin, "twin_b": twin}


@dataclass(frozen=True)
class Scenes:
    """Images by id: the truth and the claims about each; and the tables that the engine is given."""

    truth: dict[str, list[Found]]
    claims: dict[str, list[Found]]
    tables: tuple[Any, Any, Any]


def scenes(count: int, seed: int) -> Scenes:
    """Draw scenes, and return them with the claims of all annotators."""
    import pyarrow as pa

    from florence.annotators import ImageBatch
    from florence.annotators.simulated import Simulated
    from florence.records import IMAGES, ImageRecord, annotate, annotations_table
    from florence.sources.scenes import ScenesSource

    simulated = {
        name: Simulated(name=name, **{**options, "seed": seed, "tasks": (KIND,)})
        for name, options in annotators().items()
    }
    truth, claimed, rows, records, coverage = {}, {}, [], [], []
    for number, found in enumerate(ScenesSource(count=count, seed=seed, size=SIZE, scale=1.12).images(frozenset())):
        record = ImageRecord(f"{number:064x}", SIZE, SIZE, "scenes", found.name, "", None, "train")
        known = annotate(record.image_id, found.truth, "truth", "1")
        truth[record.image_id] = [(row.text, row.regions[0].box, 1.0, "truth") for row in known if row.task == KIND]
        claimed[record.image_id] = []
        for name, annotator in simulated.items():
            (claims,) = annotator.annotate(ImageBatch(records=(record,), truth=(known,)))
            rows += annotate(record.image_id, claims, name, "1")
            claimed[record.image_id] += [(claim.text, claim.regions[0].box, claim.score, name) for claim in claims]
            coverage.append(
                {"image_id": record.image_id, "annotator": name, "version": "1", "claims": len(claims), "error": ""}
            )
        records.append({name: getattr(record, name) for name in IMAGES.names if name != "bytes"})
    images = pa.Table.from_pylist(records, schema=pa.schema([IMAGES.field(name) for name in records[0]]))
    return Scenes(truth, claimed, (annotations_table(rows), images, pa.Table.from_pylist(coverage)))


# ---------------------------------------------------------------- measuring


def hits(claims: Sequence[Found], true: Sequence[Found]) -> list[bool]:
    """Return whether each object is true: same label, IoU of at least 0.5, each true one once, best score first."""
    from florence.geometry import box_iou

    result, left = [False] * len(claims), set(range(len(true)))
    if not claims or not true:
        return result
    overlap = box_iou(np.asarray([f[1] for f in claims]), np.asarray([f[1] for f in true]))
    for k in sorted(range(len(claims)), key=lambda k: -claims[k][2]):
        fits = [j for j in left if overlap[k, j] >= 0.5 and claims[k][0] == true[j][0]]
        if fits:
            left.remove(max(fits, key=lambda j: overlap[k, j]))
            result[k] = True
    return result


def f1(claims: Mapping[str, Sequence[Found]], truth: Mapping[str, Sequence[Found]]) -> float:
    """Return the F1 over the objects of all images."""
    right = sum(sum(hits(claims.get(image, ()), true)) for image, true in truth.items())
    return 2 * right / max(sum(map(len, claims.values())) + sum(map(len, truth.values())), 1)


def calibration(
    claims: Mapping[str, Sequence[Found]], truth: Mapping[str, Sequence[Found]]
) -> tuple[float, list[tuple[float, float, int]]]:
    """Return the expected calibration error in ten bins, and (mean confidence, share right, objects) of each bin."""
    pairs = np.asarray(
        [
            (f[2], hit)
            for image, true in truth.items()
            for f, hit in zip(claims.get(image, ()), hits(claims.get(image, ()), true), strict=True)
        ]
    )
    bins = np.minimum((pairs[:, 0] * 10).astype(int), 9)
    rows = [
        (float(pairs[bins == k, 0].mean()), float(pairs[bins == k, 1].mean()), int((bins == k).sum()))
        for k in sorted(set(bins.tolist()))
    ]
    return sum(abs(a - r) * n for a, r, n in rows) / len(pairs), rows


# ---------------------------------------------------------------- the methods


def ours(data: Scenes, settings: Any = None) -> dict[str, list[Found]]:
    """Return the engine's objects, kept and dropped, by image; their score is the confidence."""
    from florence.config import EngineSettings
    from florence.engine import fuse
    from florence.records import table_annotations

    found: dict[str, list[Found]] = {image: [] for image in data.truth}
    for row in table_annotations(fuse(*data.tables, settings or EngineSettings(), 0)):
        if row.confidence is not None:
            found[row.image_id].append(
                (row.text, row.regions[0].box, row.confidence, "kept" if row.kept else row.reason)
            )
    return found


def single(claims: Sequence[Found], overlap: float) -> list[Found]:
    """Return each annotator's objects unchanged."""
    return list(claims)


def union(claims: Sequence[Found], overlap: float) -> list[Found]:
    """Return all claims after non-maximum suppression per label; it does not depend on the least score."""
    kept: list[Found] = []
    for found in sorted(claims, key=lambda f: -f[2]):
        if not any(found[0] == k[0] and _overlap(found[1], k[1]) > overlap for k in kept):
            kept.append(found)
    return kept


def majority(claims: Sequence[Found], overlap: float) -> list[Found]:
    """Return one object per cluster: the mean box and score, and the number of annotators that claim it."""
    groups: list[list[Found]] = []
    for found in sorted(claims, key=lambda f: -f[2]):
        near = [
            g
            for g in groups
            if g[0][0] == found[0] and found[3] not in {f[3] for f in g} and _overlap(found[1], g[0][1]) >= overlap
        ]
        if near:
            max(near, key=lambda g: _overlap(found[1], g[0][1])).append(found)
        else:
            groups.append([found])
    return [
        (g[0][0], tuple(np.mean([f[1] for f in g], axis=0)), float(np.mean([f[2] for f in g])), len(g)) for g in groups
    ]


def weighted(claims: Sequence[Found], overlap: float) -> list[Found]:
    """Return the objects of weighted boxes fusion."""
    from ensemble_boxes import weighted_boxes_fusion

    labels = sorted({found[0] for found in claims})
    by = [[found for found in claims if found[3] == annotator] for annotator in sorted(annotators())]
    boxes, scores, names = weighted_boxes_fusion(
        [[[v / SIZE for v in found[1]] for found in one] for one in by],
        [[found[2] for found in one] for one in by],
        [[labels.index(found[0]) for found in one] for one in by],
        iou_thr=overlap,
    )
    return [
        (labels[int(k)], tuple(box * SIZE), float(score), "")
        for box, score, k in zip(boxes, scores, names, strict=True)
    ]


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared, 1e-9)


METHODS: dict[str, tuple[Method, dict[str, Sequence[Any]]]] = {
    "best single annotator": (single, {"annotator": tuple(annotators()), "score": SCORE}),
    "union, suppressed": (union, {"overlap": OVERLAP, "score": SCORE}),
    "majority": (majority, {"overlap": OVERLAP, "score": SCORE, "votes": VOTES}),
    "weighted boxes fusion": (weighted, {"overlap": OVERLAP, "score": SCORE}),
}


def chosen(found: Found, at: Mapping[str, Any]) -> bool:
    """Return whether an object is kept at a point of the grid."""
    return (
        found[2] >= at["score"]
        and found[3] == at.get("annotator", found[3])
        and ("votes" not in at or found[3] >= at["votes"])
    )


def tune(method: Method, grid: Mapping[str, Sequence[Any]], data: Sequence[Scenes]) -> dict[str, Any]:
    """Return the point of the grid with the best mean F1."""
    rest = {name: values for name, values in grid.items() if name != "overlap"}
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    for overlap in grid.get("overlap", (0.5,)):
        objects = [{image: method(claims, overlap) for image, claims in one.claims.items()} for one in data]
        for values in itertools.product(*rest.values()):
            at = {**dict(zip(rest, values, strict=True)), **({"overlap": overlap} if "overlap" in grid else {})}
            mean = float(
                np.mean(
                    [
                        f1({i: [f for f in found if chosen(f, at)] for i, found in o.items()}, one.truth)
                        for o, one in zip(objects, data, strict=True)
                    ]
                )
            )
            best = max(best, (mean, at), key=lambda pair: pair[0])
    return best[1]


def fuse_objects(method: Method, at: Mapping[str, Any], data: Scenes) -> dict[str, list[Found]]:
    """Return the objects of a method by image."""
    return {
        image: [found for found in method(claims, at.get("overlap", 0.5)) if chosen(found, at)]
        for image, claims in data.claims.items()
    }


# ---------------------------------------------------------------- the run


def ranking(data: Scenes) -> list[tuple[str, float, float]]:
    """Return (annotator, estimated reliability, F1 against the truth), the most reliable first."""
    from florence.config import EngineSettings
    from florence.engine.reliability import estimate_reliability

    claims, _, coverage = data.tables
    found = estimate_reliability(claims, coverage, EngineSettings())
    rows = [
        (name, found[name, KIND].value, f1(fuse_objects(single, {"annotator": name, "score": 0.0}, data), data.truth))
        for name in annotators()
    ]
    return sorted(rows, key=lambda row: -row[1])


def numbers(text: str) -> tuple[int, ...]:
    """Return the seeds of a list with commas."""
    return tuple(int(part) for part in text.split(","))


def run(count: int, seeds: Iterable[int], tuning: Iterable[int]) -> dict[str, Any]:
    """Return all figures; print each table when it is ready."""
    others = [scenes(count, seed) for seed in tuning]
    best = {}
    for name, (method, grid) in METHODS.items():
        print(f"tuning: {name}", flush=True)
        best[name] = tune(method, grid, others)
    figures: dict[str, Any] = {"tuned": best, "f1": {}, "reliability": {}, "calibration": {}}
    for seed in seeds:
        data = scenes(count, seed)
        objects = ours(data)
        kept = {image: [found for found in rows if found[3] == "kept"] for image, rows in objects.items()}
        figures["f1"][seed] = {"ours": f1(kept, data.truth)} | {
            name: f1(fuse_objects(method, best[name], data), data.truth) for name, (method, _) in METHODS.items()
        }
        figures["reliability"][seed] = ranking(data)
        figures["calibration"][seed] = calibration(objects, data.truth)
    methods = ["ours", *METHODS]
    print_table(
        "F1 of objects at IoU 0.5",
        [
            ("seed", *methods),
            *((seed, *(f"{row[method]:.3f}" for method in methods)) for seed, row in figures["f1"].items()),
        ],
    )
    print_table(
        "Tuned on other seeds",
        [("method", "at"), *((name, ", ".join(f"{k} {v}" for k, v in at.items())) for name, at in best.items())],
    )
    for seed, rows in figures["reliability"].items():
        print_table(
            f"Reliability, seed {seed}",
            [
                ("annotator", "estimated", "F1 against the truth"),
                *((name, f"{a:.3f}", f"{b:.3f}") for name, a, b in rows),
            ],
        )
    for seed, (error, bins) in figures["calibration"].items():
        print_table(
            f"Agreement, seed {seed}: expected calibration error {error:.3f}",
            [("confidence", "share right", "objects"), *((f"{a:.2f}", f"{r:.2f}", n) for a, r, n in bins)],
        )
    return figures


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000, help="of each seed (default 1000)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1, 2), help="measured (default 0,1,2)")
    parser.add_argument(
        "--tuning", type=numbers, default=(10, 11, 12), help="on which the others are tuned (default 10,11,12)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    given = parser.parse_args()
    if find_spec("ensemble_boxes") is None:
        sys.exit("weighted boxes fusion is not installed: pip install -e '.[benchmarks]' -c constraints.txt")
    figures = run(given.scenes, given.seeds, given.tuning)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
