"""What is right about an image: known truth, else people's labels, else the consensus frozen in the first round that has any."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from florence.records import ANNOTATION_TYPES, HUMAN, Annotation, digest, table_annotations
from florence.store import Store

REFERENCE_ORDER: tuple[str, ...] = ("truth", "human", "consensus")
"""References, the best first."""


@dataclass(frozen=True, slots=True)
class References:
    """What is right about some images. ``rows``: (image id, kind) → the name of the reference and its annotations.

    A pair that is missing is not known; one without annotations is known to have nothing of that kind.
    """

    rows: Mapping[tuple[str, str], tuple[str, tuple[Annotation, ...]]]

    def of(self, kind: str, reference: str) -> dict[str, tuple[Annotation, ...]]:
        """Image id → annotations of ``kind``, for the images where ``reference`` is what they are compared with."""
        return {
            image: rows for (image, found), (name, rows) in self.rows.items() if found == kind and name == reference
        }

    @property
    def references(self) -> tuple[str, ...]:
        """The names of the references there are, the best first."""
        names = {name for name, _ in self.rows.values()}
        return tuple(name for name in REFERENCE_ORDER if name in names)


def find_held_out_references(data: Store, images: Collection[str]) -> References:
    """What models are scored against on ``images`` (ids).

    Truth where the image's source knows the kind; else people's labels; else the kept labels of the first round in which the
    image has any label, so that a model cannot move its own reference.
    """
    return References(_merged(_truth(data, images), _human(data, images), _consensus(data, images)))


def find_gold_references(data: Store, images: Collection[str]) -> References:
    """What labels are measured against on ``images`` (ids): what lies in truth/ alone, which no annotator and no engine has seen.

    People's claims are part of the consensus, so comparing it with them would tell nothing.
    """
    return References(_merged(_truth(data, images), {}, {}))


def order_by_hash(ids: Iterable[str], *key: object) -> list[str]:
    """``ids`` in an order that follows from ``key`` and the ids alone."""
    return sorted(set(ids), key=lambda image: (digest("|".join([*map(str, key), image]).encode()), image))


Rows = dict[tuple[str, str], tuple[str, tuple[Annotation, ...]]]


def _merged(*standings: Rows) -> Rows:
    result: Rows = {}
    for rows in standings:
        for key, value in rows.items():
            result.setdefault(key, value)
    return result


def _read(data: Store, names: Iterable[str], images: Collection[str]) -> Iterator[tuple[str, list[Annotation]]]:
    for name in names:
        yield (
            name,
            table_annotations(data.read_table(name, filters=[("image_id", "in", sorted(images))])) if images else [],
        )


def _truth(data: Store, images: Collection[str]) -> Rows:
    """Truth and the human gold labels beside it. A source that knows a kind for one of its images knows it for all that it knows anything of."""
    names = data.names("truth", ".parquet")
    kinds: dict[str, set[str]] = {}
    for name in names:
        table = data.read_table(name, ["task", "annotator"])
        kinds.setdefault(_source(name), set()).update(
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
                for kind in kinds[_source(name)]:
                    found.setdefault((row.image_id, kind), [])
                found[row.image_id, row.task].append(row)
    truth: Rows = {key: ("truth", tuple(rows)) for key, rows in found.items() if key[1] in ANNOTATION_TYPES}
    return _merged(truth, _latest(people))


def _source(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit("-", 1)[0]


def _human(data: Store, images: Collection[str]) -> Rows:
    names = [name for name in data.names("claims", ".parquet") if name.split("/")[1].split("@")[0] == HUMAN]
    return _latest([row for _, rows in _read(data, names, images) for row in rows])


def _latest(people: list[Annotation]) -> Rows:
    """Of what people said of one kind in one image, the last round's last version. A row without a text says that something is not there."""
    last: dict[tuple[str, str], tuple[int, str]] = {}
    for row in people:
        key = row.image_id, row.task
        last[key] = max(last.get(key, (-1, "")), (row.round, row.version))
    result: dict[tuple[str, str], list[Annotation]] = {}
    for row in people:
        if (row.round, row.version) == last[row.image_id, row.task]:
            result.setdefault((row.image_id, row.task), []).extend([row] if row.text else [])
    return {key: (HUMAN, tuple(rows)) for key, rows in result.items()}


def _consensus(data: Store, images: Collection[str]) -> Rows:
    names = sorted(data.names("labels", ".parquet"), key=lambda name: int(name.split("round=")[1].split("/")[0]))
    wanted, result = set(images), {}
    for name in names:
        _, rows = next(_read(data, [name], wanted))
        frozen = {row.image_id for row in rows}
        found: dict[tuple[str, str], list[Annotation]] = {
            (image, kind): [] for image in sorted(frozen) for kind in ANNOTATION_TYPES
        }
        for row in rows:
            if row.kept:
                found[row.image_id, row.task].append(row)
        result.update({key: ("consensus", tuple(labels)) for key, labels in found.items()})
        wanted -= frozen
    return result
