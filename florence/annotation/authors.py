"""Who annotates: the specialists of params.yaml and the student, in the order of work, and what they declare of themselves."""

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
from florence.records import Speaker, digest
from florence.store import Store

STUDENT, HUMAN = "student", "human"


@dataclass(frozen=True, slots=True)
class Author:
    """Who annotates: a specialist of params.yaml, or the student, whose model is in ``folder``. ``reads``: names of the authors whose claims it is given."""

    name: str
    version: str
    folder: str | None = None
    reads: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``name@version``, the folder of its claims."""
        return f"{self.name}@{self.version}"


@lru_cache(maxsize=64)
def _specialist(use: str, name: str, device: str, options: str) -> tuple[Any, threading.Lock]:
    from florence.specialists import SPECIALISTS

    made = SPECIALISTS.get(use)(name=name, **json.loads(options))
    made.device = device
    return made, threading.Lock()


def specialist(settings: Settings, name: str) -> tuple[Any, threading.Lock]:
    """The specialist called ``name`` in params.yaml, one instance a process, and the lock its users share. Nothing is loaded."""
    section = settings.specialists[name]
    return _specialist(section.use, name, section.device, json.dumps(section.options, sort_keys=True))


@lru_cache(maxsize=2)
def _student(folder: str, settings: str) -> tuple[Any, threading.Lock]:
    from florence.engine.refine import Student

    return Student(folder, Settings.model_validate_json(settings)), threading.Lock()


def annotator(settings: Settings, author: Author) -> tuple[Any, threading.Lock, int]:
    """Who answers for ``author``, the lock its users share, and how many images it is given at once."""
    if author.folder is not None:
        return *_student(author.folder, settings.model_dump_json()), settings.engine.student.batch
    return *specialist(settings, author.name), settings.specialists[author.name].batch


def authors(settings: Settings, student: str | None = None, store: Store | None = None) -> list[Author]:
    """Everyone who annotates, in the order of work: those who look at pixels or truth, then those who read claims, then the student.

    ``student``: the folder of its model. With a ``store`` come those whose claims count without being asked: people, where it holds reviews of theirs (`reviewed`). The version of one who reads claims covers the versions of those it reads. Raises UnknownName or SettingsError for
    a specialist that is not there or not set right, before any model is loaded.
    """
    result: list[Author] = []
    for name in sorted(settings.specialists, key=lambda n: "claims" in specialist(settings, n)[0].needs):
        made, _ = specialist(settings, name)
        read = _read(settings, name, "claims" in made.needs, result)
        version = digest([made.version, [author.key for author in read]]) if "claims" in made.needs else made.version
        if (share := settings.specialists[name].images) < 1:
            version = digest([version, share])
        result.append(Author(name, version, reads=tuple(author.name for author in read)))
    if student is not None and settings.engine.student.cap > 0:
        from florence.engine.refine import Student

        result.append(Author(STUDENT, Student(student, settings).version, student))
    if store is not None and (people := reviewed(store)) is not None:
        result.append(people)
    return result


def reviewed(store: Store) -> Author | None:
    """People, at the version of the last review that was imported whole (`florence.review`), which holds all that still counts of those before it.

    None where there is none. A version is the number of the import and a hash of what was imported.
    """
    shards_of: dict[str, dict[str, set[str]]] = {}
    for kind in ("claims", "coverage"):
        for name in store.names(kind, ".parquet"):
            if match := re.fullmatch(rf"{kind}/{HUMAN}@(\d+-[0-9a-f]+)/(.+)", name):
                shards_of.setdefault(match.group(1), {}).setdefault(kind, set()).add(match.group(2))
    whole = [version for version, found in shards_of.items() if found.get("claims") == found.get("coverage")]
    return Author(HUMAN, max(whole, key=lambda version: int(version.split("-")[0]))) if whole else None


def _read(settings: Settings, name: str, reader: bool, before: Sequence[Author]) -> list[Author]:
    """Those of ``before`` whose claims ``name`` is given. Raises SettingsError for an entry of `reads` that is none of them."""
    entries, known = settings.specialists[name].reads, [author.name for author in before]
    where = f"specialists.{name}.reads"
    if not reader:
        if entries != ("*",):
            raise SettingsError(f"{where}: {name} reads no claims; leave the setting out")
        return []
    for entry in entries:
        other = entry.removeprefix("!")
        if entry != "*" and other not in known:
            fault = (
                "it can not read its own claims"
                if other == name
                else f"{other} comes after it"
                if other in settings.specialists
                else f"there is no annotator {other!r}"
            )
            raise SettingsError(
                f"{where}: {fault}; those before it: {', '.join(known) or 'none'} ('*' for all, '!name' to leave one out)"
            )
    return [
        author for author in before if f"!{author.name}" not in entries and ("*" in entries or author.name in entries)
    ]


def looks_at(settings: Settings, author: Author, shard: str) -> bool:
    """Whether ``author`` annotates the images of ``shard``."""
    return author.name == STUDENT or settings.specialists[author.name].looks_at(shard.rsplit("-", 1)[0])


def share_of(settings: Settings, author: Author) -> float:
    """The share of the images that an author is asked about."""
    return 1.0 if author.name in (STUDENT, HUMAN) else settings.specialists[author.name].images


def required(settings: Settings, name: str) -> bool:
    """Whether a run fails where the author called ``name`` does."""
    return name == STUDENT or settings.specialists[name].required


def declare(settings: Settings, store: Store, who: Iterable[Author]) -> None:
    """Write what each author says of itself to ``authors/<author@version>.json``, where it is not there yet; it follows from the version, and does not change."""
    for author in who:
        name = f"authors/{author.key}.json"
        if not store.exists(name):
            store.write_json(name, _declaration(settings, author))


def _declaration(settings: Settings, author: Author) -> dict[str, Any]:
    if author.folder is not None:
        from florence.model.checkpoint import weights_hash

        student, weights = settings.engine.student, weights_hash(author.folder)
        asked = {
            **student.model_dump(mode="json", include={"tasks", "min_score", "second_look"}),
            "image_size": settings.model.image_size,
        }
        return {
            "name": author.name,
            "use": STUDENT,
            "role": "annotator",
            "tasks": list(student.tasks),
            "vocabulary": None,
            "ingredients": {"weights": weights},
            "options": asked,
        }
    made, _ = specialist(settings, author.name)
    words = made.vocabulary()
    return {
        "name": author.name,
        "use": settings.specialists[author.name].use,
        "role": made.role,
        "tasks": list(made.tasks),
        "vocabulary": None if words is None else sorted(words),
        "ingredients": made.ingredients(),
        "options": made.options.model_dump(mode="json"),
    }


def speakers_of(store: Store, who: Iterable[Author]) -> tuple[Speaker, ...]:
    """Who each author is to the consensus, as it declared; one that has declared nothing is an annotator that can name anything."""
    return tuple(_speaker(store, author) for author in who)


def _speaker(store: Store, author: Author) -> Speaker:
    if not store.exists(f"authors/{author.key}.json"):
        return Speaker(author.name)
    said = store.read_json(f"authors/{author.key}.json")
    return Speaker(author.name, said["role"], None if said["vocabulary"] is None else tuple(said["vocabulary"]))
