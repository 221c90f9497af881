"""Where tiles lie: the paper's two grids on its slices of 501 x 501, and grids that do not fit side by side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.data.tiles import all_tiles, overlap, tile_corners
from hpcseg.errors import ConfigError


def test_small_is_the_upper_left_tile():
    assert tile_corners(501, 501, rows=1, columns=1, size=128).tolist() == [[0, 0]]


def test_large_is_three_by_three_side_by_side_from_the_upper_left_row_by_row():
    assert tile_corners(501, 501, rows=3, columns=3, size=128).tolist() == [
        [0, 0],
        [0, 128],
        [0, 256],
        [128, 0],
        [128, 128],
        [128, 256],
        [256, 0],
        [256, 128],
        [256, 256],
    ]


def test_tiles_that_do_not_fit_side_by_side_overlap_evenly_and_reach_the_far_edge():
    corners = tile_corners(501, 501, rows=4, columns=4, size=128)
    # 4 x 128 = 512 > 501: steps of (501 - 128) / 3 = 124.33, rounded.
    assert sorted(set(corners[:, 0].tolist())) == [0, 124, 249, 373]
    assert sorted(set(corners[:, 1].tolist())) == [0, 124, 249, 373]
    assert len(corners) == 16
    covered = np.zeros((501, 501), dtype=bool)
    for y, x in corners:
        covered[y : y + 128, x : x + 128] = True
    assert covered.all()


def test_rows_and_columns_are_laid_out_apart():
    # 2 x 40 fit on 100 rows, 3 x 40 do not fit on 60 columns.
    assert tile_corners(100, 60, rows=2, columns=3, size=40).tolist() == [
        [0, 0],
        [0, 10],
        [0, 20],
        [40, 0],
        [40, 10],
        [40, 20],
    ]


@pytest.mark.parametrize(("height", "width"), [(127, 501), (501, 127)])
def test_a_tile_larger_than_the_slice_is_refused_with_the_largest_that_fits(height, width):
    with pytest.raises(ConfigError, match=rf"128 x 128 pixels do not fit .* {height} x {width}.* at most 127"):
        tile_corners(height, width, rows=1, columns=1, size=128)


def test_more_tiles_than_positions_are_refused_with_the_number_that_fits():
    assert len(tile_corners(10, 10, rows=1, columns=3, size=8)) == 3
    with pytest.raises(ConfigError, match=r"4 columns of 8-pixel tiles on 10 pixels .* at most 3"):
        tile_corners(10, 10, rows=1, columns=4, size=8)


edges = st.integers(1, 60)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(height=edges, width=edges, rows=st.integers(1, 12), columns=st.integers(1, 12), size=st.integers(1, 40))
def test_any_grid_is_laid_out_whole_within_the_slice_or_refused(height, width, rows, columns, size):
    fits = size <= min(height, width) and rows <= height - size + 1 and columns <= width - size + 1
    try:
        corners = tile_corners(height, width, rows=rows, columns=columns, size=size)
    except ConfigError:
        assert not fits
        return
    assert fits
    assert corners.shape == (rows * columns, 2)
    assert corners.dtype == np.int64
    for axis, (count, length) in enumerate(((rows, height), (columns, width))):
        positions = np.unique(corners[:, axis])
        assert len(positions) == count
        assert positions[0] == 0
        assert positions[-1] + size <= length
        steps = np.diff(positions)
        if count * size <= length:
            assert (steps == size).all()
        elif count > 1:  # spread evenly up to rounding, without a gap, to the far edge
            assert positions[-1] + size == length
            assert steps.max() - steps.min() <= 1
            assert steps.max() <= size
    # Row by row: sorted by y, then by x.
    assert corners.tolist() == sorted(corners.tolist())


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    slices=st.integers(0, 20),
    corners=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=8, unique=True),
)
def test_any_table_has_every_corner_on_every_slice_once_and_slices_in_order(slices, corners):
    tiles = all_tiles(slices, np.array(corners, dtype=np.int64))
    assert tiles.tolist() == [[index, y, x] for index in range(slices) for y, x in corners]
    assert tiles.dtype == np.int64


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    height=st.integers(8, 60),
    width=st.integers(8, 60),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    size=st.integers(1, 20),
)
def test_tiles_overlap_where_some_pixel_is_in_two_of_them(height, width, rows, columns, size):
    try:
        corners = tile_corners(height, width, rows=rows, columns=columns, size=size)
    except ConfigError:
        return
    times = np.zeros((height, width), dtype=np.int64)
    for y, x in corners:
        times[y : y + size, x : x + size] += 1
    assert overlap(corners, size) == (times.max() > 1)
