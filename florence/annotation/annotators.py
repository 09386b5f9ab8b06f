"""Who annotates: the annotators of params.yaml and the student, in the order of work, and what they declare of themselves."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from florence.config import Settings
from florence.errors import SettingsError
from florence.records import AnnotatorProfile, digest
from florence.store import Store

STUDENT, HUMAN = "student", "human"


@dataclass(frozen=True, slots=True)
class AnnotatorVersion:
    """Who annotates: an annotator of params.yaml, or the student, whose model is in ``folder``. ``reads``: names of the annotators whose claims it is given."""

    name: str
    version: str
    folder: str | None = None
    reads: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``name@version``, the folder of its claims."""
        return f"{self.name}@{self.version}"


@lru_cache(maxsize=64)
def _cached_annotator(use: str, name: str, device: str, options: str) -> tuple[Any, threading.Lock]:
    from florence.annotators import ANNOTATORS

    made = ANNOTATORS.get(use)(name=name, **json.loads(options))
    made.device = device
    return made, threading.Lock()


def make_annotator(settings: Settings, name: str) -> tuple[Any, threading.Lock]:
    """The annotator called ``name`` in params.yaml, one instance a process, and the lock its users share. Nothing is loaded."""
    section = settings.annotators[name]
    return _cached_annotator(section.use, name, section.device, json.dumps(section.options, sort_keys=True))


@lru_cache(maxsize=2)
def _student(folder: str, settings: str) -> tuple[Any, threading.Lock]:
    from florence.engine.student import Student

    return Student(folder, Settings.model_validate_json(settings)), threading.Lock()


def acquire_annotator(settings: Settings, annotator: AnnotatorVersion) -> tuple[Any, threading.Lock, int]:
    """Who answers for ``annotator``, the lock its users share, and how many images it is given at once."""
    if annotator.folder is not None:
        return *_student(annotator.folder, settings.model_dump_json()), settings.engine.student.batch_size
    return *make_annotator(settings, annotator.name), settings.annotators[annotator.name].batch_size


def annotators(settings: Settings, student: str | None = None, store: Store | None = None) -> list[AnnotatorVersion]:
    """Everyone who annotates, in the order of work: those who look at pixels or truth, then those who read claims, then the student.

    ``student``: the folder of its model. With a ``store`` come those whose claims count without being asked: people, where it holds reviews of theirs (`reviewed`). The version of one who reads claims covers the versions of those it reads. Raises UnknownNameError or SettingsError for
    an annotator that is not there or not set right, before any model is loaded.
    """
    result: list[AnnotatorVersion] = []
    for name in sorted(settings.annotators, key=lambda n: "claims" in make_annotator(settings, n)[0].needs):
        made, _ = make_annotator(settings, name)
        read = _read(settings, name, "claims" in made.needs, result)
        version = (
            digest([made.version, [annotator.key for annotator in read]]) if "claims" in made.needs else made.version
        )
        if (share := settings.annotators[name].sample_fraction) < 1:
            version = digest([version, share])
        result.append(AnnotatorVersion(name, version, reads=tuple(annotator.name for annotator in read)))
    if student is not None and settings.engine.student.cap > 0:
        from florence.engine.student import Student

        result.append(AnnotatorVersion(STUDENT, Student(student, settings).version, student))
    if store is not None and (people := reviewed(store)) is not None:
        result.append(people)
    return result


def reviewed(store: Store) -> AnnotatorVersion | None:
    """People, at the version of the last review that was imported whole (`florence.review`), which holds all that still counts of those before it.

    None where there is none. A version is the number of the import and a hash of what was imported.
    """
    shards_of: dict[str, dict[str, set[str]]] = {}
    for kind in ("claims", "coverage"):
        for name in store.names(kind, ".parquet"):
            if match := re.fullmatch(rf"{kind}/{HUMAN}@(\d+-[0-9a-f]+)/(.+)", name):
                shards_of.setdefault(match.group(1), {}).setdefault(kind, set()).add(match.group(2))
    whole = [version for version, found in shards_of.items() if found.get("claims") == found.get("coverage")]
    return AnnotatorVersion(HUMAN, max(whole, key=lambda version: int(version.split("-")[0]))) if whole else None


