"""Pictures for the report: chosen by rule, never by hand, and drawn with what was said of them."""

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
from florence.store import Store

SIDE = 480
PER_SOURCE = 12
CHANGED = 8
DISPUTED = 8
SAME_PLACE = 0.5
ADDED: Colour = (40, 170, 90)
REMOVED: Colour = (225, 60, 60)
SAME: Colour = (150, 160, 175)
PLACES = ("<OD>", "<OCR_WITH_REGION>", "<REFERRING_EXPRESSION_SEGMENTATION>")
NAMES = {"<CAPTION>": "brief", "<DETAILED_CAPTION>": "detailed", "<MORE_DETAILED_CAPTION>": "more detailed"}


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of a text; ``colour`` is that of the phrase's regions, as #rrggbb, or empty."""

    text: str
    colour: str = ""


@dataclass(frozen=True, slots=True)
class NamedText:
    """One text about a picture, under its name."""

    name: str
    parts: tuple[TextPart, ...]


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """A drawn picture as a data URI, and what it shows."""

    uri: str
    title: str


@dataclass(frozen=True, slots=True)
class ImageCard:
    """An image with its drawn pictures and texts."""

    name: str
    about: str
    pictures: tuple[DrawnImage, ...]
    lines: tuple[NamedText, ...] = ()
    keys: tuple[TextPart, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceGallery:
    """The cards of one source; ``total``: how many images the source has."""

    source: str
    total: int
    cards: tuple[ImageCard, ...]


class SnapshotImages:
    """What a snapshot says of its images: labels by round, claims, truth, and the images when they are asked for."""

    def __init__(self, data: Store) -> None:
        self.data = data
        columns = [name for name in IMAGES.names if name != "bytes"]
        self.shards: dict[str, str] = {}
        self.records: dict[str, ImageRecord] = {}
        for name in data.names("images", ".parquet"):
            for record, _ in table_images(data.read_table(name, columns, schema=IMAGES)):
                self.shards[record.image_id], self.records[record.image_id] = name, record

    def labels(self, round: int) -> pa.Table:
        """All labels of a round; an empty table where the snapshot does not have that round."""
        name = f"labels/round={round}/labels.parquet"
        return self.data.read_table(name) if self.data.exists(name) else ANNOTATIONS.empty_table()

    def said(self, folder: str, image_ids: Sequence[str]) -> dict[str, list[Annotation]]:
        """The rows of ``claims`` or ``truth`` about some images, by image."""
        wanted = {self.shards[i].rsplit("/", 1)[-1] for i in image_ids}
        names = [name for name in self.data.names(folder, ".parquet") if name.rsplit("/", 1)[-1] in wanted]
        tables = [self.data.read_table(name, filters=[("image_id", "in", list(image_ids))]) for name in names]
        return group_by_image(pa.concat_tables(tables) if tables else ANNOTATIONS.empty_table())

    def pixels(self, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Decoded images (H, W, 3) by id; every shard is read once."""
        result = {}
        for shard in sorted({self.shards[i] for i in image_ids}):
            ids = [i for i in image_ids if self.shards[i] == shard]
            for record, data in table_images(self.data.read_table(shard, filters=[("image_id", "in", ids)])):
                result[record.image_id] = decode_image(data or b"", record.name)
        return result


def group_by_image(table: pa.Table) -> dict[str, list[Annotation]]:
    """Annotations of a table by image, in the table's order."""
    result: dict[str, list[Annotation]] = {}
    for row in table_annotations(table):
        result.setdefault(row.image_id, []).append(row)
    return result


def select_images(table: pa.Table, image_ids: Sequence[str]) -> dict[str, list[Annotation]]:
    """The annotations of some images, by image."""
    return group_by_image(table.filter(pc.is_in(table["image_id"], pa.array(list(image_ids), pa.string()))))


def gallery(pictures: SnapshotImages, labels: pa.Table) -> tuple[SourceGallery, ...]:
    """Some images of every source with their kept labels; sources without known truth (photos) first.

    The images are the first by hash, which is a draw at random that everybody can repeat.
    """
    by_source: dict[str, list[str]] = {}
    for image_id in sorted(pictures.records):
        by_source.setdefault(pictures.records[image_id].source, []).append(image_id)
    known = {name.rsplit("/", 1)[-1].rsplit("-", 1)[0] for name in pictures.data.names("truth", ".parquet")}
    groups = []
    for source in sorted(by_source, key=lambda s: (s in known, s)):
        ids = by_source[source][:PER_SOURCE]
        pixels, rows = pictures.pixels(ids), select_images(labels, ids)
        cards = tuple(_card(pictures.records[i], pixels[i], [r for r in rows.get(i, []) if r.kept]) for i in ids)
        groups.append(SourceGallery(source, len(by_source[source]), cards))
    return tuple(groups)


def _card(record: ImageRecord, pixels: np.ndarray, rows: Sequence[Annotation]) -> ImageCard:
    places = [region for row in rows if row.task in PLACES for region in list_drawable_regions(row)]
    shown = [
        DrawnImage(
            _uri(draw_regions(pixels, places, side=SIDE)), "objects, masks, read text" if places else "nothing located"
        )
    ]
    described = [
        region for row in rows if row.task == "<DENSE_REGION_CAPTION>" for region in list_drawable_regions(row)
    ]
    phrases = [row for row in rows if row.task == "<CAPTION_TO_PHRASE_GROUNDING>"]
    lines = [
        NamedText(NAMES[task], mark_phrases(row.text, [p for p in phrases if p.text == row.text]))
        for task in CAPTIONS
        for row in rows
        if row.task == task
    ]
    if phrases:
        # Phrases of the longest caption cover those of the shorter ones and would only be drawn over each other.
        text = max((p.text for p in phrases), key=len)
        grounded = [region for p in phrases if p.text == text for region in list_drawable_regions(p)]
        shown.append(DrawnImage(_uri(draw_regions(pixels, grounded, side=SIDE)), "phrases"))
    elif described:
        shown.append(DrawnImage(_uri(draw_regions(pixels, described, side=SIDE)), "described regions"))
    lines += [NamedText("reads", (TextPart(row.text),)) for row in rows if row.task == "<OCR_WITH_REGION>"]
    return ImageCard(record.name, _about(record), tuple(shown), tuple(lines))


def mark_phrases(text: str, phrases: Iterable[Annotation]) -> tuple[TextPart, ...]:
    """``text`` cut at the spans of its phrases, each in the colour its regions are drawn in; a span inside another is left out."""
    spans = sorted({(r.span[0], r.span[1], r.label) for p in phrases for r in p.regions if r.span is not None})
    parts, at = [], 0
    for start, end, label in spans:
        if start < at or end <= start or end > len(text):
            continue
        if start > at:
            parts.append(TextPart(text[at:start]))
        parts.append(TextPart(text[start:end], css_colour(choose_colour(label or text[start:end]))))
        at = end
    return (*parts, TextPart(text[at:])) if at < len(text) or not parts else tuple(parts)


@dataclass(frozen=True, slots=True)
class LabelChange:
    """What differs in the objects of one image between two rounds."""

    image_id: str
    same: tuple[Region, ...]
    removed: tuple[Region, ...]
    added: tuple[Region, ...]


def find_label_changes(before: pa.Table, after: pa.Table) -> tuple[LabelChange, ...]:
    """Images whose kept <OD> labels differ, the most changed first.

    Two labels are the same if their texts are equal and their boxes overlap by at least 0.5 (one to one, greedily).
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
    """Regions of ``after`` that were there before, of ``before`` that are gone, of ``after`` that are new."""
    if not before or not after:
        return (), tuple(before), tuple(after)
    overlap = box_iou(np.array([r.bounds for r in before]), np.array([r.bounds for r in after]))
    overlap[np.array([[a.label != b.label for b in after] for a in before])] = 0
    gone, fresh, same = set(range(len(before))), set(range(len(after))), []
    while overlap.max() >= SAME_PLACE:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[i, :] = overlap[:, j] = 0
        gone.discard(int(i))
        fresh.discard(int(j))
        same.append(int(j))
    return (
        tuple(after[j] for j in sorted(same)),
        tuple(before[i] for i in sorted(gone)),
        tuple(after[j] for j in sorted(fresh)),
    )


def _objects(table: pa.Table) -> dict[str, tuple[Region, ...]]:
    kept = table.filter(pc.and_(table["kept"], pc.equal(table["task"], "<OD>")))
    return {
        image_id: tuple(r for row in rows for r in list_drawable_regions(row))
        for image_id, rows in group_by_image(kept).items()
    }


def draw_changes(pictures: SnapshotImages, before: pa.Table, after: pa.Table) -> tuple[int, tuple[ImageCard, ...]]:
    """How many images changed, and the most changed ones: before, after, and the truth where it is known."""
    changed = find_label_changes(before, after)
    chosen = changed[:CHANGED]
    ids = [c.image_id for c in chosen]
    pixels, truth = pictures.pixels(ids), pictures.said("truth", ids)
    old, new = select_images(before, ids), select_images(after, ids)
    cards = []
    for change in chosen:
        image, record = pixels[change.image_id], pictures.records[change.image_id]
        left, right = (*change.same, *change.removed), (*change.same, *change.added)
        grey = [SAME] * len(change.same)
        shown = [
            DrawnImage(
                _uri(draw_regions(image, left, colours=[*grey, *[REMOVED] * len(change.removed)], side=SIDE)), "before"
            ),
            DrawnImage(
                _uri(draw_regions(image, right, colours=[*grey, *[ADDED] * len(change.added)], side=SIDE)), "after"
            ),
        ]
        objects = [
            r for row in truth.get(change.image_id, []) if row.task == "<OD>" for r in list_drawable_regions(row)
        ]
        if objects:
            shown.append(DrawnImage(_uri(draw_regions(image, objects, side=SIDE)), "truth"))
        lines = _caption_changes(old.get(change.image_id, []), new.get(change.image_id, []))
        cards.append(ImageCard(record.name, _about(record), tuple(shown), lines))
    return len(changed), tuple(cards)


def _caption_changes(before: Sequence[Annotation], after: Sequence[Annotation]) -> tuple[NamedText, ...]:
    lines = []
    for task in CAPTIONS:
        old, new = ([r.text for r in rows if r.task == task and r.kept] for rows in (before, after))
        if old != new:
            lines += [NamedText(f"{NAMES[task]}, before", (TextPart(text),)) for text in old or ["(none)"]]
            lines += [NamedText(f"{NAMES[task]}, after", (TextPart(text),)) for text in new or ["(none)"]]
    return tuple(lines)


def draw_uncertain_images(
    pictures: SnapshotImages, labels: pa.Table, annotator_quality: Set[tuple[str, str]] = frozenset()
) -> tuple[ImageCard, ...]:
    """The images whose objects the annotators agree on least: what each of them said, and what became of it.

    ``annotators``: (name, version) of those who took part in the round; everybody's claims are drawn where it is empty.
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
    chosen = [(image_id, mean, count) for mean, image_id, count in ranked if count > 1][:DISPUTED]
    ids = [image_id for image_id, _, _ in chosen]
    pixels, claims, fused = pictures.pixels(ids), pictures.said("claims", ids), select_images(labels, ids)
    cards = []
    for image_id, mean, _ in chosen:
        said = [
            row
            for row in claims.get(image_id, [])
            if row.task == "<OD>" and (not annotator_quality or (row.annotator, row.version) in annotator_quality)
        ]
        names = sorted({row.annotator for row in said})
        colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
        regions = [(region, colours[row.annotator]) for row in said for region in list_drawable_regions(row)]
        kept = [
            r for row in fused.get(image_id, []) if row.task == "<OD>" and row.kept for r in list_drawable_regions(row)
        ]
        shown = (
            DrawnImage(
                _uri(
                    draw_regions(pixels[image_id], [r for r, _ in regions], colours=[c for _, c in regions], side=SIDE)
                ),
                "claimed",
            ),
            DrawnImage(_uri(draw_regions(pixels[image_id], kept, side=SIDE)), "kept" if kept else "nothing kept"),
        )
        record = pictures.records[image_id]
        keys = tuple(TextPart(name, css_colour(colours[name])) for name in names)
        cards.append(ImageCard(record.name, f"{_about(record)} · mean agreement {mean:.2f}", shown, keys=keys))
    return tuple(cards)


def _about(record: ImageRecord) -> str:
    return f"{record.source} · {record.split} · {record.width} × {record.height} · {record.licence}"


def css_colour(colour: Colour) -> str:
    """A colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _uri(pixels: np.ndarray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels)).decode("ascii")
