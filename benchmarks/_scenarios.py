"""The experiments with drawn detections: who looks at which world."""

from __future__ import annotations

from dataclasses import replace

from _detections import NAMES, Detector, Scenario, draw
from _samples import Sample

GOOD = Detector(skill=1.8, noise=0.015, confused=0.09, spurious=0.55, tempted=0.35)
FAIR = Detector(skill=1.3, noise=0.055, confused=0.13, spurious=0.7, tempted=0.4, temperature=0.7)
LOOSE = Detector(skill=1.4, noise=0.06, loose=(0.06, 0.04, 0.1, 0.07), confused=0.12, spurious=0.7, offset=0.8)
STRONG = Detector(skill=2.4, noise=0.03, confused=0.05, spurious=0.35, tempted=0.25)
WEAK = Detector(skill=0.3, noise=0.14, confused=0.3, spurious=1.6, tempted=0.7, temperature=2.0, offset=1.0)
MIDDLING = Detector(skill=1.1, noise=0.08, confused=0.15, spurious=0.9, tempted=0.45, temperature=0.5)
SHY = Detector(skill=0.6, noise=0.04, confused=0.04, spurious=0.1, tempted=0.15, offset=-1.0)
EAGER = Detector(skill=2.2, noise=0.07, confused=0.18, spurious=1.5, tempted=0.6, temperature=1.5)
TIGHT = Detector(skill=1.4, noise=0.05, loose=(-0.05, -0.02, -0.06, -0.08), confused=0.12, spurious=0.6)
WIDE = replace(GOOD, noise=0.03, loose=(0.05, 0.05, 0.05, 0.05))
"""Its boxes are a tenth too wide and too high."""
RAW_FAIR = replace(FAIR, tail=55.0, offset=1.0)
RAW_MIDDLING = replace(MIDDLING, tail=60.0, offset=0.6)
"""Detectors whose output is exported almost whole, and whose scores are too high."""

A, B, C, D, E = GOOD, FAIR, LOOSE, WEAK, MIDDLING
WEAK_FAMILY = replace(WEAK, family="weak")
MIDDLING_FAMILY = replace(MIDDLING, family="middling")
FIVE = {"A": A, "B": B, "C": C, "D": D, "E": E}

SCENARIOS: dict[str, Scenario] = {
    "three": Scenario({"A": A, "B": B, "C": C}),
    "five": Scenario(FIVE),
    "one": Scenario({"A": A}),
    "two": Scenario({"A": A, "B": B}),
    "good-weak": Scenario({"A": A, "D": D}),
    "good-weak-family": Scenario({"A": A, "D": WEAK_FAMILY, "D2": replace(WEAK_FAMILY, noise=0.13)}),
    "two-weak-family": Scenario({"A": A, "B": B, "D": WEAK_FAMILY, "D2": replace(WEAK_FAMILY, noise=0.13)}),
    "hard-negatives": Scenario(FIVE, hard_negatives=4),
    "crowd-60": Scenario({"A": A, "B": B, "C": C}, crowd=60),
    "crowd-200": Scenario({"A": A, "B": B, "C": C}, crowd=200),
    "eight": Scenario({**FIVE, "F": SHY, "G": EAGER, "H": TIGHT}),
    "vocabularies": Scenario(
        {
            "A": replace(A, vocabulary=NAMES[:16]),
            "B": replace(B, vocabulary=NAMES[8:]),
            "C": replace(C, vocabulary=NAMES[::2]),
            "E": E,
        }
    ),
    "one-class": Scenario({"A": A, "B": B, "C": C}, names=NAMES[:1]),
    "no-scores": Scenario({name: replace(d, scores="none") for name, d in {"A": A, "B": B, "C": C}.items()}),
    "constant-scores": Scenario(
        {"A": replace(A, scores="constant"), "B": replace(B, scores="none"), "C": C, "E": replace(E, scores="rounded")}
    ),
    "two-sources": Scenario({"A": A, "B": B, "C": C, "E": E}, sources=2),
    "family-of-three": Scenario(
        {
            "A": A,
            "E1": MIDDLING_FAMILY,
            "E2": replace(MIDDLING_FAMILY, noise=0.07),
            "E3": replace(MIDDLING_FAMILY, spurious=1.1, temperature=0.8),
        }
    ),
    "long-tail": Scenario(
        {"A": replace(A, tail=18.0), "B": replace(B, tail=25.0), "C": replace(C, tail=12.0)},
    ),
    "long-tail-one": Scenario({"A": replace(A, tail=20.0)}),
    "raw": Scenario({"B": RAW_FAIR, "E": RAW_MIDDLING}, hard_negatives=3),
    "raw-family": Scenario(
        {
            "B": RAW_FAIR,
            "E": replace(RAW_MIDDLING, family="raw"),
            "E2": replace(RAW_MIDDLING, family="raw", noise=0.09),
        },
        hard_negatives=3,
    ),
    "raw-one": Scenario({"B": RAW_FAIR}, hard_negatives=3),
    "wide": Scenario({"W": WIDE, "B": B, "E": E}),
    "no-good-one": Scenario({"B": B, "D": D, "E": E, "H": TIGHT}),
    "three-strong": Scenario({"A": STRONG, "B": replace(STRONG, skill=2.0, noise=0.04), "C": replace(C, skill=2.0)}),
    "small": Scenario({"A": A, "B": B, "C": C, "E": E}, side=35.0, objects=9),
    "backbone": Scenario(
        {name: replace(d, family="backbone", kinship=0.4) for name, d in {"A": A, "B": B, "E": E}.items()}
    ),
    "family-undeclared": Scenario({"A": A, "B": B, "D": WEAK_FAMILY, "D2": replace(WEAK_FAMILY, noise=0.13)}),
}
UNDECLARED = frozenset({"backbone", "family-undeclared"})
"""Experiments in which nobody says which detectors are of one family."""
IMAGES = {"crowd-60": 0.35, "crowd-200": 0.12, "small": 0.8}
"""Share of the images that an experiment with many objects is drawn with."""


def draw_scenario(name: str, images: int, seed: int, declare_families: bool = True) -> Sample:
    """Return pictures of an experiment; fewer where they have many objects."""
    sample = draw(SCENARIOS[name], max(round(images * IMAGES.get(name, 1.0)), 4), seed)
    if declare_families and name not in UNDECLARED:
        return sample
    return replace(sample, annotators={n: replace(d, family="") for n, d in sample.annotators.items()})
