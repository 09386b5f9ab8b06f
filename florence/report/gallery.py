"""Images for the report, chosen by rule and drawn with their labels and claims."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.draw import PALETTE, Colour, choose_colour, draw_regions, encode_jpeg, list_drawable_regions
from florence.geometry import box_iou
from florence.images import decode_image
from florence.records import (
    ANNOTATIONS,
    CAPTIONS,
    IMAGES,
    Annotation,
    ImageRecord,
    Region,
    table_annotations,
    table_images,
)
from florence.rounds import find_labels
from florence.store import Store

SIDE = 480
"""Pixels of the longer side of a drawn image."""
PER_SOURCE, MAX_CHANGED, MAX_UNCERTAIN = 12, 8, 8
"""Most images that are shown of each source, of those that changed, and of those with the lowest confidence."""
SAME_IOU = 0.5
"""IoU from which objects of two rounds are the same."""
ADDED: Colour = (40, 170, 90)
REMOVED: Colour = (225, 60, 60)
SAME: Colour = (150, 160, 175)
LOCATED = ("<OD>", "<OCR_WITH_REGION>", "<REFERRING_EXPRESSION_SEGMENTATION>")
CAPTION_NAMES = {"<CAPTION>": "brief", "<DETAILED_CAPTION>": "detailed", "<MORE_DETAILED_CAPTION>": "more detailed"}


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of a text. ``colour``: of the phrase's regions, as #rrggbb, or empty."""

    text: str
    colour: str = ""


@dataclass(frozen=True, slots=True)
class NamedText:
    """A text about an image, under a name."""

    name: str
    parts: tuple[TextPart, ...]


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """A drawn image as a data URI, with a title."""

    uri: str
    title: str


