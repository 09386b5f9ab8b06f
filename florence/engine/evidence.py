"""What each claim about a region is worth: how likely it is right, by all annotators and by the others alone.

The consensus gives one label for each item. Here the other side of the same models is kept: a row for each claim, for
each item, and for each silence of an annotator that was asked. Symbols as in `florence.engine.consensus.posterior`:

    p_right             P(a's claim is right | y_i)
    p_right_by_others   P(a's claim is right | y_i without y_ia), a counted as not asked:
                        Σ_j P(z = v_j) s(v_j, y_ia) + P(z = *) π(y_ia), the latter where nobody else claims y_ia
    of a silence        P(the item's label is right | y_i without a's silence)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.claims import AnnotatorRoster, Claims, find_codes, image_sizes, read_claims
from florence.engine.consensus import blocks
from florence.engine.consensus.boxes import BoxClusters, BoxModels, fuse_boxes
from florence.engine.consensus.label_matrix import ABSENT, NOT_ASKED, LabelMatrix
from florence.engine.consensus.posterior import infer_by_scores
from florence.engine.consensus.regions import REGION_TYPES, cluster_regions, make_region_labels
from florence.engine.consensus.vote import ItemVotes, vote_on_items
from florence.engine.filters.duplicates import drop_near_duplicates, find_near_duplicates
from florence.engine.ranks import read_ranker_scores
from florence.records import BASE_TYPES, AnnotatorProfile

_BOX = pa.list_(pa.float64(), 4)
CLAIM_EVIDENCE = pa.schema(
    [
        ("image_id", pa.string()),
        ("task", pa.string()),
        ("annotator", pa.string()),
        ("annotation_id", pa.string()),
        ("region", pa.int32()),
        ("text", pa.string()),
        ("box", _BOX),
        ("score", pa.float64()),
        ("vote_reason", pa.string()),
        ("item", pa.int64()),
        ("p_right", pa.float64()),
        ("p_right_by_others", pa.float64()),
    ]
)
"""A row for each claim. ``region``: number of the claim's region that is voted on, null where it has none; ``box``: its
bounds, pixels, inside the image. ``vote_reason``: why the claim has no vote, empty where it has one. ``p_right``: null
without a vote. ``p_right_by_others``: null without a vote, where nobody else was asked, and where it was not wanted."""
ITEM_EVIDENCE = pa.schema(
    [
        ("item", pa.int64()),
        ("image_id", pa.string()),
        ("task", pa.string()),
        ("label", pa.string()),
        ("box", _BOX),
        ("confidence", pa.float64()),
        ("p_nothing", pa.float64()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("claimed_by", pa.list_(pa.string())),
        ("silent", pa.list_(pa.string())),
    ]
)
"""A row for each item, in the order of images and types, so that ``item`` is its row number. ``label`` to ``reason``:
as the engine's labels have them; ``p_nothing``: P(z = 0). ``claimed_by``: who has a vote about it; ``silent``: who was
asked and claims nothing of it; all people are "human". Confidence and ``p_nothing`` are null where no claim votes."""
SILENCE_EVIDENCE = pa.schema(
    [("item", pa.int64()), ("annotator", pa.string()), ("p_right_by_others", pa.float64())],
)
"""A row for each item and annotator that was asked and claims nothing: how likely the item's label is right when this
silence counts for nothing."""


@dataclass(frozen=True)
class Evidence:
    """What claims, items and silences are worth: tables of `CLAIM_EVIDENCE`, `ITEM_EVIDENCE`, `SILENCE_EVIDENCE`."""

    claims: pa.Table
    items: pa.Table
    silences: pa.Table


@dataclass(frozen=True)
class _Scope:
    """What is weighed: annotation types, and the annotators whose claims are weighed by the others; None: all."""

    tasks: tuple[str, ...]
    by_others: frozenset[str] | None


def weigh_evidence(
    claims: pa.Table,
    images: pa.Table,
    coverage: pa.Table,
    settings: EngineSettings,
    profiles: Sequence[AnnotatorProfile] = (),
    *,
    tasks: Sequence[str] = REGION_TYPES,
    by_others: Sequence[str] | None = None,
) -> Evidence:
    """Weigh every claim about a region of ``images``, with the models and labels of `florence.engine.fuse`.

    ``tasks``: annotation types, some of `REGION_TYPES`. ``by_others``: the annotators whose claims and silences are
    weighed by the others, which takes a vote on all items for each; None: all. The same rows in any order give the same
    tables. Raises DataError for a claim of no annotation type, or whose region is none.
    """
    scope = _Scope(tuple(tasks), None if by_others is None else frozenset(by_others))
    claims = claims.append_column(_ROW, pa.array(np.arange(len(claims))))
    is_duplicate = find_near_duplicates(images, settings.near_duplicate)
    parts: list[_TypeEvidence] = []
    known: dict[int, BoxModels] = {}
    roster = None
    if len(claims) > blocks.MAX_CLAIMS_WHOLE:
        voting = blocks.select_voting_claims(claims, coverage, settings, profiles)
        roster = AnnotatorRoster.of(*voting)
        known = _fit_models(voting, images, settings, profiles, roster)
    for rows, block in _cut_images(claims, images, coverage):
        voting = blocks.select_voting_claims(block.claims, block.coverage, settings, profiles)
        found = read_claims(*voting, block.images, profiles, roster)
        names = tuple(block.images["image_id"].to_pylist())
        found = replace(found, ranks=read_ranker_scores(block.claims, names, profiles))
        source = voting[0][_ROW].to_numpy()[found.row]
        for code in _list_codes(found, scope):
            clusters = cluster_regions(found, code, image_sizes(block.images), settings, known.get(code))
            part = _weigh_type(found, clusters, code, is_duplicate[rows], settings, scope)
            parts.append(replace(part, image=rows[part.image], claim=source[part.claim]))
    return _build_tables(parts, claims, images["image_id"])


_ROW = "row"
"""The column with a claim's row in the table of all claims."""


