"""Label Studio: its JSON export, the shorter JSON-MIN, and tasks with predictions, which it imports.

Coordinates are in percent of the image's sides. A rectangle may be rotated about its top left corner, clockwise by
``rotation`` degrees; it is then read as a polygon.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from florence.config import Section
from florence.errors import DataError
from florence.formats import (
    EXPORT_NOTE,
    FORMATS,
    OBJECTS,
    ExportPlan,
    Format,
    ImageClaims,
    LabelledImage,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
    describe_problem,
)
from florence.formats._checks import explain_bad_box
from florence.formats._files import Files
from florence.formats._studio import (
    REGION_TEXTS,
    TEXTS,
    StudioResult,
    address_names,
    build_claims,
    build_results,
    read_flat_results,
    write_project,
)
from florence.records import Annotation, ImageRecord

FLAT_KEYS = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"})
"""Keys of JSON-MIN that are neither data of the task nor results of a control."""


@FORMATS.register("labelstudio")
class LabelStudioFormat(Format):
    """``tasks.json`` with our labels as predictions, ``config.xml`` for the project, images in ``images/``."""

    annotation_types = (OBJECTS, *dict.fromkeys(TEXTS.values()))

    class Options(Section):
        """Settings of reading."""

        annotator: str = Field(
            "",
            description="id or e-mail of the annotator whose work is read; else the ground truth, else the newest",
        )
        predictions: bool = Field(
            False, description="whether the last prediction of a task is read instead of people's annotations"
        )
        image: str = Field("image", description="key of the image's address in the data of a task")
        kinds: dict[str, str] = Field(
            {}, description="name of a control → annotation type of its texts or choices, beyond the controls we write"
        )

        @field_validator("kinds")
        @classmethod
        def _known(cls, values: dict[str, str]) -> dict[str, str]:
            allowed = tuple(dict.fromkeys(TEXTS.values()))
            if bad := sorted(set(values.values()) - set(allowed)):
                raise ValueError(f"{bad[0]} is not made of texts; known: {', '.join(allowed)}")
            return values

    def files(self, uri: str) -> Files:
        """Return one file, or every .json of a folder."""
        return Files(
            uri, lambda name: name.endswith(".json") and not name.endswith(EXPORT_NOTE), "file that ends in .json"
        )

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _StudioSet(files, self.options)

    def explain_refusal(self, row: Annotation) -> str:
        """See `Format.explain_refusal`."""
        if reason := super().explain_refusal(row):
            return reason
        return explain_bad_box(row) if row.task in (OBJECTS, *REGION_TEXTS) else ""

    def explain_loss(self, row: Annotation, plan: ExportPlan) -> str:
        """See `Format.explain_loss`."""
        return (
            f"{row.task}: the box, which becomes that of the polygons"
            if row.task == OBJECTS and row.regions[0].polygons
            else ""
        )

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`."""
        self.write_tasks(folder, ((item, {"florence": item.rows}) for item in items), plan, {})

    def write_tasks(
        self,
        folder: Path,
        tasks: Iterable[tuple[LabelledImage, Mapping[str, Sequence[Annotation]]]],
        plan: ExportPlan,
        data: Mapping[str, Any],
    ) -> None:
        """Write a project whose tasks have predictions, each under a name.

        ``data``: further data of each task, which come back with its annotations.
        """
        named = (
            (item, {name: build_results(rows, item.record) for name, rows in predictions.items()})
            for item, predictions in tasks
        )
        write_project(folder, named, plan, data)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class StudioAnnotation:
    """What one person or model made of a task. ``by``: names of the person; ``stamp``: its time, as the file has it."""

    position: str
    by: tuple[str, ...]
    stamp: str
    truth: bool
    cancelled: bool
    results: tuple[StudioResult, ...]


