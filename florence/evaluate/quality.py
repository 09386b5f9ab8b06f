"""Label quality: the engine's labels, or one annotator's claims, against the references of their images."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.config import EvaluateSettings
from florence.evaluate.references import References
from florence.evaluate.scores import round_figure
from florence.metrics import match_regions
from florence.metrics.answer import vqa_accuracy
from florence.metrics.bootstrap import Interval, bootstrap_difference, bootstrap_mean
from florence.metrics.caption import cider_d
from florence.metrics.detection import f1_score
from florence.metrics.reading import normalize_text
from florence.metrics.segmentation import region_mask_iou
from florence.records import CAPTIONS, Annotation, Region, fold_label, table_annotations

Rows = Sequence[Annotation]
ImageMeasure = Callable[[Rows, Rows], float]
"""(labels of one annotation type, references) of an image → a value; NaN where it cannot be scored."""


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """Labels of one annotation type under one measure. ``per_image``: values; NaN where neither side has any."""

    task: str
    metric: str
    reference: str
    per_image: Mapping[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        """Return task, metric and reference."""
        return self.task, self.metric, self.reference

    def interval(self, settings: EvaluateSettings) -> Interval | None:
        """Return the mean over the images that have a value, with its 95% interval; None where none has."""
        values = [value for _, value in sorted(self.per_image.items()) if not math.isnan(value)]
        return bootstrap_mean(values, resamples=settings.bootstrap, seed=settings.seed)


def measure_quality(
    labels: pa.Table, references: References, images: Collection[str], *, masks: bool = True
) -> list[LabelQuality]:
    """Measure the kept ``labels`` (a table of annotations) of ``images`` (ids) against their references.

    An annotation type is measured where the labels hold any row of it, kept or not, and it has references. An image
    without labels of a type has the worst value. Measures: f1 (same text, IoU of 0.5 or more), f1_boxes (boxes alone),
    mask_iou (of the masks of an f1 pair, 0 without a pair), cider (document frequencies are the references'), spotted
    (f1 of exactly read strings), accuracy (of answers and categories). ``masks``: whether to measure mask_iou, which
    takes most of the time; it is left out too where one side has no mask at all.
    """
    images = frozenset(images)
    rows: dict[str, dict[str, list[Annotation]]] = {}
    for row in _of_images(labels, images):
        images_of = rows.setdefault(row.task, {})
        if row.kept:
            images_of.setdefault(row.image_id, []).append(row)
    result = []
    for annotation_type, labelled in sorted(rows.items()):
        for reference in references.names:
            right = {i: r for i, r in references.select(annotation_type, reference).items() if i in images}
            if annotation_type in CAPTIONS:
                found = {"cider": _cider(labelled, right)}
            else:
                has_masks = masks and all(_has_masks(side) for side in (labelled, right))
                found = {
                    name: {i: measure(labelled.get(i, ()), truth) for i, truth in sorted(right.items())}
                    for name, measure in _MEASURES[annotation_type].items()
                    if name != "mask_iou" or has_masks
                }
            result += [
                LabelQuality(annotation_type, name, reference, values)
                for name, values in found.items()
                if not all(map(math.isnan, values.values()))
            ]
    return result


def measure_rows(
    rows: Iterable[Annotation], right: Mapping[str, Rows], annotation_type: str, metric: str
) -> dict[str, float]:
    """Return one measure, but for cider, of each image of ``right``, its references, where either side has anything.

    ``rows``: of ``annotation_type``; those that are not kept do not count.
    """
    labelled: dict[str, list[Annotation]] = {}
    for row in rows:
        if row.kept:
            labelled.setdefault(row.image_id, []).append(row)
    measure = _MEASURES[annotation_type][metric]
    values = {image: measure(labelled.get(image, ()), truth) for image, truth in right.items()}
    return {image: value for image, value in values.items() if not math.isnan(value)}


def build_quality_json(
    qualities: Iterable[LabelQuality], settings: EvaluateSettings
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return reference → task → measure → value (mean over n images), low, high, n."""
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for found in qualities:
        if (mean := found.interval(settings)) is not None:
            values = {"value": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n}
            result.setdefault(found.reference, {}).setdefault(found.task, {})[found.metric] = {
                key: round_figure(v) for key, v in values.items()
            }
    return result


def count_found_objects(
    claims: pa.Table, references: References, images: Collection[str]
) -> dict[str, tuple[int, int]]:
    """Return object name (see `fold_label`) → (objects that an annotator found and named correctly, objects).

    ``claims``: the annotator's. ``images``: ids of those that it has finished; counted are those with references. An
    object is found with an IoU of 0.5 or more.
    """
    right = {
        image: rows
        for reference in references.names
        for image, rows in references.select("<OD>", reference).items()
        if image in images
    }
    claimed: dict[str, list[Annotation]] = {image: [] for image in right}
    for row in _of_images(
        claims.filter(pc.and_(pc.equal(claims["task"], "<OD>"), pc.not_equal(claims["text"], ""))), right
    ):
        claimed[row.image_id].append(row)
    found: dict[str, tuple[int, int]] = {}
    for image, rows in right.items():
        regions = _regions(rows)
        matched = {j for _, j in match_regions(_regions(claimed[image]), regions)}
        for j, region in enumerate(regions):
            hits, total = found.get(fold_label(region.label), (0, 0))
            found[fold_label(region.label)] = hits + (j in matched), total + 1
    return found


def measure_gains(
    before: pa.Table, after: pa.Table, references: References, settings: EvaluateSettings
) -> dict[tuple[str, str, str], Interval]:
    """Return the change of quality from ``before`` to ``after``, by (task, metric, reference).

    It is paired over the images that ``before`` has labels of.
    """
    images = {image for image, _ in references.rows} & set(before["image_id"].unique().to_pylist())
    first = {found.key: found for found in measure_quality(before, references, images)}
    result = {}
    for found in measure_quality(after, references, images):
        if (
            found.key in first
            and (change := _compare(found.per_image, first[found.key].per_image, settings)) is not None
        ):
            result[found.key] = change
    return result


def _compare(after: Mapping[str, float], before: Mapping[str, float], settings: EvaluateSettings) -> Interval | None:
    """Compare image by image.

    An image without labels and references counts as 1, where the other side has labels.
    """
    shared = [
        image
        for image in sorted(after.keys() & before.keys())
        if not (math.isnan(after[image]) and math.isnan(before[image]))
    ]
    sides = [{image: 1.0 if math.isnan(side[image]) else side[image] for image in shared} for side in (after, before)]
    return bootstrap_difference(*sides, resamples=settings.bootstrap, seed=settings.seed)


def _of_images(labels: pa.Table, images: Collection[str]) -> list[Annotation]:
    return table_annotations(labels.filter(pc.is_in(labels["image_id"], pa.array(sorted(images), pa.string()))))


# ---------------------------------------------------------------- measures of one image


def _has_masks(side: Mapping[str, Rows]) -> bool:
    return any(region.polygons for rows in side.values() for row in rows for region in row.regions)


def _regions(rows: Rows) -> list[Region]:
    """Return every region of rows, labelled with its phrase's words or else with the row's text."""
    return [
        region
        if row.task == "<CAPTION_TO_PHRASE_GROUNDING>"
        else Region(row.text, region.box, region.quad, region.polygons)
        for row in rows
        for region in row.regions
    ]


def _f1(labels: Rows, right: Rows, labelled: bool = True) -> float:
    found, targets = _regions(labels), _regions(right)
    return f1_score(found, targets, labelled=labelled) if found or targets else math.nan


def _f1_boxes(labels: Rows, right: Rows) -> float:
    return _f1(labels, right, labelled=False)


def _spotted(labels: Rows, right: Rows) -> float:
    found, targets = _regions(labels), _regions(right)
    if not found and not targets:
        return math.nan
    hits = sum(
        normalize_text(found[i].label) == normalize_text(targets[j].label)
        for i, j in match_regions(found, targets, labelled=False)
    )
    return 2 * hits / (len(found) + len(targets))


def _mask_iou(labels: Rows, right: Rows) -> float:
    found, targets = ([region for region in _regions(rows) if region.polygons] for rows in (labels, right))
    if not found and not targets:
        return math.nan
    shared = sum(region_mask_iou([found[i]], [targets[j]]) for i, j in match_regions(found, targets))
    return 2 * shared / (len(found) + len(targets))


def _answer_accuracy(labels: Rows, right: Rows) -> float:
    """Return the VQA accuracy of an image's questions; a category is an answer too. NaN without a reference."""
    given = {_get_question(row): row for row in labels}
    pairs = [(given.get(_get_question(row)), row) for row in right if row.regions]
    values = [
        vqa_accuracy(answer.regions[0].label, [r.label for r in row.regions]) if answer and answer.regions else 0.0
        for answer, row in pairs
    ]
    return sum(values) / len(values) if values else math.nan


def _get_question(row: Annotation) -> str:
    return row.text.strip() if row.task == "<VQA>" else ""


_MEASURES: dict[str, dict[str, ImageMeasure]] = {
    "<OD>": {"f1": _f1, "f1_boxes": _f1_boxes, "mask_iou": _mask_iou},
    "<DENSE_REGION_CAPTION>": {"f1": _f1},
    "<CAPTION_TO_PHRASE_GROUNDING>": {"f1": _f1},
    "<OCR_WITH_REGION>": {"spotted": _spotted, "f1_boxes": _f1_boxes},
    "<REFERRING_EXPRESSION_SEGMENTATION>": {"mask_iou": _mask_iou},
    "<VQA>": {"accuracy": _answer_accuracy},
    "<CLASSIFICATION>": {"accuracy": _answer_accuracy},
}


def _confidence_or_score(row: Annotation) -> float:
    return row.confidence if row.confidence is not None else row.score or 0.0


def _cider(labels: Mapping[str, Rows], right: Mapping[str, Rows]) -> dict[str, float]:
    """Return CIDEr-D of each image's text; of several texts, the one with the highest confidence, or score.

    A single image, and images without a reference text, have no value.
    """
    images = [image for image, rows in sorted(right.items()) if any(row.text for row in rows)]
    if len(images) < 2:
        return {}
    texts = [max(labels[image], key=_confidence_or_score).text if labels.get(image) else "" for image in images]
    values: np.ndarray = cider_d(texts, [[row.text for row in right[image] if row.text] for image in images])
    return dict(zip(images, values.tolist(), strict=True))
