"""The consensus on regions: objects, region texts, referring expressions and OCR lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from florence.config import EngineSettings
from florence.engine.claims import NO_SPAN, Claims, Regions
from florence.engine.consensus.alternatives import drop_alternatives, find_alternatives, measure_alternatives
from florence.engine.consensus.boxes import (
    BoxClaims,
    BoxClusters,
    BoxModels,
    BoxVoteRules,
    FusedBoxes,
    average_by_cluster,
    cluster_boxes,
    fuse_boxes,
    measure_agreement,
    pick_polygons,
)
from florence.engine.consensus.label_matrix import LabelSimilarity
from florence.engine.consensus.maximisation import PRIOR_CLAIMS_OF_TEXTS
from florence.engine.consensus.word_consensus import compose_by_characters
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.filters.regions import flag_degenerate_boxes, flag_duplicates, flag_near_full_boxes
from florence.engine.filters.scores import flag_low_confidence, flag_low_scores
from florence.engine.filters.texts import flag_blank_texts, flag_empty_texts, flag_repetition
from florence.engine.labels import Labels
from florence.engine.polygon_lists import empty_polygons
from florence.engine.ranks import REGION_TEXTS, RankerScores
from florence.engine.wording.alignment import align_pairs
from florence.engine.wording.overlap import word_overlap
from florence.engine.wording.sequences import expand_ranges
from florence.engine.wording.tokens import encode_key, tokenize_texts
from florence.geometry import box_quad, paired_iou
from florence.metrics.reading import normalize_text
from florence.names import build_name_table
from florence.records import BASE_TYPES, fold_label

OBJECTS, OCR = "<OD>", "<OCR_WITH_REGION>"
TEXT_PRECISION = 0.85
"""Share right of claims of texts, before anything is known: their scores rate the text, not whether it is there."""
REGION_TYPES = (OBJECTS, REGION_TEXTS, "<REFERRING_EXPRESSION_SEGMENTATION>", OCR)
MIN_TEXT_SIMILARITY = 0.25
"""Least similarity of OCR texts that are versions of one text."""


def select_box_claims(
    claims: Claims, annotation_type: int, size: np.ndarray | None, settings: EngineSettings
) -> BoxClaims:
    """Return the claims of a type with their first region, after the filters that look at one claim alone.

    ``size``: (images, 2); None skips the filter that needs it.
    """
    task = BASE_TYPES[annotation_type]
    rows = np.flatnonzero(claims.annotation_type == annotation_type)
    region = claims.regions.claim.searchsorted(rows)
    region = np.where(np.append(claims.regions.claim, -1)[region] == rows, region, -1)
    bounds = np.append(claims.regions.bounds, np.full((1, 4), np.nan), axis=0)[region]
    distinct, text_of = np.unique(claims.text[rows], return_inverse=True)
    texts = [claims.texts[k] for k in distinct.tolist()]
    normalise = _normaliser(task, settings)
    labels: dict[str, int] = {}
    label = np.asarray([labels.setdefault(normalise(text), len(labels)) for text in texts], np.int64)[text_of]
    annotator, image = claims.annotator[rows], claims.image[rows]
    human = claims.is_human[annotator]
    empty = flag_empty_texts(texts)
    masks = [
        ("empty_text", (flag_blank_texts(texts) if task == OBJECTS else empty)[text_of]),
        ("low_score", flag_low_scores(claims.score[rows], annotator, task, claims.annotators, settings)),
        # a name of signs alone, as "....", says no word over and over
        ("repetition", (flag_repetition(tokenize_texts(texts), settings) & ~empty)[text_of]),
        ("degenerate", flag_degenerate_boxes(bounds, settings)),
    ]
    if size is not None and task != OCR:
        masks.append(("near_full", flag_near_full_boxes(bounds, size[image], settings)))
    # claims of people are not filtered
    masks = [("no_place", np.isnan(bounds).any(axis=1)), *((name, applies & ~human) for name, applies in masks)]
    return BoxClaims(
        claim=rows,
        region=region,
        scope=image,
        image=image,
        annotator=annotator,
        bounds=bounds,
        text=tuple([texts[k] for k in text_of.tolist()]),
        label=label,
        score=claims.score[rows],
        reason=choose_first_reason(len(rows), masks),
        is_human=human,
        label_names=tuple(labels),
    )


def _normaliser(task: str, settings: EngineSettings) -> Callable[[str], str]:
    """What texts that count as the same have in common."""
    return normalize_text if task == OCR else build_name_table(settings).canonical if task == OBJECTS else fold_label


def cluster_regions(
    claims: Claims,
    annotation_type: int,
    size: np.ndarray | None,
    settings: EngineSettings,
    known: BoxModels | None = None,
) -> BoxClusters:
    """Cluster the claims of a type about regions. ``size``: see `select_box_claims`; ``known``: models to use."""
    task = BASE_TYPES[annotation_type]
    boxes = select_box_claims(claims, annotation_type, size, settings)
    similarity = make_label_similarity(boxes, task, settings)
    if task == OBJECTS:
        alternative = find_alternatives(boxes)
        states = (
            known.states_alternatives
            if known and known.states_alternatives is not None
            else measure_alternatives(boxes, alternative, len(claims.annotators))
        )
        boxes = drop_alternatives(boxes, alternative, states)
        rules = BoxVoteRules(
            similarity,
            find_label_vocabulary(claims, boxes, settings),
            by_label=True,
            complete_type=annotation_type,
            states_alternatives=states,
        )
    else:
        rules = BoxVoteRules(
            similarity,
            prior_claims=PRIOR_CLAIMS_OF_TEXTS,
            complete_type=annotation_type,
            scores_state=False,
            precision=TEXT_PRECISION,
        )
    return cluster_boxes(claims, boxes, claims.compute_coverage(annotation_type), settings, rules, known)


def find_label_vocabulary(claims: Claims, boxes: BoxClaims, settings: EngineSettings) -> np.ndarray | None:
    """Return (A, labels) whether an annotator's vocabulary has a label or a hypernym of it; None: all have all."""
    if all(vocabulary is None for vocabulary in claims.vocabularies):
        return None
    table = build_name_table(settings)
    example = dict(zip(boxes.label.tolist(), boxes.text, strict=True))
    can_label = np.ones((len(claims.annotators), len(example)), bool)
    for annotator, vocabulary in enumerate(claims.vocabularies):
        if vocabulary is not None:
            words = {table.canonical(name) for name in vocabulary}
            can_label[annotator] = [bool(words & table.with_hypernyms(example[label])) for label in range(len(example))]
    return can_label


