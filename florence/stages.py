"""The verbs. Each takes settings and stores, does its part, can be started again at any point, and says what it did.

`collect` works on the store (the working store), as annotation does, which has a package of its own; `publish` materialises the store into ``data/``;
`train_model`, `evaluate_model` and `compare_models` read ``data/`` and write the outputs that dvc.yaml names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.annotation import COVERAGE, AnnotatorVersion, profiles_of
from florence.config import Settings
from florence.errors import DataError, ImageError, SettingsError
from florence.records import (
    ANNOTATIONS,
    IMAGES,
    RECORD_COLUMNS,
    ImageRecord,
    annotate,
    annotations_table,
    digest,
    table_images,
)
from florence.store import Store

if TYPE_CHECKING:
    from florence.evaluate import Decision, Measured

REJECTED_FILES = pa.schema([(name, pa.string()) for name in ("source", "name", "reason", "detail")])

Progress = Callable[[str, int, int | None], None]
"""Called as (what, done, of); of is None where the total is not known."""
Log = Callable[[int, dict[str, float]], None]
"""Called as (step, figures by name) while something runs."""


def silent(what: str, done: int, of: int | None) -> None:
    """A progress that shows nothing."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection found. ``new``: images taken in; ``total``: images in the store now."""

    new: int
    duplicates: int
    rejected_files: tuple[tuple[str, str, str, str], ...]
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
    and ends with the same shards. Raises UnknownNameError or SettingsError for a wrong source before anything is read.
    """
    from florence.sources import SOURCES

    sources = {key: SOURCES.get(section.use)(**section.options) for key, section in settings.sources.items()}
    for key in sources:
        if not re.fullmatch(r"[A-Za-z0-9_]+", key):
            raise SettingsError(f"sources.{key}: a source's key is made of letters, digits and _")
    known = store.read_tables("images", IMAGES, ["image_id", "source", "name"])
    first = dict(
        zip(
            known["image_id"].to_pylist(),
            zip(known["source"].to_pylist(), known["name"].to_pylist(), strict=True),
            strict=True,
        )
    )
    aside = {(r["source"], r["name"]): r for r in _rejected_files(store).to_pylist()}
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
        store.write_table("rejected_files.parquet", pa.Table.from_pylist(rows, schema=REJECTED_FILES))
    listed = tuple((r["source"], r["name"], r["reason"], r["detail"]) for _, r in sorted(aside.items()))
    return Collected(new, duplicates, listed, len(first))


def _rejected_files(store: Store) -> pa.Table:
    return (
        store.read_table("rejected_files.parquet")
        if store.exists("rejected_files.parquet")
        else REJECTED_FILES.empty_table()
    )


def _admit(found, key: str, settings: Settings, first: dict, aside: dict) -> ImageRecord | None:
    """The record of an image that is new and good; None, with its reason noted, for one that is neither."""
    from florence.images import decode_image, perceptual_hash

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
        pixels = decode_image(
            found.data, found.name, min_side=settings.collect.min_side, max_pixels=settings.collect.max_pixels
        )
    except ImageError as error:
        note(error.reason, error.detail)
        return None
    height, width = pixels.shape[:2]
    return ImageRecord(
        image_id,
        width,
        height,
        key,
        found.name,
        found.licence,
        found.alt_text,
        split_of(image_id, settings),
        perceptual_hash(pixels),
    )


class _Shard:
    """Images of one source on their way into numbered shards of at most ``limit`` images."""

    def __init__(self, store: Store, source: str, limit: int) -> None:
        self.store, self.source, self.limit = store, source, limit
        self.rows: list[dict] = []
        self.truth: list = []
        numbers = [int(stem.rsplit("-", 1)[1]) for stem in store.stems("images") if stem.rsplit("-", 1)[0] == source]
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


def shards(store: Store) -> list[str]:
    """The image shards in the store, by name."""
    return store.stems("images")


# ---------------------------------------------------------------- the engine


def images_table(store: Store) -> pa.Table:
    """Every image's record, without bytes."""
    return store.read_tables("images", IMAGES, RECORD_COLUMNS, older=True)


