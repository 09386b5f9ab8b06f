"""Claims as columns of numbers, and labels from columns back to a table: what makes fusing quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.engine.ranks import NONE, Ranks
from florence.errors import DataError
from florence.records import ANNOTATION_TYPES, ANNOTATIONS, REGION, AnnotatorProfile, annotation_ids

NO_SPAN = -1
STILL = 1e-5
"""Pixels that a box may be off by rounding."""
_POLYGONS = pa.list_(pa.list_(pa.float64()))


@dataclass(frozen=True)
class Regions:
    """m places. ``claim``: row of the claim it belongs to. ``bounds``: (m, 4), NaN where there is no place; ``quad``: (m, 8), NaN where none;
    ``polygons``: Arrow, list of lists; ``score``: NaN where none; ``span``: (m, 2), -1 where none. Everything lies inside its image.
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
    """n claims in one order, whatever the order they came in: by image, kind, annotator and id.

    ``images``: ids in the order of the images' table; ``annotators``: sorted; ``texts``: distinct ones. ``image``, ``kind``, ``annotator``, ``text``:
    (n,), indices into images, `ANNOTATION_TYPES`, annotators and texts; ``score``: (n,), NaN where none. ``looked``: (images, annotators), who looked at what; ``speaks``:
    (annotators, kinds), who claims what, be it about other images than these. ``vocabularies``: the names that each annotator has for objects, None for any; ``ranks``: what rankers say.
    """

    images: tuple[str, ...]
    annotators: tuple[str, ...]
    texts: tuple[str, ...]
    image: np.ndarray
    kind: np.ndarray
    annotator: np.ndarray
    text: np.ndarray
    score: np.ndarray
    looked: np.ndarray
    speaks: np.ndarray
    regions: Regions
    vocabularies: tuple[tuple[str, ...] | None, ...]
    ranks: Ranks = NONE

    def __len__(self) -> int:
        return len(self.image)

    def able(self, kind: int) -> np.ndarray:
        """(images, annotators): who looked at an image and claims this kind anywhere."""
        return self.looked & self.speaks[:, kind]


@dataclass(frozen=True)
class Roll:
    """Who has a say, be it about other images. ``annotators``: sorted; ``speaks``: (annotators, kinds), who claims what."""

    annotators: tuple[str, ...]
    speaks: np.ndarray

    @classmethod
    def of(cls, claims: pa.Table, coverage: pa.Table) -> Roll:
        """All who have claimed something or looked at an image. Raises DataError where a claim is not of an annotated kind."""
        claims = claims.select(["annotator", "task"])
        names = sorted(
            set(pc.unique(claims["annotator"]).to_pylist()) | set(pc.unique(coverage["annotator"]).to_pylist())
        )
        speaks = np.zeros((len(names), len(ANNOTATION_TYPES)), bool)
        pairs = claims.group_by(["annotator", "task"]).aggregate([])
        speaks[codes(pairs["annotator"], pa.array(names, pa.string())), kinds(pairs["task"])] = True
        return cls(tuple(names), speaks)


def kinds(tasks: pa.ChunkedArray) -> np.ndarray:
    """(n,) indices into `ANNOTATION_TYPES`. Raises DataError where a claim is not of an annotated kind."""
    kind = codes(tasks, pa.array(ANNOTATION_TYPES))
    if len(kind) and kind.min() < 0:
        wrong = tasks[int(np.argmin(kind))].as_py()
        raise DataError(f"claims hold the kind {wrong!r}; known: {', '.join(ANNOTATION_TYPES)}")
    return kind


