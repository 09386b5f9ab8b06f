"""Procedural pictures whose truth is known exactly, for every kind of annotation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from florence.errors import ImageError, SettingsError
from florence.geometry import Quad, mask_polygons
from florence.records import digest
from florence.sources import SOURCES, Source, SourceImage, check_options, wrong
from florence.sources._backgrounds import MAIN_BACKGROUNDS, PRETRAIN_BACKGROUNDS, Background, Painter, paint
from florence.sources._figures import COLOURS as PAINTS
from florence.sources._figures import TEXTURES, Figure, draw_cutout, draw_shape, draw_sign
from florence.sources._files import Entry, Tree, is_image
from florence.sources._invented import figures, words
from florence.sources._pictures import Cutout, crop, cutouts, note, notes, photo
from florence.sources._questions import questions
from florence.sources._shapes import MAIN_SHAPES, PRETRAIN_SHAPES, ROUND, Shape
from florence.sources._truth import ACTIONS, RELATIONS, SIZES, Thing, claims

LICENCE = "CC0-1.0 (drawn by Florence)"
COLOURS: tuple[str, ...] = tuple(PAINTS)
DRAWING = 3
"""Part of every scene's name: raised when the same settings draw other pictures than before."""


class Vocabulary(NamedTuple):
    """What scenes are made of. ``main`` shares no object, background, panel or written word with the others."""

    shapes: dict[str, Shape]
    backgrounds: dict[str, Painter]
    panel: str
    words: tuple[str, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """Every label that can occur."""
        return (*self.shapes, self.panel)


VOCABULARIES: dict[str, Vocabulary] = {
    "main": Vocabulary(
        MAIN_SHAPES,
        MAIN_BACKGROUNDS,
        "sign",
        (
            "STOP",
            "EXIT",
            "OPEN",
            "CAFE",
            "HOTEL",
            "TAXI",
            "BUS",
            "SALE",
            "PARK",
            "ZOO",
            "BANK",
            "SHOP",
            "NEWS",
            "MILK",
            "TEA",
            "PIZZA",
            "BAKER",
            "BOOKS",
            "EAST",
            "WEST",
            "NORTH",
            "SOUTH",
            "LEFT",
            "RIGHT",
            "UP",
            "DOWN",
            "PUSH",
            "PULL",
            "GO",
            "SLOW",
            "WAIT",
            "HELP",
            "FREE",
            "HOT",
            "COLD",
            "NEW",
            "OLD",
            "YES",
            "NO",
            "FIRE",
            "WATER",
            "ROAD",
            "GATE",
            "LIFT",
            "HALL",
            "ROOM",
            "DESK",
            "SCHOOL",
            "BEACH",
            "PORT",
            "FERRY",
            "TRAIN",
            "5",
            "7",
            "12",
            "24",
            "30",
            "50",
            "66",
            "80",
            "99",
            "101",
            "360",
            "2026",
        ),
    ),
}
_WORDS = words(3000, frozenset(VOCABULARIES["main"].words))
VOCABULARIES["pretrain"] = Vocabulary(PRETRAIN_SHAPES, PRETRAIN_BACKGROUNDS, "plate", _WORDS)
VOCABULARIES["invented"] = Vocabulary({**PRETRAIN_SHAPES, **figures(276)}, PRETRAIN_BACKGROUNDS, "plate", _WORDS)
"""``main`` is what a loop annotates and is scored on; ``pretrain`` and ``invented``, which has many more figures, are for pretraining a model that must not have met ``main``."""
OBJECTS: tuple[str, ...] = VOCABULARIES["main"].objects
SIGN_WORDS: tuple[str, ...] = VOCABULARIES["main"].words
BACKGROUNDS: tuple[str, ...] = tuple(MAIN_BACKGROUNDS)
__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "COLOURS",
    "OBJECTS",
    "RELATIONS",
    "SIGN_WORDS",
    "SIZES",
    "TEXTURES",
    "VOCABULARIES",
    "ScenesSource",
    "Vocabulary",
]

EXTENTS: tuple[tuple[str | None, float, float], ...] = (("small", 0.25, 0.31), (None, 0.36, 0.43), ("big", 0.49, 0.58))
"""Size words and the share of the picture's side that they stand for; between them is a gap, so that words are never arguable."""
VISIBLE = 0.35
"""Least visible share of every object; written signs are never covered."""
ATTEMPTS = 24


