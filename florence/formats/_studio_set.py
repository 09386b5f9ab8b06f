"""Reads the tasks of Label Studio: whose annotation of which image counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from florence.errors import DataError
from florence.formats import (
    OBJECTS,
    ImageClaims,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
    UnusableLabelError,
    describe_problem,
    list_looked_at,
)
from florence.formats._files import Files
from florence.formats._names import explain_spellings, list_usable_names
from florence.formats._studio_claims import SHAPES, ClaimBuilder
from florence.formats._studio_project import DOUBTS
from florence.formats._studio_results import CATEGORY, OCR_LINE, TEXTS, StudioResult, address_names, read_flat_results
from florence.images import is_image
from florence.records import ImageRecord

FLAT_KEYS = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"})
"""Keys of JSON-MIN that are neither data of the task nor results of a control."""
OWN_KEYS = frozenset({"image_id", "source", "name", "round", "blind", "adjudicate", DOUBTS})
"""Keys of the data of tasks that Florence wrote, which its image's id tells."""


@dataclass(frozen=True, slots=True)
class StudioAnnotation:
    """What one person or model made of an image. ``by``: names of the person; ``stamp``: its time, as the file has it.

    ``problems``: what of it is about none of the task's images.
    """

    position: str
    by: tuple[str, ...]
    stamp: str
    truth: bool
    cancelled: bool
    results: tuple[StudioResult, ...]
    problems: tuple[LabelProblem, ...] = ()

    def count(self) -> int:
        """Return how many labels it has."""
        return sum(result.count() for result in self.results)


Found = dict[str, tuple[dict[str, Any], list[StudioAnnotation]]]
"""Address of an image → the data of its task, and the annotations of it."""


