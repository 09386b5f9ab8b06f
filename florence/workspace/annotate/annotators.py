"""The annotators of params.yaml and the student, in the order of work, and what they declare."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from florence.annotators import ANNOTATORS
from florence.config import Settings
from florence.errors import DataError, FlorenceError, SettingsError, StoreError, UnknownNameError
from florence.image_files import ImageFiles
from florence.records import HUMAN, STUDENT, AnnotatorProfile, digest
from florence.store import Store
from florence.workspace.base import Workspace


@dataclass(frozen=True, slots=True)
class AnnotatorVersion:
    """An annotator at one version.

    ``folder``: the student's model, None for any other; ``depends_on``: names of the annotators whose claims it is
    given.
    """

    name: str
    version: str
    folder: str | None = None
    depends_on: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``name@version``, the folder of its claims."""
        return f"{self.name}@{self.version}"


# ---------------------------------------------------------------- instances


@lru_cache(maxsize=64)
def _cached_annotator(use: str, name: str, device: str, options: str) -> tuple[Any, threading.Lock]:
    annotator = ANNOTATORS.get(use)(name=name, **json.loads(options))
    annotator.device = device
    return annotator, threading.Lock()


def make_annotator(settings: Settings, name: str) -> tuple[Any, threading.Lock]:
    """Return the annotator called ``name`` in params.yaml, one instance a process, and the lock that its users share.

    Nothing is loaded. Raises UnknownNameError where there is no such plug-in, SettingsError for wrong settings.
    """
    section = settings.annotators[name]
    found = _cached_annotator(section.use, name, section.device, json.dumps(section.options, sort_keys=True))
    if section.complete and found[0].role != "human":
        raise SettingsError(
            f"annotators.{name}.complete: only people's labels can be complete; found {section.use} without human: true"
        )
    return found


def bind_files(settings: Settings, name: str, store: Store) -> None:
    """Tell the annotator called ``name`` which files of its sources have had which content, by the ``store``.

    Its version follows from that where its label set's names are ambiguous, so it comes before the version is read.
    """
    instance, lock = make_annotator(settings, name)
    section = settings.annotators[name]
    key = (store.uri, section.sources)
    if instance.files.key != key:  # else another shard, which may be at work with it, need not be waited for
        with lock:
            instance.files = ImageFiles(store, section.looks_at, key)


def bind_labels(settings: Settings, annotator: AnnotatorVersion) -> None:
    """Tell an annotator that names the boxes of others which names these may give.

    Raises what their `vocabulary` raises.
    """
    if annotator.folder is not None or not make_annotator(settings, annotator.name)[0].names_only:
        return
    boxing = [
        other
        for other, _ in (make_annotator(settings, name) for name in annotator.depends_on)
        if "<OD>" in other.tasks and other.role != "ranker" and not other.names_only
    ]
    vocabularies = [other.vocabulary() for other in boxing]
    known = None if None in vocabularies else tuple(sorted({name for words in vocabularies for name in words or ()}))
    make_annotator(settings, annotator.name)[0].known_labels = known or None


@lru_cache(maxsize=2)
def _cached_student(folder: str, settings: str) -> tuple[Any, threading.Lock]:
    from florence.engine.student import StudentAnnotator

    return StudentAnnotator(folder, Settings.model_validate_json(settings)), threading.Lock()


def acquire_annotator(settings: Settings, annotator: AnnotatorVersion) -> tuple[Any, threading.Lock, int]:
    """Return the instance behind ``annotator``, the lock that its users share, and its batch size."""
    if annotator.folder is not None:
        return *_cached_student(annotator.folder, settings.model_dump_json()), settings.engine.student.batch_size
    return *make_annotator(settings, annotator.name), settings.annotators[annotator.name].batch_size


# ---------------------------------------------------------------- who annotates


def list_annotators(
    settings: Settings, student: str | None = None, store: Store | None = None, *, files: Store | None = None
) -> list[AnnotatorVersion]:
    """Return all annotators in the order of work: the student last, those that need claims before it.

    ``student``: the folder of its model. With a ``store``, the human annotator comes last if reviews were imported
    (`find_human_annotator`). ``files``: the working store, where ``store`` is not given: versions follow from what it
    knows of the files, too (`bind_files`). The version of an annotator that needs claims covers the versions of those
    it depends on. Annotators of `find_unusable_annotators` are left out. Raises UnknownNameError or SettingsError for a
    required annotator that does not exist or has wrong settings, StoreError where its files are missing, before any
    model is loaded.
    """
    result: list[AnnotatorVersion] = []
    left_out = find_unusable_annotators(settings, files or store)
    usable = [name for name in settings.annotators if name not in left_out]
    for name in sorted(usable, key=lambda n: "claims" in make_annotator(settings, n)[0].needs):
        instance, _ = make_annotator(settings, name)
        if (known := files or store) is not None:
            bind_files(settings, name, known)
        needs_claims = "claims" in instance.needs
        dependencies = _find_dependencies(settings, name, needs_claims, result, left_out)
        version = _read_version(name, instance)
        if needs_claims:
            version = digest([version, [one.key for one in dependencies]])
        if (fraction := settings.annotators[name].sample_fraction) < 1:
            version = digest([version, fraction])
        result.append(AnnotatorVersion(name, version, depends_on=tuple(one.name for one in dependencies)))
    if student is not None and settings.engine.student.cap > 0:
        from florence.engine.student import StudentAnnotator

        result.append(AnnotatorVersion(STUDENT, StudentAnnotator(student, settings).version, student))
    if store is not None and (human := find_human_annotator(store)) is not None:
        result.append(human)
    return result


