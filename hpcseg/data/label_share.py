"""Labels of tiles in, the same with a share of them out, as if no more of each slice had been labelled."""

from __future__ import annotations

import numpy as np

from hpcseg.data.classes import IGNORED
from hpcseg.data.streams import Purpose, stream

EDGE = 16
"""Pixels of a square that is labelled or not: about what a few strokes of a brush cover."""


def keep_share(
    labels: np.ndarray, tiles: np.ndarray, numbers: np.ndarray, shape: tuple[int, int], *, share: float, seed: int
) -> np.ndarray:
    """Labels in some squares of each slice, drawn by lot; those of a smaller share are among those of a larger one.

    Args:
        labels: (K, S, S) uint8, class indices of tiles.
        tiles: (K, 3) int64, slice index, y and x of each.
        numbers: (N,) int64, the number of each slice, on which it depends what is drawn on it.
        shape: height and width of the slices, in pixels.
        share: of each slice's squares that is kept, over 0, at most 1; one of them at least is.
        seed: of the draw.

    Returns:
        (K, S, S) uint8, `IGNORED` outside of the squares that are kept.
    """
    rows, columns = (-(-length // EDGE) for length in shape)
    kept: dict[int, np.ndarray] = {}
    for index in np.unique(tiles[:, 0]).tolist():
        drawn = stream(Purpose.LABEL_SHARE, seed, int(numbers[index])).permutation(rows * columns)
        kept[index] = np.zeros((rows, columns), dtype=bool)
        kept[index].flat[drawn[: max(1, round(share * rows * columns))]] = True
    size, left = labels.shape[1], labels.copy()
    for label, (index, y, x) in zip(left, tiles.tolist(), strict=True):
        down, across = (np.arange(start, start + size) // EDGE for start in (y, x))
        label[~kept[index][np.ix_(down, across)]] = IGNORED
    return left
