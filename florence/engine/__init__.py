"""The data engine: what annotators claim goes in, labels with a verdict each come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from florence.config import Engine
    from florence.records import Speaker

AUTHOR = "consensus"


def fuse(claims: pa.Table, images: pa.Table, coverage: pa.Table, settings: Engine, round: int, speakers: Sequence[Speaker] = ()) -> pa.Table:
    """Everything that the claims about ``images`` come to, kept or dropped with a reason: a table of schema `ANNOTATIONS` by author "consensus".

    ``coverage``: who looked at which image, with what error. ``speakers``: what is known of authors; one that is not among them is an annotator of
    any vocabulary, or, if its name is "human", a person. The same rows give the same bytes in whatever order they come. What a refinement round adds is the
    claims of the author "student", no other state. Raises DataError where a claim is not of an annotated kind or its place is none.
    """
    from florence.engine.answers import fuse_answers
    from florence.engine.columns import labels_table, read_claims, sizes
    from florence.engine.copies import without_copies
    from florence.engine.outlines import outlined
    from florence.engine.phrases import fuse_phrases
    from florence.engine.places import PLACES, fuse_places
    from florence.engine.ranks import read_ranks
    from florence.engine.texts import caption_labels, fuse_captions
    from florence.records import ANNOTATED, CAPTIONS, FINE_TUNED, KINDS

    said = read_claims(*heard(claims, coverage, settings, speakers), images, speakers)
    said = replace(said, ranks=read_ranks(claims, said.images, speakers))
    if not len(said):
        return labels_table([], said.images, AUTHOR, settings.digest(), round)
    size = sizes(images)
    parts = [part for task in PLACES for part in fuse_places(said, KINDS.index(task), size, settings)]
    captions = [fuse_captions(said, KINDS.index(task), settings) for task in CAPTIONS]
    parts += [caption_labels(said, found) for found in captions]
    parts += fuse_phrases(said, captions, size, settings)
    parts += [fuse_answers(said, kind, size, settings) for kind in map(ANNOTATED.index, FINE_TUNED) if (said.kind == kind).any()]
    parts = without_copies(parts, images, settings.near_duplicate)
    return labels_table(outlined(parts, settings), said.images, AUTHOR, settings.digest(), round)


def heard(claims: pa.Table, coverage: pa.Table, settings: Engine, speakers: Sequence[Speaker] = ()) -> tuple[pa.Table, pa.Table]:
    """Claims and coverage of all who have a vote: without rankers, a student whose vote is off, and what it says without being sure enough.

    People, whatever their names, are one author, "human".
    """
    import pyarrow.compute as pc

    from florence.engine.consensus import HUMAN, STUDENT

    left_out = [speaker.name for speaker in speakers if speaker.role == "ranker"] + ([STUDENT] if settings.student.cap == 0 else [])
    people = pa.array([speaker.name for speaker in speakers if speaker.role == "human"], pa.string())

    def voting(table: pa.Table) -> pa.Table:
        if not left_out and not len(people):
            return table
        table = table.filter(pc.invert(pc.is_in(table["author"], pa.array(left_out, pa.string()))))
        author = pc.if_else(pc.is_in(table["author"], people), HUMAN, table["author"])
        return table.set_column(table.schema.get_field_index("author"), "author", author)

    claims, coverage = voting(claims), voting(coverage)
    if STUDENT not in pc.unique(claims["author"]).to_pylist():
        return claims, coverage
    sure = pc.fill_null(pc.greater_equal(claims["score"], settings.student.min_score), True)
    return claims.filter(pc.or_(pc.not_equal(claims["author"], STUDENT), sure)), coverage
