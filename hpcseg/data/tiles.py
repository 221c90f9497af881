"""Where tiles lie on a slice, and putting them back together. Pure geometry: no files, no torch."""

from __future__ import annotations

import numpy as np

from hpcseg.errors import ConfigError


def tile_corners(height: int, width: int, *, rows: int, columns: int, size: int) -> np.ndarray:
    """Upper-left corners of a grid of square tiles on one slice.

    Along an axis where the tiles fit side by side they start at the edge and do not overlap (the paper's "small"
    is 1 x 1, its "large" 3 x 3); where they do not fit they lie at equal distances and overlap, and the last one ends
    at the far edge.

    Args:
        height: of the slice, in pixels.
        width: of the slice, in pixels.
        rows: tiles down.
        columns: tiles across.
        size: edge of a tile, in pixels.

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
    ys, xs = _positions(height, rows, size), _positions(width, columns, size)
    for name, positions, length in (("rows", ys, height), ("columns", xs, width)):
        if len(set(positions)) < len(positions):
            raise ConfigError(
                f"{len(positions)} {name} of {size}-pixel tiles on {length} pixels would repeat a position. "
                f"Use at most {length - size + 1}."
            )
    return np.array([(y, x) for y in ys for x in xs], dtype=np.int64)


def overlap(corners: np.ndarray, size: int) -> bool:
    """Whether two tiles of a grid share a pixel.

    Args:
        corners: (K, 2) int64 from `tile_corners`.
        size: edge of a tile, in pixels.
    """
    return any((np.diff(np.unique(places)) < size).any() for places in corners.T)


def all_tiles(slices: int, corners: np.ndarray) -> np.ndarray:
    """All tiles of a data set: each corner on each slice.

    Args:
        slices: number of slices.
        corners: (K, 2) int64 from `tile_corners`.

    Returns:
        (slices * K, 3) int64: slice index, y, x; all tiles of a slice stand together, slices in order.
    """
    index = np.repeat(np.arange(slices, dtype=np.int64), len(corners))
    return np.column_stack([index, np.tile(corners, (slices, 1))])


def _positions(length: int, count: int, size: int) -> list[int]:
    if count * size <= length:
        return [i * size for i in range(count)]
    return [round(i * (length - size) / (count - 1)) for i in range(count)]
