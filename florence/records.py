"""The values that modules exchange: frozen, typed, in pixels of the upright image; and their Arrow tables.

One `Annotation` is the smallest unit that is kept or dropped: one object, one OCR line, one caption, one phrase of a
caption. Its ``task`` is its annotation type, one of `ANNOTATION_TYPES`; other tasks' examples are derived from these.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from florence.errors import DataError, FlorenceError
from florence.geometry import Box, Polygon, Quad, polygon_box

TASKS: tuple[str, ...] = (
    "<CAPTION>",
    "<DETAILED_CAPTION>",
    "<MORE_DETAILED_CAPTION>",
    "<OD>",
    "<DENSE_REGION_CAPTION>",
    "<REGION_PROPOSAL>",
    "<CAPTION_TO_PHRASE_GROUNDING>",
    "<REFERRING_EXPRESSION_SEGMENTATION>",
    "<REGION_TO_SEGMENTATION>",
    "<OPEN_VOCABULARY_DETECTION>",
    "<REGION_TO_CATEGORY>",
    "<REGION_TO_DESCRIPTION>",
    "<REGION_TO_OCR>",
    "<OCR>",
    "<OCR_WITH_REGION>",
)
"""The fifteen tasks (paper, appendix; prompts as published)."""
FINE_TUNED: tuple[str, ...] = ("<VQA>", "<CLASSIFICATION>")
"""Tasks that the paper fine-tunes for. They are trained and scored only if the settings name them."""

BASE_TYPES: tuple[str, ...] = (
    "<OD>",
    "<DENSE_REGION_CAPTION>",
    "<CAPTION>",
    "<DETAILED_CAPTION>",
    "<MORE_DETAILED_CAPTION>",
    "<CAPTION_TO_PHRASE_GROUNDING>",
    "<OCR_WITH_REGION>",
    "<REFERRING_EXPRESSION_SEGMENTATION>",
)
"""The annotation types every annotator may be asked for, named by the task each is an example of as it stands.

Examples of all other tasks are derived from them. What an annotation of each type holds:

- <OD>: one object. text = label; one region with a box, and polygons if a mask is known.
- <DENSE_REGION_CAPTION>: text = description of a region; one region with a box.
- <CAPTION>, <DETAILED_CAPTION>, <MORE_DETAILED_CAPTION>: text = caption; no region.
- <CAPTION_TO_PHRASE_GROUNDING>: one phrase. text = the caption; the regions of the phrase (label = phrase, span = its
  characters).
- <OCR_WITH_REGION>: one OCR line. text = the characters; one region with a quad.
- <REFERRING_EXPRESSION_SEGMENTATION>: text = the expression; one region with polygons.
"""
ANNOTATION_TYPES: tuple[str, ...] = (*BASE_TYPES, *FINE_TUNED)
"""Every annotation type. Those of `FINE_TUNED` come from people, data sets or annotators of tags; no example of them is
made by default.

- <VQA>: text = the question; a region for each answer to it (label = answer, box = the whole image).
- <CLASSIFICATION>: text = the image's category; one region with that label and the whole image's box.
"""

CAPTIONS: tuple[str, ...] = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
NAMED_TYPES: tuple[str, ...] = ("<OD>", "<CLASSIFICATION>")
"""Annotation types whose texts are names of classes, of which every character counts."""
SPLITS: tuple[str, ...] = ("train", "held_out", "gold")

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp", "Zs"))
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
"""Characters of other categories that show nothing: joiners, fillers, variation selectors, the empty braille cell."""

HUMAN, STUDENT, CONSENSUS = "human", "student", "consensus"
"""Names of annotators: all people together, the model of the round before, and the engine's consensus."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """The facts about one image.

    ``image_id``: SHA-256 of its bytes, hex. ``width``, ``height``: pixels of the upright image. ``source``: key of its
    source in params.yaml. ``name``: its path within the source. ``split``: one of `SPLITS`. ``phash``: its
    `florence.images.perceptual_hash`.
    """

    image_id: str
    width: int
    height: int
    source: str
    name: str
    licence: str
    alt_text: str | None
    split: str
    phash: str | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A region of an image and its label. ``box``, ``quad``, ``polygons``: pixels; ``score``: 0…1 or None.

    ``span``: first character of ``label`` in the annotation's text, and the one after its last; for phrases.
    """

    label: str
    box: Box | None = None
    quad: Quad | None = None
    polygons: tuple[Polygon, ...] = ()
    score: float | None = None
    span: tuple[int, int] | None = None

    @property
    def bounds(self) -> Box:
        """The box, or the smallest box around the quad or the polygons. Raises DataError if there is none of them."""
        if self.box is not None:
            return self.box
        if self.quad is not None:
            return polygon_box(self.quad)
        if self.polygons:
            return polygon_box([v for polygon in self.polygons for v in polygon])
        raise DataError(f"region {self.label!r} has neither box, quad nor polygons")