def read_claims(
    claims: pa.Table,
    coverage: pa.Table,
    images: pa.Table | None,
    profiles: Sequence[AnnotatorProfile] = (),
    roll: Roll | None = None,
) -> Claims:
    """Claims about ``images`` (about every image that is claimed about, where that is None; nothing is then clipped). ``roll``: all who have a say, where these are not all
    claims there are.

    Raises DataError for a kind that is not annotated, or a place that is not one.
    """
    known = images["image_id"].combine_chunks() if images is not None else pc.unique(claims["image_id"]).sort()
    image = codes(claims["image_id"], known)
    kind = kinds(claims["task"])
    roll = roll or Roll.of(claims.select(["annotator", "task"]).filter(pa.array(image >= 0)), coverage)
    keys = {"image": image, "kind": kind, "annotator": claims["annotator"], "id": claims["annotation_id"]}
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    order = order[image[order] >= 0]
    table = claims.select(["annotator", "text", "score", "regions"]).take(order)
    image, kind = image[order], kind[order]
    names = pa.array(roll.annotators, pa.string())
    annotator = codes(table["annotator"], names)
    texts = table["text"].combine_chunks().dictionary_encode()
    known_names = {speaker.name: speaker.vocabulary for speaker in profiles if speaker.role == "annotator"}
    size = sizes(images)[image] if images is not None else np.full((len(image), 2), np.inf)
    return Claims(
        images=tuple(known.to_pylist()),
        annotators=roll.annotators,
        texts=tuple(texts.dictionary.to_pylist()),
        image=image,
        kind=kind,
        annotator=annotator,
        text=texts.indices.to_numpy(zero_copy_only=False),
        score=_numbers(table["score"]),
        looked=_looked(coverage, known, names, image, annotator),
        speaks=roll.speaks,
        regions=_regions(table["regions"].combine_chunks(), size),
        vocabularies=tuple(known_names.get(name) for name in names.to_pylist()),
    )


def sizes(images: pa.Table) -> np.ndarray:
    """(n, 2): width and height of each image."""
    return np.stack([images["width"].to_numpy(), images["height"].to_numpy()], axis=1).astype(float).reshape(-1, 2)


def codes(column: pa.ChunkedArray, values: pa.Array) -> np.ndarray:
    """Each entry's position in ``values``, -1 where it is not there."""
    return pc.index_in(column, value_set=values).fill_null(-1).to_numpy().astype(np.int64)


