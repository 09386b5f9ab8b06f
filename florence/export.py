"""The kept labels of a snapshot, written as a data set in another format (`florence.formats`)."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from florence.errors import DataError, ImageError, SettingsError, StoreError
from florence.formats import (
    EXPORT_NOTE,
    FORMATS,
    OBJECTS,
    ExportPlan,
    Format,
    LabelledImage,
    assign_paths,
    list_writable_formats,
)
from florence.images import make_upright
from florence.progress import Progress, show_nothing
from florence.records import (
    ANNOTATION_TYPES,
    RECORD_COLUMNS,
    SPLITS,
    Annotation,
    ImageRecord,
    table_annotations,
    table_images,
)
from florence.store import Store
from florence.workspace.layout import list_rounds


@dataclass(frozen=True, slots=True)
class ExportChoice:
    """What to export.

    ``round``: of the labels, None for the last. ``split``: "all" for every one. ``tasks``: annotation types, none for
    all that the format holds. ``with_images``: whether to write the image files too.
    """

    format: str
    round: int | None = None
    split: str = "all"
    tasks: tuple[str, ...] = ()
    min_confidence: float = 0.0
    with_images: bool = True


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written, or would be.

    ``labels``: annotation type → number. ``left_out``: why labels are not written → number. ``lost``: what the format
    cannot hold of labels that are → number. ``renamed``: images that could not keep their file names. ``rotated``:
    images that were stored on their side.
    """

    round: int
    images: int
    labels: Mapping[str, int]
    left_out: Mapping[str, int]
    lost: Mapping[str, int]
    renamed: int
    rotated: int


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
    types = _select_types(choice)
    labels = _read_labels(data, number, types)
    survey = _survey_labels(form, data, labels, choice, types, progress)
    if dry_run:
        return survey.build_result(number, rotated=0)
    snapshot = data.read_json("snapshot.json") if data.exists("snapshot.json") else {}
    with replace_folder(out, force) as folder:
        rotated: list[str] = []
        items = _write_images(form, folder, data, labels, choice, survey, rotated, progress)
        form.write(folder, items, survey.plan)
        found = survey.build_result(number, len(rotated))
        note = {
            "format": choice.format,
            "snapshot": snapshot.get("id"),
            "round": number,
            "split": choice.split,
            "min_confidence": choice.min_confidence,
            "images": found.images,
            "labels": dict(found.labels),
            "left_out": dict(found.left_out),
            "lost": dict(found.lost),
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


def _read_labels(data: Store, number: int, types: tuple[str, ...]) -> pa.Table:
    labels = data.read_table(f"labels/round={number}/labels.parquet", filters=[("kept", "=", True)])
    return labels.filter(pc.is_in(labels["task"], pa.array(types)))


@dataclass(frozen=True)
class _Survey:
    """Names and numbers that formats need before anything is written. ``rows``: image id → rows of the labels."""

    plan: ExportPlan
    paths: Mapping[str, str]
    renamed: int
    rows: Mapping[str, list[int]]
    labels: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def build_result(self, number: int, rotated: int) -> ExportResult:
        labels, left_out, lost = (dict(sorted(counter.items())) for counter in (self.labels, self.left_out, self.lost))
        return ExportResult(number, len(self.paths), labels, left_out, lost, self.renamed, rotated)


def _survey_labels(
    form: Format, data: Store, labels: pa.Table, choice: ExportChoice, types: tuple[str, ...], progress: Progress
) -> _Survey:
    """Read everything once: formats need names and numbers first."""
    rows: dict[str, list[int]] = {}
    for k, image_id in enumerate(labels["image_id"].to_pylist()):
        rows.setdefault(image_id, []).append(k)
    records: list[ImageRecord] = []
    names: set[str] = set()
    splits: set[str] = set()
    has_polygons = False
    for record, _, found in _read_images(data, labels, rows, choice, progress):
        records.append(record)
        splits.add(record.split)
        for row in found:
            if row.task == OBJECTS and not _explain_refusal(form, row, choice):
                names.add(row.text)
                has_polygons = has_polygons or any(region.polygons for region in row.regions)
    paths, renamed = assign_paths(records, by_stem=form.by_stem)
    held = tuple(task for task in types if task in form.annotation_types)
    plan = ExportPlan(
        tuple(sorted(names)),
        held,
        tuple(split for split in SPLITS if split in splits),
        has_polygons,
        choice.with_images,
    )
    survey = _Survey(plan, paths, renamed, rows)
    for _, _, found in _read_images(data, labels, rows, choice):
        for row in found:
            if reason := _explain_refusal(form, row, choice):
                survey.left_out[reason] += 1
                continue
            survey.labels[row.task] += 1
            if loss := form.explain_loss(row, plan):
                survey.lost[loss] += 1
    return survey


def _explain_refusal(form: Format, row: Annotation, choice: ExportChoice) -> str:
    if choice.min_confidence > 0 and (row.confidence is None or row.confidence < choice.min_confidence):
        return f"{row.task}: confidence below {choice.min_confidence:g}"
    return form.explain_refusal(row)


def _read_images(
    data: Store,
    labels: pa.Table,
    rows: Mapping[str, list[int]],
    choice: ExportChoice,
    progress: Progress = show_nothing,
    *,
    with_images: bool = False,
) -> Iterator[tuple[ImageRecord, bytes | None, list[Annotation]]]:
    """Yield each image of the split with its bytes (``with_images``, else None) and labels, shard by shard."""
    names = data.names("images", ".parquet")
    for done, name in enumerate(names, start=1):
        filters = None if choice.split == "all" else [("split", "=", choice.split)]
        found = list(table_images(data.read_table(name, None if with_images else RECORD_COLUMNS, filters)))
        by_image: dict[str, list[Annotation]] = {}
        for row in table_annotations(
            labels.take(pa.array([k for record, _ in found for k in rows.get(record.image_id, ())], pa.int64()))
        ):
            by_image.setdefault(row.image_id, []).append(row)
        for record, content in found:
            yield record, content, by_image.get(record.image_id, [])
        progress("export", done, len(names))


def _write_images(
    form: Format,
    folder: Path,
    data: Store,
    labels: pa.Table,
    choice: ExportChoice,
    survey: _Survey,
    rotated: list[str],
    progress: Progress,
) -> Iterator[LabelledImage]:
    """Yield each image with its labels; write its file and note in ``rotated`` which were stored on their side."""
    for record, content, rows in _read_images(
        data, labels, survey.rows, choice, progress, with_images=choice.with_images
    ):
        item = LabelledImage(
            record, survey.paths[record.image_id], tuple(row for row in rows if not _explain_refusal(form, row, choice))
        )
        if content is not None:
            if write_image(folder / form.image_path(item), content, record):
                rotated.append(record.image_id)
        yield item


def write_image(path: Path, content: bytes, record: ImageRecord) -> bool:
    """Write an image's file upright, so that every program finds its regions; return whether it was rotated."""
    try:
        upright = make_upright(content, record.name)
    except ImageError:
        upright = content  # as it is: its size was read when it was collected
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(upright)
    return upright is not content
