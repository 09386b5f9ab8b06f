import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.codec import locations
from florence.errors import EncodeError

side = st.integers(1, 20_000)


@given(side, side, st.data())
def test_a_point_comes_back_within_half_a_bin(width, height, data):
    x, y = data.draw(st.floats(0, width)), data.draw(st.floats(0, height))
    back = locations.dequantise(locations.quantise((x, y), (width, height)), (width, height))
    assert abs(back[0] - x) <= width / 2000 * (1 + 1e-9)
    assert abs(back[1] - y) <= height / 2000 * (1 + 1e-9)


@given(side, st.integers(0, 999))
def test_a_bin_comes_back_as_itself(width, index):
    assert locations.quantise(locations.dequantise((index, index), (width, 7)), (width, 7)) == [index, index]


@given(side, st.integers(0, 20_000))
def test_whole_pixels_follow_the_papers_formula_exactly(width, x):
    expected = min(int(Fraction(x * 1000, width)), 999)
    assert locations.quantise((x, 0), (width, 1))[0] == expected


@given(st.lists(st.tuples(st.floats(-50, 500), st.floats(-50, 500)), min_size=1), side, side)
def test_arrays_and_single_points_agree(points, width, height):
    flat = np.asarray(points).reshape(1, -1)
    single = locations.quantise(flat[0].tolist(), (width, height))
    assert locations.quantise_array(flat, np.asarray([[width, height]])).tolist() == [single]
    centres = locations.dequantise_array(np.asarray([single]), np.asarray([[width, height]]))
    assert centres[0].tolist() == pytest.approx(locations.dequantise(single, (width, height)))


def test_outside_is_clamped_and_axes_are_not_mixed():
    assert locations.quantise((-5, 700, 1e12, 20), (640, 480)) == [0, 999, 999, 41]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_coordinate_that_is_no_number_is_refused(value):
    with pytest.raises(EncodeError, match="finite"):
        locations.quantise((0, value), (10, 10))
    with pytest.raises(EncodeError, match="finite"):
        locations.quantise_array(np.asarray([[0, value]]), np.asarray([[10, 10]]))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_an_image_without_extent_is_refused(size):
    with pytest.raises(EncodeError, match="positive"):
        locations.quantise((0, 0), size)
