"""References of an image: known truth, else people's labels, else the consensus of the first round that has any."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from florence.people import REFERENCE
from florence.records import ANNOTATION_TYPES, HUMAN, Annotation, digest, table_annotations
from florence.rounds import list_labels
from florence.store import Store

REFERENCE_ORDER: tuple[str, ...] = ("truth", "human", "consensus")
"""Names of references, the best first."""


@dataclass(frozen=True, slots=True)
class References:
    """Reference annotations of some images.

    ``rows``: (image id, annotation type) → the name of the reference and its annotations. A pair that is missing has no
    reference; one without annotations has nothing of that type in the image.
    """

    rows: Mapping[tuple[str, str], tuple[str, tuple[Annotation, ...]]]

    def select(self, annotation_type: str, reference: str) -> dict[str, tuple[Annotation, ...]]:
        """Return image id → annotations of ``annotation_type``, for the images whose reference is ``reference``."""
        return {
            image: rows
            for (image, found), (name, rows) in self.rows.items()
            if found == annotation_type and name == reference
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the references in ``rows``, the best first."""
        names = {name for name, _ in self.rows.values()}
        return tuple(name for name in REFERENCE_ORDER if name in names)


def find_held_out_references(data: Store, images: Collection[str]) -> References:
    """Return the references that models are scored against on ``images`` (ids).

    Truth where the image's source knows the annotation type; else the reference of people's reviews; else their claims;
    else the kept labels of the first round in which the image has any label, so that a model cannot move its own
    reference.
    """
    people = _merge(_read_reviews(data, images), _read_human(data, images))
    return References(_merge(_read_truth(data, images), people, _read_consensus(data, images)))


def find_gold_references(data: Store, images: Collection[str]) -> References:
    """Return the references that labels are measured against on ``images`` (ids): truth, else people's reviews.

    No annotator and no engine has seen them: on gold images people's labels are no part of the consensus
    (`florence.people`).
    """
    return References(_merge(_read_truth(data, images), _read_reviews(data, images)))


def read_truth_of_type(data: Store, images: Collection[str], annotation_type: str) -> dict[str, tuple[Annotation, ...]]:
    """Return image id → the truth of ``annotation_type``, for those of ``images`` whose truth is known."""
    return References(_read_truth(data, images)).select(annotation_type, "truth")


def order_by_hash(ids: Iterable[str], *key: object) -> list[str]:
    """Return ``ids`` in a random order that depends on ``key`` and the ids alone."""
    return sorted(set(ids), key=lambda image: (digest("|".join([*map(str, key), image]).encode()), image))


ReferenceRows = dict[tuple[str, str], tuple[str, tuple[Annotation, ...]]]


def _merge(*references: ReferenceRows) -> ReferenceRows:
    result: ReferenceRows = {}
    for rows in references:
        for key, value in rows.items():
            result.setdefault(key, value)
    return result


def _read(data: Store, names: Iterable[str], images: Collection[str]) -> Iterator[tuple[str, list[Annotation]]]:
    for name in names:
        yield (
            name,
            table_annotations(data.read_table(name, filters=[("image_id", "in", sorted(images))])) if images else [],
        )


def _read_truth(data: Store, images: Collection[str]) -> ReferenceRows:
    """Return truth, and people's gold labels beside it.

    A source that knows an annotation type for one image knows it for all images that have any truth.
    """
    names = data.names("truth", ".parquet")
    types: dict[str, set[str]] = {}
    for name in names:
        table = data.read_table(name, ["task", "annotator"])
        types.setdefault(_source(name), set()).update(
            task
            for task, annotator in zip(table["task"].to_pylist(), table["annotator"].to_pylist(), strict=True)
            if annotator != HUMAN
        )
    found: dict[tuple[str, str], list[Annotation]] = {}
    people: list[Annotation] = []
    for name, rows in _read(data, names, images):
        people += [row for row in rows if row.annotator == HUMAN]
        for row in rows:
            if row.annotator != HUMAN:
                for annotation_type in types[_source(name)]:
                    found.setdefault((row.image_id, annotation_type), [])
                found[row.image_id, row.task].append(row)
    truth: ReferenceRows = {key: ("truth", tuple(rows)) for key, rows in found.items() if key[1] in ANNOTATION_TYPES}
    return _merge(truth, _select_latest(people))


def _source(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit("-", 1)[0]


def _read_reviews(data: Store, images: Collection[str]) -> ReferenceRows:
    if not images or not data.exists(REFERENCE):
        return {}
    return _select_latest([row for _, rows in _read(data, [REFERENCE], images) for row in rows])


def _read_human(data: Store, images: Collection[str]) -> ReferenceRows:
    names = [name for name in data.names("claims", ".parquet") if name.split("/")[1].split("@")[0] == HUMAN]
    return _select_latest([row for _, rows in _read(data, names, images) for row in rows])


def _select_latest(people: list[Annotation]) -> ReferenceRows:
    """Return people's labels of the last version in the last round, by image and annotation type.

    A row without a text says that something is not there.
    """
    last: dict[tuple[str, str], tuple[int, str]] = {}
    for row in people:
        key = row.image_id, row.task
        last[key] = max(last.get(key, (-1, "")), (row.round, row.version))
    result: dict[tuple[str, str], list[Annotation]] = {}
    for row in people:
        if (row.round, row.version) == last[row.image_id, row.task]:
            result.setdefault((row.image_id, row.task), []).extend([row] if row.text else [])
    return {key: (HUMAN, tuple(rows)) for key, rows in result.items()}


def _read_consensus(data: Store, images: Collection[str]) -> ReferenceRows:
    wanted, result = set(images), {}
    for name in list_labels(data).values():
        _, rows = next(_read(data, [name], wanted))
        frozen = {row.image_id for row in rows}
        found: dict[tuple[str, str], list[Annotation]] = {
            (image, annotation_type): [] for image in sorted(frozen) for annotation_type in ANNOTATION_TYPES
        }
        for row in rows:
            if row.kept:
                found[row.image_id, row.task].append(row)
        result.update({key: ("consensus", tuple(labels)) for key, labels in found.items()})
        wanted -= frozen
    return result
