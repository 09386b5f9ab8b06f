"""Quality of the audit: known errors of four kinds in given labels, ranked by `florence audit` and by cleanlab.

Errors (5% of the labels of each kind) are put into the labels of drawn scenes, of drawn detections, and, with --lvis,
of photos that two people have labelled: the first one's labels get the errors, the second one is an annotator. The
other annotators are drawn detectors. cleanlab, in an environment that this script makes, is given the same boxes: those
of the best detector, and those of all fused by weighted boxes fusion.

    python benchmarks/audit.py --lvis lvis-double-200.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import print_table
from _consensus_labels import engine_tables
from _detections import Detector, Scene, declared, look, make_things
from _label_errors import KINDS, Corrupted, Ranking, corrupt, judge_ranking
from _lvis import draw_experiment, read_double
from _samples import Found, Picture, Sample
from _scenarios import FAIR, GOOD, LOOSE, draw_scenario

CLEANLAB = "cleanlab==2.9.0"
ENVIRONMENT = Path.home() / ".cache" / "florence-benchmarks" / "cleanlab"
SCENE_SIZE = 128
WORLDS = ("scenes", "one", "two", "three", "five", "good-weak-family", "vocabularies", "hard-negatives", "no-scores")
PAIRS = ("second", "second-three", "three", "one")
FUSED_IOU = 0.55
THRESHOLDS = (0.2, 0.35, 0.5, 0.7, 0.95)
"""Probabilities that cleanlab is tried with; 0.95 (0.5 for wrong boxes) is its default. The truth chooses."""


# ---------------------------------------------------------------- what is audited


def draw_scenes(count: int, seed: int) -> Sample:
    """Return drawn scenes with the claims of three detectors."""
    from florence.sources.scenes import ScenesSource

    detectors: Mapping[str, Detector] = {"A": GOOD, "B": FAIR, "C": LOOSE}
    rng = np.random.default_rng([seed, 311])
    truths = [
        [Found(claim.text, claim.regions[0].bounds) for claim in image.truth if claim.task == "<OD>"]
        for image in ScenesSource(count=count, seed=seed, size=SCENE_SIZE).images(frozenset())
    ]
    names = tuple(sorted({item.name for truth in truths for item in truth}))
    alike = {name: tuple(names[k - k % 3 : k - k % 3 + 3]) for k, name in enumerate(names)}
    pictures = []
    for truth in truths:
        things = make_things([(item.name, item.box) for item in truth], rng)
        scene = Scene(SCENE_SIZE, SCENE_SIZE, things, names, alike)
        claims = {name: look(replace(one, vocabulary=names), scene, rng) for name, one in detectors.items()}
        pictures.append(Picture(SCENE_SIZE, SCENE_SIZE, "scenes", truth, claims))
    return Sample(pictures, declared({name: replace(d, vocabulary=names) for name, d in detectors.items()}))


# ---------------------------------------------------------------- rankings


def rank_by_audit(sample: Sample, known: Corrupted) -> Ranking:
    """Return the audit's ranking: the probabilities of its four errors."""
    from florence.audit.alignment import GivenLabels
    from florence.audit.others import AnnotatorClaims, find_other_items
    from florence.audit.scores import score_labels
    from florence.config import EngineSettings
    from florence.names import build_name_table
    from florence.records import AnnotatorProfile

    settings = EngineSettings()
    names = build_name_table(settings)
    claims, images, coverage = engine_tables(sample)
    profiles = tuple(
        AnnotatorProfile(name, "annotator", one.vocabulary, one.family) for name, one in sample.annotators.items()
    )
    labels = [(k, n, item) for k, items in enumerate(known.given) for n, item in enumerate(items)]
    given = GivenLabels(
        np.asarray([k for k, _, _ in labels]),
        np.asarray([n for _, n, _ in labels]),
        np.asarray([item.box for _, _, item in labels]).reshape(-1, 4),
        tuple(item.name for _, _, item in labels),
        np.ones(len(sample.pictures), bool),
        np.asarray([(picture.width, picture.height) for picture in sample.pictures]),
    )
    items = find_other_items(AnnotatorClaims(claims, coverage, profiles), images, settings, names)
    scores = score_labels(given, items, names)
    ends = np.searchsorted(given.image, np.arange(1, len(sample.pictures)))
    missing: list[list[tuple[Any, float]]] = [[] for _ in sample.pictures]
    for k in np.flatnonzero(scores.missing > 0).tolist():
        missing[int(items.image[k])].append((tuple(items.box[k].tolist()), float(scores.missing[k])))
    kinds = {kind: np.split(getattr(scores, kind), ends) for kind in KINDS if kind != "missing"}
    return Ranking(kinds, missing)


