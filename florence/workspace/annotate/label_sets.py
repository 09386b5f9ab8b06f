"""What the label sets of annotators have about our images: found before any annotator works, and kept in the store.

A report follows from the annotator's version, which covers the label files, and from the images, so it is read from
``label_sets/<name@version>.json`` until one of them changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from florence.config import Settings
from florence.errors import DataError, FlorenceError, StoreError
from florence.label_report import LabelSetReport, describe_label_set, explain_mismatch
from florence.records import ImageRecord, digest, table_images
from florence.workspace.annotate.annotators import (
    AnnotatorVersion,
    copies_of,
    find_unusable_annotators,
    is_required,
    make_annotator,
)
from florence.workspace.base import Workspace
from florence.workspace.layout import read_images

FORM = 1
"""To be raised with each change of what a report counts; reports are then made again."""


def report_label_sets(
    workspace: Workspace,
    annotators: Sequence[AnnotatorVersion],
    more: Iterable[ImageRecord] = (),
    *,
    write: bool = True,
) -> tuple[LabelSetReport, ...]:
    """Return what the label set of each annotator that has one knows of the images in the store.

    ``more``: images that are not in the store yet. Unless ``write`` is false, reports are kept in the store. Raises
    FlorenceError where the label set of a required annotator cannot be read.
    """
    settings = workspace.settings
    if not (with_labels := find_label_sets(settings, annotators)):
        return ()
    images = [*(record for record, _ in table_images(read_images(workspace.store))), *more]
    result = []
    for annotator in with_labels:
        looks_at = settings.annotators[annotator.name].looks_at
        assigned = [
            image
            for image in images
            if looks_at(image.source) or image.image_id in copies_of(settings, annotator, image.source)
        ]
        try:
            result.append(_report_images(workspace, annotator, assigned, write))
        except FlorenceError as error:
            if is_required(settings, annotator.name):
                raise
            result.append(LabelSetReport(annotator.name, images=len(assigned), error=str(error)))
    return tuple(result)


def find_label_sets(settings: Settings, annotators: Iterable[AnnotatorVersion]) -> list[AnnotatorVersion]:
    """Return the annotators that claim what a label set says."""
    named = [one for one in annotators if one.name in settings.annotators]
    return [one for one in named if make_annotator(settings, one.name)[0].has_label_set]


def _report_images(
    workspace: Workspace, annotator: AnnotatorVersion, images: Sequence[ImageRecord], write: bool
) -> LabelSetReport:
    name = f"label_sets/{annotator.key}.json"
    mark = digest([FORM, [[image.image_id, image.source, image.name] for image in images]])
    if (known := _read_report(workspace, name, mark)) is not None:
        return known
    instance, lock = make_annotator(workspace.settings, annotator.name)
    with lock:
        report: LabelSetReport = instance.report_labels(images)
    if write:
        workspace.store.write_json(name, {"images": mark, "report": report.to_json()})
    return report


def _read_report(workspace: Workspace, name: str, mark: str) -> LabelSetReport | None:
    """Return the report that the store keeps of these images; None where there is none."""
    try:
        values = workspace.store.read_json(name) if workspace.store.exists(name) else None
    except StoreError:
        return None
    if not isinstance(values, Mapping) or values.get("images") != mark:
        return None
    return LabelSetReport.from_json(values.get("report", {}))


# ---------------------------------------------------------------- what follows


def describe_label_sets(settings: Settings, reports: Sequence[LabelSetReport]) -> list[str]:
    """Return what people are told at each run: a line for each label set, with lines of examples beneath it.

    Annotators that the run goes on without come last.
    """
    lines = [line for report in reports for line in describe_label_set(report, _least_share(settings, report))]
    return lines + [
        f"{name}: not used, as it is not required: {error}"
        for name, error in find_unusable_annotators(settings).items()
    ]


def refuse_unmatched_label_sets(settings: Settings, reports: Sequence[LabelSetReport]) -> None:
    """Raise DataError where a required annotator knows none of the images that it annotates, with the remedy."""
    faults = [
        f"{report.annotator}: {explain_mismatch(report)}"
        for report in reports
        if report.images and not report.known and not report.error and is_required(settings, report.annotator)
    ]
    if faults:
        listed = "\n  ".join(faults)
        raise DataError(
            f"the labels of {len(faults)} annotators belong to none of the images:\n  {listed}\n"
            "Nothing has been annotated or trained. `required: false` lets a run go on without such an annotator."
        )


def _least_share(settings: Settings, report: LabelSetReport) -> float:
    return settings.annotators[report.annotator].min_matched
