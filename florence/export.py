"""The kept labels of a snapshot, written as a data set in another format (`florence.formats`).

In other formats an image without labels is one in which nothing is, and models learn that. Images that nobody has
looked at are therefore left out, and so are those that lost their labels because they nearly equal another image.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from florence.coverage import find_looked_at
from florence.engine.filters.duplicates import REASON
from florence.errors import DataError, ImageError, SettingsError, StoreError
from florence.formats import (
    FORMATS,
    OBJECTS,
    ExportPlan,
    Format,
    LabelledImage,
    list_writable_formats,
)
from florence.formats._file_names import FileNames
from florence.images import CommonForm, find_common_form, write_common_form
from florence.progress import Progress, show_nothing
from florence.records import (
    ANNOTATION_TYPES,
    RECORD_COLUMNS,
    SPLITS,
    Annotation,
    ImageRecord,
    normalize_label,
    table_annotations,
    table_images,
)
from florence.rounds import find_labels, list_rounds
from florence.store import EXPORT_NOTE, Store

NOT_LOOKED_AT = "no annotator has looked at them"
NEAR_DUPLICATES = "they nearly equal other images"


@dataclass(frozen=True, slots=True)
class ExportChoice:
    """What to export.

    ``round``: of the labels, None for the last. ``split``: "all" for every one. ``tasks``: annotation types, none for
    all that the format holds. ``with_images``: whether to write the image files too. ``boxes_only``: whether objects
    are written without their polygons. ``flat``: whether image files are in one folder for each set, without
    subfolders.
    """

    format: str
    round: int | None = None
    split: str = "all"
    tasks: tuple[str, ...] = ()
    min_confidence: float = 0.0
    with_images: bool = True
    boxes_only: bool = False
    flat: bool = False


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written, or would be.

    ``labels``: annotation type → number. ``left_out``: why labels are not written → number. ``lost``: what the format
    cannot hold of labels that are → number. ``images_left_out``: why images are not written → number.
    ``not_looked_at``: annotation type → images that are written, though not as images without labels of that type:
    nobody has looked for those. ``renamed``: images that could not keep their file names. ``rotated``: images that were
    stored on their side. ``converted``: images that other programs would not open.
    """

    round: int
    images: int
    labels: Mapping[str, int]
    left_out: Mapping[str, int]
    lost: Mapping[str, int]
    images_left_out: Mapping[str, int]
    not_looked_at: Mapping[str, int]
    renamed: int
    rotated: int
    converted: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of the export's note."""
        names = ("round", "images", "labels", "left_out", "lost", "images_left_out", "not_looked_at", "converted")
        return {name: dict(value) if isinstance(value := getattr(self, name), Mapping) else value for name in names}


