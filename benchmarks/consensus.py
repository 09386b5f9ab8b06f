"""What the consensus is worth: six annotators of drawn scenes, fused by the engine and in four other ways.

One annotator is bad and two depend on each other. The other ways are tuned by the same grid on seeds that are not
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
"""The grid: IoU from which boxes are one, least score (of fused boxes, where a way has one), least number of votes."""
SIZE = 128
KIND = "<OD>"

Box = tuple[float, float, float, float]
Found = tuple[str, Box, float, Any]
"""Label, box, score, and the annotator that claims it, or how many do."""
Way = Callable[[Sequence[Found], float], list[Found]]
"""The claims about an image, and the IoU from which boxes are one → all objects; they are filtered later."""


def annotators() -> dict[str, dict[str, Any]]:
    """The demo's three, one with half of its labels wrong and many false positives, and two that share most claims."""
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
    said: dict[str, list[Found]]
    tables: tuple[Any, Any, Any]


def scenes(count: int, seed: int) -> Scenes:
    """Drawn scenes and the claims of all annotators."""
    import pyarrow as pa

    from florence.annotators import ImageBatch
    from florence.annotators.simulated import Simulated
    from florence.records import IMAGES, ImageRecord, annotate, annotations_table
    from florence.sources.scenes import ScenesSource

    simulated = {
        name: Simulated(name=name, **{**options, "seed": seed, "tasks": (KIND,)})
        for name, options in annotators().items()
    }
    truth, said, rows, records, seen = {}, {}, [], [], []
    for number, found in enumerate(ScenesSource(count=count, seed=seed, size=SIZE, scale=1.12).images(frozenset())):
        record = ImageRecord(f"{number:064x}", SIZE, SIZE, "scenes", found.name, "", None, "train")
        known = annotate(record.image_id, found.truth, "truth", "1")
        truth[record.image_id] = [(row.text, row.regions[0].box, 1.0, "truth") for row in known if row.task == KIND]
        said[record.image_id] = []
        for name, annotator in simulated.items():
            (claims,) = annotator.annotate(ImageBatch(records=(record,), truth=(known,)))
            rows += annotate(record.image_id, claims, name, "1")
            said[record.image_id] += [(claim.text, claim.regions[0].box, claim.score, name) for claim in claims]
            seen.append(
                {"image_id": record.image_id, "annotator": name, "version": "1", "claims": len(claims), "error": ""}
            )
        records.append({name: getattr(record, name) for name in IMAGES.names if name != "bytes"})
    images = pa.Table.from_pylist(records, schema=pa.schema([IMAGES.field(name) for name in records[0]]))
    return Scenes(truth, said, (annotations_table(rows), images, pa.Table.from_pylist(seen)))


# ---------------------------------------------------------------- measuring


def hits(said: Sequence[Found], true: Sequence[Found]) -> list[bool]:
    """Whether each object is a true one: same label, IoU of at least 0.5; highest score first, each true one once."""
    from florence.geometry import box_iou

    result, left = [False] * len(said), set(range(len(true)))
    if not said or not true:
        return result
    overlap = box_iou(np.asarray([f[1] for f in said]), np.asarray([f[1] for f in true]))
    for k in sorted(range(len(said)), key=lambda k: -said[k][2]):
        fits = [j for j in left if overlap[k, j] >= 0.5 and said[k][0] == true[j][0]]
        if fits:
            left.remove(max(fits, key=lambda j: overlap[k, j]))
            result[k] = True
    return result


def f1(said: Mapping[str, Sequence[Found]], truth: Mapping[str, Sequence[Found]]) -> float:
    """F1 over the objects of all images."""
    right = sum(sum(hits(said.get(image, ()), true)) for image, true in truth.items())
    return 2 * right / max(sum(map(len, said.values())) + sum(map(len, truth.values())), 1)


def calibration(
    said: Mapping[str, Sequence[Found]], truth: Mapping[str, Sequence[Found]]
) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error of confidence in ten bins, and (mean confidence, share right, objects) of each bin."""
    pairs = np.asarray(
        [
            (f[2], hit)
            for image, true in truth.items()
            for f, hit in zip(said.get(image, ()), hits(said.get(image, ()), true), strict=True)
        ]
    )
    bins = np.minimum((pairs[:, 0] * 10).astype(int), 9)
    rows = [
        (float(pairs[bins == k, 0].mean()), float(pairs[bins == k, 1].mean()), int((bins == k).sum()))
        for k in sorted(set(bins.tolist()))
    ]
    return sum(abs(a - r) * n for a, r, n in rows) / len(pairs), rows


# ---------------------------------------------------------------- the ways


def ours(data: Scenes, settings: Any = None) -> dict[str, list[Found]]:
    """The engine's objects, kept and dropped, by image; confidence as their score."""
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