@dataclass(frozen=True, slots=True)
class Claim:
    """One annotator's annotation of an image, before it has an id; ``task`` is one of `ANNOTATION_TYPES`."""

    task: str
    text: str
    regions: tuple[Region, ...] = ()
    score: float | None = None


ClaimsOrError = list[Claim] | FlorenceError
"""An annotator's answer about one image: claims, or an error; after `UnavailableError` a later run asks again."""


class PartialClaims(list[Claim]):
    """Claims about an image that was looked at for some annotation types alone.

    ``looked_at``: these types. Of others the annotator says nothing there, not even that there is nothing.
    """

    def __init__(self, claims: Iterable[Claim], looked_at: Iterable[str]) -> None:
        super().__init__(claims)
        self.looked_at = tuple(looked_at)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One claim or label of one image.

    ``score``: the score that the annotator gives its claim, 0…1, not calibrated.

    ``confidence``: the consensus's estimate of how likely the label is right, 0…1; None for claims. It has three
    estimators: the posterior (objects, regions, phrases, OCR), the weighted word overlap with the annotators' captions
    (captions), the share of the weights (answers, categories). A label by a person has 1.

    ``agreement``: of the annotators that were asked about the image and can claim the label, the share that claims the
    same, 0…1. It decides nothing. People count, rankers do not; for answers, the annotators that answered count. It is
    None for claims, for truth, and with fewer than two such annotators. The same is the same text in the cluster, the
    same answer, or a caption that is similar by `engine.min_caption_overlap` or more.

    ``kept``, ``reason``: whether the label is kept, and the drop reason if not. Claims have ``kept=True, reason=""``.
    """

    annotation_id: str
    image_id: str
    task: str
    annotator: str
    version: str
    round: int
    text: str
    regions: tuple[Region, ...] = ()
    score: float | None = None
    confidence: float | None = None
    agreement: float | None = None
    kept: bool = True
    reason: str = ""


ROLES: tuple[str, ...] = ("annotator", "ranker", "human")


@dataclass(frozen=True, slots=True)
class AnnotatorProfile:
    """What the consensus has to know about an annotator.

    ``role``: an annotator has a vote, a ranker scores how well texts fit an image or region, a human is always right.
    ``vocabulary``: the object names it can claim; None: any. That it claims no object it has no name for means nothing.
    ``family``: annotators of one family share training data or method, so they share mistakes and together count for
    little more than one; empty: a family of its own. ``complete``: of a person, every object of an image that it looked
    at is labelled, so that what it leaves out is not there. ``names_only``: its claims have the boxes of others' claims
    and names of its own, evidence about a name, none about an object or its box.
    """

    name: str
    role: str = "annotator"
    vocabulary: tuple[str, ...] | None = None
    family: str = ""
    complete: bool = False
    names_only: bool = False


def normalize_label(text: str) -> str:
    """Return an object's name in the one form that is kept: composed Unicode (NFC), white space as one blank.

    Case and every other character stay. `annotate` applies it to the names of every claim.
    """
    return text if text.isalnum() and text.isascii() else " ".join(unicodedata.normalize("NFC", text).split())


def fold_label(text: str) -> str:
    """Return ``text`` in the form in which labels are compared: case-folded, NFC, white space as single spaces."""
    folded = text.casefold()
    return " ".join((folded if folded.isascii() else unicodedata.normalize("NFC", folded)).split())


def is_blank(text: str) -> bool:
    """Return whether a text has nothing to be seen: white space, controls, joiners and fillers alone, or no character.

    A sign (``+``), an emoji and a single combining mark are seen.
    """
    return all(character in _INVISIBLE or unicodedata.category(character) in _UNSEEN for character in text)


def _normalize_names(claim: Claim) -> Claim:
    """Return a claim with the names of objects and categories in their one form; other texts stay as they are."""
    if claim.task not in NAMED_TYPES:
        return claim
    text = normalize_label(claim.text)
    regions = tuple(
        region if (label := normalize_label(region.label)) == region.label else replace(region, label=label)
        for region in claim.regions
    )
    return claim if text == claim.text and regions == claim.regions else replace(claim, text=text, regions=regions)


def digest(value: Any, length: int = 16) -> str:
    """Return the first ``length`` hex digits of the SHA-256 of ``value`` as canonical JSON (of bytes, as they are)."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(data).hexdigest()[:length]


def annotation_id(image_id: str, task: str, annotator: str, version: str, index: int) -> str:
    """Return the id of an annotator's ``index``-th claim of one annotation type about an image."""
    return annotation_ids([image_id], [task], annotator, version, [index])[0]


