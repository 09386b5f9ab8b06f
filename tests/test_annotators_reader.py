"""The OCR annotator, against text that was drawn."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from florence.annotators import ANNOTATORS, ImageBatch
from florence.annotators.reader import _resize
from florence.errors import ModelError
from florence.geometry import box_iou, polygon_area, polygon_box
from florence.records import Claim, ImageRecord

FONT = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")


@lru_cache(maxsize=4)
def reader(**options):
    found = ANNOTATORS.get("reader")(name="reader", **options)
    found.load()
    return found


def read(picture: Image.Image, **options) -> list[Claim]:
    record = ImageRecord("0" * 64, *picture.size, "mine", "x", "", None, "train")
    return reader(**options).annotate(ImageBatch((record,), (np.asarray(picture),)))[0]


def draw_lines(
    size: tuple[int, int], *lines: tuple[str, tuple[int, int], int]
) -> tuple[Image.Image, list[tuple[float, ...]]]:
    """Return a picture of lines (text, corner, height) in black on grey, and the box of each."""
    picture = Image.new("RGB", size, (205, 210, 200))
    pen = ImageDraw.Draw(picture)
    boxes = []
    for text, corner, height in lines:
        font = ImageFont.truetype(FONT, height)
        pen.text(corner, text, fill=(10, 10, 30), font=font)
        boxes.append(pen.textbbox(corner, text, font=font))
    return picture, boxes


def test_lines_are_read_in_order_with_their_quads():
    picture, boxes = draw_lines((640, 360), ("Fresh Bread", (40, 40), 48), ("open until 18:30", (60, 200), 36))
    claims = read(picture)
    assert [claim.text for claim in claims] == ["Fresh Bread", "open until 18:30"]
    for claim, box in zip(claims, boxes, strict=True):
        (region,) = claim.regions
        assert claim.task == "<OCR_WITH_REGION>" and region.label == claim.text and region.score == claim.score > 0.9
        assert box_iou(np.asarray(polygon_box(region.quad)), np.asarray(box))[0, 0] > 0.6
        x0, y0, x1, y1, x2, y2, x3, y3 = region.quad
        assert polygon_area(region.quad) > 0, "clockwise on screen"
        assert x0 < x1 and y1 < y2 and x2 > x3 and y3 > y0, "from the top left"


def test_quads_in_a_large_picture_are_in_its_own_pixels():
    picture, boxes = draw_lines((3200, 2000), ("HARBOUR MUSEUM", (1500, 1400), 180))
    (claim,) = read(picture)
    assert claim.text == "HARBOUR MUSEUM"
    assert box_iou(np.asarray(polygon_box(claim.regions[0].quad)), np.asarray(boxes[0]))[0, 0] > 0.5


def test_slanting_text_has_a_slanting_quad():
    picture, _ = draw_lines((600, 600), ("SLANTING", (150, 260), 60))
    (claim,) = read(picture.rotate(20, fillcolor=(205, 210, 200)))
    x0, y0, x1, y1 = claim.regions[0].quad[:4]
    assert claim.text == "SLANTING"
    assert math.degrees(math.atan2(y0 - y1, x1 - x0)) == pytest.approx(20, abs=4)


def test_a_picture_without_text_gets_no_claim():
    assert read(Image.new("RGB", (200, 150), (90, 120, 90))) == []


def test_one_repeated_character_is_taken_for_a_pattern():
    picture, _ = draw_lines((640, 200), ("0000", (100, 60), 70))
    assert read(picture) == []
    assert [claim.text for claim in read(picture, min_characters=1)] == ["0000"]


def test_a_missing_model_is_named_and_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import rapidocr

    monkeypatch.setattr(rapidocr, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ModelError, match=r"_det_.*pip install"):
        ANNOTATORS.get("reader")(name="reader").load()


@pytest.mark.parametrize("shape", [(20, 3000), (3000, 20), (16, 16), (300, 450), (2000, 3000)])
def test_pictures_are_read_at_a_bounded_size(shape: tuple[int, int]):
    resized, factors = _resize(np.zeros((*shape, 3), np.uint8), 1600)
    assert max(resized.shape) <= 1600 and min(resized.shape[:2]) >= 32
    assert factors[0] == pytest.approx(factors[1], rel=0.1)


def test_a_thin_strip_is_read():
    picture, boxes = draw_lines((1500, 36), ("PLATFORM SEVEN", (700, 2), 26))
    (claim,) = read(picture)
    assert claim.text == "PLATFORM SEVEN"
    assert box_iou(np.asarray(polygon_box(claim.regions[0].quad)), np.asarray(boxes[0]))[0, 0] > 0.5
