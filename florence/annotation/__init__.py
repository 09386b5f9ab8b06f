"""Annotation: who annotates, what is still to be done, and the work on one shard, which can be broken off at any point and done again."""

from florence.annotation.authors import (
    HUMAN,
    STUDENT,
    Author,
    authors,
    declare,
    looks_at,
    required,
    reviewed,
    speakers_of,
    specialist,
)
from florence.annotation.claims import COVERAGE
from florence.annotation.pending import MISSING, pending
from florence.annotation.shard import Outcome, annotate_shard
from florence.annotation.usage import usage_of

__all__ = [
    "COVERAGE",
    "HUMAN",
    "MISSING",
    "STUDENT",
    "Author",
    "Outcome",
    "annotate_shard",
    "authors",
    "declare",
    "looks_at",
    "pending",
    "required",
    "reviewed",
    "speakers_of",
    "specialist",
    "usage_of",
]
