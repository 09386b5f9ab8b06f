"""Boxes of several annotators: clustered, voted on, and fused into one box for each cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.claims import Claims, Regions
from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.clusters import ClusterOverlap, cluster_claims, measure_same_iou
from florence.engine.consensus.fitting import FitOptions, fit_annotator_models
from florence.engine.consensus.label_matrix import (
    NOT_ASKED,
    AnnotatorTraits,
    ItemClaims,
    LabelMatrix,
    LabelSimilarity,
    build_label_matrix,
)
from florence.engine.consensus.maximisation import PRIOR_CLAIMS
from florence.engine.consensus.stated_scores import DEFAULT_PRECISION
from florence.engine.consensus.vote import ItemVotes, vote_on_items
from florence.engine.filters.texts import flag_blank_texts
from florence.engine.polygon_lists import empty_polygons, move_polygons

QUALITY_POWER = 6
"""How much more who finds and names better is taken to draw better."""
PRIOR_PAIRS = 3.0
"""Weight of what the quality of labels says about boxes, against the square root of the items of a pair."""
MIN_PAIRS = 5
"""Least number of shared items for an estimate: items of which two annotators both drew a box."""


@dataclass(frozen=True)
class BoxClaims:
    """m claims about one box each.

    ``claim``: row in `Claims`; ``region``: row in its regions, -1 for none; ``scope``: what clusters lie within (an
    image, a phrase), in order; ``bounds``: (m, 4); ``label``: the same number for texts that count as the same;
    ``reason``: why the claim has no vote, empty where it has one; ``is_human``: whether a person's; ``label_names``:
    the text of each label, where claims about other images may have labels of these texts too.
    """

    claim: np.ndarray
    region: np.ndarray
    scope: np.ndarray
    image: np.ndarray
    annotator: np.ndarray
    bounds: np.ndarray
    text: tuple[str, ...]
    label: np.ndarray
    score: np.ndarray
    reason: np.ndarray
    is_human: np.ndarray
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.claim)


@dataclass(frozen=True)
class BoxModels:
    """What is estimated of the annotators of one type of boxes. ``box_weight``: (A,), see `estimate_box_weights`;
    ``same_iou``: (A, A), see `measure_same_iou`; ``states_alternatives``: (A,), see `AnnotatorTraits`; ``masks_only``:
    (A,), who does nothing but draw masks in the boxes of others; None where that was not asked.
    """

    labels: AnnotatorModels
    box_weight: np.ndarray
    same_iou: np.ndarray
    states_alternatives: np.ndarray | None = None
    masks_only: np.ndarray | None = None


@dataclass(frozen=True)
class BoxVoteRules:
    """How boxes of one type are voted on. ``similarity``: of labels, None: different ones have nothing in common;
    ``can_label``: see `AnnotatorTraits`; ``by_label``: see `vote_on_items`; ``prior_claims``: see `FitOptions`;
    ``complete_type``: the annotation type of which a person may have claimed all there is, -1 for none;
    ``scores_state``: whether scores state how likely an item is there; ``precision``: see `FitOptions`;
    ``states_alternatives``: see `AnnotatorTraits`.
    """

    similarity: LabelSimilarity | None = None
    can_label: np.ndarray | None = None
    by_label: bool = False
    prior_claims: float = PRIOR_CLAIMS
    complete_type: int = -1
    scores_state: bool = True
    precision: float = DEFAULT_PRECISION
    states_alternatives: np.ndarray | None = None


@dataclass(frozen=True)
class BoxClusters:
    """Claims about boxes in k clusters.

    ``cluster``: (m,), of each claim; ``item``: (k,), row of the label matrix, -1 for a
    cluster in which no claim has a vote; ``voter``: the box claim that each claim of the label matrix is.
    """

    claims: BoxClaims
    cluster: np.ndarray
    item: np.ndarray
    voter: np.ndarray
    matrix: LabelMatrix
    models: BoxModels
    by_label: bool


@dataclass(frozen=True)
class FusedBoxes:
    """The consensus on k clusters.

    ``source``: (k,), the box claim whose text is taken, and ``annotator``: (k,), whose it
    is, -1 where no claim has a vote; ``box``: (k, 4); ``confidence``, ``score``: (k,), NaN where there is none.
    ``weight``, ``box_weight``: (m,), of each claim's text and of its box.
    """

    source: np.ndarray
    annotator: np.ndarray
    box: np.ndarray
    confidence: np.ndarray
    score: np.ndarray
    weight: np.ndarray
    box_weight: np.ndarray


def cluster_boxes(
    claims: Claims,
    boxes: BoxClaims,
    coverage: np.ndarray,
    settings: EngineSettings,
    rules: BoxVoteRules,
    known: BoxModels | None = None,
) -> BoxClusters:
    """Cluster the boxes, and estimate the annotator models unless they are ``known``.

    ``coverage``: (scopes, A), who was asked.
    """
    votes = boxes.reason == ""
    same_iou = known.same_iou if known else _measure_same_iou(boxes, coverage.shape[1], settings)
    least = ClusterOverlap(settings.iou, same_iou)
    cluster = cluster_claims(boxes.scope, boxes.annotator, boxes.bounds, boxes.label, least, preferred=votes)
    voter = np.flatnonzero(votes)
    clusters, item_of = np.unique(cluster[voter], return_inverse=True)
    item = np.full(int(cluster.max(initial=-1)) + 1, -1, np.int64)
    item[clusters] = np.arange(len(clusters))
    scope, image = np.zeros((2, len(clusters)), np.int64)
    scope[item_of], image[item_of] = boxes.scope[voter], boxes.image[voter]
    traits = AnnotatorTraits(
        claims.families,
        claims.names_only,
        rules.can_label,
        claims.human_index,
        _nothing_label(boxes, voter) if rules.similarity else -1,
        rules.states_alternatives,
    )
    matrix = build_label_matrix(
        ItemClaims(item_of, boxes.annotator[voter], boxes.label[voter], boxes.score[voter]),
        coverage[scope],
        rules.similarity,
        traits,
        complete=claims.find_complete(rules.complete_type)[image] if rules.complete_type >= 0 else None,
        level_edges=known.labels.level_edges if known else None,
        images=len(np.unique(image)),
    )
    if not rules.scores_state:
        matrix = replace(matrix, level_score=np.full_like(matrix.level_score, np.nan))
    if known:
        models = replace(known, labels=known.labels.for_labels(boxes.label_names, matrix.label_count))
    else:
        options = FitOptions(claims.student_index, settings.student.cap, rules.prior_claims, rules.precision)
        labels = fit_annotator_models(matrix, options, boxes.label_names)
        weight = estimate_box_weights(boxes.bounds[voter], matrix, labels)
        models = BoxModels(labels, weight, same_iou, rules.states_alternatives)
    return BoxClusters(boxes, cluster, item, voter, matrix, models, rules.similarity is None or rules.by_label)


def _measure_same_iou(boxes: BoxClaims, annotators: int, settings: EngineSettings) -> np.ndarray:
    """Return (A, A) the least IoU of boxes of one label in one cluster."""
    return measure_same_iou(boxes.scope, boxes.annotator, boxes.bounds, boxes.label, annotators, settings.same_iou)


def _nothing_label(boxes: BoxClaims, voter: np.ndarray) -> int:
    """Return the label of people's empty texts, -1 where there is none; no other annotator's empty text has a vote."""
    empty = [k for k in voter[boxes.is_human[voter]].tolist() if flag_blank_texts([boxes.text[k]])[0]]
    return int(boxes.label[empty[0]]) if empty else -1


def estimate_box_weights(bounds: np.ndarray, matrix: LabelMatrix, models: AnnotatorModels) -> np.ndarray:
    """Return the weight (A,) of each annotator's boxes: their inverse variance, 1 on the mean; times 1 − dependence.

    ``bounds``: (claims, 4). For each pair (a, b) the median squared distance of their boxes of one item, in shares of
    the box's sides, stands for σ_a² + σ_b²; the variances are the least-squares solution over all pairs, weighted by
    the square root of their items, with (1.02 − F1_a) ^ `QUALITY_POWER` of the labels as a prior: who finds and names
    better draws better.
    """
    count = matrix.claim.shape[1]
    stated = (1.02 - models.f1) ** QUALITY_POWER
    rows, distances, weights = [], [], []
    for a in range(count):
        for b in range(a):
            if a == models.copied_from[b] or b == models.copied_from[a]:
                continue
            both = matrix.claim[matrix.present[:, a] & matrix.present[:, b]][:, [a, b]]
            if len(both) >= MIN_PAIRS and not matrix.traits.names_only[[a, b]].any():
                one, other = bounds[both[:, 0]], bounds[both[:, 1]]
                sides = np.tile((one[:, 2:] - one[:, :2] + other[:, 2:] - other[:, :2]) / 2, 2)
                rows.append([annotator in (a, b) for annotator in range(count)])
                distances.append(np.median(((one - other) / np.maximum(sides, 1e-9)) ** 2, axis=0).mean())
                weights.append(np.sqrt(len(both)))
    independent = np.where(matrix.traits.names_only, 0.0, 1 - models.dependence)
    if not rows or max(distances) < 1e-9:
        return stated.mean() / stated * independent
    # the prior, scaled to explain the distances as well as it can, counts for a few pairs
    system, right = np.asarray(rows, float), np.asarray(distances)
    stated *= right.sum() / (system @ stated).sum()
    weight = np.append(weights, np.full(count, PRIOR_PAIRS))
    system = np.concatenate([system, np.eye(count)]) * weight[:, None]
    variance = np.linalg.lstsq(system, np.append(right, stated) * weight, rcond=None)[0]
    variance = np.clip(variance, 0.1 * right.mean() / 2, None)
    return variance.mean() / variance * independent


# ---------------------------------------------------------------- fusing


def fuse_boxes(claims: Claims, clusters: BoxClusters, settings: EngineSettings) -> FusedBoxes:
    """Vote on every cluster and average its boxes, weighted by inverse variance and how likely each claim is right."""
    votes = vote_on_items(
        clusters.matrix,
        clusters.models.labels,
        claims.student_index,
        settings.student.cap,
        by_label=clusters.by_label,
    )
    boxes = clusters.claims
    weight = np.zeros(len(boxes))
    cells = np.nonzero(clusters.matrix.present)
    weight[clusters.voter[clusters.matrix.claim[cells]]] = votes.weight[cells]
    source = _choose_sources(clusters, votes)
    box_weight = weight * clusters.models.box_weight[boxes.annotator]
    return FusedBoxes(
        source=source,
        annotator=np.append(votes.annotator, -1)[clusters.item],
        box=average_by_cluster(boxes.bounds, box_weight, clusters.cluster, source),
        confidence=np.append(votes.confidence, np.nan)[clusters.item],
        score=average_by_cluster(boxes.score[:, None], weight, clusters.cluster, source)[:, 0],
        weight=weight,
        box_weight=box_weight,
    )


def _choose_sources(clusters: BoxClusters, votes: ItemVotes) -> np.ndarray:
    """(k,) the box claim whose text each cluster gets: the one voted for; where none has a vote, the first."""
    source = np.full(len(clusters.item), len(clusters.claims), np.int64)
    np.minimum.at(source, clusters.cluster, np.arange(len(clusters.claims)))
    voted = clusters.item >= 0
    items = clusters.item[voted]
    source[voted] = clusters.voter[clusters.matrix.claim[items, votes.annotator[items]]]
    return source


def average_by_cluster(values: np.ndarray, weight: np.ndarray, cluster: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Return the weighted means (k, d) of ``values`` (m, d) by cluster, without NaN; of no weight the source's."""
    count = len(source)
    mass = weight * ~np.isnan(values.T)
    total = np.stack([np.bincount(cluster, column, minlength=count) for column in mass], axis=1)
    columns = mass * np.nan_to_num(values.T)
    sums = np.stack([np.bincount(cluster, column, minlength=count) for column in columns], axis=1)
    # rounded, because the mean of equal values may come out a little off them, and so outside the image
    return np.where(total > 1e-12, np.round(sums / np.maximum(total, 1e-12), 6), values[source])


