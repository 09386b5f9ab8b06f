"""How many reviewed images suffice to judge every annotator.

A person names every object of k images: some at random, or those that `florence review export` puts first. Each
annotator is judged on them: F1 of its claims (name and IoU of 0.5). This is compared with its F1 on all images, which
nobody would know. Then the engine gets the k images as a person's complete labels; its labels of the other images are
compared with the truth.

    python benchmarks/anchors.py
    python benchmarks/anchors.py --cases three --seeds 11 --images 400 --json FILE
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from _common import print_table
from _consensus_labels import engine_profiles, engine_tables, fuse_sample
from _samples import Objects, Sample, objects, true_objects
from _scoring import f1, hits
from review import CASES, draw

COUNTS = (0, 10, 20, 40, 80, 160)
"""Reviewed images."""
CLEAR = 0.03
"""Two annotators whose F1 differs by so much should be told apart."""
Figures = dict[str, float]


def judge_annotators(sample: Sample, order: Sequence[int]) -> dict[int, Figures]:
    """Return, by the number of reviewed images, how well annotators are judged by the first ones of ``order``."""
    truth, names = true_objects(sample), list(sample.annotators)
    claims = [_claims_of(sample, name) for name in names]
    right = [hits(found, truth, (0.5,))[:, 0] for found in claims]
    whole = np.asarray([f1(r, len(truth.score)) for r in right])
    result = {}
    for count in COUNTS[1:]:
        chosen = np.isin(np.arange(len(sample.pictures)), order[:count])
        true = int(chosen[truth.picture].sum())
        seen = np.asarray([f1(r[chosen[found.picture]], true) for found, r in zip(claims, right, strict=True)])
        pairs = [(a, b) for a, b in combinations(range(len(names)), 2) if abs(whole[a] - whole[b]) >= CLEAR]
        told = [(seen[a] - seen[b]) * (whole[a] - whole[b]) > 0 for a, b in pairs]
        error = np.abs(seen - whole)
        result[count] = {
            "mean error": float(error.mean()),
            "largest error": float(error.max()),
            "pairs in order": float(np.mean(told)) if pairs else 1.0,
        }
    return result


def _claims_of(sample: Sample, name: str) -> Objects:
    return objects(
        [
            (k, sample.names[item.name], item.box, 1.0 if item.score is None else item.score, 1, True)
            for k, picture in enumerate(sample.pictures)
            for item in picture.claims.get(name, ())
        ]
    )


def measure_labels(sample: Sample, order: Sequence[int]) -> dict[int, float]:
    """Return, by the number of images that a person has labelled, the F1 of the engine's labels of all the others.

    The same images are measured for each number: those that are in none of the reviews.
    """
    first = list(order[: max(COUNTS)])
    rest = sorted(set(range(len(sample.pictures))) - set(first))
    turned = replace(sample, pictures=[sample.pictures[k] for k in [*first, *rest]])
    truth = true_objects(turned)
    truth = truth.where(truth.picture >= len(first))
    result = {}
    for count in COUNTS:
        found = fuse_sample(turned, count)
        found = found.where(found.kept & (found.picture >= len(first)))
        result[count] = f1(hits(found, truth, (0.5,))[:, 0], len(truth.score))
    return result


def rank_pictures(sample: Sample) -> list[int]:
    """Return the pictures in the order in which people would see them."""
    from florence.config import EngineSettings
    from florence.engine import fuse
    from florence.review.ranking import rank_images

    claims, images, coverage = engine_tables(sample)
    labels = fuse(claims, images, coverage, EngineSettings(), 0, engine_profiles(sample))
    return [int(image_id, 16) for image_id in rank_images(labels, images, len(sample.pictures)).image_ids]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=("scenes", "three", "five", "good-weak"))
    parser.add_argument("--images", type=int, default=600, help="images of a case (default 600)")
    parser.add_argument("--seeds", type=int, nargs="+", default=(101, 102, 103), help="default 101 102 103")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    figures = {}
    for case in options.cases:
        runs = [measure_case(case, options.images, seed) for seed in options.seeds]
        figures[case] = {
            way: {str(count): _mean([run[way][count] for run in runs]) for count in COUNTS} for way in runs[0]
        }
        print_case(case, figures[case])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure_case(case: str, images: int, seed: int) -> dict[str, dict[int, Figures]]:
    """Return the figures of one draw, by the way in which images are chosen and by their number."""
    sample = draw(case, images, seed)
    by_chance = np.random.default_rng(seed).permutation(len(sample.pictures)).tolist()
    result = {}
    for way, order in (("at random", by_chance), ("by review export", rank_pictures(sample))):
        judged, labels = judge_annotators(sample, order), measure_labels(sample, order)
        result[way] = {count: {**judged.get(count, {}), "f1 of labels": labels[count]} for count in COUNTS}
    return result


def _mean(runs: Sequence[Figures]) -> Figures:
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}


def print_case(case: str, figures: Mapping[str, Mapping[str, Figures]]) -> None:
    """Print a row for each way and figure."""
    rows: list[list[str]] = [["images are chosen", "measure", *map(str, COUNTS)]]
    for way, found in figures.items():
        for name in ("mean error", "largest error", "pairs in order", "f1 of labels"):
            rows.append([way, name, *(_show(found[str(count)].get(name)) for count in COUNTS)])
    print_table(f"{case}, by the number of reviewed images", rows)


def _show(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
