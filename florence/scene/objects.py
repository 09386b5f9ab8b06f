"""What earlier annotators saw in one image, put together for those who build on it; and the words for where, how big and what colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from florence.geometry import Box, box_iou
from florence.records import Annotation, ImageRecord

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
COLOURS = ("black", "gray", "white", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
SAME_PLACE = 0.5
"""IoU from which two boxes are one place."""
INSIDE = 0.8
"""Share of a box inside another one of the same label from which both are one object."""
SMALL, BIG = 0.05, 0.35
"""Shares of the image's area: below the first an object is small, above the second big."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One object. ``box``: pixels, the score-weighted mean of its claims; ``score``: the best of theirs; ``annotators``: who named it so."""

    label: str
    box: Box
    score: float
    annotators: frozenset[str]

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    def share(self, record: ImageRecord) -> float:
        """Its box's share of the image's area."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1]) / (record.width * record.height)


def objects(claims: Iterable[Annotation], min_score: float, min_alone: float) -> tuple[Seen, ...]:
    """The objects of <OD> claims, best first: those that more annotators named, then those of higher score.

    Claims of one label in one place are one object. Where a place has several names, the best one is taken. Left out are objects
    under ``min_score``, and under ``min_alone`` those that one annotator alone named.
    """
    rows = [
        (row.text, row.regions[0].bounds, 1.0 if row.score is None else row.score, row.annotator)
        for row in claims
        if row.task == "<OD>" and row.regions
    ]
    groups: list[list[tuple[str, Box, float, str]]] = []
    for row in sorted(rows, key=lambda r: (-r[2], r)):
        own = next((g for g in groups if g[0][0] == row[0] and same_place(g[0][1], row[1])), None)
        if own is None:
            groups.append(own := [])
        own.append(row)
    found = sorted((_merged(group) for group in groups), key=lambda s: (-len(s.annotators), -s.score, s.label, s.box))
    kept: list[Seen] = []
    for seen in found:
        sure = seen.score >= (min_score if len(seen.annotators) > 1 else min_alone)
        if sure and not any(
            same_place(seen.box, o.box) or (seen.label == o.label and _inside(seen.box, o.box)) for o in kept
        ):
            kept.append(seen)
    return tuple(kept)


def same_place(a: Box, b: Box) -> bool:
    """Whether two boxes are one place."""
    return bool(box_iou(np.asarray(a), np.asarray(b))[0, 0] >= SAME_PLACE)


def _inside(a: Box, b: Box) -> bool:
    """Whether the smaller of two boxes lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(width, 0.0) * max(height, 0.0) >= INSIDE * smaller


def _merged(group: Sequence[tuple[str, Box, float, str]]) -> Seen:
    weights = np.asarray([max(score, 1e-3) for _, _, score, _ in group])
    # Rounded, because a mean of equal edges may come out beyond them, and so outside the image.
    x0, y0, x1, y1 = (round(float(v), 6) for v in np.average([box for _, box, _, _ in group], axis=0, weights=weights))
    return Seen(group[0][0], (x0, y0, x1, y1), group[0][2], frozenset(annotator for *_, annotator in group))


def refer(seen: Seen, others: Sequence[Seen], record: ImageRecord) -> str | None:
    """An expression that fits this object alone: by its name, else as the outermost of its kind; None where there is none."""
    twins = [other for other in others if other.label == seen.label and other is not seen]
    if not twins:
        return f"the {seen.label}"
    for axis, side, low, high in ((0, record.width, "leftmost", "rightmost"), (1, record.height, "topmost", "lowest")):
        distances = [seen.centre[axis] - twin.centre[axis] for twin in twins]
        if max(distances) <= -side / 24:
            return f"the {low} {seen.label}"
        if min(distances) >= side / 24:
            return f"the {high} {seen.label}"
    return None


def place(point: tuple[float, float], record: ImageRecord) -> str:
    """Where in the picture a point is, in thirds."""
    x, y = point[0] / record.width, point[1] / record.height
    column = "left" if x < 0.38 else "right" if x > 0.62 else ""
    row = "top" if y < 0.38 else "bottom" if y > 0.62 else ""
    if row:
        return f"at the {row} {column}".rstrip()
    return f"on the {column}" if column else "in the middle"


def size(share: float) -> str:
    """``small``, ``big`` or nothing, for a share of the image's area."""
    return "small" if share < SMALL else "big" if share > BIG else ""


def colour_shares(pixels: np.ndarray) -> dict[str, float]:
    """How much of some pixels (…, 3), uint8, RGB, is of each of `COLOURS`; in falling order, shares sum to 1."""
    counts = np.bincount(_named(pixels.reshape(-1, 3)), minlength=len(COLOURS)) / max(pixels.size // 3, 1)
    order = sorted(range(len(COLOURS)), key=lambda i: (-counts[i], i))
    return {COLOURS[i]: float(counts[i]) for i in order if counts[i] > 0}


def _named(rgb: np.ndarray) -> np.ndarray:
    """The index in `COLOURS` of each of n pixels (n, 3)."""
    value = rgb.max(axis=1) / 255.0
    spread = value - rgb.min(axis=1) / 255.0
    strength = spread / np.maximum(value, 1e-6)
    hue = _hue(rgb / 255.0, value, np.maximum(spread, 1e-6))
    warm = (hue < 48) | (hue >= 345)
    pale, dim = strength < 0.55, value < 0.7
    plain = np.where(value > 0.78, 2, np.where(value < 0.25, 0, 1))
    tinted = np.select(
        [(hue < 14) | (hue >= 345), hue < 48, hue < 70, hue < 165, hue < 262, hue < 310],
        [
            np.where(pale & ~dim, 10, np.where(pale, 5, 3)),
            np.where(pale | dim, 5, 4),
            np.where(value < 0.4, 5, 6),
            7,
            8,
            9,
        ],
        10,
    )
    # Warm light tints everything a little: there more strength is asked for before a colour is named.
    grey = (strength < np.where(warm, 0.2, 0.14)) | (spread < 0.06)
    return np.where(value < 0.14, 0, np.where(grey, plain, tinted)).astype(int)


def _hue(rgb: np.ndarray, value: np.ndarray, spread: np.ndarray) -> np.ndarray:
    red, green, blue = rgb.T
    sector = np.where(
        value == red,
        (green - blue) / spread,
        np.where(value == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    return sector * 60 % 360
