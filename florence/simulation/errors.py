"""Draw the errors of a simulated annotator on one image.

Everything that can go wrong (an object, a caption, an OCR line) has a stream of random numbers of its own, seeded by
(seed, annotator, image, key). So neither the batch nor another option changes what is drawn for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from florence.geometry import Box, Polygon, Quad, box_iou
from florence.records import Annotation, ImageRecord, Region, digest
from florence.simulation.words import LABELS, LOOKALIKES

SAME_OBJECT_IOU = 0.6
"""IoU from which a region of another type is the same object as one of <OD>: both then have the same outcome."""


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """The error rates of a simulated annotator; see the options of `florence.annotators.simulated`."""

    missed: float
    mislabelled: float
    invented: float
    shifted: float
    alt_noise: float
    misread: float
    skill: float
    score_noise: float
    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    seed: int
    twin: str
    shared: float


@dataclass(frozen=True, slots=True)
class ObjectOutcome:
    """What a simulated annotator makes of one object.

    ``before``, ``after``: its true box and the claimed one, pixels. ``wrong_label``: None if the label is right.
    ``label``: the true one; empty for a region that has no label.
    """

    is_found: bool
    before: Box
    after: Box
    wrong_label: str | None
    score: float
    label: str = ""

    def move_points(self, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points (n,), (n,) moved as the box is moved from before to after."""
        (ax, ay, bx, by), (cx, cy, dx, dy) = self.before, self.after
        return (
            np.clip(cx + (xs - ax) * (dx - cx) / max(bx - ax, 1e-9), cx, dx),
            np.clip(cy + (ys - ay) * (dy - cy) / max(by - ay, 1e-9), cy, dy),
        )

    def move_polygon(self, points: Polygon) -> Polygon:
        """Return a polygon moved as the box is moved."""
        xs, ys = self.move_points(np.asarray(points[0::2], float), np.asarray(points[1::2], float))
        return tuple(float(v) for v in np.stack([xs, ys], axis=1).reshape(-1))

    def move_region(self, region: Region, label: str, *, polygons: bool) -> Region:
        """Return ``region`` with each of its shapes moved, under ``label`` and this outcome's score."""
        return Region(
            label,
            box=cast(Box, self.move_polygon(region.box)) if region.box is not None else None,
            quad=cast(Quad, self.move_polygon(region.quad)) if region.quad is not None else None,
            polygons=tuple(self.move_polygon(p) for p in region.polygons) if polygons else (),
            score=self.score,
        )