def single(said: Sequence[Found], overlap: float) -> list[Found]:
    """Each annotator's objects as they are."""
    return list(said)


def union(said: Sequence[Found], overlap: float) -> list[Found]:
    """All claims, suppressed label by label (NMS): what is left does not depend on the least score."""
    kept: list[Found] = []
    for found in sorted(said, key=lambda f: -f[2]):
        if not any(found[0] == k[0] and _overlap(found[1], k[1]) > overlap for k in kept):
            kept.append(found)
    return kept


def majority(said: Sequence[Found], overlap: float) -> list[Found]:
    """One object of each cluster, its box and score the means, and how many annotators claim it."""
    groups: list[list[Found]] = []
    for found in sorted(said, key=lambda f: -f[2]):
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


def weighted(said: Sequence[Found], overlap: float) -> list[Found]:
    """Weighted boxes fusion."""
    from ensemble_boxes import weighted_boxes_fusion

    labels = sorted({found[0] for found in said})
    by = [[found for found in said if found[3] == annotator] for annotator in sorted(annotators())]
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


WAYS: dict[str, tuple[Way, dict[str, Sequence[Any]]]] = {
    "best single annotator": (single, {"annotator": tuple(annotators()), "score": SCORE}),
    "union, suppressed": (union, {"overlap": OVERLAP, "score": SCORE}),
    "majority": (majority, {"overlap": OVERLAP, "score": SCORE, "votes": VOTES}),
    "weighted boxes fusion": (weighted, {"overlap": OVERLAP, "score": SCORE}),
}


def chosen(found: Found, at: Mapping[str, Any]) -> bool:
    """Whether an object is good enough at a point of the grid."""
    return (
        found[2] >= at["score"]
        and found[3] == at.get("annotator", found[3])
        and ("votes" not in at or found[3] >= at["votes"])
    )


def tuned(way: Way, grid: Mapping[str, Sequence[Any]], data: Sequence[Scenes]) -> dict[str, Any]:
    """The point of the grid with the best F1, on average."""
    rest = {name: values for name, values in grid.items() if name != "overlap"}
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    for overlap in grid.get("overlap", (0.5,)):
        objects = [{image: way(said, overlap) for image, said in one.said.items()} for one in data]
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


def fused(way: Way, at: Mapping[str, Any], data: Scenes) -> dict[str, list[Found]]:
    """A way's objects by image."""
    return {
        image: [found for found in way(said, at.get("overlap", 0.5)) if chosen(found, at)]
        for image, said in data.said.items()
    }


# ---------------------------------------------------------------- the run


def ranking(data: Scenes) -> list[tuple[str, float, float]]:
    """(annotator, estimated reliability, F1 against the truth), the most reliable first."""
    from florence.config import EngineSettings
    from florence.engine.reliability import estimate_reliability

    claims, _, coverage = data.tables
    found = estimate_reliability(claims, coverage, EngineSettings())
    rows = [
        (name, found[name, KIND].value, f1(fused(single, {"annotator": name, "score": 0.0}, data), data.truth))
        for name in annotators()
    ]
    return sorted(rows, key=lambda row: -row[1])


def numbers(text: str) -> tuple[int, ...]:
    """Seeds, with commas."""
    return tuple(int(part) for part in text.split(","))


def run(count: int, seeds: Iterable[int], tuning: Iterable[int]) -> dict[str, Any]:
    """All figures; tables are printed as they are had."""
    others = [scenes(count, seed) for seed in tuning]
    best = {}
    for name, (way, grid) in WAYS.items():
        print(f"tuning: {name}", flush=True)
        best[name] = tuned(way, grid, others)
    figures: dict[str, Any] = {"tuned": best, "f1": {}, "reliability": {}, "calibration": {}}
    for seed in seeds:
        data = scenes(count, seed)
        objects = ours(data)
        kept = {image: [found for found in rows if found[3] == "kept"] for image, rows in objects.items()}
        figures["f1"][seed] = {"ours": f1(kept, data.truth)} | {
            name: f1(fused(way, best[name], data), data.truth) for name, (way, _) in WAYS.items()
        }
        figures["reliability"][seed] = ranking(data)
        figures["calibration"][seed] = calibration(objects, data.truth)
    ways = ["ours", *WAYS]
    print_table(
        "F1 of objects at IoU 0.5",
        [("seed", *ways), *((seed, *(f"{row[way]:.3f}" for way in ways)) for seed, row in figures["f1"].items())],
    )
    print_table(
        "Tuned on other seeds",
        [("way", "at"), *((name, ", ".join(f"{k} {v}" for k, v in at.items())) for name, at in best.items())],
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
    """The command line."""
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
