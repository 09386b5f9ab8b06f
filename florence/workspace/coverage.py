"""What was looked for in each image: it tells an image in which nothing is from one that nobody has looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from florence.engine.filters.duplicates import REASON
from florence.formats import OBJECTS
from florence.records import ANNOTATION_TYPES, HUMAN
from florence.rounds import find_labels
from florence.store import Store
from florence.workspace.annotate import COVERAGE

NOTHING: frozenset[str] = frozenset()


def find_looked_at(data: Store, round: int) -> dict[str, frozenset[str]]:
    """Return the annotation types that each image of a snapshot was looked at for, by image id.

    An image was looked at for a type by an annotator that claims the type and finished the image without an error; not
    to be asked, or to have no labels of it, is such an error. A label of the round, kept or not, shows the same. The
    coverage is that of the snapshot's own round; of an earlier round, the labels alone tell.
    """
    found: dict[str, frozenset[str]] = {}
    joined: dict[tuple[frozenset[str], frozenset[str]], frozenset[str]] = {}
    for image_id, types in _list_looks(data, round):
        pair = found.get(image_id, NOTHING), types
        found[image_id] = joined.setdefault(pair, pair[0] | pair[1])
    return found


def find_near_duplicates(data: Store, round: int) -> frozenset[str]:
    """Return the images whose labels were dropped because they nearly equal another image: they are not empty."""
    labels = data.read_table(find_labels(data, round), ["image_id"], [("reason", "=", REASON)])
    return frozenset(labels["image_id"].to_pylist())


def _list_looks(data: Store, round: int) -> Iterator[tuple[str, frozenset[str]]]:
    pairs = data.read_table(find_labels(data, round), ["image_id", "task"]).group_by(["image_id", "task"]).aggregate([])
    single = {name: frozenset([name]) for name in ANNOTATION_TYPES}
    for image_id, task in zip(pairs["image_id"].to_pylist(), pairs["task"].to_pylist(), strict=True):
        yield image_id, single.get(task, NOTHING)
    for key in _list_annotators(data, round):
        if types := _read_types(data, key):
            table = data.read_tables(f"coverage/{key}", COVERAGE, ["image_id", "error"])
            for image_id in _finished(table):
                yield image_id, types


def _finished(coverage: pa.Table) -> Iterable[str]:
    return coverage.filter(pc.equal(pc.fill_null(coverage["error"], ""), ""))["image_id"].to_pylist()


def _list_annotators(data: Store, round: int) -> list[str]:
    """Return ``name@version`` of the annotators of the snapshot's round; of all that are there, if it does not say."""
    snapshot: Mapping[str, object] = data.read_json("snapshot.json") if data.exists("snapshot.json") else {}
    if snapshot.get("round", round) != round:
        return []
    named = snapshot.get("annotators")
    if isinstance(named, dict):
        return [f"{name}@{version}" for name, version in named.items()]
    return sorted({name.split("/")[1] for name in data.names("coverage", ".parquet")})


def _read_types(data: Store, key: str) -> frozenset[str]:
    """Return the annotation types that an annotator looks for; none for a ranker, which scores others' texts.

    One that knows no name of an object, as a data set of captions, looks for no objects. People are shown objects, and
    of the rest only what there is.
    """
    if key.rpartition("@")[0] == HUMAN:
        return frozenset([OBJECTS])
    if not data.exists(name := f"annotators/{key}.json"):
        return frozenset(ANNOTATION_TYPES)
    declared = data.read_json(name)
    types = NOTHING if declared["role"] == "ranker" else frozenset(declared["tasks"])
    return types - {OBJECTS} if declared["vocabulary"] == [] else types
