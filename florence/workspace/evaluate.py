"""Evaluate: score the model on held-out images, and measure the labels that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.coverage import read_looks
from florence.images import decode_image
from florence.progress import Log, Progress, log_nothing, show_nothing
from florence.records import ANNOTATIONS, HUMAN, STUDENT, table_images
from florence.rounds import list_labels
from florence.tasks import Answer
from florence.workspace.base import Workspace
from florence.workspace.layout import read_images

if TYPE_CHECKING:
    from florence.evaluate import LabelQuality

TRAIN_SAMPLE = 1000
"""Training images whose labels are measured, for the report alone."""
Predict = Callable[..., list[Answer]]
"""`florence.model.generate.predict` without its first argument."""


def evaluate_model(
    workspace: Workspace,
    log: Log = log_nothing,
    progress: Progress = show_nothing,
    predict: Predict | None = None,
    predict_initial: Predict | None = None,
) -> None:
    """Score the model in model/ on held-out images and measure the snapshot's labels.

    Writes scores/scores.parquet and scores/shuffled.parquet (a value for each image and task; in the second the images
    are shuffled), scores/initial.parquet (see `score_initial_model`), scores/calibration.json (from score to
    confidence, by task and source), metrics/scores.json, metrics/summary.json (each task's score against its most
    trusted reference), metrics/labels.json and plots/scores.csv: the same bytes for the same snapshot, model and
    settings. ``predict``, ``predict_initial`` answer in the models' places, as in tests.
    """
    score_initial_model(workspace, progress, predict_initial)
    score_model(workspace, log, progress, predict)
    workspace.files.write_json("metrics/labels.json", measure_all_labels(workspace))


def score_model(
    workspace: Workspace, log: Log = log_nothing, progress: Progress = show_nothing, predict: Predict | None = None
) -> None:
    """Do the part of `evaluate_model` that is about the model; metrics/scores.json is written last."""
    from florence.evaluate import (
        build_scores_json,
        build_scores_table,
        calibrate_tasks,
        find_held_out_references,
        score_tasks,
    )

    settings, data, out = workspace.settings.evaluate, workspace.data, workspace.files
    answer = predict or _load_predict(workspace)
    records = [record for record, _ in table_images(read_images(data)) if record.split == "held_out"]
    results = score_tasks(
        records,
        lambda wanted: _read_pixels(workspace, wanted),
        find_held_out_references(data, [record.image_id for record in records]),
        settings,
        lambda images, queries: answer(images, queries, batch_size=settings.batch_size),
        lambda done, total: progress("evaluate", done, total),
    )
    figures = build_scores_json(results)
    out.write_table("scores/scores.parquet", build_scores_table(result.score for result in results))
    out.write_table(
        "scores/shuffled.parquet", build_scores_table(result.shuffled for result in results if result.shuffled)
    )
    out.write_json("scores/calibration.json", calibrate_tasks(results).to_json())
    rows = [
        (task, reference, found["value"])
        for task, references in figures.items()
        for reference, found in references.items()
        if "value" in found
    ]
    lines = [f"{','.join(map(str, row))}\n" for row in [("task", "reference", "value"), *rows]]
    out.write_bytes("plots/scores.csv", "".join(lines).encode())
    trusted = {task.strip("<>"): value for task, _, value in reversed(rows)}
    out.write_json("metrics/summary.json", trusted)
    out.write_json("metrics/scores.json", figures)
    log(0, {f"scores/{task.strip('<>').lower()}/{reference}": value for task, reference, value in rows})


def score_initial_model(
    workspace: Workspace, progress: Progress = show_nothing, predict: Predict | None = None
) -> None:
    """Score `model.init` as it is, where there is no champion that the first model has to beat.

    Writes scores/initial.parquet: of the primary task and those with a shuffled-image baseline; no rows with a
    champion.
    """
    from florence.evaluate import SCORES, build_scores_table, find_held_out_references, score_tasks

    data, name = workspace.data, "baseline/scores.parquet"
    table = SCORES.empty_table()
    if not data.exists(name) or not len(data.read_table(name)):
        settings = workspace.settings.evaluate
        tasks = dict.fromkeys((workspace.settings.promotion.primary_task, *settings.shuffled_image_tasks))
        chosen = settings.model_copy(update={"tasks": tuple(tasks), "shuffled_image_tasks": ()})
        answer = predict or _load_predict(workspace, workspace.settings.model.init)
        records = [record for record, _ in table_images(read_images(data)) if record.split == "held_out"]
        results = score_tasks(
            records,
            lambda wanted: _read_pixels(workspace, wanted),
            find_held_out_references(data, [record.image_id for record in records]),
            chosen,
            lambda images, queries: answer(images, queries, batch_size=chosen.batch_size),
            lambda done, total: progress("score what training began with", done, total),
        )
        table = build_scores_table(result.score for result in results)
    workspace.files.write_table("scores/initial.parquet", table)


def _load_predict(workspace: Workspace, init: str = "") -> Predict:
    """Return how the model in model/ answers, or ``init`` at the size that it is trained at."""
    import torch

    from florence.model.checkpoint import load
    from florence.model.generate import predict

    torch.set_num_threads(workspace.settings.evaluate.threads)
    if init:
        size, seed = workspace.settings.model.image_size, workspace.settings.train.seed
        return partial(predict, load(init, image_size=size, seed=seed))
    return partial(predict, load(str(workspace.root / "model")))


def _read_pixels(workspace: Workspace, wanted: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield id and pixels, (H, W, 3) uint8, of each image in ``wanted``, shard by shard."""
    ids = sorted(wanted)
    for name in workspace.data.names("images", ".parquet") if ids else ():
        for record, content in table_images(workspace.data.read_table(name, filters=[("image_id", "in", ids)])):
            if content is not None:
                limit = workspace.settings.collect.max_pixels
                yield record.image_id, decode_image(content, record.name, max_pixels=limit)