def measure_agreement(clusters: BoxClusters, rows: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return (r,) the agreement on ``label`` (r,) of clusters ``rows`` (r,).

    It is the share of the annotators that were asked about the image and can claim the label (it is in their
    vocabulary) that claim it; a claim without a vote counts as silence. NaN with fewer than two such annotators, or
    where no claim has a vote. No annotator claims a label of -1.
    """
    matrix, item = clusters.matrix, clusters.item[rows]
    result = np.full(len(rows), np.nan)
    voted = np.flatnonzero(item >= 0)
    item, label = item[voted], label[voted]
    same = matrix.present[item] & (matrix.label[item] == label[:, None])
    able = matrix.claim[item] != NOT_ASKED
    if matrix.can_label is not None:
        able &= matrix.can_label.T[label] | same
    count = able.sum(axis=1)
    result[voted] = np.where(count > 1, same.sum(axis=1) / np.maximum(count, 1), np.nan)
    return result


def pick_polygons(regions: Regions, clusters: BoxClusters, fused: FusedBoxes, chosen: np.ndarray) -> pa.ListArray:
    """Return the polygons of the ``chosen`` clusters: those of the claim with most weight, moved to the fused box."""
    boxes = clusters.claims
    has_polygons = np.append(np.diff(regions.polygons.offsets.to_numpy()) > 0, False)[boxes.region]
    rows = np.flatnonzero(has_polygons)
    best = np.full(len(clusters.item), -1, np.int64)
    order = rows[np.lexsort((-rows, fused.weight[rows]))]
    best[clusters.cluster[order]] = order
    source = best[chosen]
    has = np.flatnonzero(source >= 0)
    if not len(has):
        return empty_polygons(len(chosen))
    polygons = regions.polygons.take(pa.array(boxes.region[source[has]]))
    moved = move_polygons(polygons, boxes.bounds[source[has]], fused.box[chosen[has]])
    index = np.full(len(chosen), len(has), np.int64)
    index[has] = np.arange(len(has))
    return pa.concat_arrays([moved, empty_polygons(1)]).take(pa.array(index))