class _StudioSet(LabelSet):
    def __init__(self, files: Files, options: Any) -> None:
        self.control_types = {**TEXTS, **options.kinds}
        problems: list[LabelProblem] = []
        tasks: dict[str, tuple[dict[str, Any], list[StudioAnnotation]]] = {}
        for name in files.names:
            for k, task in enumerate(_read_tasks(files, name)):
                position = f"{files.where(name)}: [{k}]"
                try:
                    address, data, annotations = _read_task(task, position, options)
                except DataError as error:
                    problems.append(describe_problem(error))
                    continue
                tasks.setdefault(address, (data, []))[1].extend(annotations)
        entries = []
        for address, (data, annotations) in tasks.items():
            if (annotation := _choose_annotation(address, annotations, options.annotator, problems)) is not None:
                image_id = data.get("image_id")
                entries.append(
                    LabelSetEntry(
                        address_names(address),
                        image_id if isinstance(image_id, str) else None,
                        _size(annotation.results),
                        (annotation, data),
                    )
                )
        names = {label for entry in entries for result in entry.raw[0].results for label in result.labels}
        super().__init__(files.uri, entries, sorted(names), problems)

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return what was drawn and written, in the order of the file."""
        claims, problems = build_claims(entry.raw[0].results, self.control_types, record)
        return ImageClaims(tuple(claims), tuple(problems))


def _read_tasks(files: Files, name: str) -> list[Any]:
    try:
        document = json.loads(files.text(name))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{files.where(name)} is not JSON: {error}") from None
    if isinstance(document, dict) and isinstance(document.get("task"), dict) and "result" in document:
        document = {
            **document["task"],
            "annotations": [{k: v for k, v in document.items() if k != "task"}],
        }  # a file of a target storage
    tasks = document if isinstance(document, list) else [document]
    if not all(isinstance(task, dict) for task in tasks):
        raise DataError(
            f"{files.where(name)}: found {type(next(t for t in tasks if not isinstance(t, dict))).__name__}; "
            "a list of tasks is expected"
        )
    return tasks


def _read_task(task: dict[str, Any], position: str, options: Any) -> tuple[str, dict[str, Any], list[StudioAnnotation]]:
    """Return the image's address, the data of the task, and its annotations."""
    flat = "data" not in task
    data = task if flat else task["data"]
    address = data.get(options.image) if isinstance(data, dict) else None
    if not isinstance(address, str) or not address:
        keys = ", ".join(map(repr, list(data)[:5])) if isinstance(data, dict) else type(data).__name__
        raise DataError(
            f"{position}.{'' if flat else 'data.'}{options.image}: the image's address is expected; found {keys}"
        )
    if flat:
        controls = {name: value for name, value in task.items() if name not in FLAT_KEYS and name != options.image}
        return (
            address,
            task,
            [
                StudioAnnotation(
                    position,
                    _person_names(task.get("annotator")),
                    _stamp(task),
                    False,
                    False,
                    read_flat_results(controls, position, {**TEXTS, **options.kinds}),
                )
            ],
        )
    part = "predictions" if options.predictions else "annotations" if "annotations" in task else "completions"
    given = task.get(part) or []
    if not isinstance(given, list):
        raise DataError(f"{position}.{part}: found {type(given).__name__}; a list is expected")
    annotations = []
    for k, values in enumerate(given):
        where = f"{position}.{part}[{k}]"
        if not isinstance(values, dict) or not isinstance(values.get("result"), list):
            raise DataError(f"{where}: found {values!r:.60}; an object with a list of results is expected")
        results = tuple(StudioResult.of(result, f"{where}.result[{n}]") for n, result in enumerate(values["result"]))
        annotations.append(
            StudioAnnotation(
                where,
                _person_names(values.get("completed_by")),
                _stamp(values),
                values.get("ground_truth") is True,
                values.get("was_cancelled") is True,
                results,
            )
        )
    return address, data, annotations


def _person_names(value: Any) -> tuple[str, ...]:
    """Return id and e-mail of a person."""
    values = [value.get("id"), value.get("email")] if isinstance(value, dict) else [value]
    return tuple(str(v) for v in values if v is not None)


def _stamp(values: dict[str, Any]) -> str:
    return str(values.get("updated_at") or values.get("created_at") or "")


def _choose_annotation(
    address: str, annotations: Sequence[StudioAnnotation], annotator: str, problems: list[LabelProblem]
) -> StudioAnnotation | None:
    """Return the annotation of an image that counts; None if nobody annotated it, or everybody skipped it."""
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
    if len(done) > 1:
        problems.append(
            LabelProblem(
                "another annotation of the same image",
                f"{address}: {len(done)} annotations of it, of which {done[best].position} is read",
                "part",
                len(done) - 1,
            )
        )
    return done[best]


def _size(results: Sequence[StudioResult]) -> tuple[int, int] | None:
    return next((result.size for result in results if result.size is not None), None)