class ImageErrors:
    """The errors of one annotator on one image. ``truth``: all that is true of the image."""

    def __init__(
        self, settings: SimulationSettings, annotator: str, record: ImageRecord, truth: Sequence[Annotation]
    ) -> None:
        self.settings = settings
        self.annotator, self.record, self.truth = annotator, record, truth
        objects = self.truth_of("<OD>")
        self.labels = tuple(sorted(set(settings.labels or (*LABELS, *(row.text for row in objects)))))
        self.outcomes = [self.outcome(row.regions[0].bounds, row.text, "object", i) for i, row in enumerate(objects)]
        self._boxes = np.asarray([outcome.before for outcome in self.outcomes], float).reshape(-1, 4)

    def truth_of(self, task: str) -> list[Annotation]:
        """Return what is true of one annotation type."""
        return [row for row in self.truth if row.task == task]

    def stream(self, *key: object) -> np.random.Generator:
        """Return the random numbers of one thing that can go wrong; some share those of the annotator's twin."""
        if self.settings.twin and self._draws(self.settings.twin, "shared", *key).random() < self.settings.shared:
            return self._draws(self.settings.twin, *key)
        return self._draws(self.annotator, *key)

    def _draws(self, annotator: str, *key: object) -> np.random.Generator:
        parts = [annotator, self.record.image_id, *map(str, key)]
        return np.random.default_rng([self.settings.seed, int(digest(parts), 16)])

    def outcome(self, box: Box, label: str, *key: object) -> ObjectOutcome:
        """Draw the outcome of an object at ``box``."""
        draw = self.stream("fate", *key)
        missed, confused, choice = draw.random(3)
        after = self._jitter(box, draw)
        wrong_label = self.wrong_label(label, choice) if label and confused < self.settings.mislabelled else None
        score = self.score(draw, wrong_label is None)
        return ObjectOutcome(missed >= self.settings.missed, box, after, wrong_label, score, label)

    def outcome_at(self, box: Box, *key: object) -> ObjectOutcome:
        """Return the outcome of the <OD> object at ``box``; draw one if there is no object."""
        if len(self._boxes):
            overlap = box_iou(np.asarray([box]), self._boxes)[0]
            if overlap.max() >= SAME_OBJECT_IOU:
                # the box may differ a little from <OD>'s, so it is moved by its own extent
                outcome = self.outcomes[int(overlap.argmax())]
                return replace(outcome, before=box, after=_move_box(outcome, box, self.record))
        return self.outcome(box, "", *key)

    def _jitter(self, box: Box, draw: np.random.Generator) -> Box:
        # E|N(0, s)| = s·√(2/π)
        spread = self.settings.shifted * math.sqrt(math.pi / 2)
        dx, dy, sx, sy = draw.normal(0, 1, 4) * spread
        width, height = self.record.width, self.record.height
        x0, y0, x1, y1 = box
        w, h = (x1 - x0) * math.exp(sx / 2), (y1 - y0) * math.exp(sy / 2)
        cx = min(max((x0 + x1) / 2 + dx * (x1 - x0), 0.0), width)
        cy = min(max((y0 + y1) / 2 + dy * (y1 - y0), 0.0), height)
        return (
            max(cx - w / 2, 0.0),
            max(cy - h / 2, 0.0),
            min(cx + w / 2, float(width)),
            min(cy + h / 2, float(height)),
        )

    def wrong_label(self, label: str, choice: float) -> str:
        """Return another label. ``choice``: random, 0…1."""
        others = [other for other in self.labels if other != label]
        return others[min(int(choice * len(others)), len(others) - 1)]

    def score(self, draw: np.random.Generator, correct: bool | float) -> float:
        """Draw a score, higher by ``skill`` on average if the claim is ``correct`` (or the share of it that is)."""
        mean = 0.5 + self.settings.skill * (float(correct) - 0.5)
        return float(np.clip(mean + draw.normal(0, 1) * self.settings.score_noise, 0.01, 1.0))

    def read_character(self, character: str, draw: np.random.Generator) -> str:
        """Return a character as it is read: right, left out, doubled by another, or taken for another."""
        happens, how, which = draw.random(3)
        if happens >= self.settings.misread:
            return character
        if how < 0.15:
            return ""
        alphabet = (
            "0123456789"
            if character.isdigit()
            else "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            if character.isupper()
            else "abcdefghijklmnopqrstuvwxyz"
        )
        other = [c for c in alphabet if c != character]
        if how < 0.3:
            return character + other[int(which * len(other))]
        return LOOKALIKES.get(character) or other[int(which * len(other))]


def _move_box(outcome: ObjectOutcome, box: Box, record: ImageRecord) -> Box:
    """Return where ``box`` is after the object that it belongs to is moved."""
    (ax, ay, bx, by), (cx, cy, dx, dy) = outcome.before, outcome.after
    sx, sy = (dx - cx) / max(bx - ax, 1e-9), (dy - cy) / max(by - ay, 1e-9)
    x0, x1 = (min(max(cx + (v - ax) * sx, 0.0), float(record.width)) for v in (box[0], box[2]))
    y0, y1 = (min(max(cy + (v - ay) * sy, 0.0), float(record.height)) for v in (box[1], box[3]))
    return (x0, y0, x1, y1)
