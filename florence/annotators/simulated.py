"""An annotator made of the truth and declared errors, so that what the loop gains can be measured.

Its answer is a pure function of (truth, image, annotator's name, seed, options): every object, caption and sign draws from a
stream of random numbers of its own, so neither the batch nor another option changes what is drawn for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, cast

import numpy as np
from pydantic import Field, field_validator

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among
from florence.config import Section
from florence.english import choose_article, pluralize
from florence.geometry import Box, Polygon, Quad, box_iou
from florence.records import (
    ANNOTATION_TYPES,
    BASE_TYPES,
    CAPTIONS,
    FINE_TUNED,
    Annotation,
    Claim,
    ImageRecord,
    Region,
    digest,
)

LABELS = (
    "apple",
    "ball",
    "balloon",
    "banana",
    "bear",
    "bell",
    "bicycle",
    "bird",
    "boat",
    "book",
    "bottle",
    "box",
    "bus",
    "car",
    "cat",
    "chair",
    "clock",
    "cloud",
    "cow",
    "cup",
    "dog",
    "duck",
    "fish",
    "flag",
    "flower",
    "hat",
    "horse",
    "house",
    "key",
    "kite",
    "lamp",
    "leaf",
    "moon",
    "mushroom",
    "person",
    "phone",
    "pizza",
    "plane",
    "rocket",
    "sheep",
    "shoe",
    "star",
    "sun",
    "table",
    "train",
    "tree",
    "truck",
    "umbrella",
)
"""What objects are mistaken for where the options name no labels."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "grey")
LOOKALIKES: dict[str, str] = {
    pair[0]: pair[1]
    for pair in (
        "O0",
        "0O",
        "I1",
        "1I",
        "S5",
        "5S",
        "B8",
        "8B",
        "Z2",
        "2Z",
        "G6",
        "6G",
        "EF",
        "FE",
        "CG",
        "MN",
        "NM",
        "UV",
        "VU",
        "PR",
        "RP",
        "o0",
        "l1",
        "s5",
        "ec",
        "ce",
        "nm",
        "mn",
        "uv",
        "vu",
        "hb",
        "bh",
        "ij",
        "ji",
        "tf",
        "ft",
    )
}
OVERLAP = 0.6
"""IoU from which a region of another kind is the same object as one of <OD>: both then share one fate."""


@ANNOTATORS.register("simulated")
class Simulated(Annotator):
    """Truth with declared errors, as an annotator of that reliability would tell it."""

    needs = frozenset({"truth"})
    tasks = BASE_TYPES
    revision = 2

    class Options(Section):
        """Declared error rates; all shares and probabilities are per object, phrase, word or character."""

        missed: float = Field(
            0.2, ge=0, le=1, description="share of objects and signs not seen, and of questions not answered"
        )
        mislabelled: float = Field(
            0.15, ge=0, le=1, description="share of the seen objects given a wrong label, and of wrong answers"
        )
        invented: float = Field(0.1, ge=0, le=1, description="objects that are not there, as a share of those that are")
        shifted: float = Field(
            0.1,
            ge=0,
            le=0.5,
            description="mean |shift| of a box along each axis as a share of its side; its sides change by half as much",
        )
        alt_noise: float = Field(
            0.2,
            ge=0,
            le=1,
            description="probability that a phrase or word of a caption is dropped or wrong, or that a caption carries boilerplate",
        )
        misread: float = Field(
            0.05,
            ge=0,
            le=1,
            description="probability that a character of a sign, or of an answer that says what is written, is read wrong",
        )
        skill: float = Field(
            0.2,
            ge=0,
            le=1,
            description="how well the score tells right from wrong: their means differ by this much; with a score_noise of 0.15, an area under the curve of 0.83",
        )
        score_noise: float = Field(0.15, ge=0, le=1, description="standard deviation of the score around that mean")
        labels: tuple[str, ...] = Field(
            (), description="labels that objects are mistaken for; none: a built-in list of common names"
        )
        tasks: Annotated[tuple[str, ...], among(ANNOTATION_TYPES)] = Field(
            BASE_TYPES, description="kinds it claims; where not set, answers and categories too if the truth has them"
        )
        seed: int = Field(0, ge=0, description="changes every draw")
        twin: str = Field(
            "",
            description="name of an annotator whose draws it shares, as two versions of one model make the same mistakes; empty: none",
        )
        shared: float = Field(
            0.8, ge=0, le=1, description="share of the objects, captions and signs that it tells by the twin's draws"
        )

        @field_validator("labels")
        @classmethod
        def _labels(cls, values: tuple[str, ...]) -> tuple[str, ...]:
            if len(set(values)) == 1:
                raise ValueError("one label cannot be mistaken for another; give two or more, or none")
            return values

    def __init__(self, *, name: str, **options) -> None:
        super().__init__(name=name, **options)
        self.tasks = ANNOTATION_TYPES if self.options.tasks == BASE_TYPES else self.options.tasks

    def ingredients(self) -> dict[str, str]:
        """Its name: it is part of every draw."""
        return {"annotator": self.name}

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """The truth about each image as this annotator tells it."""
        return [_Teller(self, record, truth).tell() for record, truth in zip(batch.records, batch.truth, strict=True)]