def _read(settings: Settings, name: str, reader: bool, before: Sequence[AnnotatorVersion]) -> list[AnnotatorVersion]:
    """Those of ``before`` whose claims ``name`` is given. Raises SettingsError for an entry of `reads` that is none of them."""
    entries, known = settings.annotators[name].depends_on, [annotator.name for annotator in before]
    where = f"annotators.{name}.reads"
    if not reader:
        if entries != ("*",):
            raise SettingsError(f"{where}: {name} reads no claims; leave the setting out")
        return []
    for entry in entries:
        other = entry.removeprefix("!")
        if entry != "*" and other not in known:
            fault = (
                "it cannot read its own claims"
                if other == name
                else f"{other} comes after it"
                if other in settings.annotators
                else f"there is no annotator {other!r}"
            )
            raise SettingsError(
                f"{where}: {fault}; those before it: {', '.join(known) or 'none'} ('*' for all, '!name' to leave one out)"
            )
    return [
        annotator
        for annotator in before
        if f"!{annotator.name}" not in entries and ("*" in entries or annotator.name in entries)
    ]


def looks_at(settings: Settings, annotator: AnnotatorVersion, shard: str) -> bool:
    """Whether ``annotator`` annotates the images of ``shard``."""
    return annotator.name == STUDENT or settings.annotators[annotator.name].looks_at(shard.rsplit("-", 1)[0])


def share_of(settings: Settings, annotator: AnnotatorVersion) -> float:
    """The share of the images that an annotator is asked about."""
    return 1.0 if annotator.name in (STUDENT, HUMAN) else settings.annotators[annotator.name].sample_fraction


def required(settings: Settings, name: str) -> bool:
    """Whether a run fails where the annotator called ``name`` does."""
    return name == STUDENT or settings.annotators[name].required


def declare(settings: Settings, store: Store, who: Iterable[AnnotatorVersion]) -> None:
    """Write what each annotator says of itself to ``annotators/<annotator@version>.json``, where it is not there yet; it follows from the version, and does not change."""
    for annotator in who:
        name = f"annotators/{annotator.key}.json"
        if not store.exists(name):
            store.write_json(name, _declaration(settings, annotator))


def _declaration(settings: Settings, annotator: AnnotatorVersion) -> dict[str, Any]:
    if annotator.folder is not None:
        from florence.model.checkpoint import weights_hash

        student, weights = settings.engine.student, weights_hash(annotator.folder)
        asked = {
            **student.model_dump(mode="json", include={"tasks", "min_score", "second_look"}),
            "image_size": settings.model.image_size,
        }
        return {
            "name": annotator.name,
            "use": STUDENT,
            "role": "annotator",
            "tasks": list(student.tasks),
            "vocabulary": None,
            "ingredients": {"weights": weights},
            "options": asked,
        }
    made, _ = make_annotator(settings, annotator.name)
    words = made.vocabulary()
    return {
        "name": annotator.name,
        "use": settings.annotators[annotator.name].use,
        "role": made.role,
        "tasks": list(made.tasks),
        "vocabulary": None if words is None else sorted(words),
        "ingredients": made.ingredients(),
        "options": made.options.model_dump(mode="json"),
    }


def profiles_of(store: Store, who: Iterable[AnnotatorVersion]) -> tuple[AnnotatorProfile, ...]:
    """Who each annotator is to the consensus, as it declared; one that has declared nothing is an annotator that can name anything."""
    return tuple(_profile(store, annotator) for annotator in who)


def _profile(store: Store, annotator: AnnotatorVersion) -> AnnotatorProfile:
    if not store.exists(f"annotators/{annotator.key}.json"):
        return AnnotatorProfile(annotator.name)
    said = store.read_json(f"annotators/{annotator.key}.json")
    return AnnotatorProfile(
        annotator.name, said["role"], None if said["vocabulary"] is None else tuple(said["vocabulary"])
    )