def find_unusable_annotators(settings: Settings, files: Store | None = None) -> dict[str, str]:
    """Return why an annotator cannot be asked at all, by name, of those that are not required.

    Its plug-in, its package, its label files or its weights are missing or of another format. A run goes on without it.
    ``files``: as in `list_annotators`. Raises SettingsError for wrong settings: they are corrected in params.yaml.
    """
    result = {}
    for name, section in settings.annotators.items():
        if section.required:
            continue
        try:
            instance, _ = make_annotator(settings, name)
        except UnknownNameError as error:
            result[name] = str(error)
            continue
        try:
            if files is not None:
                bind_files(settings, name, files)
            instance.version  # noqa: B018 - reads the files that the version follows from
        except Exception as error:  # whatever a plug-in meets in its files is a reason to go on without it
            result[name] = str(error) if isinstance(error, FlorenceError) else f"{type(error).__name__}: {error}"
    return result


def _read_version(name: str, instance: Any) -> str:
    try:
        return str(instance.version)
    except (StoreError, DataError) as error:
        kind = StoreError if isinstance(error, StoreError) else DataError
        raise kind(f"annotators.{name}: {error}. `required: false` lets a run go on without this annotator") from None


def find_human_annotator(store: Store) -> AnnotatorVersion | None:
    """Return the human annotator at the version of the last review that was imported whole (`florence.review`).

    None where there is none.

    A version is the number of the import and a hash of what was imported; it holds all claims of earlier imports that
    still count.
    """
    shards_of: dict[str, dict[str, set[str]]] = {}
    for folder in ("claims", "coverage"):
        for name in store.names(folder, ".parquet"):
            if match := re.fullmatch(rf"{folder}/{HUMAN}@(\d+-[0-9a-f]+)/(.+)", name):
                shards_of.setdefault(match.group(1), {}).setdefault(folder, set()).add(match.group(2))
    whole = [version for version, found in shards_of.items() if found.get("claims") == found.get("coverage")]
    return AnnotatorVersion(HUMAN, max(whole, key=lambda version: int(version.split("-")[0]))) if whole else None


def _find_dependencies(
    settings: Settings,
    name: str,
    needs_claims: bool,
    earlier: Sequence[AnnotatorVersion],
    left_out: Container[str],
) -> list[AnnotatorVersion]:
    """Return the ``earlier`` annotators whose claims ``name`` is given.

    Raises SettingsError for an entry of `depends_on` that is none of them, nor one that the run goes on without.
    """
    entries, known = settings.annotators[name].depends_on, [annotator.name for annotator in earlier]
    where = f"annotators.{name}.depends_on"
    if not needs_claims:
        if entries != ("*",):
            raise SettingsError(f"{where}: {name} reads no claims; leave the setting out")
        return []
    for entry in entries:
        other = entry.removeprefix("!")
        if entry == "*" or other in known or other in left_out:
            continue
        if other == name:
            fault = "it cannot read its own claims"
        elif other in settings.annotators:
            fault = f"{other} comes after it"
        else:
            fault = f"there is no annotator {other!r}"
        listed = ", ".join(known) or "none"
        raise SettingsError(f"{where}: {fault}; those before it: {listed} ('*' for all, '!name' to leave one out)")
    return [one for one in earlier if f"!{one.name}" not in entries and ("*" in entries or one.name in entries)]


def is_assigned(settings: Settings, annotator: AnnotatorVersion, shard: str) -> bool:
    """Return whether ``annotator`` annotates the source of ``shard``, or has copies of images in it (`copies_of`)."""
    source = shard.rsplit("-", 1)[0]
    if annotator.name == STUDENT or settings.annotators[annotator.name].looks_at(source):
        return True
    return bool(copies_of(settings, annotator, source))


def copies_of(settings: Settings, annotator: AnnotatorVersion, source: str) -> frozenset[str]:
    """Return the ids of images of a ``source`` that ``annotator`` does not annotate which are files of one it does.

    A label set may name them. Empty for an annotator without one, and for a source that it annotates.
    """
    if annotator.name not in settings.annotators or settings.annotators[annotator.name].looks_at(source):
        return frozenset()
    instance, _ = make_annotator(settings, annotator.name)
    return instance.files.list_copies().get(source, frozenset()) if instance.has_label_set else frozenset()


