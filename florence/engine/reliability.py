"""The estimated reliability of annotators, for the report; truth is not used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.claims import Claims, read_claims
from florence.engine.consensus.blocks import select_fit_claims, select_voting_claims
from florence.engine.consensus.boxes import BoxClusters
from florence.engine.consensus.captions import collect_caption_claims, estimate_caption_weights, fuse_captions
from florence.engine.consensus.phrase_binding import GROUNDING, select_kept_captions
from florence.engine.consensus.phrases import cluster_phrases
from florence.engine.consensus.regions import OBJECTS, REGION_TYPES, cluster_regions
from florence.names import build_name_table
from florence.records import BASE_TYPES, CAPTIONS, AnnotatorProfile


@dataclass(frozen=True)
class Reliability:
    """How reliable an annotator is for an annotation type, 0…1.

    ``value``: of regions and phrases `AnnotatorModels.f1`, of captions the weight of one. ``by_name``: of objects, the
    share of the items of each name that it claims with the right label, the most frequent names first; of names that
    somebody claims on images that it was asked about.
    """

    value: float
    by_name: Mapping[str, float]


def estimate_reliability(
    claims: pa.Table, coverage: pa.Table, settings: EngineSettings, profiles: Sequence[AnnotatorProfile] = ()
) -> dict[tuple[str, str], Reliability]:
    """Estimate the reliability of annotators, by (annotator, task), on the images that models are fitted to.

    A pair is missing where too few others were asked about the same images.
    """
    found = read_claims(*select_fit_claims(*select_voting_claims(claims, coverage, settings, profiles)), None, profiles)
    clusters = {task: cluster_regions(found, BASE_TYPES.index(task), None, settings) for task in REGION_TYPES}
    values = _values(found, clusters, settings)
    by_name = _by_name(clusters[OBJECTS], found.compute_coverage(BASE_TYPES.index(OBJECTS)), settings)
    return {
        (annotator, task): Reliability(round(float(value[a]), 6), by_name[a] if task == OBJECTS else {})
        for task, (value, estimated) in sorted(values.items())
        for a, annotator in enumerate(found.annotators)
        if estimated[a] and (found.annotator[found.annotation_type == BASE_TYPES.index(task)] == a).any()
    }


def _values(
    claims: Claims, clusters: Mapping[str, BoxClusters], settings: EngineSettings
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(A,) the reliability of each annotator and whether it was estimated, by task."""
    captions = select_kept_captions([fuse_captions(claims, BASE_TYPES.index(task), settings) for task in CAPTIONS])
    models = {task: found.models.labels for task, found in clusters.items()}
    models[GROUNDING] = cluster_phrases(claims, captions, None, settings)[1].models.labels
    values = {task: (found.f1, found.estimated) for task, found in models.items()}
    for task in CAPTIONS:
        code = BASE_TYPES.index(task)
        weights = estimate_caption_weights(claims, code, collect_caption_claims(claims, code, settings))
        values[task] = weights.weight, weights.estimated
    return values


def _by_name(clusters: BoxClusters, coverage: np.ndarray, settings: EngineSettings) -> list[dict[str, float]]:
    """Each annotator's `Reliability.by_name`. ``coverage``: (images, A)."""
    boxes, models = clusters.claims, clusters.models.labels
    example = dict(zip(boxes.label.tolist(), boxes.text, strict=True))
    labels = [label for label in np.argsort(-models.label_prior, kind="stable").tolist() if label in example]
    name = {label: build_name_table(settings).label(example[label]) for label in labels}
    result = []
    for a, recall in enumerate(models.recall * models.label_accuracy):
        met = set(boxes.label[coverage[boxes.image, a]].tolist())
        result.append({name[label]: round(float(recall[label]), 6) for label in labels if label in met})
    return result
