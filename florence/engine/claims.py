"""Claims as columns of numbers, in one order, whatever the order they came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.engine.polygon_lists import POLYGONS, point_owners, replace_points
from florence.engine.ranks import NO_RANKER_SCORES, RankerScores
from florence.errors import DataError
from florence.records import ANNOTATION_TYPES, HUMAN, STUDENT, AnnotatorProfile

NO_SPAN = -1
COMPLETE = "complete"
"""Column of a coverage table: whether a person claims all there is of the image."""
EVERY_TYPE = (1 << len(ANNOTATION_TYPES)) - 1


@dataclass(frozen=True)
class Regions:
    """m regions, inside their images.

    ``claim``: (m,), row of the claim that a region belongs to; ``bounds``: (m, 4) and ``quad``: (m, 8), pixels, NaN
    where there is none; ``polygons``: Arrow, lists of lists; ``score``: (m,), NaN where none; ``span``: (m, 2), -1
    where none.
    """

    claim: np.ndarray
    label: pa.Array
    bounds: np.ndarray
    quad: np.ndarray
    polygons: pa.ListArray
    score: np.ndarray
    span: np.ndarray

    def __len__(self) -> int:
        return len(self.claim)


@dataclass(frozen=True)
class Claims:
    """n claims, ordered by image, annotation type, annotator and id.

    ``images``: ids in the order of the images' table; ``annotators``: A names, sorted; ``texts``: distinct ones.
    ``image``, ``annotation_type``, ``annotator``, ``text``: (n,), indices into images, `ANNOTATION_TYPES`, annotators
    and texts; ``score``: (n,), NaN where none. ``looked_at``: (images, A), who looked at which image for what: bit t is
    annotation type t; ``claims_type``: (A, types), who claims what type, on other images too; ``vocabularies``: the
    names that each annotator has for objects, None for any; ``families``: (A,), the same number for annotators that
    share mistakes; ``names_only``: (A,), whose claims copy boxes of others; ``complete``: (images,), for which types,
    as bits, a person has claimed all there is; ``row``: (n,), of each claim in the table that it was read from;
    ``ranks``: what rankers claim.
    """

    images: tuple[str, ...]
    annotators: tuple[str, ...]
    texts: tuple[str, ...]
    image: np.ndarray
    annotation_type: np.ndarray
    annotator: np.ndarray
    text: np.ndarray
    score: np.ndarray
    looked_at: np.ndarray
    claims_type: np.ndarray
    regions: Regions
    vocabularies: tuple[tuple[str, ...] | None, ...]
    families: np.ndarray
    names_only: np.ndarray
    complete: np.ndarray
    row: np.ndarray
    ranks: RankerScores = NO_RANKER_SCORES

    def __len__(self) -> int:
        return len(self.image)

    def compute_coverage(self, annotation_type: int) -> np.ndarray:
        """Return (images, A): whether an annotator looked at an image for this type and claims it on any image."""
        return (self.looked_at >> annotation_type & 1).astype(bool) & self.claims_type[:, annotation_type]

    def find_complete(self, annotation_type: int) -> np.ndarray:
        """Return (images,): whether a person has claimed all there is of this type."""
        return (self.complete >> annotation_type & 1).astype(bool)

    @cached_property
    def is_human(self) -> np.ndarray:
        """(A,) whether an annotator stands for people."""
        return np.asarray([name == HUMAN for name in self.annotators], bool)

    @property
    def human_index(self) -> int | None:
        """The annotator that stands for people, None without one."""
        return self.annotators.index(HUMAN) if HUMAN in self.annotators else None

    @property
    def student_index(self) -> int | None:
        """The student, None without one."""
        return self.annotators.index(STUDENT) if STUDENT in self.annotators else None


@dataclass(frozen=True)
class AnnotatorRoster:
    """All annotators with a vote: A names, sorted, and (A, types) whether each claims an annotation type anywhere."""

    annotators: tuple[str, ...]
    claims_type: np.ndarray

    @classmethod
    def of(cls, claims: pa.Table, coverage: pa.Table) -> AnnotatorRoster:
        """All who claim something or finished an image. Raises DataError for a claim of no annotation type."""
        claims = claims.select(["annotator", "task"])
        names = sorted(
            set(pc.unique(claims["annotator"]).to_pylist()) | set(pc.unique(coverage["annotator"]).to_pylist())
        )
        claims_type = np.zeros((len(names), len(ANNOTATION_TYPES)), bool)
        pairs = claims.group_by(["annotator", "task"]).aggregate([])
        annotator = find_codes(pairs["annotator"], pa.array(names, pa.string()))
        claims_type[annotator, find_type_codes(pairs["task"])] = True
        return cls(tuple(names), claims_type)


def find_codes(column: pa.ChunkedArray, values: pa.Array) -> np.ndarray:
    """Return the position of each entry in ``values``, -1 where it is not there."""
    return pc.index_in(column, value_set=values).fill_null(-1).to_numpy().astype(np.int64)


def find_type_codes(tasks: pa.ChunkedArray) -> np.ndarray:
    """Return (n,) indices into `ANNOTATION_TYPES`. Raises DataError for a claim of no annotation type."""
    code = find_codes(tasks, pa.array(ANNOTATION_TYPES))
    if len(code) and code.min() < 0:
        wrong = tasks[int(np.argmin(code))].as_py()
        raise DataError(f"claims hold the annotation type {wrong!r}; known: {', '.join(ANNOTATION_TYPES)}")
    return code


def image_sizes(images: pa.Table) -> np.ndarray:
    """Return (n, 2): width and height of each image."""
    return np.stack([images["width"].to_numpy(), images["height"].to_numpy()], axis=1).astype(float).reshape(-1, 2)


def read_claims(
    claims: pa.Table,
    coverage: pa.Table,
    images: pa.Table | None,
    profiles: Sequence[AnnotatorProfile] = (),
    roster: AnnotatorRoster | None = None,
) -> Claims:
    """Read the claims about ``images``; None: about every image that has a claim, and nothing is clipped.

    ``roster``: all annotators with a vote, where these are not all claims that there are. Raises DataError for a claim
    of no annotation type, or a region that is none.
    """
    image_ids = images["image_id"].combine_chunks() if images is not None else pc.unique(claims["image_id"]).sort()
    image = find_codes(claims["image_id"], image_ids)
    annotation_type = find_type_codes(claims["task"])
    roster = roster or AnnotatorRoster.of(claims.select(["annotator", "task"]).filter(pa.array(image >= 0)), coverage)
    keys = {"image": image, "type": annotation_type, "annotator": claims["annotator"], "id": claims["annotation_id"]}
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    order = order[image[order] >= 0]
    table = claims.select(["annotator", "text", "score", "regions"]).take(order)
    image, annotation_type = image[order], annotation_type[order]
    names = pa.array(roster.annotators, pa.string())
    annotator = find_codes(table["annotator"], names)
    texts = table["text"].combine_chunks().dictionary_encode()
    vocabularies = {profile.name: profile.vocabulary for profile in profiles if profile.role == "annotator"}
    traits = {profile.name: profile for profile in profiles if profile.role == "annotator"}
    families = [traits[name].family or name if name in traits else name for name in roster.annotators]
    size = image_sizes(images)[image] if images is not None else np.full((len(image), 2), np.inf)
    return Claims(
        images=tuple(image_ids.to_pylist()),
        annotators=roster.annotators,
        texts=tuple(texts.dictionary.to_pylist()),
        image=image,
        annotation_type=annotation_type,
        annotator=annotator,
        text=texts.indices.to_numpy(zero_copy_only=False),
        score=_read_numbers(table["score"]),
        looked_at=_read_coverage(coverage, image_ids, names, (image, annotator, annotation_type)),
        claims_type=roster.claims_type,
        regions=_read_regions(table["regions"].combine_chunks(), size),
        vocabularies=tuple(vocabularies.get(name) for name in names.to_pylist()),
        families=np.unique(families, return_inverse=True)[1] if families else np.zeros(0, np.int64),
        names_only=np.asarray([name in traits and traits[name].names_only for name in roster.annotators], bool),
        complete=_read_complete(coverage, image_ids),
        row=order,
    )


def _read_numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Numbers, NaN where there is none."""
    return np.asarray(pc.fill_null(column, np.nan), float)


