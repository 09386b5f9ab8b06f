"""What a ranker judges: the captions that others gave, and for each place the texts that may say what is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from florence.geometry import Box, box_iou, clip_box
from florence.packaged_models.nouns import bare, chunks
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region
from florence.scene.objects import SAME_PLACE

TASKS = (*CAPTIONS, "<DENSE_REGION_CAPTION>")


@dataclass(frozen=True, slots=True)
class Place:
    """A place and the paper's three kinds of candidate texts for it. ``box``: pixels, the score-weighted mean of the claims'.

    ``categories``: names from <OD>; ``descriptions``: texts of <DENSE_REGION_CAPTION>; ``phrases``: the noun chunks of the descriptions.
    """

    box: Box
    categories: tuple[str, ...]
    descriptions: tuple[str, ...]
    phrases: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Every candidate once, names first. A phrase that differs from another candidate by its article alone is none of its own."""
        claimed = _distinct((*self.categories, *self.descriptions))
        known = {_key(bare(text)) for text in claimed}
        return claimed + _distinct([phrase for phrase in self.phrases if _key(bare(phrase)) not in known], bare)


def captions(claims: Iterable[Annotation], tasks: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The distinct (task, text) of captions among ``tasks``, kind by kind, in the order of the claims."""
    rows = list(claims)
    return tuple(
        dict.fromkeys((task, row.text) for task in CAPTIONS if task in tasks for row in rows if row.task == task)
    )


def places(claims: Iterable[Annotation], record: ImageRecord, min_score: float, most: int) -> tuple[Place, ...]:
    """The ``most`` places of objects (of at least ``min_score``) and of descriptions, with their candidates: what more annotators speak of first, then what is surer.

    What has no extent in the picture is no place.
    """
    rows = [
        (row, _bounds(row, record))
        for row in claims
        if row.task == "<DENSE_REGION_CAPTION>" or (row.task == "<OD>" and _score(row) >= min_score)
    ]
    groups: list[list[tuple[Annotation, Box]]] = []
    for row, box in sorted(
        ((row, box) for row, box in rows if box),
        key=lambda r: (-_score(r[0]), r[1], r[0].task, r[0].text, r[0].annotator),
    ):
        own = next(
            (group for group in groups if box_iou(np.asarray(group[0][1]), np.asarray(box))[0, 0] >= SAME_PLACE), None
        )
        if own is None:
            groups.append(own := [])
        own.append((row, box))
    groups.sort(key=lambda group: (-len({row.annotator for row, _ in group}), -_score(group[0][0]), group[0][1]))
    return tuple(_place(group) for group in groups[:most])


def judged(
    claims: Sequence[Annotation], record: ImageRecord, tasks: Sequence[str], min_score: float, most: int
) -> tuple[tuple[tuple[str, str], ...], tuple[Place, ...]]:
    """The captions and places of one image that a ranker of ``tasks`` judges."""
    return captions(claims, tasks), places(claims, record, min_score, most) if "<DENSE_REGION_CAPTION>" in tasks else ()


def ranked(
    caption_scores: Iterable[tuple[str, str, float]], place_scores: Iterable[tuple[Place, Sequence[float]]]
) -> list[Claim]:
    """A ranker's claims: every caption, of (task, text, score), then every candidate of each place under its score (one for each of the place's texts)."""
    told = [Claim(task, text, (), score) for task, text, score in caption_scores]
    for place, scores in place_scores:
        told += [
            Claim("<DENSE_REGION_CAPTION>", text, (Region(text, box=place.box, score=score),), score)
            for text, score in zip(place.texts, scores, strict=True)
        ]
    return told


def _place(group: Sequence[tuple[Annotation, Box]]) -> Place:
    weights = [max(_score(row), 1e-3) for row, _ in group]
    # Rounded, because a mean of equal edges may come out beyond them, and so outside the image.
    x0, y0, x1, y1 = (round(float(v), 6) for v in np.average([box for _, box in group], axis=0, weights=weights))
    categories, descriptions = (
        _distinct([row.text for row, _ in group if row.task == task]) for task in ("<OD>", "<DENSE_REGION_CAPTION>")
    )
    phrases = _distinct([chunk.text for text in descriptions for chunk in chunks(text)])
    return Place((x0, y0, x1, y1), categories, descriptions, phrases)


def _bounds(row: Annotation, record: ImageRecord) -> Box | None:
    """Where a claim's region is inside the picture; None where it is nowhere."""
    if not row.regions or not row.text.strip() or not all(map(math.isfinite, row.regions[0].bounds)):
        return None
    box = clip_box(row.regions[0].bounds, record.width, record.height)
    return box if box[2] - box[0] > 1e-3 and box[3] - box[1] > 1e-3 else None


def _distinct(texts: Iterable[str], alike: Callable[[str], str] = str) -> tuple[str, ...]:
    """Texts without those that differ from an earlier one in case and white space (after ``alike``) alone."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(_key(alike(text)), text)
    return tuple(found.values())


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _score(row: Annotation) -> float:
    """A claim's score; 1 where it has none, 0 where it is no number."""
    return 1.0 if row.score is None else 0.0 if math.isnan(row.score) else row.score
