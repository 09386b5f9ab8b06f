"""Crops of pictures for hub models."""

from __future__ import annotations

import numpy as np
import pytest

from florence.imaging.crops import crop_box, pillow_image

PIXELS = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)


@pytest.mark.parametrize(
    ("box", "margin", "part"),
    [
        ((10, 5, 20, 15), 0.0, (slice(5, 15), slice(10, 20))),
        ((10.6, 5.2, 20.1, 14.9), 0.0, (slice(5, 15), slice(10, 21))),
        ((10, 10, 20, 30), 0.5, (slice(0, 40), slice(5, 25))),
        ((50, 30, 60, 40), 0.2, (slice(28, 40), slice(48, 60))),
        ((60, 40, 60, 40), 0.0, (slice(39, 40), slice(59, 60))),
        ((3, 3, 3, 3), 0.0, (slice(3, 4), slice(3, 4))),
    ],
)
def test_a_crop_is_the_box_with_its_margin_in_whole_pixels_and_never_empty(box, margin, part):
    assert (crop_box(PIXELS, box, margin) == PIXELS[part]).all() and crop_box(PIXELS, box, margin).shape == PIXELS[
        part
    ].shape


def test_a_picture_is_as_it_was_but_for_a_strip():
    assert (np.asarray(pillow_image(PIXELS[:, ::2])) == PIXELS[:, ::2]).all()
    # three rows could be taken for three colours
    assert np.asarray(pillow_image(PIXELS[:3, :20])).shape == (3, 20, 3)
    assert pillow_image(np.zeros((2, 9000, 3), np.uint8)).size == (9000, 1125)
    assert pillow_image(np.zeros((9000, 2, 3), np.uint8)).size == (1125, 9000)
    assert pillow_image(np.zeros((1, 1, 3), np.uint8)).size == (1, 1)
