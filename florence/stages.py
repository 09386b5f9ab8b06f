"""The verbs. Each takes settings and stores, does its part, can be started again at any point, and says what it did.

`collect` and `annotate_shard` work on the store (the working store); `publish` materialises the store into ``data/``;
`train_model`, `evaluate_model` and `compare_models` read ``data/`` and write the outputs that dvc.yaml names.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from florence.config import Settings
from florence.errors import DataError, FlorenceError, ImageError, SettingsError
from florence.records import (
    ANNOTATIONS,
    IMAGES,
    ImageRecord,
    annotate,
    annotations_table,
    digest,
    table_annotations,
    table_images,
)
from florence.store import Store

SET_ASIDE = pa.schema([(name, pa.string()) for name in ("source", "name", "reason", "detail")])
COVERAGE = pa.schema(
    [("image_id", pa.string()), ("author", pa.string()), ("version", pa.string()), ("claims", pa.int32()), ("error", pa.string())]
)
BASELINE = pa.schema([("image_id", pa.string()), ("task", pa.string()), ("value", pa.float64())])
RECORD_COLUMNS = [name for name in IMAGES.names if name != "bytes"]
STUDENT = "student"

Progress = Callable[[str, int, int | None], None]
"""Called as (what, done, of); of is None where the total is not known."""


def silent(what: str, done: int, of: int | None) -> None:
    """A progress that shows nothing."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who annotates: a specialist of params.yaml, or the student, whose model is in ``folder``."""

    name: str
    version: str
    folder: str | None = None

    @property
    def key(self) -> str:
        """``name@version``, the folder of its claims."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection found. ``new``: images taken in; ``total``: images in the store now."""

    new: int
    duplicates: int
    set_aside: tuple[tuple[str, str, str, str], ...]
    total: int


# ---------------------------------------------------------------- collect


def split_of(image_id: str, settings: Settings) -> str:
    """The split of an image, a function of its hash and the salt alone."""
    draw = int(digest(f"{settings.split.salt}|{image_id}".encode(), 13), 16) / 16**13
    if draw < settings.split.gold:
        return "gold"
    return "held_out" if draw < settings.split.gold + settings.split.held_out else "train"


def collect(settings: Settings, store: Store, progress: Progress = silent) -> Collected:
    """Take in every image of every source that the store does not have yet.

    A shard is written with its truth first and its images last, so an interrupted collection goes on where it stopped
    and ends with the same shards. Raises UnknownName or SettingsError for a wrong source before anything is read.
    """
    from florence.sources import SOURCES

    sources = {key: SOURCES.get(section.use)(**section.options) for key, section in settings.sources.items()}
    for key in sources:
        if not re.fullmatch(r"[A-Za-z0-9_]+", key):
            raise SettingsError(f"sources.{key}: a source's key is made of letters, digits and _")
    known = store.read_tables("images", IMAGES, ["image_id", "source", "name"])
    first = dict(zip(known["image_id"].to_pylist(), zip(known["source"].to_pylist(), known["name"].to_pylist(), strict=True), strict=True))
    aside = {(r["source"], r["name"]): r for r in _set_aside(store).to_pylist()}
    before = dict(aside)
    new = duplicates = 0
    for key, source in sources.items():
        names = frozenset(name for owner, name in first.values() if owner == key)
        shard = _Shard(store, key, settings.collect.shard)
        for done, found in enumerate(source.images(names), start=1):
            progress(f"collect {key}", done, source.count())
            record = _admit(found, key, settings, first, aside)
            if record is None or isinstance(found, ImageError):
                duplicates += (key, found.name) in aside and aside[key, found.name]["reason"] == "duplicate"
                continue
            aside.pop((key, found.name), None)
            shard.add(record, found.data, found.truth)
            first[record.image_id] = (key, found.name)
            new += 1
        shard.flush()
    if aside != before:
        rows = [aside[k] for k in sorted(aside)]
        store.write_table("set_aside.parquet", pa.Table.from_pylist(rows, schema=SET_ASIDE))
    listed = tuple((r["source"], r["name"], r["reason"], r["detail"]) for _, r in sorted(aside.items()))
    return Collected(new, duplicates, listed, len(first))


def _set_aside(store: Store) -> pa.Table:
    return store.read_table("set_aside.parquet") if store.exists("set_aside.parquet") else SET_ASIDE.empty_table()


