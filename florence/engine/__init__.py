"""The data engine: what annotators claim goes in, labels with a verdict each come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from florence.config import Engine

AUTHOR = "consensus"


def fuse(claims: pa.Table, images: pa.Table, coverage: pa.Table, settings: Engine, round: int) -> pa.Table:
    """Everything that the claims about ``images`` come to, kept or dropped with a reason: a table of schema `ANNOTATIONS` by author "consensus".

    ``coverage``: who looked at which image, with what error. The same rows give the same bytes in whatever order they come. What a refinement round
    adds is the claims of the author "student", no other state. Raises DataError where a claim is not of an annotated kind or its place is none.
    """
    from florence.engine.answers import fuse_answers
    from florence.engine.columns import labels_table, read_claims, sizes
    from florence.engine.copies import without_copies
    from florence.engine.outlines import outlined
    from florence.engine.phrases import fuse_phrases
    from florence.engine.places import PLACES, fuse_places
    from florence.engine.texts import caption_labels, fuse_captions
    from florence.records import ANNOTATED, CAPTIONS, FINE_TUNED, KINDS

    said = read_claims(*heard(claims, coverage, settings), images)
    if not len(said):
        return labels_table([], said.images, AUTHOR, settings.digest(), round)
    size = sizes(images)
    parts = [fuse_places(said, KINDS.index(task), size, settings) for task in PLACES]
    captions = [fuse_captions(said, KINDS.index(task), settings) for task in CAPTIONS]
    parts += [caption_labels(said, found) for found in captions]
    parts += fuse_phrases(said, captions, size, settings)
    parts += [fuse_answers(said, kind, size, settings) for kind in map(ANNOTATED.index, FINE_TUNED) if (said.kind == kind).any()]
    parts = without_copies(parts, images, settings.near_duplicate)
    return labels_table(outlined(parts, settings), said.images, AUTHOR, settings.digest(), round)


def heard(claims: pa.Table, coverage: pa.Table, settings: Engine) -> tuple[pa.Table, pa.Table]:
    """Claims and coverage without what does not count: all of a student whose vote is off, and what it says without being sure enough."""
    import pyarrow.compute as pc

    from florence.engine.consensus import STUDENT

    if STUDENT not in pc.unique(claims["author"]).to_pylist() and settings.student.cap > 0:
        return claims, coverage
    if settings.student.cap == 0:
        return claims.filter(pc.not_equal(claims["author"], STUDENT)), coverage.filter(pc.not_equal(coverage["author"], STUDENT))
    sure = pc.fill_null(pc.greater_equal(claims["score"], settings.student.min_score), True)
    return claims.filter(pc.or_(pc.not_equal(claims["author"], STUDENT), sure)), coverage
