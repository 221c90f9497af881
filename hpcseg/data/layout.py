"""A packed file's slices and a DataConfig in, its tiles and their division into three sets out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcseg.config import AUTO, DataConfig
from hpcseg.data.likeness import measured_gap
from hpcseg.data.splits import Split, split_tiles, widest_gap
from hpcseg.data.tiles import all_tiles, overlap, tile_corners
from hpcseg.errors import DatasetError
from hpcseg.slices.neighbours import any_neighbours

if TYPE_CHECKING:
    from hpcseg.data.store import DatasetInfo


def lay_out(info: DatasetInfo, config: DataConfig) -> tuple[np.ndarray, Split]:
    """Which tiles there are, and which set each belongs to. Reads no pixels.

    Returns:
        (T, 3) int64 rows (slice index, y, x), and the sets as rows of it.

    Raises:
        ConfigError: the tiles do not fit on the slices.
        DatasetError: too few slices for the split, or for the settings, or its gap was not measured.
    """
    slices, height, width = info.shape
    if config.slices > slices:
        raise DatasetError(f"data.slices is {config.slices}, but the file has {slices} slices. Ask for fewer.")
    rows, columns = config.tile_grid(height, width)
    corners = tile_corners(height, width, rows=rows, columns=columns, size=config.tile_size)
    used, gap = config.slices or slices, config.gap_slices
    if config.context and not any_neighbours(info.numbers):
        raise DatasetError(
            f"data.context is {config.context}, but the numbers of the slices follow each other nowhere "
            f"({', '.join(map(str, info.numbers[:3].tolist()))}), so none has a neighbour. Set data.context to 0, or "
            "pack slices that lie side by side."
        )
    tiles = all_tiles(used, corners)
    return tiles, split_tiles(
        tiles,
        numbers=info.numbers,
        policy=config.split,
        seed=config.split_seed,
        gap_slices=gap if isinstance(gap, int) else automatic_gap(info, used, config.context),
        context=config.context,
        overlapping=overlap(corners, config.tile_size),
        train_slices=config.train_slices,
    )


def automatic_gap(info: DatasetInfo, used: int, context: int = 0) -> int:
    """The slice numbers that "auto" leaves out of the first `used` slices.

    They are the `measured_gap`, or as many as leave three sets of few slices, beside those of the context.

    Raises:
        DatasetError: how far apart slices are alike was not measured.
    """
    if info.alike_slices is None:
        raise DatasetError(
            f'data.gap_slices is "{AUTO}", but how far apart slices are alike was not measured when these were '
            "packed. Pack them again with `hpcseg pack --force`, or set data.gap_slices to a number of slices."
        )
    numbers, inputs = info.numbers[:used], 2 * context
    widest = widest_gap(numbers, at_most=measured_gap(info.alike_slices, numbers) + inputs) or 0
    return max(0, widest - inputs)