class StudioSet(LabelSet):
    """The tasks of one or more files. An entry's ``raw``: annotation, data of the task, problems.

    ``annotations``: an entry's names → everybody's annotations of its image, without those that were skipped.
    """

    def __init__(self, files: Files, options: Any) -> None:
        self.control_types = {**TEXTS, **options.kinds}
        problems: list[LabelProblem] = []
        found: Found = {}
        errors: list[DataError] = []
        for name in files.names:
            try:
                tasks = _read_tasks(files, name)
            except DataError as error:
                errors.append(error)
                problems.append(describe_problem(error, "file"))
                continue
            for k, task in enumerate(tasks):
                try:
                    images = _read_task(task, f"{files.where(name)}: [{k}]", options)
                except DataError as error:
                    problems.append(describe_problem(error, "image"))
                    continue
                for address, (data, made) in images.items():
                    found.setdefault(address, (data, []))[1].extend(made)
        if len(errors) == len(files.names):
            raise errors[0]
        entries = []
        self.annotations: dict[tuple[str, ...], tuple[StudioAnnotation, ...]] = {}
        for address, (data, made) in found.items():
            self.annotations[address_names(address)] = tuple(one for one in made if not one.cancelled)
            if (chosen := _choose_annotation(address, made, options.annotator, problems)) is not None:
                annotation, lost = chosen
                image_id = data.get("image_id")
                own = image_id if isinstance(image_id, str) and data.get(options.image) == address else None
                raw = (annotation, data, lost)
                entries.append(LabelSetEntry(address_names(address), own, _size(annotation.results), raw))
        labels = [label for entry in entries for result in entry.raw[0].results for label in result.labels]
        names = dict.fromkeys(label for label in labels if isinstance(label, str))
        problems += explain_spellings(names, files.uri)
        self.held = frozenset(kind for entry in entries for kind in self._find_types(entry.raw[0].results))
        super().__init__(files.uri, entries, sorted(list_usable_names(names)), problems)

    def _find_types(self, results: Sequence[StudioResult]) -> Iterator[str]:
        """Yield the annotation types that results are of, as far as they tell without their image."""
        regions = {result.id for result in results if result.type in SHAPES}
        for result in results:
            if result.type in SHAPES and result.labels:
                yield OBJECTS
            elif result.type == "choices" and result.texts():
                yield self.control_types.get(result.control, CATEGORY)
            elif result.type == "textarea" and result.texts():
                yield self.control_types.get(result.control, OCR_LINE if result.id in regions else "<CAPTION>")

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return what was drawn and written, in the order of the file.

        Which controls the person was shown is not in the file: one who only wrote texts may not have been asked for
        objects. Who submitted nothing says that there is nothing.
        """
        annotation, _, lost = entry.raw
        builder = ClaimBuilder(self.control_types, record)
        claims = builder.build(annotation.results)
        looked_at = list_looked_at(claims, (), ()) or None
        return ImageClaims(tuple(claims), (*annotation.problems, *builder.problems, *lost), looked_at)


def _read_tasks(files: Files, name: str) -> list[dict[str, Any]]:
    document = files.json(name)
    if isinstance(document, dict) and isinstance(document.get("task"), dict) and "result" in document:
        document = {
            **document["task"],
            "annotations": [{k: v for k, v in document.items() if k != "task"}],
        }  # a file of a target storage
    tasks = document if isinstance(document, list) else [document]
    if not all(isinstance(task, dict) for task in tasks):
        found = type(next(task for task in tasks if not isinstance(task, dict))).__name__
        raise UnusableLabelError(
            "not a file of Label Studio", f"{files.where(name)}: found {found}; a list of tasks is expected", "file"
        )
    return tasks


def _read_task(task: dict[str, Any], position: str, options: Any) -> Found:
    """Return the images of a task with their annotations."""
    flat = "data" not in task
    data = task if flat else task["data"]
    address = data.get(options.image) if isinstance(data, dict) else None
    pages: list[Any] = address if isinstance(address, list) else [address]
    if not pages or not all(isinstance(page, str) and page for page in pages):
        keys = ", ".join(map(repr, list(data)[:5])) if isinstance(data, dict) else type(data).__name__
        where = f"{position}.{'' if flat else 'data.'}{options.image}"
        raise UnusableLabelError(
            "a task without the address of an image",
            f"{where}: the image's address is expected; found {keys}; the setting image names its key",
            "image",
        )
    annotations = [_read_flat(task, position, options)] if flat else _read_annotations(task, position, options)
    result: Found = {page: (data, []) for page in pages}
    for annotation in annotations:
        for page, part in _split_by_image(annotation, data, options.image, pages).items():
            result.setdefault(page, (data, []))[1].append(part)
    return result


def _read_flat(task: dict[str, Any], position: str, options: Any) -> StudioAnnotation:
    is_own = isinstance(image_id := task.get("image_id"), str) and re.fullmatch(r"[0-9a-f]{64}", image_id)
    data = FLAT_KEYS | {options.image} | (OWN_KEYS if is_own else set())
    controls = {name: value for name, value in task.items() if name not in data}
    known = {**TEXTS, **options.kinds}
    results = read_flat_results(controls, position, known)
    if not results and not FLAT_KEYS.difference({"id"}).intersection(task):
        detail = f"{position}: found {', '.join(map(repr, list(task)[:5]))}, and nothing that a person has done"
        raise UnusableLabelError("a task that nobody has annotated", detail, "image")
    bare = [name for name, value in controls.items() if name not in known and _is_bare_text(value)]
    advice = "if people chose or wrote it, name the control in kinds, or export JSON instead of JSON-MIN"
    unclear = tuple(
        LabelProblem(
            "a field that may be a label", f"{position}.{name}: found {controls[name]!r:.60}; {advice}", "part"
        )
        for name in bare
    )
    if unclear and not results:
        raise UnusableLabelError(unclear[0].reason, unclear[0].detail, "image")
    by = _person_names(task.get("annotator"))
    return StudioAnnotation(position, by, _stamp(task), False, False, results, unclear)


def _is_bare_text(value: Any) -> bool:
    """Return whether a value of JSON-MIN may be a text or choice of a control, which has no type there."""
    values = value if isinstance(value, list) else [value]
    return any(isinstance(one, str) and one.strip() and not _is_address(one) for one in values)


def _read_annotations(task: dict[str, Any], position: str, options: Any) -> list[StudioAnnotation]:
    part = "predictions" if options.predictions else "annotations" if "annotations" in task else "completions"
    given = task.get(part) or []
    if not isinstance(given, list):
        detail = f"{position}.{part}: found {type(given).__name__}; a list is expected"
        raise UnusableLabelError("a task that is not understood", detail, "image")
    annotations = []
    for k, values in enumerate(given):
        where = f"{position}.{part}[{k}]"
        if not isinstance(values, dict) or not isinstance(values.get("result"), list):
            detail = f"{where}: found {values!r:.60}; an object with a list of results is expected"
            raise UnusableLabelError("a task that is not understood", detail, "image")
        results = tuple(StudioResult.of(result, f"{where}.result[{n}]") for n, result in enumerate(values["result"]))
        by, stamp = _person_names(values.get("completed_by")), _stamp(values)
        truth, cancelled = values.get("ground_truth") is True, values.get("was_cancelled") is True
        annotations.append(StudioAnnotation(where, by, stamp, truth, cancelled, results))
    return annotations


def _person_names(value: Any) -> tuple[str, ...]:
    """Return id and e-mail of a person."""
    values = [value.get("id"), value.get("email")] if isinstance(value, dict) else [value]
    return tuple(str(v) for v in values if v is not None)


def _stamp(values: dict[str, Any]) -> str:
    return str(values.get("updated_at") or values.get("created_at") or "")


# ---------------------------------------------------------------- which image a result is about


def _split_by_image(
    annotation: StudioAnnotation, data: Mapping[str, Any], key: str, pages: Sequence[str]
) -> dict[str, StudioAnnotation]:
    """Return an annotation's results by the address of the image that they are about.

    A result names the tag of its image in the labelling configuration, which the file does not have. Where a task has
    several, the tag is expected to have the name of its key in the data.
    """
    targets = {result.target for result in annotation.results if result.target}
    others = {k: v for k, v in data.items() if k != key and isinstance(v, str) and _is_address(v)}
    drawn = {result.target for result in annotation.results if result.type in SHAPES and result.target}
    own = {"", key} if key in targets or others else {"", *(drawn if len(drawn) == 1 else targets)}
    found: dict[str, list[StudioResult]] = {page: [] for page in pages}
    lost: list[StudioResult] = []
    for result in annotation.results:
        if result.target in own or (len(targets) <= 1 and not others):
            (found[pages[result.page]] if 0 <= result.page < len(pages) else lost).append(result)
        elif result.target in others:
            found.setdefault(others[result.target], []).append(result)
        else:
            lost.append(result)
    if lost and not found[pages[0]] and others:
        expected = f"the name of one of the images {', '.join(map(repr, (key, *others)))} is expected"
        detail = f"{lost[0].position}.to_name: found {lost[0].target!r:.60}; {expected}"
        raise UnusableLabelError("results of an unknown image", detail, "image")
    problems = tuple(
        LabelProblem("a result of another tag", f"{one.position}.to_name: {one.target!r:.60}", "label", one.count())
        for one in lost
        if one.count()
    )
    return {
        page: replace(
            annotation, results=tuple(results), problems=(*annotation.problems, *problems) if page == pages[0] else ()
        )
        for page, results in found.items()
    }


def _is_address(value: str) -> bool:
    return any(is_image(name) for name in address_names(value))


def _choose_annotation(
    address: str, annotations: Sequence[StudioAnnotation], annotator: str, problems: list[LabelProblem]
) -> tuple[StudioAnnotation, tuple[LabelProblem, ...]] | None:
    """Return the annotation of an image that counts, and what that leaves out.

    None if nobody annotated it, or everybody skipped it.
    """
    done = [annotation for annotation in annotations if not annotation.cancelled]
    if annotator:
        done = [annotation for annotation in done if annotator in annotation.by]
    if not done:
        why = (
            "nobody has annotated it"
            if not annotations
            else "it was skipped"
            if all(annotation.cancelled for annotation in annotations)
            else f"{annotator} has not annotated it"
        )
        problems.append(LabelProblem(why, f"{address}: {why}", "image"))
        return None
    # among equals, the last of the file
    best = max(range(len(done)), key=lambda k: (done[k].truth, done[k].stamp, k))
    others = [one for k, one in enumerate(done) if k != best]
    detail = f"{address}: {len(done)} annotations of it, of which {done[best].position} is read"
    count = sum(one.count() for one in others)
    if not others:
        return done[best], ()
    reason = "another annotation of the same image"
    return done[best], (LabelProblem(reason, detail, "label" if count else "part", count or len(others)),)


def _size(results: Sequence[StudioResult]) -> tuple[int, int] | None:
    """Return the size of the image that all results were drawn on; None where they differ or do not tell."""
    sizes = {result.size for result in results if result.size is not None}
    return sizes.pop() if len(sizes) == 1 else None
