"""Annotate: who annotates, what is missing, and the work on one shard, which can be stopped and repeated."""

from florence.workspace.annotate.annotators import (
    AnnotatorVersion,
    find_human_annotator,
    is_assigned,
    is_required,
    list_annotators,
    make_annotator,
    read_profiles,
    write_declarations,
)
from florence.workspace.annotate.claims import COVERAGE
from florence.workspace.annotate.missing import MISSING, count_missing
from florence.workspace.annotate.shard import ShardOutcome, annotate_shard
from florence.workspace.annotate.usage import read_usage

__all__ = [
    "COVERAGE",
    "MISSING",
    "AnnotatorVersion",
    "ShardOutcome",
    "annotate_shard",
    "count_missing",
    "find_human_annotator",
    "is_assigned",
    "is_required",
    "list_annotators",
    "make_annotator",
    "read_profiles",
    "read_usage",
    "write_declarations",
]
