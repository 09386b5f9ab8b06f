"""Annotation: who annotates, what is still to be done, and the work on one shard, which can be broken off at any point and done again."""

from florence.annotation.annotators import (
    HUMAN,
    STUDENT,
    AnnotatorVersion,
    annotators,
    declare,
    looks_at,
    make_annotator,
    profiles_of,
    required,
    reviewed,
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
    "AnnotatorVersion",
    "Outcome",
    "annotate_shard",
    "annotators",
    "declare",
    "looks_at",
    "pending",
    "required",
    "reviewed",
    "profiles_of",
    "make_annotator",
    "usage_of",
]