def fuse_round(
    settings: Settings,
    store: Store,
    who: list[AnnotatorVersion],
    round: int,
    progress: Progress = silent,
    *,
    write: bool = True,
) -> pa.Table:
    """The engine's complete result of a round over the claims of ``who``; written to ``labels/round=N/`` unless told not to."""
    from florence.engine import fuse

    claims = [store.read_tables(f"claims/{annotator.key}", ANNOTATIONS) for annotator in who]
    coverage = [store.read_tables(f"coverage/{annotator.key}", COVERAGE) for annotator in who]
    if not claims:
        raise DataError("nobody annotates: params.yaml names no annotator")
    looked = pa.concat_tables(coverage, promote_options="default")
    labels = fuse(
        pa.concat_tables(claims),
        images_table(store),
        looked,
        settings.engine,
        round,
        profiles_of(store, who),
        settings.flow.workers,
        lambda done, of: progress("fuse", done, of),
    )
    if write:
        store.write_table(f"labels/round={round}/labels.parquet", labels)
    return labels


# ---------------------------------------------------------------- publish


def restore(store: Store, data: Store) -> int:
    """Fill an empty working store from a snapshot (after ``dvc pull``); returns the number of files copied."""
    if store.names("images", ".parquet"):
        return 0
    copied = 0
    if data.exists("snapshot.json") and data.exists("baseline/scores.parquet"):
        name = f"baseline/round={data.read_json('snapshot.json')['round']}/scores.parquet"
        store.write_bytes(name, data.read_bytes("baseline/scores.parquet"))
        copied += 1
    for folder in ("annotators", "claims", "coverage", "truth", "labels", "images"):
        for name in data.names(folder):
            store.copy_in(data, name)
            copied += 1
    if copied and data.exists("rejected_files.parquet"):
        store.copy_in(data, "rejected_files.parquet")
    return copied


def rounds(data: Store) -> list[int]:
    """The rounds that have labels, in order."""
    return sorted({int(name.split("round=")[1].split("/")[0]) for name in data.names("labels", ".parquet")})


def publish(
    settings: Settings, store: Store, data: Store, who: list[AnnotatorVersion], round: int, progress: Progress = silent
) -> dict:
    """Materialise the store into ``data/`` as the snapshot of ``round``; returns snapshot.json, which is written last.

    Images are only ever added, claims and coverage of a shard grow; labels and statistics are written anew. The champion's scores are those that the
    store holds for this round (`baseline_of`), none where it holds none. The same claims and settings give the same bytes.
    """
    from florence.engine.statistics import statistics
    from florence.evaluate import SCORES

    parent = _parent(data, round)
    folders = ["images", "truth", *(f"{kind}/{annotator.key}" for annotator in who for kind in ("claims", "coverage"))]
    names = [name for folder in folders for name in store.names(folder, ".parquet")]
    names += [name for annotator in who if store.exists(name := f"annotators/{annotator.key}.json")]
    for done, name in enumerate(names, start=1):
        data.copy_in(store, name, grows=not name.startswith(("images/", "truth/")))
        progress("publish", done, len(names))
    labels = store.read_table(f"labels/round={round}/labels.parquet")
    for number in rounds(store):
        if number <= round:
            data.write_bytes(
                f"labels/round={number}/labels.parquet", store.read_bytes(f"labels/round={number}/labels.parquet")
            )
    data.write_table("rejected_files.parquet", _rejected_files(store))
    champion = f"baseline/round={round}/scores.parquet"
    data.write_table(
        "baseline/scores.parquet", store.read_table(champion) if store.exists(champion) else SCORES.empty_table()
    )
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
        raise DataError(f"round {round} cannot be published: {data.uri} already holds round {last['round']}")
    return last["parent"] if last["round"] == round else {"id": last["id"], "round": last["round"]}


def _snapshot(
    settings: Settings,
    images: pa.Table,
    labels: pa.Table,
    who: list[AnnotatorVersion],
    round: int,
    parent: dict | None,
    data: Store,
) -> dict:
    kept = labels.filter(labels["kept"])
    dropped = labels.filter(pc.invert(labels["kept"]))
    content = {
        "round": round,
        "parent": parent,
        "annotators": {annotator.name: annotator.version for annotator in who},
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
        "rejected_files": _count(data.read_table("rejected_files.parquet")["reason"]),
    }
    bytes_of = {
        n: digest(data.read_bytes(n), 64) for n in (f"labels/round={round}/labels.parquet", "baseline/scores.parquet")
    }
    identity = digest([content, sorted(images["image_id"].to_pylist()), bytes_of])
    return {"id": identity, **content}


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted(Counter(column.to_pylist()).items()))


# ---------------------------------------------------------------- train