def export(
    data: Store,
    out: Path,
    choice: ExportChoice,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = show_nothing,
) -> ExportResult:
    """Write the labels of the snapshot ``data`` to the folder ``out``, whole or not at all.

    ``dry_run``: write nothing and return what would be written. ``force``: replace an earlier export in ``out``. Raises
    SettingsError for a choice that is not allowed, StoreError where ``out`` is taken or cannot be written, DataError
    where the snapshot has no such labels.
    """
    form = _get_format(choice.format)
    number = choose_export_round(data, choice.round)
    source = _Labels(form, data, choice, number, _select_types(choice))
    survey = _survey_labels(source, progress)
    if dry_run:
        for _ in _list_items(source, survey, None, progress):
            pass
        return survey.build_result(number)
    snapshot = data.read_object("snapshot.json") if data.exists("snapshot.json") else {}
    with replace_folder(out, force) as folder:
        form.write(folder, _list_items(source, survey, folder, progress), survey.plan)
        found = survey.build_result(number)
        note = {
            **found.to_json(),
            "format": choice.format,
            "snapshot": snapshot.get("id"),
            "split": choice.split,
            "min_confidence": choice.min_confidence,
            "boxes_only": choice.boxes_only,
        }
        (folder / EXPORT_NOTE).write_text(
            json.dumps(note, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
        )
    return found


def choose_export_round(data: Store, number: int | None) -> int:
    """Return ``number``, or the last round that has labels. Raises DataError where it has none."""
    rounds = list_rounds(data)
    if not rounds:
        raise DataError(f"{data.uri} has no labels; `florence loop` or `florence publish` makes some")
    if number is not None and number not in rounds:
        raise DataError(f"{data.uri} has no labels of round {number}; it has those of {', '.join(map(str, rounds))}")
    return rounds[-1] if number is None else number


@contextmanager
def replace_folder(out: Path, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``out`` that takes its place when the block ends without an error.

    ``force`` replaces a folder that an export has written, and no other. Raises StoreError where ``out`` is taken.
    """
    out = out.absolute()
    if out.is_file() or out.is_dir() and any(out.iterdir()):
        if not force or not (out / EXPORT_NOTE).is_file():
            how = (
                "--force replaces it"
                if (out / EXPORT_NOTE).is_file()
                else "choose another folder: it is no export, so it is not replaced"
            )
            raise StoreError(f"{out} is there already; {how}")
    part, before = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.before")
    try:
        for folder in (part, before):
            shutil.rmtree(folder, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if out.exists():
            out.rename(before)
        part.rename(out)
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or out}: {error.strerror or error}") from None
    finally:
        for folder in (part, before):
            shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- the choice


def _get_format(name: str) -> Format:
    if name not in list_writable_formats():
        raise SettingsError(
            f"--format {name}: {'it is read only' if name in FORMATS.names() else 'there is no such format'}; "
            f"allowed: {', '.join(list_writable_formats())}"
        )
    return FORMATS.get(name)()


def _select_types(choice: ExportChoice) -> tuple[str, ...]:
    if choice.split not in (*SPLITS, "all"):
        raise SettingsError(f"--split {choice.split}: one of {', '.join(SPLITS)} or all is expected")
    if bad := sorted(set(choice.tasks) - set(ANNOTATION_TYPES)):
        raise SettingsError(
            f"--tasks {bad[0]}: there is no such annotation type; allowed: {', '.join(ANNOTATION_TYPES)}"
        )
    return tuple(task for task in ANNOTATION_TYPES if task in (choice.tasks or ANNOTATION_TYPES))


# ---------------------------------------------------------------- the labels


class _Labels:
    """The kept labels of the choice, and which images were looked at for them."""

    def __init__(self, form: Format, data: Store, choice: ExportChoice, number: int, types: tuple[str, ...]) -> None:
        self.form, self.choice = form, choice
        self.types = tuple(task for task in types if task in form.annotation_types)
        self.looked_at = find_looked_at(data, number, find_labels(data, number))
        self._data = data
        self._near_duplicates = _find_near_duplicates(data, number)
        labels = data.read_table(find_labels(data, number), filters=[("kept", "=", True)])
        self._table = labels.filter(pc.is_in(labels["task"], pa.array(types)))
        self._rows: dict[str, list[int]] = {}
        for k, image_id in enumerate(self._table["image_id"].to_pylist()):
            self._rows.setdefault(image_id, []).append(k)

    def list_names(self) -> tuple[str, ...]:
        """Return the names of all objects of the round that the format can hold, sorted: every part numbers them so."""
        found = pc.unique(self._table.filter(pc.equal(self._table["task"], OBJECTS))["text"]).to_pylist()
        names = sorted(set(map(normalize_label, found))) if OBJECTS in self.types else []
        return tuple(name for name in names if not self.form.explain_bad_name(name))

    def read_images(
        self, progress: Progress = show_nothing, *, with_bytes: bool = False
    ) -> Iterator[tuple[ImageRecord, bytes, list[Annotation]]]:
        """Yield each image of the split with its bytes (``with_bytes``, else none) and labels, shard by shard."""
        names = self._data.names("images", ".parquet")
        filters = None if self.choice.split == "all" else [("split", "=", self.choice.split)]
        for done, name in enumerate(names, start=1):
            found = list(table_images(self._data.read_table(name, None if with_bytes else RECORD_COLUMNS, filters)))
            positions = [k for record, _ in found for k in self._rows.get(record.image_id, ())]
            by_image: dict[str, list[Annotation]] = {}
            for row in table_annotations(self._table.take(pa.array(positions, pa.int64()))):
                by_image.setdefault(row.image_id, []).append(row)
            for record, content in found:
                yield record, content or b"", by_image.get(record.image_id, [])
            progress("export", done, len(names))

    def explain_image(self, record: ImageRecord) -> str:
        """Return why an image is not written, as a phrase that can be counted; empty if it is."""
        if not self.looked_at.get(record.image_id, frozenset()).intersection(self.types):
            return NOT_LOOKED_AT
        has_labels = record.image_id in self._rows
        return NEAR_DUPLICATES if record.image_id in self._near_duplicates and not has_labels else ""

    def explain_label(self, row: Annotation) -> str:
        """Return why a label is not written, as a phrase that can be counted; empty if it is."""
        least = self.choice.min_confidence
        if least > 0 and (row.confidence is None or row.confidence < least):
            return f"{row.task}: confidence below {least:g}"
        return self.form.explain_refusal(_clean_label(row))

    def write_label(self, row: Annotation) -> Annotation:
        """Return a label as it is written."""
        row = _clean_label(row)
        if self.choice.boxes_only and row.task == OBJECTS and row.regions[0].polygons:
            row = replace(row, regions=tuple(replace(part, box=part.bounds, polygons=()) for part in row.regions))
        return row

    def explain_loss(self, row: Annotation, plan: ExportPlan) -> str:
        """Return what a written label loses, as a phrase that can be counted; empty if nothing."""
        if _clean_label(row) != row:
            return f"{row.task}: white space of the name"
        if self.choice.boxes_only and row.task == OBJECTS and row.regions[0].polygons:
            return f"{row.task}: the polygons, as only boxes are wanted"
        return self.form.explain_loss(row, plan)


def _find_near_duplicates(data: Store, round: int) -> frozenset[str]:
    """Return the images whose labels were dropped because they nearly equal another image: they are not empty."""
    labels = data.read_table(find_labels(data, round), ["image_id"], [("reason", "=", REASON)])
    return frozenset(labels["image_id"].to_pylist())


def _clean_label(row: Annotation) -> Annotation:
    """Return a label; the name of an object in the form that is kept, which older rounds may lack."""
    if row.task != OBJECTS or (name := normalize_label(row.text)) == row.text:
        return row
    return replace(row, text=name, regions=tuple(replace(region, label=name) for region in row.regions))


@dataclass
class _Survey:
    """Names and numbers that formats need before anything is written, and numbers that are known afterwards."""

    plan: ExportPlan
    names: FileNames
    images: int
    images_left_out: Counter[str]
    labels: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    not_looked_at: Counter[str] = field(default_factory=Counter)
    rotated: int = 0
    converted: int = 0

    def build_result(self, number: int) -> ExportResult:
        return ExportResult(
            number,
            self.images,
            labels=dict(sorted(self.labels.items())),
            left_out=dict(sorted(self.left_out.items())),
            lost=dict(sorted(self.lost.items())),
            images_left_out=dict(sorted(self.images_left_out.items())),
            not_looked_at=dict(sorted(self.not_looked_at.items())),
            renamed=self.names.renamed,
            rotated=self.rotated,
            converted=self.converted,
        )


def _survey_labels(source: _Labels, progress: Progress) -> _Survey:
    """Read all labels once: formats need names and numbers first."""
    sources: set[str] = set()
    splits: set[str] = set()
    left_out: Counter[str] = Counter()
    images, has_polygons = 0, False
    for record, _, rows in source.read_images(progress):
        if reason := source.explain_image(record):
            left_out[reason] += 1
            continue
        images += 1
        sources.add(record.source)
        splits.add(record.split)
        has_polygons = has_polygons or any(
            region.polygons
            for row in rows
            if row.task == OBJECTS and not source.explain_label(row)
            for region in source.write_label(row).regions
        )
    choice = source.choice
    plan = ExportPlan(
        source.list_names(),
        source.types,
        tuple(split for split in SPLITS if split in splits),
        has_polygons,
        choice.with_images,
    )
    names = FileNames(by_stem=source.form.by_stem, with_source=len(sources) > 1, flat=choice.flat)
    survey = _Survey(plan, names, images, left_out)
    for record, _, rows in source.read_images():
        if not source.explain_image(record):
            _count_labels(source, survey, record, rows)
    return survey


def _count_labels(source: _Labels, survey: _Survey, record: ImageRecord, rows: list[Annotation]) -> None:
    looked_at = source.looked_at[record.image_id]
    survey.not_looked_at.update(task for task in source.types if task not in looked_at)
    for row in rows:
        if reason := source.explain_label(row):
            survey.left_out[reason] += 1
            continue
        survey.labels[row.task] += 1
        if loss := source.explain_loss(row, survey.plan):
            survey.lost[loss] += 1


def _list_items(source: _Labels, survey: _Survey, folder: Path | None, progress: Progress) -> Iterator[LabelledImage]:
    """Yield each image with its labels and file name; write its file below ``folder``, none for a dry run."""
    for record, content, rows in source.read_images(progress, with_bytes=True):
        if source.explain_image(record):
            continue
        form = find_export_form(content, record)
        written = tuple(source.write_label(row) for row in rows if not source.explain_label(row))
        path = survey.names.assign(record, form.endings)
        item = LabelledImage(record, path, written, source.looked_at[record.image_id])
        if source.choice.with_images:
            survey.rotated += form.rotated
            survey.converted += form.converted
            if folder is not None:
                write_image(folder / source.form.image_path(item), content, record)
        yield item


def find_export_form(content: bytes, record: ImageRecord) -> CommonForm:
    """Return how an image's file is written; as it is where it cannot be read."""
    try:
        return find_common_form(content, record.name)
    except ImageError:
        return CommonForm((), False, False)


def write_image(path: Path, content: bytes, record: ImageRecord) -> None:
    """Write an image's file as every program reads it, upright, so that its regions are where they should be."""
    try:
        written = write_common_form(content, record.name)
    except ImageError:
        written = content  # as it is: its size was read when it was collected
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(written)