def _numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Numbers, NaN where there is none."""
    return np.asarray(pc.fill_null(column, np.nan), float)


def _looked(
    coverage: pa.Table, known: pa.Array, names: pa.Array, image: np.ndarray, annotator: np.ndarray
) -> np.ndarray:
    looked = np.zeros((len(known), len(names)), bool)
    good = coverage.filter(pc.equal(coverage["error"], ""))
    where, who = codes(good["image_id"], known), codes(good["annotator"], names)
    looked[where[where >= 0], who[where >= 0]] = True
    looked[image, annotator] = True  # one that claims something has looked
    return looked


def _regions(column: pa.ListArray, size: np.ndarray) -> Regions:
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    claim = np.repeat(np.arange(len(column)), counts)
    flat = column.flatten()
    size = size[claim]
    box, quad = _fixed(flat.field("box"), 4, "box"), _fixed(flat.field("quad"), 8, "quad")
    polygons = flat.field("polygons")
    if polygons.null_count:
        polygons = pc.coalesce(polygons, pa.scalar([], _POLYGONS))
    polygons, outlined, around = _clipped_polygons(polygons, size)
    low, high = np.fmin(box[:, :2], box[:, 2:]), np.fmax(box[:, :2], box[:, 2:])
    bounds = np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], axis=1)
    drawn = np.flatnonzero(~np.isnan(quad[:, 0]))
    quad[drawn] = np.clip(quad[drawn], 0, np.tile(size[drawn], 4))
    corners = quad[drawn].reshape(-1, 4, 2)
    for rows, other in (
        (drawn, np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)),
        (outlined, around),
    ):
        bounds[rows] = np.where(np.isnan(bounds[rows]), other, bounds[rows])
    return Regions(
        claim, flat.field("label"), bounds, quad, polygons, _numbers(flat.field("score")), _spans(flat.field("span"))
    )


def _fixed(column: pa.ListArray, length: int, name: str) -> np.ndarray:
    """(m, length) of a column of lists, NaN where there is none. Raises DataError where a list has another length."""
    result = np.full((len(column), length), np.nan)
    lengths = pc.list_value_length(column).drop_null().to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths != length).any():
        raise DataError(f"a claim's {name} has {int(lengths[lengths != length][0])} numbers; {length} are expected")
    result[pc.is_valid(column).to_numpy(zero_copy_only=False)] = (
        column.flatten().to_numpy(zero_copy_only=False).reshape(-1, length)
    )
    return result


def _spans(column: pa.ListArray) -> np.ndarray:
    spans = _fixed(column, 2, "span")
    return np.where(np.isnan(spans), NO_SPAN, spans).astype(np.int64)


def _clipped_polygons(column: pa.ListArray, size: np.ndarray) -> tuple[pa.ListArray, np.ndarray, np.ndarray]:
    """Polygons inside their image, the k regions that have any, and (k, 4) what they span."""
    inner = column.flatten()
    lengths = pc.list_value_length(inner).to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths % 2).any():
        raise DataError(
            f"a claim's polygon has {int(lengths[lengths % 2 == 1][0])} numbers; x and y in turn are expected"
        )
    owner = np.repeat(
        np.repeat(np.arange(len(column)), pc.list_value_length(column).to_numpy(zero_copy_only=False)), lengths // 2
    )
    points = np.clip(inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2), 0, size[owner])
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]][: len(owner)])
    around = np.zeros((0, 4))
    if len(points):
        around = np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)
    return _nested(column, points), owner[starts], around


def _nested(like: pa.ListArray, points: np.ndarray) -> pa.ListArray:
    """``points`` (k, 2) as polygons in the lists of ``like``."""
    first = np.r_[0, np.cumsum(pc.list_value_length(like.flatten()).to_numpy(zero_copy_only=False))] // 2
    return nested(points, first, np.r_[0, np.cumsum(pc.list_value_length(like).to_numpy(zero_copy_only=False))])


def nested(points: np.ndarray, first: np.ndarray, outer: np.ndarray) -> pa.ListArray:
    """``points`` (k, 2) as lists of polygons: polygons begin at the points ``first`` (p + 1,), lists at the polygons ``outer`` (n + 1,)."""
    inner = pa.ListArray.from_arrays(pa.array((2 * first).astype(np.int32)), pa.array(points.reshape(-1)))
    return pa.ListArray.from_arrays(pa.array((outer - outer[0]).astype(np.int32)), inner)


def moved(polygons: pa.ListArray, before: np.ndarray, after: np.ndarray) -> pa.ListArray:
    """Polygons of m regions carried along as each one's box goes from ``before`` to ``after``, both (m, 4); where it stays they do, be they in the box or not."""
    inner = polygons.flatten()
    points = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    count = pc.list_value_length(inner).to_numpy(zero_copy_only=False) // 2
    owner = np.repeat(
        np.repeat(np.arange(len(polygons)), pc.list_value_length(polygons).to_numpy(zero_copy_only=False)), count
    )
    scale = (after[:, 2:] - after[:, :2]) / np.maximum(before[:, 2:] - before[:, :2], 1e-9)
    carried = after[owner, :2] + (points - before[owner, :2]) * scale[owner]
    carried = np.clip(carried, after[owner, :2], after[owner, 2:])
    stays = (np.abs(after - before) <= STILL).all(axis=1)
    return _nested(polygons, np.where(stays[owner, None], points, carried))


def no_polygons(count: int) -> pa.ListArray:
    """``count`` empty lists of polygons."""
    return pa.array([[]] * count, _POLYGONS)


@dataclass(frozen=True)
class Labels:
    """n rows of one kind on their way into a table, the regions (m) of each after those of the row before.

    ``image``: (n,) index; ``text``: n strings; ``score``: NaN where none; ``reason``: n strings, empty where the row is kept. ``count``: (n,) regions
    of each row; ``label``: m strings; ``box``, ``quad``: NaN where none; ``polygons``: Arrow; ``span``: -1 where none. ``order``: (n, k) what rows
    of one image are ordered by. ``fixed``: (m,) the regions whose outlines stay as they are, None for none.
    """

    kind: int
    image: np.ndarray
    text: Sequence[str]
    score: np.ndarray
    confidence: np.ndarray
    reason: Sequence[str]
    count: np.ndarray
    label: Sequence[str]
    box: np.ndarray
    quad: np.ndarray
    polygons: pa.ListArray
    region_score: np.ndarray
    span: np.ndarray
    order: np.ndarray
    fixed: np.ndarray | None = None


