"""The methods that the consensus is compared with, each tuned with truth by one grid on pictures that are not measured.

``best single``: one annotator at its own least score. ``majority``: a mean box of those that overlap, by least votes.
``weighted boxes fusion``: of ensemble-boxes, with or without annotators' weights. Methods that run in environments of
their own are in `_rival_programs`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from _samples import Found, Objects, Row, Sample, objects, score_of, true_objects
from _scoring import THRESHOLDS, box_overlaps, f1_by_threshold, hits

Method = Callable[[Sample, Mapping[str, Any]], Objects]
"""(sample, settings) → all objects, before the least score and the least votes."""
Grid = Mapping[str, Sequence[Any]]
"""The values of every setting that are tried."""


class MethodError(Exception):
    """A method cannot be run: its package cannot be installed, or fails."""


@dataclass(frozen=True)
class Single:
    """What tuning knows of each annotator by itself: its best least score, and its F1 with it."""

    threshold: Mapping[str, float]
    f1: Mapping[str, float]


@dataclass(frozen=True)
class Tuned:
    """A method's best settings: for the method, the least score, and the least votes."""

    settings: Mapping[str, Any]
    threshold: float
    votes: int
    f1: float


def single(sample: Sample, settings: Mapping[str, Any]) -> Objects:
    """Return one annotator's objects as they are."""
    return objects(
        [
            (k, sample.names[found.name], found.box, score_of(found), 1, True)
            for k, picture in enumerate(sample.pictures)
            for found in picture.claims.get(settings["annotator"], ())
        ]
    )


def given_claims(claims: Mapping[str, Sequence[Found]], settings: Mapping[str, Any]) -> dict[str, list[Found]]:
    """Return the claims that a method is given: all, or each annotator's above the annotator's own least score."""
    least = settings["single"].threshold if settings["own"] else {}
    return {name: [f for f in found if score_of(f) >= least.get(name, 0.0)] for name, found in claims.items()}


def majority(sample: Sample, settings: Mapping[str, Any]) -> Objects:
    """Return one object per cluster: mean box and score, and how many annotators claim it."""
    rows: list[Row] = []
    for k, picture in enumerate(sample.pictures):
        by_name: dict[str, list[tuple[str, Found]]] = {}
        for annotator, found in given_claims(picture.claims, settings).items():
            for claim in found:
                by_name.setdefault(claim.name, []).append((annotator, claim))
        for name, claims in by_name.items():
            for cluster in _clusters(claims, settings["overlap"]):
                boxes, scores = [f.box for _, f in cluster], [score_of(f) for _, f in cluster]
                # the score says how sure those are that claim it; the votes come first, as a majority's do
                share = len(cluster) / len(sample.annotators)
                box = np.mean(boxes, axis=0)
                rows.append((k, sample.names[name], box, float(np.mean(scores)) * share, len(cluster), True))
    return objects(rows)


def _clusters(claims: list[tuple[str, Found]], least: float) -> list[list[tuple[str, Found]]]:
    """Return claims of one name in clusters around the ones of best score; each annotator is in a cluster once."""
    claims = sorted(claims, key=lambda pair: -score_of(pair[1]))
    corners = np.asarray([found.box for _, found in claims])
    overlap = box_overlaps(corners, corners)
    seeds: list[int] = []
    members: list[dict[str, int]] = []
    for k, (annotator, _) in enumerate(claims):
        best, at = least, -1
        for number, seed in enumerate(seeds):
            if overlap[k, seed] >= best and annotator not in members[number]:
                best, at = overlap[k, seed], number
        if at >= 0:
            members[at][annotator] = k
        else:
            seeds.append(k)
            members.append({annotator: k})
    return [[claims[k] for k in cluster.values()] for cluster in members]


