"""The values that modules exchange: frozen, typed, in pixels of the upright image; and their Arrow form.

One `Annotation` is the smallest thing that gets a verdict of its own: one object, one line of text, one caption, one
phrase of a caption. Its ``task`` names its kind, one of `ANNOTATION_TYPES`; the other tasks' examples are derived from these.
"""

from __future__ import annotations

import hashlib
import json
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
"""Tasks that the paper reaches by fine-tuning. They are drawn, and scored, only where settings name them."""

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
"""The tasks that are annotated; every other task is derived from one of them.

<OD>: text = label, one region with a box (polygons where a mask is known). <DENSE_REGION_CAPTION>: text = description,
one region with a box. Captions: text alone. <CAPTION_TO_PHRASE_GROUNDING>: text = the caption, the regions of one
phrase of it (label = phrase, span = its characters). <OCR_WITH_REGION>: text = the string, one region with a quad.
<REFERRING_EXPRESSION_SEGMENTATION>: text = the expression, one region with polygons.
"""
ANNOTATION_TYPES: tuple[str, ...] = (*BASE_TYPES, *FINE_TUNED)
"""Every kind that an annotation may have. Those of `FINE_TUNED` are there where somebody gives them, and asked for nowhere by default.

<VQA>: text = the question, a region for each answer that was given to it (label = answer, box = the whole image). <CLASSIFICATION>: text = the
image's category, one region of that label with the whole image's box.
"""

CAPTIONS: tuple[str, ...] = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
SPLITS: tuple[str, ...] = ("train", "held_out", "gold")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What is known of one image. ``image_id``: SHA-256 of its bytes, hex. ``width``, ``height``: upright pixels.

    ``name``: its path within its source. ``source``: the key of its source in params.yaml. ``phash``: perceptual hash (`florence.images.perceptual_hash`).
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
    """A place in an image and what is said of it. ``box``, ``quad``, ``polygons``: pixels; ``score``: 0…1 or None.

    ``span``: start and end character of ``label`` in the annotation's text, for phrases.
    """

    label: str
    box: Box | None = None
    quad: Quad | None = None
    polygons: tuple[Polygon, ...] = ()
    score: float | None = None
    span: tuple[int, int] | None = None

    @property
    def bounds(self) -> Box:
        """The box, or the smallest box around the quad or polygons. Raises DataError where there is no place at all."""
        if self.box is not None:
            return self.box
        if self.quad is not None:
            return polygon_box(self.quad)
        if self.polygons:
            return polygon_box([v for polygon in self.polygons for v in polygon])
        raise DataError(f"region {self.label!r} has neither box, quad nor polygons")


@dataclass(frozen=True, slots=True)
class Claim:
    """What an annotator says, before it has an identity; ``task`` is one of `ANNOTATION_TYPES`."""

    task: str
    text: str
    regions: tuple[Region, ...] = ()
    score: float | None = None


ClaimsOrError = list[Claim] | FlorenceError
"""An annotator's answer about one image: its claims, or why there are none. After `UnavailableError` a later run asks again."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One claim or label about one image. ``score``: the annotator's own confidence 0…1; ``agreement``: the consensus's 0…1.

    ``kept`` and ``reason`` are the verdict on it: claims carry kept=True, reason="" until the engine has judged.
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
    kept: bool = True
    reason: str = ""

    def judged(self, verdict: Verdict) -> Annotation:
        """The same annotation under a verdict."""
        return replace(self, kept=verdict.kept, reason=verdict.reason)


ROLES: tuple[str, ...] = ("annotator", "ranker", "human")


@dataclass(frozen=True, slots=True)
class AnnotatorProfile:
    """Who an annotator is to the consensus. ``role``: an annotator has a vote, a ranker tells how well texts fit what they are about, a human is right.

    ``vocabulary``: the names that it can give to objects; None: any. Of what it has no name for, its silence says nothing.
    """

    name: str
    role: str = "annotator"
    vocabulary: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Keep or drop; a drop always has a reason (a short snake_case label)."""

    kept: bool
    reason: str = ""

    def __post_init__(self) -> None:
        if self.kept == bool(self.reason):
            raise ValueError(f"a verdict is kept, or dropped with a reason: {self!r}")


KEEP = Verdict(True)


def drop(reason: str) -> Verdict:
    """A verdict that drops, for ``reason``."""
    return Verdict(False, reason)


def digest(value: Any, length: int = 16) -> str:
    """First ``length`` hex digits of the SHA-256 of ``value`` as canonical JSON (or of bytes as they are)."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(data).hexdigest()[:length]


def annotation_id(image_id: str, task: str, annotator: str, version: str, index: int) -> str:
    """The identity of an annotator's ``index``-th claim of one kind about an image; the same claim gets the same id again."""
    return annotation_ids([image_id], [task], annotator, version, [index])[0]


def annotation_ids(
    image_ids: Iterable[str], tasks: Iterable[str], annotator: str, version: str, indices: Iterable[int]
) -> list[str]:
    """`annotation_id` of many."""
    end, sha256 = f"|{annotator}|{version}|", hashlib.sha256
    return [
        sha256(f"{image_id}|{task}{end}{index}".encode()).hexdigest()[:16]
        for image_id, task, index in zip(image_ids, tasks, indices, strict=True)
    ]


def annotate(
    image_id: str, claims: Iterable[Claim], annotator: str, version: str, round: int = 0
) -> tuple[Annotation, ...]:
    """Claims about one image as annotations of ``annotator`` at ``version``; ids follow from the order within each kind."""
    seen: dict[str, int] = {}
    result = []
    for claim in claims:
        index = seen[claim.task] = seen.get(claim.task, -1) + 1
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
        ("kept", pa.bool_()),
        ("reason", pa.string()),
    ]
)
"""Claims, labels and truth have this one schema."""
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
"""Image shards: a record's fields and the file's bytes as they were found. Shards from before there was a hash lack that column."""
RECORD_COLUMNS: list[str] = [name for name in IMAGES.names if name != "bytes"]


def annotations_table(annotations: Iterable[Annotation]) -> pa.Table:
    """Annotations as an Arrow table of schema `ANNOTATIONS`."""
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
    """The annotations of a table of schema `ANNOTATIONS`. Raises DataError where a column is missing."""
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
    """Records, with bytes where the column was read, of a table of schema `IMAGES`."""
    fields = [name for name in IMAGES.names if name in table.column_names or name not in ("bytes", "phash")]
    fields = [name for name in fields if name != "bytes"]
    payload = table["bytes"] if "bytes" in table.column_names else None
    for index, values in enumerate(zip(*(table[name].to_pylist() for name in fields), strict=True)):
        yield ImageRecord(*values), payload[index].as_py() if payload is not None else None
