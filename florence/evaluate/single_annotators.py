"""Whether one annotator alone would label better than the consensus does.

Of an annotator the claims are taken whose score reaches a threshold. The gold images are parted in two; the threshold
of each half is the one with the highest mean F1 on the other half. With d the difference of F1 of an image, alone less
consensus, over the images that the annotator looked at and that have a reference, an annotator is better if

    p̃_rise(d) < α, corrected by Holm's method over all annotators and annotation types

(`florence.metrics.bootstrap`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.better_annotator import BetterAnnotator
from florence.config import EvaluateSettings
from florence.evaluate.quality import measure_quality
from florence.evaluate.references import References, order_by_hash
from florence.metrics.bootstrap import Interval, bootstrap_difference, correct_p_values

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
Values = Mapping[str, float]
"""Image → F1; images where neither side has anything have none."""


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
        ours = labels.filter(pc.equal(labels["task"], task))
        for reference in references.names if len(ours) else ():
            images = frozenset(references.select(task, reference))
            for annotator in annotators:
                shared = images & annotator.looked.get(task, frozenset())
                pair = _compare(ours, annotator, references, (task, metric, reference), shared, settings)
                if pair is not None:
                    found[annotator.name, task, reference] = pair
    p_values = correct_p_values({" ".join(key): change.p_rise for key, (change, _) in found.items()})
    return [better for key, (change, better) in found.items() if p_values[" ".join(key)] < 0.05 and change.mean > 0]


def _compare(
    labels: pa.Table,
    annotator: SingleAnnotator,
    references: References,
    key: tuple[str, str, str],
    images: frozenset[str],
    settings: EvaluateSettings,
) -> tuple[Interval, BetterAnnotator] | None:
    """Compare on ``images``; None where they are too few, or the annotator claims nothing of the type."""
    task, metric, reference = key
    claims = annotator.claims.filter(pc.equal(annotator.claims["task"], task))
    if len(images) < MIN_IMAGES or not len(claims):
        return None
    ours = _measure(labels, references, images, key)
    tried = {least: _measure(part, references, images, key) for least, part in _cut_claims(claims)}
    order = order_by_hash(images, settings.seed, "halves")
    alone, thresholds = {}, []
    for half, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        best = max(tried, key=lambda least: (_mean(tried[least], other), -least))
        thresholds.append(best)
        alone.update({image: tried[best][image] for image in half if image in tried[best]})
    # an image for which one side has nothing and the reference nothing counts as right for that side
    scored = {image for image in images if image in ours or image in alone}
    sides = [{image: side.get(image, 1.0) for image in scored} for side in (alone, ours)]
    change = bootstrap_difference(*sides, resamples=settings.bootstrap, seed=settings.seed)
    if change is None:
        return None
    least = max(thresholds)
    means = [float(np.mean(list(side.values()))) for side in sides]
    known = (None if least == -math.inf else least, means[1], means[0], change.low, change.high, change.n)
    return change, BetterAnnotator(annotator.name, task, metric, reference, *known)


def _cut_claims(claims: pa.Table) -> Iterator[tuple[float, pa.Table]]:
    """Yield thresholds and the claims that reach them; a claim without a score reaches all."""
    scores = pc.fill_null(claims["score"], 1.0).to_numpy()
    yield -math.inf, claims
    for least in np.unique(np.quantile(scores, np.arange(1, LEVELS) / LEVELS)):
        if (scores >= least).any() and (scores < least).any():
            yield float(least), claims.filter(pa.array(scores >= least))


def _measure(labels: pa.Table, references: References, images: Collection[str], key: tuple[str, str, str]) -> Values:
    """Return the measure of each image; an image without labels, but with a reference of something, has 0."""
    for found in measure_quality(labels, references, images, masks=False):
        if found.key == key:
            return {image: value for image, value in found.per_image.items() if not math.isnan(value)}
    return {}


def _mean(values: Values, images: Sequence[str]) -> float:
    known = [values[image] for image in images if image in values]
    return float(np.mean(known)) if known else 0.0
