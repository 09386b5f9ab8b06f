"""Annotate: who annotates, what is missing, and the work on one shard, which can be stopped and repeated."""

from florence.workspace.annotate.annotators import (
    AnnotatorVersion,
    describe_families,
    describe_missing_detectors,
    find_family,
    find_human_annotator,
    find_sources_without_detector,
    find_unusable_annotators,
    is_assigned,
    is_required,
    list_annotators,
    make_annotator,
    read_profiles,
    write_declarations,
)
from florence.workspace.annotate.label_sets import (
    describe_label_sets,
    find_label_sets,
    refuse_unmatched_label_sets,
    report_label_sets,
)
from florence.workspace.annotate.missing import MISSING, count_missing
from florence.workspace.annotate.shard import ShardOutcome, annotate_shard
from florence.workspace.annotate.usage import read_usage

__all__ = [
    "MISSING",
    "AnnotatorVersion",
    "ShardOutcome",
    "annotate_shard",
    "count_missing",
    "describe_families",
    "describe_label_sets",
    "describe_missing_detectors",
    "find_family",
    "find_human_annotator",
    "find_sources_without_detector",
    "find_label_sets",
    "find_unusable_annotators",
    "is_assigned",
    "is_required",
    "list_annotators",
    "make_annotator",
    "read_profiles",
    "read_usage",
    "refuse_unmatched_label_sets",
    "report_label_sets",
    "write_declarations",
]
