"""Whether one annotator alone would label better than the consensus does.

Of an annotator the claims are taken whose score reaches a threshold. The gold images are parted in two; the threshold
of each half is the one with the highest mean F1 on the other half. With d the difference of F1 of an image, alone less
consensus, over the images that the annotator looked at and that have a reference, an annotator is better if

    p̃_rise(d) < α, corrected by Holm's method over all annotators and annotation types

(`florence.metrics.bootstrap`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.better_annotator import BetterAnnotator
from florence.config import EvaluateSettings
from florence.evaluate.quality import measure_rows
from florence.evaluate.references import References, order_by_hash
from florence.metrics.bootstrap import bootstrap_difference, correct_p_values
from florence.records import Annotation, table_annotations

MEASURES = {
    "<OD>": "f1",
    "<DENSE_REGION_CAPTION>": "f1",
    "<CAPTION_TO_PHRASE_GROUNDING>": "f1",
    "<OCR_WITH_REGION>": "spotted",
}
"""Annotation type → the measure of its labels that decides."""
LEVELS = 8
"""Thresholds that are tried: none, and quantiles of the scores."""
MIN_IMAGES = 20
"""Gold images below which nothing is said."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class SingleAnnotator:
    """What an annotator claims (a table of annotations), and the images it looked at, by annotation type."""

    name: str
    claims: pa.Table
    looked: Mapping[str, frozenset[str]]


def find_better_annotators(
    labels: pa.Table, annotators: Sequence[SingleAnnotator], references: References, settings: EvaluateSettings
) -> list[BetterAnnotator]:
    """Return the annotators that alone are better than ``labels``, the engine's, by the rule above.

    ``references``: of gold images.
    """
    found = {}
    for task, metric in MEASURES.items():
        if not pc.any(pc.equal(labels["task"], task)).as_py():
            continue
        for reference in references.names:
            right = references.select(task, reference)
            ours = measure_rows(_read_rows(labels, task, right), right, task, metric)
            for annotator in annotators:
                looked = annotator.looked.get(task, frozenset())
                shared = {image: rows for image, rows in right.items() if image in looked}
                claims = _read_rows(annotator.claims, task, shared)
                if len(shared) < MIN_IMAGES or not claims:
                    continue
                tried = {
                    least: measure_rows([row for row in claims if _score(row) >= least], shared, task, metric)
                    for least in _list_thresholds(claims)
                }
                alone, threshold = _choose_threshold(tried, order_by_hash(shared, settings.seed, "halves"))
                # an image for which one side has nothing, and the reference nothing, is right for that side
                scored = {image for image in shared if image in ours or image in alone}
                sides = [{image: side.get(image, 1.0) for image in scored} for side in (ours, alone)]
                change = bootstrap_difference(sides[1], sides[0], resamples=settings.bootstrap, seed=settings.seed)
                if change is not None:
                    before, after = (float(np.mean(list(side.values()))) for side in sides)
                    known = (threshold, before, after, change.low, change.high, change.n)
                    found[annotator.name, task, reference] = (
                        change,
                        BetterAnnotator(annotator.name, task, metric, reference, *known),
                    )
    p_values = correct_p_values({" ".join(key): change.p_rise for key, (change, _) in found.items()})
    return [better for key, (change, better) in found.items() if p_values[" ".join(key)] < ALPHA and change.mean > 0]


def _read_rows(table: pa.Table, task: str, images: Collection[str]) -> list[Annotation]:
    is_wanted = pc.and_(pc.equal(table["task"], task), pc.is_in(table["image_id"], pa.array(images, pa.string())))
    return table_annotations(table.filter(is_wanted))


def _score(row: Annotation) -> float:
    """Return the score of a claim; one without a score reaches every threshold."""
    return 1.0 if row.score is None else row.score


def _list_thresholds(claims: Sequence[Annotation]) -> list[float]:
    scores = np.asarray([_score(row) for row in claims])
    quantiles = np.unique(np.quantile(scores, np.arange(1, LEVELS) / LEVELS)).tolist()
    return [-math.inf, *(least for least in quantiles if least > scores.min())]


def _choose_threshold(
    tried: Mapping[float, Mapping[str, float]], order: Sequence[str]
) -> tuple[dict[str, float], float | None]:
    """Return the measure of each image at the threshold that is best on the other half, and the higher threshold."""
    alone: dict[str, float] = {}
    thresholds = []
    for half, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        best = max(tried, key=lambda least: (_mean(tried[least], other), -least))
        thresholds.append(best)
        alone.update({image: tried[best][image] for image in half if image in tried[best]})
    return alone, None if max(thresholds) == -math.inf else max(thresholds)


def _mean(values: Mapping[str, float], images: Sequence[str]) -> float:
    known = [values[image] for image in images if image in values]
    return float(np.mean(known)) if known else 0.0