def measure_labels(
    workspace: Workspace, labels: pa.Table, split: str = "gold", *, masks: bool = True
) -> list[LabelQuality]:
    """Measure ``labels`` (the engine's, or an annotator's claims) on the images of ``split`` whose truth is known.

    Of training images a sample.
    """
    from florence.evaluate import find_gold_references, measure_quality, order_by_hash

    images = read_images(workspace.data)
    ids = images.filter(pc.equal(images["split"], split))["image_id"].to_pylist()
    if split == "train":
        ids = order_by_hash(ids, workspace.settings.evaluate.seed, "labels")[:TRAIN_SAMPLE]
    return measure_quality(labels, find_gold_references(workspace.data, ids), ids, masks=masks)


def measure_all_labels(workspace: Workspace) -> dict[str, Any]:
    """Return metrics/labels.json: split → reference → task → measure of the last round's labels.

    And each annotator's on gold images; ``better_alone``: those that alone are better than the labels, if there are.
    """
    from florence.evaluate import SingleAnnotator, build_quality_json, find_better_annotators, find_gold_references

    data, settings = workspace.data, workspace.settings.evaluate
    result: dict[str, Any] = {}
    labels = ANNOTATIONS.empty_table()
    if tables := list_labels(data):
        labels = data.read_table(tables[max(tables)])
        for split in ("gold", "train"):
            # masks take most of the time, and of training images there are many
            measured = measure_labels(workspace, labels, split, masks=split == "gold")
            result[split] = build_quality_json(measured, settings)
    snapshot = data.read_object("snapshot.json") if data.exists("snapshot.json") else {}
    annotators, single = {}, []
    for name, version in snapshot.get("annotators", {}).items():
        claims = data.read_tables(f"claims/{name}@{version}", ANNOTATIONS)
        named = claims.filter(
            pc.not_equal(claims["text"], "")
        )  # a claim without a text says that something is not there
        if figures := build_quality_json(measure_labels(workspace, named), settings):
            annotators[name] = figures
        if name not in (STUDENT, HUMAN):
            single.append(SingleAnnotator(name, named, read_looks(data, f"{name}@{version}")))
    result["annotators"] = annotators
    images = read_images(data)
    gold = find_gold_references(data, images.filter(pc.equal(images["split"], "gold"))["image_id"].to_pylist())
    result["better_alone"] = [asdict(one) for one in find_better_annotators(labels, single, gold, settings)]
    return {part: figures for part, figures in result.items() if figures}
