"""Collect the texts that a ranker scores: captions, and for each region the texts that may describe it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from florence.geometry import Box, box_iou, clip_box
from florence.packaged_models.nouns import noun_chunks, strip_article
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region
from florence.scene.objects import SAME_BOX_IOU

TASKS = (*CAPTIONS, "<DENSE_REGION_CAPTION>")


@dataclass(frozen=True, slots=True)
class CandidateRegion:
    """A region and the paper's three sorts of candidate texts for it.

    ``box``: pixels, the mean of the claims' boxes, weighted by score. ``categories``: labels of <OD>. ``descriptions``:
    texts of <DENSE_REGION_CAPTION>. ``phrases``: the noun chunks of the descriptions.
    """

    box: Box
    categories: tuple[str, ...]
    descriptions: tuple[str, ...]
    phrases: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Every candidate text once, categories first. Texts that differ in their article alone are the same."""
        claimed = _distinct_texts((*self.categories, *self.descriptions))
        known = {_normalize(strip_article(text)) for text in claimed}
        added = [phrase for phrase in self.phrases if _normalize(strip_article(phrase)) not in known]
        return claimed + _distinct_texts(added, strip_article)


def caption_candidates(claims: Iterable[Annotation], tasks: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return each (task, text) of captions among ``tasks`` once, task by task, in the order of the claims."""
    rows = list(claims)
    return tuple(
        dict.fromkeys((task, row.text) for task in CAPTIONS if task in tasks for row in rows if row.task == task)
    )


def region_candidates(
    claims: Iterable[Annotation], record: ImageRecord, min_score: float, most: int
) -> tuple[CandidateRegion, ...]:
    """Return the ``most`` regions of objects (scored ``min_score`` or more) and of descriptions, with their texts.

    Regions that more annotators claim come first, then those of higher score. Claims without an area inside the picture
    are left out.
    """
    rows = [
        (row, _clipped_bounds(row, record))
        for row in claims
        if row.task == "<DENSE_REGION_CAPTION>" or (row.task == "<OD>" and _score(row) >= min_score)
    ]
    clusters: list[list[tuple[Annotation, Box]]] = []
    for row, box in sorted(
        ((row, box) for row, box in rows if box),
        key=lambda r: (-_score(r[0]), r[1], r[0].task, r[0].text, r[0].annotator),
    ):
        own = next((c for c in clusters if box_iou(np.asarray(c[0][1]), np.asarray(box))[0, 0] >= SAME_BOX_IOU), None)
        if own is None:
            clusters.append(own := [])
        own.append((row, box))
    clusters.sort(key=lambda c: (-len({row.annotator for row, _ in c}), -_score(c[0][0]), c[0][1]))
    return tuple(_merge_cluster(cluster) for cluster in clusters[:most])


def ranking_candidates(
    claims: Sequence[Annotation], record: ImageRecord, tasks: Sequence[str], min_score: float, most: int
) -> tuple[tuple[tuple[str, str], ...], tuple[CandidateRegion, ...]]:
    """Return the captions and the regions of one image whose texts a ranker of ``tasks`` scores."""
    regions = region_candidates(claims, record, min_score, most) if "<DENSE_REGION_CAPTION>" in tasks else ()
    return caption_candidates(claims, tasks), regions


def ranking_claims(
    caption_scores: Iterable[tuple[str, str, float]],
    region_scores: Iterable[tuple[CandidateRegion, Sequence[float]]],
) -> list[Claim]:
    """Return a ranker's claims: every caption with its score, then every candidate text of each region with its score.

    ``caption_scores``: (task, text, score). ``region_scores``: a region and one score for each of its texts.
    """
    claims = [Claim(task, text, (), score) for task, text, score in caption_scores]
    for region, scores in region_scores:
        claims += [
            Claim("<DENSE_REGION_CAPTION>", text, (Region(text, box=region.box, score=score),), score)
            for text, score in zip(region.texts, scores, strict=True)
        ]
    return claims


def _merge_cluster(cluster: Sequence[tuple[Annotation, Box]]) -> CandidateRegion:
    weights = [max(_score(row), 1e-3) for row, _ in cluster]
    # Rounded, because a mean of equal edges may come out beyond them, and so outside the image.
    x0, y0, x1, y1 = (round(float(v), 6) for v in np.average([box for _, box in cluster], axis=0, weights=weights))
    categories, descriptions = (
        _distinct_texts([row.text for row, _ in cluster if row.task == task])
        for task in ("<OD>", "<DENSE_REGION_CAPTION>")
    )
    phrases = _distinct_texts([chunk.text for text in descriptions for chunk in noun_chunks(text)])
    return CandidateRegion((x0, y0, x1, y1), categories, descriptions, phrases)


def _clipped_bounds(row: Annotation, record: ImageRecord) -> Box | None:
    """Return the box of a claim's region inside the picture; None if it has no text or no area there."""
    if not row.regions or not row.text.strip() or not all(map(math.isfinite, row.regions[0].bounds)):
        return None
    box = clip_box(row.regions[0].bounds, record.width, record.height)
    return box if box[2] - box[0] > 1e-3 and box[3] - box[1] > 1e-3 else None


def _distinct_texts(texts: Iterable[str], simplify: Callable[[str], str] = str) -> tuple[str, ...]:
    """Return texts without repetitions. Texts are compared after ``simplify``, without case and extra white space."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(_normalize(simplify(text)), text)
    return tuple(found.values())


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split())


def _score(row: Annotation) -> float:
    """Return a claim's score; 1 if it has none, 0 if it is not a number."""
    return 1.0 if row.score is None else 0.0 if math.isnan(row.score) else row.score
