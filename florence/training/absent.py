"""Names that are known to be absent from an image, so that a model learns to answer that there is nothing.

A name is known to be absent where an annotator that can claim it looked at the image for objects, and no annotator
claims it there: a claim that the engine dropped is a claim. An annotator can claim the names of its declared
vocabulary; one that declares none, the names that it claims anywhere in the snapshot. People count where they have a
claim of objects about the image, be it that there is nothing. The student's silence shows nothing, as it would teach
itself; its claims count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from florence.coverage import COVERAGE, OBJECTS, find_looks
from florence.records import HUMAN, STUDENT, fold_label
from florence.store import Store
from florence.tasks import Example, Size
from florence.tasks.detection import OpenVocabularyDetection

MIN_IMAGES = 3
"""Images with a kept label of a name, for the name to be asked for where it is absent."""
_COLUMNS = ["image_id", "task", "text"]


@dataclass(frozen=True)
class AbsentNames:
    """``known``: by ``name@version`` of an annotator, the names, as kept labels write them, that it can claim."""

    data: Store
    known: Mapping[str, frozenset[str]]

    def find(self, images: Iterable[str], shards: Iterable[str]) -> dict[str, list[str]]:
        """Return the names known to be absent from each of ``images`` (ids), sorted; ``shards``: names of theirs."""
        claimed: dict[str, set[str]] = {image: set() for image in images}
        witnesses: dict[str, set[str]] = {image: set() for image in claimed}
        for shard in shards:
            for key in self.known:
                for image, name in _read_claims(self.data, key, shard):
                    if image in claimed:
                        claimed[image].add(fold_label(name))
                        if _is_person(key):
                            witnesses[image].add(key)
                if not _is_person(key) and key.rpartition("@")[0] != STUDENT:
                    for image in _read_looks(self.data, key, shard) & claimed.keys():
                        witnesses[image].add(key)
        return {
            image: sorted(
                name
                for name in frozenset[str]().union(*(self.known[key] for key in witnesses[image]))
                if fold_label(name) not in claimed[image]
            )
            for image in claimed
        }


def read_absent_names(data: Store, labels: str) -> AbsentNames:
    """Return what each annotator of the snapshot can claim, of the names in the table ``labels``.

    A name counts with `MIN_IMAGES` images that keep a label of it.
    """
    is_kept = pc.field("kept") & (pc.field("task") == OBJECTS)
    table = data.read_table(labels, ["image_id", "text"], is_kept)
    pairs = table.group_by(["image_id", "text"]).aggregate([])
    images = pairs.group_by("text").aggregate([("image_id", "count")])
    names = [
        name
        for name, count in zip(images["text"].to_pylist(), images["image_id_count"].to_pylist(), strict=True)
        if count >= MIN_IMAGES and name
    ]
    keys = sorted({name.split("/")[1] for name in data.names("claims", ".parquet")})
    known = {}
    for key in keys:
        if (vocabulary := _read_vocabulary(data, key)) is not None:
            known[key] = frozenset(name for name in names if fold_label(name) in vocabulary)
    return AbsentNames(data, known)


def _is_person(key: str) -> bool:
    return key.rpartition("@")[0] == HUMAN


def _read_vocabulary(data: Store, key: str) -> set[str] | None:
    """Return the names, folded, that an annotator can claim; None where it claims no objects."""
    name = f"annotators/{key}.json"
    if data.exists(name):
        declared = data.read_object(name, "role", "tasks", "vocabulary")
        if declared["role"] == "ranker" or OBJECTS not in declared["tasks"]:
            return None
        if declared["vocabulary"] is not None:
            return {fold_label(name) for name in declared["vocabulary"]}
    shards = [shard.rpartition("/")[2] for shard in data.names(f"claims/{key}", ".parquet")]
    return {fold_label(name) for shard in shards for _, name in _read_claims(data, key, shard)} - {""}


def _read_claims(data: Store, key: str, shard: str) -> list[tuple[str, str]]:
    """Return image id and name of an annotator's claims of objects in a shard; "" where a person says nothing there."""
    name = f"claims/{key}/{shard}"
    if not data.exists(name):
        return []
    table = data.read_table(name, ["image_id", "text"], pc.field("task") == OBJECTS)
    pairs = table.group_by(["image_id", "text"]).aggregate([])
    return list(zip(pairs["image_id"].to_pylist(), pairs["text"].to_pylist(), strict=True))


def _read_looks(data: Store, key: str, shard: str) -> set[str]:
    """Return the ids of a shard's images that an annotator looked at for objects."""
    name = f"coverage/{key}/{shard}"
    if not data.exists(name):
        return set()
    table = data.read_table(name, ["image_id", "error", "looked_at"], schema=COVERAGE)
    return {row["image_id"] for row in table.to_pylist() if OBJECTS in find_looks(row, frozenset([OBJECTS]))}


def add_absent(
    examples: list[Example], image_id: str, size: Size, absent: list[str], share: float, seed: int
) -> list[Example]:
    """Return the examples of open-vocabulary detection of an image with those that ask for ``absent`` names too.

    One asks for a present and an absent name; of all, the share ``share`` asks for absent names alone. Deterministic.
    """
    if not absent or not share:
        return examples
    asked = OpenVocabularyDetection()
    random = np.random.default_rng([seed, 2, int(image_id[:12], 16)])
    result = list(examples)
    if examples:
        result.append(
            asked.ask_several(
                image_id, size, [examples[random.integers(len(examples))]], _draw(absent, 1, random), random
            )
        )
    expected = max(len(result), 1) * share / (1 - share)
    for _ in range(int(expected + random.random())):
        # one question in four is for two names
        result.append(
            asked.ask_several(image_id, size, [], _draw(absent, 1 + int(random.random() < 0.25), random), random)
        )
    return result


def _draw(names: list[str], count: int, random: np.random.Generator) -> list[str]:
    return [names[index] for index in random.permutation(len(names))[:count]]
