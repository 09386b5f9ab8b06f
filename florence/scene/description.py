"""What there is to tell of a picture, and the texts that templates make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence.english import choose_article, pluralize
from florence.geometry import box_iou, rasterise
from florence.images import shrink
from florence.records import Annotation, ImageRecord, Region
from florence.scene.objects import NUMBERS, Seen, colour_shares, objects, place, size

Line = tuple[str, tuple[float, float], float]
"""What is written: the text, the middle of its place in pixels, its score."""
LONG = 60
"""Characters of a text that are quoted; of a longer one the first line is."""


def picture(
    record: ImageRecord,
    pixels: np.ndarray,
    claims: Sequence[Annotation],
    min_score: float,
    min_alone: float,
    min_reading: float,
    most: int,
) -> Picture:
    """What others found in an image (H, W, 3), uint8: the ``most`` best of its objects of ``min_score`` (``min_alone`` where one annotator alone named it), and lines of ``min_reading``."""
    found = objects(claims, min_score, min_alone)[:most]
    return Picture(record, shrink(pixels, 256), found, read_lines(claims, min_reading), _outlines(claims))


@dataclass(frozen=True)
class Picture:
    """What there is to tell of one picture. ``pixels``: shrunk; ``lines``: (text, centre, score) of what is written, in reading order.

    ``outlines``: (expression, region with polygons).
    """

    record: ImageRecord
    pixels: np.ndarray
    found: tuple[Seen, ...]
    lines: tuple[Line, ...]
    outlines: tuple[tuple[str, Region], ...] = ()

    @property
    def score(self) -> float:
        """How sure the captions are."""
        scores = [seen.score for seen in self.found] or [score for _, _, score in self.lines]
        if scores:
            return float(np.mean(scores))
        shares = list(colour_shares(self.pixels).values())
        return min(1.0, sum(shares[:2]))

    @property
    def grey(self) -> bool:
        """Whether it is in black and white."""
        return float((self.pixels.max(axis=2) - self.pixels.min(axis=2)).mean()) < 3

    def colour(self, seen: Seen) -> str:
        """The colour of most of an object, or nothing where no colour is or where its surroundings have the same."""
        inside, outside, known = self.part(seen)
        if self.grey or not inside.any():
            return ""
        name, share = next(iter(colour_shares(self.pixels[inside]).items()))
        around = colour_shares(self.pixels[outside]).get(name, 0.0) if outside.mean() >= 0.2 else 0.0
        return name if share >= (0.5 if known else 0.6) and around < 0.6 * share else ""

    def part(self, seen: Seen) -> tuple[np.ndarray, np.ndarray, bool]:
        """The pixels (h, w), bool, that are of an object, those that are not, and whether that is known.

        It is where a mask was made; elsewhere an ellipse in the box is taken for the object, and what is outside the box for the rest.
        """
        height, width = self.pixels.shape[:2]
        scale = np.asarray([width / self.record.width, height / self.record.height])
        own = [region for text, region in self.outlines if text.endswith(f" {seen.label}")]
        fits = box_iou(np.asarray(seen.box), np.asarray([region.bounds for region in own]))[0]
        if len(own) and fits.max() >= 0.3:
            polygons = own[int(fits.argmax())].polygons
            mask = rasterise(
                [(np.asarray(p).reshape(-1, 2) * scale).reshape(-1).tolist() for p in polygons], width, height
            )
            return mask, ~mask, True
        (x0, y0), (x1, y1) = np.asarray(seen.box).reshape(2, 2) * scale
        ys, xs = np.mgrid[:height, :width] + 0.5
        inside = ((xs - (x0 + x1) / 2) / max(0.4 * (x1 - x0), 0.5)) ** 2 + (
            (ys - (y0 + y1) / 2) / max(0.4 * (y1 - y0), 0.5)
        ) ** 2 <= 1
        return inside, (xs < x0) | (xs > x1) | (ys < y0) | (ys > y1), False

    def noun(self, seen: Seen, sized: bool = False) -> str:
        """Its label with colour, and size, before it."""
        words = [size(seen.share(self.record)) if sized else "", self.colour(seen), seen.label]
        return " ".join(dict.fromkeys(word for word in words if word))

    def sign(self, seen: Seen) -> str:
        """What is written on an object, as the end of a phrase."""
        x0, y0, x1, y1 = seen.box
        texts = [text for text, (x, y), _ in self.lines if x0 <= x <= x1 and y0 <= y <= y1]
        return f" that says {_quoted(texts)}" if texts else ""

    def description(self, seen: Seen) -> str:
        """One object as a noun phrase with all that is known of it."""
        return f"{_a(self.noun(seen, sized=True))}{self.sign(seen)}"

    def kinds(self) -> list[list[Seen]]:
        """The objects by label, the most telling kind first."""
        groups: dict[str, list[Seen]] = {}
        for seen in self.found:
            groups.setdefault(seen.label, []).append(seen)
        return list(groups.values())

    def named(self, kind: list[Seen]) -> str:
        """Objects of one label as a noun phrase."""
        return _a(self.noun(kind[0])) if len(kind) == 1 else f"{_number(len(kind))} {pluralize(kind[0].label)}"

    def palette(self) -> str:
        """The one or two colours that most of the picture has; nothing where it takes more."""
        (first, most), (second, more) = [*colour_shares(self.pixels).items(), ("", 0.0)][:2]
        if self.grey:
            return "black and white"
        return first if most >= 0.6 else f"{first} and {second}" if most + more >= 0.6 else ""

    def brief(self) -> str:
        """A phrase."""
        kinds = self.kinds()
        if not kinds:
            written = f" with the {_words([text for text, _, _ in self.lines])}" if self.lines else ""
            palette = self.palette()
            return (f"{choose_article(palette)} {palette} picture" if palette else "a picture in many colors") + written
        alone = self.sign(kinds[0][0]) if len(self.found) == 1 else ""
        return " and ".join(self.named(kind) for kind in kinds[:2]) + alone

    def detailed(self) -> str:
        """Two or three sentences."""
        kinds = self.kinds()
        told = []
        if kinds:
            verb = "is" if len(kinds[0]) == 1 else "are"
            where = f" {place(kinds[0][0].centre, self.record)}" if len(kinds[0]) == 1 else ""
            told.append(f"There {verb} {self.named(kinds[0])}{where}.")
        if kinds[1:]:
            told.append(
                f"There {'is' if len(kinds[1]) == 1 else 'are'} also {_listed([self.named(kind) for kind in kinds[1:]])}."
            )
        if self.lines:
            told.append(
                f"The {_words([text for text, _, _ in self.lines])} can be read{'' if len(self.lines) > 1 else ' ' + place(self.lines[0][1], self.record)}."
            )
        palette = self.palette()
        told.append(
            f"The picture is {'in' if self.grey else 'mostly'} {palette}."
            if palette
            else "The picture is in many colors."
        )
        return " ".join(told)

    def paragraph(self) -> str:
        """All that is known, object by object."""
        count = len(self.found)
        things = f" with {_number(count)} object{'s' if count > 1 else ''}" if count else ""
        width, height = self.record.width, self.record.height
        form = "wide" if width > 1.2 * height else "tall" if height > 1.2 * width else "square"
        told = [f"This is a {form} {'black and white ' if self.grey else ''}picture{things}."]
        for seen in sorted(self.found, key=lambda s: (s.centre, s.label)):
            where = place(seen.centre, self.record)
            filling = ", filling most of the picture" if seen.share(self.record) > 0.6 else ""
            told.append(f"{where[0].upper()}{where[1:]} there is {self.description(seen)}{filling}.")
        for text, centre, _ in self.lines[:4]:
            told.append(f"The text {_quoted([text])} is written {place(centre, self.record)}.")
        if not self.grey:
            shares = colour_shares(self.pixels)
            colours = [name for name, share in shares.items() if share >= 0.1][:3] or list(shares)[:1]
            told.append(
                f"The main color is {colours[0]}." if len(colours) == 1 else f"The main colors are {_listed(colours)}."
            )
        return " ".join(told)


def _outlines(claims: Sequence[Annotation]) -> tuple[tuple[str, Region], ...]:
    rows = [row for row in claims if row.task == "<REFERRING_EXPRESSION_SEGMENTATION>" and row.regions]
    return tuple((row.text, row.regions[0]) for row in rows if row.regions[0].polygons)


def read_lines(claims: Sequence[Annotation], min_score: float) -> tuple[Line, ...]:
    """What was read, from the top down; of several readers the one who read most is believed."""
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


def _quoted(texts: Sequence[str]) -> str:
    """Lines of text in quotes: all of them, or the first words of a long text."""
    whole = " ".join(texts).replace('"', "'")
    if len(whole) > LONG:
        whole = whole[:LONG].rsplit(" ", 1)[0] + " …"
    return f'"{whole}"'


def _words(texts: Sequence[str]) -> str:
    return f"word{'s' if len(texts) > 1 or ' ' in texts[0] else ''} {_quoted(texts)}"


def _a(noun: str) -> str:
    """A noun with its article; plural ones have none."""
    plain = noun.rsplit(" ", 1)[-1] in (
        "trousers",
        "glasses",
        "sunglasses",
        "jeans",
        "pajamas",
        "binoculars",
        "trunks",
        "bars",
        "potato",
        "bread",
        "hay",
        "velvet",
        "wool",
    )
    return noun if plain else f"{choose_article(noun)} {noun}"


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