def judge_cleanlab(
    sample: Sample, known: Corrupted, claims: Sequence[Sequence[Found]]
) -> dict[str, tuple[float, float, float]]:
    """Return the figures of cleanlab's rankings by one set of predictions, of each kind those of its best threshold.

    It has no score for spurious labels: the better of bad location and swap is taken.
    """
    pictures = [
        {
            "labels": [[sample.names[f.name], *f.box, 1.0] for f in given],
            "predictions": [[sample.names[f.name], *f.box, 1.0 if f.score is None else f.score] for f in predicted],
        }
        for given, predicted in zip(known.given, claims, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.json", Path(folder) / "out.json"
        source.write_text(json.dumps({"names": len(sample.names), "thresholds": THRESHOLDS, "pictures": pictures}))
        program = Path(__file__).with_name("_cleanlab_scores.py")
        subprocess.run([find_cleanlab(), str(program), str(source), str(target)], check=True)
        found = json.loads(target.read_text())
    tried = [
        judge_ranking(known, _as_ranking(found, k, claims, spurious))
        for k in range(len(THRESHOLDS))
        for spurious in ("badloc", "swap")
    ]
    return {kind: max((figures[kind] for figures in tried), key=lambda values: values[2]) for kind in KINDS}


def _as_ranking(found: Mapping[str, Any], k: int, claims: Sequence[Sequence[Found]], spurious: str) -> Ranking:
    """Return cleanlab's scores by its k-th threshold as a ranking."""

    def errors(name: str) -> list[np.ndarray]:
        return [np.asarray([0.0 if v is None else 1 - v for v in values]) for values in found[name][k]]

    missing = [
        [(f.box, float(e)) for f, e in zip(predicted, values, strict=True) if e > 0]
        for predicted, values in zip(claims, errors("overlooked"), strict=True)
    ]
    return Ranking({"swapped": errors("swap"), "misplaced": errors("badloc"), "spurious": errors(spurious)}, missing)


def find_cleanlab() -> str:
    """Return the Python of an environment with cleanlab, which is made if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").exists():
        print(f"making an environment with {CLEANLAB} in {ENVIRONMENT}", file=sys.stderr)
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", CLEANLAB], check=True)
        (ENVIRONMENT / "ready").touch()
    return str(python)


def fuse_by_weights(sample: Sample) -> list[list[Found]]:
    """Return the boxes of all annotators, fused by weighted boxes fusion."""
    from ensemble_boxes import weighted_boxes_fusion

    names = {number: name for name, number in sample.names.items()}
    result = []
    for picture in sample.pictures:
        size = np.tile([picture.width, picture.height], 2)
        by = [picture.claims.get(name, ()) for name in sample.annotators]
        boxes, scores, labels = weighted_boxes_fusion(
            [[np.clip(np.asarray(f.box) / size, 0, 1).tolist() for f in one] for one in by],
            [[1.0 if f.score is None else f.score for f in one] for one in by],
            [[sample.names[f.name] for f in one] for one in by],
            iou_thr=FUSED_IOU,
        )
        result.append(
            [
                Found(names[int(label)], tuple((box * size).tolist()), float(score))
                for box, score, label in zip(boxes, scores, labels, strict=True)
            ]
        )
    return result


# ---------------------------------------------------------------- running


def measure(sample: Sample, seed: int) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return the figures of each ranking, by method and kind."""
    known = corrupt(sample, seed)
    best = next(iter(sample.annotators))
    single = [list(picture.claims.get(best, ())) for picture in sample.pictures]
    result = {
        "audit": judge_ranking(known, rank_by_audit(sample, known)),
        f"cleanlab ({best})": judge_cleanlab(sample, known, single),
    }
    if len(sample.annotators) > 1:
        fused = fuse_by_weights(sample)
        result["cleanlab (fused)"] = judge_cleanlab(sample, known, fused)
    return result


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="pictures of each drawn world (default 400)")
    parser.add_argument("--seeds", default="0", help="comma-separated (default 0)")
    parser.add_argument("--worlds", default=",".join(WORLDS), help="of drawn worlds, comma-separated; empty for none")
    parser.add_argument("--lvis", type=Path, metavar="FILE", help="a file of double annotations in LVIS's form")
    parser.add_argument("--pairs", default=",".join(PAIRS), help="experiments with that file, comma-separated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for seed in map(int, options.seeds.split(",")):
        for world in filter(None, options.worlds.split(",")):
            drawn = (
                draw_scenes(options.images, seed) if world == "scenes" else draw_scenario(world, options.images, seed)
            )
            figures[f"{world}, seed {seed}"] = measure(drawn, seed)
            print_world(f"{world}, seed {seed}", figures[f"{world}, seed {seed}"])
        if options.lvis:
            doubles = read_double(options.lvis)
            for pair in options.pairs.split(","):
                title = f"lvis {pair}, seed {seed}"
                figures[title] = measure(draw_experiment(doubles, pair, seed), seed)
                print_world(title, figures[title])
    print_summary(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def print_world(title: str, found: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> None:
    """Print precision at k, recall at 2 k and average precision of each kind and method."""
    rows: list[list[str]] = [["", *KINDS]]
    for method, values in found.items():
        rows.append([method, *(" / ".join(f"{v:.2f}" for v in values[kind]) for kind in KINDS)])
    print_table(f"{title}: precision at k / recall at 2 k / average precision", rows)
    sys.stdout.flush()


def print_summary(figures: Mapping[str, Mapping[str, Mapping[str, tuple[float, float, float]]]]) -> None:
    """Print in how many worlds the audit is better than each of cleanlab's rankings, by kind and figure."""
    rows: list[list[str]] = [["the audit is better in", *KINDS]]
    for n, what in enumerate(("precision at k", "recall at 2 k", "average precision")):
        counts = []
        for kind in KINDS:
            better = [
                found["audit"][kind][n] > max(v[kind][n] for method, v in found.items() if method != "audit")
                for found in figures.values()
            ]
            counts.append(f"{sum(better)} of {len(better)}")
        rows.append([what, *counts])
    print_table("Summary", rows)


if __name__ == "__main__":
    main()
