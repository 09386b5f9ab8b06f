"""Describe a picture in words by templates: objects, how many, where, how big, of what color, and the text in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence.english import choose_article, pluralize
from florence.geometry import box_iou, rasterise
from florence.images import shrink
from florence.imaging.colours import colour_shares
from florence.records import Annotation, ImageRecord, Region
from florence.scene.objects import SceneObject, merge_objects, position_phrase, select_category, size_word

OcrLine = tuple[str, tuple[float, float], float]
"""A line of text in the picture: text, centre (x, y) in pixels, score."""
MAX_QUOTED_CHARACTERS = 60
"""Characters of a text that are quoted; of a longer text the first words are."""
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
WITHOUT_ARTICLE = frozenset(
    "trousers glasses sunglasses jeans pajamas binoculars trunks bars potato bread hay velvet wool".split()
)


def describe_scene(
    record: ImageRecord,
    pixels: np.ndarray,
    claims: Sequence[Annotation],
    min_score: float,
    min_alone: float,
    min_reading: float,
    most: int,
) -> SceneDescription:
    """Return what annotators found in an image (H, W, 3), uint8.

    ``most``: number of the best objects that are kept. ``min_score``: least score of an object; ``min_alone``: of an
    object that a single annotator named. ``min_reading``: least score of an OCR line.
    """
    objects = merge_objects(claims, min_score, min_alone)[:most]
    return SceneDescription(
        record,
        shrink(pixels, 256),
        objects,
        select_ocr_lines(claims, min_reading),
        _segmented_expressions(claims),
        None if objects else select_category(claims, min_score, min_alone),
    )


@dataclass(frozen=True)
class SceneDescription:
    """What is known of one picture, and captions made of it.

    ``pixels``: (h, w, 3), uint8, the picture shrunk. ``objects``: best first. ``ocr_lines``: in reading order.
    ``expressions``: pairs of a referring expression and its region with polygons. ``category``: what the whole picture
    is called, and its score, if no object was found.
    """

    record: ImageRecord
    pixels: np.ndarray
    objects: tuple[SceneObject, ...]
    ocr_lines: tuple[OcrLine, ...]
    expressions: tuple[tuple[str, Region], ...] = ()
    category: tuple[str, float] | None = None

    @property
    def score(self) -> float:
        """The captions' score: the mean of what they name, or the share of the two main colors if they name nothing."""
        scores = [item.score for item in self.objects] or [score for _, _, score in self.ocr_lines]
        if self.category:
            return self.category[1]
        if scores:
            return float(np.mean(scores))
        shares = list(colour_shares(self.pixels).values())
        return min(1.0, sum(shares[:2]))

    @property
    def is_grey(self) -> bool:
        """Whether the picture is black and white."""
        return float((self.pixels.max(axis=2) - self.pixels.min(axis=2)).mean()) < 3

    def colour_of(self, item: SceneObject) -> str:
        """Return the main color of an object; empty if none is, or if the surroundings have the same color."""
        inside, outside, is_segmented = self.object_mask(item)
        if self.is_grey or not inside.any():
            return ""
        name, share = next(iter(colour_shares(self.pixels[inside]).items()))
        around = colour_shares(self.pixels[outside]).get(name, 0.0) if outside.mean() >= 0.2 else 0.0
        return name if share >= (0.5 if is_segmented else 0.6) and around < 0.6 * share else ""

    def object_mask(self, item: SceneObject) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return masks (h, w), bool, of the object and of its surroundings, and whether the object was segmented.

        Of an object without polygons, an ellipse in its box is taken for the object, and what is outside its box for
        the surroundings.
        """
        height, width = self.pixels.shape[:2]
        scale = np.asarray([width / self.record.width, height / self.record.height])
        own = [region for text, region in self.expressions if text.endswith(f" {item.label}")]
        overlaps = box_iou(np.asarray(item.box), np.asarray([region.bounds for region in own]))[0]
        if len(own) and overlaps.max() >= 0.3:
            polygons = own[int(overlaps.argmax())].polygons
            mask = rasterise(
                [(np.asarray(p).reshape(-1, 2) * scale).reshape(-1).tolist() for p in polygons], width, height
            )
            return mask, ~mask, True
        (x0, y0), (x1, y1) = np.asarray(item.box).reshape(2, 2) * scale
        ys, xs = np.mgrid[:height, :width] + 0.5
        inside = ((xs - (x0 + x1) / 2) / max(0.4 * (x1 - x0), 0.5)) ** 2 + (
            (ys - (y0 + y1) / 2) / max(0.4 * (y1 - y0), 0.5)
        ) ** 2 <= 1
        return inside, (xs < x0) | (xs > x1) | (ys < y0) | (ys > y1), False

    def noun_phrase(self, item: SceneObject, with_size: bool = False) -> str:
        """Return an object's label with its color, and its size, before it."""
        words = [size_word(item.area_share(self.record)) if with_size else "", self.colour_of(item), item.label]
        return " ".join(dict.fromkeys(word for word in words if word))

    def text_clause(self, item: SceneObject) -> str:
        """Return the text on an object as the end of a phrase: ' that says "STOP"'."""
        x0, y0, x1, y1 = item.box
        texts = [text for text, (x, y), _ in self.ocr_lines if x0 <= x <= x1 and y0 <= y <= y1]
        return f" that says {_quote(texts)}" if texts else ""

    def full_phrase(self, item: SceneObject) -> str:
        """Return an object as a noun phrase with all that is known of it."""
        return f"{_with_article(self.noun_phrase(item, with_size=True))}{self.text_clause(item)}"

    def objects_by_label(self) -> list[list[SceneObject]]:
        """Return the objects of each label, in the order of the best object of each."""
        groups: dict[str, list[SceneObject]] = {}
        for item in self.objects:
            groups.setdefault(item.label, []).append(item)
        return list(groups.values())

    def group_phrase(self, group: list[SceneObject]) -> str:
        """Return objects of one label as a noun phrase."""
        if len(group) == 1:
            return _with_article(self.noun_phrase(group[0]))
        return f"{_number_word(len(group))} {pluralize(group[0].label)}"

    def palette(self) -> str:
        """Return the one or two colors of most of the picture; empty if it takes more."""
        (first, most), (second, more) = [*colour_shares(self.pixels).items(), ("", 0.0)][:2]
        if self.is_grey:
            return "black and white"
        return first if most >= 0.6 else f"{first} and {second}" if most + more >= 0.6 else ""

    def brief_caption(self) -> str:
        """Return a phrase."""
        groups = self.objects_by_label()
        if not groups:
            written = f" with the {_words_phrase([text for text, _, _ in self.ocr_lines])}" if self.ocr_lines else ""
            if self.category:
                return f"a picture of {_with_article(self.category[0])}{written}"
            palette = self.palette()
            return (f"{choose_article(palette)} {palette} picture" if palette else "a picture in many colors") + written
        clause = self.text_clause(groups[0][0]) if len(self.objects) == 1 else ""
        return " and ".join(self.group_phrase(group) for group in groups[:2]) + clause

    def detailed_caption(self) -> str:
        """Return two or three sentences."""
        groups = self.objects_by_label()
        sentences = [f"The picture shows {_with_article(self.category[0])}."] if self.category else []
        if groups:
            verb = "is" if len(groups[0]) == 1 else "are"
            where = f" {position_phrase(groups[0][0].centre, self.record)}" if len(groups[0]) == 1 else ""
            sentences.append(f"There {verb} {self.group_phrase(groups[0])}{where}.")
        if groups[1:]:
            verb = "is" if len(groups[1]) == 1 else "are"
            sentences.append(f"There {verb} also {_join([self.group_phrase(group) for group in groups[1:]])}.")
        if self.ocr_lines:
            words = _words_phrase([text for text, _, _ in self.ocr_lines])
            where = "" if len(self.ocr_lines) > 1 else " " + position_phrase(self.ocr_lines[0][1], self.record)
            sentences.append(f"The {words} can be read{where}.")
        palette = self.palette()
        sentences.append(
            f"The picture is {'in' if self.is_grey else 'mostly'} {palette}."
            if palette
            else "The picture is in many colors."
        )
        return " ".join(sentences)

    def more_detailed_caption(self) -> str:
        """Return a paragraph with all that is known, object by object."""
        count = len(self.objects)
        counted = f" with {_number_word(count)} object{'s' if count > 1 else ''}" if count else ""
        shown = f" of {_with_article(self.category[0])}" if self.category else ""
        width, height = self.record.width, self.record.height
        form = "wide" if width > 1.2 * height else "tall" if height > 1.2 * width else "square"
        sentences = [f"This is a {form} {'black and white ' if self.is_grey else ''}picture{counted or shown}."]
        for item in sorted(self.objects, key=lambda o: (o.centre, o.label)):
            where = position_phrase(item.centre, self.record)
            filling = ", filling most of the picture" if item.area_share(self.record) > 0.6 else ""
            sentences.append(f"{where[0].upper()}{where[1:]} there is {self.full_phrase(item)}{filling}.")
        for text, centre, _ in self.ocr_lines[:4]:
            sentences.append(f"The text {_quote([text])} is written {position_phrase(centre, self.record)}.")
        if not self.is_grey:
            shares = colour_shares(self.pixels)
            colours = [name for name, share in shares.items() if share >= 0.1][:3] or list(shares)[:1]
            sentences.append(
                f"The main color is {colours[0]}." if len(colours) == 1 else f"The main colors are {_join(colours)}."
            )
        return " ".join(sentences)


