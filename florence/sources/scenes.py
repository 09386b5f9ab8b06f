"""Drawn scenes, whose truth is known exactly for every annotation type."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from florence.drawn_scenes.backgrounds import Background, paint_background
from florence.drawn_scenes.composition import EXTENTS, SceneComposer
from florence.drawn_scenes.figures import Cutout
from florence.drawn_scenes.questions import ask_questions
from florence.drawn_scenes.truth import make_claims
from florence.drawn_scenes.vocabularies import VOCABULARIES
from florence.errors import ImageError, SettingsError
from florence.images import is_image
from florence.records import digest
from florence.sources import SOURCES, Source, SourceImage, check_options, option_error
from florence.sources._files import Tree, TreeFile
from florence.sources._pictures import crop_square, find_notes, read_background, read_cutouts, read_note

LICENCE = "CC0-1.0 (drawn by Florence)"
DRAWING = 3
"""Part of every scene's name: raised when the same settings draw other pictures than before."""
ATTEMPTS = 24
"""Arrangements that are tried for one scene."""


@SOURCES.register("scenes")
class ScenesSource(Source):
    """Drawn scenes: named objects on varied backgrounds, with exact truth.

    ``count``: number of scenes. ``size``: pixels of a side. ``seed``. ``objects``: least and largest number of objects.
    ``signs``: probability of a written sign. ``scale``: 0.5 to 1.5, how large objects are; 1: as `EXTENTS` says.
    ``vocabulary``: "main", "pretrain" or "invented". ``sprites``: folder of RGBA cut-outs (PNG, WebP or TIFF) to use
    instead of drawn objects, named by a .txt beside them or by their file name (``grey_cat_2.png`` is a "grey cat"); a
    pixel belongs to the object if its alpha is above 127. ``backgrounds``: folder of images to use instead of drawn
    backgrounds, described by a .txt beside them, if there is one. ``questions``: whether the truth also has questions
    with their answers (<VQA>) and a category (<CLASSIFICATION>); this changes nothing else.

    Scene ``index`` depends only on seed, index and settings, never on ``count``. Of a folder, the names and sizes of
    its files count as settings. Raises SettingsError for a wrong option or a folder without a usable image,
    StoreError for a missing folder.
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
        self.total = _check_integer("count", values["count"], 0, 999_999)
        self.side = _check_integer("size", values["size"], 64, 2048)
        self.seed = _check_integer("seed", values["seed"], 0, 2**63 - 1)
        self.min_objects, self.max_objects = _check_range(values["objects"])
        self.sign_rate = _check_share("signs", values["signs"])
        self.scale = _check_scale(values["scale"])
        if values["vocabulary"] not in VOCABULARIES:
            raise option_error("scenes", "vocabulary", values["vocabulary"], " or ".join(VOCABULARIES))
        self.vocabulary_name: str = values["vocabulary"]
        self.vocabulary = VOCABULARIES[self.vocabulary_name]
        self.sprites = None if values["sprites"] is None else Tree("scenes", "sprites", values["sprites"])
        self.backgrounds = (
            None if values["backgrounds"] is None else Tree("scenes", "backgrounds", values["backgrounds"])
        )
        if not isinstance(values["questions"], bool):
            raise option_error("scenes", "questions", values["questions"], "true or false")
        self.questions: bool = values["questions"]
        self._cutouts: list[Cutout] = []
        self._background_files: list[tuple[TreeFile, str | None]] = []
        self._damaged: dict[str, ImageError] = {}

    def count(self) -> int:
        """Return the number of scenes."""
        return self.total

    def images(self, known: frozenset[str]) -> Iterator[SourceImage | ImageError]:
        """Yield scenes 0, 1, … without known ones, after an error for each sprite and background that is unusable."""
        key, errors = self._prepare()
        yield from errors
        for index in range(self.total):
            name = f"scene-{self.seed}-{index:06d}-{key}"
            if name in known:
                continue
            reported = len(self._damaged)
            try:
                yield self._scene(name, index)
            except ImageError as error:
                yield error
            yield from list(self._damaged.values())[reported:]

    def _prepare(self) -> tuple[str, list[ImageError]]:
        """Return the digest of everything scenes depend on, and an error for each file that cannot be used."""
        listed: dict[str, Any] = {}
        errors: list[ImageError] = []
        if self.sprites is not None:
            files, failed = self.sprites.entries()
            listed["sprites"] = [(entry.name, entry.size) for entry in files]
            self._cutouts, unusable = read_cutouts(self.sprites, files, round(self.side * self.scale), EXTENTS[0][1])
            errors += failed + unusable
            if not self._cutouts:
                raise SettingsError(
                    f"{self.sprites.where}: no usable sprite; RGBA images with a transparent background are needed"
                )
        if self.backgrounds is not None:
            files, failed = self.backgrounds.entries()
            listed["backgrounds"] = [(entry.name, entry.size) for entry in files]
            notes = find_notes(files)
            self._background_files = [
                (entry, read_note(self.backgrounds, notes, entry.name)) for entry in files if is_image(entry.name)
            ]
            self._damaged = {}
            errors += failed
            if not self._background_files:
                raise SettingsError(f"{self.backgrounds.where}: no image there (jpg, png, webp, tif, gif or bmp)")
        settings = [
            DRAWING,
            self.side,
            self.min_objects,
            self.max_objects,
            self.sign_rate,
            self.scale,
            self.vocabulary_name,
            listed,
        ]
        return digest(settings, 8), errors

    def _scene(self, name: str, index: int) -> SourceImage:
        composer = self.composer()
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, index, attempt])
            background = self._background(rng)
            max_objects = self.min_objects if attempt > ATTEMPTS // 2 else self.max_objects
            pixels, objects = composer.compose(rng, background, max_objects)
            if objects:
                truth = make_claims(rng, objects, self.side, background.phrase)
                if self.questions:
                    labels = tuple(dict.fromkeys(cutout.label for cutout in self._cutouts)) or tuple(
                        self.vocabulary.shapes
                    )
                    truth += tuple(ask_questions(rng, objects, self.side, labels))
                return SourceImage(name, _encode_jpeg(pixels), LICENCE, None, truth)
        raise ImageError(
            name,
            "unreadable",
            f"none of {ATTEMPTS} arrangements has polygons for every object; use fewer objects or less thin sprites",
        )

    def composer(self) -> SceneComposer:
        """Return the composer of these scenes."""
        return SceneComposer(
            self.vocabulary, self.side, self.min_objects, self.sign_rate, self.scale, tuple(self._cutouts)
        )

    def _background(self, rng: np.random.Generator) -> Background:
        if self.backgrounds is None:
            return paint_background(self.vocabulary.backgrounds, rng, self.side)
        while len(self._damaged) < len(self._background_files):
            entry, phrase = self._background_files[int(rng.integers(len(self._background_files)))]
            if entry.name in self._damaged:
                continue
            try:
                pixels = read_background(self.backgrounds, entry, self.side)
                return Background(crop_square(rng, pixels, self.side), phrase, None)
            except ImageError as error:
                self._damaged[entry.name] = error
        raise SettingsError(f"{self.backgrounds.where}: every image there is damaged")


def _encode_jpeg(pixels: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=92, subsampling=0)
    return target.getvalue()


def _check_integer(option: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise option_error("scenes", option, value, f"a whole number from {low} to {high}")
    return value


def _check_share(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise option_error("scenes", option, value, "a number from 0 to 1")
    return float(value)


def _check_scale(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 1.5:
        raise option_error("scenes", "scale", value, "a number from 0.5 to 1.5")
    return float(value)


def _check_range(value: Any) -> tuple[int, int]:
    allowed = "two whole numbers [least, most] with 1 <= least <= most <= 12"
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or any(isinstance(v, bool) or not isinstance(v, int) for v in value)
    ):
        raise option_error("scenes", "objects", value, allowed)
    if not 1 <= value[0] <= value[1] <= 12:
        raise option_error("scenes", "objects", value, allowed)
    return value[0], value[1]