def _list_codes(found: Claims, scope: _Scope) -> list[int]:
    """The annotation types that are weighed and that somebody claims."""
    codes = [BASE_TYPES.index(task) for task in REGION_TYPES if task in scope.tasks]
    return [code for code in codes if (found.annotation_type == code).any()]


def _fit_models(
    voting: tuple[pa.Table, pa.Table],
    images: pa.Table,
    settings: EngineSettings,
    profiles: Sequence[AnnotatorProfile],
    roster: AnnotatorRoster,
) -> dict[int, BoxModels]:
    """The models of each type, fitted to the images that `florence.engine.fuse` fits them to."""
    ids = images["image_id"].combine_chunks()
    image = find_codes(voting[0]["image_id"], ids)
    numbered = voting[0].append_column(blocks.IMAGE, pa.array(image)).filter(pa.array(image >= 0))
    chosen = blocks.find_fit_images(numbered, ids)
    fit_claims, fit_coverage, fit_images = (
        table.filter(pa.array(_pick(chosen, table, ids))) for table in (*voting, images)
    )
    found = read_claims(fit_claims, fit_coverage, fit_images, profiles, roster)
    codes = [BASE_TYPES.index(task) for task in REGION_TYPES]
    return {
        code: cluster_regions(found, code, image_sizes(fit_images), settings).models
        for code in codes
        if (found.annotation_type == code).any()
    }


def _pick(chosen: np.ndarray, table: pa.Table, ids: pa.Array) -> np.ndarray:
    """(rows,) whether a table's row is about an image that is ``chosen`` (images,)."""
    return np.append(chosen, False)[find_codes(table["image_id"], ids)]


