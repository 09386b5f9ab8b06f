"""What exports make of an image: with labels, looked at and empty, or not looked at, in every format."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pycocotools.coco import COCO
from test_cli import call
from test_export import picture, record, thing

from florence.coverage import COVERAGE, find_looked_at
from florence.export import NEAR_DUPLICATES, NOT_LOOKED_AT, ExportChoice, export
from florence.formats import list_writable_formats
from florence.records import IMAGES, Claim, annotate, annotations_table
from florence.rounds import find_labels
from florence.store import Store

BOXES, TEXTS = ["<OD>"], ["<CAPTION>"]
STATES = ("labelled", "empty", "unlisted", "failed", "unseen", "ranked", "captioned", "duplicate", "dropped")
"""Names of the images; each says what became of it."""
WRITTEN = {"<OD>": {"labelled", "empty", "dropped"}, "<CAPTION>": {"captioned"}}


def declare(store: Store, key: str, tasks: list[str], role: str = "annotator", vocabulary: Any = None) -> None:
    name = key.split("@")[0]
    value = {"name": name, "use": "existing", "role": role, "tasks": tasks, "vocabulary": vocabulary}
    store.write_json(f"annotators/{key}.json", value)


def cover(store: Store, key: str, images: dict[str, str]) -> None:
    """Write an annotator's coverage: image id → error."""
    name, version = key.split("@")
    rows = [
        {"image_id": image, "annotator": name, "version": version, "claims": 0, "error": error}
        for image, error in images.items()
    ]
    store.write_table(f"coverage/{key}/photos-00000.parquet", pa.Table.from_pylist(rows, schema=COVERAGE))


@pytest.fixture
def data(tmp_path: Path) -> Store:
    """A snapshot of round 1 with an image in each of `STATES`."""
    store = Store(str(tmp_path / "data"))
    rows, ids = [], {}
    for k, name in enumerate(STATES):
        content = picture(20 + k, 20)
        one = record(content, f"{name}.png", 20 + k, 20)
        ids[name] = one.image_id
        rows.append({**dataclasses.asdict(one), "bytes": content})
    store.write_table("images/photos-00000.parquet", pa.Table.from_pylist(rows, schema=IMAGES))
    cat = thing("cat", (2, 2, 9, 9))
    labels = [*annotate(ids["labelled"], [cat], "consensus", "1", 1)]
    labels += annotate(ids["captioned"], [Claim("<CAPTION>", "a cat")], "consensus", "1", 1)
    for name, reason in (("duplicate", "near_duplicate"), ("dropped", "low_confidence")):
        made = annotate(ids[name], [cat], "consensus", "1", 1)
        labels += [dataclasses.replace(row, kept=False, reason=reason) for row in made]
    store.write_table("labels/round-00001.parquet", annotations_table(labels))
    first = annotate(ids["labelled"], [cat], "consensus", "1", 0)
    store.write_table("labels/round-00000.parquet", annotations_table(first))

    declare(store, "boxes@1", BOXES)
    cover(store, "boxes@1", {
        ids["labelled"]: "", ids["empty"]: "", ids["duplicate"]: "", ids["dropped"]: "",
        ids["unlisted"]: "NotListedError: no labels of unlisted.png", ids["failed"]: "ValueError: broken",
    })  # fmt: skip
    declare(store, "texts@1", TEXTS)
    cover(store, "texts@1", {ids["captioned"]: ""})
    declare(store, "captions_alone@1", [*BOXES, *TEXTS], vocabulary=[])  # a data set that has no names of objects
    cover(store, "captions_alone@1", {ids["captioned"]: ""})
    declare(store, "ranks@1", [*BOXES, *TEXTS], role="ranker")
    cover(store, "ranks@1", {ids["ranked"]: ""})
    cover(store, "boxes@0", {ids["unseen"]: ""})  # of an earlier round
    versions = {"boxes": "1", "texts": "1", "captions_alone": "1", "ranks": "1"}
    store.write_json("snapshot.json", {"format": 3, "id": "s", "round": 1, "parent": None, "annotators": versions})
    return store


