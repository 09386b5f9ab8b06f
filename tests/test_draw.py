"""Regions are drawn at their coordinates."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from florence.draw import choose_colour, draw_regions, encode_jpeg, list_drawable_regions
from florence.geometry import rasterise
from florence.records import Annotation, Region

GREY = np.full((400, 600, 3), 128, np.uint8)
RED = (255, 0, 0)


def test_box_lies_on_its_pixels_and_the_original_is_untouched():
    before = GREY.copy()
    drawn = draw_regions(GREY, [Region("", box=(100, 50, 300, 250))], colours=[RED])
    ys, xs = np.nonzero((drawn == RED).all(axis=2))
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (100, 50, 300, 250)
    assert (drawn[120:180, 150:250] == 128).all()
    assert np.array_equal(GREY, before) and drawn.shape == GREY.shape


def test_mask_fills_its_polygon():
    polygon = (100.0, 100.0, 300.0, 100.0, 300.0, 300.0, 100.0, 300.0)
    drawn = draw_regions(GREY, [Region("", polygons=(polygon,))], colours=[RED])
    changed, wanted = (drawn != GREY).any(axis=2), rasterise([polygon], 600, 400)
    assert (changed & wanted).sum() / (changed | wanted).sum() > 0.97


def test_scaled_pictures_scale_their_regions():
    drawn = draw_regions(GREY, [Region("", box=(300, 200, 600, 400))], colours=[RED], side=300)
    ys, xs = np.nonzero((drawn == RED).all(axis=2))
    assert drawn.shape == (200, 300, 3) and (xs.min(), ys.min()) == (150, 100)
    assert draw_regions(np.zeros((16, 32, 3), np.uint8), []).shape == (160, 320, 3)


def test_a_caption_adds_a_strip_and_long_words_are_cut():
    drawn = draw_regions(GREY, [], caption="a " + "b" * 500)
    assert drawn.shape[0] > 400 and drawn.shape[1] == 600
    assert np.array_equal(drawn[:400], GREY)
    assert (drawn[400:, -3:] == 255).all()


@pytest.mark.parametrize("label", ["", "кошка и κύμα", "a\nb", "x" * 300, "<b>&"])
def test_any_label_at_any_place_is_drawn_inside(label):
    regions = [
        Region(label, box=b)
        for b in ((0, 0, 5, 5), (599, 399, 600, 400), (0, 0, 600, 400), (10, 10, 10, 10), (90, 90, 20, 20))
    ]
    assert draw_regions(GREY, regions).shape == GREY.shape


def test_colours_follow_labels_and_must_be_as_many_as_regions():
    assert choose_colour("cat") == choose_colour("cat")
    with pytest.raises(ValueError, match="0 colours for 1"):
        draw_regions(GREY, [Region("a", box=(0, 0, 1, 1))], colours=[])


def test_labelled_takes_the_text_where_a_region_has_no_label_and_leaves_out_what_is_nowhere():
    row = Annotation(
        "1", "i", "<OCR_WITH_REGION>", "a", "v", 0, "EXIT", (Region("", quad=(0, 0, 1, 0, 1, 1, 0, 1)), Region("lost"))
    )
    assert [r.label for r in list_drawable_regions(row)] == ["EXIT"]


def test_jpeg_is_repeatable():
    data = encode_jpeg(GREY)
    assert data == encode_jpeg(GREY) and Image.open(io.BytesIO(data)).size == (600, 400)