def sample_fraction_of(settings: Settings, annotator: AnnotatorVersion) -> float:
    """Return the share of the images that an annotator is asked about."""
    return 1.0 if annotator.name in (STUDENT, HUMAN) else settings.annotators[annotator.name].sample_fraction


def is_required(settings: Settings, name: str) -> bool:
    """Return whether a run fails where the annotator called ``name`` fails."""
    return name == STUDENT or settings.annotators[name].required


# ---------------------------------------------------------------- declarations


def write_declarations(workspace: Workspace, annotators: Iterable[AnnotatorVersion]) -> None:
    """Write what each annotator declares to ``annotators/<name@version>.json``.

    That is its role, tasks, vocabulary and options; they follow from the version, so a file that exists stays.
    """
    for annotator in annotators:
        name = f"annotators/{annotator.key}.json"
        if not workspace.store.exists(name):
            workspace.store.write_json(name, _declaration(workspace.settings, annotator))


def _declaration(settings: Settings, annotator: AnnotatorVersion) -> dict[str, Any]:
    if annotator.folder is not None:
        return _student_declaration(settings, annotator.name, annotator.folder)
    instance, _ = make_annotator(settings, annotator.name)
    words = instance.vocabulary()
    return {
        "name": annotator.name,
        "use": settings.annotators[annotator.name].use,
        "role": instance.role,
        "tasks": list(instance.tasks),
        "vocabulary": None if words is None else sorted(words),
        "ingredients": instance.ingredients(),
        "options": instance.options.model_dump(mode="json"),
    }


def _student_declaration(settings: Settings, name: str, folder: str) -> dict[str, Any]:
    from florence.model.checkpoint import weights_hash

    student = settings.engine.student
    options = student.model_dump(mode="json", include={"tasks", "min_score", "second_look"})
    return {
        "name": name,
        "use": STUDENT,
        "role": "annotator",
        "tasks": list(student.tasks),
        "vocabulary": None,
        "ingredients": {"weights": weights_hash(folder)},
        "options": {**options, "image_size": settings.model.image_size},
    }


def read_profiles(
    settings: Settings, store: Store, annotators: Iterable[AnnotatorVersion]
) -> tuple[AnnotatorProfile, ...]:
    """Return each annotator's profile for the consensus.

    Role and vocabulary are those of its declaration; without one, an annotator of any vocabulary. Of people whose
    reviews were imported, the declaration says whether they are complete. Family and completeness of the others follow
    from the settings as they are now: they are no part of a version, and no claim has to be made again for them.
    """
    return tuple(_read_profile(settings, store, annotator) for annotator in annotators)


def find_family(settings: Settings, name: str) -> str:
    """Return the family of the annotator called ``name`` in params.yaml: the setting, or its plug-in's."""
    family = settings.annotators[name].family
    return str(make_annotator(settings, name)[0].family) if family is None else family.strip()


def describe_families(settings: Settings) -> list[str]:
    """Return a sentence about each family of several annotators with a vote, in the order of params.yaml."""
    left_out = find_unusable_annotators(settings)
    members: dict[str, list[str]] = {}
    for name in settings.annotators:
        if name not in left_out and make_annotator(settings, name)[0].role == "annotator":
            members.setdefault(find_family(settings, name), []).append(name)
    return [
        f"{', '.join(names)} are of one family ({family}): together they count for little more than one annotator"
        for family, names in members.items()
        if family and len(names) > 1
    ]


def find_sources_without_detector(settings: Settings) -> list[str]:
    """Return the sources whose images nobody boxes objects in: they get image-level tags, and captions made of them."""
    left_out = find_unusable_annotators(settings)
    boxing = [
        section
        for name, section in settings.annotators.items()
        if name not in left_out
        and "<OD>" in (instance := make_annotator(settings, name)[0]).tasks
        and instance.role != "ranker"
        and not instance.names_only
    ]
    return [source for source in settings.sources if not any(section.looks_at(source) for section in boxing)]


def describe_missing_detectors(settings: Settings) -> list[str]:
    """Return a sentence about the sources of `find_sources_without_detector`, none where there is none."""
    sources = find_sources_without_detector(settings)
    return [f"{', '.join(sources)}: no detector is named: image-level tags only"] if sources else []


def _read_profile(settings: Settings, store: Store, annotator: AnnotatorVersion) -> AnnotatorProfile:
    file = f"annotators/{annotator.key}.json"
    declared = store.read_object(file, "role", "vocabulary") if store.exists(file) else None
    role, words = (declared["role"], declared["vocabulary"]) if declared else ("annotator", None)
    vocabulary = None if words is None else tuple(words)
    if annotator.name in (STUDENT, HUMAN) or annotator.name not in settings.annotators:
        return AnnotatorProfile(
            annotator.name, role, vocabulary, complete=bool(declared and declared.get("complete", False))
        )
    return AnnotatorProfile(
        annotator.name,
        role,
        vocabulary,
        find_family(settings, annotator.name),
        settings.annotators[annotator.name].complete,
        make_annotator(settings, annotator.name)[0].names_only,
    )
