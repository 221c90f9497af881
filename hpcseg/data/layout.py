"""A packed file's shape and a DataConfig in, its tiles and their division into three sets out."""

from __future__ import annotations

import numpy as np

from hpcseg.config import DataConfig
from hpcseg.data.splits import Split, split_tiles
from hpcseg.data.tiles import all_tiles, tile_corners
from hpcseg.errors import DatasetError


def lay_out(shape: tuple[int, int, int], config: DataConfig) -> tuple[np.ndarray, Split]:
    """Which tiles there are, and which set each belongs to. Reads no pixels.

    Args:
        shape: slices, height and width of the packed file.
        config: the tile grid and the split.

    Returns:
        (T, 3) int64 rows (slice index, y, x), and the sets as rows of it.

    Raises:
        ConfigError: the tiles do not fit on the slices.
        DatasetError: too few slices for the split, or for the settings.
    """
    slices, height, width = shape
    if config.slices > slices:
        raise DatasetError(f"data.slices is {config.slices}, but the file has {slices} slices. Ask for fewer.")
    rows, columns = config.tile_grid(height, width)
    corners = tile_corners(height, width, rows=rows, columns=columns, size=config.tile_size)
    tiles = all_tiles(config.slices or slices, corners)
    split = split_tiles(
        tiles,
        policy=config.split,
        seed=config.split_seed,
        gap_slices=config.gap_slices,
        train_slices=config.train_slices,
    )
    return tiles, split
