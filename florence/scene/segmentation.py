"""Choose the objects and phrases of an image that are segmented, and give their claims polygons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from florence.geometry import Box, Polygon, clip_box
from florence.records import Annotation, Claim, ImageRecord, Region
from florence.scene.objects import is_same_box, merge_objects, referring_expression

REFERRING, GROUNDING = "<REFERRING_EXPRESSION_SEGMENTATION>", "<CAPTION_TO_PHRASE_GROUNDING>"
"""The annotation types that a segmenter claims."""


def segmentation_targets(
    record: ImageRecord, claims: Sequence[Annotation], most: int, min_score: float, min_alone: float
) -> tuple[Claim, ...]:
    """Return what can be claimed once there are masks: claims whose regions have the box to segment, and no polygons.

    First the ``most`` best objects that a referring expression tells from all others, best first; then the phrases that
    others have boxed, in the order of their claims. Of several boxes for one phrase in the same position, the best is
    kept. Of all phrases' boxes, the ``most`` best are kept, and those that are also boxes of objects. ``min_score``:
    least score of a box. ``min_alone``: least score of an object that a single annotator named.
    """
    objects = merge_objects(claims, min_score, min_alone)
    result = []
    for item in objects[:most]:
        expression = referring_expression(item, objects, record)
        if expression:
            region = Region(expression, box=item.box, score=item.score)
            result.append(Claim(REFERRING, expression, (region,), item.score))
    return (*result, *_phrase_targets(record, claims, most, min_score, {claim.regions[0].bounds for claim in result}))


def _phrase_targets(
    record: ImageRecord, claims: Sequence[Annotation], most: int, min_score: float, object_boxes: set[Box]
) -> Iterator[Claim]:
    groups: dict[tuple[str, tuple[int, int]], list[Region]] = {}
    for row in claims:
        for region in row.regions if row.task == GROUNDING else ():
            if region.span is not None and (region.box or region.polygons) and _score(region) >= min_score:
                box = clip_box(region.bounds, record.width, record.height)
                if box[0] < box[2] and box[1] < box[3]:
                    groups.setdefault((row.text, region.span), []).append(
                        replace(region, box=box, quad=None, polygons=())
                    )
    kept = {key: _distinct_regions(regions) for key, regions in groups.items()}
    best = sorted((region for regions in kept.values() for region in regions), key=lambda r: (-_score(r), r.bounds))
    chosen = set(list(dict.fromkeys(r.bounds for r in best if r.bounds not in object_boxes))[:most]) | object_boxes
    for (text, _), regions in kept.items():
        segmented = tuple(region for region in regions if region.bounds in chosen)
        if segmented:
            yield Claim(GROUNDING, text, segmented, _mean_score(segmented))


def _score(region: Region) -> float:
    return 1.0 if region.score is None else region.score


def _mean_score(regions: Sequence[Region]) -> float | None:
    scores = [region.score for region in regions if region.score is not None]
    return sum(scores) / len(scores) if scores else None


def _distinct_regions(regions: Sequence[Region]) -> list[Region]:
    """Return the regions, best first, without those in the position of a better one."""
    result: list[Region] = []
    for region in sorted(regions, key=lambda r: (-_score(r), r.bounds)):
        if not any(is_same_box(region.bounds, other.bounds) for other in result):
            result.append(region)
    return result


def target_boxes(targets: Iterable[Claim]) -> tuple[Box, ...]:
    """Return every box to segment, once, in the order of the claims."""
    return tuple(dict.fromkeys(region.bounds for claim in targets for region in claim.regions))


def add_polygons(targets: Iterable[Claim], polygons: Mapping[Box, tuple[Polygon, ...]]) -> list[Claim]:
    """Return the claims with the polygons of each box; regions without polygons are left out.

    Regions of phrases keep their box; regions of referring expressions have polygons alone.
    """
    result = []
    for claim in targets:
        is_phrase = claim.task == GROUNDING
        drawn = [(region, polygons.get(region.bounds, ())) for region in claim.regions]
        regions = tuple(
            replace(region, box=region.box if is_phrase else None, polygons=own) for region, own in drawn if own
        )
        if regions:
            result.append(replace(claim, regions=regions, score=_mean_score(regions)))
    return result
