"""People's reviews in a workspace, and the reference of a snapshot that is made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow.compute as pc

from florence.coverage import COVERAGE, find_looks
from florence.people import REFERENCE, Review, combine_reviews, read_reviews
from florence.records import ANNOTATION_TYPES, ANNOTATIONS, Annotation, annotations_table, table_annotations
from florence.store import Store
from florence.workspace.annotate import AnnotatorVersion, read_profiles
from florence.workspace.base import Workspace
from florence.workspace.fuse import is_person
from florence.workspace.layout import read_images


def list_reviews(workspace: Workspace, annotators: Sequence[AnnotatorVersion]) -> list[Review]:
    """Return all reviews that count of the working store.

    On gold images the claims of each of ``annotators`` that is people are reviews too: earlier corrections, and label
    sets of people. They serve where they are declared complete, as what they leave out is not known otherwise.
    """
    store = workspace.store
    images = read_images(store)
    gold = frozenset(images.filter(pc.equal(images["split"], "gold"))["image_id"].to_pylist())
    reviews = read_reviews(store)
    for annotator, profile in zip(annotators, read_profiles(workspace.settings, store, annotators), strict=True):
        if is_person(profile) and profile.complete:
            reviews += _read_claims_as_reviews(store, annotator, gold)
    return reviews


def _read_claims_as_reviews(store: Store, annotator: AnnotatorVersion, images: Collection[str]) -> list[Review]:
    rows: dict[str, list[Annotation]] = {}
    found = table_annotations(store.read_tables(f"claims/{annotator.key}", ANNOTATIONS))
    types = frozenset(row.task for row in found)
    for row in found:
        if row.image_id in images and row.text:
            rows.setdefault(row.image_id, []).append(row)
    reviews = []
    for look in store.read_tables(f"coverage/{annotator.key}", COVERAGE, older=True).to_pylist():
        image_id = look["image_id"]
        looked = find_looks(look, types & frozenset(ANNOTATION_TYPES)) if image_id in images else frozenset()
        if looked:
            of_image = tuple(row for row in rows.get(image_id, ()) if row.task in looked)
            reviews.append(Review(image_id, annotator.name, tuple(sorted(looked)), of_image, blind=False))
    return reviews


def write_reference(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], left_out: Collection[str] = ()
) -> None:
    """Write the reference of people's reviews into the snapshot, where there are any or have been.

    Reviewers of the setting ``review.exclude`` are left out of it, and so are images ``left_out``.
    """
    reviews = [one for one in list_reviews(workspace, annotators) if one.image_id not in left_out]
    if reviews or workspace.data.exists(REFERENCE):
        rows = combine_reviews(reviews, workspace.settings.review.exclude)
        workspace.data.write_table(REFERENCE, annotations_table(rows))
