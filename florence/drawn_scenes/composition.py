"""How a scene is composed: objects and signs are placed one by one, none hiding the others too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from florence.drawn_scenes.backgrounds import Background
from florence.drawn_scenes.figures import COLOURS, TEXTURES, Cutout, Figure, draw_cutout, draw_shape, draw_sign
from florence.drawn_scenes.main_shapes import ROUND
from florence.drawn_scenes.truth import DrawnObject
from florence.drawn_scenes.vocabularies import Vocabulary
from florence.geometry import Quad, mask_polygons

EXTENTS: tuple[tuple[str | None, float, float], ...] = (("small", 0.25, 0.31), (None, 0.36, 0.43), ("big", 0.49, 0.58))
"""Size word, least and largest share of the scene's side; the gaps between them keep the words clear."""
MIN_VISIBLE = 0.35
"""Least visible share of every object; signs are never covered."""
PANEL_COLOURS: tuple[str, ...] = ("white", "yellow", "blue", "green", "red", "black", "orange")


@dataclass(slots=True)
class PlacedFigure:
    """A figure on its way into a scene. ``y``, ``x``: its top left pixel; ``on``: index of the figure it stands on."""

    figure: Figure
    words: dict[str, Any]
    y: int = 0
    x: int = 0
    on: int | None = None
    upright: bool = False

    def window(self) -> tuple[slice, slice]:
        """Return the rows and columns it takes in the scene."""
        height, width = self.figure.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


@dataclass(frozen=True, slots=True)
class SceneComposer:
    """Composes scenes of ``side`` pixels.

    ``min_objects``: least number of objects without writing. ``sign_rate``: probability of a sign. ``scale``: factor on
    `EXTENTS`. ``cutouts``: used in place of the vocabulary's shapes, if there are any.
    """

    vocabulary: Vocabulary
    side: int
    min_objects: int
    sign_rate: float
    scale: float
    cutouts: Sequence[Cutout] = ()

    def compose(
        self, rng: np.random.Generator, background: Background, max_objects: int
    ) -> tuple[np.ndarray, list[DrawnObject]]:
        """Return the pixels (side, side, 3) and the objects of one arrangement; no objects if it failed."""
        count = self.min_objects + int(rng.integers(max_objects - self.min_objects + 1))
        sign = int(rng.integers(count + 1)) if rng.random() < self.sign_rate else None
        owner = np.full((self.side, self.side), -1, np.int16)
        placed: list[PlacedFigure] = []
        for index in range(count + (sign is not None)):
            item = self._draw_sign(rng) if index == sign else self._draw_object(rng)
            if self._place(rng, item, placed, owner, background.ground):
                owner[item.window()][item.figure.mask] = len(placed)
                placed.append(item)
        if sum(not item.words.get("lines") for item in placed) < self.min_objects:
            return background.pixels, []
        pixels = background.pixels.astype(np.float32)
        for item in placed:
            spot = pixels[item.window()]
            spot += (item.figure.rgb - spot) * item.figure.alpha[..., None]
        return np.clip(np.round(pixels), 0, 255).astype(np.uint8), find_visible_objects(placed, owner)

    def _draw_object(self, rng: np.random.Generator) -> PlacedFigure:
        word, low, high = EXTENTS[int(rng.integers(len(EXTENTS)))]
        size = (low + (high - low) * rng.random()) * self.scale * self.side
        if self.cutouts:
            cutout = self.cutouts[int(rng.integers(len(self.cutouts)))]
            figure = draw_cutout(cutout.rgba, size, (rng.random() * 2 - 1) * 6)
            return PlacedFigure(figure, {"label": cutout.label, "size": word}, upright=True)
        labels = tuple(self.vocabulary.shapes)
        label = labels[int(rng.integers(len(labels)))]
        shape = self.vocabulary.shapes[label]
        names = tuple(COLOURS)
        colour, texture = names[int(rng.integers(len(names)))], TEXTURES[max(int(rng.integers(5)) - 2, 0)]
        angle, action = _draw_pose(rng, shape.turns)
        figure = draw_shape(rng, shape.draw(rng), colour, texture, self.side, size, angle)
        return PlacedFigure(
            figure,
            {"label": label, "size": word, "colour": colour, "texture": texture, "action": action},
            upright=action is None,
        )

    def _draw_sign(self, rng: np.random.Generator) -> PlacedFigure:
        words = self.vocabulary.words
        lines = tuple(words[int(i)] for i in rng.integers(len(words), size=2 if rng.random() < 0.25 else 1))
        colour = PANEL_COLOURS[int(rng.integers(len(PANEL_COLOURS)))]
        return PlacedFigure(
            draw_sign(rng, lines, colour, self.side), {"label": self.vocabulary.panel, "colour": colour, "lines": lines}
        )

    def _place(
        self,
        rng: np.random.Generator,
        item: PlacedFigure,
        placed: list[PlacedFigure],
        owner: np.ndarray,
        ground: int | None,
    ) -> bool:
        """Find a position where ``item`` hides none of the others too much; return False if there is none.

        ``owner`` (side, side): index of the visible figure of each pixel, -1 for background. ``ground``: y of the
        horizon.
        """
        height, width = item.figure.mask.shape
        if max(height, width) > self.side - 2 or not item.figure.mask.any():
            return False
        stands = item.upright and ground is not None and rng.random() < 0.55
        alone = rng.random() < 0.6
        for attempt in range(10):
            item.on = None
            item.x = 1 + int(rng.integers(self.side - width - 1))
            item.y = 1 + int(rng.integers(self.side - height - 1))
            if item.upright and placed and attempt < 2 and rng.random() < 0.3:
                _put_on_another(rng, item, placed)
            elif item.upright and ground is not None:
                _put_at_ground(rng, item, ground, self.side, stands)
            if item.x < 1 or item.y < 1 or item.x + width >= self.side or item.y + height >= self.side:
                continue
            if not _leaves_visible(item, placed, owner, alone and attempt < 7):
                continue
            if item.upright and "colour" in item.words:
                item.words["action"] = _find_action(item, ground, stands)
            return True
        return False