def labels_table(parts: Sequence[Labels], images: Sequence[str], annotator: str, version: str, round: int) -> pa.Table:
    """Parts as one table of schema `ANNOTATIONS`, ordered by image, kind and place; ids follow from that order."""
    image = np.concatenate([np.zeros(0, np.int64), *(part.image for part in parts)])
    kind = np.repeat([part.kind for part in parts], [len(part.image) for part in parts]).astype(np.int64)
    wide = max([part.order.shape[1] for part in parts], default=0)
    keys = [
        np.concatenate([part.order[:, k] if k < part.order.shape[1] else np.zeros(len(part.image)) for part in parts])
        for k in reversed(range(wide))
    ]
    order = np.lexsort((*keys, kind, image))
    body = pa.concat_tables([_EMPTY, *(_body(part) for part in parts)]).take(order)
    image, kind = image[order], kind[order]
    columns = {
        "annotation_id": pa.array(_ids(image, kind, images, annotator, version), pa.string()),
        "image_id": pa.array(images, pa.string()).take(pa.array(image)),
        "task": pa.array(ANNOTATION_TYPES, pa.string()).take(pa.array(kind)),
        "annotator": pa.array([annotator] * len(image), pa.string()),
        "version": pa.array([version] * len(image), pa.string()),
        "round": pa.array(np.full(len(image), round, np.int32)),
        **{name: body[name] for name in body.column_names},
    }
    return pa.table({name: columns[name] for name in ANNOTATIONS.names}, schema=ANNOTATIONS).combine_chunks()


_EMPTY = pa.schema(
    [ANNOTATIONS.field(name) for name in ("text", "regions", "score", "confidence", "kept", "reason")]
).empty_table()


def _ids(image: np.ndarray, kind: np.ndarray, images: Sequence[str], annotator: str, version: str) -> list[str]:
    """Ids by the order within each image and kind; rows are ordered by both."""
    new = np.r_[True, (image[1:] != image[:-1]) | (kind[1:] != kind[:-1])][: len(image)]
    first = np.maximum.accumulate(np.where(new, np.arange(len(image)), 0)) if len(image) else new
    index = np.arange(len(image)) - first
    return annotation_ids(
        map(images.__getitem__, image.tolist()),
        map(ANNOTATION_TYPES.__getitem__, kind.tolist()),
        annotator,
        version,
        index.tolist(),
    )


def _body(part: Labels) -> pa.Table:
    regions = pa.StructArray.from_arrays(
        [
            pa.array(part.label, pa.string()),
            _lists(part.box),
            _lists(part.quad),
            part.polygons.cast(_POLYGONS),
            _nullable(part.region_score),
            _lists(np.where(part.span == NO_SPAN, np.nan, part.span)).cast(pa.list_(pa.int32())),
        ],
        fields=list(REGION),
    )
    offsets = np.r_[0, np.cumsum(part.count)].astype(np.int32)
    reasons = pa.array(part.reason, pa.string())
    return pa.table(
        {
            "text": pa.array(part.text, pa.string()),
            "regions": pa.ListArray.from_arrays(pa.array(offsets), regions),
            "score": _nullable(part.score),
            "confidence": _nullable(part.confidence),
            "kept": pc.equal(reasons, ""),
            "reason": reasons,
        },
        schema=_EMPTY.schema,
    )


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(float), pa.float64(), mask=np.isnan(values))


def _lists(values: np.ndarray) -> pa.Array:
    """Rows of (m, k) as lists, null where a row is NaN."""
    there = ~np.isnan(values).any(axis=1)
    offsets = np.r_[0, np.cumsum(there * values.shape[1])].astype(np.int32)
    # a null list is told by a null offset; its end is where the next one starts
    marks = pa.array(offsets, pa.int32(), mask=np.r_[~there, False])
    return pa.ListArray.from_arrays(marks, pa.array(values[there].reshape(-1).astype(float), pa.float64()))