@dataclass(frozen=True, slots=True)
class ImageCard:
    """An image with its drawings and texts."""

    name: str
    about: str
    drawings: tuple[DrawnImage, ...]
    texts: tuple[NamedText, ...] = ()
    keys: tuple[TextPart, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceGallery:
    """The cards of one source. ``total``: number of its images."""

    source: str
    total: int
    cards: tuple[ImageCard, ...]


class SnapshotImages:
    """The images of a snapshot: their labels by round, claims, truth, and pixels."""

    def __init__(self, data: Store) -> None:
        self.data = data
        columns = [name for name in IMAGES.names if name != "bytes"]
        self.shards: dict[str, str] = {}
        self.records: dict[str, ImageRecord] = {}
        for name in data.names("images", ".parquet"):
            for record, _ in table_images(data.read_table(name, columns, schema=IMAGES)):
                self.shards[record.image_id], self.records[record.image_id] = name, record

    def read_labels(self, round: int) -> pa.Table:
        """Return all labels of a round; an empty table where the snapshot does not have that round."""
        name = find_labels(self.data, round)
        return self.data.read_table(name) if self.data.exists(name) else ANNOTATIONS.empty_table()

    def read_annotations(self, folder: str, image_ids: Sequence[str]) -> dict[str, list[Annotation]]:
        """Return the rows of ``claims`` or ``truth`` about some images, by image."""
        wanted = {self.shards[i].rsplit("/", 1)[-1] for i in image_ids}
        names = [name for name in self.data.names(folder, ".parquet") if name.rsplit("/", 1)[-1] in wanted]
        tables = [self.data.read_table(name, filters=[("image_id", "in", list(image_ids))]) for name in names]
        return group_by_image(pa.concat_tables(tables) if tables else ANNOTATIONS.empty_table())

    def read_pixels(self, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Return decoded images (H, W, 3) uint8 by id; every shard is read once."""
        result = {}
        for shard in sorted({self.shards[i] for i in image_ids}):
            ids = [i for i in image_ids if self.shards[i] == shard]
            for record, data in table_images(self.data.read_table(shard, filters=[("image_id", "in", ids)])):
                result[record.image_id] = decode_image(data or b"", record.name)
        return result


def group_by_image(table: pa.Table) -> dict[str, list[Annotation]]:
    """Return the annotations of a table by image, in the table's order."""
    result: dict[str, list[Annotation]] = {}
    for row in table_annotations(table):
        result.setdefault(row.image_id, []).append(row)
    return result


def select_images(table: pa.Table, image_ids: Sequence[str]) -> dict[str, list[Annotation]]:
    """Return the annotations of some images, by image."""
    return group_by_image(table.filter(pc.is_in(table["image_id"], pa.array(list(image_ids), pa.string()))))


def build_galleries(images: SnapshotImages, labels: pa.Table) -> tuple[SourceGallery, ...]:
    """Return some images of every source with their kept labels; sources without truth (photos) first.

    The images are the first by hash: a random draw that anybody can repeat.
    """
    by_source: dict[str, list[str]] = {}
    for image_id in sorted(images.records):
        by_source.setdefault(images.records[image_id].source, []).append(image_id)
    with_truth = {name.rsplit("/", 1)[-1].rsplit("-", 1)[0] for name in images.data.names("truth", ".parquet")}
    galleries = []
    for source in sorted(by_source, key=lambda s: (s in with_truth, s)):
        ids = by_source[source][:PER_SOURCE]
        pixels, rows = images.read_pixels(ids), select_images(labels, ids)
        cards = tuple(_card(images.records[i], pixels[i], [r for r in rows.get(i, []) if r.kept]) for i in ids)
        galleries.append(SourceGallery(source, len(by_source[source]), cards))
    return tuple(galleries)


def _card(record: ImageRecord, pixels: np.ndarray, rows: Sequence[Annotation]) -> ImageCard:
    located = [region for row in rows if row.task in LOCATED for region in list_drawable_regions(row)]
    drawings = [
        DrawnImage(
            encode_uri(draw_regions(pixels, located, side=SIDE)),
            "objects, masks, OCR lines" if located else "nothing located",
        )
    ]
    described = [
        region for row in rows if row.task == "<DENSE_REGION_CAPTION>" for region in list_drawable_regions(row)
    ]
    phrases = [row for row in rows if row.task == "<CAPTION_TO_PHRASE_GROUNDING>"]
    texts = [NamedText("category", (TextPart(row.text),)) for row in rows if row.task == "<CLASSIFICATION>"]
    texts += [
        NamedText(CAPTION_NAMES[task], mark_phrases(row.text, [p for p in phrases if p.text == row.text]))
        for task in CAPTIONS
        for row in rows
        if row.task == task
    ]
    if phrases:
        # Phrases of the longest caption cover those of the shorter ones and would only be drawn over each other.
        text = max((p.text for p in phrases), key=len)
        grounded = [region for p in phrases if p.text == text for region in list_drawable_regions(p)]
        drawings.append(DrawnImage(encode_uri(draw_regions(pixels, grounded, side=SIDE)), "phrases"))
    elif described:
        drawings.append(DrawnImage(encode_uri(draw_regions(pixels, described, side=SIDE)), "described regions"))
    texts += [NamedText("OCR line", (TextPart(row.text),)) for row in rows if row.task == "<OCR_WITH_REGION>"]
    return ImageCard(record.name, _describe(record), tuple(drawings), tuple(texts))


def mark_phrases(text: str, phrases: Iterable[Annotation]) -> tuple[TextPart, ...]:
    """Return ``text`` cut at the spans of its phrases, each in the colour of its regions; nested spans are left out."""
    spans = sorted({(r.span[0], r.span[1], r.label) for p in phrases for r in p.regions if r.span is not None})
    parts, at = [], 0
    for start, end, label in spans:
        if start < at or end <= start or end > len(text):
            continue
        if start > at:
            parts.append(TextPart(text[at:start]))
        parts.append(TextPart(text[start:end], format_css(choose_colour(label or text[start:end]))))
        at = end
    return (*parts, TextPart(text[at:])) if at < len(text) or not parts else tuple(parts)


@dataclass(frozen=True, slots=True)
class LabelChange:
    """The differences of the objects of one image between two rounds."""

    image_id: str
    same: tuple[Region, ...]
    removed: tuple[Region, ...]
    added: tuple[Region, ...]


def find_label_changes(before: pa.Table, after: pa.Table) -> tuple[LabelChange, ...]:
    """Return the images whose kept <OD> labels differ, the most changed first.

    Two labels are the same if their texts are equal and their IoU is at least 0.5 (one to one, greedily).
    """
    old, new = _objects(before), _objects(after)
    found = []
    for image_id in sorted(old.keys() | new.keys()):
        pairs, removed, added = match_objects(old.get(image_id, ()), new.get(image_id, ()))
        if removed or added:
            found.append(LabelChange(image_id, pairs, removed, added))
    return tuple(sorted(found, key=lambda c: (-len(c.removed) - len(c.added), c.image_id)))


def match_objects(
    before: Sequence[Region], after: Sequence[Region]
) -> tuple[tuple[Region, ...], tuple[Region, ...], tuple[Region, ...]]:
    """Return the regions of ``after`` that are in ``before``, those of ``before`` that are gone, and the new ones."""
    if not before or not after:
        return (), tuple(before), tuple(after)
    overlap = box_iou(np.array([r.bounds for r in before]), np.array([r.bounds for r in after]))
    overlap[np.array([[a.label != b.label for b in after] for a in before])] = 0
    gone, new, same = set(range(len(before))), set(range(len(after))), []
    while overlap.max() >= SAME_IOU:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[i, :] = overlap[:, j] = 0
        gone.discard(int(i))
        new.discard(int(j))
        same.append(int(j))
    return (
        tuple(after[j] for j in sorted(same)),
        tuple(before[i] for i in sorted(gone)),
        tuple(after[j] for j in sorted(new)),
    )


def _objects(table: pa.Table) -> dict[str, tuple[Region, ...]]:
    kept = table.filter(pc.and_(table["kept"], pc.equal(table["task"], "<OD>")))
    return {
        image_id: tuple(r for row in rows for r in list_drawable_regions(row))
        for image_id, rows in group_by_image(kept).items()
    }


def draw_changes(images: SnapshotImages, before: pa.Table, after: pa.Table) -> tuple[int, tuple[ImageCard, ...]]:
    """Return how many images changed, and cards of the most changed: before, after, and truth where there is any."""
    changed = find_label_changes(before, after)
    chosen = changed[:MAX_CHANGED]
    ids = [c.image_id for c in chosen]
    pixels, truth = images.read_pixels(ids), images.read_annotations("truth", ids)
    old, new = select_images(before, ids), select_images(after, ids)
    cards = []
    for change in chosen:
        image, record = pixels[change.image_id], images.records[change.image_id]
        left, right = (*change.same, *change.removed), (*change.same, *change.added)
        grey = [SAME] * len(change.same)
        drawings = [
            DrawnImage(
                encode_uri(draw_regions(image, left, colours=[*grey, *[REMOVED] * len(change.removed)], side=SIDE)),
                "before",
            ),
            DrawnImage(
                encode_uri(draw_regions(image, right, colours=[*grey, *[ADDED] * len(change.added)], side=SIDE)),
                "after",
            ),
        ]
        objects = [
            r for row in truth.get(change.image_id, []) if row.task == "<OD>" for r in list_drawable_regions(row)
        ]
        if objects:
            drawings.append(DrawnImage(encode_uri(draw_regions(image, objects, side=SIDE)), "truth"))
        texts = _list_caption_changes(old.get(change.image_id, []), new.get(change.image_id, []))
        cards.append(ImageCard(record.name, _describe(record), tuple(drawings), texts))
    return len(changed), tuple(cards)


def _list_caption_changes(before: Sequence[Annotation], after: Sequence[Annotation]) -> tuple[NamedText, ...]:
    texts = []
    for task in CAPTIONS:
        old, new = ([r.text for r in rows if r.task == task and r.kept] for rows in (before, after))
        if old != new:
            texts += [NamedText(f"{CAPTION_NAMES[task]}, before", (TextPart(text),)) for text in old or ["(none)"]]
            texts += [NamedText(f"{CAPTION_NAMES[task]}, after", (TextPart(text),)) for text in new or ["(none)"]]
    return tuple(texts)


def draw_uncertain_images(
    images: SnapshotImages, labels: pa.Table, annotators: Set[tuple[str, str]] = frozenset()
) -> tuple[ImageCard, ...]:
    """Return cards of the images whose objects have the lowest mean confidence: all claims, and the kept labels.

    ``annotators``: (name, version) of those of the round; without any, all claims are drawn.
    """
    rows = labels.filter(pc.and_(pc.equal(labels["task"], "<OD>"), pc.is_valid(labels["confidence"])))
    means = rows.group_by("image_id").aggregate([("confidence", "mean"), ("confidence", "count")])
    ranked = sorted(
        zip(
            means["confidence_mean"].to_pylist(),
            means["image_id"].to_pylist(),
            means["confidence_count"].to_pylist(),
            strict=True,
        )
    )
    chosen = [(image_id, mean, count) for mean, image_id, count in ranked if count > 1][:MAX_UNCERTAIN]
    ids = [image_id for image_id, _, _ in chosen]
    pixels, claims, fused = images.read_pixels(ids), images.read_annotations("claims", ids), select_images(labels, ids)
    cards = []
    for image_id, mean, _ in chosen:
        claimed = [
            row
            for row in claims.get(image_id, [])
            if row.task == "<OD>" and (not annotators or (row.annotator, row.version) in annotators)
        ]
        names = sorted({row.annotator for row in claimed})
        colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
        regions = [(region, colours[row.annotator]) for row in claimed for region in list_drawable_regions(row)]
        kept = [
            r for row in fused.get(image_id, []) if row.task == "<OD>" and row.kept for r in list_drawable_regions(row)
        ]
        drawings = (
            DrawnImage(
                encode_uri(
                    draw_regions(pixels[image_id], [r for r, _ in regions], colours=[c for _, c in regions], side=SIDE)
                ),
                "claimed",
            ),
            DrawnImage(encode_uri(draw_regions(pixels[image_id], kept, side=SIDE)), "kept" if kept else "nothing kept"),
        )
        record = images.records[image_id]
        keys = tuple(TextPart(name, format_css(colours[name])) for name in names)
        cards.append(ImageCard(record.name, f"{_describe(record)} · mean confidence {mean:.2f}", drawings, keys=keys))
    return tuple(cards)


def _describe(record: ImageRecord) -> str:
    return f"{record.source} · {record.split} · {record.width} × {record.height} · {record.licence}"


def format_css(colour: Colour) -> str:
    """Return a colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def encode_uri(pixels: np.ndarray) -> str:
    """Return an image (H, W, 3) uint8 as the data URI of a JPEG."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels)).decode("ascii")
