"""The consensus of real detectors in composites of cut-outs of real photos: ours and what it is compared with.

Detectors are trained here in minutes: a good one, a middling one, two weak ones of one recipe and the same pictures (a
family), and one that knows half of the names. Two annotators place the names of a classifier by its activations:
relatives whose boxes are rough. Another one names the boxes of the good detector. All that is tuned is tuned on other
pictures than it is measured in; ours has its defaults.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _consensus_labels import fuse_sample
from _cutouts import (
    HOW_TO_GET_STAMPS,
    Composite,
    Cutouts,
    draw_composites,
    packaged_backgrounds,
    packaged_cutouts,
    stamp_cutouts,
)
from _rivals import run_rivals
from _samples import Declared, Found, Picture, Sample, true_objects
from _scoring import judge
from _small_detectors import Recipe, save_detector, train_detector

from florence.annotators import ANNOTATORS, ImageBatch
from florence.records import Claim, ImageRecord, annotate

EXPORT = {"layout": "yolo", "threshold": 0.05, "nms_iou": 0.55}
"""How detectors are read: almost all that they say, as detectors are usually exported."""
TRAINED = ("good", "middling", "weak", "weak_again", "half")
ACTIVATION = {"objects_small": "lite0", "objects_large": "lite2"}
SCALES = (1.0, 1.5)
"""Sizes of a picture at which activations are looked at: fewer than the default's, to take less time."""
CROPS = "crops"
SETS: Mapping[str, tuple[str, ...]] = {
    "good": ("good",),
    "activation": tuple(ACTIVATION),
    "good, activation": ("good", *ACTIVATION),
    "good, crops": ("good", CROPS),
    "good, crops, activation": ("good", CROPS, *ACTIVATION),
    "half, activation": ("half", *ACTIVATION),
    "middling, activation": ("middling", *ACTIVATION),
    "weak, activation": ("weak", *ACTIVATION),
    "good, weak": ("good", "weak"),
    "good, weak family": ("good", "weak", "weak_again"),
    "good, middling": ("good", "middling"),
    "good, half": ("good", "half"),
    "good, middling, weak": ("good", "middling", "weak"),
    "good, middling, half": ("good", "middling", "half"),
    "middling, weak family": ("middling", "weak", "weak_again"),
    "five detectors": TRAINED,
    "all": (*TRAINED, CROPS, *ACTIVATION),
}
FIGURES = {"F1": "f1", "at 0.75": "f1_75", "AP": "ap"}


def recipes(names: Sequence[str], seed: int) -> dict[str, tuple[Recipe, slice]]:
    """Return how each detector is trained, and on which of `PICTURES` pictures."""
    names = tuple(names)
    return {
        "good": (Recipe(names, side=320, steps=1000, seed=seed + 1), slice(0, 700)),
        "middling": (Recipe(names, steps=250, seed=seed + 2), slice(500, 700)),
        "weak": (Recipe(names, features=16, steps=450, seed=seed + 3), slice(400, 800)),
        "weak_again": (Recipe(names, features=16, steps=450, seed=seed + 4), slice(400, 800)),
        "half": (Recipe(names[::2], steps=500, seed=seed + 5), slice(300, 800)),
    }


PICTURES = 800


def declared(name: str, names: Sequence[str]) -> Declared:
    """Return what a workspace's settings say of an annotator."""
    if name in ACTIVATION or name == CROPS:
        return Declared(family="imagenet", names_only=name == CROPS)
    known = tuple(names[::2] if name == "half" else names)
    return Declared(known, "weak" if name.startswith("weak") else "")


def train_all(folder: Path, cutouts: Cutouts, seed: int) -> dict[str, Any]:
    """Return the annotators, trained or ready, whose files are in ``folder``."""
    pictures = list(draw_composites(PICTURES, seed, cutouts, packaged_backgrounds(), unit=10))
    found: dict[str, Any] = {}
    for name, (recipe, which) in recipes(cutouts.names, seed).items():
        began = time.monotonic()
        path = save_detector(train_detector(recipe, pictures[which]), folder / f"{name}.onnx")
        found[name] = ANNOTATORS.get("onnx_detector")(name=name, model=str(path), labels=recipe.names, **EXPORT)
        print(f"{name}: trained in {time.monotonic() - began:.0f} s", flush=True)
    for name, weights in ACTIVATION.items():
        found[name] = ANNOTATORS.get("activation")(name=name, weights=weights, tasks=("<OD>",), scales=SCALES)
    found[CROPS] = ANNOTATORS.get("crop_classifier")(name=CROPS, labels=cutouts.names, min_score=0.3)
    for annotator in found.values():
        annotator.load()
    return found


