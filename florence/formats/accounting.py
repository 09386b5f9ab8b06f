"""Count what a label set has about our images: read it against all of them, and look for settings that match more."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from florence.errors import DataError, FlorenceError
from florence.formats import LabelProblem, LabelSet, LabelSetEntry, describe_problem
from florence.formats.matching import (
    NOT_UNDERSTOOD,
    LabelMatcher,
    Matching,
    ReadResult,
    base_name,
    cut_upload_prefix,
    read_label_set,
)
from florence.image_files import normalise_path
from florence.label_report import NOT_HERE, LabelSetReport, LossCount
from florence.records import ImageRecord

EXAMPLES = 5
"""Examples that are kept of one reason."""
COUNTED = 20_000
"""Images of a set, not among ours, whose labels are counted; of a larger rest only the images are."""
PAIRS = 2_000
"""Images whose paths are compared with those of the set to find a remedy."""


def count_problems(problems: Iterable[LabelProblem]) -> tuple[LossCount, ...]:
    """Return problems by unit and reason, the most frequent first, each with its first examples."""
    count: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        key = (problem.unit, problem.reason)
        count[key] += problem.count
        known = examples.setdefault(key, [])
        if len(known) < EXAMPLES and problem.detail not in known:
            known.append(problem.detail)
    order = sorted(count, key=lambda key: (-count[key], key))
    return tuple(LossCount(*key, count[key], tuple(examples[key])) for key in order)


def describe_error(error: FlorenceError) -> LabelProblem:
    """Return the problem of an image that is refused with ``error``."""
    if isinstance(error, DataError):
        return replace(describe_problem(error, "image"), unit="image")
    return LabelProblem("not understood", str(error), "image")


def report_label_set(
    report: LabelSetReport, labels: LabelSet, images: Iterable[ImageRecord], tasks: Sequence[str], matching: Matching
) -> LabelSetReport:
    """Return what ``labels`` has about ``images``.

    ``report``: an empty one with annotator, format and address. ``tasks``: annotation types that are read.
    """
    records = list(images)
    found = read_label_set(labels, records, matching)
    claimed = Counter(claim.task for read in found.claims.values() for claim in read.claims)
    every = labels.held or frozenset(tasks)
    looks = {image_id: frozenset(read.looked_at or every) for image_id, read in found.claims.items()}
    known = [read for image_id, read in found.claims.items() if looks[image_id].intersection(tasks)]
    labelled = sum(bool(read.claims) for read in known)
    used = {task: number for task, number in sorted(claimed.items()) if task in tasks}
    outside = found.others[:COUNTED]
    problems = [*found.problems, *_count_refused_labels(labels, found), *_count_labels_elsewhere(labels, outside)]
    return replace(
        report,
        images=len(records),
        labelled=labelled,
        empty=len(known) - labelled,
        not_listed=len(found.unknown) + len(found.claims) - len(known),
        listed=len(labels.entries),
        matched=len(labels.entries) - len(found.others),
        refused=count_problems(map(describe_error, found.errors.values())),
        looked_at={task: sum(task in types for types in looks.values()) for task in used},
        used=used,
        unread={task: number for task, number in sorted(claimed.items()) if task not in tasks},
        losses=count_problems(problems),
        not_listed_examples=found.unknown[:EXAMPLES],
        unmatched_examples=found.unmatched[:EXAMPLES],
        uncounted=len(found.others) - len(outside),
        remedy=suggest_matching(labels, records, matching),
    )


def _count_labels_elsewhere(labels: LabelSet, entries: Iterable[LabelSetEntry]) -> list[LabelProblem]:
    return [
        LabelProblem(NOT_HERE, next(iter(entry.names), entry.image_id or ""), "label", number)
        for entry in entries
        if (number := count_labels(labels, entry))
    ]


def _count_refused_labels(labels: LabelSet, found: ReadResult) -> list[LabelProblem]:
    """Return the labels of refused images; those that were read one by one are among the problems already."""
    result = []
    for image_id, error in found.errors.items():
        problem = describe_error(error)
        number = sum(count_labels(labels, entry) for entry in found.entries.get(image_id, ()))
        if number and problem.reason != NOT_UNDERSTOOD:
            result.append(LabelProblem(f"of a refused image: {problem.reason}", problem.detail, "label", number))
    return result


def count_labels(labels: LabelSet, entry: LabelSetEntry) -> int:
    """Return how many labels a data set has of an image, whatever its size; 0 where they cannot be read."""
    width, height = entry.size or (1000, 1000)
    stand_in = ImageRecord(entry.image_id or "", width, height, "", next(iter(entry.names), ""), "", None, "train")
    try:
        read = labels.read_claims(entry, stand_in)
    except FlorenceError:
        return 0
    return len(read.claims) + sum(problem.count for problem in read.problems if problem.unit == "label")


# ---------------------------------------------------------------- remedies


def suggest_matching(labels: LabelSet, images: Sequence[ImageRecord], matching: Matching) -> str:
    """Return the settings under which the set lists more of ``images`` than under ``matching``; empty for none.

    Tried: base names, the folders in which pairs of paths of one base name differ, and the same where the set has the
    file names of Label Studio's uploads.
    """
    matched = count_matches(labels, images, matching)
    if matched == len(images):
        return ""
    tried: list[dict[str, Any]] = [{"base_names": True}, *_find_differences(labels, images)]
    if not matching.upload_prefix and any(cut_upload_prefix(n) != n for e in labels.entries[:PAIRS] for n in e.names):
        tried += [{"upload_prefix": True}, {"upload_prefix": True, "base_names": True}]
    found = [(count_matches(labels, images, replace(matching, **options)), options) for options in tried]
    most = max(number for number, _ in found)
    if most <= matched:
        return ""
    best = [_format_options(options) for number, options in found if number == most]
    return f"{' or '.join(best[:2])} would match {most}"


def count_matches(labels: LabelSet, images: Sequence[ImageRecord], matching: Matching) -> int:
    """Return how many of ``images`` have labels; with base names, of those whose base name no other image has."""
    matcher = LabelMatcher(labels, matching)
    bases = Counter(_base_of(image.name) for image in images)
    count = 0
    for image in images:
        if matching.base_names and bases[_base_of(image.name)] > 1:
            continue
        try:
            matcher.find_entries(image)
        except FlorenceError:
            continue
        count += 1
    return count


def _find_differences(labels: LabelSet, images: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    """Return the commonest settings of strip and prefix, two at most, that turn a path of ours into one of the set."""
    theirs: dict[str, list[str]] = {}
    for entry in labels.entries:
        for name in map(normalise_path, entry.names):
            theirs.setdefault(_base_of(name), []).append(name)
    found: Counter[tuple[str, str]] = Counter()
    for image in images[:PAIRS]:
        for name in theirs.get(_base_of(image.name), ())[:EXAMPLES]:
            found[_split_difference(normalise_path(image.name), name)] += 1
    options = [
        {key: value for key, value in (("strip", strip), ("prefix", prefix)) if value}
        for (strip, prefix), _ in found.most_common(3)
    ]
    return [chosen for chosen in options if chosen][:2]


def _split_difference(ours: str, theirs: str) -> tuple[str, str]:
    """Return the folders in front of two paths, without the folders that both end in."""
    a, b = posixpath.dirname(ours).split("/"), posixpath.dirname(theirs).split("/")
    a, b = [part for part in a if part], [part for part in b if part]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return "".join(f"{part}/" for part in a), "".join(f"{part}/" for part in b)


def _base_of(name: str) -> str:
    return base_name(normalise_path(name))


def _format_options(options: Mapping[str, Any]) -> str:
    return " with ".join(f"{key}: {'true' if value is True else value}" for key, value in options.items())