def make_label_similarity(boxes: BoxClaims, task: str, settings: EngineSettings) -> LabelSimilarity:
    """Return the similarity of labels: of objects by the table of names, of OCR texts by characters, else by words."""
    example = dict(zip(boxes.label.tolist(), boxes.text, strict=True))
    known: dict[tuple[int, int], float] = {}

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = list(zip(a.tolist(), b.tolist(), strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        if task == OBJECTS:
            table = build_name_table(settings)
            plain = {label: table.canonical(example[label]) for pair in new for label in pair}
            known.update({(x, y): table.similarity(plain[x], plain[y]) for x, y in new})
        elif task == OCR:
            aligned = align_pairs([(_character_codes(example[x]), _character_codes(example[y])) for x, y in new])
            known.update(
                {
                    both: pair.similarity**2
                    for (x, y), pair in zip(new, aligned, strict=True)
                    for both in ((x, y), (y, x))
                }
            )
        else:
            # squared: two words of four in common is little
            known.update({both: word_overlap(example[x], example[y]) ** 2 for x, y in new for both in ((x, y), (y, x))})
        return np.asarray([known[pair] for pair in pairs])

    return compare


def _character_codes(text: str) -> list[int]:
    """The codes of an OCR text's characters."""
    return [encode_key(c) for c in normalize_text(text)]


# ---------------------------------------------------------------- labels


def make_region_labels(
    claims: Claims, annotation_type: int, clusters: BoxClusters, settings: EngineSettings
) -> list[Labels]:
    """Return one row for each cluster of a type; then the region texts that rankers find to fit less well."""
    task, boxes = BASE_TYPES[annotation_type], clusters.claims
    fused = fuse_boxes(claims, clusters, settings)
    source, box = fused.source, fused.box
    has_box = ~np.isnan(box).any(axis=1)
    text = _label_texts(clusters, fused, task, settings)
    none = np.full((len(box), 8), np.nan)
    quad = none
    if task == OCR:
        quads = _rotate_quads(claims.regions, clusters, source)
        quad = average_by_cluster(quads, fused.box_weight, clusters.cluster, source)
    labels = Labels(
        annotation_type=annotation_type,
        image=boxes.image[source],
        text=text,
        score=fused.score,
        confidence=fused.confidence,
        reason=_drop_reasons(clusters, fused, settings),
        count=has_box.astype(np.int64),
        label=[t for t, has in zip(text, has_box.tolist(), strict=True) if has],
        box=none[has_box, :4] if task == OCR else box[has_box],
        quad=quad[has_box],
        polygons=pick_polygons(claims.regions, clusters, fused, np.flatnonzero(has_box)),
        region_score=fused.score[has_box],
        span=np.full((int(has_box.sum()), 2), NO_SPAN),
        order=np.nan_to_num(box[:, [1, 0, 3, 2]], nan=-1.0),
        keep_polygons=boxes.is_human[source[has_box]],
    )

    def agreement_on(rows: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        return measure_agreement(clusters, rows, _find_labels(boxes, source[rows], texts, task))

    if task == REGION_TEXTS:
        return apply_ranks(labels, claims.ranks, boxes.is_human[source], agreement_on, settings)
    return [replace(labels, agreement=agreement_on(np.arange(len(source)), text))]


def _find_labels(boxes: BoxClaims, source: np.ndarray, texts: Sequence[str], task: str) -> np.ndarray:
    """(r,) the label of each text, -1 where nobody claims it. ``source``: the box claim of an object's text."""
    if task == OBJECTS:
        return boxes.label[source]
    number = {name: label for label, name in enumerate(boxes.label_names)}
    normalise = normalize_text if task == OCR else fold_label
    return np.asarray([number.get(normalise(text), -1) for text in texts], np.int64)


def _label_texts(clusters: BoxClusters, fused: FusedBoxes, task: str, settings: EngineSettings) -> list[str]:
    """(k,) the text of each cluster."""
    if task == OCR:
        return _vote_on_characters(clusters, fused)
    boxes = clusters.claims
    text = [boxes.text[k] for k in fused.source.tolist()]
    if task == OBJECTS:
        table, human = build_name_table(settings), boxes.is_human[fused.source].tolist()
        text = [t if by_person else table.label(t) for t, by_person in zip(text, human, strict=True)]
    return text


def apply_ranks(
    labels: Labels,
    ranks: RankerScores,
    human: np.ndarray,
    agreement_on: Callable[[np.ndarray, Sequence[str]], np.ndarray],
    settings: EngineSettings,
) -> list[Labels]:
    """Give each region the text that rankers find to fit best; return the others as rows dropped with `ranked_lower`.

    The score of both is the rankers'. ``human``: (n,) rows whose text is a person's and stays; rows have one region or
    none. ``agreement_on``: (r,) rows and r texts → (r,) `Labels.agreement`.
    """
    open_ = np.flatnonzero((labels.count > 0) & ~human & (np.asarray(labels.reason, object) == ""))
    region = np.cumsum(labels.count) - 1
    start, end = (np.searchsorted(ranks.image, labels.image[open_], side=side) for side in ("left", "right"))
    row = np.repeat(open_, end - start)
    rank = expand_ranges(start, end - start)
    near = paired_iou(labels.box[region[row]], ranks.box[rank]) >= settings.iou
    ranks_of: dict[int, list[int]] = {}
    for r, k in zip(row[near].tolist(), rank[near].tolist(), strict=True):
        ranks_of.setdefault(r, []).append(k)
    text, label = list(labels.text), list(labels.label)
    score, region_score = labels.score.copy(), labels.region_score.copy()
    lower: list[tuple[int, str, float]] = []
    for r, ranked in ranks_of.items():
        best: dict[str, tuple[float, str]] = {}
        for k in ranked:
            key = fold_label(ranks.text[k])
            best[key] = max(best.get(key, (-1.0, "")), (float(ranks.score[k]), ranks.text[k]))
        (fit, words), *others = sorted(best.values(), reverse=True)
        text[r], score[r], label[region[r]], region_score[region[r]] = words, fit, words, fit
        lower += [(r, words, fit) for fit, words in others]
    agreement = agreement_on(np.arange(len(text)), text)
    chosen = replace(labels, text=text, score=score, label=label, region_score=region_score, agreement=agreement)
    if not lower:
        return [chosen]
    agreement = agreement_on(np.asarray([row for row, _, _ in lower], np.int64), [words for _, words, _ in lower])
    return [chosen, replace(_ranked_lower(labels, region, lower), agreement=agreement)]


def _ranked_lower(labels: Labels, region: np.ndarray, lower: list[tuple[int, str, float]]) -> Labels:
    """(row, text, score) as dropped rows with the boxes of those rows."""
    rows = np.asarray([row for row, _, _ in lower], np.int64)
    words, fits = [words for _, words, _ in lower], np.asarray([fit for _, _, fit in lower], float)
    return Labels(
        annotation_type=labels.annotation_type,
        image=labels.image[rows],
        text=words,
        score=fits,
        confidence=labels.confidence[rows],
        reason=["ranked_lower"] * len(lower),
        count=np.ones(len(lower), np.int64),
        label=words,
        box=labels.box[region[rows]],
        quad=np.full((len(lower), 8), np.nan),
        polygons=empty_polygons(len(lower)),
        region_score=fits,
        span=np.full((len(lower), 2), NO_SPAN),
        order=labels.order[rows],
    )


def _drop_reasons(clusters: BoxClusters, fused: FusedBoxes, settings: EngineSettings) -> list[str]:
    """(k,) why each cluster's label is dropped, empty where it is kept."""
    boxes, source = clusters.claims, fused.source
    voted, human = clusters.item >= 0, boxes.is_human[source]
    reason = np.where(voted, "", boxes.reason[source]).astype(object)
    by_person = np.flatnonzero(voted & human)
    reason[by_person[flag_blank_texts([boxes.text[k] for k in source[by_person].tolist()])]] = "rejected"
    reason[(reason == "") & flag_low_confidence(fused.confidence, settings.min_confidence)] = "low_confidence"
    kept = np.flatnonzero(reason == "")
    rank = fused.confidence[kept] + human[kept]
    again = flag_duplicates(boxes.image[source[kept]], boxes.label[source[kept]], fused.box[kept], rank, settings)
    # two that a person has drawn are two
    reason[kept[again & ~human[kept]]] = "duplicate"
    return reason.tolist()


def _vote_on_characters(clusters: BoxClusters, fused: FusedBoxes) -> list[str]:
    """(k,) the OCR text of each cluster, voted on character by character by all texts similar to the one taken."""
    boxes, matrix = clusters.claims, clusters.matrix
    text = [boxes.text[k] for k in fused.source.tolist()]
    rows = np.flatnonzero((clusters.item >= 0) & ~boxes.is_human[fused.source])
    items, chosen = clusters.item[rows], fused.annotator[rows]
    similar = matrix.similarity[items, chosen] >= MIN_TEXT_SIMILARITY
    versions = []
    for item, near, taken in zip(items.tolist(), similar, chosen.tolist(), strict=True):
        order = [taken, *(a for a in np.flatnonzero(near).tolist() if a != taken)]
        texts = clusters.voter[matrix.claim[item, order]].tolist()
        versions.append([(normalize_text(boxes.text[k]), float(fused.weight[k])) for k in texts])
    for row, spelled in zip(rows.tolist(), compose_by_characters(versions), strict=True):
        text[row] = spelled or text[row]
    return text


def _rotate_quads(regions: Regions, clusters: BoxClusters, source: np.ndarray) -> np.ndarray:
    """(m, 8) quads, a box's corners where there is none, each started nearest to where its cluster's source starts."""
    boxes = clusters.claims
    corners = np.asarray([box_quad(box) for box in boxes.bounds.tolist()]).reshape(-1, 8)
    quad = np.append(regions.quad, np.full((1, 8), np.nan), axis=0)[boxes.region]
    quad = np.where(np.isnan(quad), corners, quad)
    rotated = np.stack([np.roll(quad, -2 * turn, axis=1) for turn in range(4)])
    distance = ((rotated - quad[source][clusters.cluster]) ** 2).sum(axis=2)
    return rotated[np.nan_to_num(distance, nan=np.inf).argmin(axis=0), np.arange(len(quad))]
