"""Real geometry and real disagreement: images that two people have labelled, and detections drawn on one's objects.

The file is in the form of LVIS's double annotations: COCO instances whose annotations have a ``rater_id``. The first
rater is the truth, the second one an annotator, and further annotators are detectors of `_detections` that look at the
first one's objects. Categories that are not labelled exhaustively in an image are left out of it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from _detections import Detector, Scene, declared, draw_box, look, make_things, tempting_things
from _samples import Declared, Found, Picture, Sample
from _scenarios import EAGER, FAIR, GOOD, LOOSE, MIDDLING, SHY, TIGHT, WEAK, WIDE

SECOND = "second rater"


@dataclass(frozen=True)
class Labelled:
    """One image: its size, and what each of the two people found."""

    width: int
    height: int
    first: Sequence[Found]
    second: Sequence[Found]


@dataclass(frozen=True)
class Doubles:
    """Images that two people have labelled, the names, and the look-alikes of each name."""

    images: Sequence[Labelled]
    names: tuple[str, ...]
    alike: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Experiment:
    """Detectors by name, and whether the second rater is an annotator too.

    ``human``: the second rater is declared to be a person. ``hard_negatives``: mean number of places that tempt all
    detectors; ``sources``: of images, each with skills of its own.
    """

    detectors: Mapping[str, Detector] = field(default_factory=dict)
    second: bool = True
    human: bool = False
    hard_negatives: float = 0.6
    sources: int = 1


A, B, C, D, E = GOOD, FAIR, LOOSE, WEAK, MIDDLING
WEAK_FAMILY = replace(WEAK, family="weak")
MIDDLING_FAMILY = replace(MIDDLING, family="middling")
FIVE = {"A": A, "B": B, "C": C, "D": D, "E": E}
NONE = {name: replace(d, scores="none") for name, d in {"A": A, "B": B, "C": C}.items()}

EXPERIMENTS: dict[str, Experiment] = {
    "second": Experiment(),
    "second-good": Experiment({"A": A}),
    "second-two": Experiment({"A": A, "B": B}),
    "second-three": Experiment({"A": A, "B": B, "C": C}),
    "second-five": Experiment(FIVE),
    "second-weak": Experiment({"D": D}),
    "second-weak-family": Experiment({"D": WEAK_FAMILY, "D2": replace(WEAK_FAMILY, noise=0.13)}),
    "one": Experiment({"A": A}, second=False),
    "two": Experiment({"A": A, "B": B}, second=False),
    "three": Experiment({"A": A, "B": B, "C": C}, second=False),
    "five": Experiment(FIVE, second=False),
    "eight": Experiment({**FIVE, "F": SHY, "G": EAGER, "H": TIGHT}, second=False),
    "good-weak": Experiment({"A": A, "D": D}, second=False),
    "good-weak-family": Experiment({"A": A, "D": WEAK_FAMILY, "D2": replace(WEAK_FAMILY, noise=0.13)}, second=False),
    "family-of-three": Experiment(
        {"A": A, "E1": MIDDLING_FAMILY, "E2": replace(MIDDLING_FAMILY, noise=0.07), "E3": MIDDLING_FAMILY}, second=False
    ),
    "hard-negatives": Experiment(FIVE, hard_negatives=4),
    "no-scores": Experiment(NONE),
    "long-tail": Experiment({"A": replace(A, tail=18.0), "B": replace(B, tail=25.0), "C": replace(C, tail=12.0)}),
    "two-sources": Experiment({"A": A, "B": B, "E": E}, sources=2),
    "wide": Experiment({"W": WIDE, "B": B}),
    "second-human": Experiment({"A": A, "B": B, "C": C}, human=True),
}


def read_double(path: Path | str) -> Doubles:
    """Return the images of a file of double annotations.

    Raises ValueError if the file is not in that form.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        names = {int(row["id"]): str(row["name"]) for row in data["categories"]}
        found: dict[tuple[int, str], list[tuple[int, Found]]] = defaultdict(list)
        for row in data["annotations"]:
            # numbers and lists are texts in some versions of the file
            box = json.loads(row["bbox"]) if isinstance(row["bbox"], str) else row["bbox"]
            category = int(row["category_id"])
            left, top, width, height = (float(v) for v in box)
            item = Found(names[category], (left, top, left + width, top + height))
            if width > 1 and height > 1:
                found[int(row["image_id"]), str(row["rater_id"])].append((category, item))
        first, second = sorted({rater for _, rater in found})
        images = []
        for row in sorted(data["images"], key=lambda row: int(row["id"])):
            partly = set(row.get("not_exhaustive_category_ids", ()))
            raters = [
                [item for category, item in found[int(row["id"]), rater] if category not in partly]
                for rater in (first, second)
            ]
            images.append(Labelled(int(row["width"]), int(row["height"]), *raters))
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path} holds no double annotations in LVIS's form (two values of rater_id): {error!r}"
        raise ValueError(message) from error
    images = [image for image in images if image.first]
    return Doubles(images, *group_look_alikes(images))


def group_look_alikes(images: Sequence[Labelled]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the names, and the look-alikes of each: three names whose objects have about one size."""
    sides: dict[str, list[float]] = defaultdict(list)
    for image in images:
        for item in (*image.first, *image.second):
            box = item.box
            sides[item.name].append((box[2] - box[0]) * (box[3] - box[1]) / (image.width * image.height))
    names = sorted(sides, key=lambda name: (float(np.median(sides[name])), name))
    groups = [tuple(names[k : k + 3]) for k in range(0, len(names), 3)]
    return tuple(sorted(names)), {name: group for group in groups for name in group}


def draw_experiment(data: Doubles, name: str, seed: int, declare_families: bool = True) -> Sample:
    """Return the file's images with the annotators of an experiment; the same seed gives the same."""
    experiment = EXPERIMENTS[name]
    rng = np.random.default_rng([seed, 4243])
    shifts = {detector: rng.normal(0, 0.8, experiment.sources) for detector in experiment.detectors}
    common = [item.name for image in data.images for item in image.first]
    pictures = []
    for image in data.images:
        source = int(rng.integers(experiment.sources))
        boxes = [(item.name, item.box) for item in image.first]
        size = (float(image.width), float(image.height))
        places = [
            (str(rng.choice(common)), draw_box(rng, size=size)) for _ in range(rng.poisson(experiment.hard_negatives))
        ]
        things = make_things(boxes, rng) + tempting_things(places, boxes, rng)
        scene = Scene(*size, things, data.names, data.alike)
        claims: dict[str, Sequence[Found]] = {
            detector: look(given, scene, rng, float(shifts[detector][source]) if experiment.sources > 1 else 0.0)
            for detector, given in experiment.detectors.items()
        }
        if experiment.second:
            claims[SECOND] = image.second
        pictures.append(Picture(image.width, image.height, f"source {source + 1}", image.first, claims))
    known = declared(experiment.detectors)
    if not declare_families:
        known = {detector: replace(one, family="") for detector, one in known.items()}
    if experiment.second:
        known[SECOND] = Declared(human=experiment.human)
    return Sample(pictures, known, {name: k for k, name in enumerate(data.names)})