def train_model(
    settings: Settings,
    data: Store,
    root: Path,
    log: Callable[[int, dict[str, float]], None] | None = None,
    progress: Progress = silent,
) -> dict:
    """Train on the snapshot's last round; writes ``model/``, ``metrics/train.json`` and ``plots/train.csv`` below ``root``; returns the figures.

    Starts from `model.init`, or goes on from the checkpoint that a killed training of the same snapshot and settings left. Of several processes
    that were started together the first alone writes. Raises ModelError for a model that is not there or a loss that is not finite, SettingsError for settings
    that this machine cannot do, DataError where there is nothing to learn.
    """
    import shutil

    from florence.training import TrainingJob, run_training
    from florence.training.launch import process_rank

    folder, part = root / ".florence" / "checkpoints", root / ".florence" / "model.part"
    key = training_key(settings, data)
    first = not process_rank()
    for other in folder.glob("*") if first and folder.is_dir() else ():
        if other.name != key:
            shutil.rmtree(other, ignore_errors=True)
    done = run_training(TrainingJob(settings.model, settings.train, data.uri, str(folder), key, str(part)), log, progress)
    figures = {
        "steps": done.steps,
        "images": done.images,
        "loss": round(done.curve[-1]["loss"], 6),
        "loss_by_task": {
            name: round(value, 6) for name, value in sorted(done.curve[-1].items()) if name.startswith("<")
        },
        "left_out": {name: int(count) for name, count in done.counts.items()},
    }
    if first:
        shutil.rmtree(root / "model", ignore_errors=True)
        part.rename(root / "model")
        out = Store(str(root))
        out.write_json("metrics/train.json", figures)
        out.write_bytes("plots/train.csv", _curve_csv(done.curve))
        shutil.rmtree(folder / key, ignore_errors=True)
    return figures


def training_key(settings: Settings, data: Store) -> str:
    """What a training is a function of: the snapshot's labels and images, settings and code."""
    labels = data.read_bytes(f"labels/round={rounds(data)[-1]}/labels.parquet") if rounds(data) else b""
    return digest(
        [
            digest(labels, 64),
            data.names("images", ".parquet"),
            settings.model.digest(),
            settings.train.digest(),
            code_json()["code"],
        ]
    )


def _curve_csv(curve: Iterable[Mapping[str, float]]) -> bytes:
    """The curve as a table: step, loss, lr, then the loss of each task, empty where it was not drawn."""
    curve = list(curve)
    names = ["step", "loss", "lr", *sorted({name for row in curve for name in row if name.startswith("<")})]
    lines = [",".join(names)] + [",".join(f"{row[name]:.6g}" if name in row else "" for name in names) for row in curve]
    return ("\n".join(lines) + "\n").encode()