def _read_coverage(
    coverage: pa.Table, image_ids: pa.Array, names: pa.Array, claims: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """(images, A) who looked at which image for what. ``claims``: image, annotator and type of each.

    An annotator with a claim about an image has looked for its type; for all types, if no coverage tells.
    """
    result = np.zeros((len(image_ids), len(names)), np.uint32)
    finished = coverage.filter(pc.equal(coverage["error"], ""))
    at, by = find_codes(finished["image_id"], image_ids), find_codes(finished["annotator"], names)
    np.bitwise_or.at(result, (at[at >= 0], by[at >= 0]), _read_looks(finished)[at >= 0])
    image, annotator, annotation_type = claims
    untold = result[image, annotator] == 0
    result[image[untold], annotator[untold]] = EVERY_TYPE
    np.bitwise_or.at(result, (image, annotator), (1 << annotation_type).astype(np.uint32))
    return result


def _read_complete(coverage: pa.Table, image_ids: pa.Array) -> np.ndarray:
    """(images,) the types for which a person has claimed all there is of an image, as bits."""
    result = np.zeros(len(image_ids), np.uint32)
    if COMPLETE in coverage.column_names:
        finished = coverage.filter(pc.and_(pc.equal(coverage["error"], ""), coverage[COMPLETE]))
        at = find_codes(finished["image_id"], image_ids)
        np.bitwise_or.at(result, at[at >= 0], _read_looks(finished)[at >= 0])
    return result


def _read_looks(coverage: pa.Table) -> np.ndarray:
    """(n,) the types that each row says its image was looked at for, as bits; every type where it does not say."""
    if "looked_at" not in coverage.column_names:  # an older table
        return np.full(len(coverage), EVERY_TYPE, np.uint32)
    texts = coverage["looked_at"].combine_chunks().dictionary_encode()
    bits = {name: 1 << code for code, name in enumerate(ANNOTATION_TYPES)}
    known = [sum(bits.get(name, 0) for name in set(text.split(","))) for text in texts.dictionary.to_pylist()]
    codes = pc.fill_null(texts.indices, len(known)).to_numpy(zero_copy_only=False)
    return np.asarray([*known, EVERY_TYPE], np.uint32)[codes]


def _read_regions(column: pa.ListArray, size: np.ndarray) -> Regions:
    """Regions of claims, clipped to their images. ``size``: (n, 2), of each claim's image."""
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    claim = np.repeat(np.arange(len(column)), counts)
    flat = column.flatten()
    size = size[claim]
    box, quad = _read_lists(flat.field("box"), 4, "box"), _read_lists(flat.field("quad"), 8, "quad")
    polygons = flat.field("polygons")
    if polygons.null_count:
        polygons = pc.coalesce(polygons, pa.scalar([], POLYGONS))
    polygons, with_polygons, polygon_bounds = _clip_polygons(polygons, size)
    low, high = np.fmin(box[:, :2], box[:, 2:]), np.fmax(box[:, :2], box[:, 2:])
    bounds = np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], axis=1)
    with_quad = np.flatnonzero(~np.isnan(quad[:, 0]))
    quad[with_quad] = np.clip(quad[with_quad], 0, np.tile(size[with_quad], 4))
    corners = quad[with_quad].reshape(-1, 4, 2)
    quad_bounds = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    for rows, other in ((with_quad, quad_bounds), (with_polygons, polygon_bounds)):
        bounds[rows] = np.where(np.isnan(bounds[rows]), other, bounds[rows])
    span = _read_lists(flat.field("span"), 2, "span")
    return Regions(
        claim=claim,
        label=flat.field("label"),
        bounds=bounds,
        quad=quad,
        polygons=polygons,
        score=_read_numbers(flat.field("score")),
        span=np.where(np.isnan(span), NO_SPAN, span).astype(np.int64),
    )