def _cut_images(claims: pa.Table, images: pa.Table, coverage: pa.Table) -> Iterator[tuple[np.ndarray, blocks.Block]]:
    """Yield blocks of images of about `CLAIMS_PER_BLOCK` claims each, with (k,) the row of each image of it."""
    ids = images["image_id"].combine_chunks()
    if len(claims) <= blocks.MAX_CLAIMS_WHOLE:
        yield np.arange(len(ids)), blocks.Block(claims, images, coverage)
        return
    image, covered = find_codes(claims["image_id"], ids), find_codes(coverage["image_id"], ids)
    count = np.bincount(image[image >= 0], minlength=len(ids))
    number = np.append((np.cumsum(count) - count) // blocks.CLAIMS_PER_BLOCK, -1)
    for k in np.unique(number[:-1]).tolist():
        rows = np.flatnonzero(number[:-1] == k)
        parts = [table.filter(pa.array(number[of] == k)) for table, of in ((claims, image), (coverage, covered))]
        yield rows, blocks.Block(parts[0], images.slice(int(rows[0]), len(rows)), parts[1])


# ---------------------------------------------------------------- one annotation type of one block


@dataclass(frozen=True)
class _TypeEvidence:
    """The evidence of one annotation type: m claims, k items in the order of images, s silences.

    Of claims: ``claim`` (row), ``region``, ``text``, ``bounds``, ``score``, ``vote_reason``, ``item``, ``p_right``,
    ``by_others``. Of items: ``image`` (row), ``label``, ``box``, ``confidence``, ``nothing``, ``reason``; ``claimed``,
    ``silent``: (k, A). Of silences: ``silent_by_others``, (k, A), NaN where there is none. ``annotators``: A names.
    """

    code: int
    annotators: tuple[str, ...]
    claim: np.ndarray
    region: np.ndarray
    text: tuple[str, ...]
    bounds: np.ndarray
    score: np.ndarray
    vote_reason: np.ndarray
    item: np.ndarray
    p_right: np.ndarray
    by_others: np.ndarray
    image: np.ndarray
    label: Sequence[str]
    box: np.ndarray
    confidence: np.ndarray
    nothing: np.ndarray
    reason: Sequence[str]
    claimed: np.ndarray
    silent: np.ndarray
    silent_by_others: np.ndarray


def _weigh_type(
    found: Claims, clusters: BoxClusters, code: int, is_duplicate: np.ndarray, settings: EngineSettings, scope: _Scope
) -> _TypeEvidence:
    """Weigh the claims of a type. ``is_duplicate``: (images,), see `find_near_duplicates`."""
    boxes, matrix = clusters.claims, clusters.matrix
    (labels,) = drop_near_duplicates(make_region_labels(found, code, clusters, settings)[:1], is_duplicate)
    student, cap = found.student_index, settings.student.cap
    votes = vote_on_items(matrix, clusters.models.labels, student, cap, by_label=clusters.by_label)
    right, silent = _right_of_all(matrix, votes), matrix.claim == ABSENT
    others = np.full(right.shape, np.nan)
    for a, name in enumerate(found.annotators):
        if (scope.by_others is None or name in scope.by_others) and (matrix.present[:, a] | silent[:, a]).any():
            others[:, a] = _right_by_others(clusters, votes, a, None if student == a else student, cap)
    claim_cell = matrix.claim[cells := np.nonzero(matrix.present)]
    p_right, by_others = np.full((2, len(boxes)), np.nan)
    p_right[clusters.voter[claim_cell]] = right[cells]
    by_others[clusters.voter[claim_cell]] = others[cells]
    nothing = infer_by_scores(matrix, clusters.models.labels, student, cap).nothing

    def of_clusters(values: np.ndarray, missing: float) -> np.ndarray:
        return np.concatenate([values, np.full((1, *values.shape[1:]), missing, values.dtype)])[clusters.item]

    first = found.regions.claim.searchsorted(boxes.claim)
    return _TypeEvidence(
        code=code,
        annotators=found.annotators,
        claim=boxes.claim,
        region=np.where(boxes.region >= 0, boxes.region - first, -1),
        text=boxes.text,
        bounds=boxes.bounds,
        score=boxes.score,
        vote_reason=boxes.reason,
        item=clusters.cluster,
        p_right=p_right,
        by_others=by_others,
        image=labels.image,
        label=labels.text,
        box=fuse_boxes(found, clusters, settings).box,
        confidence=labels.confidence,
        nothing=of_clusters(nothing, np.nan),
        reason=labels.reason,
        claimed=of_clusters(matrix.present, False),
        silent=of_clusters(silent, False),
        silent_by_others=of_clusters(np.where(silent, others, np.nan), np.nan),
    )


def _right_of_all(matrix: LabelMatrix, votes: ItemVotes) -> np.ndarray:
    """(n, A) how likely each claim is right; where a person claims something, how right it is beside that."""
    if matrix.human is None:
        return votes.weight
    by_person = matrix.present[:, matrix.human]
    return np.where(by_person[:, None], matrix.similarity[:, matrix.human], votes.weight)


def _right_by_others(clusters: BoxClusters, votes: ItemVotes, a: int, student: int | None, cap: float) -> np.ndarray:
    """(n,) how likely annotator a's claim, or where it is silent the item's label, is right by the others.

    NaN where nobody else was asked.
    """
    matrix, models = clusters.matrix, clusters.models.labels
    rest = leave_out(matrix, a)
    posterior = infer_by_scores(rest, models, student, cap)
    own = posterior.label * matrix.similarity[:, :, a]
    own[:, a] = 0
    same = (rest.present & (matrix.label == matrix.label[:, [a]])).any(axis=1)
    another = np.clip(1 - posterior.nothing - posterior.label.sum(axis=1), 0, 1)
    prior = models.label_prior[models.label_index[matrix.label[:, a]]]
    claimed = own.sum(axis=1) + np.where(same, 0, another * prior)
    result = np.where(matrix.present[:, a], claimed, posterior.correct[np.arange(len(matrix)), votes.annotator])
    asked = rest.was_asked.any(axis=1)
    if matrix.human is not None:
        asked |= rest.present[:, matrix.human]
    return np.where(asked, np.clip(result, 0, 1), np.nan)


def leave_out(matrix: LabelMatrix, annotator: int) -> LabelMatrix:
    """Return the items as if ``annotator`` had not been asked about them."""
    claim, label, level, similarity = (
        values.copy() for values in (matrix.claim, matrix.label, matrix.level, matrix.similarity)
    )
    claim[:, annotator] = NOT_ASKED
    label[:, annotator] = level[:, annotator] = 0
    similarity[:, annotator] = similarity[:, :, annotator] = 0
    return replace(matrix, claim=claim, label=label, level=level, similarity=similarity)


# ---------------------------------------------------------------- tables


def _build_tables(parts: Sequence[_TypeEvidence], claims: pa.Table, image_ids: pa.ChunkedArray) -> Evidence:
    """Join the parts: items in the order of images and types, claims and silences in the order of items."""
    if not parts:
        return Evidence(*(schema.empty_table() for schema in (CLAIM_EVIDENCE, ITEM_EVIDENCE, SILENCE_EVIDENCE)))
    image = np.concatenate([part.image for part in parts])
    code = np.repeat([part.code for part in parts], [len(part.image) for part in parts])
    order = np.lexsort((np.arange(len(image)), code, image))
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    begin = np.cumsum([0, *(len(part.image) for part in parts)])[:-1]
    tasks = pa.array(BASE_TYPES, pa.string())
    items = pa.concat_tables([_item_columns(part) for part in parts]).take(pa.array(order))
    items = items.append_column("item", pa.array(np.arange(len(order))))
    items = items.append_column("image_id", image_ids.take(pa.array(image[order])))
    items = items.append_column("task", tasks.take(pa.array(code[order])))
    made = pa.concat_tables(
        [_claim_columns(part, number[first + part.item]) for part, first in zip(parts, begin, strict=True)]
    )
    silences = pa.concat_tables([_silences(part, number[first:]) for part, first in zip(parts, begin, strict=True)])
    source = claims.select(["image_id", "task", "annotator", "annotation_id"]).take(made["claim"])
    for name in source.column_names:
        made = made.append_column(name, source[name])
    keys = [("item", "ascending"), ("annotator", "ascending")]
    return Evidence(
        _conform(made, CLAIM_EVIDENCE).sort_by([*keys, ("annotation_id", "ascending")]),
        _conform(items, ITEM_EVIDENCE),
        _conform(silences, SILENCE_EVIDENCE).sort_by(keys),
    )


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.select(schema.names).cast(schema).combine_chunks()


def _claim_columns(part: _TypeEvidence, item: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "claim": part.claim,
            "region": pa.array(part.region, pa.int32(), mask=part.region < 0),
            "text": pa.array(part.text, pa.string()),
            "box": _box_column(part.bounds),
            "score": _nullable(part.score),
            "vote_reason": pa.array(part.vote_reason, pa.string()),
            "item": item,
            "p_right": _nullable(part.p_right),
            "p_right_by_others": _nullable(part.by_others),
        }
    )


