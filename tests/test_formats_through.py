"""A data set imported, annotated, fused, published and exported: readers of the format see no difference."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from format_sets import read_back
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO
from reviews import publish_round
from test_cli import call
from workspaces import workspace_of

from florence.config import settings_from
from florence.records import ImageRecord, table_images
from florence.store import Store
from florence.workspace.collect import collect_images

SIZES = ((64, 48), (120, 90), (33, 200))
FULL, SLIVER = (0.0, 0.0, 1.0, 1.0), (0.2, 0.3, 0.21, 0.9)
"""Boxes that the filters drop if an annotator claims them."""


def pictures(folder: Path) -> list[tuple[str, tuple[int, int]]]:
    """Name and size of each of a few photos, some in a folder below."""
    found = []
    for k in range(9):
        name, size = f"{'sub/' if k % 3 else ''}p{k}.png", SIZES[k % 3]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
            folder / name
        )
        found.append((name, size))
    return found


def boxes(k: int, size: tuple[int, int], whole: bool) -> list[tuple[str, tuple[float, ...]]]:
    """Return objects of an image.

    Two of one name nearly cover each other, one is as large as the image, one is thin, the others are random.
    """
    rng = np.random.default_rng(100 + k)
    found = [
        ("Traffic Light", (0.3, 0.3, 0.8, 0.8)),
        ("Traffic Light", (0.32, 0.3, 0.8, 0.81)),
        ("scene", FULL),
        ("pole", SLIVER),
    ]
    for _ in range(k % 4):
        low = rng.uniform(0, 0.6, 2)
        found.append((("cat", "tv", "dog")[int(rng.integers(3))], (*low, *(low + rng.uniform(0.1, 0.4, 2)))))
    scaled = [(name, np.asarray(box) * np.tile(size, 2)) for name, box in found]
    return [(name, tuple(np.floor(box) + [0, 0, 1, 1] if whole and box[0] > 0 else box)) for name, box in scaled]


def through(folder: Path, form: str, uri: str, out: str, **more) -> Path:
    """Annotate with the data set alone, publish and export; return the folder of the export."""
    values = {
        "sources": {"photos": {"use": "folder", "uri": str(folder / "photos")}},
        "annotators": {
            "have": {
                "use": "existing",
                "format": form,
                "uri": str(folder / uri),
                "human": True,
                "sources": ["*"],
                "settings": more,
            }
        },
        "split": {"held_out": 0.2, "gold": 0.2},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    settings, store = settings_from(values), Store(str(folder / ".florence/store"))
    collect_images(workspace_of(settings, store))
    rows = publish_round(settings, store, Store(str(folder / "data")), 0)
    assert rows and all(row.kept for row in rows), {row.reason for row in rows}
    call("export", "--format", form, "--out", out)
    return folder / out


def records(folder: Path) -> list[ImageRecord]:
    data = Store(str(folder / "data"))
    return [record for name in data.names("images") for record, _ in table_images(data.read_table(name))]


def open_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def add_mask(one: dict, label: str, corners: tuple[float, ...], size: tuple[int, int]) -> None:
    """Add polygons to a cat and run lengths to a dog; ``size``: (width, height) of the image."""
    width, height = size
    x0, y0, x1, y1 = corners
    if label == "cat":  # two polygons, corners beyond the box by a rounding
        middle = (x0 + x1) / 2
        one["segmentation"] = [[x0 - 0.004, y0, middle, y0, x0, y1], [middle, y1, x1 + 0.004, y1, x1, y0]]
    elif label == "dog":  # a mask with a hole and an island, as run lengths
        mask = np.zeros((height, width), np.uint8)
        mask[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = 1
        mask[int((y0 + y1) / 2), int((x0 + x1) / 2)] = 0
        rle = reference.encode(np.asfortranarray(mask))
        one["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        one["bbox"] = reference.toBbox(rle).tolist()


def test_coco_keeps_every_box_category_and_mask(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["Traffic Light", "scene", "pole", "cat", "tv", "dog", "never seen"]
    values = {
        "categories": [{"id": 5 + 3 * k, "name": name} for k, name in enumerate(names)],
        "images": [],
        "annotations": [],
    }
    for k, (name, (width, height)) in enumerate(pictures(tmp_path / "photos")):
        values["images"].append({"id": 100 + k, "file_name": name, "width": width, "height": height})
        for label, (x0, y0, x1, y1) in boxes(k, (width, height), whole=False):
            one = {
                "id": len(values["annotations"]),
                "image_id": 100 + k,
                "category_id": 5 + 3 * names.index(label),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
            }
            add_mask(one, label, (x0, y0, x1, y1), (width, height))
            values["annotations"].append(one | {"area": one["bbox"][2] * one["bbox"][3]})
    (tmp_path / "instances.json").write_text(json.dumps(values))

    def found(*paths: Path) -> list[tuple]:
        """Return each object's image name, category, box and pixels."""
        result = []
        for path in paths:
            coco = open_coco(path)
            for one in coco.loadAnns(coco.getAnnIds()):
                image, category = coco.loadImgs(one["image_id"])[0], coco.loadCats(one["category_id"])[0]["name"]
                mask = coco.annToMask(one).tobytes() if one.get("segmentation") else b""
                result.append((Path(image["file_name"]).as_posix(), category, tuple(one["bbox"]), mask))
        return sorted(result)

    out = through(tmp_path, "coco", "instances.json", "out")
    written, given = found(*sorted((out / "annotations").glob("instances_*.json"))), found(tmp_path / "instances.json")
    for (name, category, box, mask), (given_name, given_category, given_box, given_mask) in zip(
        written, given, strict=True
    ):
        assert (
            (name, category) == (given_name, given_category)
            and box == pytest.approx(given_box, abs=1e-5)
            and mask == given_mask
        )
    assert sum(bool(mask) for *_, mask in given) >= 5


