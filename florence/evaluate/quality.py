"""How good labels are: an image's labels against what is right about it. The same for the engine's labels and for one annotator's claims."""

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
from florence.metrics import match_regions, normalize_label
from florence.metrics.answer import vqa_accuracy
from florence.metrics.bootstrap import Interval, bootstrap_difference, bootstrap_mean
from florence.metrics.caption import cider_d
from florence.metrics.detection import f1_score
from florence.metrics.reading import normalize_text
from florence.metrics.segmentation import shape_iou
from florence.records import CAPTIONS, Annotation, Region, table_annotations

Rows = Sequence[Annotation]
ImageMeasure = Callable[[Rows, Rows], float]
"""(labels of one kind, what is right) of an image → a value; NaN where it cannot be scored."""


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """Labels of one kind under one measure. ``per_image``: for each image, the value; NaN where neither side says anything."""

    task: str
    metric: str
    reference: str
    per_image: Mapping[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        """Task, metric and reference."""
        return self.task, self.metric, self.reference

    def interval(self, settings: EvaluateSettings) -> Interval | None:
        """The mean over the images that have a value, with its 95% interval; None where none has."""
        values = [value for _, value in sorted(self.per_image.items()) if not math.isnan(value)]
        return bootstrap_mean(values, resamples=settings.bootstrap, seed=settings.seed)


def measure_quality(
    labels: pa.Table, known: References, images: Collection[str], *, masks: bool = True
) -> list[LabelQuality]:
    """The kept ones of ``labels`` (a table of annotations) against what is ``known`` of ``images`` (ids). Nothing but these images is looked at.

    A kind is measured where the labels hold any row of it, kept or not, and something is known. An image without labels
    of a kind has that kind's worst value. Measures: f1 (same text, IoU of 0.5 or more), f1_boxes (place alone), mask_iou (what the masks
    of an f1 pair share, 0 for what has no pair), cider (against the known texts; document frequencies are theirs), spotted (f1 of exactly
    read strings), accuracy (of answers and categories). ``masks``: False leaves mask_iou out, which costs most of the time; it is left out too where one side has no mask at all.
    """
    images = frozenset(images)
    rows: dict[str, dict[str, list[Annotation]]] = {}
    for row in _of_images(labels, images):
        images_of = rows.setdefault(row.task, {})
        if row.kept:
            images_of.setdefault(row.image_id, []).append(row)
    result = []
    for kind, said in sorted(rows.items()):
        for reference in known.references:
            there = {image: right for image, right in known.of(kind, reference).items() if image in images}
            if kind in CAPTIONS:
                found = {"cider": _cider(said, there)}
            else:
                outlined = masks and all(_outlined(side) for side in (said, there))
                found = {
                    name: {image: one(said.get(image, ()), right) for image, right in sorted(there.items())}
                    for name, one in _MEASURES[kind].items()
                    if name != "mask_iou" or outlined
                }
            result += [
                LabelQuality(kind, name, reference, values)
                for name, values in found.items()
                if not all(map(math.isnan, values.values()))
            ]
    return result


def build_quality_json(
    measured: Iterable[LabelQuality], settings: EvaluateSettings
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """reference → task → measure → value (mean over n images), low, high, n."""
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for found in measured:
        if (mean := found.interval(settings)) is not None:
            values = {"value": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n}
            result.setdefault(found.reference, {}).setdefault(found.task, {})[found.metric] = {
                key: round_figure(v) for key, v in values.items()
            }
    return result


def count_found_objects(claims: pa.Table, known: References, images: Collection[str]) -> dict[str, tuple[int, int]]:
    """Name (as `florence.metrics.normalize_label` has it) → how many of the objects of that name one annotator's ``claims`` see (IoU of 0.5 or more) and name right, and how many there
    are, in the ``images`` (ids) that it looked at and of which objects are known.
    """
    there = {
        image: right
        for reference in known.references
        for image, right in known.of("<OD>", reference).items()
        if image in images
    }
    said: dict[str, list[Annotation]] = {image: [] for image in there}
    for row in _of_images(
        claims.filter(pc.and_(pc.equal(claims["task"], "<OD>"), pc.not_equal(claims["text"], ""))), there
    ):
        said[row.image_id].append(row)
    found: dict[str, tuple[int, int]] = {}
    for image, right in there.items():
        regions = _regions(right)
        seen = {j for _, j in match_regions(_regions(said[image]), regions)}
        for j, region in enumerate(regions):
            find_hits, of = found.get(normalize_label(region.label), (0, 0))
            found[normalize_label(region.label)] = find_hits + (j in seen), of + 1
    return found


def measure_gains(
    before: pa.Table, after: pa.Table, known: References, settings: EvaluateSettings
) -> dict[tuple[str, str, str], Interval]:
    """What labels gained from ``before`` to ``after``, by (task, metric, reference): paired over the images that ``before`` has labels of."""
    images = {image for image, _ in known.rows} & set(before["image_id"].unique().to_pylist())
    first = {found.key: found for found in measure_quality(before, known, images)}
    result = {}
    for found in measure_quality(after, known, images):
        if (
            found.key in first
            and (change := _paired(found.per_image, first[found.key].per_image, settings)) is not None
        ):
            result[found.key] = change
    return result


def _paired(after: Mapping[str, float], before: Mapping[str, float], settings: EvaluateSettings) -> Interval | None:
    """Saying nothing where there is nothing is right; it counts where the other side of the pair said something."""
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


def _outlined(side: Mapping[str, Rows]) -> bool:
    return any(region.polygons for rows in side.values() for row in rows for region in row.regions)


def _regions(rows: Rows) -> list[Region]:
    """Every place of rows, labelled with what it is compared by: a phrase by its words, all else by the row's text."""
    return [
        region
        if row.task == "<CAPTION_TO_PHRASE_GROUNDING>"
        else Region(row.text, region.box, region.quad, region.polygons)
        for row in rows
        for region in row.regions
    ]


def _f1(said: Rows, right: Rows, labelled: bool = True) -> float:
    left, there = _regions(said), _regions(right)
    return f1_score(left, there, labelled=labelled) if left or there else math.nan


def _f1_boxes(said: Rows, right: Rows) -> float:
    return _f1(said, right, labelled=False)


def _spotted(said: Rows, right: Rows) -> float:
    left, there = _regions(said), _regions(right)
    if not left and not there:
        return math.nan
    find_hits = sum(
        normalize_text(left[i].label) == normalize_text(there[j].label)
        for i, j in match_regions(left, there, labelled=False)
    )
    return 2 * find_hits / (len(left) + len(there))


def _mask_iou(said: Rows, right: Rows) -> float:
    left, there = ([region for region in _regions(rows) if region.polygons] for rows in (said, right))
    if not left and not there:
        return math.nan
    shared = sum(shape_iou([left[i]], [there[j]]) for i, j in match_regions(left, there))
    return 2 * shared / (len(left) + len(there))


def _answered(said: Rows, right: Rows) -> float:
    """The share of the questions that are answered right (a category is the answer to one); NaN where none is known."""
    given = {_asked(row): row for row in said}
    known = [(given.get(_asked(row)), row) for row in right if row.regions]
    values = [
        vqa_accuracy(mine.regions[0].label, [r.label for r in row.regions]) if mine and mine.regions else 0.0
        for mine, row in known
    ]
    return sum(values) / len(values) if values else math.nan


def _asked(row: Annotation) -> str:
    return row.text.strip() if row.task == "<VQA>" else ""


_MEASURES: dict[str, dict[str, ImageMeasure]] = {
    "<OD>": {"f1": _f1, "f1_boxes": _f1_boxes, "mask_iou": _mask_iou},
    "<DENSE_REGION_CAPTION>": {"f1": _f1},
    "<CAPTION_TO_PHRASE_GROUNDING>": {"f1": _f1},
    "<OCR_WITH_REGION>": {"spotted": _spotted, "f1_boxes": _f1_boxes},
    "<REFERRING_EXPRESSION_SEGMENTATION>": {"mask_iou": _mask_iou},
    "<VQA>": {"accuracy": _answered},
    "<CLASSIFICATION>": {"accuracy": _answered},
}


def _trust(row: Annotation) -> float:
    return row.confidence if row.confidence is not None else row.score or 0.0


def _cider(said: Mapping[str, Rows], there: Mapping[str, Rows]) -> dict[str, float]:
    """CIDEr-D of each image's text; of several, the one with the most agreement, or score. Images without a known text, or a single one, have no value."""
    images = [image for image, right in sorted(there.items()) if any(row.text for row in right)]
    if len(images) < 2:
        return {}
    texts = [max(said[image], key=_trust).text if said.get(image) else "" for image in images]
    values: np.ndarray = cider_d(texts, [[row.text for row in there[image] if row.text] for image in images])
    return dict(zip(images, values.tolist(), strict=True))
