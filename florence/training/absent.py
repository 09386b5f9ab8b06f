"""Names that are known to be absent from an image, so that a model learns to answer that there is nothing.

A name is known to be absent where an annotator that can claim it looked at the image for objects, and no annotator
claims it there: a claim that the engine dropped is a claim. An annotator can claim the names of its declared
vocabulary; one that declares none, the names that it claims anywhere in the snapshot. Annotators that name boxes of
others, and the student, show nothing by their silence; their claims count. Of people, only those show that a name is
absent who say that there is nothing, or who are declared to label every object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from florence.annotators import ANNOTATORS
from florence.coverage import COVERAGE, OBJECTS, find_looks
from florence.records import HUMAN, STUDENT, fold_label
from florence.store import Store
from florence.tasks import Example, Size
from florence.tasks.detection import OpenVocabularyDetection

MIN_IMAGES = 3
"""Images with a kept label of a name, for the name to be asked for where it is absent."""
TWO_NAMES = 0.25
"""Share of two names among the questions for absent names alone."""


@dataclass(frozen=True)
class AbsentNames:
    """Finds the names that are known to be absent from images of the snapshot in ``data``.

    ``known``: by ``name@version`` of an annotator, the names, as kept labels write them, that its silence shows to be
    absent; ``complete``: keys of people who are declared to label every object.
    """

    data: Store
    known: Mapping[str, frozenset[str]]
    complete: frozenset[str] = field(default_factory=frozenset)

    def find(self, images: Iterable[str], shards: Iterable[str]) -> dict[str, list[str]]:
        """Return the names known to be absent from each of ``images`` (ids), sorted; ``shards``: their files' names."""
        claimed: dict[str, set[str]] = {image: set() for image in images}
        candidates: dict[str, set[str]] = {image: set() for image in claimed}
        for shard in shards:
            for key, names in self.known.items():
                found = _read_claims(self.data, key, shard)
                for image in claimed.keys() & found.keys():
                    claimed[image] |= found[image]
                for image in claimed.keys() & self._list_witnessed(key, shard, found):
                    candidates[image] |= names
        return {
            image: sorted(name for name in candidates[image] if fold_label(name) not in claimed[image])
            for image in claimed
        }

    def _list_witnessed(self, key: str, shard: str, claims: Mapping[str, set[str]]) -> set[str]:
        """Return the ids of the shard's images in which an annotator's silence shows that a name is absent."""
        if key.rpartition("@")[0] != HUMAN:
            return _read_looks(self.data, key, shard) if self.known[key] else set()
        # the empty name alone: nothing is there
        return {image for image, names in claims.items() if key in self.complete or names == {""}}


def read_absent_names(data: Store, labels: str) -> AbsentNames:
    """Return what each annotator of the snapshot can claim, of the names of kept objects in the table ``labels``.

    A name counts with `MIN_IMAGES` images that keep a label of it.
    """
    is_kept = pc.field("kept") & (pc.field("task") == OBJECTS)
    pairs = data.read_table(labels, ["image_id", "text"], is_kept).group_by(["image_id", "text"]).aggregate([])
    images = pairs.group_by("text").aggregate([("image_id", "count")])
    counted = zip(images["text"].to_pylist(), images["image_id_count"].to_pylist(), strict=True)
    names = [name for name, count in counted if name and count >= MIN_IMAGES]
    known, complete = {}, set()
    for key in sorted({name.split("/")[1] for name in data.names("claims", ".parquet")}):
        file = f"annotators/{key}.json"
        declared = data.read_object(file) if data.exists(file) else {}
        if key.rpartition("@")[0] == HUMAN:
            known[key] = frozenset(names)
            if declared.get("complete"):
                complete.add(key)
        elif declared.get("role") != "ranker":
            vocabulary = _read_vocabulary(data, key, declared)
            known[key] = frozenset(name for name in names if fold_label(name) in vocabulary)
    return AbsentNames(data, known, frozenset(complete))


def _read_vocabulary(data: Store, key: str, declared: Mapping[str, object]) -> set[str]:
    """Return the names, folded, that an annotator's silence shows to be absent; none where it shows nothing."""
    use, tasks, vocabulary = (declared.get(name) for name in ("use", "tasks", "vocabulary"))
    if key.rpartition("@")[0] == STUDENT or (isinstance(tasks, list) and OBJECTS not in tasks):
        return set()
    if use in ANNOTATORS.names() and ANNOTATORS.get(str(use)).names_only:
        return set()
    if isinstance(vocabulary, list):
        return {fold_label(name) for name in vocabulary}
    shards = [shard.rpartition("/")[2] for shard in data.names(f"claims/{key}", ".parquet")]
    return {name for shard in shards for names in _read_claims(data, key, shard).values() for name in names} - {""}


def _read_claims(data: Store, key: str, shard: str) -> dict[str, set[str]]:
    """Return image id → folded names of an annotator's claims of objects in a shard.

    The name is "" where a person says that nothing is there.
    """
    name = f"claims/{key}/{shard}"
    result: dict[str, set[str]] = {}
    if data.exists(name):
        table = data.read_table(name, ["image_id", "text"], pc.field("task") == OBJECTS)
        for image, text in zip(table["image_id"].to_pylist(), table["text"].to_pylist(), strict=True):
            result.setdefault(image, set()).add(fold_label(text))
    return result


def _read_looks(data: Store, key: str, shard: str) -> set[str]:
    """Return the ids of a shard's images that an annotator looked at for objects."""
    name = f"coverage/{key}/{shard}"
    if not data.exists(name):
        return set()
    table = data.read_table(name, ["image_id", "error", "looked_at"], schema=COVERAGE)
    return {row["image_id"] for row in table.to_pylist() if OBJECTS in find_looks(row, frozenset([OBJECTS]))}


def add_absent(
    examples: Sequence[Example], image_id: str, size: Size, absent: Sequence[str], *, share: float, seed: int
) -> list[Example]:
    """Return the examples of open-vocabulary detection of an image with those that ask for ``absent`` names too.

    One asks for a present and an absent name; of all, the share ``share`` asks for absent names alone, on average over
    images. A pure function of its arguments; ``image_id``: hexadecimal.
    """
    result = list(examples)
    if not absent or not share:
        return result
    asked = OpenVocabularyDetection()
    random = np.random.default_rng([seed, 2, int(image_id[:12], 16)])
    if examples:
        present = [examples[int(random.integers(len(examples)))]]
        result.append(asked.ask_several(image_id, size, present, _draw(absent, 1, random), random))
    for _ in range(int(max(len(result), 1) * share / (1 - share) + random.random())):
        names = _draw(absent, 1 + int(random.random() < TWO_NAMES), random)
        result.append(asked.ask_several(image_id, size, [], names, random))
    return result


def _draw(names: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    return [names[index] for index in random.permutation(len(names))[:count]]