def annotation_ids(
    image_ids: Iterable[str], tasks: Iterable[str], annotator: str, version: str, indices: Iterable[int]
) -> list[str]:
    """Return the `annotation_id` of many claims of one annotator."""
    end, sha256 = f"|{annotator}|{version}|", hashlib.sha256
    return [
        sha256(f"{image_id}|{task}{end}{index}".encode()).hexdigest()[:16]
        for image_id, task, index in zip(image_ids, tasks, indices, strict=True)
    ]


def annotate(
    image_id: str, claims: Iterable[Claim], annotator: str, version: str, round: int = 0
) -> tuple[Annotation, ...]:
    """Return the claims about one image as annotations; their ids follow from the order within each annotation type.

    The names of objects and categories get the form of `normalize_label`.
    """
    last_index: dict[str, int] = {}
    result = []
    for claim in map(_normalize_names, claims):
        index = last_index[claim.task] = last_index.get(claim.task, -1) + 1
        result.append(
            Annotation(
                annotation_id(image_id, claim.task, annotator, version, index),
                image_id,
                claim.task,
                annotator,
                version,
                round,
                claim.text,
                claim.regions,
                claim.score,
            )
        )
    return tuple(result)


REGION = pa.struct(
    [
        ("label", pa.string()),
        ("box", pa.list_(pa.float64())),
        ("quad", pa.list_(pa.float64())),
        ("polygons", pa.list_(pa.list_(pa.float64()))),
        ("score", pa.float64()),
        ("span", pa.list_(pa.int32())),
    ]
)
ANNOTATIONS = pa.schema(
    [
        ("annotation_id", pa.string()),
        ("image_id", pa.string()),
        ("task", pa.string()),
        ("annotator", pa.string()),
        ("version", pa.string()),
        ("round", pa.int32()),
        ("text", pa.string()),
        ("regions", pa.list_(REGION)),
        ("score", pa.float64()),
        ("confidence", pa.float64()),
        ("agreement", pa.float64()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
    ]
)
"""The schema of claims, labels and truth."""
IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source", pa.string()),
        ("name", pa.string()),
        ("licence", pa.string()),
        ("alt_text", pa.string()),
        ("split", pa.string()),
        ("phash", pa.string()),
        ("bytes", pa.binary()),
    ]
)
"""The schema of image shards: the fields of a record and the unchanged bytes of the file. Old shards lack ``phash``."""
RECORD_COLUMNS: list[str] = [name for name in IMAGES.names if name != "bytes"]


def annotations_table(annotations: Iterable[Annotation]) -> pa.Table:
    """Return annotations as an Arrow table of schema `ANNOTATIONS`."""
    rows = list(annotations)
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in ANNOTATIONS.names if name != "regions"
    }
    columns["regions"] = [
        [
            {"label": r.label, "box": r.box, "quad": r.quad, "polygons": r.polygons, "score": r.score, "span": r.span}
            for r in row.regions
        ]
        for row in rows
    ]
    return pa.table({name: columns[name] for name in ANNOTATIONS.names}, schema=ANNOTATIONS)


def table_annotations(table: pa.Table) -> list[Annotation]:
    """Return the annotations of a table of schema `ANNOTATIONS`. Raises DataError if a column is missing."""
    missing = set(ANNOTATIONS.names) - set(table.column_names)
    if missing:
        raise DataError(f"not a table of annotations: columns {sorted(missing)} are missing")
    columns = [table[name].to_pylist() for name in ANNOTATIONS.names]
    position = ANNOTATIONS.names.index("regions")
    columns[position] = [tuple(_region(value) for value in regions or ()) for regions in columns[position]]
    return [Annotation(*values) for values in zip(*columns, strict=True)]


def _region(value: dict[str, Any]) -> Region:
    return Region(
        label=value["label"],
        box=tuple(value["box"]) if value["box"] is not None else None,
        quad=tuple(value["quad"]) if value["quad"] is not None else None,
        polygons=tuple(tuple(points) for points in value["polygons"] or ()),
        score=value["score"],
        span=tuple(value["span"]) if value["span"] is not None else None,
    )


def table_images(table: pa.Table) -> Iterator[tuple[ImageRecord, bytes | None]]:
    """Yield the records of a table of schema `IMAGES`, with bytes if that column was read."""
    fields = [name for name in IMAGES.names if name in table.column_names or name not in ("bytes", "phash")]
    fields = [name for name in fields if name != "bytes"]
    payload = table["bytes"] if "bytes" in table.column_names else None
    for index, values in enumerate(zip(*(table[name].to_pylist() for name in fields), strict=True)):
        yield ImageRecord(*values), payload[index].as_py() if payload is not None else None