def _admit(found, key: str, settings: Settings, first: dict, aside: dict) -> ImageRecord | None:
    """The record of an image that is new and good; None, with its reason noted, for one that is neither."""
    from florence.pixels import decode

    def note(reason: str, detail: str) -> None:
        aside[key, found.name] = {"source": key, "name": found.name, "reason": reason, "detail": detail}

    if isinstance(found, ImageError):
        note(found.reason, found.detail)
        return None
    import hashlib

    image_id = hashlib.sha256(found.data).hexdigest()
    if image_id in first:
        if first[image_id] != (key, found.name):
            note("duplicate", f"of {first[image_id][1]} in {first[image_id][0]}")
        return None
    try:
        pixels = decode(found.data, found.name, min_side=settings.collect.min_side, max_pixels=settings.collect.max_pixels)
    except ImageError as error:
        note(error.reason, error.detail)
        return None
    height, width = pixels.shape[:2]
    return ImageRecord(image_id, width, height, key, found.name, found.licence, found.alt_text, split_of(image_id, settings))


class _Shard:
    """Images of one source on their way into numbered shards of at most ``limit`` images."""

    def __init__(self, store: Store, source: str, limit: int) -> None:
        self.store, self.source, self.limit = store, source, limit
        self.rows: list[dict] = []
        self.truth: list = []
        taken = [_stem(name) for name in store.names("images", ".parquet")]
        numbers = [int(stem.rsplit("-", 1)[1]) for stem in taken if stem.rsplit("-", 1)[0] == source]
        self.number = max(numbers, default=-1) + 1

    def add(self, record: ImageRecord, data: bytes, truth: Iterable) -> None:
        self.rows.append({**{name: getattr(record, name) for name in RECORD_COLUMNS}, "bytes": data})
        self.truth.extend(annotate(record.image_id, truth, "truth", "1"))
        if len(self.rows) >= self.limit:
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        stem = f"{self.source}-{self.number:05d}"
        if self.truth:
            self.store.write_table(f"truth/{stem}.parquet", annotations_table(self.truth))
        self.store.write_table(f"images/{stem}.parquet", pa.Table.from_pylist(self.rows, schema=IMAGES))
        self.rows, self.truth, self.number = [], [], self.number + 1


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".parquet")


def shards(store: Store) -> list[str]:
    """The image shards in the store, by name."""
    return [_stem(name) for name in store.names("images", ".parquet")]


# ---------------------------------------------------------------- annotate


@lru_cache(maxsize=64)
def _specialist(use: str, name: str, options: str):
    from florence.specialists import SPECIALISTS

    return SPECIALISTS.get(use)(name=name, **json.loads(options)), threading.Lock()


def specialist(settings: Settings, name: str):
    """The specialist called ``name`` in params.yaml, one instance a process, and the lock its users share."""
    section = settings.specialists[name]
    return _specialist(section.use, name, json.dumps(section.options, sort_keys=True))


def authors(settings: Settings, student: str | None = None) -> list[Author]:
    """Everyone who annotates, in the order of work: those who look at pixels or truth, then those who read claims, then the student.

    The version of one who reads claims covers the versions of those it reads. Raises UnknownName or SettingsError for
    a specialist that is not there or not set right, before any model is loaded.
    """
    result: list[Author] = []
    section_names = sorted(settings.specialists, key=lambda n: "claims" in specialist(settings, n)[0].needs)
    for name in section_names:
        annotator, _ = specialist(settings, name)
        version = annotator.version
        if "claims" in annotator.needs:
            version = digest([version, [author.key for author in result]])
        result.append(Author(name, version))
    if student is not None and settings.engine.student.cap > 0:
        from florence.engine.refine import Student

        result.append(Author(STUDENT, Student(student, settings).version, student))
    return result


def looks_at(settings: Settings, author: Author, shard: str) -> bool:
    """Whether ``author`` annotates the images of ``shard``."""
    source = shard.rsplit("-", 1)[0]
    return author.name == STUDENT or settings.specialists[author.name].looks_at(source)


def pending(settings: Settings, store: Store, author: Author) -> list[str]:
    """The shards that ``author`` has still to annotate."""
    done = {_stem(name) for name in store.names(f"coverage/{author.key}", ".parquet")}
    return [shard for shard in shards(store) if shard not in done and looks_at(settings, author, shard)]


