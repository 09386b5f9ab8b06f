"""How good each reviewer is: against known labels, the other reviewers, and themselves.

The measure is F1 of objects at IoU 0.5 with names, a mean over images with its bootstrap interval. With the images I of
reviewer r, the labels L_r of r and the reference R_-r that is made without r,

    quality      mean over I of F1(L_r, truth or adjudicated label); without these F1(L_r, R_-r)
    agreement    mean over I of the mean of F1(L_r, L_s) of the other reviewers s
    alpha        mean of Krippendorff's alpha of r with each other reviewer (`florence.engine.krippendorff`)
    repeated     mean of F1(first, second) of images that r was shown twice

A reviewer is doubtful whose interval of quality ends more than `MARGIN` below the median quality of all reviewers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from florence.coverage import COVERAGE
from florence.engine.krippendorff import measure_object_alpha
from florence.metrics.bootstrap import bootstrap_mean
from florence.metrics.detection import f1_score
from florence.people import Review, combine_reviews
from florence.records import Annotation, Claim, Region, annotate, annotations_table
from florence.report.facts import ReviewerFacts
from florence.workspace.annotate import AnnotatorVersion
from florence.workspace.base import Workspace
from florence.workspace.people import list_reviews

OBJECTS = "<OD>"
MARGIN = 0.05
"""Least distance of a doubtful reviewer's interval from the median of all."""
RESAMPLES = 1000


def rank_reviewers(workspace: Workspace, annotators: Sequence[AnnotatorVersion] = ()) -> tuple[ReviewerFacts, ...]:
    """Return what is known of each reviewer of objects, the best first; empty without reviews.

    Known labels are the truth of the working store and adjudicated labels.
    """
    from florence.evaluate.references import read_truth_of_type

    reviews = [one for one in list_reviews(workspace, annotators) if OBJECTS in one.types]
    images = {one.image_id for one in reviews}
    known = {i: _regions(rows) for i, rows in read_truth_of_type(workspace.store, images, OBJECTS).items()}
    known |= {one.image_id: _regions(one.list_rows(OBJECTS)) for one in reviews if one.adjudicated}
    plain = [one for one in reviews if not one.adjudicated]
    alphas = _measure_alphas(workspace, plain)
    excluded = workspace.settings.review.exclude
    names = sorted({one.reviewer for one in plain})
    found = [_measure_reviewer(name, plain, known, alphas.get(name), name in excluded) for name in names]
    values = [one.quality for one in found if one.quality is not None]
    middle = float(np.median(values)) if len(values) > 2 else math.nan
    found = [
        one if one.high is None or not one.high < middle - MARGIN else replace(one, doubtful=True) for one in found
    ]
    return tuple(sorted(found, key=lambda one: (one.quality is None, -(one.quality or 0.0), one.reviewer)))


def _measure_reviewer(
    name: str, reviews: Sequence[Review], known: Mapping[str, list[Region]], alpha: float | None, excluded: bool
) -> ReviewerFacts:
    own = [one for one in reviews if one.reviewer == name]
    first = {one.image_id: _regions(one.list_rows(OBJECTS)) for one in own if not one.repeat}
    others: dict[str, list[Review]] = {}
    for one in reviews:
        if one.reviewer != name and not one.repeat and one.image_id in first:
            others.setdefault(one.image_id, []).append(one)
    agreement = [
        float(np.mean([f1_score(first[i], _regions(one.list_rows(OBJECTS))) for one in others[i]]))
        for i in sorted(others)
    ]
    by_known = sorted(first.keys() & known.keys())
    if by_known:
        against, values = "known labels", [f1_score(first[i], known[i]) for i in by_known]
    else:
        against = "the other reviewers"
        rest: dict[str, list[Annotation]] = {}
        for row in combine_reviews(one for image in others.values() for one in image):
            rest.setdefault(row.image_id, []).extend([row] if row.task == OBJECTS and row.text else [])
        values = [f1_score(first[i], _regions(rest[i])) for i in sorted(rest)]
    repeated = [
        f1_score(first[one.image_id], _regions(one.list_rows(OBJECTS)))
        for one in own
        if one.repeat and one.image_id in first
    ]
    interval = bootstrap_mean(values, resamples=RESAMPLES)
    return ReviewerFacts(
        name,
        len(first),
        against if values else "",
        None if interval is None else _round(interval.mean),
        None if interval is None else _round(interval.low),
        None if interval is None else _round(interval.high),
        len(values),
        _round(float(np.mean(agreement))) if agreement else None,
        None if alpha is None else _round(alpha),
        _round(float(np.mean(repeated))) if repeated else None,
        len(repeated),
        excluded=excluded,
    )


def _measure_alphas(workspace: Workspace, reviews: Sequence[Review]) -> dict[str, float]:
    """Return reviewer → mean of Krippendorff's alpha with each other reviewer, on the images that both labelled."""
    first = [one for one in reviews if not one.repeat]
    rows = [
        row
        for one in first
        for row in annotate(
            one.image_id,
            (Claim(OBJECTS, row.text, row.regions) for row in one.list_rows(OBJECTS)),
            one.reviewer,
            "1",
        )
    ]
    looks = [
        {"image_id": one.image_id, "annotator": one.reviewer, "version": "1", "claims": 0, "error": ""} for one in first
    ]
    coverage = pa.Table.from_pylist(looks, schema=COVERAGE)
    values: dict[str, list[float]] = {}
    for alpha in measure_object_alpha(annotations_table(rows), coverage, workspace.settings.engine) if rows else ():
        if len(alpha.annotators) == 2 and alpha.value is not None:
            for name in alpha.annotators:
                values.setdefault(name, []).append(alpha.value)
    return {name: float(np.mean(of)) for name, of in values.items()}


def _regions(rows: Sequence[Annotation]) -> list[Region]:
    return [Region(row.text, region.box, region.quad, region.polygons) for row in rows for region in row.regions]


def _round(value: float) -> float:
    return round(value, 6)