def weighted(sample: Sample, settings: Mapping[str, Any]) -> Objects:
    """Return the objects of weighted boxes fusion."""
    from ensemble_boxes import weighted_boxes_fusion

    weights = [settings["single"].f1[name] if settings["weights"] else 1.0 for name in sample.annotators]
    rows: list[Row] = []
    for k, picture in enumerate(sample.pictures):
        claims = given_claims(picture.claims, settings)
        size = np.tile([picture.width, picture.height], 2)
        by = [claims.get(name, []) for name in sample.annotators]
        boxes, scores, labels = weighted_boxes_fusion(
            [[(np.asarray(f.box) / size).tolist() for f in one] for one in by],
            [[score_of(f) for f in one] for one in by],
            [[sample.names[f.name] for f in one] for one in by],
            weights=weights,
            iou_thr=settings["overlap"],
        )
        rows += [
            (k, int(name), box * size, float(score), 1, True)
            for box, score, name in zip(boxes, scores, labels, strict=True)
        ]
    return objects(rows)


METHODS: dict[str, tuple[Method, Grid]] = {
    "majority": (majority, {"overlap": (0.4, 0.5, 0.6, 0.7), "own": (False, True)}),
    "weighted boxes fusion": (
        weighted,
        {"overlap": (0.45, 0.55, 0.65, 0.75), "own": (False, True), "weights": (False, True)},
    ),
}
"""Methods by name and the grid of their settings."""


def tune_single(sample: Sample) -> Single:
    """Return each annotator's best least score, and its F1 with it."""
    truth = true_objects(sample)
    thresholds, values = {}, {}
    for name in sample.annotators:
        found = single(sample, {"annotator": name})
        by = f1_by_threshold(found.score, hits(found, truth, (0.5,))[:, 0], len(truth.score))
        thresholds[name], values[name] = THRESHOLDS[int(by.argmax())], float(by.max())
    return Single(thresholds, values)


def tune(method: Method, grid: Grid, sample: Sample, known: Single) -> Tuned:
    """Return the settings, the least score and the least votes with the best F1 at IoU 0.5."""
    truth = true_objects(sample)
    best = Tuned({}, 0.0, 1, -1.0)
    for values in itertools.product(*grid.values()):
        settings = {**dict(zip(grid, values, strict=True)), "single": known}
        all_found = method(sample, settings)
        for votes in range(1, int(all_found.votes.max(initial=1)) + 1):
            found = all_found.where(all_found.votes >= votes)
            by = f1_by_threshold(found.score, hits(found, truth, (0.5,))[:, 0], len(truth.score))
            if by.max() > best.f1:
                best = Tuned(settings, THRESHOLDS[int(by.argmax())], votes, float(by.max()))
    return best


def apply(method: Method, tuned: Tuned, sample: Sample) -> Objects:
    """Return a tuned method's objects; kept are those above the least score and votes."""
    found = method(sample, tuned.settings)
    return replace(found, kept=(found.score >= tuned.threshold) & (found.votes >= tuned.votes))


def best_single(sample: Sample, known: Single) -> Objects:
    """Return the objects of the annotator that is best by itself; kept are those above its least score."""
    best = max(known.f1, key=lambda name: known.f1[name])
    found = single(sample, {"annotator": best})
    return replace(found, kept=found.score >= known.threshold[best])


@dataclass(frozen=True)
class TunedMethods:
    """Every method with its best settings on one sample; ``failed``: why those that failed did."""

    known: Single
    methods: Mapping[str, tuple[Method, Tuned]]
    failed: dict[str, str]

    def objects(self, sample: Sample) -> dict[str, Objects]:
        """Return the objects of every method in another sample."""
        found = {"best single": best_single(sample, self.known)}
        for name, (method, tuned) in self.methods.items():
            try:
                found[name] = apply(method, tuned, sample)
            except MethodError as error:
                self.failed[name] = str(error)
        return found


def tune_all(sample: Sample, methods: Mapping[str, tuple[Method, Grid]] | None = None) -> TunedMethods:
    """Return every method of `METHODS`, and of ``methods`` as well, with its best settings on a sample."""
    known = tune_single(sample)
    found, failed = {}, {}
    for name, (method, grid) in {**METHODS, **(methods or {})}.items():
        try:
            found[name] = (method, tune(method, grid, sample, known))
        except MethodError as error:
            failed[name] = str(error)
    return TunedMethods(known, found, failed)


def run_rivals(tuning: Sample, measured: Sample) -> dict[str, Objects]:
    """Return the objects of every method of `METHODS`, tuned on one sample, in another."""
    return tune_all(tuning).objects(measured)