def _read_lists(column: pa.ListArray, length: int, name: str) -> np.ndarray:
    """(m, length) of a column of lists, NaN where there is none. Raises DataError where a list has another length."""
    result = np.full((len(column), length), np.nan)
    lengths = pc.list_value_length(column).drop_null().to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths != length).any():
        raise DataError(f"a claim's {name} has {int(lengths[lengths != length][0])} numbers; {length} are expected")
    result[pc.is_valid(column).to_numpy(zero_copy_only=False)] = (
        column.flatten().to_numpy(zero_copy_only=False).reshape(-1, length)
    )
    return result


def _clip_polygons(polygons: pa.ListArray, size: np.ndarray) -> tuple[pa.ListArray, np.ndarray, np.ndarray]:
    """Polygons clipped to their images, the k regions that have any, and (k, 4) their bounds."""
    inner = polygons.flatten()
    lengths = pc.list_value_length(inner).to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths % 2).any():
        odd = int(lengths[lengths % 2 == 1][0])
        raise DataError(f"a claim's polygon has {odd} numbers; x and y in turn are expected")
    owner = point_owners(polygons, lengths // 2)
    points = np.clip(inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2), 0, size[owner])
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]][: len(owner)])
    bounds = np.zeros((0, 4))
    if len(points):
        bounds = np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)
    return replace_points(polygons, points), owner[starts], bounds