def _segmented_expressions(claims: Sequence[Annotation]) -> tuple[tuple[str, Region], ...]:
    rows = [row for row in claims if row.task == "<REFERRING_EXPRESSION_SEGMENTATION>" and row.regions]
    return tuple((row.text, row.regions[0]) for row in rows if row.regions[0].polygons)


def select_ocr_lines(claims: Sequence[Annotation], min_score: float) -> tuple[OcrLine, ...]:
    """Return the OCR lines of the annotator that read the most lines, from the top down."""
    readers: dict[str, list[Annotation]] = {}
    for row in claims:
        if row.task == "<OCR_WITH_REGION>" and row.regions:
            readers.setdefault(row.annotator, []).append(row)
    best = max(readers.values(), key=len, default=[])
    lines = []
    for row in best:
        x0, y0, x1, y1 = row.regions[0].bounds
        score = 1.0 if row.score is None else row.score
        if score >= min_score:
            lines.append((row.text, ((x0 + x1) / 2, (y0 + y1) / 2), score))
    return tuple(sorted(lines, key=lambda line: (line[1][1], line[1][0])))


def _quote(texts: Sequence[str]) -> str:
    """Return lines of text in quotes: all of them, or the first words of a long text."""
    whole = " ".join(texts).replace('"', "'")
    if len(whole) > MAX_QUOTED_CHARACTERS:
        whole = whole[:MAX_QUOTED_CHARACTERS].rsplit(" ", 1)[0] + " …"
    return f'"{whole}"'


def _words_phrase(texts: Sequence[str]) -> str:
    return f"word{'s' if len(texts) > 1 or ' ' in texts[0] else ''} {_quote(texts)}"


def _with_article(noun: str) -> str:
    """Return a noun with its article; plural and mass nouns have none."""
    return noun if noun.rsplit(" ", 1)[-1] in WITHOUT_ARTICLE else f"{choose_article(noun)} {noun}"


def _number_word(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
