"""What people labelled of gold and held-out images: reviews, reviewer by reviewer, never claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from florence.errors import DataError
from florence.formats import OBJECTS, LabelProblem, LabelSetEntry
from florence.formats._studio_set import StudioAnnotation, StudioSet
from florence.formats.matching import ReadResult
from florence.people import UNNAMED, Review, list_imports, name_reviewer, write_reviews
from florence.records import ANNOTATION_TYPES, ImageRecord, annotate
from florence.store import Store


@dataclass(frozen=True, slots=True)
class BlindImport:
    """What an import has of gold and held-out images.

    ``images``, ``reviews``: their numbers; ``reviewers``: who made them; ``adjudicated``: images that were decided;
    ``corrected``: images whose reviewer saw labels to correct, and so was not blind. ``problems``: what was not used.
    """

    images: int = 0
    reviews: int = 0
    reviewers: tuple[str, ...] = ()
    adjudicated: int = 0
    corrected: int = 0
    problems: tuple[LabelProblem, ...] = ()


def collect_blind(
    labels: StudioSet, found: ReadResult, records: Mapping[str, ImageRecord], *, given: bool
) -> tuple[list[Review], BlindImport]:
    """Return the reviews of the gold and held-out images of a file, of every annotation that was not skipped.

    Several annotations of one person of an image, in one task or two, are one review and its repeats, in their order in
    time. An annotation some of whose labels cannot be read is no review: what is missing in it is not known.
    """
    reviews: list[Review] = []
    problems: list[LabelProblem] = []
    for image_id, entries in found.entries.items():
        if records[image_id].split != "train":
            for entry in entries:
                reviews += _collect_entry(labels, entry, records[image_id], given, problems)
    reviews = list(_number(reviews))
    adjudicated = {one.image_id for one in reviews if one.adjudicated}
    corrected = {one.image_id for one in reviews if not one.blind and not one.adjudicated}
    return reviews, BlindImport(
        len({one.image_id for one in reviews}),
        len(reviews),
        tuple(sorted({one.reviewer for one in reviews})),
        len(adjudicated),
        len(corrected),
        tuple(problems),
    )


def _collect_entry(
    labels: StudioSet, entry: LabelSetEntry, record: ImageRecord, given: bool, problems: list[LabelProblem]
) -> Iterator[Review]:
    _, data, _ = entry.raw
    annotations = sorted(labels.annotations[entry.names], key=lambda one: one.stamp)
    unnamed = 0
    for annotation in annotations:
        reviewer = name_reviewer(annotation.by, given=given)
        if reviewer == UNNAMED:
            unnamed += 1
            reviewer = UNNAMED if unnamed == 1 else f"{UNNAMED}-{unnamed}"
        try:
            read = labels.read_claims(replace(entry, raw=(annotation, data, ())), record)
            labels.check_size(replace(entry, size=_size_of(annotation)), record)
        except DataError as error:
            problems.append(LabelProblem("an annotation that cannot be read", str(error), "label"))
            continue
        if any(problem.unit == "label" for problem in read.problems):
            problems += read.problems
            continue
        claims = [replace(claim, score=None) for claim in read.claims if claim.text]
        types = _find_types(data, {claim.task for claim in claims})
        rows = annotate(record.image_id, (c for c in claims if c.task in types), reviewer, "")
        decides = data.get("adjudicate") is True or annotation.truth
        blind = "blind" in data and not decides
        yield Review(record.image_id, reviewer, types, rows, adjudicated=decides, blind=blind)


def _find_types(data: Mapping[str, Any], claimed: set[str]) -> tuple[str, ...]:
    """Return the annotation types that were looked for: those asked for, else those claimed; of nothing, objects.

    Whoever was asked for a text and wrote none has not answered.
    """
    asked = data.get("blind")
    named = {name for name in asked if isinstance(name, str)} if isinstance(asked, list) else set()
    shown = {OBJECTS} if "round" in data or OBJECTS in named or not claimed else set()
    return tuple(sorted((claimed | shown) & set(ANNOTATION_TYPES)))


def _size_of(annotation: StudioAnnotation) -> tuple[int, int] | None:
    sizes = {result.size for result in annotation.results if result.size is not None}
    return sizes.pop() if len(sizes) == 1 else None


def _number(reviews: Iterable[Review]) -> Iterator[Review]:
    """Yield reviews with how often their reviewer had labelled the image before; of adjudications the last alone."""
    count: dict[tuple[str, str], int] = {}
    decided: dict[str, Review] = {}
    for one in reviews:
        if one.adjudicated:
            decided[one.image_id] = one
            continue
        key = one.image_id, one.reviewer
        count[key] = count.get(key, -1) + 1
        yield replace(one, repeat=count[key])
    yield from decided.values()


def find_blind_import(store: Store, mark: str) -> str | None:
    """Return the import of reviews of the file with this digest; None where there is none."""
    return next((name for name in list_imports(store) if name.endswith(f"-{mark}")), None)


def store_blind(store: Store, mark: str, reviews: Sequence[Review]) -> None:
    """Write the reviews of the file with this digest as the next import."""
    earlier = list_imports(store)
    number = int(earlier[-1].split("-")[0]) + 1 if earlier else 1
    write_reviews(store, f"{number:04d}-{mark}", reviews)
