"""A packed file's shape and a DataConfig in, its tiles and their division into three sets out."""

from __future__ import annotations

import numpy as np

from hpcseg.config import MEASURED, DataConfig
from hpcseg.data.likeness import measured_gap
from hpcseg.data.splits import Split, split_tiles
from hpcseg.data.tiles import all_tiles, overlap, tile_corners
from hpcseg.errors import DatasetError


def lay_out(shape: tuple[int, int, int], config: DataConfig, alike_slices: int | None) -> tuple[np.ndarray, Split]:
    """Which tiles there are, and which set each belongs to. Reads no pixels.

    Args:
        shape: slices, height and width of the packed file.
        config: the tile grid and the split.
        alike_slices: how far apart its slices are alike; None: not measured.

    Returns:
        (T, 3) int64 rows (slice index, y, x), and the sets as rows of it.

    Raises:
        ConfigError: the tiles do not fit on the slices.
        DatasetError: too few slices for the split, or for the settings, or its gap was not measured.
    """
    slices, height, width = shape
    if config.slices > slices:
        raise DatasetError(f"data.slices is {config.slices}, but the file has {slices} slices. Ask for fewer.")
    rows, columns = config.tile_grid(height, width)
    corners = tile_corners(height, width, rows=rows, columns=columns, size=config.tile_size)
    used = config.slices or slices
    tiles = all_tiles(used, corners)
    split = split_tiles(
        tiles,
        policy=config.split,
        seed=config.split_seed,
        gap_slices=_gap(config, used, alike_slices),
        overlapping=overlap(corners, config.tile_size),
        train_slices=config.train_slices,
    )
    return tiles, split


def _gap(config: DataConfig, slices: int, alike_slices: int | None) -> int:
    if isinstance(config.gap_slices, int):
        return config.gap_slices
    if alike_slices is None:
        raise DatasetError(
            f'data.gap_slices is "{MEASURED}", but how far apart slices are alike was not measured when these were '
            "packed. Pack them again with `hpcseg pack --force`, or set data.gap_slices to a number of slices."
        )
    return measured_gap(alike_slices, slices)
