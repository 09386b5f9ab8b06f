"""Collect: take new images from the sources into the working store, with a reason for each file that is rejected."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from florence.config import Settings
from florence.errors import DataError, ImageError, SettingsError
from florence.images import decode_image, perceptual_hash
from florence.progress import Progress, show_nothing
from florence.records import IMAGES, RECORD_COLUMNS, Annotation, Claim, ImageRecord, annotate, annotations_table, digest
from florence.sources import SOURCES, Listing, Source, SourceImage
from florence.store import Store
from florence.workspace.base import Workspace
from florence.workspace.collected import SourceFiles, write_collected
from florence.workspace.file_log import FileLog, is_same_place, normalise_uri
from florence.workspace.form import check_store, mark_store
from florence.workspace.layout import REJECTED_FILES, read_rejected_files

EXAMPLES = 5
"""Names of files that are gone, in a result."""


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What a collection found.

    ``new``: images that were added; ``duplicates``: files met now whose image another file has already.

    ``rejected_files``: (source, name, reason, detail) of all that the store knows; ``total``: images in the store now.
    ``files``: of each source, what was there, in counts that add up.
    """

    new: int
    duplicates: int
    rejected_files: tuple[tuple[str, str, str, str], ...]
    total: int
    files: tuple[SourceFiles, ...] = ()


def choose_split(image_id: str, settings: Settings) -> str:
    """Return the split of an image, a function of its hash and the salt alone."""
    draw = int(digest(f"{settings.split.salt}|{image_id}".encode(), 13), 16) / 16**13
    if draw < settings.split.gold:
        return "gold"
    return "held_out" if draw < settings.split.gold + settings.split.held_out else "train"


def collect_images(workspace: Workspace, progress: Progress = show_nothing) -> CollectResult:
    """Add every image of every source that the working store does not have yet.

    A shard is written with its truth first and its images last, and what is known of the files at the end, so an
    interrupted collection continues where it stopped and ends with the same files. Raises UnknownNameError or
    SettingsError for a wrong source, OldFormatError for a store of an older form, and DataError where a source has
    another address than before whose files have the same names and other contents, before anything is added.
    """
    store = workspace.store
    check_store(store)
    mark_store(store)
    sources = _make_sources(workspace)
    intake = _Intake(workspace.settings, store)
    for key, source in sources.items():
        intake.check_address(key, source)
    before = dict(intake.rejected)
    files = [intake.collect_source(key, source, progress) for key, source in sources.items()]
    files = intake.note_left(files)
    if intake.rejected != before:
        rows = [intake.rejected[k] for k in sorted(intake.rejected)]
        store.write_table("rejected_files.parquet", pa.Table.from_pylist(rows, schema=REJECTED_FILES))
    intake.log.write(list(sources))
    write_collected(store, files)
    listed = tuple((r["source"], r["name"], r["reason"], r["detail"]) for _, r in sorted(intake.rejected.items()))
    new, duplicates = sum(one.new for one in files), sum(one.duplicates for one in files)
    return CollectResult(new, duplicates, listed, len(intake.first), tuple(files))


def _make_sources(workspace: Workspace) -> dict[str, Source]:
    """Return the sources of params.yaml; what the workspace writes is none of their files."""
    settings, root = workspace.settings, os.path.abspath(workspace.root)
    sources = {key: SOURCES.get(section.use)(**section.options) for key, section in settings.sources.items()}
    own = {os.path.join(root, name) for name in (".florence", "build", "mlruns")} | {workspace.store.root}
    if settings.tracking.artifacts and "://" not in settings.tracking.artifacts:
        own.add(os.path.join(root, settings.tracking.artifacts))
    for key, source in sources.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", key):
            raise SettingsError(f"sources.{key}: a source's key is made of letters, digits and _")
        source.own_paths = frozenset(path.rstrip("/") for path in own)
    return sources