def _item_columns(part: _TypeEvidence) -> pa.Table:
    return pa.table(
        {
            "label": pa.array(part.label, pa.string()),
            "box": _box_column(part.box),
            "confidence": _nullable(part.confidence),
            "p_nothing": _nullable(part.nothing),
            "kept": np.asarray(part.reason, object) == "",
            "reason": pa.array(part.reason, pa.string()),
            "claimed_by": _name_lists(part.claimed, part.annotators),
            "silent": _name_lists(part.silent, part.annotators),
        }
    )


def _silences(part: _TypeEvidence, number: np.ndarray) -> pa.Table:
    """The silences that the others were asked about. ``number``: of each item of the part, first to last."""
    item, annotator = np.nonzero(~np.isnan(part.silent_by_others))
    return pa.table(
        {
            "item": number[item],
            "annotator": pa.array(part.annotators, pa.string()).take(pa.array(annotator)),
            "p_right_by_others": part.silent_by_others[item, annotator],
        }
    )


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(float), pa.float64(), mask=np.isnan(values))


def _box_column(boxes: np.ndarray) -> pa.Array:
    """(m, 4) as lists, null where a box is NaN."""
    flat = pa.array(np.nan_to_num(boxes).astype(float).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, 4, mask=pa.array(np.isnan(boxes).any(axis=1)))


def _name_lists(mask: np.ndarray, names: Sequence[str]) -> pa.Array:
    """(k, A) as lists of names."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(mask.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(names, pa.string()).take(pa.array(np.nonzero(mask)[1])))