@lru_cache(maxsize=1)
def code_json() -> dict[str, str]:
    """What code.json holds: a hash of the library's source, on which every stage depends (docs/adr/0004)."""
    import hashlib

    package = Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted(
        p for p in package.rglob("*") if p.suffix in (".py", ".json", ".safetensors") and "__pycache__" not in p.parts
    ):
        total.update(path.relative_to(package).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return {"code": total.hexdigest()}


# ---------------------------------------------------------------- evaluate, compare

TRAIN_SAMPLE = 1000
"""Training images whose labels are measured, for the report alone."""


def unlogged(step: int, figures: dict[str, float]) -> None:
    """A log that keeps nothing."""


def evaluate_model(
    settings: Settings,
    data: Store,
    root: Path,
    log: Log = unlogged,
    progress: Progress = silent,
    predict: Callable[..., list] | None = None,
) -> None:
    """Score root/model on held-out images and measure the snapshot's labels.

    Writes below ``root``: scores/scores.parquet and scores/control.parquet (one value an image and task; the control's are those with the images
    shuffled), scores/calibration.json (from score to confidence, by task), metrics/scores.json, metrics/labels.json and plots/scores.csv: the same bytes for the same snapshot, model and settings.
    ``predict``: answers in the model's place, as in tests: florence.model.generate.predict without its first argument.
    """
    score_model(settings, data, root, log, progress, predict)
    Store(str(root)).write_json("metrics/labels.json", _label_figures(settings, data))


def score_model(
    settings: Settings,
    data: Store,
    root: Path,
    log: Log = unlogged,
    progress: Progress = silent,
    predict: Callable[..., list] | None = None,
) -> None:
    """The part of `evaluate_model` that is about the model; metrics/scores.json is written last."""
    from florence.evaluate import calibrations_json, evaluate, held_out, scores_json, scores_table

    ask = predict or _model(root, settings.evaluate.threads)
    records = [record for record, _ in table_images(images_table(data)) if record.split == "held_out"]
    results = evaluate(
        records,
        lambda wanted: _pictures(settings, data, wanted),
        held_out(data, [record.image_id for record in records]),
        settings.evaluate,
        lambda pictures, asks: ask(pictures, asks, batch=settings.evaluate.batch_size),
        lambda done, of: progress("evaluate", done, of),
    )
    out = Store(str(root))
    figures = scores_json(results)
    out.write_table("scores/scores.parquet", scores_table(result.score for result in results))
    out.write_table("scores/control.parquet", scores_table(result.control for result in results if result.control))
    # of several references the first is the most trusted
    out.write_json(
        "scores/calibration.json",
        calibrations_json({r.score.task: r.calibration for r in reversed(results) if r.calibration}),
    )
    rows = [
        (task, reference, found["value"])
        for task, kinds in figures.items()
        for reference, found in kinds.items()
        if "value" in found
    ]
    out.write_bytes(
        "plots/scores.csv",
        "".join(f"{','.join(map(str, row))}\n" for row in [("task", "reference", "value"), *rows]).encode(),
    )
    out.write_json("metrics/scores.json", figures)
    log(0, {f"scores/{task.strip('<>').lower()}/{reference}": value for task, reference, value in rows})


def _model(root: Path, threads: int) -> Callable[..., list]:
    from functools import partial

    import torch

    from florence.model.checkpoint import load
    from florence.model.generate import predict

    torch.set_num_threads(threads)
    return partial(predict, load(str(root / "model")))


def _pictures(settings: Settings, data: Store, wanted: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Id and pixels of each image in ``wanted``, shard by shard."""
    from florence.images import decode_image

    ids = sorted(wanted)
    for name in data.names("images", ".parquet") if ids else ():
        for record, content in table_images(data.read_table(name, filters=[("image_id", "in", ids)])):
            if content is not None:
                yield record.image_id, decode_image(content, record.name, max_pixels=settings.collect.max_pixels)


def label_quality(
    settings: Settings, data: Store, labels: pa.Table, split: str = "gold", *, masks: bool = True
) -> list[Measured]:
    """How good ``labels`` are (the engine's, or one annotator's claims) on the images of ``split`` whose truth is known; of training images a sample."""
    from florence.evaluate import by_draw, gold, measure

    images = images_table(data)
    ids = images.filter(pc.equal(images["split"], split))["image_id"].to_pylist()
    if split == "train":
        ids = by_draw(ids, settings.evaluate.seed, "labels")[:TRAIN_SAMPLE]
    return measure(labels, gold(data, ids), ids, masks=masks)


def _label_figures(settings: Settings, data: Store) -> dict:
    """metrics/labels.json: split → reference → task → measure, of the last round's labels; and the same of each annotator's claims on gold images."""
    from florence.evaluate import quality_json

    result: dict = {}
    if found := rounds(data):
        labels = data.read_table(f"labels/round={found[-1]}/labels.parquet")
        for split in ("gold", "train"):
            # masks take most of the time, and of training images there are many
            result[split] = quality_json(
                label_quality(settings, data, labels, split, masks=split == "gold"), settings.evaluate
            )
    snapshot = data.read_json("snapshot.json") if data.exists("snapshot.json") else {}
    annotators = {
        name: quality_json(
            label_quality(settings, data, claims.filter(pc.not_equal(claims["text"], ""))), settings.evaluate
        )
        for name, version in snapshot.get("annotators", {}).items()
        for claims in [
            data.read_tables(f"claims/{name}@{version}", ANNOTATIONS)
        ]  # one without a text says that something is not there
    }
    result["annotators"] = {name: figures for name, figures in annotators.items() if figures}
    return {part: figures for part, figures in result.items() if figures}


def compare_models(settings: Settings, data: Store, root: Path) -> Decision:
    """Decide whether the model scored in root/scores may replace the champion of data/baseline; writes root/metrics/decision.json.

    Raises StoreError where there are no scores: `florence evaluate` makes them.
    """
    from florence.evaluate import is_better

    out = Store(str(root))
    candidate, control = (out.read_table(f"scores/{name}.parquet") for name in ("scores", "control"))
    champion = data.read_table("baseline/scores.parquet")
    decision = is_better(candidate, champion, control, settings.promotion, settings.evaluate)
    out.write_json("metrics/decision.json", decision.to_json())
    return decision


def baseline_of(root: Path) -> pa.Table:
    """The scores in root/scores as those of a champion: after its acceptance in round r, the store's ``baseline/round=<r+1>/scores.parquet``."""
    from florence.evaluate import baseline

    return baseline(Store(str(root)).read_table("scores/scores.parquet"))
