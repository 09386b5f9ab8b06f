"""Which images a person sees first: errors found in the first images that people review.

Images have true objects, which nothing but this script sees, and the labels that the engine makes of annotators'
claims. An error is a kept object that is not there (name and IoU of 0.5), or a true one that is not kept. The order of
`florence review export` is compared with the mean confidence of an image's labels, with the number of its labels, with
chance, and with the order that knows the errors.

    python benchmarks/review.py
    python benchmarks/review.py --seeds 11 12 --images 400 --json FILE
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import print_table
from _consensus_labels import engine_profiles, engine_tables
from _samples import Objects, Row, Sample, objects, true_objects
from _scenarios import draw_scenario
from _scoring import hits
from _simulated import draw_scenes

CASES = ("scenes", "three", "five", "good-weak", "hard-negatives", "vocabularies", "crowd-60")
"""The project's own drawn scenes, and experiments of `_scenarios`."""
SHARES = (0.025, 0.05, 0.1, 0.2)
"""Shares of the images that are reviewed."""
OURS = "wrong labels"
ORDERS = (OURS, "mean confidence", "number of labels", "chance", "errors known")


def measure(sample: Sample) -> dict[str, list[float]]:
    """Return the share of all errors that is found in each of `SHARES` of the images, by order."""
    from florence.config import EngineSettings
    from florence.engine import fuse
    from florence.review.ranking import rank_images, select_voted

    claims, images, coverage = engine_tables(sample)
    labels = fuse(claims, images, coverage, EngineSettings(), 0, engine_profiles(sample))
    voted = select_voted(labels)
    count = len(sample.pictures)
    kept = _kept_objects(sample, voted)
    errors = _count_errors(kept, true_objects(sample), count)
    picture = np.asarray([int(image_id, 16) for image_id in voted["image_id"].to_pylist()], int)
    doubt = np.bincount(picture, 1 - voted["confidence"].to_numpy(), minlength=count)
    mean = doubt / np.maximum(np.bincount(picture, minlength=count), 1)
    ranked = [int(image_id, 16) for image_id in rank_images(labels, images, count).image_ids]
    orders = {
        OURS: np.asarray([*ranked, *sorted(set(range(count)) - set(ranked))]),
        "mean confidence": np.argsort(-mean, kind="stable"),
        "number of labels": np.argsort(-np.bincount(kept.picture, minlength=count), kind="stable"),
        "errors known": np.argsort(-errors, kind="stable"),
    }
    total = max(errors.sum(), 1)
    found = {
        name: [float(errors[order[: round(share * count)]].sum() / total) for share in SHARES]
        for name, order in orders.items()
    }
    found["chance"] = list(SHARES)
    return found


def _kept_objects(sample: Sample, voted: Any) -> Objects:
    from florence.records import table_annotations

    rows: list[Row] = [
        (int(row.image_id, 16), sample.names[row.text], row.regions[0].bounds, row.confidence or 0.0, 1, True)
        for row in table_annotations(voted)
        if row.kept
    ]
    return objects(rows)


def _count_errors(found: Objects, truth: Objects, count: int) -> np.ndarray:
    """Return (count,) how many kept objects are not there and how many true ones are not kept, of each picture."""
    right = hits(found, truth, (0.5,))[:, 0]
    spurious = np.bincount(found.picture[~right], minlength=count)
    missing = np.bincount(truth.picture, minlength=count) - np.bincount(found.picture[right], minlength=count)
    return spurious + missing


def draw(case: str, images: int, seed: int) -> Sample:
    """Return the pictures of a case."""
    return draw_scenes(images, seed) if case == "scenes" else draw_scenario(case, images, seed)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="what is measured (default all)")
    parser.add_argument("--images", type=int, default=600, help="images of a case (default 600)")
    parser.add_argument("--seeds", type=int, nargs="+", default=(101, 102, 103), help="default 101 102 103")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = {}
    for case in options.cases:
        runs = [measure(draw(case, options.images, seed)) for seed in options.seeds]
        figures[case] = {name: np.mean([run[name] for run in runs], axis=0).tolist() for name in ORDERS}
        print_case(case, figures[case])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def print_case(case: str, found: Mapping[str, Sequence[float]]) -> None:
    """Print the shares of errors found, an order a row."""
    head = ["order", *(f"{share:.1%} of the images" for share in SHARES)]
    print_table(case, [head, *([name, *(f"{value:.1%}" for value in found[name])] for name in ORDERS)])


if __name__ == "__main__":
    main()