@pytest.mark.parametrize("form", ["voc", "yolo", "labelstudio"])
def test_other_formats_keep_every_box_and_name(tmp_path: Path, monkeypatch, form: str):
    """In as COCO, out in the format; in by that, and out once more: the same objects each time."""
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    expected: dict[str, list[tuple]] = {}
    values: dict[str, list] = {
        "categories": [
            {"id": k, "name": name} for k, name in enumerate(("Traffic Light", "scene", "pole", "cat", "tv", "dog"))
        ],
        "images": [],
        "annotations": [],
    }
    ids = {one["name"]: one["id"] for one in values["categories"]}
    first.mkdir()
    for k, (name, size) in enumerate(pictures(first / "photos")):
        values["images"].append({"id": k, "file_name": name, "width": size[0], "height": size[1]})
        expected[name] = boxes(k, size, whole=form == "voc")
        for label, (x0, y0, x1, y1) in expected[name]:
            values["annotations"].append(
                {
                    "id": len(values["annotations"]),
                    "image_id": k,
                    "category_id": ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": 1,
                    "iscrowd": 0,
                }
            )
    (first / "coco.json").write_text(json.dumps(values))
    monkeypatch.chdir(first)
    through(first, "coco", "coco.json", "same")
    call("export", "--format", form, "--out", str(second / "set"), "--images", "none")
    pictures(second / "photos")
    monkeypatch.chdir(second)
    # what is written for people to look at are predictions there
    more = {"predictions": True} if form == "labelstudio" else {}
    again = through(second, form, "set", "out", **more)
    for record in records(second):
        claims = read_back(form, again, [record], **more).claims[record.image_id].claims
        mine = sorted((claim.text, *np.round(claim.regions[0].bounds, 2)) for claim in claims)
        for (label, *box), (name, *right) in zip(
            mine, sorted((label, *np.round(box, 2)) for label, box in expected[record.name]), strict=True
        ):
            assert label == name and box == pytest.approx(right, abs=0.011)
