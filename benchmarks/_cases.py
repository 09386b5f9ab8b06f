"""The cases of the consensus' benchmark, part by part, and the figures of every method in one of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _consensus_labels import fuse_sample
from _lvis import EXPERIMENTS, draw_experiment, read_double
from _photos_sample import annotate_photos, photo_places
from _rival_programs import PACKAGES, Worker
from _rivals import TunedMethods, tune_all
from _samples import Objects, Sample, true_objects
from _scenarios import SCENARIOS, draw_scenario
from _scoring import calibration_bins, hits, judge
from _simulated import draw_scenes

PARTS = ("simulated", "detections", "lvis", "photos")
OURS, WEIGHTED = "ours", "weighted boxes fusion"
TUNING_IMAGES = 120
"""At most so many images tune the other methods of a drawn case."""
WITH_PACKAGES = frozenset({"three", "five", "good-weak-family", "hard-negatives", "second-three"})
"""Cases in which the slow packages with environments of their own run too, unless all are asked for."""


@dataclass(frozen=True)
class Options:
    """What is measured and how.

    ``methods``: of packages that are installed; ``packages``: "all" in every case, or "some": slow ones in some cases
    alone; ``cache``: folder of environments.
    """

    seeds: tuple[int, ...]
    tuning: int
    images: int
    scenes: int
    gold: int
    families: bool
    packages: str
    methods: tuple[str, ...]
    cache: Path
    lvis: Path | None


@dataclass(frozen=True)
class Case:
    """One experiment of a part."""

    part: str
    name: str


@dataclass
class Result:
    """The figures of a case: of every seed, for every method; what the other methods are tuned to; why some failed.

    ``bins``: of every seed, (mean confidence, share right, objects) of our objects.
    """

    case: Case
    figures: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    bins: dict[int, list[tuple[float, float, int]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def list_cases(parts: Sequence[str], names: Sequence[str], lvis: Path | None) -> list[Case]:
    """Return the cases of some parts; of some names, if any are given. Raises ValueError if a name is unknown."""
    known = {
        "simulated": ("six",),
        "detections": tuple(SCENARIOS),
        "lvis": tuple(EXPERIMENTS) if lvis else (),
        "photos": ("names", "places"),
    }
    found = [Case(part, name) for part in parts for name in known[part] if not names or name in names]
    unknown = set(names) - {case.name for case in found}
    if unknown:
        choice = ", ".join(f"{part}: {' '.join(known[part])}" for part in parts)
        message = f"no scenario {', '.join(sorted(unknown))}; there are {choice}"
        raise ValueError(message)
    return found


def draw_case(case: Case, options: Options, seed: int, tuning: bool = False) -> Sample:
    """Return the pictures of a case; fewer if they are for tuning."""
    if case.part == "simulated":
        sample = draw_scenes(min(options.scenes, 400) if tuning else options.scenes, seed)
    elif case.part == "detections":
        sample = draw_scenario(case.name, min(options.images, TUNING_IMAGES) if tuning else options.images, seed)
    elif case.part == "lvis":
        sample = draw_experiment(_doubles(str(options.lvis)), case.name, seed)
        sample = replace(sample, pictures=sample.pictures[: options.images])
    else:
        sample = photo_places() if case.name == "places" else annotate_photos()
    if options.families:
        return sample
    return replace(sample, annotators={name: replace(one, family="") for name, one in sample.annotators.items()})


@cache
def _doubles(path: str) -> Any:
    return read_double(path)


@cache
def _worker(name: str, folder: Path) -> Worker:
    """Return a package's method, whose process lasts as long as this one."""
    return Worker(PACKAGES[name], folder)


def measure(case: Case, options: Options) -> Result:
    """Return the figures of a case for every seed. Pictures that are given as gold are not measured."""
    result = Result(case)
    tuning = draw_case(case, options, options.tuning, tuning=True)
    every = options.packages == "all" or case.name in WITH_PACKAGES
    methods = {
        name: (_worker(name, options.cache), PACKAGES[name].grid)
        for name in options.methods
        if every or not PACKAGES[name].slow
    }
    tuned = tune_all(tuning, methods)
    result.tuned = describe_tuned(tuned)
    for seed in options.seeds[: 1 if case.part == "photos" else None]:
        sample = draw_case(case, options, seed)
        truth = _measured(true_objects(sample), options.gold)
        found = {OURS: fuse_sample(sample, options.gold), **tuned.objects(sample)}
        measured = {name: _measured(objects, options.gold) for name, objects in found.items()}
        result.figures[seed] = {name: judge(objects, truth) for name, objects in measured.items()}
        ours = measured[OURS]
        result.bins[seed] = calibration_bins(ours.score, hits(ours, truth, (0.5,))[:, 0])
    result.failed = tuned.failed
    return result


def _measured(found: Objects, gold: int) -> Objects:
    return found.where(found.picture >= gold)


def describe_tuned(tuned: TunedMethods) -> dict[str, dict[str, Any]]:
    """Return what every method is tuned to."""
    known = tuned.known
    best = max(known.f1, key=lambda name: known.f1[name])
    return {"best single": {"annotator": best, "score": known.threshold[best]}} | {
        name: {k: v for k, v in one.settings.items() if k != "single"} | {"score": one.threshold, "votes": one.votes}
        for name, (_, one) in tuned.methods.items()
    }


def measure_all(cases: Sequence[Case], options: Options, workers: int) -> Iterator[Result]:
    """Yield the figures of the cases, in their order, ``workers`` at a time."""
    if workers < 2 or len(cases) < 2:
        yield from (measure(case, options) for case in cases)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(measure, cases, itertools.repeat(options))
