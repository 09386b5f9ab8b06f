"""Collect: take new images from the sources into the working store, with a reason for each file that is rejected."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from florence.config import Settings
from florence.errors import ImageError, SettingsError
from florence.images import decode_image, perceptual_hash
from florence.progress import Progress, show_nothing
from florence.records import IMAGES, RECORD_COLUMNS, Annotation, Claim, ImageRecord, annotate, annotations_table, digest
from florence.sources import SOURCES
from florence.store import Store
from florence.workspace.base import Workspace
from florence.workspace.form import check_store
from florence.workspace.layout import REJECTED_FILES, read_rejected_files


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What a collection found.

    ``new``: images that were added; ``duplicates``: files met now whose image another file has already.

    ``rejected_files``: (source, name, reason, detail) of all that the store knows; ``total``: images in the store now.
    """

    new: int
    duplicates: int
    rejected_files: tuple[tuple[str, str, str, str], ...]
    total: int


def choose_split(image_id: str, settings: Settings) -> str:
    """Return the split of an image, a function of its hash and the salt alone."""
    draw = int(digest(f"{settings.split.salt}|{image_id}".encode(), 13), 16) / 16**13
    if draw < settings.split.gold:
        return "gold"
    return "held_out" if draw < settings.split.gold + settings.split.held_out else "train"


def collect_images(workspace: Workspace, progress: Progress = show_nothing) -> CollectResult:
    """Add every image of every source that the working store does not have yet.

    A shard is written with its truth first and its images last, so an interrupted collection continues where it stopped
    and ends with the same shards. Raises UnknownNameError or SettingsError for a wrong source, OldFormatError for a
    store of an older form, before anything is read.
    """
    settings, store = workspace.settings, workspace.store
    check_store(store)
    sources = {key: SOURCES.get(section.use)(**section.options) for key, section in settings.sources.items()}
    for key in sources:
        if not re.fullmatch(r"[A-Za-z0-9_]+", key):
            raise SettingsError(f"sources.{key}: a source's key is made of letters, digits and _")
    intake = _Intake(settings, store)
    before = dict(intake.rejected)
    new = duplicates = 0
    for key, source in sources.items():
        names = frozenset(name for owner, name in intake.first.values() if owner == key)
        shard = _ImageShard(store, key, settings.collect.shard)
        for done, found in enumerate(source.images(names), start=1):
            progress(f"collect {key}", done, source.count())
            record = intake.admit(found, key)
            if record is None or isinstance(found, ImageError):
                duplicates += intake.is_duplicate(key, found.name)
                continue
            shard.add(record, found.data, found.truth)
            new += 1
        shard.flush()
    if intake.rejected != before:
        rows = [intake.rejected[k] for k in sorted(intake.rejected)]
        store.write_table("rejected_files.parquet", pa.Table.from_pylist(rows, schema=REJECTED_FILES))
    listed = tuple((r["source"], r["name"], r["reason"], r["detail"]) for _, r in sorted(intake.rejected.items()))
    return CollectResult(new, duplicates, listed, len(intake.first))


class _Intake:
    """The images and rejected files that are known.

    ``first``: image id → (source, name) of the file it was found in first.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        known = store.read_tables("images", IMAGES, ["image_id", "source", "name"]).to_pydict()
        files = zip(known["source"], known["name"], strict=True)
        self.first: dict[str, tuple[str, str]] = dict(zip(known["image_id"], files, strict=True))
        self.rejected = {(r["source"], r["name"]): r for r in read_rejected_files(store).to_pylist()}

    def is_duplicate(self, key: str, name: str) -> bool:
        """Whether a file was rejected because another one has its image."""
        return (key, name) in self.rejected and self.rejected[key, name]["reason"] == "duplicate"

    def admit(self, found: Any, key: str) -> ImageRecord | None:
        """Return the record of an image that is new and can be used; None for any other, whose reason is noted."""
        if isinstance(found, ImageError):
            self._reject(key, found.name, found.reason, found.detail)
            return None
        image_id = hashlib.sha256(found.data).hexdigest()
        if image_id in self.first:
            source, name = self.first[image_id]
            if (source, name) != (key, found.name):
                self._reject(key, found.name, "duplicate", f"of {name} in {source}")
            return None
        limits = self.settings.collect
        try:
            pixels = decode_image(found.data, found.name, min_side=limits.min_side, max_pixels=limits.max_pixels)
        except ImageError as error:
            self._reject(key, found.name, error.reason, error.detail)
            return None
        self.rejected.pop((key, found.name), None)
        self.first[image_id] = (key, found.name)
        height, width = pixels.shape[:2]
        return ImageRecord(
            image_id,
            width,
            height,
            key,
            found.name,
            found.licence,
            found.alt_text,
            choose_split(image_id, self.settings),
            perceptual_hash(pixels),
        )

    def _reject(self, key: str, name: str, reason: str, detail: str) -> None:
        self.rejected[key, name] = {"source": key, "name": name, "reason": reason, "detail": detail}


class _ImageShard:
    """Images of one source on their way into numbered shards of at most ``limit`` images."""

    def __init__(self, store: Store, source: str, limit: int) -> None:
        self.store, self.source, self.limit = store, source, limit
        self.rows: list[dict[str, Any]] = []
        self.truth: list[Annotation] = []
        numbers = [int(stem.rsplit("-", 1)[1]) for stem in store.stems("images") if stem.rsplit("-", 1)[0] == source]
        self.number = max(numbers, default=-1) + 1

    def add(self, record: ImageRecord, data: bytes, truth: Iterable[Claim]) -> None:
        """Add an image and its truth; write the shard when it is full."""
        self.rows.append({**{name: getattr(record, name) for name in RECORD_COLUMNS}, "bytes": data})
        self.truth.extend(annotate(record.image_id, truth, "truth", "1"))
        if len(self.rows) >= self.limit:
            self.flush()

    def flush(self) -> None:
        """Write what has been added since the last shard, if anything."""
        if not self.rows:
            return
        stem = f"{self.source}-{self.number:05d}"
        if self.truth:
            self.store.write_table(f"truth/{stem}.parquet", annotations_table(self.truth))
        self.store.write_table(f"images/{stem}.parquet", pa.Table.from_pylist(self.rows, schema=IMAGES))
        self.rows, self.truth, self.number = [], [], self.number + 1