def _draw_pose(rng: np.random.Generator, turns: str) -> tuple[float, str | None]:
    """Draw an angle in degrees clockwise, and the words for it; None: upright."""
    draw = rng.random()
    jitter = rng.random() * 2 - 1
    if turns == "none" or draw < 0.6:
        return jitter * 5, None
    if turns == "tilt" or draw < 0.8:
        return (
            (-28 + jitter * 7, "tilting to the left")
            if rng.random() < 0.5
            else (28 + jitter * 7, "tilting to the right")
        )
    if draw < 0.9:
        return (90 if rng.random() < 0.5 else -90) + jitter * 5, "lying on its side"
    return 180 + jitter * 5, "upside down"


def _put_on_another(rng: np.random.Generator, item: PlacedFigure, placed: list[PlacedFigure]) -> None:
    """Move ``item`` on top of one of the others, touching it."""
    item.on = int(rng.integers(len(placed)))
    base = placed[item.on]
    height, width = item.figure.mask.shape
    base_width = base.figure.mask.shape[1]
    item.x = base.x + (base_width - width) // 2 + round((rng.random() - 0.5) * 0.2 * base_width)
    item.y = (
        base.y + int(np.flatnonzero(base.figure.mask.any(1))[0]) - 1 - int(np.flatnonzero(item.figure.mask.any(1))[-1])
    )


def _put_at_ground(rng: np.random.Generator, item: PlacedFigure, ground: int, side: int, stands: bool) -> None:
    """Move the foot of ``item`` clearly below the horizon (standing) or clearly above it (floating)."""
    height, margin = item.figure.mask.shape[0], round(0.05 * side)
    low, high = (ground + margin, side - 2) if stands else (height + 1, ground - margin)
    item.y = low + int(rng.integers(max(high - low, 1))) - height if high >= low else -1


def _find_action(item: PlacedFigure, ground: int | None, stands: bool) -> str | None:
    if item.on is not None:
        return "standing"
    if ground is None:
        return None
    return ("rolling" if item.words["label"] in ROUND else "standing") if stands else "floating"


def _leaves_visible(item: PlacedFigure, placed: list[PlacedFigure], owner: np.ndarray, alone: bool) -> bool:
    """Return whether ``item`` leaves every earlier figure visible enough: signs, and with ``alone`` all, completely."""
    hit = owner[item.window()][item.figure.mask]
    hit = hit[hit >= 0]
    if not hit.size:
        return True
    if alone or item.on is not None:
        return False
    hidden, visible = np.bincount(hit, minlength=len(placed)), np.bincount(owner[owner >= 0], minlength=len(placed))
    for order in np.flatnonzero(hidden):
        other = placed[order]
        # A figure that another one stands on must stay visible.
        if other.words.get("lines") or any(above.on == order for above in placed) or other.on is not None:
            return False
        if visible[order] - hidden[order] < (MIN_VISIBLE + 0.05) * int(other.figure.mask.sum()):
            return False
    return True


def find_visible_objects(placed: list[PlacedFigure], owner: np.ndarray) -> list[DrawnObject]:
    """Return the visible part of every figure; an empty list if one has no polygons."""
    covers = _find_covered(placed)
    result = []
    for order, item in enumerate(placed):
        mask = owner == order
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        polygons = mask_polygons(mask)
        if not polygons:
            return []
        quads = tuple(_shift_quad(quad, item.x, item.y) for quad in item.figure.quads)
        result.append(
            DrawnObject(
                box=box,
                polygons=polygons,
                area=int(mask.sum()),
                order=order,
                quads=quads,
                covers=covers[order],
                on=item.on,
                **item.words,
            )
        )
    return result


def _shift_quad(quad: Quad, x: float, y: float) -> Quad:
    x0, y0, x1, y1, x2, y2, x3, y3 = quad
    return (x0 + x, y0 + y, x1 + x, y1 + y, x2 + x, y2 + y, x3 + x, y3 + y)


def _find_covered(placed: list[PlacedFigure]) -> list[frozenset[int]]:
    """Return, for each figure, the earlier ones it hides at least a twentieth of."""
    result: list[frozenset[int]] = []
    for order, item in enumerate(placed):
        (rows, columns), hidden = item.window(), set()
        for earlier, other in enumerate(placed[:order]):
            y0, y1 = max(rows.start, other.y), min(rows.stop, other.y + other.figure.mask.shape[0])
            x0, x1 = max(columns.start, other.x), min(columns.stop, other.x + other.figure.mask.shape[1])
            if y0 < y1 and x0 < x1:
                mine = item.figure.mask[y0 - item.y : y1 - item.y, x0 - item.x : x1 - item.x]
                theirs = other.figure.mask[y0 - other.y : y1 - other.y, x0 - other.x : x1 - other.x]
                if int((mine & theirs).sum()) >= 0.05 * int(other.figure.mask.sum()):
                    hidden.add(earlier)
        result.append(frozenset(hidden))
    return result