def names_in(out: Path, form: str) -> dict[str, set[str]]:
    """Return the images that an export says anything about, by the annotation type that it says it of."""
    if form == "coco":
        found = {}
        for task, part in (("<OD>", "instances"), ("<CAPTION>", "captions")):
            with contextlib.redirect_stdout(io.StringIO()):
                images = COCO(str(out / f"annotations/{part}_train.json")).imgs.values()
            found[task] = {Path(one["file_name"]).stem for one in images}
        return found
    if form == "jsonl":
        lines = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
        return {
            task: {Path(line["image"]["name"]).stem for line in lines if task in line["looked_at"]} for task in WRITTEN
        }
    if form == "labelstudio":
        tasks = json.loads((out / "tasks.json").read_text())
        return {"any": {Path(task["data"]["name"]).stem for task in tasks}}
    labels = {"yolo": "labels/train/*.txt", "voc": "Annotations/*.xml"}[form]
    return {"<OD>": {path.stem for path in out.glob(labels)}}


@pytest.mark.parametrize("form", list_writable_formats())
def test_images_that_nobody_has_looked_at_are_in_no_export(data: Store, tmp_path: Path, form: str):
    result = export(data, tmp_path / "out", ExportChoice(form))
    both = form not in ("yolo", "voc")
    written = WRITTEN["<OD>"] | (WRITTEN["<CAPTION>"] if both else set())
    found = names_in(tmp_path / "out", form)
    assert found == {"any": written} if form == "labelstudio" else found.items() <= WRITTEN.items()
    assert {path.stem for path in (tmp_path / "out").rglob("*.png")} == written, "and their files are not there either"
    left = len(STATES) - len(written) - 1
    assert result.images_left_out == {NOT_LOOKED_AT: left, NEAR_DUPLICATES: 1}
    assert result.images == len(written)
    partly = {"<CAPTION>": 3, "<OD>": 1}
    assert {task: result.not_looked_at[task] for task in partly if both} == (partly if both else {})
    note = json.loads((tmp_path / "out/florence-export.json").read_text())
    assert note["images_left_out"] == dict(result.images_left_out) and note["images"] == len(written)
    assert export(data, tmp_path / "dry", ExportChoice(form), dry_run=True) == result


def test_the_command_says_how_many(data: Store, tmp_path: Path, monkeypatch):
    (tmp_path / "params.yaml").write_text("sources: {}\nannotators: {}\n")
    monkeypatch.chdir(tmp_path)
    for more in ("--dry-run", "--force"):
        output = call("export", "--format", "coco", "--out", "out", more)
        assert "4 images of round 1" in output
        assert f"left out: 4 images, as {NOT_LOOKED_AT}" in output
        assert f"left out: 1 images, as {NEAR_DUPLICATES}" in output
        assert "<OD>: 1 of the images have not been looked at for these" in output
    assert "left out: 5 images, as" in call("export", "--format", "yolo", "--out", "boxes", "--boxes-only", "--flat")
    assert len(list((tmp_path / "boxes/labels/train").iterdir())) == 3


def test_a_choice_of_types_asks_who_has_looked_for_these(data: Store, tmp_path: Path):
    result = export(data, tmp_path / "out", ExportChoice("coco", tasks=("<CAPTION>",)))
    assert result.images == 1 and result.images_left_out == {NOT_LOOKED_AT: 8}
    assert [path.name for path in (tmp_path / "out/annotations").iterdir()] == ["captions_train.json"]


def test_of_an_earlier_round_labels_alone_show_what_was_looked_at(data: Store, tmp_path: Path):
    """What is covered now may have been collected, or annotated, since."""
    result = export(data, tmp_path / "out", ExportChoice("yolo", round=0))
    assert names_in(tmp_path / "out", "yolo") == {"<OD>": {"labelled"}}
    assert result.images_left_out == {NOT_LOOKED_AT: 8}


def test_people_who_review_look_for_objects(data: Store):
    ids = {row["name"].removesuffix(".png"): row["image_id"] for row in images(data)}
    assert ids["unseen"] not in find_looked_at(data, 1, find_labels(data, 1))
    cover(data, "human@1-abc", {ids["unseen"]: ""})
    snapshot = data.read_json("snapshot.json")
    data.write_json("snapshot.json", {**snapshot, "annotators": {**snapshot["annotators"], "human": "1-abc"}})
    assert find_looked_at(data, 1, find_labels(data, 1))[ids["unseen"]] == {"<OD>"}


def images(data: Store) -> list[dict[str, Any]]:
    return data.read_table("images/photos-00000.parquet", ["image_id", "name"]).to_pylist()
