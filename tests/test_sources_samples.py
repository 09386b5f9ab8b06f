"""The photos that come with packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from florence.errors import SettingsError
from florence.images import decode_image
from florence.sources import SOURCES


def test_enough_real_photos_without_optional_packages():
    source = SOURCES.get("samples")(packages=["skimage", "sklearn", "matplotlib"])
    found = list(source.images(frozenset()))
    assert len(found) == source.count() >= 12
    shapes = {item.name: decode_image(item.data, item.name, min_side=16).shape for item in found}
    assert shapes["skimage/astronaut.png"] == (512, 512, 3)
    assert {"sklearn/china.jpg", "matplotlib/grace_hopper.jpg"} <= set(shapes)
    assert not any(word in name for name in shapes for word in ("logo", "phantom", "chessboard", "horse", "multipage"))
    assert all(item.licence for item in found)


def test_a_missing_package_gives_nothing(monkeypatch):
    from florence.sources import samples

    monkeypatch.setitem(samples.PACKAGES, "no_such_package", samples.Package("data", "none"))
    source = SOURCES.get("samples")(packages=["no_such_package", "sklearn"])
    assert source.count() == 2


def test_wrong_options_are_named():
    with pytest.raises(SettingsError, match="packages.*skimage"):
        SOURCES.get("samples")(packages=["torchvision"])
    with pytest.raises(SettingsError, match="'package'"):
        SOURCES.get("samples")(package="skimage")


def test_no_package_is_imported():
    code = (
        "import sys; from florence.sources import SOURCES; SOURCES.get('samples')().count();"
        "print([m for m in ('skimage', 'sklearn', 'matplotlib', 'cv2', 'torch') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_boxes_drawn_by_hand_are_of_these_photos_and_inside_them():
    drawn = json.loads(Path(__file__).with_name("sample_photos.json").read_text())
    listed = {image["file_name"]: (image["height"], image["width"]) for image in drawn["images"]}
    photos = list(SOURCES.get("samples")(packages=["skimage", "sklearn", "matplotlib"]).images(frozenset()))
    shapes = {item.name: decode_image(item.data, item.name, min_side=16).shape[:2] for item in photos}
    assert {name: shapes.get(name) for name in listed} == listed
    sizes = {image["id"]: (image["width"], image["height"]) for image in drawn["images"]}
    names = {category["id"] for category in drawn["categories"]}
    for row in drawn["annotations"]:
        x, y, width, height = row["bbox"]
        right, bottom = sizes[row["image_id"]]
        assert min(x, y) >= 0 and width > 0 and height > 0 and x + width <= right and y + height <= bottom, row
        assert row["category_id"] in names and row["area"] == pytest.approx(width * height), row
