"""What is to be outlined in an image: objects, by expressions that tell them apart, and the boxes of phrases; and masks as polygons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from florence.geometry import Box, Polygon, clip_box, mask_iou, pieces, polygon_area, rasterise, trace
from florence.records import Annotation, Claim, ImageRecord, Region
from florence.scene.objects import objects, refer, same_place

REFERRED, GROUNDED = "<REFERRING_EXPRESSION_SEGMENTATION>", "<CAPTION_TO_PHRASE_GROUNDING>"
SPECK = 0.01
"""Share of a mask's area under which a part of it is noise."""


def wanted(
    record: ImageRecord, claims: Sequence[Annotation], most: int, min_score: float, min_alone: float
) -> tuple[Claim, ...]:
    """What could be claimed once there are outlines; each region has the box to outline, and none has polygons yet.

    The ``most`` best objects that an expression fits alone, best first; then the phrases that others have boxed, in the order of their claims.
    Boxes that several claims have for one phrase in one place are one, the best; of all phrases, the ``most`` best boxes are taken, and those that
    are boxes of objects besides. ``min_score``: of a box; ``min_alone``: of an object that one annotator alone named.
    """
    found = objects(claims, min_score, min_alone)
    result = []
    for seen in found[:most]:
        expression = refer(seen, found, record)
        if expression:
            result.append(
                Claim(REFERRED, expression, (Region(expression, box=seen.box, score=seen.score),), seen.score)
            )
    return (*result, *_phrases(record, claims, most, min_score, {claim.regions[0].bounds for claim in result}))


def _phrases(
    record: ImageRecord, claims: Sequence[Annotation], most: int, min_score: float, free: set[Box]
) -> Iterator[Claim]:
    groups: dict[tuple[str, tuple[int, int]], list[Region]] = {}
    for row in claims:
        for region in row.regions if row.task == GROUNDED else ():
            if region.span is not None and (region.box or region.polygons) and _score(region) >= min_score:
                box = clip_box(region.bounds, record.width, record.height)
                if box[0] < box[2] and box[1] < box[3]:
                    groups.setdefault((row.text, region.span), []).append(
                        replace(region, box=box, quad=None, polygons=())
                    )
    kept = {key: _distinct(regions) for key, regions in groups.items()}
    best = sorted((region for regions in kept.values() for region in regions), key=lambda r: (-_score(r), r.bounds))
    chosen = set(list(dict.fromkeys(r.bounds for r in best if r.bounds not in free))[:most]) | free
    for (text, _), regions in kept.items():
        there = tuple(region for region in regions if region.bounds in chosen)
        if there:
            yield Claim(GROUNDED, text, there, _mean(there))


def _score(region: Region) -> float:
    return 1.0 if region.score is None else region.score


def _mean(regions: Sequence[Region]) -> float | None:
    scores = [region.score for region in regions if region.score is not None]
    return sum(scores) / len(scores) if scores else None


def _distinct(regions: Sequence[Region]) -> list[Region]:
    """The regions, best first, without those in the place of a better one."""
    result: list[Region] = []
    for region in sorted(regions, key=lambda r: (-_score(r), r.bounds)):
        if not any(same_place(region.bounds, other.bounds) for other in result):
            result.append(region)
    return result


def boxes(wanted: Iterable[Claim]) -> tuple[Box, ...]:
    """Every box to outline, once, in the order of the claims."""
    return tuple(dict.fromkeys(region.bounds for claim in wanted for region in claim.regions))


def outlined(wanted: Iterable[Claim], outlines: Mapping[Box, tuple[Polygon, ...]]) -> list[Claim]:
    """The claims with the polygons of each box. What has none is not claimed; an expression's region has no box besides its polygons."""
    result = []
    for claim in wanted:
        phrase = claim.task == GROUNDED
        drawn = [(region, outlines.get(region.bounds, ())) for region in claim.regions]
        regions = tuple(
            replace(region, box=region.box if phrase else None, polygons=polygons)
            for region, polygons in drawn
            if polygons
        )
        if regions:
            result.append(replace(claim, regions=regions, score=_mean(regions)))
    return result


def polygons(mask: np.ndarray, min_polygon_iou: float) -> tuple[Polygon, ...]:
    """A mask (h, w) as polygons of few corners that overlap it by an IoU of ``fidelity`` at least, largest first; none where that cannot be had.

    Parts that are but specks are left out as far as that allows. A polygon has no holes: small ones are filled, through larger ones the mask is cut.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return ()
    y, x = int(rows[0]), int(columns[0])
    part = mask[y : rows[-1] + 1, x : columns[-1] + 1]
    for least in (SPECK, 0.0):
        cut = pieces(_without_specks(part, least * part.sum()))
        tolerance = 0.1 * float(part.sum()) ** 0.5
        while True:
            found = [polygon for piece in cut for polygon in trace(piece, tolerance, min_area=1.0)]
            if mask_iou(rasterise(found, part.shape[1], part.shape[0]), part) >= min_polygon_iou:
                found.sort(key=lambda polygon: -abs(polygon_area(polygon)))
                return tuple(tuple(v + (y if i % 2 else x) for i, v in enumerate(polygon)) for polygon in found)
            if not tolerance:
                break
            tolerance = tolerance / 1.4 if tolerance > 0.5 else 0.0
    return ()


def _without_specks(mask: np.ndarray, least: float) -> np.ndarray:
    """The mask without parts of less than ``least`` pixels."""
    import cv2

    _, part, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return mask & (stats[:, cv2.CC_STAT_AREA] >= least)[part]