def annotate_shard(
    settings: Settings, store: Store, author: Author, shard: str, before: Iterable[Author] = (), round: int = 0
) -> int:
    """Have ``author`` annotate one shard: claims first, coverage last. Returns the number of claims; 0 where it was done.

    ``before``: the authors whose claims it may read. An image on which the author fails costs that image's claims
    alone and is recorded in the coverage with the error; an author that fails on every image raises.
    """
    if store.exists(f"coverage/{author.key}/{shard}.parquet"):
        return 0
    if author.folder is not None:
        annotator, lock = _student(author.folder, settings.model_dump_json())
        size = settings.engine.student.batch
    else:
        annotator, lock = specialist(settings, author.name)
        size = settings.specialists[author.name].batch
    rows: list = []
    coverage: list[dict] = []
    with lock:
        annotator.load()
        for batch in _batches(settings, store, annotator.needs, shard, list(before), size):
            for record, claims, error in _annotate_batch(annotator, batch):
                found = annotate(record.image_id, claims, author.name, author.version, round)
                rows.extend(found)
                coverage.append(
                    {"image_id": record.image_id, "author": author.name, "version": author.version, "claims": len(found), "error": error}
                )
    if coverage and all(row["error"] for row in coverage):
        raise FlorenceError(f"{author.name} failed on every image of {shard}; the first error: {coverage[0]['error']}")
    store.write_table(f"claims/{author.key}/{shard}.parquet", annotations_table(rows))
    store.write_table(f"coverage/{author.key}/{shard}.parquet", pa.Table.from_pylist(coverage, schema=COVERAGE))
    return len(rows)


@lru_cache(maxsize=2)
def _student(folder: str, settings: str):
    from florence.engine.refine import Student

    return Student(folder, Settings.model_validate_json(settings)), threading.Lock()


def _batches(settings: Settings, store: Store, needs: frozenset[str], shard: str, before: list[Author], size: int) -> Iterator:
    from florence.pixels import decode
    from florence.specialists import Batch

    table = store.read_table(f"images/{shard}.parquet", None if "pixels" in needs else RECORD_COLUMNS)
    truth = _by_image(store, [f"truth/{shard}.parquet"]) if "truth" in needs else {}
    claims = _by_image(store, [f"claims/{a.key}/{shard}.parquet" for a in before]) if "claims" in needs else {}
    for start in range(0, len(table), size):
        found = list(table_images(table.slice(start, size)))
        records = tuple(record for record, _ in found)
        pixels = tuple(decode(data, r.name, max_pixels=settings.collect.max_pixels) for r, data in found if data is not None)
        yield Batch(
            records=records,
            pixels=pixels,
            claims=tuple(tuple(claims.get(r.image_id, ())) for r in records),
            truth=tuple(tuple(truth.get(r.image_id, ())) for r in records),
        )


def _by_image(store: Store, names: Iterable[str]) -> dict[str, list]:
    result: dict[str, list] = {}
    for name in names:
        if store.exists(name):
            for annotation in table_annotations(store.read_table(name)):
                result.setdefault(annotation.image_id, []).append(annotation)
    return result


def _annotate_batch(annotator, batch) -> Iterator[tuple[ImageRecord, list, str]]:
    """(record, claims, error) of each image; where the batch fails, each image is tried alone."""
    try:
        for record, claims in zip(batch.records, annotator.annotate(batch), strict=True):
            yield record, claims, ""
        return
    except MemoryError:
        raise
    except Exception as error:
        if len(batch.records) == 1:
            yield batch.records[0], [], f"{type(error).__name__}: {error}"
            return
    for index, record in enumerate(batch.records):
        part = type(batch)(
            records=(record,), pixels=batch.pixels[index : index + 1], claims=batch.claims[index : index + 1], truth=batch.truth[index : index + 1]
        )
        yield from _annotate_batch(annotator, part)


# ---------------------------------------------------------------- the engine


def images_table(store: Store) -> pa.Table:
    """Every image's record, without bytes."""
    return store.read_tables("images", IMAGES, RECORD_COLUMNS)


