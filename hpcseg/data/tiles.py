"""Where tiles lie on a slice, and putting them back together. Pure geometry: no files, no torch."""

from __future__ import annotations

import itertools

import numpy as np

from hpcseg.errors import ConfigError


def tile_corners(height: int, width: int, *, rows: int, columns: int, size: int) -> np.ndarray:
    """Upper-left corners of a grid of square tiles of `size` pixels on one slice of so many pixels.

    Along an axis where the tiles fit side by side they start at the edge and do not overlap (the paper's "small"
    is 1 x 1, its "large" 3 x 3); where they do not fit they lie at equal distances and overlap, and the last one ends
    at the far edge.

    Returns:
        (rows * columns, 2) int64, y and x of each tile, row by row.

    Raises:
        ConfigError: one tile is larger than the slice, or the grid repeats a position.
    """
    if size > min(height, width):
        raise ConfigError(
            f"Tiles of {size} x {size} pixels do not fit on slices of {height} x {width}. "
            f"Set data.tile_size to at most {min(height, width)}."
        )
    places = []
    for name, count, length in (("rows", rows, height), ("columns", columns, width)):
        side_by_side = count * size <= length
        places.append([i * size if side_by_side else round(i * (length - size) / (count - 1)) for i in range(count)])
        if len(set(places[-1])) < count:
            raise ConfigError(
                f"{count} {name} of {size}-pixel tiles on {length} pixels would repeat a position. "
                f"Use at most {length - size + 1}."
            )
    return np.array(list(itertools.product(*places)), dtype=np.int64)


def overlap(corners: np.ndarray, size: int) -> bool:
    """Whether two tiles of a grid, (K, 2) int64 from `tile_corners`, of `size` pixels share a pixel."""
    return any((np.diff(np.unique(places)) < size).any() for places in corners.T)


def all_tiles(slices: int, corners: np.ndarray) -> np.ndarray:
    """All tiles of so many slices: (slices * K, 3) int64, slice index, y, x of each of (K, 2) corners on each slice.

    All tiles of a slice stand together, slices in order.
    """
    index = np.repeat(np.arange(slices, dtype=np.int64), len(corners))
    return np.column_stack([index, np.tile(corners, (slices, 1))])