def look(annotators: Mapping[str, Any], composites: Sequence[Composite], names: Sequence[str]) -> Sample:
    """Return composites with the claims of all annotators."""
    pictures = []
    for number, composite in enumerate(composites):
        height, width = composite.pixels.shape[:2]
        record = ImageRecord(f"{number:064x}", width, height, "photos", str(number), "", None, "train")
        batch = ImageBatch(records=(record,), pixels=(composite.pixels,))
        claims: dict[str, list[Found]] = {}
        answers: dict[str, list[Claim]] = {}
        for name, annotator in annotators.items():
            if name == CROPS:
                boxed = annotate(record.image_id, answers["good"], "good", "1")
                batch = ImageBatch(batch.records, batch.pixels, (tuple(boxed),))
            answers[name] = annotator.annotate(batch)[0]
            claims[name] = [*map(_found, answers[name])]
        pictures.append(Picture(width, height, "photos", composite.objects, claims))
    return Sample(pictures, {name: declared(name, names) for name in annotators})


def _found(claim: Claim) -> Found:
    region = claim.regions[0]
    if region.box is None:
        raise SystemExit(f"an object without a box: {claim}")
    return Found(claim.text or "", region.box, claim.score if region.score is None else region.score)


def subset(sample: Sample, chosen: Sequence[str]) -> Sample:
    """Return a sample with some of its annotators."""
    pictures = [
        Picture(p.width, p.height, p.source, p.truth, {name: p.claims[name] for name in chosen})
        for p in sample.pictures
    ]
    return Sample(pictures, {name: sample.annotators[name] for name in chosen}, sample.names)


def measure(tuning: Sample, measured: Sample, gold: int) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the figures of ours and the others for each of `SETS`."""
    result = {}
    for title, chosen in SETS.items():
        part = subset(measured, chosen)
        truth = true_objects(part)
        found = {"ours": fuse_sample(part), **run_rivals(subset(tuning, chosen), part)}
        result[title] = {name: judge(objects, truth) for name, objects in found.items()}
        if gold:
            known = fuse_sample(part, gold)
            result[title]["ours, gold"] = judge(known.where(known.picture >= gold), truth.where(truth.picture >= gold))
        print_row(title, result[title])
    return result


def print_row(title: str, figures: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print one line a set: F1 at 0.5 and 0.75 and AP of each method, then how honest our confidence is."""
    cells = [f"{name} " + "/".join(f"{one[key]:.3f}" for key in FIGURES.values()) for name, one in figures.items()]
    ours = figures["ours"]
    sure = "none" if ours["right at 0.9"] is None else f"{ours['right at 0.9']:.2f} of {ours['sure']}"
    print(f"{title:24} | {' | '.join(cells)} | ECE {ours['ece']:.3f}, right at 0.9: {sure}", flush=True)


def main() -> None:
    """Train, look, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stamps",
        type=Path,
        metavar="FOLDER",
        help=f"cut-outs are Tux Paint's stamps ({HOW_TO_GET_STAMPS}), and not those of packages",
    )
    parser.add_argument("--images", type=int, default=120, help="pictures measured, and as many to tune (default 120)")
    parser.add_argument(
        "--gold",
        type=int,
        default=0,
        metavar="N",
        help="also ours with the truth of N pictures, measured in the others",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    cutouts = stamp_cutouts(options.stamps) if options.stamps else packaged_cutouts()
    backgrounds = packaged_backgrounds()
    with tempfile.TemporaryDirectory() as folder:
        annotators = train_all(Path(folder), cutouts, 10 * options.seed)
        samples = [
            look(annotators, list(draw_composites(options.images, seed, cutouts, backgrounds, 0.5)), cutouts.names)
            for seed in (10_000 + options.seed, 20_000 + options.seed)
        ]
    print(f"{' / '.join(FIGURES)}, {options.images} pictures, {len(true_objects(samples[1]).score)} objects")
    figures = measure(*samples, options.gold)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