def fuse_round(settings: Settings, store: Store, who: list[Author], round: int, *, write: bool = True) -> pa.Table:
    """The engine's complete result of a round over the claims of ``who``; written to ``labels/round=N/`` unless told not to."""
    from florence.engine import fuse  # type: ignore[attr-defined]  # the engine is the next part to be built

    claims = [store.read_tables(f"claims/{author.key}", ANNOTATIONS) for author in who]
    coverage = [store.read_tables(f"coverage/{author.key}", COVERAGE) for author in who]
    if not claims:
        raise DataError("nobody annotates: params.yaml names no specialist")
    labels = fuse(pa.concat_tables(claims), images_table(store), pa.concat_tables(coverage), settings.engine, round)
    if write:
        store.write_table(f"labels/round={round}/labels.parquet", labels)
    return labels


# ---------------------------------------------------------------- publish


def restore(store: Store, data: Store) -> int:
    """Fill an empty working store from a snapshot (after ``dvc pull``); returns the number of files copied."""
    if store.names("images", ".parquet"):
        return 0
    copied = 0
    for folder in ("claims", "coverage", "truth", "labels", "baseline", "images"):
        for name in data.names(folder, ".parquet"):
            store.copy_in(data, name)
            copied += 1
    if copied and data.exists("set_aside.parquet"):
        store.copy_in(data, "set_aside.parquet")
    return copied


def rounds(data: Store) -> list[int]:
    """The rounds that have labels, in order."""
    return sorted({int(name.split("round=")[1].split("/")[0]) for name in data.names("labels", ".parquet")})


def publish(settings: Settings, store: Store, data: Store, who: list[Author], round: int, progress: Progress = silent) -> dict:
    """Materialise the store into ``data/`` as the snapshot of ``round``; returns snapshot.json, which is written last.

    Images, claims and coverage are append-only; labels and statistics are written anew. The same claims and settings give the same bytes.
    """
    from florence.engine.statistics import statistics

    parent = _parent(data, round)
    folders = ["images", "truth", *(f"{kind}/{author.key}" for author in who for kind in ("claims", "coverage"))]
    names = [name for folder in folders for name in store.names(folder, ".parquet")]
    for done, name in enumerate(names, start=1):
        data.copy_in(store, name)
        progress("publish", done, len(names))
    labels = store.read_table(f"labels/round={round}/labels.parquet")
    for number in rounds(store):
        if number <= round:
            data.write_bytes(f"labels/round={number}/labels.parquet", store.read_bytes(f"labels/round={number}/labels.parquet"))
    data.write_table("set_aside.parquet", _set_aside(store))
    has_baseline = store.exists("baseline/scores.parquet")
    data.write_table("baseline/scores.parquet", store.read_table("baseline/scores.parquet") if has_baseline else BASELINE.empty_table())
    images = images_table(store)
    data.write_json("statistics.json", statistics(labels, images))
    snapshot = _snapshot(settings, images, labels, who, round, parent, data)
    data.write_json("snapshot.json", snapshot)
    return snapshot


def _parent(data: Store, round: int) -> dict | None:
    """Id and round of the snapshot that this round's follows. Raises DataError where a later one is published already."""
    if not data.exists("snapshot.json"):
        return None
    last = data.read_json("snapshot.json")
    if last["round"] > round:
        raise DataError(f"round {round} can not be published: {data.uri} already holds round {last['round']}")
    return last["parent"] if last["round"] == round else {"id": last["id"], "round": last["round"]}


def _snapshot(settings: Settings, images: pa.Table, labels: pa.Table, who: list[Author], round: int, parent: dict | None, data: Store) -> dict:
    kept = labels.filter(labels["kept"])
    dropped = labels.filter(pc.invert(labels["kept"]))
    content = {
        "round": round,
        "parent": parent,
        "authors": {author.name: author.version for author in who},
        "engine": settings.engine.digest(),
        "counts": {
            "images": len(images),
            "images_by_split": _count(images["split"]),
            "images_by_source": _count(images["source"]),
            "labels": len(labels),
            "kept": len(kept),
            "dropped": len(dropped),
            "kept_by_task": _count(kept["task"]),
        },
        "drops": _count(dropped["reason"]),
        "set_aside": _count(data.read_table("set_aside.parquet")["reason"]),
    }
    bytes_of = {n: digest(data.read_bytes(n), 64) for n in (f"labels/round={round}/labels.parquet", "baseline/scores.parquet")}
    identity = digest([content, sorted(images["image_id"].to_pylist()), bytes_of])
    return {"id": identity, **content}


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted(Counter(column.to_pylist()).items()))
