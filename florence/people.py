"""People's labels of gold and held-out images, reviewer by reviewer, and the one reference that is made of them.

A review is what one reviewer labelled of one image. Reviews never become claims: a store has what was labelled in
``review_claims/<import>.parquet`` (schema `ANNOTATIONS`, the annotator is the reviewer) and what was looked at in
``reviews/<import>.parquet`` (schema `REVIEWS`), which is written last. The reference of an image and annotation type is

    the adjudicated label                          where there is one; else, of n reviewers who looked for the type,
    n = 1    theirs
    n > 1    of objects and other regions, what more than n / 2 claim under one name with an IoU of 0.5 or more, in the
             median box; so with two reviewers both have to say it
             of captions, the one that shares most words with the others (mean Jaccard index)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from florence.geometry import box_iou
from florence.records import (
    ANNOTATIONS,
    CAPTIONS,
    HUMAN,
    Annotation,
    Claim,
    Region,
    annotate,
    annotations_table,
    digest,
    fold_label,
    table_annotations,
)
from florence.store import Store

FOLDERS = ("review_claims", "reviews")
"""Folders of a store, in the order in which an import writes them."""
REFERENCE = "references/human.parquet"
"""The table of a snapshot with the labels that reviews give; a row without a text: nothing of its type is there."""
SAME_PLACE = 0.5
"""Least IoU of two reviewers' boxes of one object."""
UNNAMED = "reviewer-unknown"
"""Whoever made an annotation whose file does not say so."""
REVIEWS = pa.schema(
    [
        ("image_id", pa.string()),
        ("annotator", pa.string()),
        ("version", pa.string()),
        ("repeat", pa.int32()),
        ("adjudicated", pa.bool_()),
        ("blind", pa.bool_()),
        ("types", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class Review:
    """What ``reviewer`` labelled of an image; ``types``: the annotation types that they looked for.

    ``repeat``: 0, or how often they had labelled the image before in the same import. ``adjudicated``: it decides what
    reviewers disagree about. ``blind``: they saw nobody's claims.
    """

    image_id: str
    reviewer: str
    types: tuple[str, ...]
    rows: tuple[Annotation, ...]
    repeat: int = 0
    adjudicated: bool = False
    blind: bool = True

    def list_rows(self, annotation_type: str) -> tuple[Annotation, ...]:
        """Return what is there of one annotation type."""
        return tuple(row for row in self.rows if row.task == annotation_type)


def name_reviewer(names: Sequence[str], *, given: bool = False) -> str:
    """Return what a reviewer is called: ``reviewer-`` and the number that Label Studio has for them.

    ``names``: their number, their e-mail, or both, as a file has them. Anything but a number is a name or an address of
    a person: the first 8 digits of its SHA-256 stand for it. ``given``: the address or name as it is, where there is
    one.
    """
    words = [name.strip() for name in names if name.strip()]
    if not words:
        return UNNAMED
    others = [word for word in words if not re.fullmatch(r"\d{1,12}", word)]
    if given and others:
        return " ".join(others[-1].split())[:80]
    number = next((word for word in words if word not in others), None)
    return f"reviewer-{number or digest(others[0].casefold().encode(), 8)}"


# ---------------------------------------------------------------- in a store


def list_imports(store: Store) -> list[str]:
    """Return the imports of reviews that are whole, the first one first."""
    return store.stems("reviews")


def find_people_version(store: Store) -> str:
    """Return the last import of reviews; empty where there is none."""
    return max(list_imports(store), default="")


def write_reviews(store: Store, version: str, reviews: Iterable[Review]) -> None:
    """Write the reviews of one import; it counts once its last file is there."""
    found = list(reviews)
    claims = [
        row
        for one in found
        for row in annotate(
            one.image_id,
            (Claim(row.task, row.text, row.regions) for row in one.rows),
            one.reviewer,
            _name_version(version, one),
        )
    ]
    store.write_table(f"review_claims/{version}.parquet", annotations_table(claims))
    rows = [
        {
            "image_id": one.image_id,
            "annotator": one.reviewer,
            "version": _name_version(version, one),
            "repeat": one.repeat,
            "adjudicated": one.adjudicated,
            "blind": one.blind,
            "types": list(one.types),
        }
        for one in found
    ]
    store.write_table(f"reviews/{version}.parquet", pa.Table.from_pylist(rows, schema=REVIEWS))


def _name_version(version: str, review: Review) -> str:
    return f"{version}.{'a' if review.adjudicated else 'r'}{review.repeat}"


def read_reviews(store: Store) -> list[Review]:
    """Return all reviews that count: of a reviewer and image those of the last import, and the last adjudication."""
    last: dict[tuple[str, str], list[Review]] = {}
    for version in list_imports(store):
        claims: dict[tuple[str, str, str], list[Annotation]] = {}
        for row in table_annotations(store.read_table(f"review_claims/{version}.parquet", ANNOTATIONS.names)):
            claims.setdefault((row.image_id, row.annotator, row.version), []).append(row)
        new: dict[tuple[str, str], list[Review]] = {}
        for row in store.read_table(f"reviews/{version}.parquet").to_pylist():
            image_id, reviewer, adjudicated = row["image_id"], row["annotator"], row["adjudicated"]
            rows = tuple(claims.get((image_id, reviewer, row["version"]), ()))
            one = Review(image_id, reviewer, tuple(row["types"]), rows, row["repeat"], adjudicated, row["blind"])
            new.setdefault((image_id, "" if adjudicated else reviewer), []).append(one)
        last |= new
    return [one for key in sorted(last) for one in last[key]]


# ---------------------------------------------------------------- one reference of several reviews


def combine_reviews(reviews: Iterable[Review], exclude: Collection[str] = ()) -> list[Annotation]:
    """Return the reference of each image and type that was looked for; see the module.

    ``exclude``: reviewers that are left out. Nothing of a type in an image is a row without text and region.
    """
    by_image: dict[str, list[Review]] = {}
    for one in reviews:
        if one.reviewer not in exclude and not one.repeat:
            by_image.setdefault(one.image_id, []).append(one)
    return [row for image_id in sorted(by_image) for row in _combine_image(image_id, by_image[image_id])]


def _combine_image(image_id: str, reviews: Sequence[Review]) -> tuple[Annotation, ...]:
    claims: list[Claim] = []
    for annotation_type in sorted({name for one in reviews for name in one.types}):
        asked = [one for one in reviews if annotation_type in one.types]
        asked = [one for one in asked if one.adjudicated][-1:] or sorted(asked, key=lambda one: one.reviewer)
        found = combine_rows([one.list_rows(annotation_type) for one in asked], annotation_type)
        claims += found or [Claim(annotation_type, "")]
    return annotate(image_id, claims, HUMAN, "reference")


def combine_rows(sides: Sequence[Sequence[Annotation]], annotation_type: str) -> list[Claim]:
    """Return what the reviewers of ``sides`` say together of one image and annotation type; see the module."""
    if len(sides) == 1:
        return [Claim(row.task, row.text, row.regions) for row in sides[0]]
    if annotation_type in CAPTIONS:
        return _choose_caption([row for rows in sides for row in rows])
    rows = [row for side in sides for row in side if row.regions]
    who = [k for k, side in enumerate(sides) for row in side if row.regions]
    result = []
    for members in cluster_rows(rows, who):
        if len(members) * 2 <= len(sides):
            continue
        text = Counter(rows[k].text for k in members).most_common(1)[0][0]
        box = np.median([rows[k].regions[0].bounds for k in members], axis=0).tolist()
        regions = rows[members[0]].regions
        if len(regions) == 1 and regions[0].quad is None:
            regions = (Region(text if regions[0].label else "", box=(box[0], box[1], box[2], box[3])),)
        result.append(Claim(annotation_type, text, regions))
    return result


def cluster_rows(rows: Sequence[Annotation], who: Sequence[int]) -> list[list[int]]:
    """Return the rows in clusters of one name and place, at most one row of each reviewer (``who``) in a cluster.

    Pairs are joined in the order of their IoU, the largest first.
    """
    if not rows:
        return []
    boxes = np.asarray([row.regions[0].bounds for row in rows])
    codes: dict[str, int] = {}
    code = np.asarray([codes.setdefault(fold_label(row.text), len(codes)) for row in rows])
    iou = np.where((code[:, None] == code[None]), box_iou(boxes, boxes), 0.0)
    first, second = np.nonzero(np.triu(iou >= SAME_PLACE, 1))
    clusters = [[k] for k in range(len(rows))]
    for k in np.argsort(-iou[first, second], kind="stable"):
        a, b = clusters[first[k]], clusters[second[k]]
        if a is not b and {who[i] for i in a}.isdisjoint(who[i] for i in b):
            a += b
            for i in b:
                clusters[i] = a
    return [sorted(members) for members in {id(members): members for members in clusters}.values()]


def _choose_caption(rows: Sequence[Annotation]) -> list[Claim]:
    """Return the caption that shares most words with the others; among equals the first."""
    if not rows:
        return []
    words = [frozenset(fold_label(row.text).split()) for row in rows]
    shared = [sum(len(a & b) / max(len(a | b), 1) for b in words) for a in words]
    best = rows[int(np.argmax(np.round(shared, 9)))]
    return [Claim(best.task, best.text, best.regions)]
