"""How far the confidences of consensus labels are from the share of them that is right, on images with references.

Taken in the order of their confidence, each label of an image is right if a reference that no label before it has taken
has its name and overlaps it by an IoU of 0.5 or more; it takes the one that it overlaps most. Measured are the labels
that are kept and those that were dropped for their low confidence. Captions have degrees of quality, and are neither
right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.evaluate.references import References
from florence.geometry import Box, box_iou
from florence.metrics.calibration import CalibrationMeasure, measure_calibration
from florence.metrics.reading import normalize_text
from florence.records import ANNOTATION_TYPES, CAPTIONS, Annotation, fold_label, table_annotations

GROUNDING, OCR, QUESTIONS = "<CAPTION_TO_PHRASE_GROUNDING>", "<OCR_WITH_REGION>", "<VQA>"
MIN_IOU = 0.5
"""Overlap with a reference of its name from which a label is right."""
SURE = 0.9
"""Confidence from which labels are counted as sure."""
MEASURED_REASONS = ("", "low_confidence")
"""Drop reasons of the labels that are measured."""


@dataclass(frozen=True, slots=True)
class ConfidenceQuality:
    """How well the confidences of labels are calibrated.

    ``source``: of the images, empty for all. ``reference``: what right labels were told by, truth or human. ``sure``:
    labels of a confidence of `SURE` or more, and ``sure_right`` the share of them that is right, None without any.
    """

    task: str
    source: str
    reference: str
    measure: CalibrationMeasure
    sure: int
    sure_right: float | None


def measure_confidence(labels: pa.Table, references: References, sources: Mapping[str, str]) -> list[ConfidenceQuality]:
    """Measure the confidences of ``labels`` (a table of annotations), by annotation type: of all sources and of each.

    ``sources``: image id → source; images without one, and types without references or confidences, are left out.
    """
    rows = _read_rows(labels, {image for image, _ in references.rows if image in sources})
    result = []
    for task in ANNOTATION_TYPES:
        for reference in references.names if task not in CAPTIONS else ():
            right = references.select(task, reference)
            stated: dict[str, list[tuple[float, bool]]] = {}
            for image in sorted(right.keys() & sources.keys()):
                found = grade_labels(rows.get((image, task), []), right[image])
                stated.setdefault(sources[image], []).extend(found)
            groups = {"": [pair for pairs in stated.values() for pair in pairs]}
            if len(stated) > 1:
                groups |= dict(sorted(stated.items()))
            result += [
                _summarize(task, source, reference, np.asarray(pairs, float))
                for source, pairs in groups.items()
                if pairs
            ]
    return result


def _read_rows(labels: pa.Table, images: set[str]) -> dict[tuple[str, str], list[Annotation]]:
    """Return the labels that are measured, by image and type."""
    chosen = pc.and_(
        pc.is_in(labels["image_id"], pa.array(sorted(images), pa.string())),
        pc.and_(pc.is_in(labels["reason"], pa.array(MEASURED_REASONS)), pc.is_valid(labels["confidence"])),
    )
    rows: dict[tuple[str, str], list[Annotation]] = {}
    for row in table_annotations(labels.filter(chosen)):
        rows.setdefault((row.image_id, row.task), []).append(row)
    return rows


def _summarize(task: str, source: str, reference: str, pairs: np.ndarray) -> ConfidenceQuality:
    """``pairs``: (n, 2) confidences and whether each label is right; n ≥ 1."""
    measure = measure_calibration(pairs[:, 0], pairs[:, 1])
    assert measure is not None
    right = pairs[pairs[:, 0] >= SURE, 1]
    return ConfidenceQuality(task, source, reference, measure, len(right), float(right.mean()) if len(right) else None)


def grade_labels(labels: list[Annotation], references: tuple[Annotation, ...]) -> list[tuple[float, bool]]:
    """Return confidence and whether it is right of each label of one image and annotation type; see the module.

    Of a phrase with several regions each counts as one.
    """
    free = [(key, box) for row in references for key, box in _list_items(row)]
    result = []
    for row in sorted(labels, key=lambda row: -(row.confidence or 0.0)):
        for key, box in _list_items(row):
            near = [k for k, (other, _) in enumerate(free) if other == key]
            overlap = [_overlap(box, free[k][1]) for k in near]
            best = int(np.argmax(overlap)) if near else -1
            is_right = bool(near) and overlap[best] >= MIN_IOU
            if is_right:
                free.pop(near[best])
            result.append((row.confidence or 0.0, is_right))
    return result


def _list_items(row: Annotation) -> Iterator[tuple[str, Box | None]]:
    """Yield what a label names, in the form in which names are compared, and its box, for each of its regions."""
    for region in row.regions:
        if row.task == GROUNDING:
            key = fold_label(region.label)
        elif row.task == OCR:
            key = normalize_text(row.text)
        elif row.task == QUESTIONS:
            key = f"{fold_label(row.text)}\n{fold_label(region.label)}"
        else:
            key = fold_label(row.text)
        has_place = region.box is not None or region.quad is not None or bool(region.polygons)
        yield key, region.bounds if has_place else None


def _overlap(a: Box | None, b: Box | None) -> float:
    """Return the IoU of two boxes; 1 where neither has a place, as categories of a whole image."""
    if a is None or b is None:
        return float(a is b)
    return float(box_iou(np.asarray([a], float), np.asarray([b], float))[0, 0])
