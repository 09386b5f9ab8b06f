"""Pretraining on little data: it resumes where it stopped, and its targets are the truth of the scenes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from workspaces import workspace_of

from florence import pretrain
from florence.config import settings_from
from florence.drawn_scenes.figures import COLOURS
from florence.model.checkpoint import load
from florence.records import ANNOTATIONS
from florence.store import Store
from florence.training import vision
from florence.workspace.collect import collect_images

ATTRIBUTES = [list(COLOURS), ["striped", "dotted"], ["small", "big"]]
PARAMS = {
    "seed": 0,
    "image_size": 64,
    "figures": {"use": "scenes", "vocabulary": "invented", "count": 30, "size": 64, "seed": 1},
    "scenes": {"use": "scenes", "vocabulary": "pretrain", "count": 30, "size": 64, "seed": 2},
    "attributes": ATTRIBUTES,
    "vision": {
        "see": {"steps": 5, "batch_size": 6, "letters": 0.1, "threads": 1},
        "spell": {"steps": 3, "batch_size": 6, "threads": 1},
    },
    "lessons": {
        "regions": {
            "steps": 3,
            "batch_size": 4,
            "tasks_per_image": 1,
            "optimizer": "muon",
            "threads": 1,
            "task_weights": {"<REGION_TO_CATEGORY>": 1},
        },
        "every_task": {
            "steps": 3,
            "batch_size": 4,
            "tasks_per_image": 2,
            "save_steps": 1,
            "threads": 1,
            "task_weights": {"<OD>": 2, "<CAPTION>": 1},
        },
    },
}


class Stopped(Exception):
    pass


def test_stopped_and_resumed_it_makes_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "SAVE_STEPS", 2)
    pretrain.pretrain(copy.deepcopy(PARAMS), tmp_path / "whole", tmp_path / "undisturbed")

    def stop_at(what: str, step: int):
        class Bar:
            def __call__(self, done_what: str, done: int, of: int | None) -> None:
                if (done_what, done) == (what, step):
                    raise Stopped

        monkeypatch.setattr(pretrain, "_ProgressBars", Bar)
        with pytest.raises(Stopped):
            pretrain.pretrain(copy.deepcopy(PARAMS), tmp_path / "work", tmp_path / "disturbed")

    bar = pretrain._ProgressBars
    stop_at("see", 3)
    stop_at("spell", 2)
    stop_at("train", 2)
    assert not (tmp_path / "disturbed").exists()
    monkeypatch.setattr(pretrain, "_ProgressBars", bar)
    pretrain.pretrain(copy.deepcopy(PARAMS), tmp_path / "work", tmp_path / "disturbed")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "undisturbed" / name).read_bytes() == (tmp_path / "disturbed" / name).read_bytes()
    assert (tmp_path / "undisturbed" / "model.safetensors").stat().st_size < 8_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("scenes")))
    sources = {"scenes": {"use": "scenes", "vocabulary": "pretrain", "count": 40, "size": 128, "seed": 3, "signs": 0.6}}
    collect_images(
        workspace_of(
            settings_from({"sources": sources, "annotators": {}, "split": {"held_out": 0.0, "gold": 0.0}}, "test"),
            store,
        )
    )
    store.write_table("labels/round-00000.parquet", store.read_tables("truth", ANNOTATIONS))
    return store


def test_cell_targets_are_what_is_there(data):
    """Compare letters, names, boxes and masks of a cell with the texts and objects of the truth."""
    checkpoint = load("nano-scratch", image_size=128)
    targets = vision.read_cell_targets(checkpoint, data, ATTRIBUTES)
    truth: dict[str, list] = {}
    from florence.records import table_annotations, table_images

    for row in table_annotations(data.read_tables("truth", ANNOTATIONS)):
        truth.setdefault(row.image_id, []).append(row)
    images = [
        record for shard in data.names("images", ".parquet") for record, _ in table_images(data.read_table(shard))
    ]
    assert len(images) == len(targets.pixels) == 40
    strings_read = 0
    for index, image in enumerate(images):
        rows = truth[image.image_id]
        written = {letter for row in rows if row.task == "<OCR_WITH_REGION>" for letter in row.text}
        assert {vision.LETTERS[i % 36] for i in np.flatnonzero(targets.letters[index].any(axis=(1, 2)))} == written
        # predicted in halves of cells, from left to right: a string that stands level and alone can be read off
        signs = [row for row in rows if row.task == "<OCR_WITH_REGION>"]
        if (
            len(signs) == 1
            and np.ptp(np.asarray(signs[0].regions[0].quad)[[1, 3]]) < 1e-6
            and len(set(signs[0].text)) == len(signs[0].text)
        ):
            letter, _, column = np.nonzero(targets.letters[index])
            half = np.argsort(column * vision.LETTER_PARTS + letter // len(vision.LETTERS), kind="stable")
            halves = (column * vision.LETTER_PARTS + letter // len(vision.LETTERS))[half]
            if len(set(halves)) == len(halves):
                assert "".join(vision.LETTERS[i % 36] for i in letter[half]) == signs[0].text
                strings_read += len(halves) > 2
        objects = [row for row in rows if row.task == "<OD>"]
        found = {
            tuple(np.round(targets.boxes[index][:, y, x] * 128, 3))
            for y, x in zip(*np.nonzero(targets.names[index]), strict=True)
        }
        assert found <= {tuple(np.round(row.regions[0].bounds, 3)) for row in objects} and found
        # cell by cell, the parts of the mask cover the area of the object
        covered = targets.masks[index].mean(axis=0)[targets.names[index] > 0]
        assert (covered > vision.MIN_COVERED).all() and not targets.masks[index][:, targets.names[index] == 0].any()
    assert strings_read > 2


def test_mirrored_twice_is_as_before_and_texts_are_never_mirrored(data):
    targets = vision.read_cell_targets(load("nano-scratch", image_size=64), data, ATTRIBUTES)
    chosen, is_mirrored = np.arange(len(targets.pixels)), np.ones(len(targets.pixels), bool)
    once = vision._mirror(targets, chosen, is_mirrored)
    signs = targets.letters.any(axis=(1, 2, 3))
    assert signs.any() and not signs.all()
    assert (once.pixels[signs] == targets.pixels[signs]).all() and (
        once.pixels[~signs] == targets.pixels[~signs][:, :, ::-1]
    ).all()
    twice = vision._mirror(once, chosen, is_mirrored)
    for name in ("pixels", "names", "attributes", "letters", "masks"):
        assert (getattr(twice, name) == getattr(targets, name)).all(), name
    there = targets.names > 0
    np.testing.assert_allclose(
        np.moveaxis(twice.boxes, 1, -1)[there], np.moveaxis(targets.boxes, 1, -1)[there], atol=1e-6
    )
    # a mask lies within its box, mirrored or not
    parts, grid = vision.MASK_PARTS, targets.names.shape[1]
    for index in np.flatnonzero(~signs)[:10]:
        picture = (
            once.masks[index]
            .reshape(parts, parts, grid, grid)
            .transpose(2, 0, 3, 1)
            .reshape(grid * parts, grid * parts)
        )
        columns = np.flatnonzero(picture.any(axis=0)) / (grid * parts)
        boxes = once.boxes[index][:, once.names[index] > 0]
        assert columns.min() >= boxes[0].min() - 1 / parts / grid and columns.max() <= boxes[2].max() + 1 / parts / grid


def test_the_lock_holds_the_settings_of_params_yaml():
    folder = Path(__file__).parents[1] / "pretrain"
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]["pretrain"]
    assert lock["params"]["params.yaml"] == yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