class _Intake:
    """The images, files and rejected files that are known.

    ``first``: image id → (source, name) of the file it was found in first.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        known = store.read_tables("images", IMAGES, ["image_id", "source", "name"]).to_pydict()
        files = zip(known["source"], known["name"], strict=True)
        self.first: dict[str, tuple[str, str]] = dict(zip(known["image_id"], files, strict=True))
        self.rejected = {(r["source"], r["name"]): r for r in read_rejected_files(store).to_pylist()}
        self.log = FileLog(store)
        self._moved: dict[str, str] = {}
        self._addresses: dict[str, set[str]] = {}

    # ------------------------------------------------------------ addresses

    def check_address(self, key: str, source: Source) -> None:
        """Compare the files of a source whose address has changed with those that it had under the same names.

        Raises DataError where contents differ: labels are known by these names.
        """
        uri = normalise_uri(source.uri) if source.uri else ""
        earlier = self.log.list_moved(key, uri) if source.uri else {}
        self._addresses[key] = {uri, *(known[0] for known in earlier.values() if is_same_place(known[0], uri))}
        earlier = {name: known for name, known in earlier.items() if known[0] not in self._addresses[key]}
        if source.moved_from:
            self._moved[key] = normalise_uri(source.moved_from)
            earlier = {name: known for name, known in earlier.items() if known[0] != self._moved[key]}
        if not earlier:
            return
        others, equal = [], Counter[str]()
        for found in source.read_named(earlier.keys()):
            if isinstance(found, SourceImage):
                address, image_id = earlier[found.name]
                if hashlib.sha256(found.data).hexdigest() == image_id:
                    equal[address] += 1
                else:
                    others.append(found.name)
        before = Counter(address for address, _ in earlier.values())
        if others:
            old = before.most_common(1)[0][0]
            what = "1 file has the same name" if len(others) == 1 else f"{len(others)} files have the same names"
            raise DataError(
                f"sources.{key}.uri was {old} and is {source.uri}, where {what} and other contents "
                f"({', '.join(others[:3])}{' …' if len(others) > 3 else ''}). Labels are known by these names, so "
                f"nothing was collected. If {source.uri} is another folder, leave {key} as it was and give the folder "
                f"a key of its own below `sources`. If it is the same folder in another place, where files have "
                f"changed since, set sources.{key}.moved_from: {old}"
            )
        for address, count in equal.items():
            if 2 * count >= before[address]:
                self._moved[key] = address

    # ------------------------------------------------------------ one source

    def collect_source(self, key: str, source: Source, progress: Progress) -> SourceFiles:
        """Add the images of a source; return what was there."""
        uri = normalise_uri(source.uri) if source.uri else ""
        names = frozenset(name for owner, name in self.first.values() if owner == key)
        shard = _ImageShard(self.store, key, self.settings.collect.shard)
        stale = {name for owner, name in self.rejected if owner == key}
        count: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        for done, found in enumerate(source.images(names), start=1):
            progress(f"collect {key}", done, source.count())
            stale.discard(found.name)
            image_id = hashlib.sha256(found.data).hexdigest() if isinstance(found, SourceImage) else ""
            record = self.admit(found, key, image_id)
            reason = self.rejected.get((key, found.name), {}).get("reason", "")
            if isinstance(found, ImageError) or reason not in ("", "duplicate"):
                rejected[reason] += 1
                is_lost = isinstance(found, SourceImage) or found.reason == "empty"
                self.log.skip(key, found.name, is_content_lost=is_lost)
                continue
            count[self.log.meet(key, uri, found.name, image_id)] += 1
            count["duplicates" if reason else "images"] += 1
            if record is not None:
                shard.add(record, found.data, found.truth)
                count["added"] += 1
        shard.flush()
        gone: list[str] = []
        if source.listing is None:  # a source whose names determine the bytes did not yield those that are known
            count["images"] += max(0, (source.count() or 0) - count["images"] - count["duplicates"])
        elif source.listing.is_whole:
            gone = self.log.close_source(key, self._list_addresses(key))
            for name in stale:
                del self.rejected[key, name]
        return self._describe(key, source, count, rejected, gone)

    def _list_addresses(self, key: str) -> set[str]:
        """Return the addresses of the folder that a source is now."""
        return self._addresses[key] | ({self._moved[key]} if key in self._moved else set())

    def note_left(self, files: list[SourceFiles]) -> list[SourceFiles]:
        """Return ``files`` with what is left of folders and sources that are not read any more.

        Their files are marked as gone if images without a file do not stay.
        """
        addresses = {key: self._list_addresses(key) for key in self._addresses}
        left: dict[str, list[tuple[str, str]]] = {}
        for source, address, name in self.log.list_left(addresses):
            left.setdefault(source, []).append((address, name))
        if self.settings.collect.gone == "drop":
            self.log.close_left(addresses)
        result = {one.source: one for one in files}
        for source, found in left.items():
            result[source] = replace(
                result.get(source, SourceFiles(source)),
                left=len(found),
                left_uri=Counter(address for address, _ in found).most_common(1)[0][0],
                left_examples=tuple(sorted(name for _, name in found)[:EXAMPLES]),
            )
        return list(result.values())

    def _describe(
        self, key: str, source: Source, count: Counter[str], rejected: Counter[str], gone: list[str]
    ) -> SourceFiles:
        listing = source.listing or Listing()
        total = count["images"] + count["duplicates"] + sum(rejected.values()) + listing.texts
        all_gone = self.log.list_gone(key)
        return SourceFiles(
            source=key,
            uri=source.uri,
            listed=total + sum(group.count for group in listing.unused),
            images=count["images"],
            duplicates=count["duplicates"],
            texts=listing.texts,
            rejected=dict(sorted(rejected.items())),
            unused=listing.unused,
            gone=len(all_gone),
            gone_examples=tuple(all_gone[:EXAMPLES]),
            new=count["added"],
            replaced=count["replaced"],
            returned=count["returned"],
            newly_gone=len(gone),
            newly_gone_examples=tuple(gone[:EXAMPLES]),
            moved_from=self._moved.get(key, "") if self.log.has_moved(key) else "",
        )

    def admit(self, found: SourceImage | ImageError, key: str, image_id: str) -> ImageRecord | None:
        """Return the record of an image that is new and can be used; None for any other, whose reason is noted."""
        if isinstance(found, ImageError):
            self._reject(key, found.name, found.reason, found.detail)
            return None
        if image_id in self.first:
            self.rejected.pop((key, found.name), None)
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