@dataclass(frozen=True, slots=True)
class _Fate:
    """What becomes of one object: where it is seen, and as what; ``wrong`` is None where the label is right."""

    seen: bool
    before: Box
    after: Box
    wrong: str | None
    score: float
    label: str = ""

    def moved(self, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points carried along as the box goes from before to after."""
        (ax, ay, bx, by), (cx, cy, dx, dy) = self.before, self.after
        return (
            np.clip(cx + (xs - ax) * (dx - cx) / max(bx - ax, 1e-9), cx, dx),
            np.clip(cy + (ys - ay) * (dy - cy) / max(by - ay, 1e-9), cy, dy),
        )

    def polygon(self, points: Polygon) -> Polygon:
        xs, ys = self.moved(np.asarray(points[0::2], float), np.asarray(points[1::2], float))
        return tuple(float(v) for v in np.stack([xs, ys], axis=1).reshape(-1))

    def region(self, region: Region, label: str, *, polygons: bool, score: bool = True) -> Region:
        """``region`` as it is seen: each shape it has, moved."""
        return Region(
            label,
            box=cast(Box, self.polygon(region.box)) if region.box is not None else None,
            quad=cast(Quad, self.polygon(region.quad)) if region.quad is not None else None,
            polygons=tuple(self.polygon(p) for p in region.polygons) if polygons else (),
            score=self.score if score else None,
        )


class _Teller:
    """One annotator in front of one image."""

    def __init__(self, annotator: Simulated, record: ImageRecord, truth: tuple[Annotation, ...]) -> None:
        self.o = annotator.options
        self.annotator, self.record = annotator.name, record
        self.tasks = annotator.tasks
        self.truth = [row for row in truth if row.task in ANNOTATION_TYPES]
        own = [row.text for row in self._of("<OD>")]
        self.labels = tuple(sorted(set(self.o.labels or (*LABELS, *own))))
        self.fates = [
            self._fate(row.regions[0].bounds, row.text, "object", i) for i, row in enumerate(self._of("<OD>"))
        ]
        self.places = np.asarray([fate.before for fate in self.fates], float).reshape(-1, 4)

    def tell(self) -> list[Claim]:
        told: dict[str, Callable[[], list[Claim]]] = {
            "<OD>": self._objects,
            "<DENSE_REGION_CAPTION>": lambda: self._described("<DENSE_REGION_CAPTION>", polygons=False),
            "<REFERRING_EXPRESSION_SEGMENTATION>": lambda: self._described(
                "<REFERRING_EXPRESSION_SEGMENTATION>", polygons=True
            ),
            "<OCR_WITH_REGION>": self._signs,
        }
        claims = [claim for task, tell in told.items() if task in self.o.tasks for claim in tell()]
        return claims + self._captions() + self._answers()

    def _of(self, task: str) -> list[Annotation]:
        return [row for row in self.truth if row.task == task]

    def _stream(self, *key: object) -> np.random.Generator:
        if self.o.twin and self._draws(self.o.twin, "shared", *key).random() < self.o.shared:
            return self._draws(self.o.twin, *key)
        return self._draws(self.annotator, *key)

    def _draws(self, annotator: str, *key: object) -> np.random.Generator:
        return np.random.default_rng([self.o.seed, int(digest([annotator, self.record.image_id, *map(str, key)]), 16)])

    # ------------------------------------------------------------ objects

    def _fate(self, box: Box, label: str, *key: object) -> _Fate:
        draw = self._stream("fate", *key)
        missed, confused, choice = draw.random(3)
        after = self._jitter(box, draw)
        wrong = self._mistaken(label, choice) if label and confused < self.o.mislabelled else None
        return _Fate(missed >= self.o.missed, box, after, wrong, self._score(draw, wrong is None), label)

    def _jitter(self, box: Box, draw: np.random.Generator) -> Box:
        # E|N(0, s)| = s·√(2/π)
        spread = self.o.shifted * math.sqrt(math.pi / 2)
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

    def _mistaken(self, label: str, choice: float) -> str:
        others = [other for other in self.labels if other != label]
        return others[min(int(choice * len(others)), len(others) - 1)]

    def _score(self, draw: np.random.Generator, right: bool | float) -> float:
        mean = 0.5 + self.o.skill * (float(right) - 0.5)
        return float(np.clip(mean + draw.normal(0, 1) * self.o.score_noise, 0.01, 1.0))

    def _objects(self) -> list[Claim]:
        claims = []
        polygons = "<REFERRING_EXPRESSION_SEGMENTATION>" in self.o.tasks
        for row, fate in zip(self._of("<OD>"), self.fates, strict=True):
            if fate.seen:
                label = fate.wrong or row.text
                claims.append(
                    Claim("<OD>", label, (fate.region(row.regions[0], label, polygons=polygons),), fate.score)
                )
        return claims + [claim for index in range(len(self.fates)) for claim in self._invented(index)]

    def _invented(self, index: int) -> list[Claim]:
        draw = self._stream("invented", index)
        happens, choice, place_x, place_y, *stretch = draw.random(6)
        if happens >= self.o.invented:
            return []
        x0, y0, x1, y1 = self.fates[index].before
        w = min((x1 - x0) * (0.7 + 0.6 * stretch[0]), self.record.width)
        h = min((y1 - y0) * (0.7 + 0.6 * stretch[1]), self.record.height)
        left, top = place_x * (self.record.width - w), place_y * (self.record.height - h)
        label, score = self._mistaken("", choice), self._score(draw, False)
        return [Claim("<OD>", label, (Region(label, box=(left, top, left + w, top + h), score=score),), score)]

    def _fate_at(self, box: Box, *key: object) -> _Fate:
        """The fate of the object at ``box``; where <OD> has none there, one of its own."""
        if len(self.places):
            overlap = box_iou(np.asarray([box]), self.places)[0]
            if overlap.max() >= OVERLAP:
                # the box may differ a little from <OD>'s, so it is moved along by its own extent
                fate = self.fates[int(overlap.argmax())]
                return replace(fate, before=box, after=_carried(fate, box, self.record))
        return self._fate(box, "", *key)

    def _described(self, task: str, *, polygons: bool) -> list[Claim]:
        claims = []
        for index, row in enumerate(self._of(task)):
            fate = self._fate_at(row.regions[0].bounds, task, index)
            if fate.seen:
                text = _renamed(row.text, fate.label, fate.wrong) if fate.wrong else row.text
                claims.append(Claim(task, text, (fate.region(row.regions[0], text, polygons=polygons),), fate.score))
        return claims

    # ------------------------------------------------------------ signs

    def _signs(self) -> list[Claim]:
        claims = []
        for index, row in enumerate(self._of("<OCR_WITH_REGION>")):
            fate = self._fate(row.regions[0].bounds, "", "sign", index)
            if not fate.seen:
                continue
            draw = self._stream("misread", index)
            read = [self._character(c, draw) for c in row.text]
            text = "".join(read).strip()
            if not text:
                continue
            right = sum(a == b for a, b in zip(read, row.text, strict=True)) / len(read)
            fate = replace(fate, score=self._score(draw, right))
            claims.append(
                Claim("<OCR_WITH_REGION>", text, (fate.region(row.regions[0], text, polygons=False),), fate.score)
            )
        return claims

    def _character(self, character: str, draw: np.random.Generator) -> str:
        happens, how, which = draw.random(3)
        if happens >= self.o.misread:
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

    # ------------------------------------------------------------ answers

    def _answers(self) -> list[Claim]:
        """Questions answered and images put into a category, keyed by what is asked."""
        claims = []
        for task in FINE_TUNED:
            for row in self._of(task) if task in self.tasks else ():
                draw = self._stream(task, row.text if task == "<VQA>" else "")
                missed, confused, choice = draw.random(3)
                answer = row.regions[0].label
                said = self._misanswered(row.text, answer, choice)
                if said is None:
                    said = "".join(self._character(c, draw) for c in answer).strip()
                elif confused >= self.o.mislabelled:
                    said = answer
                score = self._score(draw, said == answer)
                if missed >= self.o.missed and said:
                    region = replace(row.regions[0], label=said, score=score)
                    claims.append(Claim(task, row.text if task == "<VQA>" else said, (region,), score))
        return claims

    def _misanswered(self, question: str, answer: str, choice: float) -> str | None:
        """A wrong answer of the same sort; None where the answer is something read, whose characters are wrong or right one by one."""
        if answer in ("yes", "no"):
            return "no" if answer == "yes" else "yes"
        if answer.isdigit() and question.lower().startswith("how many"):
            return str(max(int(answer) + (1 if choice < 0.5 else -1), 0) if answer != "0" else 1)
        if answer in COLOURS:
            others = [c for c in COLOURS if c not in (answer, "grey")]
            return others[int(choice * len(others))]
        return self._mistaken(answer, choice) if answer in self.labels else None

    # ------------------------------------------------------------ captions

    def _captions(self) -> list[Claim]:
        claims, grounded = [], []
        for task in CAPTIONS:
            for index, row in enumerate(self._of(task)):
                text, phrases, score = self._noisy(task, index, row.text)
                if text and task in self.o.tasks:
                    claims.append(Claim(task, text, (), score))
                if text and "<CAPTION_TO_PHRASE_GROUNDING>" in self.o.tasks:
                    grounded += [claim for span, regions in phrases if (claim := self._grounded(text, span, regions))]
        return claims + grounded

    def _noisy(
        self, task: str, index: int, text: str
    ) -> tuple[str, list[tuple[tuple[int, int], tuple[Region, ...]]], float]:
        """A caption as alt text has it; the phrases left in it with their regions, and a score."""
        units = _units(text, self._phrases(text))
        out, phrases, untouched = "", [], 0
        capital = text[:1].isupper()
        draws = self._stream("caption", task, index).random((len(units), 3))
        for (unit, regions), draw in zip(units, draws.tolist(), strict=True):
            said = self._unit(unit, bool(regions), draw)
            untouched += said == unit
            if not said:
                continue
            if capital and not out:
                said = said[:1].upper() + said[1:]
            glue = "" if not out or re.match(r"[.,;:!?)]", said) else " "
            start = len(out) + len(glue)
            out += glue + said
            if regions:
                phrases.append(((start, start + len(said)), regions))
        draw = self._stream("boilerplate", task, index)
        if not re.search(r"\w", out):
            return "", [], 0.0
        out, moved = self._boilerplate(out, draw)
        score = self._score(draw, untouched / len(units))
        return out, [((a + moved, b + moved), regions) for (a, b), regions in phrases], score

    def _phrases(self, text: str) -> list[tuple[tuple[int, int], tuple[Region, ...]]]:
        """The truth's phrases of a caption, in order, those that overlap an earlier one left out."""
        rows = [row for row in self._of("<CAPTION_TO_PHRASE_GROUNDING>") if row.text == text and row.regions]
        spans = [(row.regions[0].span, row.regions) for row in rows if row.regions[0].span is not None]
        result: list[tuple[tuple[int, int], tuple[Region, ...]]] = []
        for span, regions in sorted(spans, key=lambda pair: pair[0]):
            if not result or span[0] >= result[-1][0][1]:
                result.append((span, regions))
        return result

    def _unit(self, unit: str, phrase: bool, draw: Sequence[float]) -> str:
        """A phrase or word as it is told: as it is, dropped, or wrong. ``draw``: three numbers, 0…1."""
        happens, how, which = draw
        if happens >= self.o.alt_noise or not re.search(r"\w", unit):
            return unit
        if how < 0.4:
            return ""
        colour = next((word for word in re.findall(r"\w+", unit) if word.lower() in COLOURS), None)
        if colour and (how < 0.7 or not phrase):
            others = [c for c in COLOURS if c not in (colour.lower(), "grey")]
            return _renamed(unit, colour, others[int(which * len(others))])
        if not phrase:
            return ""
        known = {row.text for row in self._of("<OD>")}
        named = [label for label in known if re.search(_word(label), unit, re.IGNORECASE)]
        head = max(named, key=lambda label: (len(label), label), default=re.findall(r"\w+", unit)[-1])
        return _renamed(unit, head, self._mistaken(head, which))

    def _boilerplate(self, text: str, draw: np.random.Generator) -> tuple[str, int]:
        """``text`` with what web pages put around an alt text, and how far that moved it."""
        happens, how, number = draw.random(3)
        if happens >= self.o.alt_noise:
            return text, 0
        n = int(number * 9000) + 1000
        front, back = [
            ("photo of ", ""),
            ("Image: ", ""),
            (f"IMG_{n}.jpg ", ""),
            (f"DSC0{n}.JPG - ", ""),
            ("", " | stock photo"),
            ("", f" #{n}"),
            ("", " - buy online"),
            ("picture of ", f" ({n}x{n // 2})"),
        ][int(how * 8)]
        return front + text + back, len(front)

    def _grounded(self, text: str, span: tuple[int, int], regions: tuple[Region, ...]) -> Claim | None:
        phrase = text[span[0] : span[1]]
        seen = []
        for region in regions:
            # keyed by place, not by order: the same place has one fate in every caption
            fate = self._fate_at(region.bounds, "place", *(round(v, 3) for v in region.bounds))
            if fate.seen:
                seen.append(replace(fate.region(region, phrase, polygons=False), span=span))
        if not seen:
            return None
        return Claim(
            "<CAPTION_TO_PHRASE_GROUNDING>",
            text,
            tuple(seen),
            sum(r.score for r in seen if r.score is not None) / len(seen),
        )


def _carried(fate: _Fate, box: Box, record: ImageRecord) -> Box:
    """Where ``box`` goes when the object it belongs to is moved by ``fate``."""
    (ax, ay, bx, by), (cx, cy, dx, dy) = fate.before, fate.after
    sx, sy = (dx - cx) / max(bx - ax, 1e-9), (dy - cy) / max(by - ay, 1e-9)
    x0, x1 = (min(max(cx + (v - ax) * sx, 0.0), float(record.width)) for v in (box[0], box[2]))
    y0, y1 = (min(max(cy + (v - ay) * sy, 0.0), float(record.height)) for v in (box[1], box[3]))
    return (x0, y0, x1, y1)


def _units(
    text: str, phrases: list[tuple[tuple[int, int], tuple[Region, ...]]]
) -> list[tuple[str, tuple[Region, ...]]]:
    """``text`` cut into phrases (with their regions) and, between them, words and punctuation."""
    units: list[tuple[str, tuple[Region, ...]]] = []
    position = 0
    for (start, end), regions in [*phrases, ((len(text), len(text)), ())]:
        units += [(word, ()) for word in re.findall(r"[\w'’\"-]+|[^\w\s]", text[position:start])]
        if end > start:
            units.append((text[start:end], regions))
        position = end
    return units


@lru_cache(maxsize=4096)
def _word(label: str) -> str:
    return rf"(?<!\w)(?:{re.escape(pluralize(label))}|{re.escape(label)})(?!\w)"


def _renamed(text: str, label: str, other: str) -> str:
    """``text`` with the word ``label`` (or its plural) replaced by ``other``, and a/an put right before it.

    Where ``label`` does not occur, as with a description that never names its object, the text stays as it is.
    """
    found = re.search(_word(label), text, re.IGNORECASE) if label else None
    if found is None:
        return text
    many = found.group().lower() == pluralize(label).lower() != label.lower()
    word = pluralize(other) if many else other
    if found.group()[:1].isupper():
        word = word[:1].upper() + word[1:]
    front = text[: found.start()]
    before = re.search(r"(?<!\w)([Aa])n?\s+$", front)
    if before:
        front = front[: before.start()] + before.group(1) + choose_article(word)[1:] + " "
    return front + word + text[found.end() :]