@dataclass(slots=True)
class Placed:
    """A figure on its way into a scene. ``y``, ``x``: of its top left pixel; ``on``: index of what it stands on."""

    figure: Figure
    words: dict[str, Any]
    y: int = 0
    x: int = 0
    on: int | None = None
    upright: bool = False

    def window(self) -> tuple[slice, slice]:
        """Where it lies in the scene."""
        height, width = self.figure.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


@SOURCES.register("scenes")
class ScenesSource(Source):
    """Pictures of named objects on varied backgrounds, with exact truth.

    ``count``: how many. ``size``: pixels a side. ``seed``. ``objects``: least and most objects. ``signs``: probability of a written
    sign. ``scale``: 0.5 to 1.5, how large objects are, 1 as `EXTENTS` says. ``vocabulary``: "main", "pretrain" or "invented". ``sprites``: folder of RGBA cut-outs (PNG, WebP or TIFF) to use instead of drawn objects,
    named by a .txt beside them or by file name (``grey_cat_2.png`` is a "grey cat"); a pixel belongs to the object where alpha > 127.
    ``backgrounds``: folder of pictures to use instead of drawn backgrounds, described by a .txt beside them, where there is one.
    ``questions``: whether the truth also has questions with their answers (<VQA>) and a category (<CLASSIFICATION>); it changes nothing else.

    Scene ``index`` depends on seed, index and settings alone, never on ``count``. A folder takes part in the settings by the names and
    sizes of its files. Raises SettingsError for a wrong option or a folder without a usable picture, StoreError for a missing folder.
    """

    def __init__(self, **options: Any) -> None:
        allowed = {
            "count": 1000,
            "size": 128,
            "seed": 0,
            "objects": (1, 3),
            "signs": 0.35,
            "scale": 1.0,
            "vocabulary": "main",
            "sprites": None,
            "backgrounds": None,
            "questions": False,
        }
        values = check_options("scenes", options, allowed)
        self.total = _whole("count", values["count"], 0, 999_999)
        self.side = _whole("size", values["size"], 64, 2048)
        self.seed = _whole("seed", values["seed"], 0, 2**63 - 1)
        self.least, self.most = _span(values["objects"])
        self.signs = _share("signs", values["signs"])
        self.scale = _scale(values["scale"])
        if values["vocabulary"] not in VOCABULARIES:
            raise wrong("scenes", "vocabulary", values["vocabulary"], " or ".join(VOCABULARIES))
        self.vocabulary_name: str = values["vocabulary"]
        self.vocabulary = VOCABULARIES[self.vocabulary_name]
        self.sprites = None if values["sprites"] is None else Tree("scenes", "sprites", values["sprites"])
        self.backdrops = None if values["backgrounds"] is None else Tree("scenes", "backgrounds", values["backgrounds"])
        if not isinstance(values["questions"], bool):
            raise wrong("scenes", "questions", values["questions"], "true or false")
        self.questions: bool = values["questions"]
        self._cutouts: list[Cutout] = []
        self._photos: list[tuple[Entry, str | None]] = []
        self._damaged: dict[str, ImageError] = {}

    def count(self) -> int:
        """How many scenes there are."""
        return self.total

    def images(self, known: frozenset[str]) -> Iterator[SourceImage | ImageError]:
        """Scenes 0, 1, …; known ones are not drawn again. Sprites and backgrounds that cannot be used come first, as errors."""
        key, broken = self._prepare()
        yield from broken
        for index in range(self.total):
            name = f"scene-{self.seed}-{index:06d}-{key}"
            if name in known:
                continue
            told = len(self._damaged)
            try:
                yield self._scene(name, index)
            except ImageError as error:
                yield error
            yield from list(self._damaged.values())[told:]

    def _prepare(self) -> tuple[str, list[ImageError]]:
        """The digest of all that pictures depend on, and the files that cannot be used."""
        listed: dict[str, Any] = {}
        broken: list[ImageError] = []
        if self.sprites is not None:
            files, failed = self.sprites.entries()
            listed["sprites"] = [(entry.name, entry.size) for entry in files]
            self._cutouts, unusable = cutouts(self.sprites, files, round(self.side * self.scale), EXTENTS[0][1])
            broken += failed + unusable
            if not self._cutouts:
                raise SettingsError(
                    f"{self.sprites.where}: no usable sprite there; RGBA pictures with a transparent background are needed"
                )
        if self.backdrops is not None:
            files, failed = self.backdrops.entries()
            listed["backgrounds"] = [(entry.name, entry.size) for entry in files]
            notes_of = notes(files)
            self._photos = [
                (entry, note(self.backdrops, notes_of, entry.name)) for entry in files if is_image(entry.name)
            ]
            self._damaged = {}
            broken += failed
            if not self._photos:
                raise SettingsError(
                    f"{self.backdrops.where}: no picture there; images are needed (jpg, png, webp, tif, gif or bmp)"
                )
        settings = [DRAWING, self.side, self.least, self.most, self.signs, self.scale, self.vocabulary_name, listed]
        return digest(settings, 8), broken

    def _scene(self, name: str, index: int) -> SourceImage:
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, index, attempt])
            pixels, things, background = self._compose(rng, self.least if attempt > ATTEMPTS // 2 else self.most)
            if things:
                truth = claims(rng, things, self.side, background.phrase)
                if self.questions:
                    labels = tuple(dict.fromkeys(cutout.label for cutout in self._cutouts)) or tuple(
                        self.vocabulary.shapes
                    )
                    truth += tuple(questions(rng, things, self.side, labels))
                return SourceImage(name, _jpeg(pixels), LICENCE, None, truth)
        raise ImageError(
            name,
            "unreadable",
            f"no arrangement found in {ATTEMPTS} attempts whose objects can be outlined; use fewer objects or less thin sprites",
        )

    def _compose(self, rng: np.random.Generator, most: int) -> tuple[np.ndarray, list[Thing], Background]:
        """One arrangement; no things where it did not work out."""
        background = self._background(rng)
        wanted = self.least + int(rng.integers(most - self.least + 1))
        sign = int(rng.integers(wanted + 1)) if rng.random() < self.signs else None
        owner = np.full((self.side, self.side), -1, np.int16)
        placed: list[Placed] = []
        for turn in range(wanted + (sign is not None)):
            item = self._sign(rng) if turn == sign else self._object(rng, background.ground)
            if self._put(rng, item, placed, owner, background.ground):
                owner[item.window()][item.figure.mask] = len(placed)
                placed.append(item)
        if sum(not item.words.get("lines") for item in placed) < self.least:
            return background.pixels, [], background
        picture = background.pixels.astype(np.float32)
        for item in placed:
            spot = picture[item.window()]
            spot += (item.figure.rgb - spot) * item.figure.alpha[..., None]
        things = _things(placed, owner)
        return np.clip(np.round(picture), 0, 255).astype(np.uint8), things, background

    def _background(self, rng: np.random.Generator) -> Background:
        if self.backdrops is None:
            return paint(self.vocabulary.backgrounds, rng, self.side)
        while len(self._damaged) < len(self._photos):
            entry, phrase = self._photos[int(rng.integers(len(self._photos)))]
            if entry.name in self._damaged:
                continue
            try:
                return Background(crop(rng, photo(self.backdrops, entry, self.side), self.side), phrase, None)
            except ImageError as error:
                self._damaged[entry.name] = error
        raise SettingsError(f"{self.backdrops.where}: every picture there is damaged; put whole ones in")

    def _object(self, rng: np.random.Generator, ground: int | None) -> Placed:
        word, low, high = EXTENTS[int(rng.integers(len(EXTENTS)))]
        size = (low + (high - low) * rng.random()) * self.scale * self.side
        if self._cutouts:
            cutout = self._cutouts[int(rng.integers(len(self._cutouts)))]
            figure = draw_cutout(cutout.rgba, size, (rng.random() * 2 - 1) * 6)
            return Placed(figure, {"label": cutout.label, "size": word}, upright=True)
        labels = tuple(self.vocabulary.shapes)
        label = labels[int(rng.integers(len(labels)))]
        shape = self.vocabulary.shapes[label]
        colour, texture = COLOURS[int(rng.integers(len(COLOURS)))], TEXTURES[max(int(rng.integers(5)) - 2, 0)]
        angle, action = _pose(rng, shape.turns)
        figure = draw_shape(rng, shape.draw(rng), colour, texture, self.side, size, angle)
        return Placed(
            figure,
            {"label": label, "size": word, "colour": colour, "texture": texture, "action": action},
            upright=action is None,
        )

    def _sign(self, rng: np.random.Generator) -> Placed:
        words, panels = self.vocabulary.words, ("white", "yellow", "blue", "green", "red", "black", "orange")
        lines = tuple(words[int(i)] for i in rng.integers(len(words), size=2 if rng.random() < 0.25 else 1))
        colour = panels[int(rng.integers(len(panels)))]
        return Placed(
            draw_sign(rng, lines, colour, self.side), {"label": self.vocabulary.panel, "colour": colour, "lines": lines}
        )

    def _put(
        self, rng: np.random.Generator, item: Placed, placed: list[Placed], owner: np.ndarray, ground: int | None
    ) -> bool:
        """Find a place that hides none of the others too much; False where there is none."""
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
                _stack(rng, item, placed)
            elif item.upright and ground is not None:
                _settle(rng, item, ground, self.side, stands)
            if item.x < 1 or item.y < 1 or item.x + width >= self.side or item.y + height >= self.side:
                continue
            if not _fair(item, placed, owner, alone and attempt < 7):
                continue
            if item.upright and "colour" in item.words:
                item.words["action"] = _action(item, ground, stands)
            return True
        return False


def _pose(rng: np.random.Generator, turns: str) -> tuple[float, str | None]:
    """An angle in degrees clockwise, and the word for it; None: upright."""
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


def _stack(rng: np.random.Generator, item: Placed, placed: list[Placed]) -> None:
    """Put it onto one of the others, touching."""
    item.on = int(rng.integers(len(placed)))
    base = placed[item.on]
    height, width = item.figure.mask.shape
    base_width = base.figure.mask.shape[1]
    item.x = base.x + (base_width - width) // 2 + round((rng.random() - 0.5) * 0.2 * base_width)
    item.y = (
        base.y + int(np.flatnonzero(base.figure.mask.any(1))[0]) - 1 - int(np.flatnonzero(item.figure.mask.any(1))[-1])
    )


def _settle(rng: np.random.Generator, item: Placed, ground: int, side: int, stands: bool) -> None:
    """Put its foot clearly below the horizon (standing) or clearly above it (floating)."""
    height, margin = item.figure.mask.shape[0], round(0.05 * side)
    low, high = (ground + margin, side - 2) if stands else (height + 1, ground - margin)
    item.y = low + int(rng.integers(max(high - low, 1))) - height if high >= low else -1


def _action(item: Placed, ground: int | None, stands: bool) -> str | None:
    if item.on is not None:
        return "standing"
    if ground is None:
        return None
    return ("rolling" if item.words["label"] in ROUND else "standing") if stands else "floating"


def _fair(item: Placed, placed: list[Placed], owner: np.ndarray, alone: bool) -> bool:
    """Whether every earlier object stays visible enough (signs wholly, and all of them where ``alone``) beside the new one."""
    hit = owner[item.window()][item.figure.mask]
    hit = hit[hit >= 0]
    if not hit.size:
        return True
    if alone or item.on is not None:
        return False
    hidden, shown = np.bincount(hit, minlength=len(placed)), np.bincount(owner[owner >= 0], minlength=len(placed))
    for order in np.flatnonzero(hidden):
        other = placed[order]
        # What something stands on must stay its visible support.
        if other.words.get("lines") or any(above.on == order for above in placed) or other.on is not None:
            return False
        if shown[order] - hidden[order] < (VISIBLE + 0.05) * int(other.figure.mask.sum()):
            return False
    return True


def _things(placed: list[Placed], owner: np.ndarray) -> list[Thing]:
    """The visible part of everything; an empty list where a part cannot be outlined."""
    covers = _covers(placed)
    result = []
    for order, item in enumerate(placed):
        mask = owner == order
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        polygons = mask_polygons(mask)
        if not polygons:
            return []
        quads = tuple(_moved(quad, item.x, item.y) for quad in item.figure.quads)
        result.append(
            Thing(
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


def _moved(quad: Quad, x: float, y: float) -> Quad:
    x0, y0, x1, y1, x2, y2, x3, y3 = quad
    return (x0 + x, y0 + y, x1 + x, y1 + y, x2 + x, y2 + y, x3 + x, y3 + y)


def _covers(placed: list[Placed]) -> list[frozenset[int]]:
    """For each object the earlier ones that it hides at least a twentieth of."""
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


def _jpeg(pixels: np.ndarray) -> bytes:
    import io

    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=92, subsampling=0)
    return target.getvalue()


def _whole(option: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong("scenes", option, value, f"a whole number from {low} to {high}")
    return value


def _share(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise wrong("scenes", option, value, "a number from 0 to 1")
    return float(value)


def _scale(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 1.5:
        raise wrong("scenes", "scale", value, "a number from 0.5 to 1.5")
    return float(value)


def _span(value: Any) -> tuple[int, int]:
    allowed = "two whole numbers [least, most] with 1 <= least <= most <= 12"
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or any(isinstance(v, bool) or not isinstance(v, int) for v in value)
    ):
        raise wrong("scenes", "objects", value, allowed)
    if not 1 <= value[0] <= value[1] <= 12:
        raise wrong("scenes", "objects", value, allowed)
    return value[0], value[1]
